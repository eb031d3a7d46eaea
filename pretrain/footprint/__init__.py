"""Memory that one rank needs, before anything is built: for ``--dry-run`` and for the planner of clusters."""

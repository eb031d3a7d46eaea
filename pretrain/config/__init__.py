"""What a run is told: settings as frozen sections, read from YAML and checked; without torch."""

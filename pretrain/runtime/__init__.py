"""What every process has: ranks, signals, exit statuses, errors, atomic files, locks; knows no model and no data."""

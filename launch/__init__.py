"""Submitting, watching and planning runs on a cluster: ``python -m launch``."""

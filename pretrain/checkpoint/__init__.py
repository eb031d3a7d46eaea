"""Checkpoints: saved, committed, kept, restored, exported."""

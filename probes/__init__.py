"""Linear probes on frozen representations, and reports of what they find."""

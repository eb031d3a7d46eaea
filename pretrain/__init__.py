"""Pre-training of causal language models from scratch on multi-view text."""

__version__ = "0.1.0"

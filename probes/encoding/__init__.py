"""Frozen representations of texts: every layer and pooling of a causal language model from one forward pass."""

"""The linear probe: one classifier on frozen representations, the samples that it sees, and probes while training."""

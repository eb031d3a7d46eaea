"""From a prepared corpus to batches: pure functions of the corpus, the config and the seed."""

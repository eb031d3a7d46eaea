"""Linear probes on frozen representations: the classifier, its controls, the statistics and the geometry; no torch."""

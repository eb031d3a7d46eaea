"""Commands beside training: inspection of a corpus, dry run, conformance."""

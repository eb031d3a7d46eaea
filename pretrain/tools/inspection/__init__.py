"""What ``python -m pretrain.inspect`` shows: facts of a corpus, computed once, as terminal text and as a web page."""

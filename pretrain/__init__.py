"""Pre-training of causal language models from scratch on multi-view text."""

__version__ = "0.1.0"

# So that `python -m pretrain.prepare` runs pretrain/commands/prepare.py.
__path__.append(f"{__path__[0]}/commands")

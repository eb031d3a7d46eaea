"""The commands ``python -m pretrain.NAME``, one file each; ``pretrain/__init__.py`` lets Python find them here."""

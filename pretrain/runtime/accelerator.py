"""Which accelerator DeepSpeed is told to use."""

import os


def name_accelerator() -> None:
    """Names the CPU where torch finds nothing better; to be called before DeepSpeed is imported.

    Else DeepSpeed warns on every rank that it found none.
    """
    import torch  # here: importing it takes seconds

    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or accelerator.type == "mps":  # which knows no float64
        os.environ.setdefault("DS_ACCELERATOR", "cpu")

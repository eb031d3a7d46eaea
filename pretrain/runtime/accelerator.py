"""The accelerator that DeepSpeed uses."""

import os


def name_accelerator() -> None:
    """Selects the CPU if torch finds no accelerator. Call it before DeepSpeed is imported.

    Otherwise DeepSpeed warns on every rank that there is none.
    """
    import torch  # here: importing it takes seconds

    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or accelerator.type == "mps":  # which knows no float64
        os.environ.setdefault("DS_ACCELERATOR", "cpu")

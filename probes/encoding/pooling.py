"""From the hidden states of one forward pass to one vector for each text, layer and pooling.

States are pooled as soon as a block gets its input, so that only one layer's states are held beside the model's own.

Poolings:

- ``last``: the state at the text's last token: where the tokenizer ends texts with one of its own (``[SEP]``, an end
  token), at that.
- ``mean``: over all of the text's tokens, those that the tokenizer adds included, as ``sentence-transformers`` does.
- ``cls``: the state at the first token, where the tokenizer begins texts with one of its own (``[CLS]``) and the model
  reads in both directions.
- ``pred``: the state at the last ``[PRED]`` token appended to the text.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from probes.encoding.rows import PackedRows

POOLINGS = ("last", "mean", "cls", "pred")


class Pooler:
    """Pools the states of one batch of rows.

    Attributes:
        values: Pooled states, float32; shape [layers, poolings, texts, width].
    """

    def __init__(
        self, rows: PackedRows, poolings: Sequence[str], layers: int, width: int, device: torch.device
    ) -> None:
        self.poolings = poolings
        places = {"last": rows.stops - 1, "cls": rows.starts, "pred": rows.ends}
        self.places = {name: place.to(device) for name, place in places.items()}
        # Texts and the gaps between them take turns, as segment_reduce wants them.
        self.bounds = torch.stack([rows.starts, rows.stops], dim=1).flatten().to(device)
        self.counts = (rows.stops - rows.starts).to(device)[:, None]
        self.values = torch.empty(layers, len(poolings), len(rows.starts), width, device=device)

    def add(self, layer: int, states: Tensor) -> None:
        """Pools one layer's states, shape [rows, length, width]."""
        flat = states.flatten(0, 1)
        for place, pooling in enumerate(self.poolings):
            if pooling == "mean":
                sums = torch.segment_reduce(flat.float(), "sum", offsets=self.bounds, unsafe=True)[::2]
                self.values[layer, place] = sums / self.counts
            else:
                self.values[layer, place] = flat[self.places[pooling]]


def blocks_of(base: Any) -> list[nn.Module] | None:
    """The blocks of a base model in their order; None: not found."""
    count = base.config.get_text_config().num_hidden_layers
    for module in base.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    return None


@contextmanager
def watching(blocks: Sequence[nn.Module], see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Calls ``see`` with every block's number and input."""

    def hook(layer: int) -> Callable[..., None]:
        def before(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            see(layer, args[0] if args else kwargs["hidden_states"])

        return before

    handles = [
        block.register_forward_pre_hook(hook(layer), with_kwargs=True)  # type: ignore[arg-type]
        for layer, block in enumerate(blocks)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""Attention masks for rows of branches: one rule, in the form that each attention kernel wants.

Position i sees position j iff ``j <= i`` and j's segment is i's segment or its parent. Segments are numbered within
the row, so nothing crosses examples; padding is a segment of its own, so that no row of the mask is empty (a softmax
over nothing is NaN).
"""

from typing import Any

import torch
from torch import Tensor

BLOCK = 128
"""Positions of a block of FlexAttention."""


def dense_mask(segments: Tensor, parents: Tensor) -> Tensor:
    """Boolean mask for scaled dot-product attention.

    Args:
        segments: Shape [rows, length].
        parents: Shape [rows, length].

    Returns:
        Shape [rows, 1, length, length], True where the key may be seen.
    """
    keys = segments[:, None, :]
    visible = (keys == segments[:, :, None]) | (keys == parents[:, :, None])
    return visible.tril_()[:, None]


def block_mask(segments: Tensor, parents: Tensor) -> Any:
    """The same rule as a FlexAttention ``BlockMask``: blocks without a visible pair are skipped.

    Which blocks those are follows from each block's first and last segment, because segments are numbered in the order
    of the row; torch's own ``create_block_mask`` would evaluate the rule for every pair of positions first.

    Args:
        segments: Shape [rows, length], not decreasing along a row.
        parents: Shape [rows, length].
    """
    from torch.nn.attention.flex_attention import BlockMask

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        key_segment = segments[row, key]
        related = (key_segment == segments[row, query]) | (key_segment == parents[row, query])
        return related & (key <= query)

    length = segments.shape[1]
    first, last = _block_range(segments)
    lowest_parent, highest_parent = _block_range(parents)
    blocks = torch.arange(first.shape[1], device=segments.device)
    earlier = blocks[None, :] < blocks[:, None]
    own = torch.eye(len(blocks), dtype=torch.bool, device=segments.device)
    # A query block needs nothing before the segment of its lowest parent.
    occupied = (earlier & (last[:, None, :] >= lowest_parent[:, :, None])) | own
    # Wholly visible: the keys are one segment, and all queries are in it or in children of it.
    one_key = (first == last)[:, None, :]
    same = (first[:, :, None] == first[:, None, :]) & (last == first)[:, :, None]
    child = (lowest_parent[:, :, None] == first[:, None, :]) & (lowest_parent == highest_parent)[:, :, None]
    full = earlier & one_key & (same | child)
    partial = occupied & ~full
    return BlockMask.from_kv_blocks(
        *_listed(partial), *_listed(full), BLOCK_SIZE=BLOCK, mask_mod=visible, seq_lengths=(length, length)
    )


def _block_range(values: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each block, shape [rows, blocks]; a short last block repeats its last value."""
    missing = -values.shape[1] % BLOCK
    filled = torch.cat([values, values[:, -1:].expand(-1, missing)], dim=1).reshape(len(values), -1, BLOCK)
    return filled.amin(dim=2), filled.amax(dim=2)


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """A boolean [rows, query blocks, key blocks] as FlexAttention wants it: counts, and indices, the chosen first."""
    counts = blocks.sum(dim=-1, dtype=torch.int32)
    indices = torch.argsort(blocks.to(torch.int32), dim=-1, descending=True, stable=True).to(torch.int32)
    return counts[:, None], indices[:, None]

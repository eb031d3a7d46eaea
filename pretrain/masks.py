"""Attention masks for rows of branches: one rule, in the form that each attention kernel wants.

Position i sees position j iff ``j <= i`` and j's segment is i's segment or its parent. Segments are numbered within
the row, so nothing crosses examples; padding is a segment of its own, so that no row of the mask is empty (a softmax
over nothing is NaN).
"""

from typing import Any

from torch import Tensor


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
    """The same rule as a FlexAttention ``BlockMask`` (blocks without a visible pair are skipped).

    Args:
        segments: Shape [rows, length].
        parents: Shape [rows, length].
    """
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        key_segment = segments[row, key]
        related = (key_segment == segments[row, query]) | (key_segment == parents[row, query])
        return related & (key <= query)

    rows, length = segments.shape
    return create_block_mask(visible, rows, None, length, length, device=segments.device)

"""Whether a model computes for texts that share a row what it computes for each alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.data.batch import Batch, collate
from pretrain.data.branches import Branches, View, ViewPairs
from pretrain.model.network import BranchNetwork

LAYOUT_TOLERANCE = 1e-3
"""Largest accepted relative difference between a text's states in a packed row and alone."""


def packed_row(vocabulary: int) -> Batch:
    """A row of two pairs with all their branches: 36 positions, of which no text takes more than 15.

    Args:
        vocabulary: Ids are below this number.
    """
    ids = [(7 + 31 * number) % vocabulary for number in range(24)]  # 31: neighbours differ
    branches = Branches("conditional", eos=ids[0], bos=ids[1], predictors=(ids[2], ids[3]))
    pairs = ViewPairs.of([(View(ids[4:9]), View(ids[9:13])), (View(ids[13:20]), View(ids[20:23]))])
    trees = branches.lay_out(pairs, np.ones(2, np.bool_), np.zeros(2, np.int64))
    return collate(trees, np.zeros(1, np.int64), len(trees.ids), pad=ids[23])


@torch.no_grad()
def layout_problem(lm: Any) -> str | None:
    """What a model does otherwise than rows of branches need; None: it follows their mask and positions.

    Two pairs are packed into a row. Every branch must get the states that its text gets alone, in a row of its own,
    with neither mask nor positions given.

    Args:
        lm: A whole causal LM with its weights, in float32 and evaluation mode.
    """
    batch = packed_row(lm.get_input_embeddings().weight.shape[0])
    network = BranchNetwork(lm)

    def states(given: Batch) -> Tensor:
        found: Tensor = network(given)[1]
        return found

    packed = states(batch)
    alone = torch.empty_like(packed)
    segments = batch.segments[0]
    for segment in sorted(set(segments.tolist())):
        own = segments == segment
        path = (segments == batch.parents[0, own][0]) | own
        output = lm.base_model(input_ids=batch.ids[:, path], use_cache=False)
        alone[own] = output.last_hidden_state[0, -int(own.sum()) :]
    difference = float((packed - alone).norm() / alone.norm())
    if difference <= LAYOUT_TOLERANCE:
        return None
    plain = replace(batch, positions=torch.arange(len(segments))[None])
    causal = replace(batch, segments=torch.zeros_like(batch.segments), parents=torch.zeros_like(batch.parents))
    ignored = [
        name
        for name, changed in (("position_ids", plain), ("a 4-D attention_mask", causal))
        if torch.equal(states(changed), packed)
    ]
    why = f"ignores {' and '.join(ignored)}" if ignored else f"gives other states ({difference:.1e} relative)"
    return f"its code {why}, so texts packed into one row would not be what they are alone; training refuses it"

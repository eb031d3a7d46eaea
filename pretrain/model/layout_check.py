"""Whether a model computes for texts that share a row what it computes for each alone."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pretrain.data.batch import Batch, collate
from pretrain.data.branches import Branches, Tree, View
from pretrain.model.network import BranchNetwork

LAYOUT_TOLERANCE = 1e-3
"""Largest accepted relative difference between a text's states in a packed row and alone."""


def packed_row(vocabulary: int) -> tuple[Batch, Tree]:
    """A row of two pairs with all their branches: 36 positions, of which no text takes more than 15.

    Args:
        vocabulary: Ids are below this number.
    """
    ids = [(7 + 31 * number) % vocabulary for number in range(24)]  # 31: neighbours differ
    branches = Branches("conditional", eos=ids[0], bos=ids[1], predictors=(ids[2], ids[3]))
    row, places = Tree(), []
    for first, second in ((ids[4:9], ids[9:13]), (ids[13:20], ids[20:23])):
        tree, spans = branches.lay_out(View(first), View(second), branched=True)
        assert spans is not None
        places.append(spans.shifted(row.extend(tree)))
    return collate([(row, places)], [0, 0], len(row.ids), pad=ids[23]), row


@torch.no_grad()
def layout_problem(lm: Any) -> str | None:
    """What a model does otherwise than rows of branches need; None: it follows their mask and positions.

    Two pairs are packed into a row. Every branch must get the states that its text gets alone, in a row of its own,
    with neither mask nor positions given.

    Args:
        lm: A whole causal LM with its weights, in float32 and evaluation mode.
    """
    batch, row = packed_row(lm.get_input_embeddings().weight.shape[0])
    network = BranchNetwork(lm)

    def states(given: Batch) -> Tensor:
        found: Tensor = network(given)[1]
        return found

    packed = states(batch)
    alone = torch.empty_like(packed)
    segments = torch.tensor(row.segments)
    for segment in range(row.num_segments):
        own = segments == segment
        parent = row.parents[row.segments.index(segment)]
        path = (segments == parent) | own
        output = lm.base_model(input_ids=torch.tensor(row.ids)[path][None], use_cache=False)
        alone[own] = output.last_hidden_state[0, -int(own.sum()) :]
    difference = float((packed - alone).norm() / alone.norm())
    if difference <= LAYOUT_TOLERANCE:
        return None
    plain = replace(batch, positions=torch.arange(len(row.ids))[None])
    causal = replace(batch, segments=torch.zeros_like(batch.segments), parents=torch.zeros_like(batch.parents))
    ignored = [
        name
        for name, changed in (("position_ids", plain), ("a 4-D attention_mask", causal))
        if torch.equal(states(changed), packed)
    ]
    why = f"ignores {' and '.join(ignored)}" if ignored else f"gives other states ({difference:.1e} relative)"
    return f"its code {why}, so texts packed into one row would not be what they are alone; training refuses it"

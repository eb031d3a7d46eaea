"""Held-out records in rows of their own, for evaluation and probing."""

import math

import numpy as np

from pretrain.config.sections import Config
from pretrain.data.batch import BatchBuilder
from pretrain.data.branches import Branches, IntArray
from pretrain.data.corpus import CorpusSplit
from pretrain.data.order import random_keys
from pretrain.data.packing import PackingPlan, pack


def heldout_rows(
    config: Config, split: CorpusSplit, records: IntArray, branches: Branches, pad: int, purpose: str
) -> tuple[BatchBuilder, PackingPlan]:
    """Held-out records with all their branches, in rows whose order the purpose decides and no run's seed.

    Rows are as long as in training, or longer where a pair with its branches takes more: training without branches
    takes pairs that have no room for them.
    """
    pairs, row_length = split.pairs(records), config.packing.row_length
    longest = int(branches.num_tokens(pairs.lengths, branched=True).max())
    if longest > row_length:
        row_length = 128 * math.ceil(longest / 128)
    plan = pack(
        records,
        pairs,
        np.ones(len(records), np.bool_),
        branches,
        row_length,
        keys=lambda count: random_keys(0, f"rows of the {purpose}", 0, count),
    )
    return BatchBuilder(split, branches, row_length, pad), plan

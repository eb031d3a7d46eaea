"""A random Llama that runs in milliseconds, and rows for it."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pretrain.data.batch import Batch, collate
from pretrain.data.branches import Branches, Tree, View

VOCABULARY, BOS, EOS, PAD = 60, 1, 2, 0
PREDICTORS = (57, 58, 59)


def tiny_llama(attention: str = "sdpa", *, seed: int = 0, **changes: Any) -> Any:
    torch.set_num_threads(1)  # tensors this small only lose time to a second one
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        attn_implementation=attention,
        initializer_range=0.1,  # far from uniform, so that a token that is seen leaves a trace
        **changes,
    )
    return LlamaForCausalLM(config).float()


def batch_of(
    branches: Branches, rows: Sequence[Sequence[tuple[View, View]]], row_length: int, *, branched: bool = True
) -> Batch:
    """Each row holds its pairs in order; the pairs of a row are a group."""
    laid_out, groups = [], []
    for number, pairs in enumerate(rows):
        row, spans = Tree(), []
        for first, second in pairs:
            tree, where = branches.lay_out(first, second, branched)
            offset = row.extend(tree)
            if where is not None:
                spans.append(where.shifted(offset))
                groups.append(number)
        laid_out.append((row, spans))
    return collate(laid_out, groups, row_length, PAD)

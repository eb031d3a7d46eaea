"""A random Llama that runs in milliseconds, and rows for it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pretrain.data.batch import Batch, collate
from pretrain.data.branches import Branches, View
from tests.support.trees import lay_out_examples

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
    examples = [(first, second, branched) for row in rows for first, second in row]
    numbers = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return collate(lay_out_examples(branches, examples, numbers), np.arange(len(rows)), row_length, PAD)

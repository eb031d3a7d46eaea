"""The network that training differentiates: a Hugging Face causal LM over rows of branches."""

import math
import shutil
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pretrain.data.batch import Batch
from pretrain.data.branches import IGNORE
from pretrain.model.balance_loss import balance_sum, balance_weight
from pretrain.model.head_loss import LossHead
from pretrain.model.masks import block_mask, dense_mask
from pretrain.runtime.errors import DiptychError


def check_attention(attention: str, device: torch.device) -> None:
    """Refuses an attention kernel that cannot train here.

    Raises:
        DiptychError: FlexAttention on the CPU, or without the compiler that it needs.
    """
    if attention != "flex":
        return
    if device.type != "cuda":
        raise DiptychError("model.attention: flex has no backward pass on the CPU; use auto or sdpa")
    check_compiler("model.attention", "flex", "set model.attention=sdpa")


def check_compiler(setting: str, value: str, otherwise: str) -> None:
    """Refuses a setting that compiles kernels where there is no compiler."""
    compilers = ("cc", "gcc", "clang", "g++", "c++")
    if not any(shutil.which(compiler) for compiler in compilers):
        raise DiptychError(
            f"{setting}: {value} compiles its kernels and found no C++ compiler ({', '.join(compilers)}); "
            f"install one or {otherwise}"
        )


class BranchNetwork(nn.Module):
    """Runs the model once over a batch of rows.

    Args:
        lm: The causal LM; its base model gives the last hidden states (after the final norm).
        loss_chunk_tokens: Label tokens per call of the LM head.
    """

    def __init__(self, lm: Any, loss_chunk_tokens: int = 4096) -> None:
        super().__init__()
        self.lm = lm
        self.loss_chunk_tokens = loss_chunk_tokens
        self.balanced = balance_weight(lm.config) > 0
        head = lm.get_output_embeddings()
        if type(head) in (nn.Linear, LossHead):  # not one with rows that LoRA trains
            cap = getattr(lm.config, "final_logit_softcapping", None)
            LossHead.take_over(head, cap=cap, chunk_tokens=loss_chunk_tokens)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """One forward pass over a batch.

        Returns:
            The summed next-token loss in nats, a float32 scalar; the last hidden states, shape
            [rows * length, width]; and the load-balancing loss summed over tokens, 0 if the model has none.
        """
        kernel = self.lm.config._attn_implementation
        mask = (block_mask if kernel == "flex_attention" else dense_mask)(batch.segments, batch.parents)
        if kernel == "eager":  # which adds its mask, also a boolean one
            lowest = torch.finfo(self.lm.dtype).min
            mask = torch.zeros_like(mask, dtype=self.lm.dtype).masked_fill(~mask, lowest)
        # use_cache=False and a mask of our own: otherwise transformers guesses the packing and leaks across examples.
        output = self.lm.base_model(
            input_ids=batch.ids, attention_mask=mask, position_ids=batch.positions, use_cache=False
        )
        states = output.last_hidden_state.flatten(0, 1)
        lm_sum = self._next_token_loss(states.index_select(0, batch.label_index), batch.labels, batch.label_capacity)
        balance = lm_sum.new_zeros(())
        if self.balanced and output.router_logits:  # none where the config has no routed layer
            balance = balance_sum(output.router_logits, self.lm.num_experts_per_tok, batch.lengths)
        return lm_sum, states, balance

    def _next_token_loss(self, states: Tensor, labels: Tensor, capacity: int) -> Tensor:
        """Sum of cross-entropies; logits are computed in chunks, so that they never take more than a chunk.

        The number of the head's calls follows ``capacity``, not this rank's labels: under ZeRO-3 each of them is a
        collective, so every rank must make equally many.
        """
        head = self.lm.get_output_embeddings()
        chunks = max(1, math.ceil(capacity / self.loss_chunk_tokens))
        if isinstance(head, LossHead) and torch.is_grad_enabled() and (chunks > 1 or states.is_cuda):
            loss: Tensor = head(states, labels)
            return loss
        if chunks == 1 and len(labels):
            return self._chunk_loss(states, labels)
        size = min(self.loss_chunk_tokens, max(1, capacity))
        missing = chunks * size - len(labels)
        states = torch.cat([states, states.new_zeros(missing, states.shape[1])])
        labels = torch.cat([labels, labels.new_full((missing,), IGNORE)])
        total = states.new_zeros((), dtype=torch.float32)
        for part, wanted in zip(torch.split(states, size), torch.split(labels, size), strict=True):
            if chunks > 1 and torch.is_grad_enabled():  # a head with rows that LoRA trains
                total = total + checkpoint(self._chunk_loss, part, wanted, use_reentrant=False)
            else:
                total = total + self._chunk_loss(part, wanted)
        return total

    def _chunk_loss(self, states: Tensor, labels: Tensor) -> Tensor:
        logits = cap_logits(self.lm.get_output_embeddings()(states).float(), self.lm.config)
        return functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")


def cap_logits(logits: Tensor, hf_config: Any) -> Tensor:
    """Logits as Gemma 2 caps them (arXiv 2408.00118, section 2); those of other models as they are."""
    cap = getattr(hf_config, "final_logit_softcapping", None)
    return logits if not cap else cap * torch.tanh(logits / cap)

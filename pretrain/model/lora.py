"""LoRA (arXiv 2106.09685): low-rank updates of a frozen model's linear layers, by peft, and the rows of special tokens.

Updates of linear layers alone cannot teach the model a token that it never saw, such as ``[PRED_1]`` or a stop token of
its own. So the rows of the tokenizer's special tokens are trained as well, in the embedding and in the head, as
differences from what they are.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pretrain.config.model import LoraConfig
from pretrain.model.initialization import module_seed
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.zero import full_shape, is_partitioned

if TYPE_CHECKING:
    from pretrain.data.tokenizer import Tokenizer


class _Rows(nn.Module):
    """Trained differences of some rows of an embedding table; the first row stands for all other tokens."""

    slots: Tensor
    ids: Tensor

    def __init__(self, ids: Sequence[int], rows: int, width: int) -> None:
        super().__init__()
        self.difference = nn.Embedding(1 + len(ids), width, padding_idx=0)
        nn.init.zeros_(self.difference.weight)
        slots = torch.zeros(rows, dtype=torch.long)
        slots[list(ids)] = torch.arange(1, 1 + len(ids))
        self.register_buffer("slots", slots, persistent=False)
        self.register_buffer("ids", torch.tensor(list(ids)), persistent=False)

    def every(self) -> Tensor:
        """The differences of all trained rows, shape [number of ids, width]."""
        # By a call of the module, so that ZeRO-3 gathers its weight also where the head is tied to the embedding.
        rows: Tensor = self.difference(torch.arange(1, 1 + len(self.ids), device=self.ids.device))
        return rows


class EmbeddingWithRows(nn.Module):
    """An embedding of which some rows are trained."""

    def __init__(self, layer: nn.Embedding, rows: _Rows) -> None:
        super().__init__()
        self.layer, self.rows = layer, rows
        self.scale = float(getattr(layer, "scalar_embed_scale", 1.0))  # Gemma multiplies what it looks up

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings of token ids, shape [..., width]."""
        embeddings: Tensor = self.layer(ids) + self.scale * self.rows.difference(self.rows.slots[ids])
        return embeddings


class HeadWithRows(nn.Module):
    """An output head of which some rows are trained."""

    def __init__(self, layer: nn.Linear, rows: _Rows) -> None:
        super().__init__()
        self.layer, self.rows = layer, rows
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, states: Tensor) -> Tensor:
        """Logits, shape [..., vocabulary]."""
        logits: Tensor = self.layer(states)
        return logits.index_add(-1, self.rows.ids, nn.functional.linear(states, self.rows.every()).to(logits.dtype))


def special_rows(tokenizer: "Tokenizer", stop: int) -> tuple[int, ...]:
    """Ids of the tokens whose rows LoRA trains: bos, the token that ends an example, and the predictors."""
    return tuple(sorted({tokenizer.bos, stop, *tokenizer.predictors}))


def add_lora(lm: Any, config: LoraConfig, *, ids: Sequence[int], seed: int) -> Any:
    """Freezes a causal LM and adds what LoRA trains, in place; the model computes the same as before.

    The first values depend on the seed alone; under ZeRO-3 every rank makes them whole and DeepSpeed cuts them.

    Args:
        lm: The model, partitioned or not.
        config: The section ``model.lora``.
        ids: From :func:`special_rows`.
        seed: Seed of the run.

    Returns:
        Peft's tuner, for :func:`merge_lora`.

    Raises:
        DiptychError: ``targets`` names no layer of the model.
    """
    import peft  # here: importing it takes seconds

    dtype, embedding, head = lm.dtype, lm.get_input_embeddings(), lm.get_output_embeddings()
    tied = head.weight is embedding.weight
    shape = full_shape(embedding.weight)
    for parameter in lm.parameters():
        parameter.requires_grad_(False)
    known = {id(parameter) for parameter in lm.parameters()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(module_seed(seed, "lora"))
        settings = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules="all-linear" if config.targets == "all" else list(config.targets),
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in lm.modules()),  # GPT-2's kind of layer
            task_type="CAUSAL_LM",
        )
        try:
            tuner = peft.LoraModel(lm, settings, "default")
        except ValueError as error:
            message = " ".join(str(error).split())[:200]
            raise DiptychError(f"model.lora.targets: {config.targets}: {message}") from error
    _check_targets(lm, config, tuner.targeted_module_names)
    if is_partitioned([embedding.weight]) and any(type(module).__name__ == "ParamWrapper" for module in lm.modules()):
        raise DiptychError(
            "model.lora: updates of a mixture's experts and routers do not work under ZeRO-3 (peft). Set "
            "deepspeed.zero_stage to 2 or less, or name linear layers such as q_proj in model.lora.targets"
        )
    with torch.device(embedding.weight.device):
        rows = _Rows(ids, shape[0], shape[1])
        lm.set_input_embeddings(EmbeddingWithRows(embedding, rows))
        lm.set_output_embeddings(HeadWithRows(head, rows if tied else _Rows(ids, shape[0], shape[1])))
    for parameter in lm.parameters():
        if id(parameter) not in known:
            parameter.data = parameter.data.to(dtype)
    return tuner


def _check_targets(lm: Any, config: LoraConfig, found: Sequence[str]) -> None:
    for target in () if config.targets == "all" else config.targets:
        matched = [name for name in found if name == target or name.endswith(f".{target}")]
        if not matched:
            raise DiptychError(f"model.lora.targets: {target!r} is no linear layer of the model")
        if {id(lm.get_submodule(name)) for name in matched} & {
            id(lm.get_input_embeddings()),
            id(lm.get_output_embeddings()),
        }:
            raise DiptychError(
                f"model.lora.targets: {target!r} is the embedding or the head, of which LoRA trains rows of special "
                "tokens; leave it out"
            )


def merged_weights(
    lm: Any, config: LoraConfig, trained: Mapping[str, Tensor], *, ids: Sequence[int]
) -> dict[str, Tensor]:
    """The weights of a whole model that computes what a model with LoRA computes.

    Args:
        lm: The model that LoRA was added to, whole and in float32; it is changed.
        config: The section ``model.lora``.
        trained: The trained parameters and persistent buffers, by name.
        ids: From :func:`special_rows`.

    Raises:
        DiptychError: The trained parameters are those of another model.
    """
    tuner = add_lora(lm, config, ids=ids, seed=0)
    wanted = {name for name, parameter in lm.named_parameters() if parameter.requires_grad}
    _, unexpected = lm.load_state_dict(dict(trained), strict=False)
    if missing := sorted(wanted - trained.keys()) or unexpected:
        raise DiptychError(f"checkpoint and model.lora do not match: {missing[0]} ({len(missing)} differ)")
    with torch.no_grad():
        embedding, head = lm.get_input_embeddings(), lm.get_output_embeddings()
        for wrapped in {id(module.rows): module for module in (embedding, head)}.values():
            wrapped.layer.weight[wrapped.rows.ids] += wrapped.rows.every()
        lm.set_input_embeddings(embedding.layer)
        lm.set_output_embeddings(head.layer)
        merged = tuner.merge_and_unload()
    return dict(merged.state_dict())

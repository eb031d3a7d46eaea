"""Sizes that a Hugging Face config gives, also where layers differ, and the config of a small model of its kind."""

import copy
from typing import Any


def layer_values(hf_config: Any, name: str) -> list[Any]:
    """The values of a field that may differ between layers (Gemma 4's heads): one, or one for each layer.

    Reading such a field of the whole config is an error in transformers. A field that the config lacks gives nothing.
    """
    if getattr(hf_config, "is_heterogeneous", False) and name in hf_config.per_layer_attributes:
        return [getattr(layer, name) for layer in hf_config.per_layer_config]
    value = getattr(hf_config, name, None)
    return [] if value is None else [value]


def head_widths(hf_config: Any) -> list[int]:
    """Widths of an attention head: one, or one for each layer."""
    return layer_values(hf_config, "head_dim") or [hf_config.hidden_size // hf_config.num_attention_heads]


def context_length(hf_config: Any) -> int | None:
    """Most positions that a text may take; None: not known.

    Of rotary embeddings that change with the longest text of a batch, only as many as leave them unchanged.
    """
    named = (getattr(hf_config, name, None) for name in ("max_position_embeddings", "max_context_length"))
    known = [next((length for length in named if isinstance(length, int)), None), rope_limit(hf_config)]
    return min((length for length in known if length is not None), default=None)


def rope_limit(hf_config: Any) -> int | None:
    """Positions up to which a text's rotary embeddings do not depend on other texts of its batch; None: any number.

    transformers' longrope takes other frequencies for the whole batch as soon as one position of it is beyond the
    original context. Dynamic NTK scaling does so beyond ``max_position_embeddings``, where no text is taken anyway.
    """
    found = [getattr(hf_config, name, None) for name in ("rope_parameters", "rope_scaling")]
    by_layer = [value for rope in found if isinstance(rope, dict) for value in (rope, *rope.values())]
    limits = [
        rope.get("original_max_position_embeddings") or getattr(hf_config, "original_max_position_embeddings", None)
        for rope in by_layer
        if isinstance(rope, dict) and rope.get("rope_type", rope.get("type")) in ("longrope", "su")
    ]
    return min((limit for limit in limits if isinstance(limit, int)), default=None)


_LARGEST = {
    64: ("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "embed_dim", "word_embed_proj_dim", "emb_dim"),
    96: (
        *("intermediate_size", "ffn_dim", "n_inner", "d_ff", "dff", "ffn_hidden_size", "decoder_ffn_dim"),
        *(
            "moe_intermediate_size",
            "intermediate_size_mlp",
            "shared_expert_intermediate_size",
            "expert_ffn_hidden_size",
        ),
        *("shared_intermediate_size", "moe_ffn_hidden_size", "moe_shared_expert_intermediate_size"),
        *("mlp_hidden_size", "dense_intermediate_size", "expert_intermediate_size", "prefix_dense_intermediate_size"),
    ),
    16: (
        *("head_dim", "global_head_dim", "attention_head_dim", "kv_channels", "swa_head_dim", "v_head_dim"),
        *("qk_nope_head_dim", "qk_rope_head_dim", "swa_v_head_dim", "q_lora_rank", "kv_lora_rank"),
        *("attention_latent_size", "hidden_size_per_layer_input"),
    ),
    32: ("qk_head_dim",),  # the sum of two
    8: ("rotary_dim",),
    4: (
        *("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_layer"),
        *(
            "n_head",
            "n_heads",
            "num_attention_heads",
            "num_heads",
            "decoder_attention_heads",
            "swa_num_attention_heads",
        ),
    ),
    2: (
        *("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts", "num_experts_per_topk"),
        *("moe_top_k", "zero_expert_num"),
    ),
    1: (
        *(
            "first_k_dense_replace",
            "num_dense_layers",
            "num_kv_shared_layers",
            "n_group",
            "topk_group",
            "n_shared_experts",
        ),
        *("moe_layer_start_index",),
    ),
}
"""Sizes of the small model, and the fields, by whatever name, that are not to be larger."""
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "swa_num_key_value_heads")
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_CONTEXTS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")


def small_config(hf_config: Any, *, vocab_size: int, positions: int | None) -> Any:
    """The config of a model of the same kind in small: a few thin layers, few experts, a short context.

    Args:
        hf_config: A text model's; it is not changed.
        vocab_size: Of the small model.
        positions: Its context; rotary embeddings that change beyond some position do so beyond half of it. None: all
            contexts stay as they are.
    """
    fields = hf_config.to_dict()
    depth = hf_config.num_hidden_layers
    layers = _layers(fields, depth)
    heads = hf_config.num_attention_heads
    width = head_widths(hf_config)[0]
    result = _shrunken(fields, heads, width)
    for name, value in result.items():
        if isinstance(value, list) and len(value) == depth:
            result[name] = value[:layers]
    result |= {name: layers for name in _DEPTHS if result.get(name) == depth}
    if special := result.pop("per_layer_config", None):
        result["per_layer_config"] = {
            key: _shrunken(own, heads, width) for key, own in special.items() if int(key) < layers
        }
    if rope := result.get("rope_parameters"):
        result["rope_parameters"] = _thin_rope(rope, width)
    if positions is not None:
        result = _in_context(result, positions)
    result |= {"vocab_size": vocab_size, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if "vocab_size_per_layer_input" in result:
        result["vocab_size_per_layer_input"] = vocab_size
    return type(hf_config).from_dict(copy.deepcopy(result))


def _layers(fields: dict[str, Any], depth: int) -> int:
    """How many of the first layers show every kind of layer, at least four if there are as many."""
    lists = [value for value in fields.values() if isinstance(value, list) and len(value) == depth]
    firsts = [value.index(kind) for value in lists for kind in value]
    special = [int(key) for key in fields.get("per_layer_config") or {}]
    return min(depth, max(4, 1 + max(firsts, default=0), 1 + min(special, default=0)))


def _shrunken(fields: dict[str, Any], heads: int, width: int) -> dict[str, Any]:
    result, few = dict(fields), min(heads, 4)
    for largest, names in _LARGEST.items():
        largest = 16 * few if largest == 64 else largest  # a whole number for each head
        for name in names:
            value = fields.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > largest:
                # Heads of other widths than the common one stay of other widths.
                result[name] = 2 * largest if name == "head_dim" and value > width else largest
    for name in _KV_HEADS:
        value = fields.get(name)
        if isinstance(value, int) and value > 1:
            result[name] = few if value == heads or few % 2 else few // 2
    return result


def _thin_rope(rope: dict[str, Any], width: int) -> dict[str, Any]:
    """Parameters of rotary embeddings, of one kind of layer or of several, for thinner heads."""
    result: dict[str, Any] = {}
    for name, value in rope.items():
        if isinstance(value, dict):
            result[name] = _thin_rope(value, width)
        elif name in ("short_factor", "long_factor") and isinstance(value, list):
            result[name] = value[: max(1, len(value) * min(width, 16) // width)]
        else:
            result[name] = value
    return result


def _in_context(fields: dict[str, Any], positions: int) -> dict[str, Any]:
    """Fields of a config, and of what is nested in it, with another context."""
    result = {
        name: _in_context(value, positions) if isinstance(value, dict) else value for name, value in fields.items()
    }
    result |= {name: positions for name in _CONTEXTS if isinstance(result.get(name), int)}
    if "original_max_position_embeddings" in result:
        result["original_max_position_embeddings"] = positions // 2
    return result

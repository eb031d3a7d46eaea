"""Which models can be trained here: plain stacks of attention blocks that obey our mask, under ``head(base(x))``."""

import inspect
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import CONFIG_MAPPING
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pretrain.data.batch import collate
from pretrain.data.branches import Branches, View, ViewPairs
from pretrain.model.balance_loss import balance_weight, has_balance_weight
from pretrain.model.initialization import causal_lm, has_own_code, initialize, meta_model
from pretrain.model.layout_check import layout_problem, packed_row
from pretrain.model.network import BranchNetwork, cap_logits
from pretrain.model.sizes import layer_values, rope_limit, small_config
from pretrain.runtime.errors import DiptychError

_LAYER_TYPES = {"full_attention", "sliding_attention"}
_DRAWS_LAYERS = {"layerdrop", "decoder_layerdrop", "layer_drop", "drop_path_rate", "stochastic_depth_rate"}

_VOCABULARY = 128
_CONTEXT = 32
"""Positions of a model in small: more than a text of its trial takes, fewer than the row of texts has."""
_LOSS_TOLERANCE = 1e-4


def refuse_config(model_type: str, hf_config: Any, positions: int) -> None:
    """Refuses configs of models that are not a plain stack of attention blocks under a mask of ours."""
    if getattr(hf_config, "is_encoder_decoder", False):
        raise DiptychError(f"model.type: {model_type!r} is an encoder-decoder; choose a decoder such as 'llama'")
    if hf_config.sub_configs:
        text_type = f"{model_type}_text"
        hint = f"{text_type!r}" if _is_suitable(text_type) else "a text model"
        parts = ", ".join(hf_config.sub_configs)
        raise DiptychError(f"model.type: {model_type!r} is made of several models ({parts}); choose {hint}")
    for name, value in hf_config.to_dict().items():
        if value and name in _DRAWS_LAYERS:
            raise DiptychError(
                f"model.fields.{name}: {value} leaves out layers at random, on each rank others, but ranks compute each"
                " layer together. Set it to 0"
            )
    kinds = set(getattr(hf_config, "layer_types", None) or ())
    if kinds - _LAYER_TYPES:
        raise DiptychError(
            f"model.type: {model_type!r} has {', '.join(sorted(kinds - _LAYER_TYPES))} layers, which do not obey an"
            " attention mask: packed texts would leak into each other"
        )
    window = min((window for window in layer_values(hf_config, "sliding_window") if window), default=None)
    if window and window < positions and (not kinds or "sliding_attention" in kinds):
        raise DiptychError(
            f"model.fields.sliding_window: {window} is shorter than the longest example ({positions} positions), and"
            " training does not cut attention to a window. Raise it or set it to null"
        )
    limit = rope_limit(hf_config)
    if limit is not None and limit < positions:
        raise DiptychError(
            f"model.type: {model_type!r} has longrope embeddings, which change for a whole batch as soon as one text is"
            f" longer than original_max_position_embeddings ({limit}), and the longest example needs {positions}"
            " positions. Lower data.max_view_tokens, or choose another rope_type"
        )
    heads, groups = (layer_values(hf_config, name) for name in ("num_attention_heads", "num_key_value_heads"))
    for count, group in zip(heads * len(groups), groups * len(heads), strict=True):
        if count and group and count % group:
            raise DiptychError(
                f"model.fields.num_key_value_heads: {group} does not divide num_attention_heads ({count})"
            )


def refuse_model(model_type: str, twin: Any) -> None:
    """Refuses model classes that cannot follow our mask and positions."""
    missing = {"attention_mask", "position_ids"} - set(inspect.signature(twin.base_model.forward).parameters)
    if twin._is_stateful or missing:
        why = "carries a recurrent state" if twin._is_stateful else f"takes no {' or '.join(sorted(missing))}"
        raise DiptychError(f"model.type: {model_type!r} {why}, so texts packed into one row would leak into each other")
    if not (twin._supports_sdpa or twin._supports_flex_attn or has_own_code(twin.config)):
        raise DiptychError(f"model.type: {model_type!r} has neither SDPA nor FlexAttention in transformers")
    if any(getattr(module, "is_causal", True) is False for module in twin.modules()):
        raise DiptychError(
            f"model.type: {model_type!r} would not be causal after export. Set model.fields.is_decoder: true if the"
            " type has it, or choose another type"
        )


def check_plain_head(model: Any) -> None:
    """Refuses a model whose logits are not simply ``head(base(x))``.

    Training runs ``model.base_model`` and, at label positions only, ``model.get_output_embeddings()``. What a model
    does besides (Cohere scales its logits; Gemma 2's cap is known here) would be missing in training and present in the
    exported model. The check runs the model type's own forward pass, at its real config, on a meta twin in which base
    and head are replaced by stand-ins with known output: exact, independent of the size, no memory, no collectives.

    Args:
        model: The model, partitioned or not, or its meta twin; only its config is used.
    """
    hf_config = model.config
    twin = meta_model(hf_config).eval()
    base, head = twin.base_model, twin.get_output_embeddings()
    problem = None
    if base is twin or not isinstance(head, nn.Linear):
        problem = "it has no separate base model and linear head"
    else:
        generator = torch.Generator().manual_seed(0)
        # Large values, so that a cap shows.
        hidden = 30 * torch.randn(1, 3, head.in_features, generator=generator)
        stand_in = nn.Linear(head.in_features, 8, bias=False, device="meta")  # meta: draws no random numbers
        stand_in.weight = nn.Parameter(torch.randn(8, head.in_features, generator=generator))
        input_ids = torch.zeros(1, 3, dtype=torch.long)
        calls: list[dict[str, Any]] = []

        def base_forward(*args: Any, **kwargs: Any) -> Any:
            calls.append(
                dict(zip(inspect.signature(type(base).forward).parameters, (None, *args), strict=False)) | kwargs
            )
            return _BaseOutput(last_hidden_state=hidden)

        base.forward = base_forward
        try:
            twin.set_output_embeddings(stand_in)
            with torch.no_grad():
                logits = twin(input_ids=input_ids, use_cache=False, return_dict=True).logits
                expected = cap_logits(stand_in(hidden), hf_config)
        except Exception as error:  # the stand-ins do not fit: more happens than head(base(x))
            problem = f"its forward pass is more than that ({type(error).__name__}: {' '.join(str(error).split())})"
        else:
            if len(calls) != 1 or calls[0].get("input_ids") is not input_ids:
                problem = "it does not hand its input to the base model as it is"
            elif logits.shape != expected.shape or not torch.allclose(logits, expected, rtol=1e-5, atol=1e-5):
                problem = "it changes the head's output or input (such as scaling its logits)"
    if problem is not None:
        raise DiptychError(
            f"model.type: {hf_config.model_type!r} cannot be trained here: its logits must be head(base(input)), but"
            f" {problem}. Choose another type, or switch it off in model.fields (such as logits_scaling: 1.0)"
        )


def try_small(hf_config: Any, *, loaded: bool = False) -> None:
    """Refuses a model if a small one of its kind fails.

    It must compute for texts that share a row what it computes for each alone; its own loss of a text must be the loss
    that training takes; and a step's backward pass must go through.

    Args:
        hf_config: Of a model of transformers, of any size.
        loaded: All its values will be loaded, so transformers need not have a first one for each.

    Raises:
        DiptychError: Says what it does otherwise.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            small = small_config(hf_config, vocab_size=_VOCABULARY, positions=_CONTEXT)
            if getattr(small, "initializer_range", None):
                small.initializer_range = 0.1  # far from uniform, so that a token that is seen leaves a trace
            lm = causal_lm(small, dtype=torch.float32)
        except Exception:  # sizes that fit only as they are: such a model is tried by its first step
            return
        if not loaded:
            initialize(lm, seed=0)
        try:
            problem = layout_problem(lm.eval()) or _loss_problem(lm)
        except Exception as error:  # transformers' models fail in all ways
            message = " ".join(str(error).split())[:200]
            problem = f"its forward pass fails where a row holds several texts ({type(error).__name__}: {message})"
    if problem:
        raise DiptychError(
            f"model.type: {hf_config.model_type!r} cannot be trained here: {problem}. Choose another type, or other"
            " fields"
        )


def _loss_problem(lm: Any) -> str | None:
    """How the model's own loss differs from the one that training takes, of a text and for the backward pass."""
    if getattr(lm.config, "output_router_logits", False) and not has_balance_weight(lm.config):
        return "output_router_logits asks for a load-balancing loss, which this type has not"
    network, weight = BranchNetwork(lm), balance_weight(lm.config)
    ids = list(range(3, 15))
    # As the answer to its first token, a text is labelled as a causal LM labels it.
    pair = ViewPairs.of([(View(ids[:1]), View(ids[1:], complete=False))])
    text = Branches("conditional", eos=0).lay_out(pair, np.zeros(1, np.bool_), np.zeros(1, np.int64))
    with torch.no_grad():
        own = float(lm(input_ids=torch.tensor([ids]), labels=torch.tensor([ids]), use_cache=False).loss)
        lm_sum, _, balance = network(collate(text, np.zeros(1, np.int64), len(ids), pad=0))
    ours = float(lm_sum) / (len(ids) - 1) + weight * float(balance) / len(ids)
    if abs(own - ours) > _LOSS_TOLERANCE * max(1.0, abs(own)):
        return f"its own loss of a text has a term that training does not know ({own:.4f}, not {ours:.4f})"
    lm_sum, states, balance = network.train()(packed_row(_VOCABULARY))
    (lm_sum + states.float().square().sum() + weight * balance).backward()
    return None


def _is_suitable(model_type: str) -> bool:
    """Whether a model of that type, with the type's own fields, can be trained here."""
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or model_type not in CONFIG_MAPPING:
        return False
    try:
        hf_config = CONFIG_MAPPING[model_type]()
        refuse_config(model_type, hf_config, 1)
        twin = meta_model(hf_config)
        refuse_model(model_type, twin)
        check_plain_head(twin)
        try_small(hf_config)
    except Exception:  # of ours, or whatever transformers has against its own fields
        return False
    return True


class _BaseOutput(BaseModelOutputWithPast):  # type: ignore[misc]
    """An output of which every part but the hidden state is None, whatever a model type looks for."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)

"""The model: a Hugging Face causal LM built from a config, with first values that depend on the seed alone."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import HF_MODULES_CACHE

from pretrain.config.model import LoraConfig, ModelConfig
from pretrain.model.initialization import causal_lm, has_own_code, initialize, meta_model, refuse_second_zero3
from pretrain.model.lora import add_lora
from pretrain.model.sizes import context_length, head_widths, layer_values, rope_limit
from pretrain.model.suitable_models import check_plain_head, refuse_config, refuse_model
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.locks import waiting_lock
from pretrain.runtime.suggestions import nearest
from pretrain.runtime.zero import full_size

_TOKENIZER = "it comes from the tokenizer"
_NOT_OURS_TO_TAKE = {
    "vocab_size": _TOKENIZER,
    "bos_token_id": _TOKENIZER,
    "eos_token_id": _TOKENIZER,
    "pad_token_id": _TOKENIZER,
    "model_type": "it is model.type",
    "architectures": "it follows from model.type",
    "dtype": "the run's precision decides it",
    "torch_dtype": "the run's precision decides it",
    "attn_implementation": "it is model.attention",
    "transformers_version": "transformers writes it",
}
# Keyword arguments without a field of their own that transformers 5.23 still folds into rope_parameters.
_ROPE_KEYWORDS = ("rope_theta", "rope_scaling")
_HF_ATTENTION = {"sdpa": "sdpa", "flex": "flex_attention", "eager": "eager"}


class ParameterCounts(NamedTuple):
    """Numbers of parameters; shared parameters count once, so ``total - embedding - head`` are the blocks'.

    Attributes:
        total: All parameters.
        embedding: The token embedding, a table of which a token reads one row; 0 if it is tied to the head.
        head: The output head, a matrix product for every label.
        trained: All but those that LoRA freezes.
    """

    total: int
    embedding: int
    head: int
    trained: int


def hf_config(
    config: ModelConfig, *, vocab_size: int, bos: int | None, eos: int | None, pad: int | None, positions: int
) -> Any:
    """Turns the section ``model`` into a checked Hugging Face config.

    The model is built once on the meta device, so sizes that do not fit together are found here, before any work.

    Args:
        config: The section ``model``.
        vocab_size: Rows of the embedding.
        bos: Id that starts a text, if the tokenizer has one.
        eos: Id that ends a text.
        pad: Id of the padding; its embedding starts as zeros.
        positions: How many positions the longest example needs.

    Raises:
        DiptychError: If type or fields are unknown, do not fit together, or describe a model that packed training
            with a tree-shaped mask cannot train.
    """
    if config.path is not None:
        result = _existing_config(config, positions)
        result.vocab_size = max(result.vocab_size, vocab_size)
        result.bos_token_id, result.eos_token_id, result.pad_token_id = bos, eos, pad
        result.use_cache = True
        return _checked(result, positions)
    config_class = _config_class(config)
    given = _checked_fields(config, config_class)

    position_field = config_class.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    if any(field.name == position_field for field in dataclass_fields(config_class)):
        available = given.setdefault(position_field, max(positions, getattr(config_class, position_field, 0) or 0))
        if isinstance(available, int) and available < positions:
            raise DiptychError(
                f"model.fields.{position_field}: {available} positions, but the longest example needs {positions}."
                " Raise it, or shorten the examples"
            )
    try:
        result = config_class(
            **given, vocab_size=vocab_size, bos_token_id=bos, eos_token_id=eos, pad_token_id=pad, use_cache=True
        )
        return _checked(result, positions)
    except DiptychError:
        raise
    except Exception as error:  # whatever transformers raises here is about the user's values
        message = " ".join(str(error).split())
        raise DiptychError(f"model.fields: transformers refuses this {config.type!r} config: {message}") from error


def _checked(result: Any, positions: int) -> Any:
    """The config, if a model of it can be trained here."""
    refuse_config(result.model_type, result, positions)
    twin = meta_model(result)
    refuse_model(result.model_type, twin)
    check_plain_head(twin)
    return result


def _existing_config(config: ModelConfig, positions: int) -> Any:
    """The config of the model at ``model.path``."""
    assert config.path is not None
    if problem := _path_problem(config):
        raise DiptychError(f"model.path: {config.path}: {problem}")
    try:
        if config.trust_remote_code:
            # Ranks of one machine share the folder that transformers copies a model's code into, file by file.
            with waiting_lock(Path(HF_MODULES_CACHE) / "diptych.lock"):
                meta_model(result := AutoConfig.from_pretrained(config.path, trust_remote_code=True))
        else:
            result = AutoConfig.from_pretrained(config.path, trust_remote_code=False)
    except Exception as error:  # transformers, the hub and remote code raise all kinds
        message = " ".join(str(error).split())[:300]
        hint = "; is its code for another version of transformers?" if config.trust_remote_code else ""
        raise DiptychError(
            f"model.path: {config.path}: cannot be opened as a Hugging Face model: {message}{hint}"
        ) from error
    available = context_length(result) if rope_limit(result) is None else None  # else see refuse_config
    if available is not None and available < positions:
        raise DiptychError(
            f"model.path: {config.path}: has {available} positions, but the longest example needs {positions}; lower "
            "data.max_view_tokens"
        )
    return result


def _may_be_hub_name(path: str) -> bool:
    return not Path(path).expanduser().is_absolute() and len(Path(path).parts) <= 2 and not path.startswith(".")


def _path_problem(config: ModelConfig) -> str | None:
    """What keeps the model at ``model.path`` from being opened, as far as its file names and its config say.

    None of its code runs here. Of a hub name only the config is looked at.
    """
    assert config.path is not None
    folder, trusted = Path(config.path).expanduser(), config.trust_remote_code
    if folder.exists():
        if not (folder / "config.json").is_file():
            hint = ""
            if (folder / "checkpoints").is_dir():
                hint = "; it is a run: name its export, or export its checkpoint first"
            elif (folder / "adapter_config.json").is_file():
                hint = "; it is a LoRA adapter: merge it into its base first"
            return f"is no Hugging Face model (no config.json){hint}"
        pickled = any(folder.glob("*.bin"))
        if not any(folder.glob("*.safetensors")) and not (pickled and trusted):
            why = "only pickled ones, which can run code: convert them, or set model.trust_remote_code=true"
            return f"holds no safetensors weights{', ' + why if pickled else ''}"
    elif not _may_be_hub_name(config.path):
        return "no such folder"
    try:
        code = PretrainedConfig.get_config_dict(config.path)[0].get("auto_map") or {}
    except Exception as error:  # transformers and the hub raise all kinds
        return f"cannot be opened as a Hugging Face model: {' '.join(str(error).split())[:300]}"
    named = {"AutoConfig", "AutoModelForCausalLM"} & code.keys()
    if named and not trusted:
        return (
            "is Python code of its own; set model.trust_remote_code=true if you trust it, or take auto_map out of its "
            "config.json if transformers' own class is meant"
        )
    if len(named) == 1:
        return f"brings code for {named.pop()} alone; auto_map must name both AutoConfig and AutoModelForCausalLM"
    return None


def build_model(
    hf_config: Any,
    *,
    seed: int,
    zero3_config: dict[str, Any] | None,
    dtype: torch.dtype,
    attention: str,
    loaded: bool = False,
) -> Any:
    """Builds the model and initialises it; the same bits for any number of ranks and any ZeRO stage.

    Collective on all ranks if ``zero3_config`` is given: the parameters are partitioned while they are created, so the
    model need not fit into one rank's memory.

    Args:
        hf_config: From :func:`hf_config`; it is not changed.
        seed: Seed of the run.
        zero3_config: The run's DeepSpeed config if it is ZeRO stage 3, else None.
        dtype: dtype of the parameters. First values are computed in float32 and then rounded.
        attention: ``sdpa``, ``flex`` or ``eager``.
        loaded: Every value will be loaded (``load_existing``), so transformers need not have a first one for each.
    """
    refuse_second_zero3()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(no_init_weights())  # all values are written below; transformers' own would be lost work
        if zero3_config is not None:
            import deepspeed  # here: importing it starts its accelerator detection

            stack.enter_context(deepspeed.zero.Init(config_dict_or_path=zero3_config))
        try:
            model = causal_lm(hf_config, dtype=dtype, attn_implementation=_HF_ATTENTION[attention])
        except (ValueError, ImportError) as error:
            message = " ".join(str(error).split())
            raise DiptychError(f"model: transformers cannot build {hf_config.model_type!r}: {message}") from error
    model.tie_weights()  # no_init_weights skipped it
    found = model.get_input_embeddings().weight.dtype
    if found != dtype:
        raise DiptychError(f"model: asked for {dtype} parameters, but the DeepSpeed config makes {found} ones")
    if not has_own_code(hf_config):  # whose values are all loaded (load_existing)
        initialize(model, seed=seed, every=not loaded)
    return model


def choose_attention(config: ModelConfig, hf_config: Any, device_type: str) -> Literal["sdpa", "flex", "eager"]:
    """Resolves ``model.attention: auto``: flex on CUDA if the model has it, else :func:`plain_attention`."""
    if config.attention != "auto":
        return config.attention
    twin = meta_model(hf_config)
    if has_own_code(hf_config):  # which is checked with this kernel (layout_check.layout_problem)
        return plain_attention(twin)
    # FlexAttention's kernels take heads of 16 and wider and know no dropout (torch 2.13, transformers 5.23).
    fits = min(head_widths(hf_config)) >= 16 and not getattr(hf_config, "attention_dropout", 0)
    return "flex" if device_type == "cuda" and fits and twin._supports_flex_attn else plain_attention(twin)


def plain_attention(model: Any) -> Literal["sdpa", "eager"]:
    """The kernel that runs on any device: sdpa, or eager for a model without it (Gemma 2 caps attention scores)."""
    return "sdpa" if model._supports_sdpa else "eager"


@contextmanager
def plain_kernel(model: Any) -> Iterator[None]:
    """Within it the model's attention runs by `plain_attention`; afterwards by the kernel that it had before."""
    kernel = model.config._attn_implementation
    model.set_attn_implementation(plain_attention(model))
    try:
        yield
    finally:
        model.set_attn_implementation(kernel)


def num_parameters(model: nn.Module, *, trained: bool = False) -> int:
    """Returns the number of (trained) parameters, also of a partitioned model; shared parameters count once."""
    parameters = (parameter for parameter in model.parameters() if parameter.requires_grad or not trained)
    return sum(map(full_size, parameters))


def count_parameters(hf_config: Any, lora: LoraConfig | None = None, ids: Sequence[int] = ()) -> ParameterCounts:
    """Counts the parameters of a config without building the model.

    Args:
        hf_config: The model's config.
        lora: How it is trained.
        ids: From ``lora.special_rows``.
    """
    twin = meta_model(hf_config)
    embedding, head = twin.get_input_embeddings(), twin.get_output_embeddings()
    tied = embedding.weight is head.weight
    counts = ParameterCounts(
        total := num_parameters(twin), 0 if tied else embedding.weight.numel(), num_parameters(head), total
    )
    if lora is None or not lora.rank:
        return counts
    add_lora(twin, lora, ids=ids, seed=0)
    return counts._replace(trained=num_parameters(twin, trained=True))


def training_flops(
    hf_config: Any, counts: ParameterCounts, *, tokens: int, labels: int, visible: int, frozen: bool = False
) -> int | None:
    """Estimates the floating-point operations of forward and backward, without recomputation.

    Args:
        hf_config: The model's config.
        counts: Its :func:`count_parameters`.
        tokens: Tokens that pass the blocks.
        labels: Positions at which the head runs.
        visible: Pairs (token, token it sees), summed over all tokens.
        frozen: The weights need no gradient (LoRA, whose own products are left out).

    Returns:
        The estimate, or None for a mixture of experts, where a token passes only some of the parameters, and for
        layers that differ in size.
    """
    if any(getattr(hf_config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        return None
    heads = layer_values(hf_config, "num_attention_heads")
    if not heads or len({*heads}) > 1 or len({*head_widths(hf_config)}) > 1:
        return None
    width = heads[0] * head_widths(hf_config)[0]
    products = (counts.total - counts.embedding - counts.head) * tokens + counts.head * labels
    return int((4 if frozen else 6) * products + 12 * hf_config.num_hidden_layers * width * visible)


def _nearest(name: str, known: Any) -> str:
    near = nearest(name, sorted(known))
    return f"; did you mean {near!r}?" if near else ""


def model_problems(config: ModelConfig) -> list[str]:
    """What is wrong with the section by its names alone: an unknown type, fields that the type has not, no model."""
    if config.path is not None:
        try:
            local = Path(config.path).expanduser().exists() or not _may_be_hub_name(config.path)
            problem = _path_problem(config) if local else None  # the hub is not asked before the run starts
        except OSError as error:  # such as a name that is too long
            problem = f"cannot be read ({error.strerror})"
        return [f"model.path: {config.path}: {problem}"] if problem else []
    try:
        config_class = _config_class(config)
    except DiptychError as error:
        return [str(error)]
    problems = []
    for name, value in config.fields.items():
        try:
            _checked_fields(config.model_copy(update={"fields": {name: value}}), config_class)
        except DiptychError as error:
            problems.append(str(error))
    return problems


def _config_class(config: ModelConfig) -> Any:
    known_types = {name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name in CONFIG_MAPPING}
    if config.type not in known_types:
        why = "has no causal language model" if config.type in CONFIG_MAPPING else "is no Hugging Face model type"
        raise DiptychError(f"model.type: {config.type!r} {why} in transformers{_nearest(config.type, known_types)}")
    config_class = CONFIG_MAPPING[config.type]
    return config_class


def _checked_fields(config: ModelConfig, config_class: Any) -> dict[str, Any]:
    """Returns the given fields under the config class's own names; transformers itself accepts any name silently."""
    own = {field.name for field in dataclass_fields(config_class)}
    known = own | set(config_class.attribute_map) | (set(_ROPE_KEYWORDS) if "rope_parameters" in own else set())
    result: dict[str, Any] = {}
    for name, value in config.fields.items():
        place = f"model.fields.{name}"
        canonical = config_class.attribute_map.get(name, name)
        for reserved, reason in _NOT_OURS_TO_TAKE.items():
            if name == reserved or canonical == config_class.attribute_map.get(reserved, reserved):
                raise DiptychError(f"{place}: cannot be set here, {reason}. Remove it")
        if name not in known:
            nearest = _nearest(name, known - set(_NOT_OURS_TO_TAKE))
            raise DiptychError(f"{place}: the {config.type!r} config has no such field{nearest}")
        if canonical in result:
            raise DiptychError(f"{place}: given twice, {canonical!r} is the same field. Keep one")
        result[canonical] = value
    return result

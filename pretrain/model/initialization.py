"""First values of a model's parameters: the same bits on any number of ranks and at any ZeRO stage.

The values are the ones transformers' own ``_init_weights`` gives, module by module, but computed on a *twin* of the
model that lives on the meta device: one module's parameters at a time become real float32 tensors on the CPU, are
initialised under a seed made from (run seed, module name), and are copied into the model. So the values know nothing
about partitioning, and no rank ever holds more than one module (GPT-2 style rescaling: one block) beside its shard.
"""

import copy
import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_tie_weights
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from pretrain.runtime.errors import DiptychError
from pretrain.runtime.zero import is_partitioned


@dataclass(frozen=True)
class _Step:
    """One call of ``_init_weights``: what it is given and which parameters and buffers it writes.

    A module's initialisation may write deeper than its own parameters (GPT-2's attention rescales ``c_proj.weight``,
    after ``c_proj`` itself was initialised); ``final`` lists the names that no later step writes again.
    """

    name: str
    module: nn.Module
    init: Callable[[nn.Module], None]
    writes: tuple[str, ...]
    final: frozenset[str]


def refuse_second_zero3() -> None:
    """Refuses a living ``HfDeepSpeedConfig``, with which every ``from_config`` partitions by itself."""
    if is_deepspeed_zero3_enabled():
        raise DiptychError("an HfDeepSpeedConfig is alive, so transformers would partition models by itself. Drop it")


def has_own_code(hf_config: Any) -> bool:
    """True if the config's class is Python code that a model brought along; it was then loaded with permission."""
    module: str = type(hf_config).__module__
    return module.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}.")


def causal_lm(hf_config: Any, **settings: Any) -> Any:
    """Builds the causal LM of a config, by the model's own code where the config's class is such code.

    Args:
        hf_config: Config of the model; it is not changed.
        settings: Of ``AutoModelForCausalLM.from_config``.
    """
    # deepcopy: from_config writes the dtype and the attention implementation into the config it is given.
    return AutoModelForCausalLM.from_config(
        copy.deepcopy(hf_config), trust_remote_code=has_own_code(hf_config), **settings
    )


def meta_model(hf_config: Any, *, tied: bool = True) -> Any:
    """Builds the causal LM of a Hugging Face config on the meta device: all names and shapes, no memory.

    Args:
        hf_config: Config of the model; it is not changed.
        tied: False leaves parameters apart that the config ties, as they are while transformers initialises them.
    """
    refuse_second_zero3()
    with ExitStack() as stack:
        stack.enter_context(torch.device("meta"))
        if not tied:
            stack.enter_context(no_tie_weights())
        return causal_lm(hf_config)


def module_seed(seed: int, name: str) -> int:
    """Returns the generator seed of the module ``name``; the same in every process and Python version.

    32 bits, because torch's CPU generator (2.13) drops all higher bits of a seed.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:4], "little")


def initialize(model: Any, *, seed: int, every: bool = True) -> None:
    """Gives every parameter of ``model`` its first value, and every buffer that transformers recomputes.

    Collective on all ranks if the model is partitioned (ZeRO-3): rank 0 computes, one gather per module distributes.
    Otherwise every rank computes the same values on its own.

    Args:
        model: Whole or partitioned.
        seed: Of the run.
        every: Refuse a model of which some parameter gets no first value.

    Raises:
        DiptychError: On all ranks, if transformers leaves a parameter uninitialised, gives it values that are not
            finite, or gives the embedding another scale than the config asks for.
    """
    import deepspeed  # here: importing it starts its accelerator detection

    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    # The side of a tie that transformers overwrites ("lm_head.weight") has no first value of its own.
    followers = {name for name in model.all_tied_weights_keys if name in parameters}
    partitioned = is_partitioned(parameters.values())
    computes = not partitioned or deepspeed.comm.get_rank() == 0

    twin = meta_model(model.config, tied=False)
    types = _buffer_types(model)
    problems: list[str] = []
    written: set[int] = set()
    unfinished: dict[str, Tensor] = {}
    for step in _plan(twin):
        values: dict[str, Tensor] = {}
        if computes or any(name in buffers for name in step.writes):
            try:
                values = _run(step, twin, unfinished, seed)
            except Exception as error:  # rank 0 alone must not leave the loop: the others wait in the gather below
                problems.append(f"{step.name or 'the model'}: {type(error).__name__}: {error}")
        for name in step.final & buffers.keys() & values.keys():
            buffers[name].data = values[name].to(buffers[name].device, types[name])
        targets = [name for name in step.writes if name in step.final and name in parameters and name not in followers]
        written.update(id(parameters[name]) for name in targets)
        with deepspeed.zero.GatheredParameters([parameters[name] for name in targets], modifier_rank=0):
            for name in targets if computes and values else ():
                parameters[name].data.copy_(values[name])
                problems.extend(_value_problems(name, values[name]))

    problems.extend(
        f"{name}: transformers' _init_weights gives it no value"
        for name, parameter in model.named_parameters()
        if every and id(parameter) not in written
    )
    embedding = model.get_input_embeddings()
    with deepspeed.zero.GatheredParameters([embedding.weight]):  # again: as the model keeps it
        if computes:
            problems.extend(_scale_problems(embedding, model.config))
    if partitioned and dist.get_world_size() > 1:
        dist.broadcast_object_list(box := [problems], src=0)
        problems = box[0]
    if problems:
        shown = "; ".join(" ".join(problem.split()) for problem in problems[:3])
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise DiptychError(
            f"model.type: {model.config.model_type!r} cannot be initialised from scratch: {shown}{more}. Choose another"
            " model type, or report it with the version of transformers"
        )


def _buffer_types(model: Any) -> dict[str, torch.dtype]:
    """The type that ``from_pretrained`` gives each buffer: some stay in float32 in a bfloat16 model.

    The model's own buffers do not say: ``zero.Init`` makes all tensors of a bfloat16 run in bfloat16, frequencies of
    rotary embeddings too. And ``from_config`` of transformers 5.23 keeps nothing in float32 that is only loaded so.
    """
    kept = tuple(model._keep_in_fp32_modules_strict or ())
    with torch.device("meta"):
        plain = causal_lm(model.config, dtype=model.get_input_embeddings().weight.dtype)
    return {
        name: torch.float32 if buffer.is_floating_point() and any(part in name for part in kept) else buffer.dtype
        for name, buffer in plain.named_buffers(remove_duplicate=False)
    }


def _modules(module: nn.Module, owner: Any, name: str = "") -> Iterator[tuple[str, nn.Module, Any]]:
    """Yields (name, module, the sub-model whose ``_init_weights`` is in charge), children before their parent.

    The order and the choice of the sub-model are those of ``PreTrainedModel.initialize_weights`` (transformers 5.23).
    """
    for child_name, child in module.named_children():
        child_owner = child if isinstance(child, PreTrainedModel) else owner
        yield from _modules(child, child_owner, f"{name}.{child_name}" if name else child_name)
    yield name, module, owner


def _plan(twin: Any) -> list[_Step]:
    """Finds out what each module's ``_init_weights`` writes, by running it on the meta device.

    Every in-place operation on a tensor, or on a view of it, raises the tensor's version counter.
    """
    found: list[tuple[str, nn.Module, Any, tuple[str, ...]]] = []
    last_writer: dict[str, int] = {}
    seen: set[int] = set()
    for module_name, module, owner in _modules(twin, twin):
        if id(module) in seen:
            continue
        seen.add(id(module))
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        before = {name: tensor._version for name, tensor in tensors.items()}
        with torch.no_grad():
            owner._init_weights(module)
        prefix = f"{module_name}." if module_name else ""
        writes = tuple(prefix + name for name, tensor in tensors.items() if tensor._version != before[name])
        last_writer.update(dict.fromkeys(writes, len(found)))
        found.append((module_name, module, owner, writes))
    return [
        _Step(name, module, owner._init_weights, writes, frozenset(w for w in writes if last_writer[w] == index))
        for index, (name, module, owner, writes) in enumerate(found)
        if writes
    ]


def _run(step: _Step, twin: Any, unfinished: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Runs one step on real tensors and returns its final values; the others wait in ``unfinished``.

    Parameters are float32 and start as NaN, so whatever the step leaves out shows; buffers have the twin's dtype.
    """
    slots: dict[str, tuple[dict[str, Any], str, Tensor]] = {}
    for name in step.writes:
        owner_name, _, leaf = name.rpartition(".")
        owner = twin.get_submodule(owner_name)
        table = owner._parameters if leaf in owner._parameters else owner._buffers
        slots[name] = (table, leaf, table[leaf])
    try:
        for name, (table, leaf, meta) in slots.items():
            value = unfinished.pop(name, None)
            is_parameter = isinstance(meta, nn.Parameter)
            if value is None:
                value = torch.empty(meta.shape, dtype=torch.float32 if is_parameter else meta.dtype)
                value.fill_(math.nan if value.is_floating_point() else 0)
            table[leaf] = nn.Parameter(value, requires_grad=False) if is_parameter else value
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(module_seed(seed, step.name))
            step.init(step.module)
        values = {name: table[leaf].data for name, (table, leaf, _) in slots.items()}
    finally:
        for table, leaf, meta in slots.values():
            table[leaf] = meta
    unfinished.update({name: value for name, value in values.items() if name not in step.final})
    return {name: value for name, value in values.items() if name in step.final}


def _value_problems(name: str, value: Tensor) -> Iterator[str]:
    if not bool(torch.isfinite(value).all()):
        yield f"{name}: {int((~torch.isfinite(value)).sum())} of {value.numel()} first values are not finite"


def _scale_problems(embedding: Any, hf_config: Any) -> Iterator[str]:
    """Compares the embedding as it lies in the model with the scale that the config promises.

    transformers draws it from N(0, initializer_range) in every causal LM of 5.23 that has the field; torch's own
    N(0, 1) is what is left where transformers skips its initialisation (5.x under ``zero.Init``).
    """
    expected = getattr(hf_config, "embedding_initializer_range", getattr(hf_config, "initializer_range", None))
    if not expected:
        return
    rows = embedding.weight.detach().float()
    if embedding.padding_idx is not None:  # this row is zero
        rows = rows[torch.arange(len(rows), device=rows.device) != embedding.padding_idx]
    std = float(rows.std())
    tolerance = 0.02 + 5 / math.sqrt(2 * rows.numel())  # 2 % and five standard errors of the estimate
    if not abs(std / expected - 1) <= tolerance:
        yield f"embedding: standard deviation {std:.4g}, but the config asks for {expected:.4g}"

"""Model, optimizer and DeepSpeed engine of a run."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import deepspeed
import torch
from deepspeed.utils import set_z3_leaf_module
from torch import Tensor, nn

from pretrain.config.sections import Config, OptimizerConfig
from pretrain.data.branches import Branches
from pretrain.data.corpus import Corpus
from pretrain.data.schedule import Schedule
from pretrain.data.tokenizer import Tokenizer
from pretrain.engine.config import deepspeed_config
from pretrain.engine.gradients import refused_after_muon
from pretrain.engine.learning_rate import learning_rate_factor
from pretrain.engine.state import start_state
from pretrain.model.blocks import blocks, compile_blocks, compile_problem, recompute_blocks, shape
from pretrain.model.build import build_model, choose_attention, hf_config
from pretrain.model.canary import check_base
from pretrain.model.existing_weights import load_existing
from pretrain.model.initialization import meta_model
from pretrain.model.lora import add_lora
from pretrain.model.network import BranchNetwork, check_attention, check_compiler
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.zero import full_shape


def model_config(config: Config, tokenizer: Tokenizer, longest_position: int) -> Any:
    """The Hugging Face config of the run's model."""
    return hf_config(
        config.model,
        vocab_size=tokenizer.vocab_size,
        bos=tokenizer.bos,
        eos=tokenizer.eos,
        pad=tokenizer.pad,
        positions=longest_position,
    )


def longest_position(config: Config, corpus: Corpus, branches: Branches) -> int:
    """Position ids that any example of the corpus needs, what stands around its views included."""
    return corpus.longest_pair + 2 + config.objective.predictors + len(branches.lead) + len(branches.join)


def compute_dtype(config: Config, device: torch.device) -> torch.dtype:
    """Resolves ``train.precision``."""
    if config.train.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.train.precision]


def build_engine(config: Config, model_config: Any, schedule: Schedule, ranks: Ranks, rows: Sequence[int] = ()) -> Any:
    """The DeepSpeed engine around a :class:`BranchNetwork`, built and initialised. Collective.

    Args:
        config: The run's.
        model_config: From :func:`model_config`.
        schedule: The rank's.
        ranks: All of them.
        rows: Tokens whose rows LoRA trains.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    dtype = compute_dtype(config, ranks.device)
    attention = choose_attention(config.model, model_config, ranks.device.type)
    check_attention(attention, ranks.device)
    settings = deepspeed_config(
        config,
        micro_batch_rows=schedule.micro_batch_rows,
        accumulation=schedule.accumulation,
        world_size=ranks.world_size,
        bfloat16=dtype == torch.bfloat16,
        shape=shape(meta_model(model_config)),
    )
    fused = ranks.device.type == "cuda" and not config.deepspeed.offload_optimizer
    zero3 = settings if config.deepspeed.zero_stage == 3 else None
    lm = build_model(
        model_config,
        seed=config.run.seed,
        zero3_config=zero3,
        dtype=dtype,
        attention=attention,
        loaded=config.model.path is not None,
    )
    base = None
    if config.model.path is not None:
        base = load_existing(lm, config.model.path, trust_remote_code=config.model.trust_remote_code)
    if config.model.lora.rank:
        add_lora(lm, config.model.lora, ids=rows, seed=config.run.seed)
    if config.model.activation_checkpointing:
        recompute_blocks(lm, int(config.model.activation_checkpointing))
    network = BranchNetwork(lm, config.train.loss_chunk_tokens)
    if zero3 is None:
        network.to(ranks.device)
    elif not config.model.lora.rank:  # whose first block may take no gradient of its input, on which a leaf waits
        gather_by_block(lm)
    optimizer = make_optimizer(network, config.optimizer, fused=fused)
    engine, *_ = deepspeed.initialize(model=network, optimizer=optimizer, config=settings, dist_init_required=False)
    start_state(engine)
    if compile_problem(config.model.compile, lm, ranks.device) is None:
        compile_blocks(lm)
    if base is not None:
        check_base(engine, base, str(dtype).removeprefix("torch."), ranks.device)
    return engine


def gather_by_block(lm: nn.Module) -> None:
    """Lets ZeRO-3 gather, release and reduce whole blocks: its hooks run at their boundaries only, not in each layer.

    Must be called before ``deepspeed.initialize``.
    """
    for block in blocks(lm):
        set_z3_leaf_module(block, True)


def make_optimizer(network: nn.Module, config: OptimizerConfig, *, fused: bool = False) -> torch.optim.Optimizer:
    """AdamW (or Muon for the hidden matrices); weight decay on matrices only.

    Every parameter that is not frozen is in exactly one group: a predictor left out of all groups stays at its first
    value without any error (it happened to others).
    """
    embeddings = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    head = network.lm.get_output_embeddings()  # type: ignore[operator, union-attr]
    embeddings |= {id(parameter) for parameter in head.parameters()}
    matrices: list[Tensor] = []
    hidden: list[Tensor] = []
    vectors: list[Tensor] = []
    for parameter in network.parameters():
        if not parameter.requires_grad:
            continue
        if len(full_shape(parameter)) < 2:
            vectors.append(parameter)
        elif config.name == "muon" and id(parameter) not in embeddings:
            hidden.append(parameter)
        else:
            matrices.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": config.weight_decay, "lr": config.lr},
        {"params": vectors, "weight_decay": 0.0, "lr": config.lr},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)
    return _muon(hidden, groups, config)


def _muon(hidden: list[Tensor], others: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """DeepSpeed's Muon for the hidden matrices, torch's AdamW for the rest; arXiv 2502.16982."""
    check_compiler("optimizer.name", "muon", "set optimizer.name=adamw")
    # Importing it compiles kernels, so only where it is asked for.
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    for group in others:
        group |= {"use_muon": False, "betas": config.betas, "eps": config.eps}
    muon = {
        "params": hidden,
        "use_muon": True,
        "lr": config.muon_lr,
        "momentum": 0.95,
        "weight_decay": config.weight_decay,
    }
    for group in (muon, *others):
        for parameter in group["params"]:  # type: ignore[attr-defined]
            parameter.use_muon = group["use_muon"]
    optimizer: torch.optim.Optimizer = MuonWithAuxAdam([muon, *others], adam_optimizer=torch.optim.AdamW)
    return optimizer


def step_engine(engine: Any) -> float | None:
    """Takes the optimizer step after the last backward of a step, else only counts; returns the gradient norm then.

    The norm is that of the whole gradient before clipping. If it is not finite, no weight and no optimizer state was
    changed; :func:`pretrain.engine.gradients.discard_gradients` makes the engine ready for the next step. Collective.
    """
    if not engine.is_gradient_accumulation_boundary():
        engine.step()
        return None
    norm = None
    if isinstance(engine.optimizer, torch.optim.Optimizer):
        # Stage 0 in float32 has no ZeRO optimizer: DeepSpeed 0.19.8 reports no norm and would apply a NaN.
        gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            return norm
    elif refused_after_muon(engine):
        return math.nan
    engine.step()
    return float(engine.get_global_grad_norm()) if norm is None else norm


def set_learning_rate(engine: Any, config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Sets the learning rate of a step in every group; returns the factor."""
    factor = learning_rate_factor(config, step, num_steps)
    for group in engine.optimizer.param_groups:
        group["lr"] = factor * (config.muon_lr if group.get("use_muon") else config.lr)
    return factor

"""What the ranks of test_engine_state.py run: `engine_state.py FOLDER CASE...`, each case a setting of DeepSpeed."""

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # Muon's update is torch.compile'd: minutes of C++ for nothing

import deepspeed
import deepspeed.ops
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from pretrain.engine import state as engine_state
from pretrain.engine.state import gather_state, optimizer_step, restore_state, start_state
from pretrain.runtime.errors import DiptychError

VOCABULARY, WIDTH, GLOBAL_BATCH = 37, 10, 8
OFFLOAD = {"device": "cpu", "pin_memory": False}


def settings(case: str) -> tuple[dict[str, Any], str]:
    """`zero3-bf16-offload-muon` -> DeepSpeed config, name of the optimizer."""
    stage, *flags = case.split("-")
    zero: dict[str, Any] = {"stage": int(stage[-1])}
    if zero["stage"] == 3:
        zero |= {"stage3_param_persistence_threshold": 15}  # some stay gathered, some do not
        if "subgroups" in flags:
            zero["sub_group_size"] = 100
    if "offload" in flags:
        zero["offload_optimizer"] = OFFLOAD
    if "offloadparam" in flags:
        zero["offload_param"] = OFFLOAD
    if "muon" in flags:
        zero["reduce_scatter"] = False
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": max(1, 2 // dist.get_world_size()),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "gradient_clipping": 1.0,
        "zero_optimization": zero,
    }
    if "bf16" in flags:
        config["bf16"] = {"enabled": True}
        if "fp32grads" in flags:
            config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config, "muon" if "muon" in flags else "adamw"


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, width)
        self.down = nn.Linear(width, WIDTH, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.down(torch.nn.functional.gelu(self.up(self.norm(hidden))))


class Model(nn.Module):
    """Tied embedding; sizes that pad under stage 3, and a matrix and a vector that straddle two ranks under 1 and 2."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList([Block(31), Block(21)])
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.scale = nn.Parameter(torch.ones(1))  # under stage 3 some ranks hold nothing of it
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        logits = self.head(self.mix(hidden[:, :-1]) * self.scale).float()
        # Summed over this rank's rows, divided by the global count: the world size takes back DeepSpeed's mean.
        nll = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
        return nll / (GLOBAL_BATCH * (tokens.shape[1] - 1))


def build(case: str, seed: int) -> Any:
    torch.manual_seed(seed)
    return engine_of(Model(), *settings(case))


def engine_of(model: nn.Module, config: dict[str, Any], optimizer_name: str) -> Any:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embedding" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim == 1 or "embedding" in n]
    if optimizer_name == "muon":
        from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

        for parameter in model.parameters():
            parameter.use_muon = any(parameter is matrix for matrix in matrices)
        optimizer: Any = MuonWithAuxAdam(
            [
                {"params": matrices, "use_muon": True, "momentum": 0.9, "weight_decay": 0.1, "lr": 0.0},
                {"params": others, "use_muon": False, "betas": (0.9, 0.95), "weight_decay": 0.0, "lr": 0.0},
            ],
            adam_optimizer=torch.optim.AdamW,
        )
    else:
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]


def train(engine: Any, first: int, last: int) -> list[float]:
    losses = []
    world_size, rank = dist.get_world_size(), dist.get_rank()
    micro_batches = engine.gradient_accumulation_steps()
    for step in range(first, last):
        for group in engine.optimizer.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        rows = torch.randint(VOCABULARY, (GLOBAL_BATCH, 9), generator=torch.Generator().manual_seed(step))
        total = torch.zeros(())
        for micro in range(micro_batches):
            loss = engine(rows[rank * micro_batches + micro :: world_size * micro_batches])
            engine.backward(loss * world_size, scale_wrt_gas=False)
            total += loss.detach()
            engine.step()
        assert engine.was_step_applied()
        dist.all_reduce(total)
        losses.append(total.item())
    return losses


def whole_state(engine: Any, folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Gather, write what each rank owns, read all of it back."""
    folder.mkdir(exist_ok=True, parents=True)
    owned, names = {}, []
    for index, (name, state) in enumerate(gather_state(engine)):
        assert bool(state) == (index % dist.get_world_size() == dist.get_rank())
        names.append(name)
        owned |= {f"{name}/{key}": tensor for key, tensor in state.items()}
    assert names == [name for name, _ in engine.module.named_parameters()]
    save_file(owned, folder / f"{dist.get_rank()}.safetensors")
    dist.barrier()
    return read_state(folder)


def read_state(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    states: dict[str, dict[str, torch.Tensor]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for full_name, tensor in load_file(file).items():
            name, key = full_name.rsplit("/", 1)
            states.setdefault(name, {})[key] = tensor
    return states


def assert_same_bits(left: dict[str, dict[str, torch.Tensor]], right: dict[str, dict[str, torch.Tensor]]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].keys() == right[name].keys(), name
        for key, tensor in left[name].items():
            assert tensor.shape == right[name][key].shape, (name, key)
            same = torch.equal(tensor.view(torch.int32), right[name][key].view(torch.int32))
            assert same, (name, key, (tensor - right[name][key]).abs().max().item())


def check_continuation(case: str, folder: Path) -> None:
    """Straight six steps against three, gather, a new engine with other weights, restore, three more."""
    straight = build(case, seed=1)
    start_state(straight)
    assert optimizer_step(straight) == 0
    start = whole_state(straight, folder / "start")
    torch.manual_seed(1)
    for name, parameter in Model().named_parameters():
        first = parameter.detach().bfloat16().float() if "bf16" in case else parameter.detach()
        assert torch.equal(start[name]["weight"], first), f"{name} is not as it was built"
        assert not any(start[name][key].any() for key in start[name] if key != "weight")
    assert holders(straight) >= min(2, dist.get_world_size()), (
        "no parameter straddles the ranks: the test tests too little"
    )
    losses = train(straight, 0, 3)
    middle, step = whole_state(straight, folder / "middle"), optimizer_step(straight)
    assert step == 3
    losses += train(straight, 3, 6)
    end = whole_state(straight, folder / "end")
    for name, state in start.items():
        assert not torch.equal(state["weight"], end[name]["weight"]), f"{name} did not move"

    resumed = build(case, seed=2)
    restore_state(resumed, middle.__getitem__, step)
    assert_same_bits(whole_state(resumed, folder / "restored"), middle)
    resumed_losses = train(resumed, 3, 6)
    assert optimizer_step(resumed) == 6
    assert resumed_losses == losses[3:], (resumed_losses, losses[3:])
    assert_same_bits(whole_state(resumed, folder / "resumed"), end)

    # Restoring over a used engine, and bits that arithmetic would not keep.
    strange = {name: {key: tensor.clone() for key, tensor in state.items()} for name, state in middle.items()}
    for state in strange.values():
        for tensor in state.values():
            tensor.view(-1)[0], tensor.view(-1)[-1] = -0.0, 2.0**-130  # a subnormal number, in bf16 too
    restore_state(resumed, strange.__getitem__, step)
    assert_same_bits(whole_state(resumed, folder / "strange"), strange)

    restore_state(resumed, middle.__getitem__, step)
    assert train(resumed, 3, 6) == losses[3:]
    if dist.get_rank() == 0:
        (folder / "losses.json").write_text(json.dumps(losses))
    dist.barrier()


def holders(engine: Any) -> int:
    """The largest number of ranks that hold elements of one parameter."""
    layout = engine_state._Layout(engine)
    held = [layout.held(name, parameter).length for name, parameter in engine.module.named_parameters()]
    count = torch.tensor([int(length > 0) for length in held])
    dist.all_reduce(count)
    return int(count.max())


def check_restore_elsewhere(case: str, source: Path, folder: Path) -> None:
    """Go on, under this setting, from what another one wrote after three steps."""
    middle = read_state(source / "middle")
    engine = build(case, seed=3)
    restore_state(engine, middle.__getitem__, 3)
    assert_same_bits(whole_state(engine, folder / case), middle)
    losses, expected = train(engine, 3, 6), json.loads((source / "losses.json").read_text())[3:]
    tolerance = 2e-2 if "bf16" in case else 1e-5
    assert all(abs(a - b) < tolerance for a, b in zip(losses, expected, strict=True)), (losses, expected)


def check_errors(folder: Path) -> None:
    """One rank's failure is an error on all ranks, and no rank waits for ever."""
    engine = build("zero3", seed=1)
    start_state(engine)
    states = whole_state(engine, folder / "errors")

    def read(name: str) -> dict[str, torch.Tensor]:
        if name == "blocks.0.up.bias" and dist.get_rank() == 1:
            return {**states[name], "weight": torch.zeros(3)}
        return states[name]

    try:
        restore_state(engine, read, 0)
    except DiptychError as error:
        expected = "blocks.0.up.bias has shape (3,)" if dist.get_rank() == 1 else "another rank"
        assert expected in str(error), error
    else:
        raise AssertionError("a wrong shape was taken")
    missing = {name: {k: v for k, v in state.items() if k != "exp_avg"} for name, state in states.items()}
    try:
        restore_state(engine, missing.__getitem__, 0)
    except DiptychError as error:
        assert "holds ['exp_avg_sq', 'weight']" in str(error), error
    else:
        raise AssertionError("missing state was taken")

    engine = build("zero0", seed=1)
    engine.module.scale.requires_grad_(False)
    assert "scale" not in dict(gather_state(engine)), "a frozen parameter was taken"
    engine.module.stray = torch.nn.Parameter(torch.zeros(2))
    try:
        list(gather_state(engine))
    except DiptychError as error:
        assert "stray is in none of the optimizer's groups" in str(error), error
    else:
        raise AssertionError("a parameter that nothing trains was taken")


def main(folder: Path, *cases: str) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else 0.19.8 compiles it: minutes
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    for case in cases:
        try:
            if case == "errors":
                check_errors(folder)
            elif "<" in case:
                to, source = case.split("<")
                check_restore_elsewhere(to, folder / source, folder / "elsewhere")
            else:
                check_continuation(case, folder / case)
        except Exception as error:
            raise AssertionError(f"case {case} failed on rank {dist.get_rank()}") from error
        print(f"ok {case}", flush=True)
    dist.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
    # Not the normal exit: gloo's threads (torch 2.13) outlive even destroy_process_group, and in about one run of ten
    # the interpreter's end aborts one of them: "terminate called without an active exception", exit code -6.
    sys.stdout.flush()
    os._exit(0)

"""What a checkpoint costs training: step time lost at one save every 50 steps, synchronous against asynchronous.

    python benchmarks/checkpoint_stall.py [--folder DIR] [--out results.json]                      one rank
    torchrun --nproc-per-node 2 benchmarks/checkpoint_stall.py [--folder DIR] [--out results.json]

One engine (ZeRO-3, AdamW, random tokens) trains blocks of steps. In each repetition there is a block without a save,
one with a synchronous and one with an asynchronous save; which comes first takes turns. The save begins after a block's
first step, so that an asynchronous one is committed within its block. Shares are medians over repetitions of the ratio
within one. The disk counts: give a folder on the one that checkpoints will go to.

"share lost" compares blocks: it also holds what the writing thread takes from the cores that compute, which is much
where the model computes on the same CPU and next to nothing where it computes on a GPU. "share held" is the time for
which the training thread itself waited.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.checkpoint.checkpoints import Checkpoints, RunState
from pretrain.config.sections import CheckpointConfig, ModelConfig
from pretrain.engine.state import optimizer_step, start_state
from pretrain.model.build import build_model, hf_config
from pretrain.model.canary import canary
from pretrain.runtime.command import exit_rank, run_command
from pretrain.runtime.distributed import Ranks, start_ranks

ARMS = ("none", "synchronous", "asynchronous")


class Network(nn.Module):
    """A language model that returns its loss; checkpoints expect it under the name ``lm``."""

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, ids: Tensor) -> Tensor:
        """The mean next-token loss of ids, shape [rows, length]."""
        loss: Tensor = self.lm(ids, labels=ids, use_cache=False).loss
        return loss


def make_engine(ranks: Ranks, hidden: int, layers: int, vocabulary: int, positions: int) -> Any:
    """A ZeRO-3 engine of a random Llama."""
    import deepspeed

    sizes = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers}
    config = hf_config(
        ModelConfig(type="llama", fields={**sizes, "num_attention_heads": hidden // 64}),
        vocab_size=vocabulary,
        bos=1,
        eos=2,
        pad=0,
        positions=positions,
    )
    network = Network(build_model(config, seed=0, zero3_config=None, dtype=torch.float32, attention="sdpa").train())
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 1.0,
    }
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    engine = deepspeed.initialize(model=network, optimizer=optimizer, config=settings)[0]
    start_state(engine)
    return engine


class Trainer:
    """Trains blocks of steps, with a save in each or without."""

    def __init__(self, engine: Any, ranks: Ranks, folder: Path, rows: int, length: int, vocabulary: int) -> None:
        self.engine, self.ranks, self.folder = engine, ranks, folder
        self.draw = torch.Generator().manual_seed(ranks.rank)
        self.shape, self.vocabulary = (rows, length), vocabulary
        self.step = 0

    def train(self) -> None:
        """One step; ends once it is computed."""
        ids = torch.randint(self.vocabulary, self.shape, generator=self.draw).to(self.ranks.device)
        loss = self.engine(ids)
        self.engine.backward(loss)
        self.engine.step()
        self.step += 1
        loss.item()

    def block(self, arm: str, steps: int) -> dict[str, float]:
        """Seconds of a block, and of the save in it: while the training thread waited, and until it was committed."""
        checkpoints = Checkpoints(
            self.folder, CheckpointConfig(asynchronous=arm == "asynchronous", keep_last=1), self.ranks
        )
        self.ranks.barrier()
        started = time.perf_counter()
        committed_after = 0
        for index in range(steps):
            self.train()
            if index == 0 and arm != "none":
                checkpoints.begin(self.engine, self._state(), self._canary())
                if arm == "synchronous":
                    checkpoints.complete()
            # Any rank's word is summed with the step's other numbers in a real run.
            elif self.ranks.sum(torch.tensor([float(checkpoints.written)]))[0] == self.ranks.world_size:
                checkpoints.complete()
                committed_after = index
        late = checkpoints.in_flight
        checkpoints.complete()
        seconds = time.perf_counter() - started
        found = {"block": seconds, "held": checkpoints.stall_seconds, "save": checkpoints.save_seconds}
        return found | {"steps until commit": steps if late else committed_after}

    def _state(self) -> RunState:
        return RunState(self.step, 0, 0, optimizer_step(self.engine), {}, "", {}, "float32")

    def _canary(self) -> dict[str, Tensor]:
        return canary(self.engine, range(10, 42), self.ranks.device)


def summarize(found: dict[str, list[dict[str, float]]], steps: int) -> dict[str, Any]:
    """Medians over repetitions of each arm."""

    def median(arm: str, name: str, digits: int = 3) -> float:
        return round(statistics.median(entry[name] for entry in found[arm]), digits)

    base = [entry["block"] for entry in found["none"]]
    result: dict[str, Any] = {"seconds a step, no save": round(statistics.median(base) / steps, 4)}
    for arm in ARMS[1:]:
        lost = [entry["block"] / alone - 1 for entry, alone in zip(found[arm], base, strict=True)]
        held = [entry["held"] / alone for entry, alone in zip(found[arm], base, strict=True)]
        result[arm] = {
            "share held": round(statistics.median(held), 4),
            "share lost": round(statistics.median(lost), 4),
            "share lost, least and most": [round(min(lost), 4), round(max(lost), 4)],
            "seconds held": median(arm, "held"),
            "seconds until committed": median(arm, "save"),
            "steps until committed": median(arm, "steps until commit", 0),
        }
    return result


def main(argv: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--hidden", type=int, default=512)
    add("--layers", type=int, default=8)
    add("--vocabulary", type=int, default=8192)
    add("--rows", type=int, default=1, help="rows of a step on each rank")
    add("--length", type=int, default=128, help="tokens of a row")
    add("--steps", type=int, default=50, help="steps of a block, and so between two saves")
    add("--repetitions", type=int, default=5)
    add(
        "--folder",
        type=Path,
        help="where checkpoints go, into a folder that is removed; default: /tmp",
    )
    add("--out", type=Path)
    arguments = parser.parse_args(argv)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    ranks = start_ranks(timeout_minutes=30)
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    engine = make_engine(ranks, arguments.hidden, arguments.layers, arguments.vocabulary, arguments.length)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="checkpoint-stall-") as own:
        folder = Path(ranks.gather(own)[0])
        trainer = Trainer(engine, ranks, folder, arguments.rows, arguments.length, arguments.vocabulary)
        trainer.block("asynchronous", 3)  # warms up
        for repetition in range(arguments.repetitions):
            for number in range(len(ARMS)):
                arm = ARMS[(number + repetition) % len(ARMS)]
                found[arm].append(trainer.block(arm, arguments.steps))
                if ranks.is_main:
                    print(f"{repetition + 1} {arm}: {found[arm][-1]}", flush=True)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        ranks.barrier()
    if ranks.is_main:
        parameters = sum(getattr(one, "ds_numel", one.numel()) for one in engine.module.parameters())
        result: dict[str, Any] = {
            "cpus": os.cpu_count(),
            "device": ranks.device.type,
            "ranks": ranks.world_size,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "parameters": parameters,
            "checkpoint MB": round(size / 1e6, 1),
            "steps between saves": arguments.steps,
            "tokens a step and rank": arguments.rows * arguments.length,
            "repetitions": arguments.repetitions,
            **summarize(found, arguments.steps),
        }
        text = json.dumps(result, indent=1)
        print(text)
        if arguments.out:
            arguments.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    exit_rank(run_command(main))

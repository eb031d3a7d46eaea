"""Whole runs on real ranks: one curve for any number of ranks and ZeRO stage, exact resumption, clear failures.

As every start costs seconds, the runs of one number of ranks share a start (a fixture) and the tests only read what
they left: `metrics.jsonl`, checkpoints, and the record that `workers/training.py` keeps of each run.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from pretrain.checkpoint.checkpoints import Checkpoints, read_canary, read_weights
from pretrain.commands.export import main as export_main
from pretrain.config.loading import load_config
from pretrain.config.sections import CheckpointConfig, Config
from pretrain.data.corpus import read_corpus
from pretrain.data.tokenizer import load
from pretrain.engine.build import make_optimizer
from pretrain.model.build import build_model, hf_config
from pretrain.model.network import BranchNetwork
from pretrain.preparation.prepare import prepare
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError
from tests.support.ranks import RankResult, run_alone, run_ranks

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(900)]

WORKER = Path(__file__).parents[2] / "workers" / "training.py"
TIMEOUT = 600.0
STEPS = 20
Settings = dict[str, Any]

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
BASE: Settings = {
    "data.sources": [{"type": "reviews", "count": 600}],
    "tokenizer.vocab_size": 768,
    "model.fields": TINY,
    "packing.layout": "independent",
    "packing.row_length": 256,
    "objective.lambda": 1.0,
    "objective.distance": "cosine",
    "objective.predictors": 2,
    "objective.dropout": 0.4,
    "train.steps": STEPS,
    "train.rows_per_step": 4,
    "train.micro_batch_rows": 1,
    "optimizer.lr": 1e-3,
    "optimizer.betas": [0.9, 0.95],
    "optimizer.weight_decay": 0.1,
    "optimizer.clip": 1.0,
    "optimizer.warmup_steps": 5,
    "deepspeed.zero_stage": 3,
    "checkpoint.every": 10,
    "evaluation.every": 10,
    "evaluation.max_records": 12,
    "evaluation.prompts": 1,
    "evaluation.new_tokens": 2,
    "logging.every": 1,
    "logging.tensorboard": False,
}
STAGES = {f"stage{stage}": {"deepspeed.zero_stage": stage} for stage in range(4)}
INFONCE = {"objective.distance": "infonce", "objective.group_rows": 4}
PLAIN = {"objective.lambda": 0, "objective.dropout": 0}
GPT2 = {
    "model.type": "gpt2",
    "model.fields": {"n_embd": 32, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
}
# Small models' weights are on every rank otherwise, under ZeRO-3 as well.
GATHERED = {"deepspeed.extra": {"zero_optimization": {"stage3_param_persistence_threshold": 0}}}
OFFLOAD = {"deepspeed.offload_optimizer": True, "deepspeed.offload_parameters": True}
MUON = {"optimizer.name": "muon", "optimizer.clip": 0, "train.steps": 10}
KEEP = {"checkpoint.every": 1, "checkpoint.keep_last": 2, "checkpoint.keep_every": 4}


def arguments(settings: Settings) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


class Start:
    """Some runs in one process group; what they left in `folder`."""

    def __init__(self, folder: Path, data: Path, world_size: int) -> None:
        self.folder, self.data, self.world_size = folder, data, world_size
        self.plan: list[tuple[str, list[str], dict[str, Any]]] = []

    def add(self, name: str, settings: Settings, **options: Any) -> None:
        self.plan.append((name, arguments({**BASE, "data.folder": str(self.data), **settings}), options))

    def run(self, check: bool = True) -> list[RankResult]:
        path = self.folder / "plan.json"
        path.write_text(json.dumps(self.plan))
        # Muon's update is torch.compile'd: minutes of C++ for nothing.
        env = {"TORCHDYNAMO_DISABLE": "1"}
        return run_ranks(WORKER, self.world_size, self.folder, path, timeout=TIMEOUT, env=env, check=check)

    def record(self, name: str) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        return record

    def curve(self, name: str, first: int = 1) -> dict[int, dict[str, float]]:
        return curve(self.folder / name, first)

    def fork(self, source: Path, name: str, *, last_step: int) -> Path:
        """Copies a run as if it had been stopped right after the checkpoint of `last_step`."""
        target = self.folder / name
        shutil.copytree(source, target)
        for path in (target / "checkpoints").iterdir():
            if int(path.stem.removeprefix("step_")) > last_step:
                shutil.rmtree(path)
        shutil.rmtree(target / "export", ignore_errors=True)
        return target


def curve(run: Path, first: int = 1) -> dict[int, dict[str, float]]:
    """Training and held-out metrics by step; of a step that was run twice, the last."""
    steps: dict[int, dict[str, float]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "event" not in entry and entry["step"] >= first:
            known = {name: value for name, value in entry.items() if name.startswith(("train/", "eval/", "health/"))}
            steps.setdefault(entry["step"], {}).update(known)
    return steps


def largest_difference(one: Mapping[int, Any], other: Mapping[int, Any]) -> float:
    """Of both losses over all steps of the second curve."""
    names = [name for name in ("train/lm_loss", "train/pair_loss") if name in other[STEPS]]
    return max(abs(one[step][name] - other[step][name]) for step in other if step for name in names)


def manifest(run: Path, step: int = STEPS) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "checkpoints" / f"step_{step:08d}" / "manifest.json").read_text())
    return content


def same_state(one: Path, other: Path, step: int = STEPS) -> bool:
    """Whether two runs' checkpoints of a step agree bit for bit: weights, optimizer state, logits, counters."""
    first, second = manifest(one, step), manifest(other, step)
    counters = ("step", "label_tokens", "tokens", "optimizer_step")
    return first["files"] == second["files"] and all(first["state"][name] == second["state"][name] for name in counters)


# --------------------------------------------------------------------------------------------------------------- starts


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Start]:
    data = tmp_path_factory.mktemp("data")
    return lambda name, world_size: Start(tmp_path_factory.mktemp(name), data, world_size)


@pytest.fixture(scope="module")
def two(start: Callable[[str, int], Start]) -> Start:
    """Most settings on two ranks; the last run is killed with SIGKILL while it trains, after its checkpoint."""
    two = start("two", 2)
    for name, settings in STAGES.items():
        two.add(name, settings, whole=name == "stage3", movement=name == "stage3")
    two.add("infonce", INFONCE | {"train.micro_batch_rows": 2})
    two.add("plain", PLAIN)
    two.add(
        "plain, other objective",
        {"objective.lambda": 0, "objective.dropout": 0.5, "objective.distance": "infonce", "objective.predictors": 3}
        | {"objective.stop_gradient": True, "objective.pooling": "mean", "objective.direction": "reverse"},
    )
    two.add("gpt2", GPT2)
    two.add("bfloat16", {"train.precision": "bfloat16"})
    two.add("recomputed", {"model.activation_checkpointing": True})
    two.add("recomputed by halves", {"model.activation_checkpointing": 2})
    two.add("chunks", {"train.loss_chunk_tokens": 16})
    two.add("gathered", GATHERED)
    two.add("gathered and recomputed", GATHERED | {"model.activation_checkpointing": True})
    two.add("offload", OFFLOAD)
    two.add("muon", MUON | KEEP)
    two.add("killed", {}, whole=True, slow_from=12)
    with ThreadPoolExecutor(1) as background:
        ranks = background.submit(two.run, check=False)
        while not ranks.done() and not ((two.folder / "killed/metrics.jsonl").is_file() and 12 in two.curve("killed")):
            time.sleep(0.01)
        if not ranks.done():
            for rank in range(2):
                os.kill(int((two.folder / f"pid-{rank}").read_text()), signal.SIGKILL)
        results = ranks.result()
    assert [result.exit_code for result in results] == [-signal.SIGKILL] * 2, results[0].output[-5000:]
    assert max(two.curve("killed")) < STEPS
    return two


@pytest.fixture(scope="module")
def two_resumed(two: Start, start: Callable[[str, int], Start]) -> Start:
    """What was stopped after a checkpoint, continued on two ranks."""
    resumed = start("two_resumed", 2)
    resumed.fork(two.folder / "killed", "killed", last_step=10)
    resumed.add("killed", {}, whole=True)
    for name, settings in {"gpt2": GPT2, "bfloat16": {"train.precision": "bfloat16"}}.items():
        resumed.fork(two.folder / name, name, last_step=10)
        resumed.add(name, settings)
    resumed.fork(two.folder / "muon", "muon", last_step=8)
    resumed.add("muon", MUON)
    broken = resumed.fork(two.folder / "stage3", "broken", last_step=STEPS)
    flip_byte(next((broken / "checkpoints" / f"step_{STEPS:08d}").glob("state-00001-*")))
    resumed.add("broken", {"checkpoint.every": 5, "checkpoint.keep_last": 1}, whole=True)
    (resumed.folder / "output").write_text(resumed.run()[0].output)
    return resumed


@pytest.fixture(scope="module")
def one(two: Start, start: Callable[[str, int], Start]) -> Start:
    one = start("one", 1)
    for name, settings in STAGES.items():
        one.add(name, settings)
    one.add("infonce", INFONCE | {"train.micro_batch_rows": 4})
    one.add("published bug", {"deepspeed.zero_stage": 2}, published_bug=True)
    one.add("plain", PLAIN | {"deepspeed.zero_stage": 0, "train.micro_batch_rows": 4, "optimizer.min_lr_ratio": 1})
    one.fork(two.folder / "killed", "killed", last_step=10)
    one.add("killed", {})
    one.run()
    return one


@pytest.fixture(scope="module")
def three(two: Start, start: Callable[[str, int], Start]) -> Start:
    """Four rows a step leave places empty on three ranks."""
    three = start("three", 3)
    three.add("stage3", {})
    three.add("stage0", {"deepspeed.zero_stage": 0})
    three.add("infonce", INFONCE | {"train.micro_batch_rows": 2})
    three.fork(two.folder / "killed", "killed", last_step=10)
    three.add("killed", {})
    three.run()
    return three


@pytest.fixture(scope="module")
def four(start: Callable[[str, int], Start]) -> Start:
    four = start("four", 4)
    for name, settings in STAGES.items():
        four.add(name, settings)
    four.add("infonce", INFONCE)
    four.run()
    return four


# ------------------------------------------------------------------------------------------- one curve for all settings


def test_ranks_accumulation_and_stage_do_not_change_the_curve(one: Start, two: Start, four: Start) -> None:
    reference, first_weights = one.curve("stage0"), one.record("stage0")["weights"]
    assert reference[STEPS]["train/lm_loss"] < reference[1]["train/lm_loss"] - 0.1
    differences = {}
    for start in (one, two, four):
        for stage in STAGES:
            assert start.record(stage)["weights"] == first_weights, (start.world_size, stage)
            assert start.record(stage)["rows"] == one.record("stage0")["rows"]
            differences[start.world_size, stage] = largest_difference(start.curve(stage), reference)
    print(differences)
    assert max(differences.values()) <= 1e-5, differences


def test_that_comparison_catches_pair_gradients_that_grow_with_accumulation(one: Start) -> None:
    difference = largest_difference(one.curve("published bug"), one.curve("stage0"))
    print(difference)
    assert difference > 1e-3


def test_infonce_groups_span_ranks(one: Start, two: Start, three: Start, four: Start) -> None:
    reference = one.curve("infonce")
    assert reference[1]["train/pair_loss"] > 0.1  # pairs that are alone in their group would have 0
    differences = {
        start.world_size: largest_difference(start.curve("infonce"), reference) for start in (two, three, four)
    }
    print(differences)
    assert max(differences.values()) <= 1e-5, differences


def test_rows_that_do_not_divide_among_ranks_give_the_same_curve(one: Start, three: Start) -> None:
    for stage in ("stage0", "stage3"):
        assert three.record(stage)["rows"] == one.record("stage0")["rows"]
        assert largest_difference(three.curve(stage), one.curve("stage0")) <= 1e-5


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("recomputed", 1e-6),
        ("recomputed by halves", 1e-6),
        ("chunks", 1e-5),
        ("gathered", 1e-6),
        ("gathered and recomputed", 1e-6),
        ("offload", 1e-5),
        ("bfloat16", 5e-2),
    ],
)
def test_ways_to_save_memory_do_not_change_the_curve(two: Start, name: str, tolerance: float) -> None:
    difference = largest_difference(two.curve(name), two.curve("stage3"))
    print(name, difference)
    assert difference <= tolerance


def test_activation_checkpointing_recomputes_blocks(two: Start) -> None:
    assert two.record("stage3")["block_calls"] == 1
    assert two.record("recomputed")["block_calls"] == 2


def test_muon_trains(two: Start) -> None:
    losses = [entry["train/lm_loss"] for entry in two.curve("muon").values()]
    assert len(losses) == 10
    assert losses[-1] < losses[0] - 0.05


# --------------------------------------------------------------------------------------- lambda = 0 is a language model


def test_lambda_0_ignores_the_rest_of_the_objective_bit_for_bit(two: Start) -> None:
    assert same_state(two.folder / "plain", two.folder / "plain, other objective")
    assert two.curve("plain") == two.curve("plain, other objective")
    assert "train/pair_loss" not in two.curve("plain")[STEPS]
    assert not same_state(two.folder / "plain", two.folder / "stage3")


@pytest.mark.parametrize("packed", [True, False])
def test_lambda_0_is_an_independent_training_loop(one: Start, packed: bool) -> None:
    """Packed alike, the arithmetic is the same and so is every bit; one document a row, sums run in another order."""
    config = tiny_config(one.data)
    ours = [entry["train/lm_loss"] for entry in one.curve("plain").values()]
    rows = [[tuple(row[2:]) for row in step] for step in one.record("plain")["rows"].values()]
    theirs, model = plain_training(config, rows, packed)
    print(packed, max(abs(our - their) for our, their in zip(ours, theirs, strict=True)))
    assert ours == pytest.approx(theirs, rel=0, abs=0 if packed else 1e-5)
    weights = read_weights(one.folder / "plain/checkpoints" / f"step_{STEPS:08d}")
    if packed:
        assert all(torch.equal(weights[name], weight) for name, weight in model.named_parameters())


def tiny_config(data: Path, **settings: Any) -> Config:
    return load_config(None, arguments({**BASE, "data.folder": str(data), **settings}))


def plain_training(config: Config, steps: list[list[tuple[int, ...]]], packed: bool) -> tuple[list[float], Any]:
    """Trains as a textbook does, on the same records in the same order; returns the loss of each step, and the model.

    Packed, the documents of a row share it behind a block-diagonal mask; else each has a row and the usual causal mask.
    """
    torch.set_num_threads(1)  # as each rank has
    corpus = read_corpus(prepare(config, quiet=True))
    tokenizer = load(str(corpus.folder / "tokenizer"), config.tokenizer)
    model = plain_model(config, tokenizer).train()
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    losses = []
    for number, rows in enumerate(steps):
        documents = [[view.tokens for example in row for view in corpus.train.views(example)] for row in rows]
        if not packed:
            documents = [[document] for row in documents for document in row]
        length = (
            config.packing.row_length if packed else 1 + max(len(document) for row in documents for document in row)
        )
        ids = torch.full((len(documents), length), tokenizer.pad)
        labels = torch.full_like(ids, -100)
        owner = torch.full_like(ids, -1)
        positions = torch.zeros_like(ids)
        for row, texts in enumerate(documents):
            used = 0
            for text, tokens in enumerate(texts):
                here = slice(used, used + 1 + len(tokens))
                ids[row, here] = torch.tensor([tokenizer.bos, *tokens])
                labels[row, here] = torch.tensor([*tokens, tokenizer.eos])
                owner[row, here] = text
                positions[row, here] = torch.arange(1 + len(tokens))
                used = here.stop
        inputs: dict[str, Any] = {"input_ids": ids}
        if packed:
            mask = (owner[:, :, None] == owner[:, None, :]).tril()[:, None]
            inputs |= {"attention_mask": mask, "position_ids": positions}
        states = model.model(**inputs, use_cache=False).last_hidden_state
        logits = model.lm_head(states[labels != -100])
        total = functional.cross_entropy(logits, labels[labels != -100], reduction="sum")
        (total / len(logits)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (number + 1) / 5)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item() / len(logits))
    return losses, model


def plain_model(config: Config, tokenizer: Any) -> Any:
    ids = {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad}
    sizes = hf_config(config.model, vocab_size=tokenizer.vocab_size, **ids, positions=512)
    return build_model(sizes, seed=config.run.seed, zero3_config=None, dtype=torch.float32, attention="sdpa")


# ---------------------------------------------------------------------------------------------------- what is optimized


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_is_in_exactly_one_group(two: Start, optimizer: str) -> None:
    config = tiny_config(two.data, **{"optimizer.name": optimizer, "optimizer.clip": 0})
    corpus = read_corpus(prepare(config, quiet=True))
    network = BranchNetwork(plain_model(config, load(str(corpus.folder / "tokenizer"), config.tokenizer)))
    groups = make_optimizer(network, config.optimizer).param_groups
    assert sorted(id(parameter) for group in groups for parameter in group["params"]) == sorted(
        id(parameter) for parameter in network.parameters()
    )


def test_every_parameter_moves_in_the_first_step(two: Start) -> None:
    moved, weights = two.record("stage3")["moved"], two.record("stage3")["weights"]
    assert moved.keys() == weights.keys()
    assert [name for name, rows in moved.items() if not any(rows)] == []
    embedding = moved["lm.model.embed_tokens.weight"]
    assert [embedding[row] for row in two.record("stage3")["predictors"]] == [
        True,
        True,
        False,
        False,
    ]  # two are in use


# ----------------------------------------------------------------------------------------------------------- resumption


def test_a_run_killed_by_sigkill_resumes_bit_for_bit(two: Start, two_resumed: Start) -> None:
    assert two_resumed.record("killed")["first"] == 10
    assert same_state(two.folder / "stage3", two_resumed.folder / "killed")
    assert two_resumed.curve("killed", 11) == two.curve("stage3", 11)
    assert two_resumed.curve("killed", 11).keys() == set(range(11, STEPS + 1))
    assert rows_from(two_resumed.record("killed"), 11) == rows_from(two.record("stage3"), 11)


@pytest.mark.parametrize(("name", "first"), [("gpt2", 10), ("bfloat16", 10), ("muon", 8)])
def test_other_models_and_optimizers_resume_bit_for_bit(two: Start, two_resumed: Start, name: str, first: int) -> None:
    """Among them GPT-2 with dropout in the model."""
    last = max(two.curve(name))
    assert two_resumed.record(name)["first"] == first
    assert same_state(two.folder / name, two_resumed.folder / name, last)
    assert two_resumed.curve(name, first + 1) == two.curve(name, first + 1)


def test_two_ranks_resume_as_one_and_as_three(two: Start, one: Start, three: Start) -> None:
    for start in (one, three):
        assert start.record("killed")["first"] == 10
        assert rows_from(start.record("killed"), 1) == rows_from(two.record("stage3"), 11)
        difference = largest_difference(start.curve("killed", 11), two.curve("stage3", 11))
        print(start.world_size, difference)
        assert difference <= 1e-5


def rows_from(record: dict[str, Any], first: int) -> dict[str, Any]:
    return {step: rows for step, rows in record["rows"].items() if int(step) >= first}


# ---------------------------------------------------------------------------------------------------------- checkpoints


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(checkpoint: Path) -> None:
    path = checkpoint / "state-00000-000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


BREAKAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (truncate, "state-00000-000.safetensors has "),
    "flipped byte": (lambda path: flip_byte(path / "state-00001-000.safetensors"), "does not match its checksum"),
    "file missing": (
        lambda path: (path / "state-00001-000.safetensors").unlink(),
        "state-00001-000.safetensors is missing",
    ),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "manifest.json cannot be read"),
    "cut manifest": (lambda path: (path / "manifest.json").write_text('{"format"'), "manifest.json cannot be read"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_checkpoint_is_named_and_skipped(two: Start, tmp_path: Path, breakage: str) -> None:
    folder = Path(shutil.copytree(two.folder / "stage3/checkpoints", tmp_path / "checkpoints"))
    broken, older = folder / f"step_{STEPS:08d}", folder / "step_00000010"
    (folder / "step_00000030.tmp").mkdir()
    damage, message = BREAKAGES[breakage]
    checkpoints = Checkpoints(folder, CheckpointConfig(), Ranks(0, 1, torch.device("cpu")))
    assert checkpoints.newest() == (broken, [])
    damage(broken)
    path, skipped = checkpoints.newest()
    assert path == older
    assert len(skipped) == 1
    assert skipped[0].startswith(f"skipping checkpoint {broken}: ")
    assert message in skipped[0]


def test_a_run_goes_on_from_the_checkpoint_before_the_broken_one(two: Start, two_resumed: Start) -> None:
    broken = two_resumed.folder / "broken"
    said = f"skipping checkpoint {broken}/checkpoints/step_{STEPS:08d}: state-00001-000.safetensors does not match"
    assert said in (two_resumed.folder / "output").read_text()
    assert two_resumed.record("broken")["first"] == 10
    assert same_state(two.folder / "stage3", broken)


def test_a_broken_checkpoint_of_a_later_step_does_not_displace_the_one_just_written(two_resumed: Start) -> None:
    kept = two_resumed.record("broken")["checkpoints"]  # every 5 steps, only the last
    assert "step_00000015" in kept["15"]
    assert kept["20"] == ["step_00000020"]


def test_old_checkpoints_are_removed(two: Start) -> None:
    assert names(two.folder / "muon/checkpoints") == [f"step_{step:08d}" for step in (4, 8, 9, 10)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------------------------------------- failures


def failed(results: list[RankResult]) -> str:
    """The one error of a run that stopped on all ranks by itself."""
    output = "".join(result.output for result in results)
    assert [result.exit_code for result in results] == [1] * len(results), output[-5000:]
    assert "Traceback" not in output
    lines = [number for number, line in enumerate(output.splitlines()) if line.startswith("error:")]
    assert len(lines) == 1, output[-5000:]
    return "\n".join(output.splitlines()[lines[0] :])


def pretrain_on_two_ranks(settings: Settings) -> list[RankResult]:
    return run_ranks("-m pretrain", 2, *arguments(settings), timeout=TIMEOUT, check=False)


def test_a_loss_that_is_not_finite_stops_the_run_with_a_diagnosis(two: Start, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {**BASE, "data.folder": str(two.data), "run.folder": str(run), "optimizer.lr": 1e30}
    error = failed(pretrain_on_two_ranks(settings))
    (path,) = run.glob("diagnosis-step-*.json")
    diagnosis = json.loads(path.read_text())
    step = diagnosis["step"]
    assert f"step {step}: " in error
    assert "not finite on " in error
    assert str(path) in error
    assert step > 1
    assert diagnosis["learning_rate"] > 1e28
    assert [report["rank"] for report in diagnosis["ranks"]] == [0, 1]
    assert all(place.startswith("reviews:") for report in diagnosis["ranks"] for place in report["records"])
    assert all(report["records"] and report["rows"] for report in diagnosis["ranks"])
    assert not list((run / "checkpoints").iterdir())


def test_a_full_disk_on_one_rank_stops_all_and_spares_the_checkpoint_before(
    two: Start, start: Callable[[str, int], Start]
) -> None:
    full = start("full", 2)
    full.data = two.data
    full.add("run", {}, disk_full_at=STEPS)
    error = failed(full.run(check=False))
    assert f"checkpoint of step {STEPS}: " in error
    assert "state-00001-000.safetensors: cannot be written" in error
    assert names(full.folder / "run/checkpoints") == ["step_00000010"]
    assert same_state(full.folder / "run", two.folder / "stage3", 10)


def test_a_full_disk_while_logging_stops_all_ranks(two: Start, start: Callable[[str, int], Start]) -> None:
    full = start("full-log", 2)
    full.data = two.data
    full.add("run", {"logging.every": 1}, log_full_at=3)
    error = failed(full.run(check=False))
    assert "metrics.jsonl: cannot be written (No space left on device)" in error


def test_a_run_folder_of_another_run_is_refused(two: Start) -> None:
    before = (two.folder / "stage3/metrics.jsonl").read_bytes()
    settings = {**BASE, "run.folder": str(two.folder / "stage3"), "data.folder": str(two.data)}
    settings |= {"model.fields": TINY | {"hidden_size": 48}, "data.sources": [{"type": "reviews", "count": 500}]}
    error = failed(pretrain_on_two_ranks(settings))
    assert "holds another run" in error
    assert "model.fields: " in error
    assert "data.sources: " in error
    assert "objective." not in error
    assert (two.folder / "stage3/metrics.jsonl").read_bytes() == before


def test_a_checkpoint_of_another_model_is_refused(two: Start, tmp_path: Path) -> None:
    checkpoint = two.folder / "stage3/checkpoints" / f"step_{STEPS:08d}"
    settings = {
        **BASE,
        "run.folder": str(tmp_path / "run"),
        "data.folder": str(two.data),
        "run.resume": str(checkpoint),
    }
    error = failed(pretrain_on_two_ranks(settings | {"model.fields": TINY | {"num_hidden_layers": 1}}))
    assert f"{checkpoint}: is a checkpoint of another model" in error
    assert "model.fields: " in error


def test_a_corpus_smaller_than_a_step_is_refused(tmp_path: Path) -> None:
    settings = {**BASE, "run.folder": str(tmp_path / "run"), "data.folder": str(tmp_path / "data")}
    settings |= {"data.sources": [{"type": "reviews", "count": 60}], "data.heldout_fraction": 0.2}
    error = failed(pretrain_on_two_ranks(settings | {"train.rows_per_step": 64, "tokenizer.vocab_size": 512}))
    assert "train.rows_per_step: the corpus fills only " in error


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    settings = {**BASE, "run.folder": str(tmp_path / "run"), "data.folder": str(tmp_path / "data")}
    missing = tmp_path / "no such file.jsonl"
    settings |= {"data.sources": [{"type": "jsonl", "path": str(missing)}], "data.views": ["text", "code"]}
    error = failed(pretrain_on_two_ranks(settings))
    assert str(missing) in error


# -------------------------------------------------------------------------------------- one process, metrics and export


@pytest.fixture(scope="module")
def alone(two: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `python -m pretrain` without any launcher."""
    run = tmp_path_factory.mktemp("alone") / "run"
    settings = {**BASE, "run.folder": str(run), "data.folder": str(two.data), "logging.tensorboard": True}
    command("pretrain", *arguments(settings | {"logging.every": 5, "logging.peak_tflops": 1}))
    return run


def command(module: str, *args: str | Path) -> str:
    return run_alone(f"-m {module}", *args, timeout=TIMEOUT).output


def metric_lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_one_process_needs_no_launcher(alone: Path, one: Start) -> None:
    assert {"config.yaml", "run.json", "tokenizer", "checkpoints", "export", "samples.txt"} <= set(names(alone))
    assert [line["step"] for line in metric_lines(alone) if "train/lm_loss" in line] == [1, 5, 10, 15, 20]
    assert [line["step"] for line in metric_lines(alone) if "eval/lm_loss" in line] == [0, 10, 20]
    assert curve(alone)[1]["train/loss"] == pytest.approx(one.curve("stage3")[1]["train/loss"], abs=1e-5)


def test_metrics_have_their_documented_names(alone: Path) -> None:
    (line,) = [line for line in metric_lines(alone) if line["step"] == STEPS and "train/loss" in line]
    train = {"loss", "lm_loss", "pair_loss", "lambda", "lr", "grad_norm", "epoch", "label_tokens"}
    speed = {"label_tokens_per_second", "tokens_per_second", "padding_share", "mfu"}
    assert line.keys() == {
        "step",
        "memory/gib",
        *(f"train/{name}" for name in train),
        *(f"speed/{name}" for name in speed),
    }
    # With dropout 0.4 and no rescaling the distance weighs as much as its branched share of the pairs.
    branched = (line["train/loss"] - line["train/lm_loss"]) / line["train/pair_loss"]
    assert branched == pytest.approx(0.6, abs=0.15)
    (line,) = [line for line in metric_lines(alone) if line["step"] == STEPS and "eval/lm_loss" in line]
    assert {"eval/lm_loss", "eval/bits_per_byte", "eval/pair_loss"} < line.keys()


def test_a_new_run_goes_on_from_a_named_checkpoint_and_then_from_its_own(alone: Path, two: Start) -> None:
    fork = alone.parent / "fork"
    start = alone / "checkpoints/step_00000010"
    settings = {**BASE, "run.folder": str(fork), "data.folder": str(two.data), "run.resume": str(start)}
    settings |= {"optimizer.lr": 5e-4, "optimizer.schedule": "wsd", "train.steps": 12}
    assert f"resumed from {start}" in command("pretrain", *arguments(settings))
    assert [line["step"] for line in metric_lines(fork) if "train/lm_loss" in line] == [11, 12]
    assert f"resumed from {fork / 'checkpoints/step_00000012'}" in command("pretrain", *arguments(settings))


def test_tensorboard_shows_the_metrics_of_metrics_jsonl(alone: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(alone / "tensorboard"))
    events.Reload()
    written = {(name, line["step"]): value for line in metric_lines(alone) for name, value in line.items()}
    written = {key: value for key, value in written.items() if key[0] != "step"}
    shown = {(tag, event.step): event.value for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}
    assert shown == pytest.approx(written, rel=1e-6)


def test_an_exported_model_opens_without_our_code_and_gives_the_runs_logits(two: Start, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = two.folder / "stage3"
    out = tmp_path / "out"
    assert str(out) in command("pretrain.export", run, out)
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("a good film").input_ids[0] == tokenizer.bos_token_id
    canary = read_canary(run / "checkpoints" / f"step_{STEPS:08d}")
    with torch.no_grad():
        logits = model(canary["ids"]).logits[:, -canary["logits"].shape[1] :]
    print(float((logits - canary["logits"]).abs().max()))
    torch.testing.assert_close(logits, canary["logits"], rtol=0, atol=1e-5)
    exported = load_file(run / "export/model.safetensors")
    assert load_file(out / "model.safetensors").keys() == exported.keys()
    assert all(torch.equal(exported[name], weight) for name, weight in load_file(out / "model.safetensors").items())
    with pytest.raises(DiptychError, match="exists already; export into a new folder"):
        export_main([str(run), str(out)])


def test_an_export_of_tampered_weights_is_refused(two: Start, tmp_path: Path) -> None:
    run = Path(shutil.copytree(two.folder / "stage3", tmp_path / "run"))
    checkpoint = run / "checkpoints" / f"step_{STEPS:08d}"
    part = checkpoint / "state-00000-000.safetensors"
    tensors = load_file(part)
    name = next(name for name in tensors if "norm" not in name and name.endswith("/weight"))
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, part)
    with pytest.raises(DiptychError, match="does not match its checksum"):
        export_main([str(run), str(tmp_path / "out")])
    # Even if the checksum were right, the logits would tell.
    content = json.loads((checkpoint / "manifest.json").read_text())
    content["files"][part.name] |= {"sha256": sha256(part), "size": part.stat().st_size}
    (checkpoint / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DiptychError, match="reloaded logits differ"):
        export_main([str(run), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.tmp").exists()


def sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()

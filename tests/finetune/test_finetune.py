"""Fine-tuning: the engine of pre-training with a prompt around each pair; the checkpoint is chosen by validation."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.config import LOSSES, FinetuneConfig
from finetune.dry_run import dry_run
from finetune.evaluate import read_arguments
from finetune.tasks import make_task
from finetune.training import FinetuneRun, check_metric, validation_examples, with_room
from pretrain.checkpoint.checkpoints import Checkpoints
from pretrain.config.loading import load_config
from pretrain.config.sections import CheckpointConfig
from pretrain.data.branches import Branches
from pretrain.data.corpus import read_corpus
from pretrain.preparation.prepare import prepare
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError
from pretrain.training.trainer import Run
from tests.support.ranks import run_ranks

ANIMALS = ("cat", "dog", "heron", "fox", "owl", "bee", "ant")
TIMEOUT = 240


def write_task(path: Path, count: int, start: int = 0) -> Path:
    """Rows whose answer is the animal of the text, said twice."""
    rows = []
    for number in range(start, start + count):
        animal = ANIMALS[number * 5 % 7]
        rows.append({"text": f"number {number} is a {animal} here", "code": f"{animal} {animal}"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    write_task(folder / "train.jsonl", 160)
    write_task(folder / "validation.jsonl", 20, start=1000)
    (folder / "task.yaml").write_text(
        f"data: {{train: {folder}/train.jsonl, validation: {folder}/validation.jsonl, folder: {folder}/data}}"
        """
task: {name: exact_match, settings: {max_new_tokens: 6}}
tokenizer: {vocab_size: 330}
model:
  type: llama
  fields: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2}
packing: {row_length: 128}
objective: {lambda: 0.5, distance: infonce}
train: {steps: 12, rows_per_step: 4, micro_batch_rows: 2}
optimizer: {lr: 3.0e-3, warmup_steps: 2}
evaluation: {every: 4, answers: 6, prompts: 0}
checkpoint: {every: 100, keep_last: 1}
stopping: {metric: task/exact}
logging: {tensorboard: false, every: 4}
"""
    )
    return folder


def start(folder: Path, name: str, *overrides: str, ranks: int = 1, check: bool = True) -> tuple[int, str]:
    """Exit code and output of a run in FOLDER/NAME."""
    arguments = [folder / "task.yaml", f"run.folder={folder / name}", *overrides]
    result = run_ranks("-m finetune", ranks, *arguments, timeout=TIMEOUT, check=check)[0]
    return result.exit_code, result.output


def metrics(run: Path) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["step"], {}).update(row)
    return found


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    start(folder, "first", "stopping.metric=eval/lm_loss", "train.steps=24", ranks=2)
    return folder / "first"


@pytest.mark.ranks
def test_the_best_checkpoint_is_exported_and_kept(trained: Path) -> None:
    losses = {step: row["eval/lm_loss"] for step, row in metrics(trained).items() if "eval/lm_loss" in row and step}
    best = min(losses, key=lambda step: losses[step])
    kept = sorted(path.name for path in (trained / "checkpoints").iterdir())
    assert f"step_{best:08d}" in kept and "step_00000024" in kept and len(kept) <= 2
    exported = load_file(trained / "export" / "model.safetensors")
    stored: dict[str, torch.Tensor] = {}
    for file in (trained / "checkpoints" / f"step_{best:08d}").glob("state-*.safetensors"):
        stored |= load_file(file)
    assert all(torch.equal(stored[f"{name}/weight"], tensor) for name, tensor in exported.items())
    assert losses[24] < losses[4] < metrics(trained)[0]["eval/lm_loss"]
    assert all("task/exact" in metrics(trained)[step] for step in losses)
    assert not any(name.startswith("task/") for name in metrics(trained)[0])  # no answers before the first step
    assert {name for name in metrics(trained)[24] if name.startswith("eval/")} == set(LOSSES)


@pytest.mark.ranks
def test_evaluation_asks_as_training_did(folder: Path, trained: Path) -> None:
    found = read_arguments([f"{trained}/export", "--data", "x.jsonl", "task.max_new_tokens=9"])
    assert (found.task, found.style, found.settings) == ("exact_match", "plain", {"max_new_tokens": 9})
    with pytest.raises(DiptychError, match=r"--task: .* does not say what it was fine-tuned for; name the task"):
        read_arguments([str(folder), "--data", "x.jsonl"])
    data = str(folder / "validation.jsonl")
    arguments = [trained / "export", "--data", data, "--train", folder / "train.jsonl", "--out", folder / "answers"]
    run_ranks("-m finetune.evaluate", 1, *arguments, timeout=TIMEOUT)
    result = json.loads((folder / "answers" / "evaluation.json").read_text())
    lines = (folder / "answers" / "generations.jsonl").read_text().splitlines()
    assert len(lines) == 20 and "exact" in json.dumps(result)


@pytest.mark.ranks
def test_training_goes_on_from_an_existing_model(folder: Path, trained: Path) -> None:
    """The first evaluation is that of the model as it was; the answers' scores decide and stop the run."""
    best = min(row["eval/lm_loss"] for step, row in metrics(trained).items() if "eval/lm_loss" in row and step)
    overrides = [f"model={{path: {trained}/export}}", "tokenizer={}", "optimizer.lr=1.0e-12", "train.steps=20"]
    overrides += ["stopping.patience=1", "evaluation.answers_before_training=true"]
    _, output = start(folder, "second", *overrides)
    found = metrics(folder / "second")
    assert found[0]["eval/lm_loss"] == pytest.approx(best, rel=1e-5)
    assert "task/exact" in found[0] and all(
        f"step {step}  answers 6 validation examples" in output and f"step {step}  task/exact " in output
        for step in (0, 4, 8)
    )
    assert "stopped early: 1 evaluations without a better task/exact" in output
    assert max(found) == 8  # the first evaluation is the best so far, the second no better
    assert not (folder / "second" / "checkpoints" / "step_00000020").exists()
    _, output = start(folder, "second", *overrides)  # a finished run stays as it is and answers nothing again
    assert max(metrics(folder / "second")) == 8 and "second/export" in output and "answers 6" not in output


@pytest.mark.ranks
def test_a_larger_vocabulary_keeps_the_old_rows(folder: Path, trained: Path) -> None:
    """More [PRED] tokens than the model's tokenizer has: they are added, the embedding grows, nothing else changes."""
    overrides = [f"model={{path: {trained}/export}}", "tokenizer={predictor_tokens: 7}"]
    overrides += ["optimizer.lr=1.0e-12", "evaluation.answers=0", "stopping.metric=eval/lm_loss"]
    start(folder, "third", *overrides, "objective.predictors=6", "train.steps=1")
    old = load_file(trained / "export" / "model.safetensors")["model.embed_tokens.weight"]
    new = load_file(folder / "third" / "export" / "model.safetensors")["model.embed_tokens.weight"]
    assert len(new) == len(old) + 3
    torch.testing.assert_close(new[: len(old)], old, atol=1e-8, rtol=0)


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.name=nl_regx"], "did you mean nl_regex?"),
        (["task.settings={max_tokens: 3}"], "exact_match has no such setting"),
        (["data.train=nowhere.jsonl"], "nowhere.jsonl"),
        (["model={path: /nowhere}"], "/nowhere"),
        (["model.path=x"], "give path, or type and fields"),
        (["packing.layout=independent"], "packing.layout"),
        (["stoping.patience=3"], "stoping: unknown key; did you mean stopping?"),
        (["task.style=chat"], "style"),
        (["task=nl_regex"], "task"),
        (["data.train=5"], "data.train"),
        (["stopping.metric=task/exact", "evaluation.answers=0"], "stopping.metric: task/exact needs answers"),
        (["stopping.metric=exact"], "name eval/lm_loss or task/SCORE"),
        (["stopping.metric=task/exakt"], "no metric 'task/exakt'; did you mean task/exact?"),
        (["task.settings={max_new_tokens: 5000}"], "and 5000 new ones are more than the model's context of 2048"),
        (["model.lora.rank=4"], "LoRA trains a model that is there; name it with path"),
    ],
)
def test_wrong_settings_stop_with_one_clear_line(folder: Path, overrides: list[str], message: str) -> None:
    code, output = start(folder, "wrong", *overrides, check=False)
    assert code == 1 and message in output and "Traceback" not in output, output
    assert not (folder / "wrong").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stopping.metric=eval/lm_los", "no metric 'eval/lm_los'; did you mean eval/lm_loss?"),
        ("stopping.metric=health/target_std", "name eval/lm_loss or task/SCORE"),
        ("task.settings={task: gsm8k}", "task.task: exact_match has no such setting"),
        ("task.settings={name: gsm8k}", "task.name: exact_match has no such setting"),
        ("data.sources=[{type: reviews}]", "data.sources: is made from the files of data.train; leave it out"),
        ("data.views=[text, code]", "data.views.0: input should be 'prompt'"),
        ("evaluation={answers: 0, batch_size: 4}", "evaluation.batch_size: needs evaluation.answers above 0"),
    ],
)
def test_a_wrong_config_is_named(folder: Path, override: str, message: str) -> None:
    with pytest.raises(DiptychError) as error:
        load_config(folder / "task.yaml", [override], FinetuneConfig)
    assert message in str(error.value)


@pytest.mark.ranks
def test_a_dry_run_shows_what_is_asked_and_writes_nothing(folder: Path, trained: Path) -> None:
    before = sorted(path for path in folder.rglob("*") if path.is_file())
    _, output = start(
        folder,
        "dry",
        f"model={{path: {trained}/export, lora: {{rank: 2}}}}",
        "tokenizer={predictor_tokens: 5}",
        "--dry-run",
    )
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == before
    lines = dict(
        line.split(maxsplit=1) for line in output.splitlines() if line.startswith(("task ", "records ", "note:"))
    )
    assert lines["task"].startswith("exact_match, style plain, stop '")
    assert lines["records"] == "160 to train on, 20 held out"
    assert "the tokenizer had no [PRED_5]: added" in lines["note:"]
    assert (
        "first prompt          '<s> number 0 is a cat here" in output
        and "first answer          'cat cat</s>'" in output
    )
    assert "checkpoint            best task/exact; 6 validation examples answered every 4 steps" in output
    for figure in ("tokens of prompts", "tokens of answers", "trained by LoRA", "memory per rank", "mock step: loss"):
        assert figure in output, figure


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stopping.metric=task/exakt"], "no metric 'task/exakt'; did you mean task/exact?"),
        (["task.settings={max_new_tokens: 5000}"], "and 5000 new ones are more than the model's context of 2048"),
        (["packing.row_length=40", "objective.lambda=0"], "longer than the 40 tokens of a row"),
        (["data.train=nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_a_dry_run_refuses_what_a_run_would(folder: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(DiptychError) as error:
        dry_run(load_config(folder / "task.yaml", overrides, FinetuneConfig), Ranks(0, 1, torch.device("cpu")))
    assert message in str(error.value)


def test_a_row_holds_the_longest_text_with_its_prompt(folder: Path) -> None:
    path = folder / "task.yaml"
    config = with_room(
        load_config(path, [f"data.train={folder}/train.jsonl", "objective.predictors=2"], FinetuneConfig)
    )
    framed = Branches("conditional", 0, 0, (0,) * 4, "forward", (), (0,) * 32)
    assert config.data.max_view_tokens == 128 - framed.num_tokens(np.array([0, 0]), branched=False)
    with pytest.raises(DiptychError, match=r"packing\.row_length: 16 tokens do not hold the prompt's"):
        with_room(load_config(path, ["packing.row_length=16"], FinetuneConfig))


def test_a_score_that_no_example_decides_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sql.jsonl").write_text('{"text": "how many?", "code": "SELECT 1"}\n')
    task = make_task("text_to_sql")
    examples = task.examples(tmp_path / "sql.jsonl")
    check_metric("task/normalised", task, examples)
    with pytest.raises(DiptychError, match="task/execution cannot be decided on any of the 1 validation examples"):
        check_metric("task/execution", task, examples)


def test_a_corpus_is_used_again_wherever_its_files_lie_now(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prepared with relative paths; then the files are named absolute, moved, by ``~`` and by a pattern."""
    (tmp_path / "moved").mkdir()
    for name in ("train.jsonl", "validation.jsonl"):
        shutil.copy(folder / name, tmp_path)
        shutil.copy(folder / name, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    used = set()
    for place in ("{}", f"{tmp_path}/{{}}", f"{tmp_path}/moved/{{}}", "~/{}", f"{tmp_path}/mov*/{{}}"):
        files = [f"data.{split}={place.format(f'{split}.jsonl')}" for split in ("train", "validation")]
        overrides = [*files, f"data.folder={tmp_path}/data"]
        config = with_room(load_config(folder / "task.yaml", overrides, FinetuneConfig))
        corpus = read_corpus(prepare(config, quiet=True))
        used.add(corpus.folder)
        found = validation_examples(config, corpus, config.task.task(), [0, 7, 19])
        assert [example.id for example in found] == ["validation.jsonl:1", "validation.jsonl:8", "validation.jsonl:20"]
    assert len(used) == 1


def bare_run(folder: Path) -> FinetuneRun:
    """A run without model and data."""
    run = FinetuneRun.__new__(FinetuneRun)
    run.ranks = Ranks(0, 1, torch.device("cpu"))
    run.checkpoints = Checkpoints(folder / "checkpoints", CheckpointConfig(), run.ranks)
    run.best, run.since_best, run.answered, run.num_steps = None, 0, [], 8
    return run


def test_the_choice_of_another_run_is_not_taken_up(tmp_path: Path) -> None:
    state = {"choice": {"best": 0.5, "since_best": 1, "step": 8, "enough": True}}
    run = bare_run(tmp_path)
    run.load_state_dict(state)
    assert (run.best, run.since_best, run.checkpoints.worth_keeping, run.should_stop) == (None, 0, None, False)
    run.checkpoints.path(8).mkdir(parents=True)
    run.load_state_dict(state)
    assert (run.best, run.since_best, run.checkpoints.worth_keeping, run.should_stop) == (0.5, 1, 8, True)


@pytest.mark.parametrize(("patience", "last"), [(0, 8), (2, 4)])
def test_a_metric_that_is_never_finite_ends_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int, last: int
) -> None:
    def evaluate(run: Run, done: int) -> None:
        run.evaluated = {"eval/lm_loss": float("nan")}

    monkeypatch.setattr(Run, "evaluate", evaluate)
    run = bare_run(tmp_path)
    overrides = ["stopping.metric=eval/lm_loss", f"stopping.patience={patience}"]
    run.config = load_config(folder / "task.yaml", overrides, FinetuneConfig)
    for done in range(0, last, 2):
        run.evaluate(done)
    with pytest.raises(DiptychError, match="eval/lm_loss was a finite number in none of this run's evaluations"):
        run.evaluate(last)


@pytest.mark.ranks
def test_texts_are_cut_only_if_asked(folder: Path) -> None:
    long = write_task(folder / "long.jsonl", 40)
    answer = " ".join(f"step {number}" for number in range(60))
    with long.open("a") as file:
        file.write(json.dumps({"text": "how long?", "code": answer}) + "\n")
    overrides = [f"data.train={long}", "packing.row_length=160", "train.steps=1", "objective.lambda=0"]
    overrides += ["evaluation.answers=0", "stopping.metric=eval/lm_loss"]
    code, output = start(folder, "cut", *overrides, "packing.row_length=96", check=False)
    assert code == 1 and "packing.row_length: 1 texts of the train split are longer than the 96 tokens" in output
    code, output = start(folder, "cut", *overrides, "packing.row_length=96", "data.max_view_tokens=30")
    assert code == 0 and "note: 1 views are longer" in output


@pytest.mark.ranks
def test_lora_trains_little_resumes_and_is_merged(folder: Path, trained: Path) -> None:
    """ZeRO-3 on two ranks and one process without it end alike; a run goes on bit for bit, and not on another base."""
    base = folder / "lora-base"
    shutil.copytree(trained / "export", base)
    common = [f"model={{path: {base}, lora: {{rank: 4}}}}", "tokenizer={predictor_tokens: 5}"]
    common += ["evaluation.answers=0", "stopping.metric=eval/lm_loss", "checkpoint={every: 4, keep_last: 3}"]
    _, output = start(folder, "lora-zero3", *common, ranks=2)
    assert "(LoRA trains " in output and "the tokenizer had no [PRED_5]: added" in output
    start(folder, "lora-plain", *common, "deepspeed.zero_stage=0")
    weights = [load_file(folder / name / "export" / "model.safetensors") for name in ("lora-zero3", "lora-plain")]
    assert weights[0].keys() == load_file(base / "model.safetensors").keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=1e-5, rtol=1e-4)

    run = folder / "lora-plain"
    for left in ("checkpoints/step_00000012", "export"):
        shutil.rmtree(run / left)
    code, output = start(folder, "lora-plain", *common, "deepspeed.zero_stage=0")
    assert code == 0 and "resumed from" in output
    again = load_file(run / "export" / "model.safetensors")
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in again.items())

    changed = load_file(base / "model.safetensors")
    changed["model.embed_tokens.weight"] *= 1.5
    save_file(changed, base / "model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(run / "export")
    code, output = start(folder, "lora-plain", *common, "deepspeed.zero_stage=0", check=False)
    assert code == 1 and "gives other logits than when the checkpoint was written" in output, output

"""``python -m finetune.evaluate``: files, figures, interruption, judging again, and clear refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from finetune import evaluate, scoring
from finetune.tasks import Example, make_task
from pretrain.config.model import TokenizerConfig
from pretrain.data.tokenizer import load
from pretrain.model import loading
from pretrain.preparation.tokenizer_training import train
from pretrain.runtime.errors import DiptychError
from tests.support.ranks import REPOSITORY, run_ranks

WORDS = ["red", "green", "blue", "cat", "dog", "house", "tree", "runs", "sleeps", "eats", "a", "the"]


def texts(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=rng.integers(2, 12))) for _ in range(count)]


def save_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model, model/, and the examples, test.jsonl and labels.jsonl."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made")
    tokenizer = train(texts(300), TokenizerConfig(vocab_size=320, predictor_tokens=2))
    tokenizer.save(folder / "model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos,
        eos_token_id=tokenizer.eos,
        pad_token_id=tokenizer.pad,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    save_rows(folder / "test.jsonl", [{"text": text, "code": text.upper()} for text in texts(20)])
    labels = [{"text": text, "label_name": WORDS[number % 3]} for number, text in enumerate(texts(9))]
    save_rows(folder / "labels.jsonl", labels)
    return folder


def run(made: Path, out: Path, *more: str, task: str = "exact_match", data: str = "test.jsonl") -> dict[str, Any]:
    settings = ["--batch-size", "4", "task.max_new_tokens=8"]
    evaluate.main(
        [str(made / "model"), "--task", task, "--data", str(made / data), "--out", str(out), *settings, *more]
    )
    found: dict[str, Any] = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    return found


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "generations.jsonl").read_text(encoding="utf-8").splitlines()]


# --- what is written


def test_a_whole_evaluation(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(made, tmp_path / "out")
    rows = records(tmp_path / "out")
    assert [row["id"] for row in rows] == [f"test.jsonl:{line}" for line in range(1, 21)]
    assert [row["prompt"] for row in rows] == texts(20)
    assert all(row["gold"] == row["prompt"].upper() and row["correct"] is False for row in rows)
    assert all(0 <= row["new_tokens"] <= 8 and row["stopped"] in (True, False) for row in rows)
    exact = {"value": 0, "low": 0, "high": pytest.approx(0.161, abs=1e-3), "decided": 20, "undecided": 0}
    assert result["all"]["generated"]["exact"] == exact | {"resamples": scoring.RESAMPLES}
    assert result["stop_rate"] == sum(row["stopped"] for row in rows) / 20
    assert result["new_tokens"]["longest"] == max(row["new_tokens"] for row in rows)
    assert sum(result["reasons"].values()) == 20
    assert result["leak_free"] is None
    assert {"torch", "transformers", "diptych", "python"} <= result["versions"].keys()
    assert "exact *" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "evaluation.json",
        "generations.jsonl",
        "lock.json",
        "settings.json",
    ]


def test_answers_are_those_of_transformers(made: Path, tmp_path: Path) -> None:
    run(made, tmp_path / "out", 'task.separator=""', "--limit", "5")
    tokenizer = load(made / "model", TokenizerConfig())
    lm = LlamaForCausalLM.from_pretrained(made / "model")
    for row in records(tmp_path / "out"):
        ids = torch.tensor([[tokenizer.bos, *tokenizer.encode_batch([row["prompt"]])[0]]])
        new = lm.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8)[
            0, ids.shape[1] :
        ]
        assert row["output"] == tokenizer.decode(new)
        assert row["new_tokens"] == len(new)


def test_default_folder_lies_in_the_model(made: Path, tmp_path: Path) -> None:
    model = shutil.copytree(made / "model", tmp_path / "model")
    evaluate.main([str(model), "--task", "exact_match", "--data", str(made / "test.jsonl"), "task.max_new_tokens=8"])
    assert (model / "evaluation" / f"exact_match-{made.name}-test" / "evaluation.json").is_file()


def test_classification_is_scored_by_likelihood_too(made: Path, tmp_path: Path) -> None:
    result = run(made, tmp_path / "out", task="sentiment", data="labels.jsonl")
    rows = records(tmp_path / "out")
    chosen = [max(row["likelihoods"], key=lambda label: row["likelihoods"][label]["total"]) for row in rows]
    right = [label == row["gold"] for label, row in zip(chosen, rows, strict=True)]
    assert set(rows[0]["likelihoods"]) == {"red", "green", "blue"}
    assert result["all"]["likelihood"]["accuracy"]["value"] == pytest.approx(sum(right) / 9)
    assert {"accuracy", "macro_f1"} <= result["all"]["likelihood_per_token"].keys()
    assert result["all"]["likelihood"]["unparsed"]["value"] == 0


def test_leak_free_subset_stands_beside_all(made: Path, tmp_path: Path) -> None:
    seen = texts(20)
    rows = [{"text": f"  {seen[0].upper()} ", "code": seen[0].upper()}, {"text": seen[1], "code": "other"}]
    train_file = save_rows(tmp_path / "train.jsonl", rows)
    leak_free = run(made, tmp_path / "out", "--train", str(train_file))["leak_free"]
    expected = sum(text in (seen[0], seen[1]) for text in seen)
    assert leak_free["same_prompt"] == expected and leak_free["examples"] == 20 - expected
    assert leak_free["same_pair"] == sum(text == seen[0] for text in seen)
    assert leak_free["generated"]["exact"]["decided"] == 20 - expected


# --- interruption


@pytest.mark.parametrize("share", [0.0, 0.3, 0.77, 0.999])
def test_a_cut_file_is_completed_to_the_same(made: Path, tmp_path: Path, share: float) -> None:
    sampled = ("--temperature", "1", "--seed", "3")
    run(made, tmp_path / "out", *sampled)
    path = tmp_path / "out" / "generations.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    (tmp_path / "out" / "evaluation.json").unlink()
    result = run(made, tmp_path / "out", *sampled)
    assert path.read_bytes() == whole
    assert result["run"]["resumed_after"] is not None


def test_a_whole_evaluation_is_not_computed_again(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(made, tmp_path / "out")
    monkeypatch.setattr(evaluate, "answer_batch", None)
    second = run(made, tmp_path / "out")
    assert second["all"] == first["all"]


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(made: Path, tmp_path: Path) -> None:
    data = save_rows(tmp_path / "many.jsonl", [{"text": text, "code": "x"} for text in texts(60)])
    command = [sys.executable, "-m", "finetune.evaluate", str(made / "model"), "--task", "exact_match"]
    command += ["--data", str(data), "--batch-size", "2", "task.max_new_tokens=60"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    path = tmp_path / "killed" / "generations.jsonl"
    child = subprocess.Popen([*command, "--out", str(path.parent)], cwd=REPOSITORY, env=environment)
    try:
        deadline = time.monotonic() + 120
        while not (path.exists() and path.read_bytes().count(b"\n") >= 4):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    done = path.read_bytes().count(b"\n")
    assert 4 <= done < 60 and not (path.parent / "evaluation.json").exists()
    for out in (path.parent, tmp_path / "whole"):
        evaluate.main([*command[3:], "--out", str(out)])
    assert path.read_bytes() == (tmp_path / "whole" / "generations.jsonl").read_bytes()
    run_facts = json.loads((path.parent / "evaluation.json").read_text())["run"]
    assert 0 < run_facts["resumed_after"] <= done + 1


def test_other_settings_are_refused_with_the_difference(made: Path, tmp_path: Path) -> None:
    run(made, tmp_path / "out")
    before = (tmp_path / "out" / "generations.jsonl").read_bytes()
    with pytest.raises(DiptychError, match=r"generation.temperature 0.0 there, 0.5 here.*--out"):
        run(made, tmp_path / "out", "--temperature", "0.5")
    with pytest.raises(DiptychError, match=r'prompt.separator "\\n" there, "SEP" here'):
        run(made, tmp_path / "out", "task.separator=SEP")
    with pytest.raises(DiptychError, match="examples 20 there, 3 here"):
        run(made, tmp_path / "out", "--limit", "3")
    assert (tmp_path / "out" / "generations.jsonl").read_bytes() == before


def test_a_broken_line_is_named(made: Path, tmp_path: Path) -> None:
    run(made, tmp_path / "out")
    path = tmp_path / "out" / "generations.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], "{}\n", *lines[4:]]))
    with pytest.raises(DiptychError, match=r"generations.jsonl:4: is no generation"):
        run(made, tmp_path / "out")
    (tmp_path / "out" / "settings.json").unlink()
    with pytest.raises(DiptychError, match=r"no settings.json beside it"):
        run(made, tmp_path / "out")


def test_one_process_at_a_time_writes_to_a_folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    code = (
        "import sys\nfrom pathlib import Path\nfrom pretrain.runtime.locks import lock_run\n"
        "lock_run(Path(sys.argv[1]))\nprint('held', flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(DiptychError, match=rf"--out .*out: in use by process {other.pid} on .*; wait for it"):
            run(made, tmp_path / "out", "--limit", "2")
    run(made, tmp_path / "out", "--limit", "2")


def test_tasks_of_srun_are_ranks(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def joined(minutes: int) -> None:
        raise DiptychError("joined")

    monkeypatch.setattr(evaluate, "start_ranks", joined)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("STEP_NUM_TASKS", "2"), ("PROCID", "1"), ("LOCALID", "1"), ("JOB_ID", "7")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(DiptychError, match="joined"):
        evaluate.main([str(made / "model"), "--task", "exact_match", "--data", str(made / "test.jsonl")])


# --- judging again


def test_judging_again_needs_no_model(made: Path, tmp_path: Path) -> None:
    run(made, tmp_path / "out")
    path = tmp_path / "out" / "generations.jsonl"
    rows = records(tmp_path / "out")
    rows[0]["output"] = rows[0]["gold"].lower()
    save_rows(path, rows)
    elsewhere = tmp_path / "moved"
    elsewhere.mkdir()
    shutil.copy(made / "test.jsonl", elsewhere)  # and no model there
    strict = run(elsewhere, tmp_path / "out", "--rescore")
    assert strict["all"]["generated"]["exact"]["value"] == 0
    mild = run(elsewhere, tmp_path / "out", "--rescore", "task.ignore_case=true")
    assert mild["all"]["generated"]["exact"]["value"] == 1 / 20
    assert records(tmp_path / "out")[0]["correct"] is True
    assert mild["settings"]["task"]["ignore_case"] is True
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["task"]["ignore_case"] is True


def test_figures_stand_beside_those_without_trivial_golds(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of four answers one is right by meaning, another only because its gold matches nothing."""
    golds = [".*red.*", "(red)&(cat)", "(.*)|(dog)", ".*cat.*"]
    save_rows(
        tmp_path / "regex.jsonl", [{"text": text, "code": gold} for text, gold in zip(texts(4), golds, strict=True)]
    )
    data = str(tmp_path / "regex.jsonl")
    result = run(made, tmp_path / "out", task="nl_regex", data=data)
    assert result["without_trivial_golds"]["left_out"] == {"matches nothing": 1, "matches every line": 1}
    rows = records(tmp_path / "out")
    for row, output in zip(rows, ["(.*)red(.*)", "(a)&(b)", "dog", "dog"], strict=True):
        row["output"] = output
    save_rows(tmp_path / "out" / "generations.jsonl", rows)
    capsys.readouterr()
    result = run(made, tmp_path / "out", "--rescore", task="nl_regex", data=data)
    assert (result["all"]["examples"], result["all"]["generated"]["semantic"]["value"]) == (4, 1 / 2)
    rest = result["without_trivial_golds"]
    assert (rest["examples"], rest["generated"]["semantic"]["value"], rest["generated"]["exact"]["value"]) == (
        2,
        1 / 2,
        0,
    )
    output = capsys.readouterr().out
    assert "without trivial golds (2)" in output and "trivial golds: matches nothing 1, matches every line 1" in output
    assert run(made, tmp_path / "other")["without_trivial_golds"] is None


def test_what_cannot_be_judged_again(made: Path, tmp_path: Path) -> None:
    with pytest.raises(DiptychError, match="holds no evaluation"):
        run(made, tmp_path / "nothing", "--rescore")
    run(made, tmp_path / "out")
    rows = [{"text": row["prompt"], "code": "#### 1"} for row in records(tmp_path / "out")]
    save_rows(tmp_path / "test.jsonl", rows)
    with pytest.raises(DiptychError, match=r"example test\.jsonl:1 is another in the data"):
        run(tmp_path, tmp_path / "out", "--rescore")
    save_rows(tmp_path / "out" / "generations.jsonl", [row | {"gold": "#### 1"} for row in records(tmp_path / "out")])
    with pytest.raises(DiptychError, match="answers to the task exact_match, not gsm8k"):
        run(tmp_path, tmp_path / "out", "--rescore", "task.fields={text: text, code: code}", task="gsm8k")
    save_rows(tmp_path / "out" / "generations.jsonl", records(tmp_path / "out")[:7])
    with pytest.raises(DiptychError, match=r"no answer to 13 of 20 examples, such as test\.jsonl:8"):
        run(tmp_path, tmp_path / "out", "--rescore")
    for damaged in ("{}", "[]", '{"task": {}}'):
        (tmp_path / "out" / "settings.json").write_text(damaged)
        with pytest.raises(DiptychError, match=r"settings\.json: damaged; give another --out"):
            run(tmp_path, tmp_path / "out", "--rescore")


# --- wrong input: a clear message, nothing written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL", "--task", "exact_mach", "--data", "DATA"], "did you mean exact_match"),
        (["MODEL", "--task", "exact_match", "--data", "FOLDER/none.jsonl"], "none.jsonl: no such file"),
        (["MODEL", "--task", "exact_match", "--data", "EMPTY"], "empty.jsonl: no examples"),
        (["MODEL", "--task", "exact_match", "--data", "GOLDLESS"], r"goldless.jsonl:2: .*code"),
        (["MODEL", "--task", "exact_match", "--data", "DATA", "--train", "GOLDLESS"], r"goldless.jsonl:2: .*code"),
        (["FOLDER", "--task", "exact_match", "--data", "DATA"], "is no model folder: it has no config.json"),
        (["FOLDER/none", "--task", "exact_match", "--data", "DATA"], "no such folder"),
        (["DATA", "--task", "exact_match", "--data", "DATA"], "is a file; give the folder"),
        (["MODEL", "--task", "exact_match", "--data", "DATA", "--style", "chat"], "no chat template; use style plain"),
        (["MODEL", "--task", "exact_match", "--data", "DATA", "--base", "MODEL"], "is a whole model"),
        (["MODEL", "--task", "exact_match", "--data", "DATA", "task.ignore_cas=1"], "did you mean ignore_case"),
        (["MODEL", "--task", "exact_match", "--data", "DATA", "task.name=x"], "task.name: exact_match has no such"),
        (["MODEL", "--task", "exact_match", "--data", "DATA", "task.x={"], "is no valid YAML value"),
        (
            ["MODEL", "--task", "exact_match", "--data", "DATA", "--limt", "3"],
            "--limt: unknown.* --limit?.*--help lists all",
        ),
        (
            ["MODEL", "--task", "exact_match", "--data", "DATA", "--limit", "0"],
            "'0': needs a whole number",
        ),
        (["MODEL", "--task", "exact_match", "--data", "DATA", "--top-p", "2"], "expected temperature"),
        (["MODEL", "--task", "exact_match", "--data", "DATA", "task.max_new_tokens=120"], r"test.jsonl:\d+: .*context"),
        (["MODEL", "--data", "DATA"], "--task"),
    ],
)
def test_wrong_input(made: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    places = {"FOLDER": tmp_path, "MODEL": made / "model", "DATA": made / "test.jsonl"}
    places |= {"EMPTY": tmp_path / "empty.jsonl", "GOLDLESS": tmp_path / "goldless.jsonl"}
    (tmp_path / "empty.jsonl").touch()
    save_rows(tmp_path / "goldless.jsonl", [{"text": "a", "code": "b"}, {"text": "a"}])
    words = []
    for word in arguments:
        head, slash, tail = word.partition("/")
        words.append(f"{places[head]}{slash}{tail}" if head in places else word)
    out = tmp_path / "out"
    with pytest.raises(DiptychError, match=message):
        evaluate.main([*words, "--out", str(out)])
    assert not out.exists()


def test_long_prompts_can_be_cut(made: Path, tmp_path: Path) -> None:
    data = save_rows(tmp_path / "long.jsonl", [{"text": "red " * 300, "code": "x"}, {"text": "red", "code": "x"}])
    arguments = [str(made / "model"), "--task", "exact_match", "--data", str(data), "--out", str(tmp_path / "out")]
    with pytest.raises(DiptychError, match=r"long.jsonl:1: .*context of 128"):
        evaluate.main([*arguments, "task.max_new_tokens=8"])
    evaluate.main([*arguments, "task.max_new_tokens=8", "--long-prompts", "cut"])
    first, second = records(tmp_path / "out")
    assert first["prompt_tokens"] == 120 and second["prompt_tokens"] < 10
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["run"]["examples_cut"] == 1


# --- models


def test_missing_tokens_get_embeddings_and_that_is_told(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    load(made / "model", TokenizerConfig(predictor_tokens=5)).save(model)
    LlamaForCausalLM.from_pretrained(made / "model").save_pretrained(model)
    shutil.copy(made / "test.jsonl", tmp_path)
    result = run(tmp_path, tmp_path / "grown")
    assert "embeddings resized from 320 to 323, the new ones untrained: [PRED_3] [PRED_4] [PRED_5]" in str(
        result["run"]
    )
    assert "note: embeddings resized" in capsys.readouterr().out
    run(made, tmp_path / "plain")
    assert [row["output"] for row in records(tmp_path / "grown")] == [
        row["output"] for row in records(tmp_path / "plain")
    ]


def test_dtype_is_explicit(made: Path, tmp_path: Path) -> None:
    assert run(made, tmp_path / "a")["settings"]["generation"]["dtype"] == "float32"
    assert run(made, tmp_path / "b", "--dtype", "bfloat16")["settings"]["generation"]["dtype"] == "bfloat16"


def test_pickles_and_foreign_code_only_when_trusted(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made / "model", tmp_path / "model")
    weights = LlamaForCausalLM.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    with pytest.raises(DiptychError, match=r"holds no safetensors weights$"):
        loading.find_model(str(folder))
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(DiptychError, match=r"only pickled ones, which can run code.*--trust-remote-code"):
        loading.find_model(str(folder))
    assert loading.find_model(str(folder), trust_remote_code=True) == folder
    folder = shutil.copytree(made / "model", tmp_path / "foreign")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class C(LlamaConfig):\n    model_type = 'own'\n"
        "class M(LlamaForCausalLM):\n    config_class = C\n"
    )
    given: dict[str, Any] = {"dtype": "auto", "device": torch.device("cpu")}
    with pytest.raises(DiptychError, match="Python code of its own; give --trust-remote-code"):
        loading.load_model(folder, None, **given)
    assert type(loading.load_model(folder, None, **given, trust_remote_code=True).lm).__name__ == "M"


def test_a_run_folder_stands_for_its_export(tmp_path: Path) -> None:
    def model() -> str:
        return str(evaluate.read_arguments([str(tmp_path), "--task", "gsm8k", "--data", "x"]).model)

    (tmp_path / "export").mkdir()
    assert model() == str(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert model() == str(tmp_path / "export")


def adapter(base: Path, folder: Path) -> Path:
    lm = LlamaForCausalLM.from_pretrained(base)
    torch.manual_seed(1)
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    peft.get_peft_model(lm, settings).save_pretrained(str(folder))
    return folder


def test_an_adapter_is_merged_into_its_base(made: Path, tmp_path: Path) -> None:
    folder = adapter(made / "model", tmp_path / "adapter")
    base = loading.find_base(loading.find_model(str(folder)), None)
    assert base == made / "model"
    loaded = loading.load_model(folder, base, dtype="auto", device=torch.device("cpu"))
    plain = LlamaForCausalLM.from_pretrained(made / "model")
    ids = torch.arange(5, 20)[None]
    assert type(loaded.lm) is type(plain)
    assert not torch.allclose(loaded.lm(ids).logits, plain(ids).logits)
    assert loading.fingerprint([folder, base]) != loading.fingerprint([base])


def test_an_adapter_of_another_base_is_refused(made: Path, tmp_path: Path) -> None:
    folder = adapter(made / "model", tmp_path / "adapter")
    other = LlamaForCausalLM.from_pretrained(made / "model").config
    other.num_hidden_layers = 1
    shutil.copytree(made / "model", tmp_path / "shallow")
    LlamaForCausalLM(other).save_pretrained(tmp_path / "shallow")
    base = loading.find_base(folder, str(tmp_path / "shallow"))
    with pytest.raises(DiptychError, match="adapter does not fit its base model"):
        loading.load_model(folder, base, dtype="auto", device=torch.device("cpu"))
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps(settings | {"base_model_name_or_path": str(tmp_path / "no")})
    )
    with pytest.raises(DiptychError, match=r"no such folder.*give the adapter's base with --base"):
        loading.find_base(folder, None)


# --- figures


def test_means_and_intervals() -> None:
    values = [1.0] * 70 + [0.0] * 30
    metric = scoring.mean_metrics([{"a": value} for value in values])["a"]
    assert metric.value == pytest.approx(0.7) and (metric.decided, metric.undecided) == (100, 0)
    spread = 1.96 * (0.7 * 0.3 / 100) ** 0.5
    assert metric.low == pytest.approx(0.7 - spread, abs=0.015) and metric.high == pytest.approx(
        0.7 + spread, abs=0.015
    )
    assert metric == scoring.mean_metrics([{"a": value} for value in values])["a"]


def test_undecided_scores_are_counted_and_left_out() -> None:
    found = scoring.mean_metrics([{"a": 1.0, "b": None}, {"a": None, "b": None}, {"a": 0.0, "b": None}])
    assert (found["a"].value, found["a"].decided, found["a"].undecided) == (0.5, 2, 1)
    assert found["b"] == scoring.Metric(None, None, None, 0, 3, 0)
    assert scoring.mean_metrics([]) == {}


@pytest.mark.parametrize(("right", "low", "high"), [(0, 0, 0.1611), (1, 0, 0.2361), (19, 0.7639, 1), (20, 0.8389, 1)])
def test_few_wrong_or_right_answers_leave_an_interval(right: int, low: float, high: float) -> None:
    """Wilson's, whose bounds are known, or the bootstrap's where it reaches further."""
    metric = scoring.mean_metrics([{"a": float(number < right)} for number in range(20)])["a"]
    assert (metric.low, metric.high) == pytest.approx((low, high), abs=1e-4)


def test_summaries_get_intervals_too() -> None:
    task = make_task("sentiment")
    examples = [Example(str(number), "", "good" if number % 2 else "bad", {}) for number in range(60)]
    outputs = [example.gold if number % 3 else "good" for number, example in enumerate(examples)]
    verdicts = [task.judge(example, output) for example, output in zip(examples, outputs, strict=True)]
    found = scoring.metrics(task, examples, verdicts, outputs, task.labels(examples) or ())
    macro = found["macro_f1"]
    assert (found["accuracy"].resamples, macro.resamples) == (scoring.RESAMPLES, 1000)
    assert next(iter(found)) == "accuracy"
    assert macro.low is not None and macro.value is not None and macro.high is not None
    assert macro.low < macro.value < macro.high
    assert scoring.metrics(task, [], [], [], []) == {}


def test_leaks_are_found_in_prompts_as_language_and_in_golds_as_written() -> None:
    def example(prompt: str, gold: str) -> Example:
        return Example("", prompt, gold, {})

    examples = [example("Ａ  b", "x"), example("a b", "X"), example("c", "x"), example("d", "z")]
    assert scoring.leaks(examples, [example("A B", "x"), example("C", "q")]) == ["pair", "prompt", "prompt", None]


# --- ranks


@pytest.mark.ranks
def test_two_ranks_write_the_same_file(made: Path, tmp_path: Path) -> None:
    run(made, tmp_path / "one")
    words = [str(made / "model"), "--task", "exact_match", "--data", str(made / "test.jsonl")]
    words += ["--batch-size", "4", "task.max_new_tokens=8"]
    run_ranks("-m finetune.evaluate", 2, *words, "--out", str(tmp_path / "two"))
    ours, theirs = ((tmp_path / name / "generations.jsonl").read_bytes() for name in ("one", "two"))
    assert ours == theirs
    assert json.loads((tmp_path / "two" / "evaluation.json").read_text())["run"]["ranks"] == 2
    broken = run_ranks("-m finetune.evaluate", 2, *words, "--data", str(tmp_path / "none.jsonl"), check=False)
    assert [result.exit_code for result in broken] == [1, 1]
    assert sum("no such file" in result.output for result in broken) == 1

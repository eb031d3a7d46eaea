"""A probing run from the command line: what it finds, what goes wrong alone, ranks, and what a user sees."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import run_ranks
from transformers import LlamaConfig, LlamaForCausalLM

from pretrain.errors import DiptychError
from pretrain.tokenizer import TokenizerConfig
from pretrain.tokenizer_training import train
from probes.arguments import read_arguments
from probes.results import read_report

TIMEOUT = 240
GOOD, BAD = ("good", "fine", "great"), ("bad", "poor", "awful")


def rows(count: int, start: int) -> list[dict[str, object]]:
    return [
        {"text": f"item {number} is {(GOOD if number % 2 else BAD)[number % 3]} indeed", "label": number % 2}
        for number in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny models, one of them twice, and two sets of which one is broken."""
    folder = tmp_path_factory.mktemp("probes")
    texts = [str(row["text"]) for row in rows(300, 0)]
    tokenizer = train(texts, TokenizerConfig(vocab_size=330))
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    for seed, name in enumerate(("one", "other")):
        torch.manual_seed(seed)
        special = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
        config = LlamaConfig(**sizes, vocab_size=tokenizer.vocab_size, max_position_embeddings=64, **special)
        LlamaForCausalLM(config).save_pretrained(folder / name)
        tokenizer.save(folder / name)
    shutil.copytree(folder / "one", folder / "copy")
    for place, classes in (("mood", 2), ("flat", 1)):
        (folder / place).mkdir()
        for split, (count, start) in {"train": (120, 0), "test": (60, 500)}.items():
            lines = [json.dumps(row) for row in rows(count, start) if int(str(row["label"])) < classes]
            (folder / place / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "pairs.jsonl").write_text(
        "".join(json.dumps({"text": text, "code": text.upper()}) + "\n" for text in texts[:20])
    )
    return folder


def probe(folder: Path, out: str, *arguments: str, ranks: int = 1) -> tuple[int, str]:
    words = [*arguments, "--out", str(folder / out), "--seeds", "2", "--sizes", "40"]
    result = run_ranks("-m probes", ranks, *words, timeout=TIMEOUT, check=False)[0]
    return result.exit_code, result.output


@pytest.mark.ranks
def test_a_whole_report_and_the_same_on_two_ranks(folder: Path) -> None:
    arguments = [f"one={folder}/one", f"copy={folder}/copy", f"{folder}/other", "--data", f"mood={folder}/mood"]
    arguments += ["--pairs", f"{folder}/pairs.jsonl"]
    code, output = probe(folder, "alone", *arguments)
    assert code == 0, output
    assert output.strip().endswith("index.html")
    assert {"index.html", "report.md", "report.json", "figures", "tensorboard"} <= {
        path.name for path in (folder / "alone").iterdir()
    }
    report = read_report(folder / "alone" / "report.json")
    assert [facts.name for facts in report.models] == ["one", "one (random weights)", "copy", "other"]

    same = [item for item in report.comparisons if {item.first, item.second} == {"one", "copy"}]
    assert same and all(item.difference.value == 0 and item.mcnemar == 1 and not item.different for item in same)
    words = report.chosen("mood", "tfidf")
    chosen = report.chosen("mood", "one")
    assert words is not None and words.accuracy.value == 1
    assert chosen is not None and chosen.accuracy.value > 0.9 and chosen.seeds == 2
    assert {score.train_size for score in report.scores if score.system == "one"} == {40, 120}
    layers = {(score.layer, score.pooling) for score in report.scores if score.system == "other" and not score.shuffled}
    assert layers == {(layer, pooling) for layer in range(3) for pooling in ("last", "mean")}
    paired = [item for item in report.geometry if item.margin is not None]
    assert len(paired) == 4 * 3 * 2
    itself = next(item for item in report.similarities if (item.first, item.second) == ("one", "copy"))
    assert np.allclose(np.diag(itself.values)[1:], 1)  # all texts end alike: nothing to compare in layer 0
    assert sum(map(sum, report.predictions[0].confusion)) == 60

    code, output = probe(folder, "together", *arguments, ranks=2)
    assert code == 0, output
    other = read_report(folder / "together" / "report.json")
    assert [score.accuracy for score in other.scores] == [score.accuracy for score in report.scores]
    assert other.comparisons == report.comparisons


def test_a_broken_set_or_model_leaves_the_others_alone(folder: Path) -> None:
    arguments = [f"{folder}/one", f"{folder}/nowhere", "--data", f"flat={folder}/flat", f"mood={folder}/mood"]
    code, output = probe(folder, "partly", *arguments, "--no-random")
    assert code == 1 and "Traceback" not in output, output
    report = read_report(folder / "partly" / "report.json")
    assert [facts.name for facts in report.models] == ["one"] and [facts.name for facts in report.sets] == ["mood"]
    assert len(report.problems) == 2
    assert "nowhere" in " ".join(report.problems) and "class" in " ".join(report.problems)
    page = (folder / "partly" / "index.html").read_text()
    assert "nowhere" in page and "flat" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b/a", "--data", "mood"], "a second model called 'a'; name it, as in NAME=b/a"),
        (["a"], "--data"),
        (["a", "--data", "mood", "--seeds", "0"], "--seeds"),
        (["a", "--data", "mood", "--poling", "last"], "unrecognized arguments: --poling"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str) -> None:
    with pytest.raises(DiptychError, match=r"."):
        read_arguments(arguments, "")
    try:
        read_arguments(arguments, "")
    except DiptychError as error:
        assert message in str(error)


def test_names_of_models() -> None:
    given = ["runs/plain/export", "runs/mixed", "runs/mixed/checkpoints/step_00000100", "x=some/where"]
    found = read_arguments([*given, "--data", "mood"], "").models
    assert list(found) == ["plain", "mixed", "mixed@100", "x"]

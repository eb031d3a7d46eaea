"""A probing run from the command line: what it finds, what goes wrong alone, ranks, and what a user sees."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pretrain.config.model import TokenizerConfig
from pretrain.preparation.tokenizer_training import train
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError
from probes.__main__ import main
from probes.arguments import Settings, read_arguments
from probes.encoding.cache import Memory
from probes.encoding.encode import Encoded
from probes.encoding.probed_model import ProbedModel, open_model
from probes.findings import Chosen, Measured, comparisons, sample, similarities
from probes.probing.geometry import linear_cka_matrix
from probes.probing.scores import ProbeScore
from probes.reporting.tables import truncation_table
from probes.results import Estimate, ModelFacts, Report, read_report
from probes.run import ProbingRun
from probes.sets import LabelledSet, Split
from tests.support.ranks import run_ranks

TIMEOUT = 240
GOOD, BAD = ("good", "fine", "great"), ("bad", "poor", "awful")


def rows(count: int, start: int) -> list[dict[str, object]]:
    return [
        {"text": f"item {number} is {(GOOD if number % 2 else BAD)[number % 3]} indeed", "label": number % 2}
        for number in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny models, one of them twice, one of another architecture, and two sets of which one is broken."""
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
    config = LlamaConfig(**sizes | {"num_hidden_layers": 1}, vocab_size=tokenizer.vocab_size, **special)
    LlamaForCausalLM(config).save_pretrained(folder / "low")
    tokenizer.save(folder / "low")
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
    assert {facts.twins for facts in report.models if not facts.random_twin_of} == {("one (random weights)",)}
    alike = {(item.first, item.second) for item in report.comparisons if item.pooling is None}
    names = ("one", "copy", "other")
    others = ("one (random weights)", "tfidf", "majority")
    assert alike == {*itertools.combinations(names, 2), *itertools.product(names, others)}

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


@pytest.mark.ranks
def test_a_broken_set_or_model_leaves_the_others_alone(folder: Path) -> None:
    arguments = [f"{folder}/one", f"{folder}/nowhere", "--data", f"flat={folder}/flat", f"mood={folder}/mood"]
    code, output = probe(folder, "partly", *arguments, "--random-seeds", "0")
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
        (["a"], "--data: is missing"),
        (["a", "--data", "mood", "--seeds", "0"], "--seeds"),
        (["a", "--data", "mood", "--poling", "last"], "--poling: unknown option; did you mean --pooling?"),
        (
            ["a", "--data", "mood", "--pooling", "max"],
            "--pooling: 'max' is no pooling; known: last, mean, cls, pred",
        ),
        (["a", "--data", "mood", "--pooling", "last", "last"], "--pooling: last last names one twice"),
        (["runs/tfidf", "--data", "mood"], "controls are called 'tfidf'; name the model, as in NAME=runs/tfidf"),
        (["majority=a", "--data", "mood"], "as in NAME=a"),
        (["x (random weights)=a", "--data", "mood"], "as in NAME=a"),
        (["x (random weights, seed 2)=a", "--data", "mood"], "as in NAME=a"),
        (["a", "--data", "mood", "--random-seeds", "-1"], "--random-seeds"),
        (["a", "--data", "mood", "--max-train", "1e3"], "--max-train: '1e3': needs a whole number of at least 1"),
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
    found = read_arguments(["runs/mixed/checkpoints/step_abc", "--data", "mood"], "").models
    assert list(found) == ["mixed@step_abc"]


def settings(folder: Path, *arguments: str) -> Settings:
    return read_arguments([*arguments, "--out", str(folder / "in-process"), "--seeds", "1"], "")


def report_of(folder: Path, *arguments: str) -> Report:
    torch.set_num_threads(1)
    return ProbingRun(settings(folder, *arguments), Ranks(0, 1, torch.device("cpu")), "python -m probes").run()


@pytest.mark.slow
def test_each_model_has_twins_of_its_own_kind_and_they_are_made_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, int | None]] = []

    def open_and_note(path: str, **options: Any) -> ProbedModel:
        opened.append((Path(path).name, options["seed"] if options["random"] else None))
        return open_model(path, **options)

    monkeypatch.setattr("probes.run.open_model", open_and_note)
    models = [f"{folder}/{name}" for name in ("one", "low", "copy")]
    report = report_of(
        folder,
        *models,
        "--data",
        f"mood={folder}/mood",
        f"mood={folder}/flat",
        "--sizes",
        "1",
        "40",
        "--pooling",
        "mean",
        "pred",
        "--random-seeds",
        "2",
    )
    assert opened == [
        *(("one", None), ("one", 0), ("one", 1)),
        *(("low", None), ("low", 0), ("low", 1)),
        ("copy", None),
    ]
    twins = {name: (f"{name} (random weights)", f"{name} (random weights, seed 1)") for name in ("one", "low")}
    assert {facts.name: facts.twins for facts in report.models if not facts.random_twin_of} == {
        **twins,
        "copy": twins["one"],
    }
    seeds = {facts.name: facts.random_seed for facts in report.models}
    assert [seeds[name] for name in (*twins["one"], "one")] == [0, 1, None]
    assert len({facts.fingerprint for facts in report.models}) == 6  # copy's is that of one
    against = {(item.first, item.second) for item in report.comparisons if "random" in item.second}
    assert against == {(name, twin) for name in ("one", "low", "copy") for twin in twins.get(name, twins["one"])}
    # Each seed is a test of its own in Holm's correction: 3 pairs, 6 with random weights, 3 each with TF-IDF and
    # majority, of which those of one and copy are made twice, with different names.
    smallest = min(report.comparisons, key=lambda item: item.mcnemar)
    assert smallest.adjusted == pytest.approx(min(1, 15 * smallest.mcnemar))
    alike = {(item.first, item.second) for item in report.similarities}
    assert not any("seed 1" in name for pair in alike for name in pair)
    assert sorted({score.train_size for score in report.scores}) == [40, 120]
    assert report.notes == (
        *(f"{name} was not trained with [PRED] tokens, so it has no pooling pred" for name in ("one", "low", "copy")),
        "mood: train sizes below its 2 classes are left out (1)",
    )
    assert report.chosen("mood", "one", "pred") is None


def test_texts_of_pairs_that_were_cut_are_counted(folder: Path) -> None:
    arguments = ["--data", f"mood={folder}/mood", "--pairs", f"{folder}/pairs.jsonl", "--pooling", "mean"]
    report = report_of(folder, f"{folder}/one", *arguments, "--max-tokens", "3", "--random-seeds", "1")
    # 40 views of 20 pairs, all longer than two tokens after their bos.
    assert {name: by_set[f"{folder}/pairs.jsonl"] for name, by_set in report.truncated.items()} == {
        "one": 40,
        "one (random weights)": 40,
    }
    table = truncation_table(report)
    assert table is not None
    assert [cell.text for cell in table.rows[1].cells] == ["one", f"{folder}/pairs.jsonl", "40"]
    assert table.rows[1].set is None  # no filter of sets hides it
    assert report_of(folder, f"{folder}/one", *arguments, "--random-seeds", "0").truncated == {
        "one": {"mood": 0, f"{folder}/pairs.jsonl": 0}
    }


def test_a_model_that_no_pooling_is_left_for_is_a_problem(folder: Path) -> None:
    with pytest.raises(DiptychError, match=r"no model could be probed: one: was not trained with \[PRED\] tokens"):
        report_of(folder, f"{folder}/one", "--data", f"mood={folder}/mood", "--pooling", "pred")


@pytest.mark.parametrize(
    ("where", "remedy"), [("mood={}/mood", "name it, as in NAME={}/mood"), ("reviews", "leave it out")]
)
def test_a_set_that_is_named_twice(folder: Path, where: str, remedy: str) -> None:
    where, remedy = where.format(folder), remedy.format(folder)
    run = ProbingRun(
        settings(folder, "a", "--data", where, where, "--reviews-count", "60"), Ranks(0, 1, torch.device("cpu")), ""
    )
    run._read_sets()
    assert len(run.measured.sets) == 1 and run.attempts.problems[0].endswith(f"; {remedy}")


def test_errors_of_the_classifier_are_problems_of_their_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **options: Any) -> None:
        raise ValueError("odd\nfigures")

    monkeypatch.setattr("probes.set_prober.probe_scores", fail)
    monkeypatch.setattr("probes.set_prober.tfidf", fail)
    report = report_of(
        folder, f"{folder}/one", "--data", f"mood={folder}/mood", "--pooling", "mean", "--random-seeds", "0"
    )
    assert report.problems[0] == "mood: layers, one, mean, 0: odd figures"
    assert report.problems[-1] == "mood, tfidf: odd figures"
    assert {score.system for score in report.scores} == {"majority"}


def test_whatever_goes_wrong_with_a_model_or_a_part_of_the_report_leaves_the_rest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_or_not(path: str, **options: Any) -> ProbedModel:
        if path.endswith("other"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return open_model(path, **options)

    def broken(*given: Any) -> None:
        raise AttributeError("a mistake of ours")

    monkeypatch.setattr("probes.run.open_model", open_or_not)
    monkeypatch.setattr("probes.run.geometry", broken)
    arguments = ["--data", f"mood={folder}/mood", "--pooling", "mean", "--random-seeds", "0", "--sizes"]
    report = report_of(folder, f"{folder}/other", f"{folder}/one", *arguments)
    assert report.problems == ("other: CUDA out of memory", "geometry: AttributeError: a mistake of ours")
    assert [facts.name for facts in report.models] == ["one"] and report.geometry == ()
    assert {score.train_size for score in report.scores} == {120}  # --sizes without numbers: no curve


def test_pairs_called_like_a_set_are_kept_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    shutil.copy("pairs.jsonl", "mood.jsonl")
    arguments = ["--data", "mood.jsonl=mood", "--pairs", "mood.jsonl", "--pooling", "mean", "--random-seeds", "0"]
    report = report_of(folder, "one", *arguments)
    assert not report.problems and report.chosen("mood.jsonl", "one") is not None
    assert {item.texts for item in report.geometry if item.margin is not None} == {f"{folder}/mood.jsonl"}


def test_a_folder_that_is_no_report_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(DiptychError, match=r"index\.html"):
        main(["no-such-model", "--data", "no-such-set", "--out", str(tmp_path)])


def facts(name: str, *twins: str, twin_of: str | None = None) -> ModelFacts:
    return ModelFacts(name, name, twin_of, "llama", 10, 2, 4, "f", twins=twins)


def made_set(labels: list[int]) -> LabelledSet:
    split = Split(tuple(map(str, range(len(labels)))), np.array(labels, np.int64))
    return LabelledSet("mood", "Mood", "here", ("bad", "good"), split, split)


def probe_of(right: int, labels: list[int], cv_accuracy: float | None) -> ProbeScore:
    """A probe that is right about the first so many examples."""
    said = np.array([[label if row < right else 1 - label for row, label in enumerate(labels)]])
    at = Estimate(right / len(labels), 0, 1)
    return ProbeScore(len(labels), False, cv_accuracy, at, at, (), True, said, np.ones(said.shape, np.float32))


def test_comparisons() -> None:
    labels = [0, 1] * 20
    found = Measured(sets=[made_set(labels)])
    found.models = [facts("a", "a (random weights)"), facts("a (random weights)", twin_of="a"), facts("b")]
    found.chosen["mood"] = [
        Chosen(system, pooling, layer, probe_of(right, labels, cv))
        for system, pooling, layer, right, cv in (
            ("a", "last", 1, 36, 0.8),
            ("a", "mean", 0, 38, 0.9),
            ("a (random weights)", "last", 1, 20, 0.5),
            ("a (random weights)", "mean", 1, 19, 0.4),
            ("b", "last", 0, 39, 0.9),
            ("b", "mean", 1, 30, 0.8),
            ("tfidf", None, None, 25, 0.6),
            ("majority", None, None, 20, None),
        )
    ]
    results = comparisons(found, ("last", "mean"))
    made = {(item.first, item.second, item.pooling): item for item in results}
    pairs = [("a", "b"), ("a", "a (random weights)"), ("a", "tfidf"), ("b", "tfidf")]  # b has no twin: no comparison
    assert set(made) == {
        *((*pair, pooling) for pair in pairs for pooling in ("last", "mean", None)),
        *((name, "majority", None) for name in ("a", "b")),
    }
    best = made["a", "b", None]
    assert (best.first_layer, best.second_layer) == (0, 0) and best.difference.value == pytest.approx(-1 / 40)
    assert (made["a", "a (random weights)", None].second_layer, made["a", "tfidf", None].second_layer) == (1, None)
    # a at mean and TF-IDF are one test, whether by pooling or by choice.
    same = made["a", "tfidf", None]
    assert same.adjusted == made["a", "tfidf", "mean"].adjusted
    clearest = min(results, key=lambda item: item.mcnemar)
    assert clearest.adjusted == pytest.approx(12 * clearest.mcnemar)  # 3 + 3 + 2 + 2 tests of pairs, 2 with majority
    assert found.notes == []


def test_of_many_models_the_first_is_compared_and_a_note_says_so() -> None:
    labels = [0, 1] * 4
    found = Measured(sets=[made_set(labels)], models=[facts(f"m{number}") for number in range(8)])
    found.chosen["mood"] = [Chosen(item.name, "mean", 0, probe_of(5, labels, 0.5)) for item in found.models]
    pairs = {(item.first, item.second) for item in comparisons(found, ("mean",))}
    assert pairs == {("m0", f"m{number}") for number in range(1, 8)}
    assert found.notes == ["of 8 models only the first, m0, is compared with each of the others"]
    states = np.random.default_rng(0).normal(size=(1, 1, 16, 4)).astype(np.float32)
    memory = Memory(states.shape)  # type: ignore[arg-type]
    memory.write(0, states)
    found.encoded = {(item.name, "mood"): Encoded(1, ("mean",), {}, (), memory) for item in found.models}
    assert {item.first for item in similarities(found, ("mean",))} == {f"m{number}" for number in range(7)}
    assert found.notes[1:] == ["CKA is between the first 7 of 8 models and random twins alone"]


def test_the_report_and_its_pages_choose_the_same_of_equals() -> None:
    labels = [0, 1] * 4
    items = [
        Chosen("a", pooling, layer, probe_of(5, labels, 0.5))
        for pooling, layer in (("mean", 1), ("pred", 1), ("last", 2))
    ]
    for order in itertools.permutations(items):
        found = Measured(chosen={"mood": list(order)})
        scores = tuple(item.probe.score("mood", "a", item.layer, item.pooling) for item in reversed(order))
        for kept in (order, order[:2]):
            found.chosen["mood"] = list(kept)
            report = Report(
                "",
                "",
                "",
                {},
                {},
                (),
                (),
                tuple(score for score, item in zip(reversed(scores), order, strict=True) if item in kept),
            )
            best, chosen = found.best("mood")["a"], report.chosen("mood", "a")
            assert chosen is not None and (chosen.layer, chosen.pooling) == (best.layer, best.pooling)


def test_a_sample_of_a_set_sorted_by_class_holds_all_classes() -> None:
    rows = sample(made_set([0] * 60 + [1] * 30), 30)
    assert rows.tolist() == sorted(set(rows.tolist())) and len(rows) == 30
    assert (rows >= 60).sum() == 10
    assert sample(made_set([0, 1]), 30).tolist() == [0, 1]


def test_cka_of_wide_representations_is_the_same() -> None:
    draw = np.random.default_rng(0)
    narrow = [draw.normal(size=(20, width)) for width in (6, 8)]
    # The same clouds in more dimensions than there are texts.
    wide = [x @ np.linalg.qr(draw.normal(size=(50, x.shape[1])))[0].T for x in narrow]
    expected = linear_cka_matrix(narrow, narrow)
    for first, second in ((wide, wide), (wide, narrow), (narrow, wide)):
        np.testing.assert_allclose(linear_cka_matrix(first, second), expected, atol=1e-9)

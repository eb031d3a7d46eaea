"""Copies, groups, classes and single predictions in a report, and what is said where there is no terminal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import binomtest

from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError
from probes import progress
from probes.examples import FILE, write_predictions
from probes.probing.statistics import compare, mcnemar, score_predictions
from probes.progress import Progress
from probes.reporting import check_folder
from probes.reporting.balance import shift_sentence, shifted
from probes.reporting.summary import summarise
from probes.reporting.tables import class_table, data_table
from probes.results import SetFacts
from probes.run import ProbingRun
from probes.sets import SetOptions, find_overlaps, load_set
from tests.probes.test_probes import folder, report_of, settings  # noqa: F401


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_copies_do_not_decide_anything(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """Each text stands eight times, and its label means nothing."""
    draw = np.random.default_rng(0)
    labels = draw.permutation(np.arange(60) % 2).tolist()
    texts = [f"item {number * 7} is {'fine' if number % 3 else 'poor'}" for number in range(60)]
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    write_rows(tmp_path / "set" / "train.jsonl", [row for row in rows[:40] for _ in range(8)])
    write_rows(tmp_path / "set" / "test.jsonl", [row for row in rows[40:] for _ in range(8)])
    report = report_of(
        tmp_path,
        f"{folder}/one",
        "--data",
        f"copies={tmp_path}/set",
        "--random-seeds",
        "0",
        "--sizes",
        "--pooling",
        "mean",
    )
    assert not report.problems
    (facts,) = report.sets
    assert (facts.train_copies, facts.test_copies) == (280, 140)
    for system in ("one", "tfidf"):
        score = report.chosen("copies", system)
        assert score is not None and score.cv_accuracy is not None
        assert score.cv_accuracy < 0.75  # 1.0 where folds divide copies
        # 20 texts, not 160: about 2 x 0.98 x sqrt(0.25 / 20).
        assert score.accuracy.high - score.accuracy.low > 0.3
    assert any("420 texts repeat another of the same split on copies" in one for one in summarise(report).cautions)
    table = data_table(report)
    assert table is not None and [table.rows[0].cells[place].note for place in (3, 4)] == ["280 copies", "140 copies"]


def test_copies_are_drawn_together_and_are_one_in_tests() -> None:
    draw = np.random.default_rng(1)
    gold = draw.integers(0, 2, 60)
    first, second = (np.where(draw.random(60) < right, gold, 1 - gold) for right in (0.8, 0.6))
    clusters = np.repeat(np.arange(60), 5)
    alone = score_predictions(gold, first, 2)
    copied = score_predictions(gold[clusters], first[clusters], 2, clusters=clusters)
    # Five copies of every text are no more evidence than one.
    assert copied == alone
    assert score_predictions(gold[clusters], first[clusters], 2).accuracy.low > alone.accuracy.low + 0.03
    paired = compare(gold[clusters], first[clusters], second[clusters], clusters=clusters)
    expected = compare(gold, first, second)
    assert paired.mcnemar == expected.mcnemar
    assert (paired.difference.low, paired.difference.high) == pytest.approx(
        (expected.difference.low, expected.difference.high)
    )
    wins, losses = int(((first == gold) & (second != gold)).sum()), int(((first != gold) & (second == gold)).sum())
    assert paired.mcnemar == binomtest(wins, wins + losses).pvalue
    assert mcnemar(np.array([1, 1, 0, 1]), np.array([0, 0, 1, 0]), [0, 0, 0, 1]) == binomtest(2, 2).pvalue
    with pytest.raises(DiptychError, match="one per example"):
        score_predictions(gold, first, 2, clusters=clusters)


def test_clusters_of_unequal_size_against_drawing_them_one_by_one() -> None:
    draw = np.random.default_rng(2)
    clusters = np.repeat(np.arange(40), draw.integers(1, 6, 40))
    gold = draw.integers(0, 3, len(clusters))
    said = np.where(draw.random(len(clusters)) < 0.6, gold, (gold + 1) % 3)
    found = score_predictions(gold, said, 3, clusters=clusters)
    members = [np.flatnonzero(clusters == cluster) for cluster in range(40)]
    shares = []
    for _ in range(4000):
        rows = np.concatenate([members[cluster] for cluster in draw.integers(0, 40, 40)])
        shares.append(np.mean(gold[rows] == said[rows]))
    assert found.accuracy.value == pytest.approx(np.mean(gold == said))
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx(np.quantile(shares, [0.025, 0.975]), abs=0.012)


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    rows = [
        {"text": f"text {number}", "label": number % 2, "author": f"a{number // 6}" if number < 240 else None}
        for number in range(300)
    ]
    write_rows(tmp_path / "one.jsonl", rows)
    found = load_set(str(tmp_path / "one.jsonl"), SetOptions(group="author"))
    train, test = (set(split.groups) - {None} for split in (found.train, found.test))
    assert train and test and train.isdisjoint(test)
    assert found.train.copies.num_clusters == len(train) + found.train.groups.count(None)
    assert any("groups as a whole" in note for note in found.notes)
    assert found.fingerprint != load_set(str(tmp_path / "one.jsonl")).fingerprint
    for split, part in (("train", rows[:200]), ("test", rows[200:])):
        write_rows(tmp_path / "two" / f"{split}.jsonl", part)
    two = load_set(str(tmp_path / "two"), SetOptions(group="author"))
    assert find_overlaps([two])["two"] == ("4 of 100 test texts are of groups in train",)
    with pytest.raises(DiptychError, match=r"no column 'writer'; .*--group"):
        load_set(str(tmp_path / "two"), SetOptions(group="writer"))
    write_rows(tmp_path / "bad.jsonl", [row | {"author": 1.5} for row in rows])
    with pytest.raises(DiptychError, match=r"bad\.jsonl:1: group 1\.5 is of type float"):
        load_set(str(tmp_path / "bad.jsonl"), SetOptions(group="author"))


@pytest.mark.slow
def test_predictions_repeat_the_tests_of_the_report(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    arguments = [f"{folder}/one", f"{folder}/other", "--data", f"mood={folder}/mood", "--random-seeds", "0", "--sizes"]
    run = ProbingRun(settings(tmp_path, *arguments), Ranks(0, 1, torch.device("cpu")), "")
    report = run.run()
    rows = pq.read_table(write_predictions(run.measured, tmp_path)).to_pylist()
    said: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        said.setdefault((row["system"], row["layer"], row["pooling"]), []).append(row)
    scores = {
        (score.system, score.layer, score.pooling): score.accuracy.value
        for score in report.scores
        if not score.shuffled and (score.system, score.layer, score.pooling) in said
    }
    assert len(scores) == len(said) == 6  # two models at two poolings, words, majority
    for key, own in said.items():
        assert [row["test"] for row in own] == list(range(60))
        assert np.mean([row["gold"] == row["predicted"] for row in own]) == pytest.approx(scores[key])
    for compared in report.comparisons:
        right = [
            [row["gold"] == row["predicted"] for row in rows if row["system"] == name and row["layer"] == layer]
            for name, layer in ((compared.first, compared.first_layer), (compared.second, compared.second_layer))
        ]
        if compared.pooling is None and {len(side) for side in right} == {60}:
            wins, losses = (int(np.sum(np.array(right[side]) & ~np.array(right[1 - side]))) for side in (0, 1))
            assert compared.mcnemar == (binomtest(wins, wins + losses).pvalue if wins + losses else 1.0)
    assert {row["chosen"] for row in rows} == {True, False} and not any(row["in_train"] for row in rows)
    assert len({row["text_sha256"] for row in rows}) == 60
    check_folder(tmp_path)
    (tmp_path / FILE).write_text("mine")
    with pytest.raises(DiptychError, match=r"predictions\.parquet: is not from an earlier report"):
        check_folder(tmp_path)


def facts_with(train: tuple[int, ...], test: tuple[int, ...]) -> SetFacts:
    names = ("bad", "good", "fine")[: len(train)]
    return SetFacts("mood", "Mood", "here", names, sum(train), sum(test), test, None, (), (), "f", train)


def test_a_shift_of_the_classes_is_told() -> None:
    assert shifted(facts_with((500, 500), (300, 700)))
    assert "bad is 50.0 % of train and 30.0 % of test" in shift_sentence(facts_with((500, 500), (300, 700)))
    assert not shifted(facts_with((500, 500), (480, 520)))  # small
    assert not shifted(facts_with((50, 50), (4, 6)))  # by chance
    assert not shifted(facts_with((5000, 0), (500, 0)))
    assert shifted(facts_with((400, 400, 200), (300, 300, 400)))


def test_the_report_has_the_classes_of_both_splits(folder: Path) -> None:  # noqa: F811
    report = report_of(
        folder, f"{folder}/one", "--data", f"mood={folder}/mood", "--random-seeds", "0", "--sizes", "--pooling", "mean"
    )
    assert report.sets[0].train_counts == (60, 60)
    table = class_table(report)
    assert table is not None and [[cell.text for cell in row.cells] for row in table.rows] == [
        ["mood", name, "50.0", "50.0", "0.0"] for name in report.sets[0].label_names
    ]


def test_without_a_terminal_a_line_comes_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("encoding, plain", 1000, "text") as bar:
        for _ in range(10):
            now[0] += 12
            bar.advance(100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "encoding, plain: 300 of 1,000 texts, about 84 s left",
        "encoding, plain: 600 of 1,000 texts, about 48 s left",
        "encoding, plain: 900 of 1,000 texts, about 12 s left",
        "encoding, plain: 1,000 of 1,000 texts, done in 2 min",
    ]
    with Progress("quick", 3, "probe") as bar:
        bar.reach(3)
    with Progress("other rank", 3, "probe", shown=False) as bar:
        now[0] += 100
        bar.reach(2)
    assert capsys.readouterr().err == ""

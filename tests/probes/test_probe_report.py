"""The report of a probing run: what it says, what it looks like in a browser, what it leaves alone."""

import fnmatch
import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import probes
from pretrain.runtime.errors import DiptychError
from probes.reporting import check_folder, write_projector, write_report, write_tensorboard
from probes.reporting.canvas import pens
from probes.reporting.charts import draw_charts
from probes.reporting.lookup import clear_best, compared, display_name
from probes.reporting.page import render
from probes.reporting.series import layer_lines
from probes.reporting.summary import summarise
from probes.reporting.tables import data_table, main_table, model_table, settings_table
from probes.results import Comparison, Estimate, ModelFacts, Report, Score, SetFacts, read_report
from tests.support.probe_reports import HOSTILE, fake_report

REPORT = fake_report()
SMALL = fake_report(1, ("plain", "mixed"), poolings=("mean",), layers=3, points=20)
BARE = fake_report(1, ("plain",), poolings=("mean",), extras=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("probes") / "report"
    assert write_report(REPORT, path) == path / "index.html"
    return path


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def markdown(folder: Path) -> str:
    return (folder / "report.md").read_text(encoding="utf-8")


# What it says


def estimate(value: float, half: float = 0.02) -> Estimate:
    return Estimate(value, value - half, value + half)


def score(system: str, value: float, layer: int | None = 5, pooling: str | None = "mean", **changes: Any) -> Score:
    made = Score("rt", system, False, layer, pooling, 100, 1, value, estimate(value), estimate(value), 1.0, True)
    return replace(made, **changes)


def small_report(
    scores: list[Score], comparisons: tuple[Comparison, ...] = (), *, control: bool | None = False
) -> Report:
    models = tuple(
        ModelFacts(name, name, of, "llama", 10, 7, 8, "f" * 64, twins=() if of else ("mixed random",))
        for name, of in (("mixed", None), ("plain", None), ("mixed random", "mixed"))
        if any(one.system == name for one in scores)
    )
    facts = SetFacts("rt", "Tomatoes", "here", ("bad", "good"), 100, 50, (25, 25), control, (), (), "f" * 64)
    return Report("t", "2026-01-31T12:00:00", "c", {}, {}, models, (facts,), tuple(scores), comparisons)


def comparison(first: str, second: str, difference: float, adjusted: float, pooling: str | None = None) -> Comparison:
    return Comparison(
        *("rt", first, second, 5, 4, pooling, estimate(difference), adjusted / 2, adjusted, adjusted < 0.05)
    )


def test_the_summary_reads_as_a_sentence() -> None:
    scores = [score("mixed", 0.741), score("plain", 0.709, 4), score("tfidf", 0.79, None, None)]
    scores += [score("mixed random", 0.58, 2), score("majority", 0.5, None, None)]
    # The selectivity is that of the same probe, whatever others reach.
    scores += [score("plain", 0.6, shuffled=True), score("mixed", 0.61, 4, shuffled=True)]
    scores.append(score("mixed", 0.514, shuffled=True))
    # The other way round than the sentence.
    comparisons = (comparison("plain", "mixed", -0.032, 0.003), comparison("tfidf", "mixed", 0.049, 0.2))
    found = summarise(small_report(scores, comparisons))
    assert found.sets == (
        "On Tomatoes the mean representation of `mixed` at layer 5 of 6, which cross-validation prefers, reads "
        "sentiment with 74.1 % accuracy (95 % interval 72.1 to 76.1), 3.2 points above `plain` (70.9 %; different, "
        "p = .003 after Holm), 4.9 points below TF-IDF words (79.0 %; no difference shown, p = .20 after Holm). "
        "Random weights of the same architecture reach 58.0 %, the same probe of shuffled labels reaches 51.4 % "
        "(selectivity 22.7 points), the most frequent class alone gives 50.0 %.",
    )
    assert found.headline == (
        "No difference between `mixed` and TF-IDF words is shown.",
        "`mixed` is 3.2 points above `plain` on 1 of 1 sentiment set.",
    )


def test_the_model_is_the_one_that_cross_validation_prefers() -> None:
    scores = [score("mixed", 0.74, cv_accuracy=0.70), score("plain", 0.71, 4, cv_accuracy=0.72)]
    found = summarise(small_report(scores, (comparison("mixed", "plain", 0.03, 0.01),)))
    assert "representation of `plain` at layer 4 of 6, which" in found.sets[0]
    assert "3.0 points below `mixed` (74.0 %; different, p = .010 after Holm)" in found.sets[0]


def test_models_that_share_a_twin_are_all_held_against_it() -> None:
    scores = [score("mixed", 0.7, cv_accuracy=0.6), score("plain", 0.71), score("mixed random", 0.69)]
    comparisons = (comparison("mixed", "mixed random", 0.01, 0.01), comparison("mixed random", "plain", -0.02, 0.4))
    report = small_report(scores, comparisons)
    found = summarise(report)
    assert "Random weights of the same architecture reach 69.0 %" in found.sets[0]
    assert "That it reads more than random weights do is not shown (p = .40)." in found.sets[0]
    assert found.headline == (
        "Shown to have learned sentiment, significantly above random weights of the same architecture: "
        "`mixed` on 1 of 1 set, `plain` on 0 of 1 set (differences of 1.0 to 2.0 points).",
    )
    table = main_table(report)
    assert table is not None
    assert table.head == ("set", "mixed", "plain", "random weights (mixed, plain)")
    models = model_table(report)
    assert models is not None
    assert [row.cells[0].note for row in models.rows] == ["", "", "random weights of mixed, plain"]
    many = replace(report, models=(*report.models, *(replace(report.models[0], name=name) for name in "abc")))
    assert display_name(many, "mixed random") == "random weights (mixed and 4 more)"
    assert display_name(many, "mixed") == "mixed"


def test_several_seeds_of_random_weights_are_shown_as_mean_and_spread() -> None:
    seeds = ("mixed random", "mixed random 1", "mixed random 2")
    values = (0.56, 0.60, 0.70)
    scores = [score("mixed", 0.72), score("plain", 0.71)]
    scores += [score(name, value) for name, value in zip(seeds, values, strict=True)]
    comparisons = tuple(
        comparison(name, seed, reached - value, 0.2 if value == 0.70 else 0.01)
        for name, reached in (("mixed", 0.72), ("plain", 0.71))
        for seed, value in zip(seeds, values, strict=True)
    )
    made = small_report(scores, comparisons)
    models = tuple(replace(model, twins=seeds) for model in made.models if not model.random_twin_of)
    twins = tuple(
        replace(made.models[-1], name=name, random_twin_of="mixed", twins=(), random_seed=number)
        for number, name in enumerate(seeds)
    )
    report = replace(made, models=models + twins)
    found = summarise(report)
    assert (
        "Random weights of the same architecture reach 62.0 % (mean of 3 seeds, standard deviation 7.2 points)."
        in found.sets[0]
    )
    assert "That it reads more than random weights do is not shown for 1 of 3 seeds (p = .20)." in found.sets[0]
    assert found.headline[-1] == (
        "Neither model is shown to have learned sentiment: not significantly above random weights of the same "
        "architecture, with all 3 seeds of these (differences of 1.0 to 16.0 points)."
    )
    table = main_table(report)
    assert table is not None
    assert table.head == ("set", "mixed", "plain", "random weights (mixed, plain)")
    assert table.groups == (("models", 2), ("controls: random weights", 1))
    assert (table.rows[0].cells[-1].text, table.rows[0].cells[-1].note) == ("62.0", "sd 7.2\n3 seeds")
    assert "mean and standard deviation (sd) over seeds" in table.caption
    assert display_name(report, "mixed random 1") == "random weights, seed 1 (mixed, plain)"
    assert [line.label for line in layer_lines(report, "rt", "mean")[2:]] == [
        f"random weights, seed {number}" for number in range(3)
    ]
    listed = model_table(report)
    assert listed is not None
    assert [row.cells[0].note for row in listed.rows[2:]] == [
        f"random weights of mixed, plain, seed {number}" for number in range(3)
    ]


def test_the_summary_is_honest_where_nothing_is_shown() -> None:
    scores = [score("mixed", 0.51, 0, "last"), score("plain", 0.505, 4), score("mixed random", 0.50)]
    scores += [score("majority", 0.5, None, None), score("tfidf", 0.52, None, None)]
    comparisons = (comparison("mixed", "plain", 0.005, 0.6), comparison("mixed", "mixed random", 0.01, 1.0))
    found = summarise(small_report(scores, comparisons))
    assert "the last-token representation of `mixed` at the embeddings" in found.sets[0]
    assert "(50.5 %; no difference shown, p = .60 after Holm)" in found.sets[0]
    assert "beside TF-IDF words (52.0 %; not compared)" in found.sets[0]
    assert "That it reads more than random weights do is not shown (p = 1)." in found.sets[0]
    assert found.sets[0].endswith("The interval does not exclude the most frequent class: no reading is shown.")
    assert found.headline == (
        "`mixed` is not shown to have learned sentiment: not significantly above random weights of the same "
        "architecture (difference of 1.0 points).",
        "No difference between `mixed` and `plain` is shown (0.5 points; 1 sentiment set).",
    )


def test_the_first_lines_are_plain() -> None:
    scores = [score("mixed", 0.52), score("plain", 0.53), score("mixed random", 0.52), score("tfidf", 0.62, None, None)]
    nothing = [comparison(name, "mixed random", gap, 0.5) for name, gap in (("mixed", 0.0), ("plain", 0.01))]
    words = [comparison("tfidf", "mixed", 0.10, 0.001), comparison("plain", "tfidf", -0.09, 0.001)]
    found = summarise(small_report(scores, (*nothing, *words)))
    assert found.headline == (
        "Neither model is shown to have learned sentiment: not significantly above random weights of the same "
        "architecture (differences of 0.0 to 1.0 points).",
        "TF-IDF words beat both models by 9.0 to 10.0 points.",
    )
    learned = [comparison(name, "mixed random", 0.1, 0.001) for name in ("mixed", "plain")]
    beaten = [comparison(name, "tfidf", 0.1, 0.001) for name in ("mixed", "plain")]
    found = summarise(small_report(scores, (*learned, *beaten)))
    assert found.headline == (
        "Both models learned sentiment: significantly above random weights of the same architecture "
        "(differences of 10.0 points).",
        "Both models beat TF-IDF words by 10.0 points.",
    )
    # Random weights alone are no floor where the most frequent class is not beaten.
    found = summarise(
        small_report(scores, (learned[0], comparison("mixed", "majority", 0.01, 0.5), beaten[0], words[1]))
    )
    assert found.headline == (
        "`mixed` is not shown to have learned sentiment: not significantly above random weights of the same "
        "architecture and the most frequent class (difference of 10.0 points from random weights).",
        "Of 2 comparisons TF-IDF words beat a model in 1 (by 9.0 points), are beaten in 1 (by 10.0 points).",
    )


def test_settings_tell_models_apart() -> None:
    report = small_report([score("mixed", 0.7), score("plain", 0.7), score("mixed random", 0.5)])
    table = settings_table(report)
    assert table is not None
    assert table.head == ("model", "parameters")
    training = {"objective.lambda": 0.5, "objective.distance": "mse", "objective.predictors": 2}
    first = replace(report.models[0], training=training, step=1000, tokens=65536)
    second = replace(report.models[1], training=training | {"objective.lambda": 0.0})
    table = settings_table(replace(report, models=(first, second, report.models[2])))
    assert table is not None
    assert [[cell.text for cell in row.cells] for row in table.rows] == [
        ["mixed", "0.5", "mse", "2", "1,000", "65,536", "10"],
        ["plain", "0", "–", "–", "–", "–", "10"],
    ]


def test_long_names_are_shown_whole() -> None:
    title, name = "A labelled set whose title is longer than a chart is wide, and then some words", "model-" + "x" * 50
    long = replace(SMALL.sets[0], title=title)
    scores = tuple(replace(one, system=name) if one.system == "plain" else one for one in SMALL.scores)
    models = (replace(SMALL.models[0], name=name), *SMALL.models[1:])
    (chart,) = (
        one for one in draw_charts(replace(SMALL, sets=(long,), scores=scores, models=models)) if one.kind == "layers"
    )
    shown = " ".join(re.findall(r">([^<]+)</text>", chart.svg))
    assert title in shown and name in shown and "…" not in shown
    assert "var(--random)" in chart.svg  # no model's colour


def test_tests_of_other_representations_are_no_ground_for_a_claim() -> None:
    scores = [score("mixed", 0.74), score("plain", 0.71), score("mixed random", 0.5), score("tfidf", 0.6, None, None)]
    others = ("plain", "mixed random", "tfidf")
    found = summarise(small_report(scores, tuple(comparison("mixed", other, 0.03, 0.001, "mean") for other in others)))
    assert found.headline == ()
    assert "beside `plain` (71.0 %; not compared), beside TF-IDF words (60.0 %; not compared)." in found.sets[0]


@pytest.mark.parametrize(
    ("value", "majority", "end"),
    [
        # The interval of the best of many is no test; the adjusted comparison is.
        (0.56, (0.06, 0.2), "is above the most frequent class is not shown (p = .20): no reading is shown."),
        (0.44, (-0.06, 0.01), "is above the most frequent class is not shown (p = .010): no reading is shown."),
        (0.51, (0.01, 0.04), "gives 50.0 %."),
        (0.51, None, "The interval does not exclude the most frequent class: no reading is shown."),
    ],
)
def test_reading_is_held_against_the_most_frequent_class(
    value: float, majority: tuple[float, float] | None, end: str
) -> None:
    comparisons = (comparison("mixed", "majority", *majority),) if majority else ()
    found = summarise(small_report([score("mixed", value), score("majority", 0.5, None, None)], comparisons))
    assert found.sets[0].endswith(end)


def test_of_many_models_it_says_how_many_pairs_were_compared() -> None:
    names = [f"m{number}" for number in range(8)]
    models = tuple(ModelFacts(name, name, None, "llama", 10, 7, 8, "f" * 64) for name in names)
    comparisons = tuple(comparison("m0", name, 0.1, 0.01) for name in names[1:])
    report = replace(small_report([score(name, 0.7) for name in names], comparisons), models=models)
    found = summarise(replace(report, notes=("only the first is compared",)))
    assert found.headline == (
        "7 of 7 comparisons between the 8 models show a difference (1 sentiment set; 7 of 28 pairs were compared).",
    )
    assert found.cautions == ("1 thing was done otherwise than asked; see Notes.",)


def test_a_control_set_is_not_called_sentiment() -> None:
    found = summarise(small_report([score("mixed", 0.9)], control=True))
    assert found.sets[0].startswith("On the control set Tomatoes the mean")
    assert "reads labels that are not sentiment with 90.0 %" in found.sets[0]
    assert not found.headline


def test_labels_that_are_not_known_are_not_called_sentiment() -> None:
    scores = [score("mixed", 0.9), score("plain", 0.8), score("mixed random", 0.5)]
    comparisons = (comparison("mixed", "plain", 0.1, 0.01), comparison("mixed", "mixed random", 0.4, 0.01))
    report = small_report(scores, comparisons, control=None)
    found = summarise(report)
    assert found.sets[0].startswith("On Tomatoes the mean representation")
    assert "reads the label with 90.0 %" in found.sets[0]
    assert "sentiment" not in " ".join((*found.headline, *found.sets))
    assert len(found.headline) == 2
    data, main = data_table(report), main_table(report)
    assert data is not None and main is not None
    assert (data.rows[0].cells[1].text, main.rows[0].cells[0].note) == ("not known", "")


def test_cautions() -> None:
    assert summarise(REPORT).cautions == (
        "2 things could not be done; see Problems.",
        "1 thing was done otherwise than asked; see Notes.",
        "6 of 366 probes stopped before they had converged.",
        "Texts are shared between splits or sets on SST-5; see Data.",
        "Texts longer than a model's context or --max-tokens were cut, 12 cases; see Data.",
    )
    untested = summarise(small_report([score("mixed", 0.9), score("plain", 0.8)]))
    assert untested.cautions == ("The models were not compared on the same examples: differences are untested.",)
    assert summarise(small_report([])).sets == ("On Tomatoes no model was scored.",)


def test_only_a_best_that_is_different_is_bold() -> None:
    scores = [score("mixed", 0.74), score("plain", 0.71)]
    for comparisons, best in (
        ((), None),
        ((comparison("plain", "mixed", -0.03, 0.01),), "mixed"),
        ((comparison("mixed", "plain", 0.03, 0.2),), None),
        ((comparison("mixed", "plain", 0.03, 0.01, "mean"),), None),
    ):
        report = small_report(scores, comparisons)
        assert clear_best(report, "rt") == best
        table = main_table(report)
        assert table is not None
        assert [cell.strong for cell in table.rows[0].cells] == [False, best == "mixed", False]
    report = small_report(scores, (comparison("mixed", "plain", 0.03, 0.01, "mean"),))
    assert (clear_best(report, "rt", "mean"), clear_best(report, "rt", "last")) == ("mixed", None)


def test_a_comparison_can_be_turned() -> None:
    report = small_report(
        [], (replace(comparison("a", "b", 0.03, 0.2, "mean"), difference=Estimate(0.03, -0.01, 0.05)),)
    )
    turned = compared(report, "rt", "b", "a", "mean")
    assert turned is not None
    assert turned.difference == Estimate(-0.03, -0.05, 0.01)
    assert (turned.first_layer, turned.second_layer) == (4, 5)
    assert compared(report, "rt", "b", "a", "last") is None
    assert compared(report, "rt", "b", "a", None) is None


# What is written


def test_json_gives_the_report_back(folder: Path) -> None:
    assert read_report(folder / "report.json") == REPORT


def test_every_figure_exists_and_is_linked(folder: Path, markdown: str) -> None:
    linked = re.findall(r"\]\((figures/[^)]+)\)", markdown)
    assert len(linked) == len(set(linked)) == 35
    assert {f"figures/{path.name}" for path in (folder / "figures").iterdir()} == set(linked)
    assert all((folder / path).read_bytes().startswith(b"\x89PNG") for path in linked)
    assert not [path for path in folder.rglob(".*")]


def test_markdown_has_the_figures(markdown: str) -> None:
    chosen = REPORT.chosen("rotten_tomatoes", "mixed_λ0.1")
    assert chosen is not None
    assert f"{100 * chosen.accuracy.value:.1f} (71.7–77.1, L5 mean)" in markdown
    assert "| Rotten Tomatoes (mean of tokens) | plain-4000 (layer 5) | mixed\\_λ0.1 (layer 5) | **−3.8**" in markdown
    assert "12,345,678" in markdown
    assert REPORT.command in markdown
    assert "## Notes\n\n- more than 6 models: only the first is compared" in markdown
    assert "they leave out the variation over training subsets" in markdown
    assert len(re.findall(r"^\| (?:rotten\\_tomatoes|sst5|subj) \|", markdown, re.M)) == len(REPORT.scores) + 70
    tables = re.findall(r"(?:^\|.*\n)+", markdown, re.M)
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_hostile_texts_are_inert(html: str, markdown: str) -> None:
    assert HOSTILE not in html
    assert html.count("<script>") == 1
    assert "<img" not in html
    assert "\u202e" not in html + markdown
    assert "<script" not in markdown
    name = '<b>x</b>`$\\_{x}$" style="fill:red'
    hostile = replace(
        SMALL,
        title=HOSTILE,
        models=(replace(SMALL.models[0], name=name), *SMALL.models[1:]),
        scores=tuple(replace(one, system=name) if one.system == "plain" else one for one in SMALL.scores),
        sets=(replace(SMALL.sets[0], title=HOSTILE, label_names=("{{script}}", "_</style>")),),
    )
    page = render(hostile, draw_charts(hostile))
    assert "<b>x" not in page
    assert "{fill:red}" not in page
    assert page.count("<script>") == page.count("</style>") == 1
    assert "{{script}}" in page


def test_the_page_needs_nothing_else(html: str) -> None:
    assert len(html) < 1_000_000
    assert not re.findall(r'(?:src|href)="(?!#|data:image/png)[^"]*"', html)
    assert "@import" not in html
    assert "url(http" not in html
    assert "default-src 'none'" in html
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(ids)
    assert len(re.findall(r'<svg viewBox="[^"]+" role="img" aria-label="[^"]{20,}"', html)) == 35
    # Every colour of a chart follows the theme.
    assert not re.search(r"(?:fill|stroke):#", html)


def test_what_must_be_known_is_on_the_page(html: str) -> None:
    assert '<section id="notes">\n<h2>Notes</h2>\n<ul>\n<li>more than 6 models: only the first is' in html
    assert "they leave out the variation over training subsets" in html
    assert "random weights (plain-1000, plain-4000)</th>" in html
    assert "random: plain-1000 + 1 more</text>" in html
    assert "each at its chosen pooling" in html


def test_what_pages_are_made_of_is_in_the_packages() -> None:
    root = Path(probes.__file__).parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    package_data = project["tool"]["setuptools"]["package-data"]
    parts = [path for name in ("pretrain", "probes") for path in (root / name).rglob("templates/*")]
    assert {path.suffix for path in parts} == {".j2", ".css", ".js"}
    assert len(parts) == 8
    for path in parts:
        package, *rest = path.relative_to(root).parts
        assert any(fnmatch.fnmatch("/".join(rest), pattern) for pattern in package_data[package]), path


@pytest.mark.slow
def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(SMALL, tmp_path / name)
    first = {path.relative_to(tmp_path / "a"): path.read_bytes() for path in (tmp_path / "a").rglob("*.*")}
    second = {path.relative_to(tmp_path / "b"): path.read_bytes() for path in (tmp_path / "b").rglob("*.*")}
    assert len(first) > 5
    assert first == second


def test_parts_without_content_are_left_out(tmp_path: Path) -> None:
    page = write_report(BARE, tmp_path).read_text(encoding="utf-8")
    sections = re.findall(r'<section id="(\w+)">', page)
    assert sections == ["summary", "accuracy", "layers", "data", "models", "scores", "settings"]
    assert re.findall(r'<a href="#(\w+)">', page) == sections
    assert "data-filter" not in page
    assert '<form id="filters"' not in page
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.M) == [
        *("Accuracy", "Accuracy by layer", "Data", "Models", "All scores", "Settings"),
    ]


def test_a_report_without_scores_is_a_report(tmp_path: Path) -> None:
    failed = replace(BARE, scores=(), problems=("rotten_tomatoes: one class only",))
    page = write_report(failed, tmp_path).read_text(encoding="utf-8")
    assert "On Rotten Tomatoes no model was scored." in page
    assert "1 thing could not be done" in page
    assert not (tmp_path / "figures").exists()


def test_files_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.png").write_bytes(b"mine")
    write_report(BARE, tmp_path)
    write_report(replace(BARE, title="Second"), tmp_path)
    assert "Second" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "figures" / "mine.png").read_bytes() == b"mine"


def test_pictures_that_a_report_no_longer_has_go(tmp_path: Path) -> None:
    both = replace(BARE, sets=(*BARE.sets, replace(BARE.sets[0], name="sst2", title="SST-2")))
    both = replace(both, scores=(*BARE.scores, *(replace(one, set="sst2") for one in BARE.scores)))
    write_report(both, tmp_path)
    picture = tmp_path / "figures" / "layers-sst2-mean.png"
    shutil.copy(picture, tmp_path / "figures" / "kept.png")  # under a name of one's own
    write_report(BARE, tmp_path)
    assert not picture.exists()
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"kept.png", "layers-rotten-tomatoes-mean.png"}


@pytest.mark.parametrize("name", ["index.html", "report.md", "report.json", "figures/layers-rotten-tomatoes-mean.png"])
def test_a_file_of_that_name_that_is_not_ours_stops_it(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    for write in (check_folder, lambda folder: write_report(BARE, folder)):
        with pytest.raises(DiptychError, match=re.escape(f"{tmp_path / name}: is not from an earlier report")):
            write(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiptychError, match="file: is not a folder"):
        check_folder(tmp_path / "file")
    with pytest.raises(DiptychError, match="file/inner: cannot be written"):
        write_report(BARE, tmp_path / "file" / "inner")


def test_a_folder_that_a_report_can_go_into_is_left_as_it_is(tmp_path: Path) -> None:
    check_folder(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    write_report(BARE, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    check_folder(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    import matplotlib

    before = matplotlib.rcParams["svg.fonttype"], matplotlib.rcParams["text.parse_math"]
    with pens():
        assert matplotlib.rcParams["text.parse_math"] is False
    assert (matplotlib.rcParams["svg.fonttype"], matplotlib.rcParams["text.parse_math"]) == before


# TensorBoard


def test_scalars_in_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_tensorboard(REPORT, tmp_path)
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    events.Reload()
    by_layer = events.Scalars("probe/sst5/mixed_λ0.1/mean/accuracy")
    assert [event.step for event in by_layer] == list(range(7))
    chosen = REPORT.chosen("sst5", "mixed_λ0.1", "mean")
    assert chosen is not None
    assert chosen.accuracy.value in [pytest.approx(event.value) for event in by_layer]
    assert len(events.Scalars("probe/sst5/mixed_λ0.1/mean/shuffled_accuracy")) == 1
    assert [event.step for event in events.Scalars("probe/sst5/tfidf/accuracy")] == [0]
    assert [event.step for event in events.Scalars("probe_training/sst5/plain/last/macro_f1")] == [1000, 4000]
    assert not [tag for tag in events.Tags()["scalars"] if tag.startswith("probe_training/sst5/mixed")]


def test_a_second_report_takes_the_place_of_the_first_in_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path))
    writer.add_scalar("loss", 1.5, 1)
    writer.add_embedding(np.eye(2), ["a", "b"], tag="mine")
    writer.close()
    others = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    write_tensorboard(SMALL, tmp_path)
    write_projector(tmp_path, "sst5, plain", np.eye(2), ["bad", "good"], ["x", "y"])
    write_projector(tmp_path, "sst5, mixed", np.eye(2), ["bad", "good"], ["x", "y"])
    mine = tmp_path / "diptych-probes" / "sst5-mixed" / "notes.txt"
    mine.write_text("mine")
    write_tensorboard(BARE, tmp_path)
    write_projector(tmp_path, "sst5, new", np.eye(2), ["bad", "good"], ["x", "y"])
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    assert "loss" in tags
    assert "probe/rotten_tomatoes/plain/mean/accuracy" in tags
    assert not [tag for tag in tags if "mixed" in tag]
    assert len(list(tmp_path.glob("events.*"))) == 2
    shown = (tmp_path / "projector_config.pbtxt").read_text(encoding="utf-8")
    assert re.findall(r'tensor_name: "([^"]*)"', shown) == ["mine:00000", "sst5, new"]
    assert sorted(path.name for path in (tmp_path / "diptych-probes").iterdir()) == ["sst5-mixed", "sst5-new"]
    assert list(mine.parent.iterdir()) == [mine]
    assert {path: path.read_bytes() for path in others if path.suffix != ".pbtxt"} == {
        path: content for path, content in others.items() if path.suffix != ".pbtxt"
    }


def test_the_projector_plugin_reads_what_is_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
    from werkzeug.test import Client

    vectors = np.arange(6, dtype=np.float32).reshape(3, 2) / 7
    texts = ["a\ttab", "two\nlines", "x" * 1000]
    write_projector(tmp_path, "sst5/plain layer 5", vectors, ["bad", "good", "bad"], texts)
    write_projector(tmp_path, "sst5 plain layer-5", vectors[:2] * 2, ["bad", "good"], texts[:2])
    write_projector(tmp_path, "sst5/plain layer 5", vectors * 3, ["bad", "good", "bad"], texts)
    provider = MultiplexerDataProvider(EventMultiplexer(), str(tmp_path))
    plugin = ProjectorPlugin(TBContext(logdir=str(tmp_path), data_provider=provider))
    apps = plugin.get_plugin_apps()
    shown = json.loads(Client(apps["/info"]).get("/?run=.").data)["embeddings"]
    assert [(one["tensorName"], one["tensorShape"]) for one in shown] == [
        *(("sst5 plain layer-5", [2, 2]), ("sst5/plain layer 5", [3, 2])),
    ]
    read = Client(apps["/tensor"]).get("/", query_string={"run": ".", "name": "sst5/plain layer 5"}).data
    np.testing.assert_allclose(np.frombuffer(read, np.float32).reshape(3, 2), vectors * 3, rtol=1e-5)
    about = Client(apps["/metadata"]).get("/", query_string={"run": ".", "name": "sst5/plain layer 5"}).data.decode()
    assert about.splitlines()[:3] == ["label\ttext", "bad\ta tab", "good\ttwo lines"]
    assert len(about.splitlines()[3]) == 304


def test_vectors_that_the_projector_cannot_show(tmp_path: Path) -> None:
    with pytest.raises(DiptychError, match="one row, label and text each"):
        write_projector(tmp_path, "x", np.zeros((2, 3)), ["a"], ["b", "c"])
    with pytest.raises(DiptychError, match="not finite"):
        write_projector(tmp_path, "x", np.full((1, 3), np.nan), ["a"], ["b"])
    (tmp_path / "projector_config.pbtxt").write_text("not {{ a config")
    with pytest.raises(DiptychError, match=r"projector_config\.pbtxt: cannot be read"):
        write_projector(tmp_path, "x", np.zeros((1, 3)), ["a"], ["b"])


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def show(browser: Any, path: Path, *, width: int = 1280, dark: bool = False) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get((path / "index.html").as_uri())


def visible(browser: Any, selector: str) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].filter((one) => one.checkVisibility())"
        ".map((one) => one.getAttribute('aria-label') || one.textContent)",
        selector,
    )
    return found


def choose(browser: Any, name: str, place: int) -> None:
    browser.execute_script(
        "document.querySelectorAll(`#filters input[name=${arguments[0]}]`)[arguments[1]].click()", name, place
    )


@pytest.mark.slow
def test_nothing_goes_wrong_in_a_browser(browser: Any, folder: Path) -> None:
    browser.get_log("browser")
    for width in (1280, 375):
        for dark in (False, True):
            show(browser, folder, width=width, dark=dark)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
            assert background == ("rgb(18, 21, 25)" if dark else "rgb(245, 246, 248)")
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.hacked") is None


@pytest.mark.slow
def test_no_chart_has_text_beyond_its_edge(browser: Any, folder: Path) -> None:
    show(browser, folder)
    beyond = browser.execute_script(
        """return [...document.querySelectorAll("figure")].filter((figure) => {
             const edge = figure.querySelector("svg").getBoundingClientRect();
             return [...figure.querySelectorAll("text")].some((text) => {
               const box = text.getBoundingClientRect();
               return box.left < edge.left - 1 || box.right > edge.right + 1 || box.bottom > edge.bottom + 1;
             });
           }).map((figure) => figure.textContent)"""
    )
    assert beyond == []


@pytest.mark.slow
def test_sets_and_poolings_are_chosen(browser: Any, folder: Path) -> None:
    show(browser, folder)
    assert len(visible(browser, "#layers figure svg")) == 6
    assert len(visible(browser, "#accuracy table")) == 1
    choose(browser, "set", 2)
    labels = visible(browser, "#layers figure svg")
    assert len(labels) == 2
    assert all("SST-5" in label for label in labels)
    choose(browser, "pooling", 1)
    assert [label.split(".")[0] for label in visible(browser, "#layers figure svg")] == [
        "Accuracy by layer on SST-5, last token"
    ]
    assert visible(browser, "#accuracy h3") == ["Last token"]
    assert visible(browser, "#accuracy tbody th") == ["SST-5"]
    assert visible(browser, "#similarity svg") == []
    assert visible(browser, "#similarity .nothing") == ["Nothing here for this choice."]
    choose(browser, "set", 0)
    choose(browser, "pooling", 0)
    assert len(visible(browser, "#layers figure svg")) == 6
    assert visible(browser, ".nothing") == []


@pytest.mark.slow
def test_filters_work_from_the_keyboard(browser: Any, folder: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    show(browser, folder)
    first = browser.find_element("css selector", "#filters input[name=set]")
    browser.execute_script("arguments[0].focus()", first)
    first.send_keys(Keys.ARROW_RIGHT)
    assert len(visible(browser, "#layers figure svg")) == 2


@pytest.mark.slow
def test_rows_are_found_and_sorted(browser: Any, folder: Path) -> None:
    show(browser, folder)
    browser.find_element("css selector", "#find").send_keys("sst5 tf-idf")
    assert visible(browser, "#found") == ["5 of 366 rows"]
    assert len(visible(browser, "#scores tbody tr")) == 5
    heads = browser.find_elements("css selector", "#scores thead th")
    accuracy = next(head for head in heads if head.text.startswith("accuracy"))
    cells = "#scores tbody td:nth-child(8)"
    press = "arguments[0].querySelector('button').click()"
    browser.execute_script(press, accuracy)
    down = [float(value) for value in visible(browser, cells)]
    assert down == sorted(down, reverse=True)
    assert accuracy.get_attribute("aria-sort") == "descending"
    browser.execute_script(press, accuracy)
    assert [float(value) for value in visible(browser, cells)] == down[::-1]


@pytest.mark.slow
def test_the_theme_can_be_chosen(browser: Any, folder: Path) -> None:
    show(browser, folder)
    colours = []
    for _ in range(3):
        colours.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
        browser.execute_script("document.getElementById('theme').click()")
    assert colours == ["rgb(245, 246, 248)", "rgb(245, 246, 248)", "rgb(18, 21, 25)"]
    assert visible(browser, "#theme") == ["Theme: auto"]


@pytest.mark.slow
def test_without_scripts_everything_is_shown(browser: Any, folder: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, folder)
        assert not browser.find_element("css selector", "#filters").is_displayed()
        assert len(browser.find_elements("css selector", "main [hidden]:not(.nothing)")) == 1  # the search field
        figures = browser.find_elements("css selector", "figure")
        assert len(figures) == 35
        assert all(figure.is_displayed() for figure in figures)
        assert len(browser.find_elements("css selector", "#scores tbody tr")) == 366
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.slow
def test_one_set_and_one_model_in_a_browser(browser: Any, tmp_path: Path) -> None:
    write_report(BARE, tmp_path)
    browser.get_log("browser")
    show(browser, tmp_path, width=375)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 375
    assert len(visible(browser, "section")) == 7
    assert browser.get_log("browser") == []

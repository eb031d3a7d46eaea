"""A report as a probing run could have found it, with made-up figures and hostile texts."""

from itertools import combinations
from math import exp, log2

import numpy as np

from probes.results import (
    Comparison,
    Estimate,
    Geometry,
    ModelFacts,
    Predictions,
    Report,
    Score,
    SetFacts,
    Similarity,
    Wrong,
)

HOSTILE = '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">'
_LABELS = {2: ("negative", "positive"), 5: ("very negative", "negative", "neutral", "positive", "very positive")}
_SETS = (
    ("rotten_tomatoes", "Rotten Tomatoes", 2, False, 0.5, 0.79, 0.16, 1066, 8530),
    ("sst5", "SST-5", 5, False, 0.286, 0.41, 0.1, 2210, 8544),
    ("subj", "Subj", 2, True, 0.5, 0.912, 0.27, 2000, 8000),
    ("yelp", "Yelp polarity", 2, False, 0.5, 0.93, 0.3, 2000, 10000),
    ("amazon", "Amazon polarity", 2, False, 0.5, 0.88, 0.25, 2000, 10000),
    ("mpqa", "MPQA opinion polarity", 2, False, 0.688, 0.85, 0.07, 1060, 9500),
)
TEXTS = (
    "a film that should have been funny and simply is not , in spite of everybody's efforts",
    HOSTILE,
    "it's | a pipe, a `tick`, a $dollar$, *stars* and \u202ea turn of direction",
    "the kind of movie that makes you want to call your mother afterwards",
    "neither a triumph nor quite a failure : mostly it is long",
)


def fake_report(
    num_sets: int = 3,
    names: tuple[str, ...] = ("plain-1000", "plain-4000", "mixed_λ0.1"),
    *,
    poolings: tuple[str, ...] = ("last", "mean"),
    layers: int = 7,
    extras: bool = True,
    points: int = 300,
) -> Report:
    """A report of ``names`` and their random twins; the first two are checkpoints of one run and share a twin.

    Without ``extras`` there are no twins, comparisons, geometry, similarities, predictions, learning curves, problems,
    notes.
    """
    rng = np.random.default_rng(5)
    models = []
    for number, name in enumerate(names):
        run = "runs/plain" if number < 2 and extras else None
        step = (1000, 4000)[number] if run else None
        models.append(
            ModelFacts(
                *(name, f"runs/{name}/hf", None, "llama", 12_345_678, layers, 256, f"{number:064x}"),
                *(run, step, step and step * 65536),
                ("the vocabulary was padded to 32,064",) if number == 2 else (),
                (f"{names[number - (number == 1)]} random",) if extras else (),
                training={"objective.lambda": 0.1 if number == 2 else 0.0, "objective.distance": "cosine"},
            )
        )
    if extras:
        models += [
            ModelFacts(f"{name} random", f"runs/{name}/hf", name, "llama", 12_345_678, layers, 256, f"{90 + n:064x}")
            for n, name in enumerate(names)
            if n != 1
        ]
    sets = tuple(_set(*facts, shared=extras) for facts in _SETS[:num_sets])
    scores: list[Score] = []
    for facts, (_, _, _, _, floor, words, gain, num_test, num_train) in zip(sets, _SETS, strict=False):
        half = 1.96 * 0.45 / num_test**0.5

        def score(
            system: str, value: float, layer: int | None, pooling: str | None, size: int, *, shuffled: bool = False
        ) -> Score:
            value = round(min(0.995, value + float(rng.normal(0, 0.004))), 4)
            return Score(
                *(facts.name, system, shuffled, layer, pooling, size, 3),  # noqa: B023
                None if system == "majority" else round(value + 0.006, 4),
                Estimate(value, round(value - half, 4), round(value + half, 4), 0.003),  # noqa: B023
                Estimate(round(value - 0.01, 4), round(value - half - 0.01, 4), round(value + half - 0.01, 4)),  # noqa: B023
                None if system == "majority" else 0.01,
                layer != 6 or system != names[-1],
            )

        sizes = [100, 300, 1000, 3000] if extras else []
        scores.append(score("majority", floor, None, None, num_train))
        scores += [
            score("tfidf", floor + (words - floor) * _learnt(size, num_train), None, None, size)
            for size in [*sizes, num_train]
        ]
        for number, model in enumerate(models):
            random = model.random_twin_of is not None
            strength = 0.45 if random else 0.8 + 0.25 * number / max(1, len(names) - 1)
            for pooling in poolings:
                pooled = 0.9 if pooling == "last" else 1.0
                for layer in range(layers):
                    depth = 0.7 if random else exp(-(((layer - 0.7 * layers) / (0.6 * layers)) ** 2))
                    value = floor + 1.45 * gain * strength * pooled * depth
                    scores.append(score(model.name, value, layer, pooling, num_train))
                    if layer == layers - 2:
                        scores += [
                            score(model.name, floor + (value - floor) * _learnt(size, num_train), layer, pooling, size)
                            for size in sizes
                        ]
                        if extras and not random:
                            scores.append(score(model.name, floor + 0.012, layer, pooling, num_train, shuffled=True))
    base = Report(
        title="Probes of plain and mixed" if extras else "Probes",
        created="2026-01-31T12:00:00",
        command=f"python -m probes {' '.join(names)} --data {' '.join(facts.name for facts in sets)} --seeds 3",
        settings={"seeds": 3, "poolings": list(poolings), "strengths": [0.0001, 0.01, 1], "device": "cpu"},
        versions={"torch": "2.10.0", "transformers": "5.23.0", "scikit-learn": "1.6.0"},
        models=tuple(models),
        sets=sets,
        scores=tuple(scores),
    )
    if not extras:
        return base
    return Report(
        **{name: getattr(base, name) for name in ("title", "created", "command", "settings", "versions")},
        models=base.models,
        sets=base.sets,
        scores=base.scores,
        comparisons=tuple(_comparisons(base, poolings)),
        geometry=tuple(_geometry(base, poolings, layers, rng)),
        similarities=tuple(_similarities(base, names, layers)),
        predictions=tuple(_predictions(base, points, rng)),
        truncated={names[0]: {sets[0].name: 12}, names[1]: {sets[0].name: 0}},
        problems=(
            "imdb: the hub cannot be reached; pass a local file with --data",
            f"{names[-1]}: layer 6 did not converge; {HOSTILE}",
        ),
        notes=(f"more than 6 models: only the first is compared with the others; {HOSTILE}",),
    )


def _set(
    name: str,
    title: str,
    classes: int,
    control: bool,
    floor: float,
    words: float,
    gain: float,
    num_test: int,
    num_train: int,
    *,
    shared: bool,
) -> SetFacts:
    first = round(num_test * floor)
    rest = (num_test - first) // (classes - 1)
    labels = ("subjective", "objective") if control else _LABELS[classes]
    return SetFacts(
        *(name, title, f"hub: example/{name}, revision 0123456789abcdef0123456789abcdef01234567", labels),
        *(num_train, num_test, (first, *[rest] * (classes - 1)), control),
        ("7 test texts are also in the training split",) if shared and name == "sst5" else (),
        (f"3 rows without a label were left out of {HOSTILE}",) if shared and name == "sst5" else (),
        f"{classes:064x}",
    )


def _learnt(size: int, whole: int) -> float:
    return min(1.0, 0.35 + 0.65 * log2(size / 50) / log2(whole / 50))


def _comparisons(report: Report, poolings: tuple[str, ...]) -> list[Comparison]:
    found = []
    twins = {model.name: model.twins for model in report.models if model.twins}
    against = [(name, other) for name, made in twins.items() for other in (*made, "tfidf", "majority")]
    pairs = [*combinations(twins, 2), *against]
    for facts in report.sets:
        for pooling in (None, *poolings):
            for first, second in pairs:
                a = report.chosen(facts.name, first, pooling)
                b = report.chosen(facts.name, second, None if second in ("tfidf", "majority") else pooling)
                assert a is not None and b is not None
                gap = round(a.accuracy.value - b.accuracy.value, 4)
                p = min(1.0, exp(-abs(gap) * 200))
                adjusted = min(1.0, 12 * p)
                found.append(
                    Comparison(
                        *(facts.name, first, second, a.layer, b.layer, pooling),
                        Estimate(gap, round(gap - 0.022, 4), round(gap + 0.022, 4)),
                        *(p, adjusted, adjusted < 0.05),
                    )
                )
    return found


def _geometry(report: Report, poolings: tuple[str, ...], layers: int, rng: np.random.Generator) -> list[Geometry]:
    found = []
    for texts in (report.sets[0].name, "held-out pairs"):
        for model in report.models:
            for pooling in poolings:
                for layer in range(layers):
                    depth = layer / layers
                    noise = float(rng.normal(0, 0.02))
                    shape = (90 - 40 * depth + 200 * noise, 0.5 - 0.3 * depth + noise, 0.1 + 0.6 * depth + noise)
                    pairs = (0.1 + 0.3 * depth + noise, 0.4 + 0.5 * depth + noise, 0.5 + 0.4 * depth + noise)
                    random = model.random_twin_of is not None
                    has_pairs = texts != report.sets[0].name
                    rounded = [round(value * (0.6 if random else 1), 4) for value in (*shape, *pairs)]
                    found.append(Geometry(texts, model.name, layer, pooling, *rounded[: 6 if has_pairs else 3]))
    return found


def _similarities(report: Report, names: tuple[str, ...], layers: int) -> list[Similarity]:
    return [
        Similarity(
            *(report.sets[0].name, first, second, "mean"),
            tuple(
                tuple(round(exp(-0.1 * abs(a - b) - (0.2 if first != second else 0)), 3) for b in range(layers))
                for a in range(layers)
            ),
        )
        for first, second in [(names[-1], names[-1]), *combinations(names, 2)]
    ]


def _predictions(report: Report, points: int, rng: np.random.Generator) -> list[Predictions]:
    found = []
    for facts in report.sets:
        classes = len(facts.label_names)
        for system in [*(model.name for model in report.models if model.random_twin_of is None), "tfidf"]:
            chosen = report.chosen(facts.name, system)
            assert chosen is not None
            confusion = []
            for label, count in enumerate(facts.test_counts):
                right = round(count * chosen.accuracy.value)
                wrong = (count - right) // (classes - 1)
                confusion.append(tuple(right if other == label else wrong for other in range(classes)))
            wrong_ones = tuple(
                Wrong(text, number % classes, (number + 1) % classes, round(0.99 - 0.03 * number, 2))
                for number, text in enumerate(TEXTS)
            )
            labels = tuple(int(label) for label in rng.integers(classes, size=points if system != "tfidf" else 0))
            places = tuple(
                (round(float(rng.normal(1.4 * label, 1)), 3), round(float(rng.normal()), 3)) for label in labels
            )
            found.append(
                Predictions(
                    facts.name, system, chosen.layer, chosen.pooling, tuple(confusion), wrong_ones, places, labels
                )
            )
    return found

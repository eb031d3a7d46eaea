"""Table rows and sentences that both the terminal text and the page show."""

from pretrain.preparation.contamination import KINDS
from pretrain.tools.inspection.facts import Amount, Facts
from pretrain.tools.inspection.histogram import Histogram
from pretrain.tools.inspection.records import Branch, RecordFacts, Wording

SPLIT_HEAD = ("split", "records", "tokens", "bytes", "bytes/token", "truncated", "longest pair")
DUPLICATE_HEAD = ("of", "dropped in", "reason", "records")
LEAK_HEAD = ("test set", "found in", *KINDS)


def split_rows(facts: Facts) -> list[tuple[str, ...]]:
    """A row for each split."""
    return [
        (
            {"train": "train", "heldout": "held out"}.get(name, name),
            f"{amount.records:,}",
            f"{sum(amount.tokens):,}",
            f"{sum(amount.num_bytes):,}",
            f"{amount.bytes_per_token:.2f}",
            f"{sum(amount.truncated):,}",
            f"{facts.longest_pair[name]:,}",
        )
        for name, amount in facts.splits.items()
    ]


def token_cells(facts: Facts, amount: Amount) -> tuple[str, ...]:
    """Tokens of a source, the mean length of every view, texts cut."""
    means = (f"{mean:.1f}" for mean in amount.mean_tokens[: len(facts.view_titles)])
    return f"{sum(amount.tokens):,}", *means, f"{sum(amount.truncated):,}"


def source_head(facts: Facts) -> tuple[str, ...]:
    """The columns of :func:`source_rows`."""
    means = [f"mean {name}" for name in facts.view_titles]
    return ("source", "read", "bad rows", *facts.reasons, "train", "held out", "tokens", *means, "truncated", "from")


def source_rows(facts: Facts) -> list[tuple[str, ...]]:
    """A row for each source."""
    return [
        (
            source.name,
            f"{source.read:,}",
            f"{source.bad:,}",
            *(f"{source.dropped.get(reason, 0):,}" for reason in facts.reasons),
            f"{source.train.records:,}",
            f"{source.heldout.records:,}",
            *token_cells(facts, source.both),
            source.where,
        )
        for source in facts.sources
    ]


def duplicate_rows(facts: Facts) -> list[tuple[str, ...]]:
    """A row for each pair of sources with duplicates, and why they are ones."""
    return [(one["of"], one["in"], one["reason"], f"{one['records']:,}") for one in facts.duplicates]


def source_notes(facts: Facts) -> list[str]:
    """What else is not trained on, and what should be looked at."""
    notes = []
    for source in facts.sources:
        if source.left_out:
            notes.append(f"left out of {source.name} by its keep rule: {counted(source.left_out, 'row')}")
        if source.dropped_wordings:
            why = ", ".join(f"{number:,} {reason}" for reason, number in source.dropped_wordings.items())
            notes.append(f"wordings dropped of other records of {source.name}: {why}")
    return [*notes, *facts.notes]


def leak_rows(facts: Facts, few: int) -> list[tuple[str, ...]]:
    """A row for each test set and training source; those without a hit only if there are few rows."""
    shown = [leak for leak in facts.leaks if len(facts.leaks) <= few or any(leak.found)]
    return [
        (leak.test, leak.source, *(f"{n:,}/{of:,}" for n, of in zip(leak.found, leak.items, strict=True)))
        for leak in shown
    ]


def leak_notes(facts: Facts, shown: int) -> list[str]:
    """What the numbers mean, and what was left out."""
    first, second = facts.views
    notes = [f"{name}: {records:,} records of {where}" for name, where, records in facts.test_sets]
    notes.append(
        f"Test items found in training records, of all there are. pair: both texts in one record; first: its {first} "
        f"as {first}; second: its {second} as {second}; any: either anywhere; ngram: an n-gram of either anywhere."
    )
    if shown < len(facts.leaks):
        notes.append(f"{len(facts.leaks) - shown:,} more rows are without a hit.")
    return notes


def figures(histogram: Histogram) -> str:
    """The figures of a histogram in a line."""
    return (
        f"mean {histogram.mean:,.1f}, median {histogram.median:,}, 99 % ≤ {histogram.percentile_99:,}, "
        f"{histogram.shortest:,} to {histogram.longest:,}"
    )


def measured(facts: Facts) -> str:
    """Which records the histograms are of."""
    measured, total = facts.measured
    if measured == total:
        return f"of all {total:,} training records, one pair each"
    return f"of {measured:,} of {total:,} training records, an even draw of blocks, one pair each"


def record_title(record: RecordFacts) -> str:
    """Where a record stands."""
    label = "" if record.label is None else f", label {record.label}"
    split = "train" if record.split == "train" else "held out"
    return f"{record.source} · {split} record {record.number:,}{label} · {record.place}"


def wording_title(wording: Wording) -> str:
    """Name and length of a text."""
    return f"{wording.title}: {counted(wording.count, 'token')}{'' if wording.complete else ', truncated'}"


def layout_title(facts: Facts, record: RecordFacts) -> str:
    """How a pair is laid out, and what it takes."""
    branches = facts.branches
    labels = sum(branch.labels for branch in record.branches)
    return (
        f"branches: {branches.layout}, {branches.direction}, k = {len(branches.predictors)}: "
        f"{counted(record.num_positions, 'position')}, {counted(labels, 'label')}"
    )


BRANCH_HEAD = ("", "branch", "row", "positions", "tokens", "labels", "embedding")


def branch_cells(facts: Facts, branch: Branch, tokens: str) -> tuple[str, ...]:
    """A branch in the columns of ``BRANCH_HEAD``."""
    if branch.parent is None:
        title = f"{facts.bos} {branch.title}" if facts.branches.bos is not None else branch.title
    else:
        title = f"{'└' if branch.last else '├'}─ {branch.title}"
    labels = "none"
    if branch.labelled is not None:
        labels = f"{branch.labels:,} at {_range(branch.labelled)}" + (f", {facts.eos}" if branch.ends else "")
    marks = ", ".join(f"{name} {_range((start, stop))}" for name, start, stop in branch.marks)
    return str(branch.segment), title, _range(branch.row), _range(branch.positions), tokens, labels, marks


def _range(ends: tuple[int, int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}..{ends[1]}"


def counted(number: int, what: str) -> str:
    """``1 token``, ``2 tokens``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def size(num_bytes: int) -> str:
    """Bytes in a unit that suits them."""
    value, units = float(num_bytes), iter(("bytes", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while value >= 1024 and (larger := next(units, None)):
        value, unit = value / 1024, larger
    return f"{num_bytes:,} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"

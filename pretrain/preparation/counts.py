"""Refusing a corpus of which too little is left."""

import json
from collections.abc import Sequence

from pretrain.preparation.judging import Judged, Judgement
from pretrain.preparation.reading import ReadPart
from pretrain.runtime.errors import DiptychError
from pretrain.sources.record import Source


def check_counts(
    sources: Sequence[Source],
    parts: Sequence[Sequence[ReadPart]],
    judgement: Judgement,
    training: Sequence[bool],
    heldout_fraction: float,
) -> None:
    """Refuses a source without any record left, and fewer than two held-out records.

    Args:
        sources: All sources; test sets come last.
        parts: What was read of each.
        judgement: The verdicts on all but the test sets.
        training: Whether each of these is trained on.
        heldout_fraction: Share that is held out where no source is.

    Raises:
        DiptychError: Names the source or setting, and what became of the records.
    """
    for source, source_parts in zip(sources, parts, strict=True):
        if not any(part.records for part in source_parts):
            raise DiptychError(f"data: {_named(source)} {_why_empty(source, source_parts)}")
    for source, judged, trains in zip(sources, judgement.sources, training, strict=False):
        if not judged.count("train" if trains else "heldout"):
            raise DiptychError(
                f"data: {_named(source)} has no record left of {judged.records:,} {_why_dropped(source, judged)}"
            )
    heldout = sum(judged.count("heldout") for judged in judgement.sources)
    if heldout >= 2:
        return
    if not all(training):
        raise DiptychError(
            f"data.heldout_sources: {heldout} record is left of them, but evaluation needs 2 or more; add records or "
            "another source"
        )
    raise DiptychError(
        f"data.heldout_fraction: {heldout_fraction} leaves {heldout} held-out records, evaluation needs 2 or more; "
        "raise it or name data.heldout_sources"
    )


def _named(source: Source) -> str:
    return f"source {source.title!r} ({source.where()})"


def _why_dropped(source: Source, judged: Judged) -> str:
    dropped = judged.dropped()
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in dropped.items()) or "none dropped"
    remedy = "check its keep rule and data.cleaning, data.deduplication, data.decontamination"
    group = getattr(source, "group", None)
    if group is not None and max(dropped, key=dropped.__getitem__, default=None) == "held_out_elsewhere":
        remedy = (
            f"held-out sources have its groups (group: {group}) or texts; if the groups are only numbered in each "
            "file, leave out the group setting of one of them"
        )
    return f"({reasons}); {remedy}"


def _why_empty(source: Source, parts: Sequence[ReadPart]) -> str:
    left_out = sum(part.left_out for part in parts)
    if not left_out:
        return "holds no record"
    keep = json.dumps(getattr(source, "keep", {}), ensure_ascii=False)
    return f"holds no record that is wanted: keep {keep} leaves out all {left_out:,} rows; correct keep"

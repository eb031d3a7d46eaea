"""What ``manifest.json`` says of a prepared corpus."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from pretrain.config.data import DecontaminationConfig
from pretrain.preparation.comparing import TextComparison
from pretrain.preparation.contamination import EvaluationIndex
from pretrain.preparation.judging import Judgement
from pretrain.preparation.reading import ReadPart
from pretrain.preparation.shards import COUNTS, describe_shard
from pretrain.runtime.errors import DiptychError
from pretrain.sources.record import Source

Shards = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
"""For each split and source the descriptions of its shards."""


def describe_shards(shards: Shards) -> dict[str, Any]:
    """The fingerprint of all tokens, and the counts of each split."""
    digests = [
        shard["digest"] for per_source in shards.values() for source_shards in per_source for shard in source_shards
    ]
    splits = {}
    for split, per_source in shards.items():
        everything = [shard for source_shards in per_source for shard in source_shards]
        longest = max((shard["longest_pair"] for shard in everything), default=0)
        splits[split] = {key: sum(shard[key] for shard in everything) for key in COUNTS} | {"longest_pair": longest}
    return {"fingerprint": hashlib.sha256("".join(digests).encode()).hexdigest(), "splits": splits}


def describe_sources(
    sources: Sequence[Source],
    training: Sequence[bool],
    parts: Sequence[Sequence[ReadPart]],
    judgement: Judgement,
    shards: Shards,
    folder: Path,
) -> list[dict[str, Any]]:
    """What was read of each source, dropped and kept, and where its shards are."""

    def summary(source_shards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        listed = [
            {"file": str(shard["path"].relative_to(folder)), "records": shard["records"]} for shard in source_shards
        ]
        return {key: sum(shard[key] for shard in source_shards) for key in COUNTS} | {"shards": listed}

    return [
        {
            "name": source.title,
            "where": source.where(),
            "role": "train" if training[number] else "heldout",
            "files": list(dict.fromkeys(file for part in parts[number] for file in part.files)),
            "read": sum(part.records for part in parts[number]),
            "bad": sum(part.bad for part in parts[number]),
            "left_out": sum(part.left_out for part in parts[number]),
            "dropped": judgement.sources[number].dropped(),
            "dropped_wordings": judgement.dropped_wordings[number],
            **{split: summary(per_source[number]) for split, per_source in shards.items()},
        }
        for number, source in enumerate(sources)
    ]


def describe_tests(
    sources: Sequence[Source],
    parts: Sequence[Sequence[ReadPart]],
    config: DecontaminationConfig,
    comparison: TextComparison,
) -> list[dict[str, Any]]:
    """The records of each test set and its distinct items by kind."""
    index = EvaluationIndex(config, comparison)
    index.add_parts([(source.title, source_parts) for source, source_parts in zip(sources, parts, strict=True)])
    return [
        {
            "name": test_set.name,
            "where": source.where(),
            "records": sum(part.records for part in source_parts),
            "bad": sum(part.bad for part in source_parts),
            "left_out": sum(part.left_out for part in source_parts),
            **test_set.items,
        }
        for source, test_set, source_parts in zip(sources, index.sets, parts, strict=True)
    ]


def check_content(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuses a corpus whose tokens were changed since it was prepared.

    Only files that are younger than the manifest raise the suspicion, for all of the data is read then: so are those of
    a copy whose times were not kept, which is believed from then on. A file that was changed without changing its time
    is not noticed.

    Args:
        folder: The corpus.
        manifest: Of it; sizes are checked already (``corpus.check_files``).

    Raises:
        DiptychError: The tokens are others; names the first suspicious file.
    """
    written = (folder / "manifest.json").stat().st_mtime_ns
    names = [
        shard["file"]
        for source in manifest["sources"]
        for split in manifest["splits"]
        for shard in source[split]["shards"]
    ]
    younger = [name for name in names if (folder / name).stat().st_mtime_ns > written]
    if not younger:
        return
    problem = "its tokens are not those of the manifest"
    try:
        shards = {
            split: [
                [describe_shard(folder / shard["file"]) for shard in source[split]["shards"]]
                for source in manifest["sources"]
            ]
            for split in manifest["splits"]
        }
    except (ValueError, IndexError, pa.ArrowException) as error:
        problem = f"cannot be read ({error})"
    else:
        if describe_shards(shards)["fingerprint"] == manifest["fingerprint"]:
            with suppress(OSError):
                os.utime(folder / "manifest.json")
            return
    raise DiptychError(
        f"{folder / younger[0]}: was changed since the corpus was prepared, and {problem}; remove {folder} and prepare "
        "it again"
    )


def list_files(folder: Path) -> dict[str, int]:
    """Size of every file of the corpus; scratch files of a preparation that was killed are removed."""
    for path in folder.rglob(".*"):
        if path.is_file():
            path.unlink()
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    return {str(path.relative_to(folder)): path.stat().st_size for path in paths}

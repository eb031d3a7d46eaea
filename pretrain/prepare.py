"""From sources to a prepared corpus: ``python -m pretrain.prepare CONFIG.yaml key=value ...``.

    sources -> records -> split -> tokenizer -> tokens (Arrow, memory-mapped) + manifest.json

The result is a function of its inputs; it lies in a folder named by their fingerprint, so unchanged inputs are not
prepared again and changed ones never overwrite anything.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import tqdm

from pretrain.branches import Branches
from pretrain.command import run_command
from pretrain.config import Config
from pretrain.config_file import load_config, split_arguments
from pretrain.corpus import SplitWriter, TokenizedRecord, open_split, read_manifest, tokens_fingerprint
from pretrain.errors import DiptychError
from pretrain.sources import Record, SourceConfig
from pretrain.tokenizer import Tokenizer, load
from pretrain.tokenizer_training import train

FORMAT = 1
"""Changes whenever the same inputs give other files."""


def prepare(config: Config, *, quiet: bool = False) -> Path:
    """Prepares the corpus of a config unless it is there already.

    Args:
        config: Sources, views, tokenizer and layout decide the result.
        quiet: No progress bar.

    Returns:
        The folder of the prepared corpus; ``corpus.read_corpus`` opens it.

    Raises:
        DiptychError: Bad input, with its place.
    """
    inputs = _inputs(config)
    name = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    folder = config.data.folder / name
    if read_manifest(folder) is not None:
        return folder
    try:
        config.data.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{name}.", suffix=".tmp", dir=config.data.folder) as scratch:
            made = Path(scratch) / name  # the temporary folder itself is closed to other users
            made.mkdir()
            _write(config, inputs, made, quiet)
            os.replace(made, folder)
    except OSError as error:
        if read_manifest(folder) is None:  # else: another process prepared the same corpus at the same time
            raise DiptychError(
                f"data.folder {config.data.folder}: cannot write ({error.strerror}); free space or choose another"
            ) from None
    return folder


def longest_view(config: Config) -> int:
    """Tokens after which a view is truncated: ``data.max_view_tokens``, or what a row can take."""
    objective = config.objective
    # The reserved number of [PRED] tokens rather than k: runs that differ only in k then share one corpus.
    reserved = max(objective.predictors, config.tokenizer.predictor_tokens)
    branches = Branches(config.packing.layout, eos=0, bos=0, predictors=(0,) * reserved, direction=objective.direction)
    limit = branches.longest_view(config.packing.row_length)
    asked = config.data.max_view_tokens
    if limit < 1 or (asked is not None and asked > limit):
        raise DiptychError(
            f"data.max_view_tokens: {asked or 1} tokens a view do not fit packing.row_length "
            f"{config.packing.row_length} in the {config.packing.layout} layout; the most is {limit}"
        )
    return asked or limit


def _inputs(config: Config) -> dict[str, Any]:
    """Everything that decides the files."""
    data = config.data

    def described(sources: Sequence[SourceConfig]) -> list[dict[str, Any]]:
        return [
            source.model_dump(mode="json", exclude={"path"}) | {"fingerprint": source.fingerprint()}
            for source in sources
        ]

    return {
        "format": FORMAT,
        "sources": described(data.sources),
        "heldout_sources": described(data.heldout_sources),
        "heldout_fraction": data.heldout_fraction,
        "views": list(data.views),
        "max_view_tokens": longest_view(config),
        "tokenizer": config.tokenizer.model_dump(mode="json", exclude={"path"})
        | {"fingerprint": load(config.tokenizer.path, config.tokenizer).fingerprint if config.tokenizer.path else None},
    }


def _write(config: Config, inputs: dict[str, Any], folder: Path, quiet: bool) -> None:
    if config.tokenizer.path:
        tokenizer = load(config.tokenizer.path, config.tokenizer)
    else:
        tokenizer = train(_training_texts(config), config.tokenizer)
    tokenizer.save(folder / "tokenizer")
    counts: Counter[str] = Counter()
    per_source: list[int] = []
    with (
        open_split(folder / "train.arrow") as train_split,
        open_split(folder / "heldout.arrow") as heldout_split,
        tqdm.tqdm(desc="preparing", unit=" records", disable=quiet or not sys.stderr.isatty()) as bar,
    ):
        encoder = _Encoder(config, tokenizer, inputs["max_view_tokens"], counts)
        for source in config.data.sources:
            before = counts["records"]
            for batch in _batches(source.records()):
                for record, encoded in zip(batch, encoder.encode(batch), strict=True):
                    held = not config.data.heldout_sources and _is_heldout(record, config)
                    _add(encoded, heldout_split if held else train_split, "heldout" if held else "train", counts)
                bar.update(len(batch))
            per_source.append(counts["records"] - before)
        for source in config.data.heldout_sources:
            before = counts["records"]
            for batch in _batches(source.records()):
                for encoded in encoder.encode(batch):
                    _add(encoded, heldout_split, "heldout", counts)
                bar.update(len(batch))
            per_source.append(counts["records"] - before)
    _check_counts(counts, config)
    splits: dict[str, dict[str, int]] = {"train": {}, "heldout": {}}
    for key, value in sorted(counts.items()):
        split, _, name = key.partition("/")
        if name:
            splits[split][name] = value
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    manifest = {
        "fingerprint": tokens_fingerprint(folder),
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "splits": splits,
        "records_per_source": per_source,
        "inputs": inputs,
        "paths": [str(getattr(source, "path", source.type)) for source in _all_sources(config)],
        "files": {str(path.relative_to(folder)): path.stat().st_size for path in files},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


class _Encoder:
    """Records to tokens, with every truncation counted."""

    def __init__(self, config: Config, tokenizer: Tokenizer, limit: int, counts: Counter[str]) -> None:
        self.views = config.data.views
        self.tokenizer = tokenizer
        self.limit = limit
        self.counts = counts

    def encode(self, records: Sequence[Record]) -> Iterator[TokenizedRecord]:
        ids = [self.tokenizer.encode_batch([record.views[view] for record in records]) for view in self.views]
        for record, first, second in zip(records, *ids, strict=True):
            self.counts["records"] += 1
            if not first or not second:
                raise DiptychError(f"{record.place}: a view has no token under this tokenizer; drop the record")
            texts = [record.views[view] for view in self.views]
            whole = (len(first) <= self.limit, len(second) <= self.limit)
            kept = (first[: self.limit], second[: self.limit])
            num_bytes = [
                len((text if complete else self.tokenizer.decode(tokens)).encode("utf-8"))
                for text, complete, tokens in zip(texts, whole, kept, strict=True)
            ]
            yield TokenizedRecord(kept, whole, (num_bytes[0], num_bytes[1]), record.place, record.label)


def _add(record: TokenizedRecord, split: SplitWriter, name: str, counts: Counter[str]) -> None:
    split.add(record)
    counts[f"{name}/records"] += 1
    for which, view in enumerate(("first", "second")):
        counts[f"{name}/{view}_tokens"] += len(record.tokens[which])
        counts[f"{name}/{view}_bytes"] += record.num_bytes[which]
        counts[f"{name}/{view}_truncated"] += not record.complete[which]


def _all_sources(config: Config) -> Iterable[SourceConfig]:
    return (*config.data.sources, *config.data.heldout_sources)


def _batches(records: Iterator[Record], size: int = 1024) -> Iterator[list[Record]]:
    while batch := list(islice(records, size)):
        yield batch


def _is_heldout(record: Record, config: Config) -> bool:
    """By a hash of the text, so that equal records fall on one side and the order of sources does not matter."""
    text = "\0".join(record.views[view] for view in config.data.views)
    drawn = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    return drawn < config.data.heldout_fraction


def _training_texts(config: Config) -> Iterator[str]:
    for source in config.data.sources:
        for record in source.records():
            if config.data.heldout_sources or not _is_heldout(record, config):
                yield from (record.views[view] for view in config.data.views)


def _check_counts(counts: Counter[str], config: Config) -> None:
    if not counts["train/records"]:
        raise DiptychError("data.sources: no training record is left; check paths and keep rules")
    if counts["heldout/records"] < 2:
        raise DiptychError(
            f"data.heldout_fraction: {config.data.heldout_fraction} leaves {counts['heldout/records']} held-out "
            "records, evaluation needs 2 or more; raise it or name data.heldout_sources"
        )


def main(argv: Sequence[str]) -> int:
    """The command ``python -m pretrain.prepare``."""
    if "--help" in argv:
        print(__doc__)
        return 0
    folder = prepare(load_config(*split_arguments(argv)))
    manifest = read_manifest(folder)
    assert manifest is not None
    print(f"{folder}")
    for split, counts in manifest["splits"].items():
        tokens = counts["first_tokens"] + counts["second_tokens"]
        truncated = counts["first_truncated"] + counts["second_truncated"]
        print(f"  {split}: {counts['records']:,} records, {tokens:,} tokens, {truncated:,} views truncated")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))

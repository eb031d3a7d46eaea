"""From sources to a prepared corpus.

    sources -> read -> examine -> judge -> tokenizer -> encode -> shards of tokens + manifest.json

The result is a function of its inputs, for any number of workers. It lies in a folder named by their fingerprint, so
unchanged inputs are not prepared again and changed ones never overwrite anything. What the stages leave in ``work/`` is
kept too: a changed setting redoes only what depends on it, and a preparation that was killed goes on where it stopped.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, compress
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.config.sections import Config
from pretrain.data.branches import Branches
from pretrain.data.corpus import FORMAT, check_files, read_manifest
from pretrain.data.tokenizer import Tokenizer, load
from pretrain.preparation.cleaning import Filter
from pretrain.preparation.comparing import TextComparison
from pretrain.preparation.counts import check_counts
from pretrain.preparation.duplicates import MINHASH_VERSION
from pretrain.preparation.encoding import Encoding, encode, usable_wordings
from pretrain.preparation.examining import Rules, examine
from pretrain.preparation.judging import Judge, Judgement
from pretrain.preparation.manifest import (
    check_content,
    describe_shards,
    describe_sources,
    describe_tests,
    list_files,
)
from pretrain.preparation.reading import (
    LISTED,
    ReadPart,
    list_parts,
    read_batches,
    read_sources,
    refusal,
    wordings,
)
from pretrain.preparation.tokenizer_training import train
from pretrain.preparation.workers import WorkerPool, choose_count
from pretrain.runtime.atomic_write import write_text
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.locks import waiting_lock
from pretrain.sources.files import Files
from pretrain.sources.part import Part
from pretrain.sources.record import Source

_ABANDONED_SECONDS = 24 * 3600


def prepare(config: Config, *, quiet: bool = False) -> Path:
    """Prepares the corpus of a config, unless it exists already.

    Args:
        config: Its data, tokenizer and layout decide the result.
        quiet: No progress bar.

    Returns:
        The folder of the prepared corpus; ``corpus.read_corpus`` opens it.

    Raises:
        DiptychError: Bad input, with its place.
    """
    preparation = _Preparation(config, quiet)
    try:
        if not preparation.is_done():
            preparation.run()
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free space or choose another" if full else "choose a folder that can be written to"
        place = f" ({error.filename})" if error.filename else ""
        raise DiptychError(
            f"data.folder {config.data.folder}: cannot write ({error.strerror or error}){place}; {remedy}"
        ) from None
    return preparation.folder


def longest_view(config: Config) -> int:
    """Tokens after which a view is truncated: ``data.max_view_tokens``, or what a row can take of both views."""
    branches, row_length = roomiest_branches(config), config.packing.row_length
    limit, asked = branches.longest_view(row_length), config.data.max_view_tokens
    # A pair may be longer than two views of the limit: the packing plan refuses it by its place.
    most = row_length - int(branches.num_tokens(np.array([0, 0]), branched=False))
    if limit < 1 or (asked is not None and asked > most):
        raise DiptychError(
            f"data.max_view_tokens: {asked or 1} tokens a view do not fit packing.row_length "
            f"{row_length} in the {config.packing.layout} layout; the most is {most if limit else 0}"
        )
    return asked or limit


def roomiest_branches(config: Config) -> Branches:
    """The layout with the reserved number of [PRED] tokens rather than k: runs that differ in k share one corpus."""
    reserved = max(config.objective.predictors, config.tokenizer.predictor_tokens)
    return Branches(config.packing.layout, 0, 0, (0,) * reserved, config.objective.direction)


@dataclass(frozen=True)
class _Sources:
    """Sources, their parts, and whether each is trained on."""

    sources: tuple[Source, ...]
    parts: list[list[Part]]
    training: tuple[bool, ...] = ()

    @property
    def titles(self) -> list[str]:
        return [source.title for source in self.sources]

    def described(self) -> list[dict[str, Any]]:
        """What decides the records."""
        return [
            source.settings() | {"parts": _hash([[part.fingerprint, part.start, part.stop] for part in parts])}
            for source, parts in zip(self.sources, self.parts, strict=True)
        ]


class _Preparation:
    """The stages of one preparation."""

    def __init__(self, config: Config, quiet: bool) -> None:
        data = config.data
        self.config, self.work = config, data.folder / "work"
        files = Files(self.work / "files.json")
        sources = (*data.sources, *data.heldout_sources)
        training = (True,) * len(data.sources) + (False,) * len(data.heldout_sources)
        self.sources = _Sources(sources, list_parts(sources, files), training)
        self.tests = _Sources(
            data.decontamination.sources,
            list_parts(data.decontamination.sources, files, "data.decontamination.sources"),
        )
        self.max_view_tokens = longest_view(config)
        self.tokenizer = load(config.tokenizer.path, config.tokenizer) if config.tokenizer.path else None
        self.comparison = TextComparison(data.views, frozenset(data.views_as_written()))
        self.inputs = self._inputs()
        self.folder = data.folder / _hash(self.inputs)
        work = sum(part.size for source_parts in self.sources.parts for part in source_parts)
        self.workers = WorkerPool(choose_count(data.workers, work), quiet=quiet)
        self.rules = Rules(
            self.comparison,
            data.cleaning,
            data.deduplication,
            data.decontamination,
            None if data.heldout_sources else data.heldout_fraction,
        )

    def _inputs(self) -> dict[str, Any]:
        """Everything that decides the files."""
        data, tokenizer = self.config.data, self.config.tokenizer
        count = len(data.sources)
        described = self.sources.described()
        return {
            "format": FORMAT,
            "sources": described[:count],
            "heldout_sources": described[count:],
            "heldout_fraction": None if data.heldout_sources else data.heldout_fraction,
            "views": list(data.views),
            "compare_as_written": sorted(self.comparison.as_written),
            "cleaning": data.cleaning.model_dump(mode="json"),
            "deduplication": data.deduplication.model_dump(mode="json")
            | ({"version": MINHASH_VERSION} if data.deduplication.near else {}),
            "decontamination": data.decontamination.model_dump(mode="json", exclude={"sources"})
            | {"sources": self.tests.described()},
            "max_view_tokens": self.max_view_tokens,
            "tokenizer": tokenizer.model_dump(mode="json", exclude={"path"})
            | {"fingerprint": self.tokenizer.fingerprint if self.tokenizer else None},
        }

    def run(self) -> None:
        """Runs all stages. A second process that prepares the same corpus waits here and then uses it."""
        self.work.mkdir(parents=True, exist_ok=True)
        with waiting_lock(self.work / f"{self.folder.name}.lock"):
            if self.is_done():
                return
            self._remove_scratch_files()
            scratch = self.work / f"{self.folder.name}.scratch"
            shutil.rmtree(scratch, ignore_errors=True)  # of a preparation that was killed
            scratch.mkdir()
            try:
                self._run(scratch)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def is_done(self) -> bool:
        """Whether the corpus exists. Refuses one that is damaged or holds more bad rows than the config allows."""
        manifest = read_manifest(self.folder)
        if manifest is None:
            return False
        check_files(self.folder, manifest)
        check_content(self.folder, manifest)
        self.check_bad_rows(manifest["rows"], manifest["bad_rows"])
        return True

    def _remove_scratch_files(self) -> None:
        """Removes scratch files of killed preparations that are too old to be written still."""
        for path in (*self.work.glob("read/.*"), *self.work.glob("examined/.*")):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()

    def _run(self, scratch: Path) -> None:
        data, workers = self.config.data, self.workers
        skip = data.on_bad_row == "skip"
        both = (*self.sources.sources, *self.tests.sources)
        both_parts = [*self.sources.parts, *self.tests.parts]
        read = read_sources(both, both_parts, data.cleaning, self.work / "read", skip=skip, workers=workers)
        everything = [part for source_parts in read for part in source_parts]
        rows = {"good": sum(part.records for part in everything), "bad": sum(part.bad for part in everything)}
        bad_rows = [row for part in everything for row in part.bad_rows]
        self.check_bad_rows(rows, bad_rows)
        parts, test_parts = read[: len(self.sources.sources)], read[len(self.sources.sources) :]
        tests = list(zip(self.tests.titles, test_parts, strict=True))
        titles, training = self.sources.titles, self.sources.training
        examined = examine(parts, training, tests, self.rules, self.work / "examined", workers)
        judge = Judge(titles, parts, examined, training, self.rules, scratch)
        judgement = judge.judgement(self.tests.titles, skip)
        rows = {"good": rows["good"] - judgement.repeated_ids, "bad": rows["bad"] + judgement.repeated_ids}
        bad_rows = [*bad_rows, *judgement.id_rows][:LISTED]
        self.check_bad_rows(rows, bad_rows)
        check_counts((*self.sources.sources, *self.tests.sources), read, judgement, training, data.heldout_fraction)
        tokenizer = self.tokenizer or self._train_tokenizer(parts, judgement, scratch)
        partial = self.folder.with_name(f"{self.folder.name}.partial")
        _save(partial / "tokenizer", tokenizer.save)
        shards = self._encode(parts, judgement, tokenizer, partial, scratch)
        manifest = {
            "format": FORMAT,
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "views": list(data.views),
            **describe_shards(shards),
            "sources": describe_sources(self.sources.sources, training, parts, judgement, shards, partial),
            "duplicates": judgement.duplicates,
            "test_sets": describe_tests(self.tests.sources, test_parts, data.decontamination, self.comparison),
            "leaks": judgement.leaks,
            "rows": rows,
            "bad_rows": bad_rows,
            "notes": judgement.notes,
            "inputs": self.inputs,
            "files": list_files(partial),
        }
        for note in judgement.notes:
            print(f"note: {note}", file=sys.stderr, flush=True)
        write_text(partial / "manifest.json", json.dumps(manifest, indent=1) + "\n")
        os.replace(partial, self.folder)

    def check_bad_rows(self, rows: Mapping[str, int], listed: Sequence[str]) -> None:
        """Refuses bad rows, or too many of them, as the config says.

        Args:
            rows: Number of ``good`` and ``bad`` rows of all sources and test sets.
            listed: The first bad ones.
        """
        data = self.config.data
        if rows["bad"] and data.on_bad_row == "stop":
            raise refusal(listed[0])
        total = rows["good"] + rows["bad"]
        if rows["bad"] > data.max_bad_share * total:
            raise DiptychError(
                f"data.max_bad_share: {rows['bad']:,} of {total:,} rows are bad, more than {data.max_bad_share:.2%}; "
                f"the first is {listed[0]}"
            )

    def _train_tokenizer(self, parts: Sequence[Sequence[ReadPart]], judgement: Judgement, scratch: Path) -> Tokenizer:
        """Trains the tokenizer on training records only, unless it is in the cache."""
        inputs = {key: value for key, value in self.inputs.items() if key != "max_view_tokens"}
        folder = self.work / "tokenizers" / _hash(inputs)
        if not folder.is_dir():
            tokenizer = train(self._training_texts(parts, judgement), self.config.tokenizer)
            folder.parent.mkdir(parents=True, exist_ok=True)
            _save(scratch / "tokenizer", tokenizer.save)
            os.replace(scratch / "tokenizer", folder)
        try:
            return load(folder, self.config.tokenizer)
        except DiptychError:
            raise DiptychError(f"{folder}: damaged; remove it, and it will be trained again") from None

    def _training_texts(self, parts: Sequence[Sequence[ReadPart]], judgement: Judgement) -> Iterator[str]:
        """Texts of an even draw of record batches, ten times as many as the tokenizer samples from them."""
        names = dict.fromkeys(self.config.data.views)
        training = [source for source, trains in enumerate(self.sources.training) if trains]
        records = sum(judgement.sources[source].count("train") for source in training)
        stride = max(1, 2 * records // (10 * self.config.tokenizer.sample_texts))
        check = Filter(self.config.data.cleaning)
        number = 0
        for source in training:
            first = 0
            for part in parts[source]:
                chosen = range(-number % stride, len(part.batches), stride)
                ends = list(accumulate(part.batches, initial=first))
                starts = [ends[batch] for batch in chosen]
                number += len(part.batches)
                first += part.records
                columns = [f"view {name}" for name in names]
                for start, batch in zip(starts, read_batches(part.path, columns, chosen), strict=True):
                    views = [wordings(array) for array in batch.values()]
                    kept = judgement.sources[source].kept("train", start, start + len(views[0]))
                    trained = [list(compress(view, kept)) for view in views]
                    for record in zip(*usable_wordings(trained, check), strict=True):
                        yield from (text for texts in record for text in texts)

    def _encode(
        self,
        parts: Sequence[Sequence[ReadPart]],
        judgement: Judgement,
        tokenizer: Tokenizer,
        folder: Path,
        scratch: Path,
    ) -> dict[str, list[list[dict[str, Any]]]]:
        """Shards of each source by split."""
        data = self.config.data
        encoding = Encoding(scratch / "tokenizer.json", data.views, self.max_view_tokens, data.cleaning)
        write_text(encoding.tokenizer, tokenizer.encoder.spec)
        return {
            split: [
                encode(source_parts, judged, split, encoding, folder / split / title, self.workers, title)
                for source_parts, judged, title in zip(parts, judgement.sources, self.sources.titles, strict=True)
            ]
            for split in ("train", "heldout")
        }


def _save(path: Path, save: Callable[[Path], None]) -> None:
    """Saves a tokenizer; the tokenizers library reports a full disk by a plain exception."""
    try:
        save(path)
    except (DiptychError, OSError):
        raise
    except Exception as error:
        raise OSError(errno.ENOSPC, " ".join(str(error).split()), str(path)) from error


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

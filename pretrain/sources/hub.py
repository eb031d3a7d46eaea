"""Data sets of the Hugging Face hub, and local folders laid out like them."""

import contextlib
import functools
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from pretrain.runtime.errors import DiptychError
from pretrain.sources.columns import ColumnSource, PathText
from pretrain.sources.files import Files
from pretrain.sources.part import Part
from pretrain.sources.record import Item
from pretrain.sources.tables import cut, open_table, table_records

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class CachedPart(Part):
    """Rows of a data set that was downloaded.

    Attributes:
        arrow: The Arrow file of the cache that holds them.
    """

    arrow: str = ""


class HubSource(ColumnSource):
    """A split of a data set, by the ``datasets`` library; a data set's own Python code is never run.

    A folder is read where it lies, and its parts are its files. A data set of the hub is downloaded into the cache of
    ``datasets`` before the first worker starts, or read over the network while it is used (``streaming``). A record's
    file is the data set with its split, or the numbered shard of it; its line is the row in there.
    """

    location: ClassVar[frozenset[str]] = frozenset({"dataset"})

    type: Literal["hub"]
    dataset: PathText = Field(description="org/name on the hub, or a folder in the layout of the hub.")
    config: str | None = Field(None, min_length=1, description="Configuration of the data set; none: its only one.")
    split: str = Field("train", pattern=r"^[\w.-]+$", description="Name of the split.")
    revision: str | None = Field(
        None, min_length=1, description="Commit of the data set on the hub, 40 hex digits; a folder needs none."
    )
    streaming: bool = Field(False, description="Read from the hub as rows are used instead of downloading first.")

    @property
    def path(self) -> str:
        """The data set, which gives the source its name."""
        return self.dataset

    def parts(self, files: Files) -> Sequence[Part]:
        """The files of a folder or stream, or pieces of about 64 MiB of a data set in the cache.

        Raises:
            DiptychError: No such data set, configuration, split or column, no commit, or the hub cannot be reached.
        """
        folder = self._folder()
        if folder is None:
            if self.revision is None or not _COMMIT.fullmatch(self.revision):
                raise DiptychError(f"{self._place}: revision must be a commit of 40 hex digits{self._newest()}")
            unreachable = self._probe()
            if not self.streaming:
                return self._cached_parts(unreachable)
            if unreachable is not None:
                raise self._unreachable(unreachable)
        _stream.cache_clear()  # the folder may have changed
        with self._asking():
            stream = self._stream()
            columns, count = stream.column_names, stream.num_shards
        if columns is not None:
            self.needed(columns, self._place)
        nothing = 0, f"{self.dataset} {self.revision}", ()
        size, state, watched = _contents(folder, files) if folder is not None else nothing
        names = [self._place if count == 1 else f"{self._place}-{index:05}-of-{count:05}" for index in range(count)]
        return [
            Part(name, self._digest(state, count, index), size // count, index, index + 1, watched=watched)
            for index, name in enumerate(names)
        ]

    def read(self, part: Part) -> Iterator[Item]:
        """Yields what the rows of a part give, in their order.

        Raises:
            DiptychError: The hub cannot be reached any more, or the data set cannot be read.
        """
        if isinstance(part, CachedPart):
            with open_table(part.arrow, "arrow") as table:
                batches = table.batches(part.start, part.stop, self.needed(table.names, self._place))
                yield from table_records(self, batches, part.file, part.first_line)
            return
        with self._asking():
            stream = self._stream()
            if stream.column_names is not None:  # else images and sounds would be decoded too
                stream = stream.select_columns(self.needed(stream.column_names, self._place))
            shard = stream.shard(num_shards=stream.num_shards, index=part.start)
            tables = shard.with_format("arrow").iter(1024)
            if stream.info.builder_name == "csv":
                tables = self._once(tables)
            yield from table_records(self, tables, part.file, part.first_line)

    def _once(self, tables: Iterable[Any]) -> Iterator[Any]:
        for table in tables:
            self._refuse_twice(table.column_names)
            yield table

    def _refuse_twice(self, columns: Sequence[str]) -> None:
        """Refuses a column of CSV that is there twice: pandas calls the second one ``NAME.1``."""
        for name in self.needed(columns, self._place):
            if f"{name}.1" in columns:
                raise DiptychError(f"{self._place}: column {name!r} is there twice; rename one")

    @property
    def _place(self) -> str:
        return "/".join(part for part in (self.dataset.rstrip("/"), self.config, self.split) if part)

    def _folder(self) -> str | None:
        """The folder, absolute; None where the data set is a name on the hub."""
        path = os.path.expanduser(self.dataset)
        if os.path.isdir(path):
            return os.path.abspath(path)  # a relative one could be the name of a format, such as json
        if not _HUB_NAME.fullmatch(self.dataset):
            raise DiptychError(f"{self.dataset}: no such folder, and no name on the hub (org/name); check it")
        return None

    def _stream(self) -> Any:
        folder = self._folder()
        return _stream(folder or self.dataset, self.config, self.split, None if folder else self.revision)

    def _cached_parts(self, unreachable: Exception | None) -> list[Part]:
        """Downloads the data set unless the cache has it, and cuts the Arrow files that it became."""
        try:
            with _offline(unreachable is not None):
                data = _load(self.dataset, self.config, self.split, self.revision, streaming=False)
        except Exception as error:
            raise self._unreachable(unreachable) if unreachable is not None else self._refused(error) from error
        paths = [file["filename"] for file in data.cache_files]
        if unreachable is not None and not all(f"{os.sep}{self.revision}{os.sep}" in path for path in paths):
            raise self._unreachable(unreachable)  # the library offers whatever revision was used last
        parts: list[Part] = []
        line = 1
        for number, path in enumerate(paths):
            with open_table(path, "arrow") as table:
                self.needed(table.names, self._place)
                if data.info.builder_name == "csv":
                    self._refuse_twice(table.names)
                sizes = list(table.sizes())
            for part in cut(path, self._digest(f"{self.dataset} {self.revision}", len(paths), number), sizes):
                first = line + part.first_line - 1
                parts.append(
                    CachedPart(self._place, part.fingerprint, part.size, part.start, part.stop, first, arrow=path)
                )
            line += sum(rows for _, rows in sizes)
        return parts

    def _digest(self, state: str, count: int, index: int) -> str:
        return hashlib.sha256(json.dumps([state, self.config, self.split, count, index]).encode()).hexdigest()

    def _probe(self) -> Exception | None:
        """Asks the hub for the data set, once and with a time limit; gives what makes the hub unreachable."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            HfApi().dataset_info(self.dataset, revision=self.revision, timeout=_TIMEOUT)
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise self._refused(error) from error
        except Exception as error:
            return error
        return None

    def _newest(self) -> str:
        from huggingface_hub import HfApi

        try:
            sha = HfApi().dataset_info(self.dataset, revision=self.revision, timeout=_TIMEOUT).sha
        except Exception:
            return f"; they are listed under huggingface.co/datasets/{self.dataset}/commits/main"
        return f"; {self.revision or 'main'} is {sha} now"

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except DiptychError:
            raise
        except Exception as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> DiptychError:
        return DiptychError(
            f"{self._place}: cannot be read ({_one_line(error)}); check the name, the configuration and the split"
        )

    def _unreachable(self, error: Exception) -> DiptychError:
        commit = f" --revision {self.revision}" if self.revision else ""
        download = f"hf download {self.dataset} --repo-type dataset{commit} --local-dir DIR"
        return DiptychError(
            f"{self._place}: the hub cannot be reached ({_one_line(error)}), and this revision is not in the cache; "
            f"download it where there is a network with `{download}` and set dataset: DIR"
        )


@functools.lru_cache(maxsize=4)
def _stream(dataset: str, config: str | None, split: str, revision: str | None) -> Any:
    """The rows of a split as they are read; remembered, for a worker reads many parts."""
    return _load(dataset, config, split, revision, streaming=True)


def _load(dataset: str, config: str | None, split: str, revision: str | None, *, streaming: bool) -> Any:
    import datasets  # here: importing it takes seconds

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it logs what it raises
    return datasets.load_dataset(
        dataset, config, split=split, revision=revision, streaming=streaming, keep_in_memory=False
    )


@contextlib.contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Keeps ``datasets`` from asking the hub again and again."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _contents(folder: str, files: Files) -> tuple[int, str, tuple[tuple[str, int, int], ...]]:
    """Bytes and digest of all files of a folder that are not hidden, and the files with their states."""
    size, digest = 0, hashlib.sha256()
    watched: tuple[tuple[str, int, int], ...] = ()
    for name in sorted(glob.glob("**", root_dir=folder, recursive=True)):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            if name.endswith(".parquet"):
                with open_table(path, "parquet"):
                    pass  # has no column twice
            part = files.whole(path)
            size += part.size
            watched += part.watched
            digest.update(f"{name}\0{part.fingerprint}\0".encode(errors="surrogateescape"))
    files.save()
    return size, digest.hexdigest(), watched


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

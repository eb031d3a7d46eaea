"""Line-aligned text files, one for every view: line n of one says what line n of the other says."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar, Literal

from pydantic import Field

from pretrain.runtime.errors import DiptychError
from pretrain.sources.columns import Paths, PathText
from pretrain.sources.files import Files
from pretrain.sources.lines import RestLost, TextSource
from pretrain.sources.part import Part
from pretrain.sources.record import BadRow, Record


@dataclass(frozen=True, slots=True)
class AlignedPart(Part):
    """Files that are read side by side.

    Attributes:
        files: The files with the name of their view; the first is ``file``.
    """

    files: tuple[tuple[str, Part], ...] = ()


class ParallelSource(TextSource):
    """Text files, ``.gz`` and ``.zst`` as well, that have as many lines as each other."""

    location: ClassVar[frozenset[str]] = frozenset({"paths"})

    type: Literal["parallel"]
    paths: dict[str, Paths] = Field(
        min_length=1, description="View name to its file, or to several files that word it differently; globs in step."
    )

    @property
    def path(self) -> PathText:
        """The first file, which gives the source its name."""
        first = next(iter(self.paths.values()))
        return first if isinstance(first, str) else first[0]

    def view_names(self) -> tuple[str, ...]:
        """The views that every record has."""
        return tuple(self.paths)

    def settings(self) -> dict[str, Any]:
        """All settings but where the files lie: which views they are, and in which order."""
        return super().settings() | {"columns": [view for view, paths in self.paths.items() for _ in _several(paths)]}

    def where(self) -> str:
        """All the files."""
        return ", ".join(" ".join([paths] if isinstance(paths, str) else paths) for paths in self.paths.values())

    def parts(self, files: Files) -> Sequence[Part]:
        """One part for every group of files side by side.

        Raises:
            DiptychError: A file is missing, or one pattern matches more files than another.
        """
        views = [(view, path) for view, paths in self.paths.items() for path in _several(paths)]
        columns = [files.all_whole(path) for _, path in views]
        for (_, path), column in zip(views, columns, strict=True):
            if len(column) != len(columns[0]):
                raise DiptychError(
                    f"{path}: matches {len(column)} files, but {views[0][1]} matches {len(columns[0])}; "
                    "aligned files come in equal numbers"
                )
        made = []
        for row in zip(*columns, strict=True):
            digest = hashlib.sha256("\0".join(part.fingerprint for part in row).encode()).hexdigest()
            named = tuple((view, part) for (view, _), part in zip(views, row, strict=True))
            watched = tuple(file for part in row for file in part.watched)
            size = sum(part.size for part in row)
            made.append(AlignedPart(row[0].file, digest, size, watched=watched, files=named))
        return made

    def read(self, part: Part) -> Iterator[Record | BadRow]:
        """Yields a record for every line that is blank in no file; lines that are blank in all files are skipped.

        Raises:
            DiptychError: The files have different numbers of lines, so that it is unknown which belong together.
        """
        assert isinstance(part, AlignedPart)
        for number, row in enumerate(zip_longest(*(self.lines(file) for _, file in part.files)), start=1):
            bad = [line for line in row if isinstance(line, BadRow)]
            if bad:
                yield bad[0]
                if any(isinstance(line, RestLost) for line in bad):
                    return
            if None in row:
                self._refuse(part)
            texts = [line[1] for line in row if isinstance(line, tuple)]
            blank = [not text or text.isspace() for text in texts]
            if bad or all(blank):
                continue
            if any(blank):
                files = [file.file for (_, file), is_blank in zip(part.files, blank, strict=True) if is_blank]
                yield BadRow(part.file, number, f"the line is blank in {', '.join(files)} only; drop it in all files")
                continue
            views: dict[str, tuple[str, ...]] = {}
            for (view, _), text in zip(part.files, texts, strict=True):
                views[view] = (*views.get(view, ()), text)
            yield Record(views, part.file, number)

    def _refuse(self, part: AlignedPart) -> None:
        counts = [(sum(1 for _ in self.lines(file)), file.file) for _, file in part.files]
        shortest = min(counts)
        raise DiptychError(
            f"{shortest[1]}:{shortest[0]}: the last line here, but of {', '.join(f'{n:,} in {f}' for n, f in counts)}; "
            "aligned files have equal numbers of lines: find the line that is missing"
        )


def _several(paths: str | tuple[str, ...]) -> tuple[str, ...]:
    return (paths,) if isinstance(paths, str) else paths

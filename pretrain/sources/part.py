"""The unit of reading."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a source that one worker reads; small enough that many workers have work.

    Attributes:
        file: The file, or the name of the grammar.
        fingerprint: Changes whenever what the part holds may change; equal content has equal fingerprints wherever it
            lies.
        size: How much work it is, in bytes.
        start: Where it begins: byte, row group, record number; the source's own unit.
        stop: Where it ends (exclusive); None: the end of the file.
        first_line: Line of the file (from 1) that the part begins with.
        watched: Local files that it is read from, with size and time of change when they were hashed.
    """

    file: str
    fingerprint: str
    size: int
    start: int = 0
    stop: int | None = None
    first_line: int = 1
    watched: tuple[tuple[str, int, int], ...] = field(default=(), compare=False)

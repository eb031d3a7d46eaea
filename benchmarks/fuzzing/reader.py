"""What is fed to a reader."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Read = Callable[[Path, bytes, random.Random], None]
"""Reads a mutated file: gets an empty folder to put it in, its content, and random numbers for what else is drawn."""


@dataclass(frozen=True)
class Reader:
    """A reader and its files.

    Attributes:
        seeds: Valid files.
        read: Reads a mutated one.
        form: What mutations know of the format: ``text``, ``json`` (one value), ``jsonl`` or ``binary``.
        lists: Whether a refusal may be a list of problems, one a line.
    """

    seeds: Sequence[bytes]
    read: Read
    form: str
    lists: bool = False

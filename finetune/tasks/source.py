"""The examples of a task as a source: preparation, packing and training are then those of pre-training."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from finetune.tasks import make_task
from pretrain.sources.files import Files
from pretrain.sources.part import Part
from pretrain.sources.record import BadRow, Record, Source


class TaskSource(Source):
    """A file of a task; the views are ``prompt`` and ``answer``."""

    type: Literal["task"]
    path: str = Field(description="The file.")
    task: str = Field(description="Name of the task.")
    settings_: dict[str, Any] = Field(default_factory=dict, alias="settings", description="Settings of the task.")

    def view_names(self) -> tuple[str, ...]:
        """The views that every record has."""
        return ("prompt", "answer")

    def parts(self, files: Files) -> Sequence[Part]:
        """The file as one part."""
        return files.all_whole(self.path)

    def read(self, part: Part) -> Iterator[Record | BadRow]:
        """Yields the examples in the order of the file."""
        for example in make_task(self.task, **self.settings_).examples(Path(part.file)):
            line = int(example.id.rpartition(":")[2])
            yield Record({"prompt": (example.prompt,), "answer": (example.gold,)}, part.file, line)

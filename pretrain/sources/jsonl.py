"""JSON Lines with one named field per view."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pretrain.errors import DiptychError
from pretrain.sources.json_lines import checked_view, file_fingerprint, read_objects
from pretrain.sources.record import Record


class JsonlSource(BaseModel):
    """A ``.jsonl`` file, UTF-8, one object a line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["jsonl"]
    path: Path = Field(description="The file; relative to the working directory.")
    fields: dict[str, str] = Field(
        {"text": "text", "code": "code"}, min_length=2, description="View name to field of the JSON object."
    )
    keep: dict[str, Any] = Field(
        default_factory=dict, description="Only records whose fields have these values, e.g. {label: 1}."
    )

    def records(self) -> Iterator[Record]:
        """Yields the records of the file in its order."""
        for place, row in read_objects(self.path):
            if any(row.get(field) != value for field, value in self.keep.items()):
                continue
            views = {}
            for view, field in self.fields.items():
                if field not in row:
                    raise DiptychError(f"{place}: no field {field!r} for view {view!r}; it has {', '.join(row)}")
                views[view] = checked_view(row[field], place, view)
            yield Record(views, place)

    def view_names(self) -> tuple[str, ...]:
        """The views that every record has."""
        return tuple(self.fields)

    def fingerprint(self) -> str:
        """Changes whenever the records may change."""
        return file_fingerprint(self.path)

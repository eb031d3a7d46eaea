"""The chat format of the published LLM-JEPA data sets: ``{"messages": [{"role": ..., "content": ...}, ...]}``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pretrain.errors import DiptychError
from pretrain.sources.json_lines import checked_view, file_fingerprint, read_objects
from pretrain.sources.record import Record


class MessagesSource(BaseModel):
    """A ``.jsonl`` file of one-turn chats; messages of other roles (system) are left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["messages"]
    path: Path = Field(description="The file; relative to the working directory.")
    roles: dict[str, str] = Field(
        {"text": "user", "code": "assistant"}, min_length=2, description="View name to role of the message."
    )

    def records(self) -> Iterator[Record]:
        """Yields the records of the file in its order."""
        for place, row in read_objects(self.path):
            messages = row.get("messages")
            if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
                raise DiptychError(f"{place}: no list of objects under 'messages'; use type: jsonl for named fields")
            views = {}
            for view, role in self.roles.items():
                contents = [message.get("content") for message in messages if message.get("role") == role]
                if len(contents) != 1:
                    raise DiptychError(f"{place}: {len(contents)} messages with role {role!r}, expected exactly one")
                views[view] = checked_view(contents[0], place, view)
            yield Record(views, place)

    def view_names(self) -> tuple[str, ...]:
        """The views that every record has."""
        return tuple(self.roles)

    def fingerprint(self) -> str:
        """Changes whenever the records may change."""
        return file_fingerprint(self.path)

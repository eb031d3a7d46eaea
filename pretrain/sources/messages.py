"""The chat format of the published LLM-JEPA data sets: ``{"messages": [{"role": ..., "content": ...}, ...]}``."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from pretrain.sources.columns import Paths, Problem, RowSource, wordings
from pretrain.sources.files import Files
from pretrain.sources.jsonl import objects
from pretrain.sources.lines import TextSource
from pretrain.sources.part import Part
from pretrain.sources.record import LEFT_OUT, BadRow, Item


class MessagesSource(TextSource, RowSource):
    """``.jsonl`` files of one-turn chats; messages of other roles (system) are left out."""

    type: Literal["messages"]
    path: Paths = Field(description="The files: path, glob or URL (s3://, https://, ...), or several of them.")
    roles: dict[str, str] = Field(
        {"text": "user", "code": "assistant"}, min_length=1, description="View name to role of the message."
    )

    def view_names(self) -> tuple[str, ...]:
        """The views that every record has."""
        return tuple(self.roles)

    def parts(self, files: Files) -> Sequence[Part]:
        """Pieces of the files of about 64 MiB."""
        return files.all_text_parts(self.path)

    def read(self, part: Part) -> Iterator[Item]:
        """Yields what the lines of a part give, in their order; blank lines are nothing."""
        for item in objects(self, part):
            if isinstance(item, BadRow):
                yield item
                continue
            number, row = item
            if self.keep and not self.kept(row):
                yield LEFT_OUT
                continue
            try:
                yield self.named(row, self._views(row), part.file, number)
            except Problem as problem:
                yield BadRow(part.file, number, str(problem))

    def _views(self, row: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        messages = row.get("messages")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise Problem("no list of objects under 'messages'; use type: jsonl for named fields")
        views = {}
        for view, role in self.roles.items():
            contents = [message.get("content") for message in messages if message.get("role") == role]
            if len(contents) != 1:
                raise Problem(f"{len(contents)} messages with role {role!r}, expected exactly one")
            views[view] = wordings(contents[0], view)
        return views

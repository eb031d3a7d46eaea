"""Questions to SQL, compared as text, as normalised text and by what the query gives on the database."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from finetune.tasks.confined import confined
from finetune.tasks.rows import same_rows
from finetune.tasks.sql_words import has_order, sql_words
from finetune.tasks.task import Example, Task, Verdict
from finetune.tasks.untrusted import Failed, OverLimit
from pretrain.runtime.errors import DiptychError
from pretrain.sources.columns import Problem, look_up, text_of

_WITH_DB: Final = "For db_id:[{}]\n\n"
_PUBLISHED: Final = re.compile(r"For db_id:\[([^\]\n]*)\]\n\n(.+)", re.DOTALL)


class TextToSql(Task):
    """Equality of queries.

    Scores: ``exact``, as strings; ``normalised``, see ``sql_words``; ``execution``, where the folder ``databases``
    holds the example's database: whether both queries give the same rows. Their order counts only if the gold query has
    an ``ORDER BY``, that of the columns always; reals may differ by one in a million (see ``same_rows``). An answer
    that fails is wrong. Not decided are examples without a database and those whose gold query fails.

    A query runs in a process of its own on a connection that can only read; see ``untrusted``.
    """

    main: ClassVar[str] = "normalised"
    default_fields: ClassVar[Mapping[str, str]] = {"text": "text", "code": "code", "db_id": "db_id"}

    task: Literal["text_to_sql"] = "text_to_sql"
    prompt_with_db: bool = Field(
        False, description='Whether prompts begin with "For db_id:[X]" and a blank line, as in the published set.'
    )
    databases: Path | None = Field(
        None, description="Folder that holds DB_ID/DB_ID.sqlite or DB_ID.sqlite; none: no query is executed."
    )
    query_seconds: float = Field(5, gt=0, le=600, description="CPU time that a query may take.")

    def examples(self, path: str | Path) -> list[Example]:
        """Reads the examples of a file; see ``Task.examples``. ``databases`` without any of theirs is refused."""
        examples = super().examples(path)
        if self.databases is not None and not any(self._database(example) for example in examples):
            name = examples[0].facts.get("db_id", "DB_ID")
            raise DiptychError(
                f"{self.databases}: holds no database of {path}, such as {name}/{name}.sqlite; correct databases, or "
                "leave it out to execute nothing"
            )
        return examples

    def _read(self, row: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
        text, gold, db_id = self._text(row), self._string(row, "code"), look_up(row, self.fields["db_id"])
        if db_id is None and (published := _PUBLISHED.fullmatch(text)):
            db_id, text = published.groups()
        if db_id is None:
            if self.prompt_with_db:
                raise Problem(f"no field {self.fields['db_id']!r}, which prompt_with_db needs")
            return text, gold, {}
        name = text_of(db_id, "db_id")
        if PurePosixPath(name).name != name or name == ".." or "\0" in name:
            raise Problem(f"db_id {name!r} is no name of a database")
        return (_WITH_DB.format(name) if self.prompt_with_db else "") + text, gold, {"db_id": name}

    def judge(self, example: Example, output: str) -> Verdict:
        """Judges an answer; a blank one is never correct. A Markdown fence around the whole answer is no part of it."""
        exact = output.strip() == example.gold.strip()
        sql = _without_fence(output)
        words = sql_words(sql)
        normalised = bool(words) and words == sql_words(example.gold)
        execution, result = self._execution(example, sql)
        reason = "exact" if exact else "same but for spelling" if normalised else "other query"
        reason = reason if words else "no answer"
        return Verdict(
            normalised,
            f"{reason}; {result}" if result else reason,
            {"exact": float(exact), "normalised": float(normalised), "execution": execution},
        )

    def trivial_gold(self, example: Example) -> str | None:
        """``gives nothing``: the result of the gold query has no rows, or only NULL, as has that of many others."""
        database = self._database(example)
        if database is None:
            return None
        try:
            rows = confined(self.query_seconds).query(database, example.gold)
        except (Failed, OverLimit):
            return None
        return None if any(cell is not None for row in rows for cell in row) else "gives nothing"

    def _execution(self, example: Example, sql: str) -> tuple[float | None, str]:
        database = self._database(example)
        if database is None:
            return None, ""
        process = confined(self.query_seconds)
        try:
            gold = process.query(database, example.gold)
        except (Failed, OverLimit) as error:
            return None, f"the gold query failed: {error}"
        try:
            rows = process.query(database, sql)
        except Failed as error:
            return 0.0, f"query failed: {error}"
        except OverLimit as error:
            return 0.0, f"query took too much: {error}"
        try:
            same = same_rows(gold, rows, ordered=has_order(example.gold))
        except OverLimit as error:
            return None, f"not decided: {error}"
        if not same:
            return 0.0, "other result"
        return 1.0, "same result" if gold else "same result (no rows)"

    def _database(self, example: Example) -> Path | None:
        name = example.facts.get("db_id")
        if self.databases is None or name is None:
            return None
        paths = (self.databases / name / f"{name}.sqlite", self.databases / f"{name}.sqlite")
        return next((path for path in paths if path.is_file()), None)


def _without_fence(output: str) -> str:
    first, _, rest = output.strip().partition("\n")
    fenced = first.rstrip().lower() in ("```", "```sql", "```sqlite") and rest.endswith("```")
    return rest.removesuffix("```") if fenced else output

"""The program that judges untrusted output of models; ``confined.py`` starts it and kills it when it exceeds a limit.

It reads requests, one JSON list ``[job, *arguments]`` a line, and answers each with a line: ``["ok", value]``,
``["failed", reason]`` or ``["limit", reason]``. It needs nothing but the standard library (and the regexes of
``pretrain``), so it starts in milliseconds and little memory is enough. Nothing that it is sent is ever run but SQL,
and that on a connection of ``_open``.
"""

import json
import resource
import signal
import sqlite3
import sys
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

MAX_TEXT: Final = 20_000
"""Characters of a query or regex; real ones have hundreds."""

_MEMORY_BYTES: Final = 1 << 30
_SQLITE_HEAP_BYTES: Final = 256 << 20
_MAX_ROWS: Final = 10_000
_MAX_RESULT_BYTES: Final = 4 << 20

# Work of a query in instructions of SQLite's machine, tens of millions a second: unlike time, the same everywhere.
_MAX_STEPS: Final = 50_000_000
_STEPS_PER_CHECK: Final = 10_000

_LIMITS: Final = {
    sqlite3.SQLITE_LIMIT_LENGTH: 1 << 20,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 4 * MAX_TEXT,
    sqlite3.SQLITE_LIMIT_COLUMN: 500,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 100_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 100,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}

# Anything else is refused: what touches files, loads code, inspects the library or is random.
_FUNCTIONS: Final = """
abs acos acosh asin asinh atan atan2 atanh avg ceil ceiling char coalesce concat concat_ws cos cosh count cume_dist
current_date current_time current_timestamp date datetime degrees dense_rank exp first_value floor format glob
group_concat hex ifnull iif instr json json_array json_array_length json_extract json_group_array
json_group_object json_object json_quote json_type json_valid julianday lag last_value lead length like likelihood
likely ln log log10 log2 lower ltrim max min mod nth_value ntile nullif percent_rank pi pow power printf quote
radians rank replace round row_number rtrim sign sin sinh soundex sqrt strftime string_agg substr substring sum tan
tanh time timediff total trim trunc typeof unhex unicode unixepoch unlikely upper
"""
_ALLOWED: Final = frozenset(_FUNCTIONS.split())


class Failed(Exception):
    """The request cannot be answered: the text is wrong, or asks for something that is refused."""


class OverLimit(Exception):
    """Answering the request would exceed a limit."""


def query(database: str, sql: str) -> list[list[Any]]:
    """The rows that a query gives.

    Args:
        database: Absolute path of an SQLite file, which is only read.
        sql: One SELECT; untrusted.

    Returns:
        Rows of numbers, strings and None; a blob as ``{"blob": hex}``.
    """
    try:
        connection, refused = _open(database)
    except sqlite3.Error as error:
        raise Failed(f"{database}: {error}") from None
    steps = 0

    def check() -> bool:
        nonlocal steps
        steps += _STEPS_PER_CHECK
        return steps > _MAX_STEPS

    connection.set_progress_handler(check, _STEPS_PER_CHECK)
    refused.clear()
    rows: list[list[Any]] = []
    size = 0
    cursor = connection.cursor()
    try:
        cursor.execute(sql)
        if cursor.description is None:
            raise Failed("no statement")
        for row in cursor:
            size += sum(8 + (len(cell) if isinstance(cell, str | bytes) else 0) for cell in row)
            if len(rows) == _MAX_ROWS or size > _MAX_RESULT_BYTES:
                raise OverLimit(f"more than {_MAX_ROWS} rows or {_MAX_RESULT_BYTES >> 20} MiB")
            rows.append([{"blob": cell.hex()} if isinstance(cell, bytes) else cell for cell in row])
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        if refused:
            raise Failed(f"refused: {refused[0]}") from None
        if steps > _MAX_STEPS:
            raise OverLimit(f"more than {_MAX_STEPS:,} steps") from None
        raise Failed(" ".join(str(error).split())[:200]) from None
    finally:
        cursor.close()
    return rows


@lru_cache(maxsize=16)
def _open(database: str) -> tuple[sqlite3.Connection, list[str]]:
    """A connection on which nothing but a SELECT on the file itself can be prepared, and the list of what it refused.

    ``immutable`` leaves the folder without lock and journal files.
    """
    connection = sqlite3.connect(f"file:{quote(database)}?mode=ro&immutable=1", uri=True, isolation_level=None)
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA hard_heap_limit = {_SQLITE_HEAP_BYTES}")
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    refused: list[str] = []

    def allow(action: int, first: str | None, second: str | None, schema: str | None, within: str | None) -> int:
        if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ and schema in ("main", None):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _ALLOWED:
            return sqlite3.SQLITE_OK
        names = [name[:40] for name in (first, second) if name]
        refused.append(" ".join([_ACTIONS.get(action, "statement"), *names]))
        return sqlite3.SQLITE_DENY

    connection.set_authorizer(allow)
    return connection, refused


_ACTIONS: Final = {
    sqlite3.SQLITE_FUNCTION: "function",
    sqlite3.SQLITE_PRAGMA: "pragma",
    sqlite3.SQLITE_ATTACH: "attach",
    sqlite3.SQLITE_INSERT: "write to",  # creating something is a write to sqlite_master
    sqlite3.SQLITE_UPDATE: "write to",
    sqlite3.SQLITE_DELETE: "write to",
}


def differ(left: str, right: str, max_states: int) -> str | None:
    """A shortest line that exactly one of two regexes matches; None: they mean the same."""
    from pretrain.regular_languages import RegexSyntaxError, TooComplex, difference

    try:
        return difference(left, right, max_states)
    except RegexSyntaxError as error:
        raise Failed(str(error)[:200]) from None
    except TooComplex:
        raise OverLimit(f"more than {max_states:,} states") from None


_JOBS: Final = {"query": query, "differ": differ}


def _answer(job: str, arguments: list[Any]) -> str:
    try:
        return json.dumps(["ok", _JOBS[job](*arguments)])  # type: ignore[operator]
    except Failed as error:
        return json.dumps(["failed", str(error)])
    except OverLimit as error:
        return json.dumps(["limit", str(error)])
    except (MemoryError, RecursionError):
        return json.dumps(["limit", "too much memory"])


def main(root: str, seconds: float) -> None:
    """Writes ``ready``, then answers requests until there are no more.

    Args:
        root: Folder of the package ``pretrain``.
        seconds: CPU time per request, after which the process dies.
    """
    sys.path.append(root)
    for what, most in ((resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # signals that the parent ignores stay ignored
    for sent_to_all in (signal.SIGUSR1, signal.SIGTERM):  # Slurm signals every process; the parent decides
        signal.signal(sent_to_all, signal.SIG_IGN)
    sys.stdout.buffer.write(b"ready\n")
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        job, *arguments = json.loads(line)
        # CPU time, so that a busy machine changes no verdict. The signal kills even in the middle of one C function.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        reply = _answer(job, arguments)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(reply.encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))

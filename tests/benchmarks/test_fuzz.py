"""The short version of `benchmarks/fuzz.py`: broken files are read or refused in one line; and what it once found."""

import io
import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import fuzz
from benchmarks.fuzzing.reader import Reader
from finetune.recipe import RECIPE_FILE, read_recipe
from pretrain.runtime.errors import DiptychError
from pretrain.sources import Files, Record
from pretrain.sources.lines import RestLost
from pretrain.sources.tables import TableSource

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_broken_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    command = [sys.executable, "benchmarks/fuzz.py", "--mutations", "60", "--seed", "11", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    result = json.loads(out.read_text())
    assert result["failures"] == [] and len(result["readers"]) >= 20
    for name, found in result["readers"].items():
        assert found["read"] + found["refused"] == 60, name
    assert sum(found["refused"] for found in result["readers"].values()) > 300  # mutations that break


def test_every_kind_of_failure_is_seen(tmp_path: Path) -> None:
    def result(failure: Exception | None) -> str:
        def read(folder: Path, content: bytes, draw: random.Random) -> None:
            if failure is not None:
                raise failure

        return fuzz.one(Reader([b"x"], read, "binary"), "x", 0, 0, tmp_path)

    assert result(None) == "read" and result(DiptychError("a: wrong")) == "refused"
    assert result(KeyError("x")).startswith("traceback: ")
    assert result(MemoryError()).startswith("traceback: ")
    assert result(DiptychError("a: wrong\n  b: wrong")).startswith("a message of 2 lines")


def test_a_child_that_dies_or_hangs_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "child.py"
    script.write_text(
        """
import json, os, signal, sys, time
for name, start, stop in json.loads(sys.argv[2]):
    for number in range(start, stop):
        print(json.dumps({"next": [name, number]}), flush=True)
        if number == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == 4:
            time.sleep(60)
        print(json.dumps({"result": "read" if number else "traceback: x"}), flush=True)
    print(json.dumps({"grown": [name, 1 << 30 if name == "b" else 0]}), flush=True)
"""
    )
    monkeypatch.setattr(fuzz, "__file__", str(script))
    monkeypatch.setattr(fuzz, "SECONDS", 1.0)
    counts = {"a": fuzz.Count(), "b": fuzz.Count()}
    found = list(fuzz.run([("a", 0, 6), ("b", 5, 7)], 0, counts))
    assert found == [
        ("a", 0, "traceback: x"),
        ("a", 2, f"the process died ({-signal.SIGSEGV})"),
        ("a", 4, "a hang"),
        ("b", 6, "memory grew by 1024 MiB"),
    ]
    assert (counts["a"].read, counts["b"].read) == (3, 2)


# ------------------------------------------------------------------------------------------------- what it once found


def test_offsets_of_an_arrow_file_that_point_outside_are_damage(tmp_path: Path) -> None:
    """Arrow trusts them, and the process died."""
    sink = io.BytesIO()
    table = pa.table({"text": ["aaaa", "bbbb"], "code": ["cccc", "dddd"]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue()
    good = (0).to_bytes(4, "little") + (4).to_bytes(4, "little") + (8).to_bytes(4, "little")
    assert content.count(good) == 2
    for value in (1 << 25, -4):
        bad = good[:8] + value.to_bytes(4, "little", signed=True)
        path = tmp_path / "a.arrow"
        path.write_bytes(content.replace(good, bad, 1))
        source = TableSource(type="arrow", path=str(path))
        found = [item for part in source.parts(Files()) for item in source.read(part)]
        assert [type(item) for item in found] == [Record, RestLost] and "the file is damaged" in str(found[1])


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_name_of_a_column_that_is_no_utf_8_is_damage(tmp_path: Path, kind: Any) -> None:
    sink = io.BytesIO()
    table = pa.table({"text": ["a"], "codecode": ["b"]})
    if kind == "parquet":
        pq.write_table(table, sink, store_schema=False)
    else:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    path = tmp_path / "a"
    path.write_bytes(sink.getvalue().replace(b"codecode", b"code\xff\xff\xff\xff"))
    with pytest.raises(DiptychError, match=f"is no complete {kind.capitalize()} file"):
        TableSource(type=kind, path=str(path)).parts(Files())


@pytest.mark.parametrize(
    "text",
    [
        '{"task": ["sentiment"], "settings": {}, "style": "plain"}',
        '{"task": "sentiment", "settings": "answers", "style": "plain"}',
        '{"task": "sentiment", "settings": {}, "style": {}}',
        '{"task": "sentiment"}',
        "[" * 100_000,
    ],
)
def test_a_damaged_recipe_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / RECIPE_FILE).write_text(text)
    with pytest.raises(DiptychError, match=f"{RECIPE_FILE}: .*name --task and --style"):
        read_recipe(tmp_path)


def test_what_comes_from_files_is_escaped_in_messages() -> None:
    message = str(DiptychError("a.csv: no column 'x'; it has b\nc, \x1b[31md, \ud800, \u2028, tab\t, ü 猫"))
    assert message == r"a.csv: no column 'x'; it has b\nc, \x1b[31md, \ud800, \u2028, tab\t, ü 猫"
    assert str(DiptychError("2 problems\n  one\n  two")) == "2 problems\n  one\n  two"

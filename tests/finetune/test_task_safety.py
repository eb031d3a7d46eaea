"""Hostile answers: every one is judged within its limits, changes nothing on disk and leaves the judge working."""

import ast
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

import finetune.tasks
from finetune.tasks import TASKS, Example, make_task
from finetune.tasks.confined import Confined
from finetune.tasks.sql_words import sql_words
from finetune.tasks.untrusted import MAX_TEXT, Failed, OverLimit

# Far above what any of these takes on a busy machine, far below what the unlimited ones would.
AT_MOST_SECONDS = 60

LONG = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) "
LETTERS = "WITH s(y) AS (SELECT printf('%.900000c', 'a')) "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("databases")
    connection = sqlite3.connect(folder / "pets.sqlite")
    connection.execute("CREATE TABLE pet (id INTEGER PRIMARY KEY, name TEXT)")
    connection.executemany("INSERT INTO pet VALUES (?, ?)", [(number, f"pet {number}") for number in range(1000)])
    connection.commit()
    connection.close()
    return folder


@pytest.fixture(scope="module")
def process() -> Confined:
    return Confined(seconds=1)


def state(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


WRITES = {
    "drop": ("DROP TABLE pet", "refused: write to sqlite_master"),
    "delete": ("DELETE FROM pet", "refused: write to pet"),
    "delete returning": ("DELETE FROM pet RETURNING *", "refused: write to pet"),
    "insert": ("INSERT INTO pet VALUES (5000, 'x')", "refused: write to pet"),
    "insert after with": ("WITH a AS (SELECT 1) INSERT INTO pet SELECT 5000, 1", "refused: write to pet"),
    "update": ("UPDATE pet SET name = ''", "refused: write to pet name"),
    "create": ("CREATE TABLE x (a)", "refused: write to sqlite_master"),
    "create temporary": ("CREATE TEMP TABLE x (a)", "refused: write to sqlite_temp_master"),
    "create view": ("CREATE VIEW v AS SELECT 1", "refused: write to sqlite_master"),
    "virtual table": ("CREATE VIRTUAL TABLE x USING fts5(a)", "refused: write to sqlite_master"),
    "attach": ("ATTACH 'x' AS y", "refused: attach x"),
    "detach": ("DETACH main", "refused: statement main"),
    "vacuum into": ("VACUUM INTO 'x.sqlite'", "refused: attach x.sqlite"),
    "two statements": ("SELECT 1; DELETE FROM pet", "You can only execute one statement at a time."),
    "two selects": ("SELECT 1; SELECT 2", "You can only execute one statement at a time."),
    "pragma": ("PRAGMA writable_schema = 1", "refused: pragma writable_schema 1"),
    "query_only off": ("PRAGMA query_only = OFF", "refused: pragma query_only OFF"),
    "begin": ("BEGIN EXCLUSIVE", "refused: statement BEGIN"),
    "savepoint": ("SAVEPOINT a", "refused: statement BEGIN a"),
    "analyze": ("ANALYZE", "refused: write to sqlite_master"),
    "dot command": (".shell touch x", 'near ".": syntax error'),
    "dot command after": ("SELECT 1\n.shell touch x", 'near "."'),
    "extension": ("SELECT load_extension('x')", "refused: function load_extension"),
    "readfile": ("SELECT readfile('/etc/passwd')", "no such function: readfile"),
    "writefile": ("SELECT writefile('x', 'y')", "no such function: writefile"),
    "edit": ("SELECT edit(name) FROM pet", "no such function: edit"),
    "tokenizer": ("SELECT fts3_tokenizer('simple')", "refused: function fts3_tokenizer"),
    "random blob": ("SELECT randomblob(1000000000)", "refused: function randomblob"),
    "zero blob": ("SELECT zeroblob(1000000000)", "refused: function zeroblob"),
    "pragma as table": ("SELECT * FROM pragma_database_list", "refused: write to sqlite_master"),
    "pages as table": ("SELECT * FROM dbstat", "refused: write to sqlite_master"),
    "long string": ("SELECT replace(printf('%.900000c', 'a'), 'a', 'aaaa')", "string or blob too big"),
    "parentheses": ("SELECT " + "(" * 5000 + "1" + ")" * 5000, "parser stack overflow"),
    "deep expression": ("SELECT " + "- " * 3000 + "1", "parser stack overflow"),
    "many unions": (" UNION ALL ".join(["SELECT 1"] * 1000), "too many terms in compound SELECT"),
    "many columns": ("SELECT " + ", ".join(["1"] * 3000), "too many columns"),
    "parameter": ("SELECT ?", "too many SQL variables"),
    "NUL": ("SELECT 1\0; DROP TABLE pet", "null character"),
    "half a surrogate": ("SELECT '\ud800'", "surrogates not allowed"),
    "nothing": ("", "no statement"),
    "comment": ("-- DROP TABLE pet", "no statement"),
    "no text at all": ("\x01\x02\xff" * 100, "unrecognized token"),
}


@pytest.mark.parametrize("name", WRITES)
def test_refused_queries(name: str, folder: Path, process: Confined) -> None:
    sql, message = WRITES[name]
    before = state(folder)
    with pytest.raises(Failed) as error:
        process.query(folder / "pets.sqlite", sql)
    assert message in str(error.value)
    assert state(folder) == before


ENDLESS = {
    "endless": (LONG + "SELECT count(*) FROM r", "more than 1 s|50,000,000 steps"),
    "endless rows": (LONG + "SELECT x FROM r", "more than 10000 rows"),
    "cross join": ("SELECT count(*) FROM pet a, pet b, pet c, pet d", "more than 1 s|50,000,000 steps"),
    "sort": ("SELECT a.id FROM pet a, pet b, pet c ORDER BY a.id * b.id", "more than 1 s|50,000,000 steps|memory"),
    "within one function": (LETTERS + "SELECT instr(y, substr(y, 1, 450000) || 'b') FROM s, pet", "more than 1 s"),
    "wide rows": (LETTERS + "SELECT y FROM s, pet", "more than 10000 rows or 4 MiB"),
    "memory": ("SELECT " + ", ".join(f"printf('%.1000000c', '{n % 10}')" for n in range(450)), "memory|more than 1 s"),
    "long text": ("SELECT '" + "a" * 1_000_000 + "'", "more than 20,000 characters"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_queries_that_take_too_much(name: str, folder: Path, process: Confined) -> None:
    sql, message = ENDLESS[name]
    before, start = state(folder), time.monotonic()
    with pytest.raises(OverLimit, match=message):
        process.query(folder / "pets.sqlite", sql)
    assert time.monotonic() - start < AT_MOST_SECONDS
    assert state(folder) == before
    assert process.query(folder / "pets.sqlite", "SELECT count(*) FROM pet") == [[1000]]  # the next answer is judged


def test_harmless_queries_run(folder: Path, process: Confined) -> None:
    def run(sql: str) -> list[list[object]]:
        return process.query(folder / "pets.sqlite", sql)

    assert run("SELECT upper(name), id / 2.0 FROM pet AS T1 WHERE T1.id IN (1, 2) ORDER BY id DESC;") == [
        ["PET 2", 1.0],
        ["PET 1", 0.5],
    ]
    assert run(LONG + "SELECT sum(x) FROM (SELECT x FROM r LIMIT 10)") == [[55]]
    assert run("WITH a AS (SELECT id FROM pet) SELECT count(*), avg(id), x'00ff', NULL, 'ü' FROM a") == [
        [1000, 499.5, {"blob": "00ff"}, None, "ü"]
    ]
    assert run("SELECT count(*) FROM pet EXCEPT SELECT 1 UNION SELECT max(id) OVER () FROM pet") == [[999], [1000]]
    assert run("SELECT name FROM pet WHERE name LIKE '%99_' AND id BETWEEN 1 AND 991") == [["pet 990"], ["pet 991"]]


def test_a_text_that_is_no_utf_8_survives(tmp_path: Path, process: Confined) -> None:
    connection = sqlite3.connect(tmp_path / "a.sqlite")
    connection.execute("CREATE TABLE t (a TEXT)")
    connection.execute("INSERT INTO t VALUES (CAST(x'41ff' AS TEXT))")
    connection.commit()
    connection.close()
    assert process.query(tmp_path / "a.sqlite", "SELECT a FROM t") == [["A\udcff"]]


def test_what_is_no_database_is_named(tmp_path: Path, process: Confined) -> None:
    (tmp_path / "a.sqlite").write_text("no database, but long enough to be looked at" * 100)
    with pytest.raises(Failed, match="file is not a database"):
        process.query(tmp_path / "a.sqlite", "SELECT 1 FROM t")
    with pytest.raises(Failed, match=r"none\.sqlite: unable to open database file"):
        process.query(tmp_path / "none.sqlite", "SELECT 1")
    assert [path.name for path in tmp_path.iterdir()] == ["a.sqlite"]


def test_a_killed_process_is_replaced(folder: Path) -> None:
    process = Confined(seconds=5)
    assert process.query(folder / "pets.sqlite", "SELECT 1") == [[1]]
    assert process._process is not None
    first = process._process.pid
    os.kill(first, 9)
    process._process.wait()
    assert process.query(folder / "pets.sqlite", "SELECT 2") == [[2]]
    assert process._process.pid != first


def test_signals_to_a_whole_job_leave_the_process_to_its_owner(folder: Path) -> None:
    process = Confined(seconds=5)
    assert process.query(folder / "pets.sqlite", "SELECT 1") == [[1]]
    assert process._process is not None
    first = process._process
    for number in (signal.SIGUSR1, signal.SIGTERM):
        first.send_signal(number)
    assert process.query(folder / "pets.sqlite", "SELECT 2") == [[2]]
    assert process._process is first


def test_the_process_ends_with_its_owner(folder: Path) -> None:
    code = (
        "from finetune.tasks.confined import confined\n"
        "from pathlib import Path\n"
        f"one = confined(5)\none.query(Path({str(folder / 'pets.sqlite')!r}), 'SELECT 1')\nprint(one._process.pid)"
    )
    root = Path(finetune.tasks.__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=root, check=True
    )
    assert not Path(f"/proc/{int(done.stdout)}").exists()


REGEXES = {
    "anchor": ("(a+)+$", 0.0),
    "nested repeats": ("((a+)+)+b" * 100, 0.0),
    "large repeat": ("(.*a){1000000}", 0.0),
    "large repeat of nothing": ("{1000000}", 0.0),
    "nested large repeats": ("((((a{0,99999999}){0,99999999}){0,99999999})b){1,99999999}", 0.0),
    "parentheses": ("(" * 5000 + "a" + ")" * 5000, 0.0),
    "open parentheses": ("(" * 15_000, 0.0),
    "complements": ("~(" * 30 + ".*a.{30}.*b.{30}" + ")" * 30, 0.0),
    "back reference": (r"(a*)*\1", 0.0),
    "look-around": ("(?=(a+)+)b", 0.0),
    "code": ("(?{system('touch x')})", 0.0),
    "NUL": ("a\0b", 0.0),
    "half a surrogate": ("\ud800", 0.0),
    "line break": ("a\nb", 0.0),
    "backslash": ("\\", 0.0),
    "many characters": ("".join(chr(0x4E00 + number) for number in range(15_000)), None),
    "many intersections": ("&".join(f".*{chr(0x400 + number)}.*" for number in range(3000)), None),
    "long": ("a|" * 500_000, None),
}


@pytest.mark.parametrize("name", REGEXES)
def test_hostile_regexes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output, semantic = REGEXES[name]
    task, start = make_task("nl_regex", seconds=1), time.monotonic()
    verdict = task.judge(Example("a:1", "", ".*dog.*", {}), output)
    assert verdict.scores == {"exact": 0, "semantic": semantic, "starts_with_gold": 0}
    assert time.monotonic() - start < AT_MOST_SECONDS
    assert task.judge(Example("a:1", "", ".*dog.*", {}), "(.*)dog.*").scores["semantic"] == 1
    assert list(tmp_path.iterdir()) == []


MEGABYTES = {
    "digits": "9" * 1_000_000,
    "groups": "1,234" * 200_000,
    "fractions": "1/" * 500_000,
    "signs": "-" * 1_000_000,
    "marks": "####" * 250_000,
    "spaces": " " * 1_000_000,
    "line breaks": "```sql" + "\n" * 1_000_000 + "x",
    "quotes": "'" * 1_000_001,
    "brackets": "[" * 1_000_000,
    "dots": "a." * 500_000,
    "NUL": "\0" * 1_000_000,
    "long when normalised": "\ufdfa" * 1_000_000,
    "half surrogates": "\ud800" * 1_000_000,
}


@pytest.mark.parametrize("name", MEGABYTES)
@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_megabyte_of_anything_is_judged(name: str, task: str) -> None:
    start = time.monotonic()
    verdict = make_task(task).judge(Example("a:1", "", "7", {"answers": ["7"], "label": "7"}), MEGABYTES[name])
    assert not verdict.correct and len(verdict.reason) < 400
    assert time.monotonic() - start < AT_MOST_SECONDS


@pytest.mark.parametrize("text", MEGABYTES.values(), ids=list(MEGABYTES))
def test_normalising_takes_time_in_proportion(text: str) -> None:
    start = time.monotonic()
    sql_words(text[:MAX_TEXT])
    assert time.monotonic() - start < AT_MOST_SECONDS


def test_nothing_evaluates_or_compiles_an_answer() -> None:
    """No eval, exec, compile or shell anywhere, and ``re`` compiles only what is written down at a module's top."""
    folder = Path(finetune.tasks.__file__).parent
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text())
        at_top = {
            id(node)
            for statement in tree.body
            if isinstance(statement, ast.Assign | ast.AnnAssign)
            for node in ast.walk(statement)
        }
        fixed = {
            ast.unparse(statement.target)
            for statement in tree.body
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.value, ast.Constant)
        }

        def is_written_down(pattern: ast.expr, fixed: set[str] = fixed) -> bool:
            """A literal, or one with literals of the module's top in it."""
            if isinstance(pattern, ast.JoinedStr):
                parts = [part.value for part in pattern.values if isinstance(part, ast.FormattedValue)]
                return all(isinstance(part, ast.Name) and part.id in fixed for part in parts)
            return isinstance(pattern, ast.Constant)

        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"), path
            assert not any(word.arg == "shell" for word in node.keywords), path
            if called.startswith("re."):
                assert called == "re.compile" and id(node) in at_top and is_written_down(node.args[0]), path

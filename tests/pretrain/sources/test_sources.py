"""Every type of source: what a file gives, and what each mistake in it says."""

import gzip
import json
import os
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pretrain.runtime.errors import DiptychError
from pretrain.sources import BadRow, Files, LeftOut, Record, Source, SourceConfig
from pretrain.sources import files as files_module
from pretrain.sources import hub as hub_module
from pretrain.sources import tables as tables_module
from pretrain.sources.lines import RestLost

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def source(type: str, **options: Any) -> Source:
    made: Source = TypeAdapter(SourceConfig).validate_python({"type": type, **options})
    return made


def read(made: Source) -> list[Record | BadRow]:
    """Reads as workers do: source and parts are pickled; rows that are left out are not listed."""
    parts = made.parts(Files())
    assert all(part.fingerprint for part in parts)
    copy, parts = pickle.loads(pickle.dumps((made, list(parts))))
    items = [item for part in parts for item in copy.read(part)]
    return [item for item in items if not isinstance(item, LeftOut)]


def views(items: Sequence[Record | BadRow]) -> list[dict[str, tuple[str, ...]]]:
    assert not [str(item) for item in items if isinstance(item, BadRow)]
    return [dict(item.views) for item in items if isinstance(item, Record)]


def problems(items: Sequence[Record | BadRow]) -> list[str]:
    """Line and problem of the bad rows."""
    return [f"{item.line}: {item.problem}" for item in items if isinstance(item, BadRow)]


def jsonl(path: Path, rows: Sequence[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return str(path)


PAIR = {"text": "a cat", "code": "un chat"}


# ---------------------------------------------------------------------------------------------------- fields and rows


def test_a_row_becomes_a_record(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [PAIR, "", {"text": "two", "code": "deux"}])
    assert read(source("jsonl", path=path)) == [
        Record({"text": ("a cat",), "code": ("un chat",)}, path, 1),
        Record({"text": ("two",), "code": ("deux",)}, path, 3),
    ]


def test_a_list_and_several_fields_are_wordings(tmp_path: Path) -> None:
    row = {
        "captions": ["a cat", "some cat"],
        "fr": "un chat",
        "fr2": ["ce chat", "chat"],
        "deep": {"de": {"x": "Katze"}},
    }
    path = jsonl(tmp_path / "a.jsonl", [row | {"a.b": "literal", "a": {"b": "nested"}}])
    fields = {"en": "captions", "fr": ("fr", "fr2"), "de": "deep.de.x", "dot": "a.b"}
    made = source("jsonl", path=path, fields=fields)
    assert made.view_names() == ("en", "fr", "de", "dot")
    assert views(read(made)) == [
        {
            "en": ("a cat", "some cat"),
            "fr": ("un chat", "ce chat", "chat"),
            "de": ("Katze",),
            "dot": ("literal",),
        }
    ]


def test_keep_id_and_group(tmp_path: Path) -> None:
    rows = [PAIR | {"label": n % 2, "meta": {"key": f"k{n}"}, "n": n} for n in range(4)]
    path = jsonl(tmp_path / "a.jsonl", [*rows, PAIR])
    found = read(source("jsonl", path=path, keep={"label": 1}, id="meta.key", group="n"))
    assert [(item.line, item.id, item.group) for item in found if isinstance(item, Record)] == [
        (2, "k1", "1"),
        (4, "k3", "3"),
    ]
    assert len(found) == 2


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": 3, "code": "x"}, "view 'text' is no string but int: 3"),
        ({"text": 1.5, "code": "x"}, "view 'text' is no string but float: 1.5"),
        ({"text": None, "code": "x"}, "view 'text' is no string but NoneType: None"),
        ({"text": True, "code": "x"}, "view 'text' is no string but bool: True"),
        ({"text": {"a": 1}, "code": "x"}, "view 'text' is no string but dict: {'a': 1}"),
        ({"text": ["a", 3], "code": "x"}, "view 'text' is no string but int: 3"),
        ({"text": [["a"]], "code": "x"}, "view 'text' is no string but list: ['a']"),
        ({"text": [], "code": "x"}, "view 'text' is an empty list; drop the row or fill it"),
        ({"text": "", "code": "x"}, "view 'text' is empty; drop the row or fill it"),
        ({"text": "x", "code": " \t\u3000"}, "view 'code' is empty; drop the row or fill it"),
        ({"text": ["a", ""], "code": "x"}, "view 'text' is empty; drop the row or fill it"),
        (
            '{"text": "\\ud83d", "code": "x"}',
            "view 'text' holds half a surrogate pair, which no UTF-8 can hold; repair it",
        ),
        ({"code": "x", "more": "y"}, "no field 'text' for view 'text'; it has code, more"),
        ({}, "no field 'text' for view 'text'; it has no fields"),
        ({f"f{n}": 1 for n in range(30)}, "f18, f19 and 10 more"),
        ("[1, 2]", "expected a JSON object, found list"),
        ('{"text": "a",', "invalid JSON at column 14: Expecting property name enclosed in double quotes"),
        ('{"text": "a\tb", "code": "c"}', "invalid JSON at column 12: Invalid control character at"),
        ("[" * 100_000, "invalid JSON: nested too deeply; flatten it"),
        (
            '{"n": ' + "9" * 5000 + "}",
            "holds a whole number of thousands of digits; shorten it, or write",
        ),
    ],
)
def test_a_wrong_row_is_named_and_the_next_one_read(tmp_path: Path, row: Any, problem: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", [PAIR, row, PAIR])
    first, bad, last = read(source("jsonl", path=path))
    assert isinstance(first, Record) and isinstance(last, Record)
    assert isinstance(bad, BadRow)
    assert problem in bad.problem
    assert str(bad).startswith(f"{path}:2: ")
    assert "\n" not in str(bad) and len(str(bad)) < 500


@pytest.mark.parametrize("value", [None, "", True, 1.5, ["a"]])
def test_an_id_is_a_string_or_an_integer(tmp_path: Path, value: Any) -> None:
    path = jsonl(tmp_path / "a.jsonl", [PAIR | {"key": value}, PAIR | {"key": 0}])
    bad, good = read(source("jsonl", path=path, id="key"))
    assert problems([bad]) == [f"1: id field 'key' is no string or integer: {value!r}"]
    assert isinstance(good, Record) and good.id == "0"


def test_several_files_compressed_and_from_a_store(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps(PAIR).encode()))
    jsonl(tmp_path / "a.jsonl", [PAIR])
    fsspec.filesystem("memory").pipe("/rows/c.jsonl", json.dumps(PAIR).encode())
    made = source("jsonl", path=[f"{tmp_path}/*.jsonl*", "memory://rows/c.jsonl"])
    found = read(made)
    assert len(views(found)) == 3
    assert [item.file.rpartition("/")[2] for item in found] == ["a.jsonl", "b.jsonl.gz", "c.jsonl"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.sampled_from([json.dumps(PAIR), "", "{", '{"text": 3, "code": "é"}', "\r"]), max_size=30),
    part_bytes=st.integers(1, 200),
)
def test_parts_give_the_records_and_mistakes_of_the_file(tmp_path: Path, rows: list[str], part_bytes: int) -> None:
    made = source("jsonl", path=jsonl(tmp_path / "a.jsonl", rows))
    (whole,) = Files().all_whole(str(tmp_path / "a.jsonl"))
    parts = Files().text_parts(whole.file, part_bytes)
    assert [item for part in parts for item in made.read(part)] == list(made.read(whole))


@pytest.mark.parametrize(
    ("type", "options"),
    [
        ("jsonl", {"path": "x", "fields": {}}),
        ("jsonl", {"path": []}),
        ("jsonl", {}),
        ("jsonl", {"path": "x", "fields": {"a": []}}),
        ("jsonl", {"path": "x", "encoding": "utf-16"}),
        ("jsonl", {"path": "x", "encoding": "klingon"}),
        ("jsonl", {"path": "x", "max_line_mb": 0}),
        ("jsonl", {"path": "x", "field": {"a": "b"}}),
        ("csv", {"path": "x", "delimiter": "--"}),
        ("parallel", {"paths": {}}),
        ("hub", {"dataset": "x", "split": "train[:10%]"}),
        ("hub", {"dataset": "x", "trust_remote_code": True}),
        ("docstrings", {"views": ["a", "a"]}),
        ("docstrings", {"paths": []}),
        ("nothing", {}),
    ],
)
def test_wrong_settings_are_refused(type: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        source(type, **options)


def test_names_and_settings_do_not_say_where_files_lie(tmp_path: Path) -> None:
    one, two = source("jsonl", path="here/set/a.jsonl"), source("jsonl", path=Path("/there/set/a.jsonl.gz"))
    assert one.title == two.title == "set.a"
    assert one.settings() == two.settings()
    assert json.loads(json.dumps(one.settings())) == one.settings()
    assert source("parallel", paths={"en": "x/train.en", "fr": "y/train.fr"}).title == "x.train"
    assert source("hub", dataset="org/name").title == "org.name"
    assert source("docstrings").title == "docstrings"
    assert source("docstrings", paths=["src"]).settings() == source("docstrings").settings()
    assert source("reviews").title == "reviews"


# ------------------------------------------------------------------------------------------------------------ messages


def chat(*messages: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in messages], **more}


def test_messages_become_views_by_role(tmp_path: Path) -> None:
    row = chat(("system", "be kind"), ("user", "what?"), ("assistant", "SELECT 1"), key="k")
    path = jsonl(tmp_path / "a.jsonl", [row, "", row])
    found = read(source("messages", path=path, id="key"))
    assert found[0] == Record({"text": ("what?",), "code": ("SELECT 1",)}, path, 1, "k")
    assert [item.line for item in found] == [1, 3]
    made = source("messages", path=path, roles={"rule": "system", "ask": "user"}, keep={"key": "k"})
    assert views(read(made))[0] == {"rule": ("be kind",), "ask": ("what?",)}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (PAIR, "no list of objects under 'messages'; use type: jsonl for named fields"),
        ({"messages": ["x"]}, "no list of objects under 'messages'"),
        (chat(("user", "x")), "0 messages with role 'assistant', expected exactly one"),
        (chat(("user", "x"), ("user", "y"), ("assistant", "z")), "2 messages with role 'user'"),
        (chat(("user", ""), ("assistant", "z")), "view 'text' is empty"),
        (chat(("user", None), ("assistant", "z")), "view 'text' is no string but NoneType"),
        ("{", "invalid JSON at column 2"),
    ],
)
def test_wrong_messages_are_named(tmp_path: Path, row: Any, problem: str) -> None:
    (bad,) = read(source("messages", path=jsonl(tmp_path / "a.jsonl", [row])))
    assert isinstance(bad, BadRow) and problem in bad.problem


# ---------------------------------------------------------------------------------------------------------- csv and tsv


def text_file(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_csv_cells_hold_quotes_delimiters_and_line_ends(tmp_path: Path) -> None:
    content = '\ufefftext,code,n\r\n"a ""cat"", really","un\r\nchat",1\r\n\r\nb,c,2\r\n'
    path = text_file(tmp_path / "a.csv", content)
    assert read(source("csv", path=path, id="n")) == [
        Record({"text": ('a "cat", really',), "code": ("un\nchat",)}, path, 2, "1"),
        Record({"text": ("b",), "code": ("c",)}, path, 5, "2"),
    ]


def test_tsv_has_no_quotes(tmp_path: Path) -> None:
    path = text_file(tmp_path / "a.tsv", 'text\tcode\n"a cat\tun, "chat"\n')
    assert views(read(source("tsv", path=path))) == [{"text": ('"a cat',), "code": ('un, "chat"',)}]


def test_columns_can_be_named_and_the_delimiter_set(tmp_path: Path) -> None:
    path = text_file(tmp_path / "a.csv", "1;eins;x\n2;zwei;y\n")
    made = source("csv", path=path, delimiter=";", columns=["n", "de", "z"], fields={"de": "de"}, id="n")
    assert [(item.id, item.line) for item in read(made) if isinstance(item, Record)] == [("1", 1), ("2", 2)]


@pytest.mark.parametrize(
    ("value", "kept"), [("1", ["a"]), (1, ["a"]), (True, ["b", "c"]), (1.5, ["d"]), (None, ["e"]), ("true", ["c"])]
)
def test_keep_compares_what_cells_say(tmp_path: Path, value: Any, kept: list[str]) -> None:
    path = text_file(tmp_path / "a.csv", "text,label\na,1\nb,True\nc,true\nd,1.5\ne,\n")
    found = views(read(source("csv", path=path, fields={"text": "text"}, keep={"label": value})))
    assert [row["text"][0] for row in found] == kept


def test_wrong_rows_of_a_csv_are_named(tmp_path: Path) -> None:
    content = b'text,code\na,b,c\nd\n"e"f,g\nh,caf\xe9\n"i\n\xe9",j\nk,"l\nm\0"\n,n\no,p\n"q,r\ns,t\n'
    found = read(source("csv", path=text_file(tmp_path / "a.csv", content)))
    assert problems(found) == [
        "2: 3 cells, but there are 2 columns; a cell that holds the delimiter must be quoted",
        "3: 1 cells, but there are 2 columns; a cell that holds the delimiter must be quoted",
        "4: ',' expected after '\"'; is a quote left open or not doubled?",
        "5: byte 0xe9 is not valid in the file's encoding; convert the file to UTF-8 or set encoding",
        "6: byte 0xe9 is not valid in the file's encoding; convert the file to UTF-8 or set encoding",
        "8: holds a NUL: this looks like a binary file or UTF-16; convert the file to UTF-8 or set encoding",
        "10: view 'text' is empty; drop the row or fill it",
        "12: unexpected end of data; is a quote left open or not doubled?",
    ]
    assert views([item for item in found if isinstance(item, Record)]) == [{"text": ("o",), "code": ("p",)}]
    content = b"text,code\nh,caf\xe9\n"
    made = source("csv", path=text_file(tmp_path / "a.csv", content), encoding="latin-1")
    assert views(read(made)) == [{"text": ("h",), "code": ("café",)}]


@pytest.mark.parametrize(
    ("type", "options", "content", "line"),
    [
        ("csv", {}, "text,code,n\na,b,1\ntext,code,n\nc,d,2\n", 3),
        ("csv", {}, "text,code\na,b\n\ufefftext,code\nc,d\n", 3),
        ("csv", {}, 'text,code\na,b\n\ufeff"text","code"\nc,d\n', 3),
        ("csv", {}, "text,code\na,b\nText, CODE \nc,d\n", 3),
        ("csv", {"columns": ["text", "code"]}, "text,code\na,b\nc,d\n", 1),
        ("tsv", {}, "text\tcode\na\tb\ntext\tcode\nc\td\n", 3),
    ],
)
def test_a_second_header_is_no_record(
    tmp_path: Path, type: str, options: dict[str, Any], content: str, line: int
) -> None:
    found = read(source(type, path=text_file(tmp_path / f"a.{type}", content), **options))
    assert problems(found) == [f"{line}: names the columns once more, as in files that were joined; remove the line"]
    kept = [item for item in found if isinstance(item, Record)]
    assert [row["text"][0] for row in views(kept)] == ["a", "c"]


@pytest.mark.parametrize("again", ["code,text", '\ufeff"Code", text'])
def test_a_second_header_in_another_order_is_refused(tmp_path: Path, again: str) -> None:
    """Also where bad rows are skipped: what follows it would be read as other columns."""
    made = source("csv", path=text_file(tmp_path / "a.csv", f"text,code\na,b\n{again}\nc,d\n"))
    with pytest.raises(DiptychError, match=r"a\.csv:3: names the columns once more, .* another order; split the file"):
        read(made)


def test_a_huge_line_in_a_csv_is_a_bad_row(tmp_path: Path) -> None:
    content = b"text,code\na,b\nx," + b"y" * (2 << 20) + b"\nc,d\n"
    found = read(source("csv", path=text_file(tmp_path / "a.csv", content), max_line_mb=1))
    assert [item.line for item in found] == [2, 3, 4]
    assert problems(found)[0].startswith("3: the line has 2,097,154 bytes, more than max_line_mb allows (1 MiB)")


def test_an_open_quote_does_not_swallow_a_large_file(tmp_path: Path) -> None:
    row = b"some,words\n"
    content = b'text,code\n"open,' + row * 150_000
    found = read(source("csv", path=text_file(tmp_path / "a.csv", content), max_line_mb=1))
    assert problems(found) == ["2: field larger than field limit (1048576); is a quote left open or not doubled?"]
    assert len(found) > 50_000


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("text,other\na,b\n", "a.csv:1: no column 'code'; it has text, other"),
        ("text,code,text\na,b,c\n", "a.csv:1: column 'text' is there twice"),
    ],
)
def test_a_wrong_header_stops(tmp_path: Path, content: str, problem: str) -> None:
    with pytest.raises(DiptychError, match=problem):
        read(source("csv", path=text_file(tmp_path / "a.csv", content)))


def test_a_csv_cut_short_says_so(tmp_path: Path) -> None:
    packed = gzip.compress(b"text,code\n" + b"".join(b"a%d,b%d\n" % (n, n * n) for n in range(5000)))
    found = read(source("csv", path=text_file(tmp_path / "a.csv.gz", packed[: len(packed) // 2])))
    assert isinstance(found[-1], RestLost)
    assert len(found) > 1000 and found[-1].line == len(found) + 1


# ------------------------------------------------------------------------------------------------------ parquet, arrow


def table(rows: int = 5000) -> pa.Table:
    return pa.table(
        {
            "text": [f"text {n}" for n in range(rows)],
            "code": pa.array([f"code {n}" for n in range(rows)]).dictionary_encode(),
            "n": list(range(rows)),
            "both": [{"en": [f"e{n}", f"f{n}"]} for n in range(rows)],
        }
    )


def write_table(path: Path, kind: str, data: pa.Table, rows: int = 700) -> str:
    if kind == "parquet":
        pq.write_table(data, path, row_group_size=rows)
    else:
        with (pa.ipc.new_file if kind == "file" else pa.ipc.new_stream)(path, data.schema) as writer:
            writer.write_table(data, max_chunksize=rows)
    return str(path)


KINDS = pytest.mark.parametrize(("kind", "type"), [("parquet", "parquet"), ("file", "arrow"), ("stream", "arrow")])


@KINDS
def test_tables_are_read_in_parts(tmp_path: Path, kind: str, type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_table(tmp_path / "a", kind, table())
    fields = {"text": "text", "code": "code", "en": "both.en"}
    made = source(type, path=path, fields=fields, id="n")
    whole = read(made)
    assert whole[4321] == Record(
        {"text": ("text 4321",), "code": ("code 4321",), "en": ("e4321", "f4321")}, path, 4322, "4321"
    )
    assert len(views(whole)) == 5000
    assert len(made.parts(Files())) == 1
    for size in (1, 10_000, 60_000):
        monkeypatch.setattr(tables_module, "_PART_BYTES", size)
        parts = made.parts(Files())
        assert len(parts) > 1 and len({part.fingerprint for part in parts}) == len(parts)
        assert read(made) == whole
    fsspec.filesystem("memory").pipe(f"/tables/{kind}", Path(path).read_bytes())
    assert views(read(source(type, path=f"memory://tables/{kind}", fields=fields))) == views(whole)


@KINDS
def test_a_table_cut_short_is_refused(tmp_path: Path, kind: str, type: str) -> None:
    content = Path(write_table(tmp_path / "whole", kind, table())).read_bytes()
    path = tmp_path / "cut"
    for cut in (0, 3, 8, 100, len(content) // 3, len(content) // 2, len(content) - 9, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(DiptychError, match=f"cut: is no complete {type.capitalize()} file .*; copy it again"):
            read(source(type, path=str(path)))
    with pytest.raises(DiptychError, match="is no complete"):
        read(source(type, path=jsonl(tmp_path / "a.jsonl", [PAIR])))


@KINDS
def test_a_table_without_the_column_is_refused(tmp_path: Path, kind: str, type: str) -> None:
    path = write_table(tmp_path / "a", kind, table(3))
    for options in ({"fields": {"a": "txt"}}, {"keep": {"txt": 1}}, {"id": "txt"}, {"group": "txt.a"}):
        with pytest.raises(DiptychError, match=r"a: no column 'txt[.a]*'; it has text, code, n, both; correct"):
            source(type, path=path, **options).parts(Files())


@KINDS
def test_bad_rows_of_a_table_are_named(tmp_path: Path, kind: str, type: str) -> None:
    path = write_table(tmp_path / "a", kind, table(2))
    numbers = read(source(type, path=path, fields={"x": "n"}))
    assert problems(numbers) == ["1: view 'x' is no string but int: 0", "2: view 'x' is no string but int: 1"]
    texts = pa.array([b"good", b"caf\xe9", None, b"again"], pa.binary()).view(pa.string())
    path = write_table(tmp_path / "b", kind, pa.table({"x": texts}))
    found = read(source(type, path=path, fields={"x": "x"}))
    assert problems(found) == [
        "2: a text is not valid UTF-8 (unexpected end of data at byte 4); write the table again",
        "3: view 'x' is no string but NoneType: None",
    ]
    assert [item.line for item in found if isinstance(item, Record)] == [1, 4]


def test_damage_inside_a_table_is_the_last_thing_of_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(write_table(tmp_path / "a", "parquet", table().select(["text", "code"])))
    content = bytearray(path.read_bytes())
    third = pq.ParquetFile(path).metadata.row_group(2).column(0)
    for position in range(third.data_page_offset, third.data_page_offset + 100):
        content[position] = 0xAA
    path.write_bytes(bytes(content))
    monkeypatch.setattr(tables_module, "_PART_BYTES", 1)
    found = read(source("parquet", path=str(path)))
    (lost,) = [item for item in found if isinstance(item, BadRow)]
    assert isinstance(lost, RestLost) and "rows from here on are lost; copy it again" in lost.problem
    assert 1400 < lost.line <= 2101
    assert len(found) == 5000 - 700 + 1 + (lost.line - 1401)


# ------------------------------------------------------------------------------------------------------------ parallel


def test_lines_of_parallel_files_belong_together(tmp_path: Path) -> None:
    english = text_file(tmp_path / "a.en", "a cat\n\na dog\r\n")
    french = text_file(tmp_path / "a.fr.gz", gzip.compress(b"un chat\n\nun chien"))
    german = text_file(tmp_path / "a.de", "Katze\n \nHund\n")
    found = read(source("parallel", paths={"en": english, "other": [french, german]}))
    assert found == [
        Record({"en": ("a cat",), "other": ("un chat", "Katze")}, english, 1),
        Record({"en": ("a dog",), "other": ("un chien", "Hund")}, english, 3),
    ]


def test_parallel_globs_go_in_step(tmp_path: Path) -> None:
    for number in range(3):
        for view in ("en", "fr"):
            text_file(tmp_path / f"{number}.{view}", f"{view} {number}\n")
    paths = {"en": f"{tmp_path}/*.en", "fr": f"{tmp_path}/*.fr"}
    assert views(read(source("parallel", paths=paths)))[2] == {"en": ("en 2",), "fr": ("fr 2",)}
    before = [part.fingerprint for part in source("parallel", paths=paths).parts(Files())]
    text_file(tmp_path / "1.fr", "changed\n")
    after = [part.fingerprint for part in source("parallel", paths=paths).parts(Files())]
    assert [one == two for one, two in zip(before, after, strict=True)] == [True, False, True]
    (tmp_path / "2.fr").unlink()
    with pytest.raises(DiptychError, match=r"\*.fr: matches 2 files, but .*\*.en matches 3"):
        source("parallel", paths=paths).parts(Files())


@pytest.mark.parametrize(("rows", "other"), [(3, 5), (5, 3), (0, 1)])
def test_parallel_files_of_unequal_length_stop(tmp_path: Path, rows: int, other: int) -> None:
    english, french = (text_file(tmp_path / name, "x\n" * count) for name, count in (("a.en", rows), ("a.fr", other)))
    with pytest.raises(DiptychError) as caught:
        read(source("parallel", paths={"en": english, "fr": french}))
    shorter = english if rows < other else french
    assert str(caught.value).startswith(
        f"{shorter}:{min(rows, other)}: the last line here, but of {rows} in {english}, {other} in {french}; "
    )


def test_bad_lines_of_parallel_files_are_named(tmp_path: Path) -> None:
    english = text_file(tmp_path / "a.en", b"one\n\ncaf\xe9\nfour\n")
    french = text_file(tmp_path / "a.fr", "un\ndeux\ntrois\nquatre\n")
    found = read(source("parallel", paths={"en": english, "fr": french}))
    assert problems(found) == [
        f"2: the line is blank in {english} only; drop it in all files",
        "3: byte 4 of the line (0xe9) is not valid UTF-8; convert the file to UTF-8 or set encoding "
        "(latin-1, cp1252, ...)",
    ]
    assert [item.line for item in found if isinstance(item, Record)] == [1, 4]


def test_a_parallel_file_cut_short_says_so(tmp_path: Path) -> None:
    rows = b"".join(b"%d words\n" % (n * n) for n in range(3000))
    english = text_file(tmp_path / "a.en", rows)
    french = text_file(tmp_path / "a.fr.gz", gzip.compress(rows)[:-3000])
    found = read(source("parallel", paths={"en": english, "fr": french}))
    lost = found[-1]
    assert isinstance(lost, RestLost) and lost.file == french and lost.line == len(found) < 3000


# ------------------------------------------------------------------------------------------------------------------ hub


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in the layout of the hub, with two configurations; and no cache but an empty one."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "org" / "pairs"
    for number in range(3):
        rows = [{"text": f"t{number}{n}", "code": [f"c{n}", f"d{n}"], "n": n, "label": n % 2} for n in range(4)]
        jsonl(folder / "json" / f"train-{number}.jsonl", rows)
    jsonl(folder / "test.jsonl", [{"both": {"en": [f"e{n}", f"f{n}"]}} for n in range(10)])
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: lists\n  data_files:\n  - split: train\n    path: json/*.jsonl\n"
        "- config_name: rows\n  data_files:\n  - split: test\n    path: test.jsonl\n---\n",
        encoding="utf-8",
    )
    yield folder
    hub_module._stream.cache_clear()


def test_a_folder_in_hub_layout_is_read_streamed_or_not(hub_folder: Path) -> None:
    options = {"dataset": str(hub_folder), "config": "lists", "keep": {"label": 1}, "id": "n"}
    found = read(source("hub", **options))
    assert found == read(source("hub", **options, streaming=True))
    place = f"{hub_folder}/lists/train"
    assert found[:3] == [
        Record({"text": ("t01",), "code": ("c1", "d1")}, f"{place}-00000-of-00003", 2, "1"),
        Record({"text": ("t03",), "code": ("c3", "d3")}, f"{place}-00000-of-00003", 4, "3"),
        Record({"text": ("t11",), "code": ("c1", "d1")}, f"{place}-00001-of-00003", 2, "1"),
    ]
    assert len(views(found)) == 6
    tested = read(source("hub", dataset=str(hub_folder), config="rows", split="test", fields={"en": "both.en"}))
    assert views(tested)[9] == {"en": ("e9", "f9")}


def test_the_content_of_a_folder_decides_its_fingerprint(hub_folder: Path) -> None:
    made = source("hub", dataset=str(hub_folder), config="lists")
    before = [part.fingerprint for part in made.parts(Files())]
    moved = hub_folder.rename(hub_folder.parent / "moved")
    same = source("hub", dataset=str(moved), config="lists")
    assert [part.fingerprint for part in same.parts(Files())] == before
    jsonl(moved / "json" / "train-1.jsonl", [{"text": "new", "code": ["nouveau"], "n": 7, "label": 0}])
    assert not set(before) & {part.fingerprint for part in same.parts(Files())}
    assert len(read(same)) == 9  # nothing remembers the files as they were


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"config": "none"},
            "none/train: cannot be read (BuilderConfig 'none' not found. Available: ['lists', 'rows']",
        ),
        ({}, "cannot be read (Config name is missing"),
        ({"config": "rows"}, "rows/train: cannot be read (Bad split: train. Available splits: ['test'])"),
        ({"config": "lists", "fields": {"a": "txt"}}, "no column 'txt'; it has text, code, n, label"),
    ],
)
def test_what_a_folder_does_not_have_is_named(hub_folder: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(DiptychError) as caught:
        source("hub", dataset=str(hub_folder), **options).parts(Files())
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_file_in_a_folder_is_named(hub_folder: Path) -> None:
    (hub_folder / "json" / "train-2.jsonl").write_text('{"text": "a", "code": ["b"], "n": 1, "label": 1}\n{broken\n')
    found = read(source("hub", dataset=str(hub_folder), config="lists"))
    lost = found[-1]
    assert isinstance(lost, RestLost) and "JSON parse error" in lost.problem
    assert len(found) >= 9


def test_a_hub_that_cannot_be_reached_says_how_to_do_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for streaming in (False, True):
        made = source("hub", dataset="org/name", revision=COMMIT, streaming=streaming)
        with pytest.raises(DiptychError) as caught:
            made.parts(Files())
        message = str(caught.value)
        assert message.startswith("org/name/train: the hub cannot be reached (")
        assert f"`hf download org/name --repo-type dataset --revision {COMMIT} --local-dir DIR`" in message
        assert message.endswith("and set dataset: DIR")
        assert "\n" not in message


@pytest.mark.parametrize("revision", [None, "main", "v1.0"])
def test_a_data_set_of_the_hub_needs_a_commit(revision: str | None) -> None:
    with pytest.raises(
        DiptychError, match="org/name/train: revision must be a commit of 40 hex digits; they are listed"
    ):
        source("hub", dataset="org/name", revision=revision).parts(Files())


@pytest.mark.parametrize("dataset", ["./gone", "/no/such/folder", "a/b/c", "data/"])
def test_a_folder_that_does_not_exist_is_named(dataset: str) -> None:
    with pytest.raises(DiptychError, match="no such folder, and no name on the hub"):
        source("hub", dataset=dataset).parts(Files())


def test_a_downloaded_data_set_is_read_from_the_cache(hub_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = hub_module._load

    def downloaded(dataset: str, config: str | None, split: str, revision: str | None, *, streaming: bool) -> Any:
        assert (dataset, revision, streaming) == ("org/name", COMMIT, False)
        return load(str(hub_folder), config, split, None, streaming=False)

    expected = views(read(source("hub", dataset=str(hub_folder), config="lists")))
    monkeypatch.setattr(hub_module, "_load", downloaded)
    monkeypatch.setattr(hub_module.HubSource, "_probe", lambda self: None)
    monkeypatch.setattr(tables_module, "_PART_BYTES", 1)
    made = source("hub", dataset="org/name", revision=COMMIT, config="lists")
    found = read(made)
    assert [(item.file, item.line) for item in found] == [("org/name/lists/train", n) for n in range(1, 13)]
    assert views(found) == expected
    # Without the hub, a copy of another revision will not do.
    monkeypatch.setattr(hub_module.HubSource, "_probe", lambda self: OSError("no route"))
    with pytest.raises(DiptychError, match=r"cannot be reached \(no route\), and this revision is not in the cache"):
        made.parts(Files())


def test_rows_of_the_cache_are_counted_across_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_table(tmp_path / f"{number}.arrow", "stream", table(30), rows=7) for number in range(3)]
    info = SimpleNamespace(builder_name="parquet")
    cached = SimpleNamespace(cache_files=[{"filename": path} for path in paths], info=info)
    monkeypatch.setattr(hub_module, "_load", lambda *args, **options: cached)
    monkeypatch.setattr(hub_module.HubSource, "_probe", lambda self: None)
    for size in (1, 1 << 20):
        monkeypatch.setattr(tables_module, "_PART_BYTES", size)
        found = read(source("hub", dataset="org/name", revision=COMMIT))
        assert [item.line for item in found] == list(range(1, 91))
        assert views(found)[31] == {"text": ("text 1",), "code": ("code 1",)}
    made = [source("hub", dataset="org/name", revision=commit).parts(Files()) for commit in (COMMIT, COMMIT[::-1])]
    assert not {part.fingerprint for part in made[0]} & {part.fingerprint for part in made[1]}


# ------------------------------------------------------------------------------------------------------------- together


def test_other_mistakes_come_from_no_worker(tmp_path: Path) -> None:
    """What stops all rows is found before the first worker starts."""
    for made in (
        source("jsonl", path=f"{tmp_path}/*.jsonl"),
        source("csv", path=f"{tmp_path}/a.csv"),
        source("parquet", path=f"{tmp_path}"),
        source("parallel", paths={"a": f"{tmp_path}/x"}),
        source("docstrings", paths=[f"{tmp_path}/x"]),
    ):
        with pytest.raises(DiptychError) as caught:
            made.parts(Files())
        assert str(tmp_path) in str(caught.value)


def test_a_source_does_not_hash_again_what_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = jsonl(tmp_path / "a.jsonl", [PAIR] * 100)
    os.utime(path, (1, 1))
    parts = source("jsonl", path=path).parts(Files(tmp_path / "cache.json"))
    monkeypatch.setattr(files_module, "_cut", None)
    assert source("jsonl", path=path).parts(Files(tmp_path / "cache.json")) == parts


# ----------------------------------------------------------------------------------------------- what is there twice


def table_with_code_twice() -> pa.Table:
    return pa.table([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["text", "code", "code"])


def nested_twice() -> pa.Table:
    inner = pa.StructArray.from_arrays([pa.array(["b"]), pa.array(["c"])], names=["x", "x"])
    return pa.table({"text": ["a"], "code": inner})


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv", "tsv", "hub parquet", "hub csv", "hub jsonl"])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, kind: str) -> None:
    ending = kind.split()[-1]
    path, column = tmp_path / f"train.{ending}", "code"
    for table in (table_with_code_twice(), nested_twice()):
        if ending == "parquet":
            pq.write_table(table, path)
        elif ending == "arrow":
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
        elif ending == "jsonl":
            path.write_text('{"text": "a", "code": "b", "code": "c"}\n')
        else:
            path.write_text("text,code,code\na,b,c\n".replace(",", "," if ending == "csv" else "\t"))
        options = {"dataset": str(tmp_path)} if kind.startswith("hub") else {"path": str(path)}
        with pytest.raises(DiptychError, match=r"train.*column.* is there twice.*; rename one") as caught:
            read(source(kind.split()[0], **options))
        assert column in str(caught.value)
        if ending not in ("parquet", "arrow"):
            return
        column = "x"


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ('{"text": "a", "code": "b", "code": "c"}', "code"),
        ('{"text": "a", "code": "b", "other": {"x": [{"y": 1, "y": 1}]}}', "y"),
        ('{"messages": [{"role": "user", "role": "assistant", "content": "a"}]}', "role"),
        ('{"text": "a", "messages": [], "text": "a"}', "text"),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "messages"])
def test_a_key_that_is_there_twice_is_a_bad_row(tmp_path: Path, kind: str, row: str, key: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", [row])
    assert problems(read(source(kind, path=path))) == [f"1: key {key!r} is there twice; rename one"]


def test_the_shared_table_with_a_column_twice_is_refused(shared: Path) -> None:
    with pytest.raises(DiptychError, match="column 'code' is there twice"):
        read(source("parquet", path=str(shared / "cases" / "duplicate_columns.parquet")))

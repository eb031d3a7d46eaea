"""Sources, labelled sets and task files: JSON Lines, CSV, TSV, Parquet, Arrow, chats, aligned lines, gz and zst."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from pydantic import TypeAdapter

from benchmarks.fuzzing.reader import Read, Reader
from finetune.recipe import RECIPE_FILE, read_recipe
from finetune.tasks import TASKS, make_task
from pretrain.sources import Files, SourceConfig
from probes.sets import load_set

ADAPTER: Any = TypeAdapter(SourceConfig)
TEXTS = ["a cat", "ein Haus über", "猫が", "long " * 20, 'quoted "x"', "tab\tand, comma", "\U0001f600 x"]
ROWS: list[dict[str, Any]] = [
    {"text": text, "code": f"x = {number}", "label": number % 2, "meta": {"n": [f"{number}", "x"]}}
    for number, text in enumerate(TEXTS)
]
CHATS = [{"messages": [{"role": role, "content": text} for role in ("system", "user", "assistant")]} for text in TEXTS]
LABELLED: list[dict[str, Any]] = [
    {"text": f"{text} {number}", "label": number % 2, "label_name": ("no", "yes")[number % 2]}
    for number, text in enumerate(TEXTS * 6)
]
EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "nl_regex": [{"text": "lines with a", "code": ".*a.*"}],
    "text_to_sql": [{"text": "how many", "code": "SELECT 1", "db_id": "x"}],
    "gsm8k": [{"question": "1 + 1?", "answer": "It is <<1+1=2>>2.\n#### 2"}],
    "sentiment": [{"text": "good", "label_name": "positive"}, {"text": "bad", "label_name": "negative"}],
    "open_qa": [{"question": "who?", "answer": ["me", "I"], "text": "who?", "code": "me"}],
    "exact_match": [{"text": "a", "code": "b"}, CHATS[0]],
}


def readers() -> dict[str, Reader]:
    """The readers of data."""
    return sources() | labelled_sets() | tasks()


def sources() -> dict[str, Reader]:
    """One reader for every format of records."""
    escaped, plain = lines(ROWS), lines(ROWS, ensure_ascii=False)
    doubled = [text.replace('"', '""') for text in TEXTS]
    csv = "text,code,label\n" + "".join(f'"{text}",y {number},{number % 2}\n' for number, text in enumerate(doubled))
    tsv = "text\tcode\tlabel\n" + "".join(f"{text[:3]}\ty {n}\t{n % 2}\n" for n, text in enumerate(TEXTS))
    tables = [
        pa.Table.from_pylist(ROWS),
        pa.table({"text": pa.array(TEXTS).dictionary_encode(), "code": TEXTS}),
        pa.table({"text": TEXTS, "code": pa.array([["a", "b"]] * len(TEXTS)), "label": range(len(TEXTS))}),
    ]
    codecs = ("snappy", "zstd", "none")
    parquet = [in_parquet(table, compression) for table, compression in zip(tables, codecs, strict=True)]
    arrow = [in_arrow(table, new) for table in tables for new in (pa.ipc.new_file, pa.ipc.new_stream)]
    two_files = b"\n".join(text.encode() for text in TEXTS) + b"\x1e" + b"\n".join([b"y"] * len(TEXTS))
    zst = zstandard.ZstdCompressor().compress
    fields = {"text": ("text", "meta.n"), "code": "code"}
    everything = {"fields": fields, "keep": {"label": 1}, "group": "label", "label": "label"}
    return {
        "jsonl": Reader([escaped, plain], source("jsonl", **everything), "jsonl"),
        "csv": Reader([csv.encode()], source("csv", keep={"label": 1}, id="code"), "text"),
        "tsv": Reader([tsv.encode()], source("tsv", keep={"label": True}), "text"),
        "parquet": Reader(parquet, source("parquet"), "binary"),
        "arrow": Reader(arrow, source("arrow"), "binary"),
        "messages": Reader([lines(CHATS)], source("messages"), "jsonl"),
        "aligned lines": Reader([two_files], aligned, "text"),
        "gz": Reader([in_gz(escaped), in_gz(plain[:80]) + in_gz(plain[80:]), plain], packed("gz", in_gz), "binary"),
        "zst": Reader([zst(escaped), zst(plain[:80]) + zst(plain[80:]), plain], packed("zst", zst), "binary"),
    }


def labelled_sets() -> dict[str, Reader]:
    """Sets for probing, by format."""
    csv = "text,label\n" + "".join(f'"{number} ""x""\nmore",{number % 2}\n' for number in range(40))
    return {
        "labelled jsonl": Reader([lines(LABELLED)], labelled_set("jsonl"), "jsonl"),
        "labelled csv": Reader([csv.encode()], labelled_set("csv"), "text"),
        "labelled parquet": Reader([in_parquet(pa.Table.from_pylist(LABELLED))], labelled_set("parquet"), "binary"),
    }


def tasks() -> dict[str, Reader]:
    """Examples of fine-tuning tasks, and what a model says it was fine-tuned for."""
    recipe = {"task": "sentiment", "settings": {"answers": {"0": "no", "1": "yes"}}, "style": "plain"}
    return {
        "task files": Reader([lines(rows) for rows in EXAMPLES.values()], task, "jsonl"),
        "task recipe": Reader([json.dumps(recipe).encode()], stored_recipe, "json"),
    }


def source(kind: str, ending: str | None = None, **options: Any) -> Read:
    """Reads all records of a source."""

    def read(folder: Path, content: bytes, draw: random.Random) -> None:
        path = folder / f"data.{ending or kind}"
        path.write_bytes(content)
        made = ADAPTER.validate_python({"type": kind, "path": str(path), **options})
        for part in made.parts(Files()):
            for item in made.read(part):
                str(item)

    return read


def aligned(folder: Path, content: bytes, draw: random.Random) -> None:
    """Reads two files side by side."""
    first, _, second = content.partition(b"\x1e")
    (folder / "a").write_bytes(first)
    (folder / "b").write_bytes(second)
    paths = {name: str(folder / name) for name in ("a", "b")}
    made = ADAPTER.validate_python({"type": "parallel", "paths": paths})
    for part in made.parts(Files()):
        list(made.read(part))


def packed(ending: str, pack: Callable[[bytes], bytes]) -> Read:
    """Reads JSON Lines that were damaged before or after they were compressed."""
    read = source("jsonl", f"jsonl.{ending}", keep={"label": 1}, id="text")
    return lambda folder, content, draw: read(folder, pack(content) if draw.random() < 0.3 else content, draw)


def labelled_set(ending: str) -> Read:
    """Reads a set of one file."""

    def read(folder: Path, content: bytes, draw: random.Random) -> None:
        path = folder / f"train.{ending}"
        path.write_bytes(content)
        load_set(str(path))

    return read


def task(folder: Path, content: bytes, draw: random.Random) -> None:
    """Reads a file as that of some task."""
    (folder / "t.jsonl").write_bytes(content)
    for example in make_task(draw.choice(sorted(TASKS))).examples(folder / "t.jsonl"):
        example.prompt.encode()


def stored_recipe(folder: Path, content: bytes, draw: random.Random) -> None:
    """Reads the recipe beside a model, and makes its task."""
    (folder / RECIPE_FILE).write_bytes(content)
    if recipe := read_recipe(folder):
        make_task(recipe.task, **recipe.settings)


def lines(rows: list[dict[str, Any]], *, ensure_ascii: bool = True) -> bytes:
    """JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=ensure_ascii) + "\n" for row in rows).encode()


def in_gz(content: bytes) -> bytes:
    """Compressed, always alike."""
    return gzip.compress(content, mtime=0)


def in_parquet(table: pa.Table, compression: str = "snappy") -> bytes:
    """A Parquet file of several row groups."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression=compression, row_group_size=4)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def in_arrow(table: pa.Table, new: Any) -> bytes:
    """An Arrow file or stream of several batches."""
    sink = pa.BufferOutputStream()
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    content: bytes = sink.getvalue().to_pybytes()
    return content

"""Feeds broken files to every reader, and checks that each is read or refused in one line.

    python benchmarks/fuzz.py [--mutations 10000] [--readers jsonl csv ...] [--out benchmarks/results/fuzz.json]

A mutation is a valid file with a few changes, drawn by seed: bits, bytes and spans (flipped, cut, copied, swapped,
spliced), numbers that are huge, nesting that is deep, text that is no UTF-8, JSON values of other types, keys that are
there twice (`fuzzing/`). A reader may give records, report bad rows, or raise a ``DiptychError`` of one line that can
be printed. A failure is any other exception, a file that takes more than a minute, a process that dies, or memory
that grows.

Readers run in a child process with limited memory. One that dies or hangs is replaced, and goes on behind the file that
did it. ``--keep FOLDER`` keeps the files that fail.
"""

# ruff: noqa: E402
import os

os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # before torch is imported

import argparse
import gc
import json
import random
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.fuzzing import data_files, model_files, settings_files
from benchmarks.fuzzing.mutations import mutate
from benchmarks.fuzzing.reader import Reader
from pretrain.runtime.errors import DiptychError

SECONDS = 60.0
"""That a file may take."""
MEMORY = 4 << 30
"""Bytes of address space that a child may take on top of what it has at its start."""
GROWTH = 128 << 20
"""Bytes by which the memory of a child may grow after its first files."""
BATCH = 2500
"""Mutations of one child and reader."""


# ----------------------------------------------------------------------------------------------------------- child


def child(jobs: Sequence[tuple[str, int, int]], seed: int) -> None:
    """Reads mutations start to stop of each reader; says on stdout what comes next and what came of the last."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # readers that print do not mix with the reports
    with tempfile.TemporaryDirectory() as scratch:
        readers = make_readers(Path(scratch))
        limit = memory("VmSize") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for name, start, stop in jobs:
            settled = 0
            for number in range(start, stop):
                out.write(json.dumps({"next": [name, number]}) + "\n")
                out.write(json.dumps({"result": one(readers[name], name, number, seed, Path(scratch))}) + "\n")
                if number == start + min(200, (stop - start) // 2):
                    gc.collect()
                    settled = memory("VmRSS")
            gc.collect()
            out.write(json.dumps({"grown": [name, max(0, memory("VmRSS") - settled)]}) + "\n")


def one(reader: Reader, name: str, number: int, seed: int, scratch: Path) -> str:
    """``read``, ``refused``, or what failed."""
    draw = random.Random(f"{seed} {name} {number}")
    content = mutate(reader.seeds, reader.form, draw)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        try:
            reader.read(Path(folder), content, draw)
        except DiptychError as error:
            text = str(error)
            try:
                text.encode()
            except UnicodeEncodeError:
                return f"a message that cannot be printed: {text!r}"[:600]
            if not text or (not reader.lists and len(text.splitlines()) > 1):
                return f"a message of {len(text.splitlines())} lines: {text!r}"[:600]
            return "refused"
        except BaseException:
            last = traceback.format_exc(limit=-4).strip()
            return f"traceback: {last[-1500:]}"
    return "read"


def memory(what: str) -> int:
    """Bytes of this process."""
    (found,) = re.findall(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found) << 10


def make_readers(scratch: Path) -> dict[str, Reader]:
    """All readers by name; valid files are made in an empty folder."""
    return data_files.readers() | settings_files.readers() | model_files.readers(scratch)


# ---------------------------------------------------------------------------------------------------------- parent


@dataclass
class Count:
    """What came of the mutations of one reader."""

    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    grown: int = 0


def run(jobs: list[tuple[str, int, int]], seed: int, counts: dict[str, Count]) -> Iterator[tuple[str, int, str]]:
    """Runs jobs in a child, and what is left of them in another where it dies; yields the failures."""
    while jobs:
        command = [sys.executable, __file__, "--child", json.dumps(jobs), "--seed", str(seed)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        name, number, begun = "", -1, time.monotonic()
        for line in reports(process):
            report = json.loads(line)
            if "next" in report:
                (name, number), begun = report["next"], time.monotonic()
            elif "grown" in report:
                counts[name].grown = max(counts[name].grown, report["grown"][1])
                if report["grown"][1] > GROWTH:
                    yield name, number, f"memory grew by {report['grown'][1] >> 20} MiB"
            else:
                counts[name].seconds += time.monotonic() - begun
                if report["result"] in ("read", "refused"):
                    setattr(counts[name], report["result"], getattr(counts[name], report["result"]) + 1)
                else:
                    yield name, number, report["result"]
        status = process.wait()
        if status == 0:
            return
        if number < 0:
            raise SystemExit(f"a child ended with {status} before its first file; run {' '.join(command)}")
        yield name, number, "a hang" if status == -9 else f"the process died ({status})"
        at = next(index for index, job in enumerate(jobs) if job[0] == name and number < job[2])
        jobs = [(name, number + 1, jobs[at][2]), *jobs[at + 1 :]]


def reports(process: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    """The lines of a child; one that says nothing for too long is killed."""
    assert process.stdout is not None
    pending, patience = b"", 300.0  # imports come first
    while True:
        if not select.select([process.stdout], [], [], patience)[0]:
            process.kill()
            return
        block = os.read(process.stdout.fileno(), 1 << 16)
        if not block:
            return
        *lines, pending = (pending + block).split(b"\n")
        yield from lines
        patience = SECONDS if lines else patience


def main() -> int:
    """Runs all readers and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=10_000, help="of each reader")
    parser.add_argument("--readers", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the files that fail")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child([tuple(job) for job in json.loads(options.child)], options.seed)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        readers = make_readers(Path(scratch))
    names = options.readers or list(readers)
    counts = {name: Count() for name in names}
    failures: list[dict[str, Any]] = []
    for start in range(0, options.mutations, BATCH):
        stop = min(start + BATCH, options.mutations)
        for name, number, what in run([(name, start, stop) for name in names], options.seed, counts):
            failures.append({"reader": name, "mutation": number, "failure": what})
            print(f"{name} {number}: {what}", flush=True)
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                content = mutate(
                    readers[name].seeds, readers[name].form, random.Random(f"{options.seed} {name} {number}")
                )
                (options.keep / f"{name.replace(' ', '_')}-{number}").write_bytes(content)
        print(f"{stop:,} mutations of {len(names)} readers: {len(failures)} failures", flush=True)
    result = {
        "mutations": options.mutations,
        "seed": options.seed,
        "failures": failures,
        "readers": {
            name: {
                "read": count.read,
                "refused": count.refused,
                "seconds": round(count.seconds, 1),
                "memory_grown_mib": round(count.grown / 2**20, 1),
            }
            for name, count in counts.items()
        },
    }
    text = json.dumps(result, indent=1) + "\n"
    if options.out:
        options.out.write_text(text)
    print(text)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

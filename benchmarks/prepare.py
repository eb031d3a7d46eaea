"""Preparation against ``datasets.map`` with the same tokenizer on the same text, and what preparation promises.

    python benchmarks/prepare.py DATA/*/train.jsonl --out benchmarks/results/prepare.json

The text is made from the given files by repetition with changes (a number in every text), so that any size can be had
and nothing is a duplicate. Three parts, each in processes of its own:

    speed    MB/s of one core, from the source file to tokens on disk: ours reads, checks every row, normalises,
             filters, removes duplicates, splits, encodes, counts and fingerprints; ``datasets`` loads and maps a fast
             tokenizer
    memory   peak resident memory of the whole preparation in one process (mapped files counted), by size of the source
    workers  are the bytes of four workers those of one? And after a SIGKILL of all processes when half of the shards
             are there, and another start?
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARTS = ("speed", "workers", "memory")

OURS = """
import json, sys, time
from benchmarks.peak_memory import peak_memory
from pretrain.config.loading import load_config
config = load_config(None, sys.argv[1:])
from pretrain.preparation.prepare import prepare
start = time.perf_counter()
folder = prepare(config, quiet=True)
seconds = time.perf_counter() - start
print(json.dumps({"folder": str(folder), "seconds": seconds, "peak_mib": peak_memory()}))
"""

THEIRS = """
import json, sys, time
source, tokenizer, out = sys.argv[1:]
import datasets
from transformers import PreTrainedTokenizerFast
datasets.disable_progress_bars()
tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer)
start = time.perf_counter()
rows = datasets.load_dataset("json", data_files=source, split="train", cache_dir=out)
def encode(batch):
    return {view: tokenizer(batch[view], add_special_tokens=False, return_attention_mask=False)["input_ids"]
            for view in ("text", "code")}
tokens = rows.map(encode, batched=True, remove_columns=rows.column_names)
seconds = time.perf_counter() - start
count = sum(len(ids) for batch in tokens.iter(1000) for view in ("text", "code") for ids in batch[view])
print(json.dumps({"seconds": seconds, "tokens": count}))
"""


def write_source(path: Path, pairs: list[tuple[str, str]], size: int) -> int:
    """Writes JSON Lines of at least ``size`` bytes; returns the UTF-8 bytes of the texts."""
    written = texts = number = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            text, code = (f"{view} {number}" for view in pairs[number % len(pairs)])
            written += file.write(json.dumps({"text": text, "code": code}, ensure_ascii=False) + "\n")
            texts += len(text.encode()) + len(code.encode())
            number += 1
    return texts


def environment() -> dict[str, str]:
    """One core for everything that would start threads."""
    own = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return os.environ | own | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}


def run(program: str, *arguments: str) -> dict[str, Any]:
    """Runs a program in a process of its own; returns what it prints last."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=6 * 3600)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def settings(source: Path, data: Path, tokenizer: Path | None, workers: int) -> list[str]:
    """Overrides of a preparation."""
    own = [f"tokenizer.path='{tokenizer}'"] if tokenizer else ["tokenizer.sample_texts=50000"]
    return [
        f"data.sources=[{{type: jsonl, path: '{source}', name: all}}]",
        "data.views=[text, code]",
        "packing.row_length=4096",  # no view is cut: the other side does not cut any either
        f"data.folder='{data}'",
        f"data.workers={workers}",
        *own,
    ]


def digest(folder: Path) -> str:
    """SHA-256 over all files of a corpus."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(f"{path.relative_to(folder)}\0".encode())
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def measure_speed(
    scratch: Path, pairs: list[tuple[str, str]], size: int, repetitions: int, tokenizer: Path
) -> dict[str, Any]:
    """Alternates the two sides."""
    source = scratch / "speed.jsonl"
    megabytes = write_source(source, pairs, size) / 1e6
    ours, theirs, tokens = [], [], set()
    for number in range(repetitions):
        data = scratch / "speed"
        result = run(OURS, *settings(source, data, tokenizer, 1))
        ours.append(megabytes / result["seconds"])
        manifest = json.loads((Path(result["folder"]) / "manifest.json").read_text())
        counts = manifest["splits"].values()
        dropped = manifest["sources"][0]["dropped"]
        tokens.add(sum(count["first_tokens"] + count["second_tokens"] for count in counts))
        shutil.rmtree(data)
        other = run(THEIRS, str(source), str(tokenizer), str(scratch / f"cache{number}"))
        theirs.append(megabytes / other["seconds"])
        shutil.rmtree(scratch / f"cache{number}")
        print(f"  ours {ours[-1]:.2f} MB/s, datasets.map {theirs[-1]:.2f} MB/s", flush=True)
    return {
        "megabytes_of_text": round(megabytes, 1),
        "ours_mb_per_s": [round(value, 3) for value in ours],
        "datasets_map_mb_per_s": [round(value, 3) for value in theirs],
        "ratio_of_medians": round(statistics.median(ours) / statistics.median(theirs), 3),
        "tokens_ours": sorted(tokens),
        "tokens_datasets_map": other["tokens"],
        "dropped": dropped,
    }


def measure_memory(
    scratch: Path, pairs: list[tuple[str, str]], sizes: list[int], tokenizer: Path
) -> list[dict[str, Any]]:
    """Peak memory by size."""
    results = []
    for size in sizes:
        source, data = scratch / "memory.jsonl", scratch / "memory"
        write_source(source, pairs, size)
        result = run(OURS, *settings(source, data, tokenizer, 1))
        results.append(
            {"source_mb": size / 1e6, "peak_mib": round(result["peak_mib"]), "seconds": round(result["seconds"], 1)}
        )
        shutil.rmtree(data)
        source.unlink()
        print(f"  {results[-1]}", flush=True)
    return results


def check_workers(scratch: Path, pairs: list[tuple[str, str]], size: int) -> dict[str, Any]:
    """One worker, four workers, and four workers that are killed half way."""
    source = scratch / "workers.jsonl"
    write_source(source, pairs, size)
    digests = {}
    for workers in (1, 4):
        result = run(OURS, *settings(source, scratch / f"workers{workers}", None, workers))
        digests[workers] = digest(Path(result["folder"]))
    shards = len(list(Path(result["folder"]).glob("train/*/*.arrow")))
    data = scratch / "killed"
    arguments = settings(source, data, None, 4)
    with subprocess.Popen(
        [sys.executable, "-c", OURS, *arguments], env=environment(), start_new_session=True
    ) as process:
        while process.poll() is None and len(list(data.glob("*.partial/train/*/[!.]*.arrow"))) < shards / 2:
            time.sleep(0.05)
        there = len(list(data.glob("*.partial/train/*/[!.]*.arrow")))
        os.killpg(process.pid, signal.SIGKILL)
    result = run(OURS, *arguments)
    killed = digest(Path(result["folder"]))
    return {
        "source_mb": size / 1e6,
        "equal_bytes_1_and_4_workers": digests[1] == digests[4],
        "shards_when_killed": f"{there} of {shards}",
        "equal_bytes_after_kill": killed == digests[1],
        "sha256": digests[1],
    }


def read_pairs(paths: list[Path]) -> Iterator[tuple[str, str]]:
    """Pairs of JSON Lines files with the fields text and code; other files are left out."""
    for path in paths:
        for line in path.open(encoding="utf-8"):
            row = json.loads(line)
            if not isinstance(row.get("code"), str):
                break
            yield row["text"], row["code"]


def main() -> None:
    """Runs all parts, or those named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="JSON Lines with the fields text and code")
    parser.add_argument("--out", type=Path, help="result file")
    parser.add_argument("--megabytes", type=int, default=50, help="source size of the speed part")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="*", default=[10, 200, 2000], help="sizes in MB of the memory part")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="the others stay as --out has them")
    parser.add_argument("--scratch", type=Path, help="where files are made; needs four times the largest size")
    arguments = parser.parse_args()
    pairs = list(read_pairs(arguments.files))
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        scratch = Path(folder)
        small = scratch / "tokenizer.jsonl"
        write_source(small, pairs, 20_000_000)
        trained = run(OURS, *settings(small, scratch / "tokenizer", None, 1))
        tokenizer = Path(trained["folder"]) / "tokenizer"
        results: dict[str, Any] = {}
        if arguments.out and arguments.out.is_file():
            results = json.loads(arguments.out.read_text(encoding="utf-8"))
        results["machine"] = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
        size = arguments.megabytes * 10**6
        for part in arguments.parts:
            print(part, flush=True)
            if part == "speed":
                results[part] = measure_speed(scratch, pairs, size, arguments.repetitions, tokenizer)
            elif part == "workers":
                results[part] = check_workers(scratch, pairs, size)
                print(f"  {results[part]}", flush=True)
            else:
                results[part] = measure_memory(scratch, pairs, [each * 10**6 for each in arguments.memory], tokenizer)
    text = json.dumps(results, indent=1)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

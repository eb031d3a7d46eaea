"""Encoding against ``SentenceTransformer.encode``, same model and texts; and peak memory by number of texts.

    python benchmarks/encoding.py [--data data/rotten_tomatoes] --out benchmarks/results/encoding.json

The model is a random Llama (width 192, 6 layers) with a tokenizer trained on the texts; --data holds ``train.jsonl``
with the field text. In parts:

    speed     both sides take turns in one process with as many threads as the machine has cores, and again with one;
              medians of repetitions, in wall-clock and in processor seconds. Ours pools all layers, last token and
              mean; sentence-transformers (batch 32, no normalisation) the mean of the last layer, where both must
              agree. The positions that each side computes, padding included, are counted: with one thread they bound
              the ratio
    memory    peak resident memory, a process for each number of texts, with the states in a cache folder, and what of
              it there was before (model, texts, libraries): --data's texts again and again, with a number before each
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pretrain.config.model import TokenizerConfig
from pretrain.preparation.tokenizer_training import train
from probes.encoding.encode import encode
from probes.encoding.probed_model import ProbedModel, open_model
from probes.encoding.sentence_transformer import write_sentence_transformer

PARTS = ("speed", "memory")
ROOT = Path(__file__).resolve().parents[1]

MEMORY = """
import json, sys, time
from pathlib import Path
from benchmarks.peak_memory import peak_memory
from probes.encoding.encode import encode
from probes.encoding.probed_model import open_model
model_folder, data, cache, count = sys.argv[1:]
lines = [json.loads(line)["text"] for line in open(data, encoding="utf-8")]
texts = [f"{number} {lines[number % len(lines)]}" for number in range(int(count))]
model = open_model(model_folder)
encode(model, texts[:200])
before = peak_memory()
start = time.perf_counter()
encode(model, texts, cache=Path(cache))
seconds = time.perf_counter() - start
print(json.dumps({"before_mib": round(before), "peak_mib": round(peak_memory()), "seconds": round(seconds, 1)}))
"""


def write_model(folder: Path, texts: Sequence[str]) -> None:
    """Writes the random model and its tokenizer."""
    tokenizer = train(texts, TokenizerConfig(vocab_size=8192))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos,
        eos_token_id=tokenizer.eos,
        pad_token_id=tokenizer.pad,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(folder)


def timed(action: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    """A result, and the wall-clock and processor seconds that it took."""
    wall, processor = time.perf_counter(), time.process_time()
    result = action()
    return result, time.perf_counter() - wall, time.process_time() - processor


def counting(base: Any, action: Callable[[], np.ndarray]) -> int:
    """Positions that a model computes during an action, padding included."""
    counts: list[int] = []
    handle = base.get_input_embeddings().register_forward_pre_hook(lambda module, ids: counts.append(ids[0].numel()))
    action()
    handle.remove()
    return sum(counts)


def measure_speed(
    scratch: Path, model: ProbedModel, texts: Sequence[str], repetitions: int, threads: int
) -> dict[str, Any]:
    """Alternates the two sides."""
    from sentence_transformers import SentenceTransformer

    if not (scratch / "theirs").exists():
        write_sentence_transformer(scratch / "model", scratch / "theirs", pooling="mean")
    other = SentenceTransformer(str(scratch / "theirs"), device="cpu")
    torch.set_num_threads(threads)

    def ours() -> np.ndarray:
        return encode(model, texts, poolings=("last", "mean"), progress=False).get(model.layers - 1, "mean")

    def theirs() -> np.ndarray:
        return other.encode(list(texts), batch_size=32, normalize_embeddings=False, show_progress_bar=False)

    positions = {
        "tokens": sum(
            len(ids) + len(model.prefix) + len(model.suffix) for ids in model.tokenizer.encode_batch(list(texts))
        ),
        "ours": counting(model.base, ours),
        "sentence_transformers": counting(other[0].auto_model, theirs),
    }
    wall: dict[str, list[float]] = {"ours": [], "sentence_transformers": []}
    processor: dict[str, list[float]] = {"ours": [], "sentence_transformers": []}
    for _ in range(repetitions):
        found = {}
        for name, action in (("sentence_transformers", theirs), ("ours", ours)):
            found[name], seconds, own = timed(action)
            wall[name].append(round(seconds, 2))
            processor[name].append(round(own, 2))
            print(f"  {name}: {seconds:.1f} s, {own:.1f} s of the processor", flush=True)
    largest = float(np.abs(found["ours"] - found["sentence_transformers"]).max())
    if largest > 1e-5:
        raise SystemExit(f"the embeddings differ by {largest}")

    def ratio(seconds: dict[str, list[float]]) -> float:
        return round(statistics.median(seconds["sentence_transformers"]) / statistics.median(seconds["ours"]), 2)

    return {
        "texts": len(texts),
        "threads": threads,
        "positions": positions,
        "wall_seconds": wall,
        "processor_seconds": processor,
        "ratio_of_medians_wall": ratio(wall),
        "ratio_of_medians_processor": ratio(processor),
        "largest_difference": largest,
    }


def measure_memory(scratch: Path, data: Path, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Peak memory by number of texts."""
    results = []
    for count in counts:
        arguments = [str(scratch / "model"), str(data), str(scratch / f"cache{count}"), str(count)]
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, *arguments],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=6 * 3600,
        )
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        results.append({"texts": count, **json.loads(done.stdout.splitlines()[-1])})
        print(f"  {results[-1]}", flush=True)
    return results


def main() -> None:
    """Runs both parts, or the one named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/rotten_tomatoes"))
    parser.add_argument("--out", type=Path, help="result file")
    parser.add_argument("--texts", type=int, help="texts of the speed part (default: all)")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--memory", type=int, nargs="*", default=[1_000, 10_000, 100_000], help="numbers of texts")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="the other stays as --out has it")
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    data = arguments.data / "train.jsonl"
    texts = [json.loads(line)["text"] for line in data.open(encoding="utf-8")]
    results: dict[str, Any] = {}
    if arguments.out and arguments.out.is_file():
        results = json.loads(arguments.out.read_text(encoding="utf-8"))
    results["machine"] = {"cores": os.cpu_count(), "processor": platform.machine()}
    results["versions"] = {"torch": torch.__version__}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        write_model(scratch / "model", texts)
        for part in arguments.parts:
            print(part, flush=True)
            if part == "speed":
                model = open_model(scratch / "model")
                some = texts[: arguments.texts]
                results[part] = [
                    measure_speed(scratch, model, some, arguments.repetitions, threads)
                    for threads in dict.fromkeys((os.cpu_count() or 1, 1))
                ]
            else:
                results[part] = measure_memory(scratch, data, arguments.memory)
    text = json.dumps(results, indent=1)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

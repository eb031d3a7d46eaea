"""What a GPU does with Diptych: one command, offline, about eight minutes; one table and one result file.

    python benchmarks/gpu.py [--out benchmarks/results/gpu.json] [--seconds 480] [--only NAME ...]
    python benchmarks/gpu.py --tiny      # on the CPU, with tiny shapes: does the script work?

Every part is a process of its own, so one that fails is reported and the others go on. Parts, in the order of what they
tell: the 1 B shape of configs/llama-3.2-1b.yaml by Diptych's own loop, with the objective on and off and with each
speed measure left out; what a user would write instead, forty lines of PyTorch; ZeRO stages; a small model; a resume
that must be bit-equal; tests/gpu. Steps are medians; the first ones, which compile, do not count.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
WARM, TIMED = 4, 6
WORDS = 32_000

LARGE = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
    "max_position_embeddings": 131072,
}
SMALL = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "tie_word_embeddings": True,
}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}

INFONCE = ["objective.lambda=0.1", "objective.distance=infonce", "objective.predictors=1"]
PLAIN = ["objective.lambda=0"]
# Name, model, row length, micro-batch rows, overrides, measures left out. The most telling first.
PARTS: list[tuple[str, dict[str, Any], int, int, list[str], list[str]]] = [
    ("infonce, micro-batch 4", LARGE, 8192, 4, INFONCE, []),
    ("plain, micro-batch 4", LARGE, 8192, 4, PLAIN, []),
    ("infonce, micro-batch 2", LARGE, 8192, 2, INFONCE, []),
    ("  without compiled blocks", LARGE, 8192, 2, [*INFONCE, "model.compile=false"], []),
    ("  without blocks as ZeRO's units", LARGE, 8192, 2, INFONCE, ["units"]),
    ("  without the head's own loss", LARGE, 8192, 2, INFONCE, ["head"]),
    ("  without fused AdamW", LARGE, 8192, 2, INFONCE, ["adamw"]),
    ("  without any of them", LARGE, 8192, 2, [*INFONCE, "model.compile=false"], ["units", "head", "adamw"]),
    ("infonce, ZeRO-1", LARGE, 8192, 2, [*INFONCE, "deepspeed.zero_stage=1"], []),
    ("infonce, ZeRO-0", LARGE, 8192, 2, [*INFONCE, "deepspeed.zero_stage=0"], []),
    ("cosine, micro-batch 4", LARGE, 8192, 4, ["objective.lambda=0.1", "objective.distance=cosine"], []),
    ("infonce, rows of 4096, micro-batch 8", LARGE, 4096, 8, INFONCE, []),
    ("30 M, infonce", SMALL, 2048, 16, INFONCE, []),
    ("30 M, plain", SMALL, 2048, 16, PLAIN, []),
]
ORDER = ["infonce, micro-batch 4", "forty lines", "tests/gpu", "plain, micro-batch 4", "30 M, infonce", "resume"]
"""What is run first; the rest follows as listed."""


def write_data(folder: Path, pairs: int) -> None:
    """Pairs of about 54 made-up words and a tokenizer that knows each of the words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>", *(f"[PRED_{number}]" for number in range(1, 5))]
    words = [f"w{number}" for number in range(WORDS)]
    vocabulary = {token: number for number, token in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder / "tokenizer")
    draw = np.random.default_rng(0)
    with (folder / "pairs.jsonl").open("w") as file:
        for _ in range(pairs):
            first, second = (
                " ".join(f"w{word}" for word in np.minimum(draw.zipf(1.2, size), WORDS) - 1)
                for size in draw.integers(15, 40, 2)
            )
            file.write(json.dumps({"text": first, "code": second}) + "\n")


def overrides_of(data: Path, run: Path, model: dict[str, Any], length: int, micro: int, rows: int) -> list[str]:
    """The config of a part, as overrides."""
    return [
        f"run.folder={run}",
        f"data.sources=[{{type: jsonl, path: {data / 'pairs.jsonl'}}}]",
        "data.views=[text, code]",
        f"data.folder={data / 'prepared'}",
        f"tokenizer={{path: {data / 'tokenizer'}, predictor_tokens: 4}}",
        f"model={{type: llama, fields: {json.dumps(model)}}}",
        f"packing.row_length={length}",
        f"train={{steps: {WARM + TIMED + 2}, rows_per_step: {rows}, micro_batch_rows: {micro}}}",
        "optimizer.lr=4.0e-4",
        "evaluation={every: 1000000, max_records: 16, prompts: 0}",
        "checkpoint={every: 1000000}",
        f"logging={{every: 1, tensorboard: false, progress_bar: false, profile: [{WARM + TIMED + 1}, "
        f"{WARM + TIMED + 2}]}}",
    ]


# ------------------------------------------------------------------------------------------- what a part's process does


def run_part(overrides: list[str], without: list[str]) -> dict[str, Any]:
    """Trains by Diptych's own loop; nothing is evaluated, saved or exported."""
    import torch
    import torch._dynamo.utils

    from pretrain.config.loading import load_config
    from pretrain.engine import build
    from pretrain.model import network
    from pretrain.runtime.distributed import start_ranks
    from pretrain.training import trainer

    if "units" in without:
        build.gather_by_block = lambda lm: None
    if "head" in without:
        network.LossHead.take_over = lambda *args, **kwargs: None
    if "adamw" in without:
        build.make_optimizer = functools.partial(_not_fused, build.make_optimizer)

    class Timed(trainer.Run):
        def evaluate(self, done: int) -> None:
            pass

        def save(self, done: int, *, wait: bool) -> None:
            pass

        def finish(self) -> Path:
            return self.config.run.folder

    started = time.perf_counter()
    config = load_config(None, overrides)
    ranks = start_ranks(10)
    folder = trainer.train(config, ranks, Timed)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "train/loss" in line]
    timed = steps[WARM : WARM + TIMED]
    report = (folder / "profile" / "table.txt").read_text()
    return {
        "tokens_per_second": _median(timed, "speed/tokens_per_second"),
        "label_tokens_per_second": _median(timed, "speed/label_tokens_per_second"),
        "mfu": _median(timed, "speed/mfu"),
        "peak_gib": max(line["memory/gib"] for line in steps[:-2]),
        "planned_gib": _planned_gib(config, ranks),
        "losses": [line["train/loss"] for line in steps[:3]],
        "seconds": time.perf_counter() - started,
        "compiled_graphs": torch._dynamo.utils.counters["stats"].get("unique_graphs", 0),
        "profile": report.splitlines()[:40],
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor(),
    }


def _not_fused(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return make(*args, **(kwargs | {"fused": False}))


def _median(steps: list[dict[str, Any]], name: str) -> float | None:
    values = [step[name] for step in steps if name in step]
    return statistics.median(values) if values else None


def _planned_gib(config: Any, ranks: Any) -> float | None:
    from pretrain.data.corpus import read_corpus
    from pretrain.footprint.states import model_states, moments
    from pretrain.preparation.prepare import prepare
    from pretrain.tools.dry_run import _load_of_rank
    from pretrain.training.assemble import assemble

    with suppress(Exception):  # a figure beside, which must not cost the part
        parts = assemble(config, read_corpus(prepare(config)), ranks)
        plan = parts.schedule.plan(0)
        load = _load_of_rank(parts, int(plan.num_labels.sum() / plan.num_rows))
        device, _ = model_states(load)
        return (sum(device.values()) + max(sum(extra.values()) for extra in moments(load).values())) / 2**30
    return None


def run_forty_lines(model: dict[str, Any], length: int, micro: int, rows: int) -> dict[str, Any]:
    """What a user would write instead: a Hugging Face model, whole causal rows, compiled blocks, chunked loss."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.checkpoint import checkpoint
    from transformers import LlamaConfig, LlamaForCausalLM

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    vocabulary = WORDS + 8
    with device:
        lm = LlamaForCausalLM._from_config(
            LlamaConfig(**model, vocab_size=vocabulary), dtype=dtype, attn_implementation="sdpa"
        )
    masters = [parameter.detach().float() for parameter in lm.parameters()]
    optimizer = torch.optim.AdamW(masters, lr=4e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    if device.type == "cuda":
        for layer in lm.model.layers:
            layer.compile(dynamic=False)

    def chunk_loss(states: Any, labels: Any) -> Any:
        return cross_entropy(lm.lm_head(states).float(), labels, reduction="sum")

    seconds = []
    for _ in range(WARM + TIMED):
        started = time.perf_counter()
        for _ in range(rows // micro):
            ids = torch.randint(0, vocabulary, (micro, length + 1), device=device)
            states = lm.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state.flatten(0, 1)
            labels = ids[:, 1:].flatten()
            loss = sum(
                checkpoint(chunk_loss, part, wanted, use_reentrant=False)
                for part, wanted in zip(states.split(4096), labels.split(4096), strict=True)
            )
            (loss / (rows * length)).backward()
        for master, parameter in zip(masters, lm.parameters(), strict=True):
            master.grad, parameter.grad = parameter.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(list(lm.parameters()), masters)
        loss.item()
        seconds.append(time.perf_counter() - started)
    tokens = rows * length / statistics.median(seconds[WARM:])
    products = sum(parameter.numel() for parameter in lm.parameters())
    width = model["num_attention_heads"] * model.get("head_dim", model["hidden_size"] // model["num_attention_heads"])
    flops = 6 * products + 12 * model["num_hidden_layers"] * width * length / 2
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {"tokens_per_second": tokens, "mfu": tokens * flops / 989e12 if peak else None, "peak_gib": peak}


def run_resume(overrides: list[str]) -> dict[str, Any]:
    """Six steps at once and four with two more from the checkpoint: the same losses to the last bit."""
    from pretrain.config.loading import load_config
    from pretrain.runtime.distributed import start_ranks
    from pretrain.training.trainer import pretrain

    ranks = start_ranks(10)
    folder = Path(next(word.partition("=")[2] for word in overrides if word.startswith("run.folder=")))

    def losses(run: Path) -> dict[int, float]:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}

    more = ["train.steps=6", "checkpoint.every=4", "logging.profile=null"]
    straight, resumed = folder / "straight", folder / "resumed"
    pretrain(load_config(None, [*overrides, *more, f"run.folder={straight}"]), ranks)
    resume = f"run.resume={straight / 'checkpoints' / 'step_00000004'}"
    pretrain(load_config(None, [*overrides, *more, f"run.folder={resumed}", resume]), ranks)
    first, second = losses(straight), losses(resumed)
    return {"equal": all(first[step] == second[step] for step in (5, 6)), "losses": [first[6], second[6]]}


def run_tests() -> dict[str, Any]:
    """tests/gpu."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1:] or [done.stderr[-300:]]
    return {"result": last[0], "passed": done.returncode == 0, "output": done.stdout[-3000:] if done.returncode else ""}


def worker() -> None:
    """Imports what is slow to import, then waits for a job on stdin: the next part's process starts early."""
    with suppress(ImportError):
        import deepspeed  # noqa: F401
        import transformers  # noqa: F401

        import pretrain.training.trainer  # noqa: F401
    job = json.loads(sys.stdin.readline())
    kind = {"part": run_part, "forty": run_forty_lines, "resume": run_resume, "tests": run_tests}[job.pop("kind")]
    result = kind(**job)  # type: ignore[operator]
    Path(os.environ["GPU_RESULT"]).write_text(json.dumps(result))


# ------------------------------------------------------------------------------------------------------------ all parts


class Worker:
    """A process that waits for one part."""

    def __init__(self, folder: Path, number: int) -> None:
        self.result, self.log = folder / f"{number}.json", folder / f"{number}.log"
        path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker"],
            stdin=subprocess.PIPE,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": path, "GPU_RESULT": str(self.result)},
        )

    def run(self, job: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The part's result, or what went wrong."""
        killer = threading.Timer(timeout, self.process.kill)
        killer.start()
        try:
            self.process.communicate(json.dumps(job) + "\n")
        finally:
            killer.cancel()
        notes = [line for line in self.log.read_text(errors="replace").splitlines() if "recompile" in line.lower()]
        if self.process.returncode == 0 and self.result.exists():
            return {**json.loads(self.result.read_text()), **({"recompiled": notes[:12]} if notes else {})}
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return {"error": " | ".join(lines[-6:])[-900:] or f"ended with {self.process.returncode}"}


def jobs(data: Path, folder: Path, tiny: bool) -> dict[str, dict[str, Any]]:
    """Every part by its name, in the order in which they are run."""
    made: dict[str, dict[str, Any]] = {}
    rows = 2 if tiny else 8
    for number, (name, model, length, micro, more, without) in enumerate(PARTS):
        shape = (TINY, 128, 1) if tiny else (model, length, micro)
        per_step = rows * (1 if tiny or length == 8192 else 2)
        if model is SMALL and not tiny:
            per_step = 32
        made[name] = {
            "kind": "part",
            "overrides": [*overrides_of(data, folder / f"run{number}", *shape, per_step), *more],
            "without": without,
        }
    shape = (TINY, 128, 1) if tiny else (LARGE, 8192, 2)
    made["forty lines"] = {"kind": "forty", "model": shape[0], "length": shape[1], "micro": shape[2], "rows": rows}
    shape = (TINY, 128, 1) if tiny else (SMALL, 2048, 8)
    made["resume"] = {
        "kind": "resume",
        "overrides": [*overrides_of(data, folder / "resume", *shape, 2 if tiny else 16), *INFONCE],
    }
    made["tests/gpu"] = {"kind": "tests"}
    return {name: made[name] for name in dict.fromkeys([*ORDER, *made])}


def report(results: dict[str, dict[str, Any]]) -> str:
    """The table."""

    def cell(value: Any, form: str) -> str:
        return "" if value is None else format(value, form)

    lines = [
        "| part | tokens/s | MFU | busy | peak GiB | planned GiB | s in all |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, result in results.items():
        if "error" in result:
            lines.append(f"| {name} | failed: {result['error'][:160]} | | | | | |")
            continue
        if "tokens_per_second" not in result:
            shown = result.get("result", f"bit-equal: {result.get('equal')}")
            lines.append(f"| {name} | {shown} | | | | | |")
            continue
        busy = next((line.split()[2].rstrip(",") for line in result.get("profile", []) if "device busy" in line), "")
        lines.append(
            f"| {name} | {result['tokens_per_second']:,.0f} | {cell(result.get('mfu'), '.3f')} | {busy} | "
            f"{cell(result.get('peak_gib'), '.1f')} | {cell(result.get('planned_gib'), '.1f')} | "
            f"{cell(result.get('seconds'), '.0f')} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs the parts that fit into the time and writes what they gave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="result file")
    parser.add_argument("--seconds", type=float, default=480, help="no part starts after so many seconds")
    parser.add_argument("--only", nargs="+", help="parts by name")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, also without a GPU")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker()
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    started = time.perf_counter()
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="gpu-") as name:
        folder = Path(name)
        following = Worker(folder, 0)
        write_data(folder, 400 if args.tiny else 45_000)
        todo = {
            part: job for part, job in jobs(folder, folder, args.tiny).items() if not args.only or part in args.only
        }
        for number, (part, job) in enumerate(todo.items(), start=1):
            left = args.seconds - (time.perf_counter() - started)
            if left < 20:
                results[part] = {"error": "no time was left"}
                continue
            current, following = following, Worker(folder, number)
            before = time.perf_counter()
            results[part] = current.run(job, left)
            result = json.dumps({key: value for key, value in results[part].items() if key != "profile"})
            print(f"{part}: {time.perf_counter() - before:.0f} s: {result[:500]}", flush=True)
            if args.out:
                write_results(args.out, results)
        following.process.kill()
    print(report(results))


def write_results(out: Path, results: dict[str, dict[str, Any]]) -> None:
    """The result file: all parts so far, the machine and the versions."""
    import importlib.metadata

    versions = {}
    for package in ("torch", "deepspeed", "transformers", "triton"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    device = next((result["device"] for result in results.values() if "device" in result), None)
    machine = {"device": device, "python": platform.python_version(), "cores": os.cpu_count()}
    out.write_text(json.dumps({"machine": machine, "versions": versions, "parts": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

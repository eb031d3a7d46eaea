"""Profile of a few steps: what device and host spend their time on (``logging.profile``)."""

import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from pretrain.runtime.distributed import Ranks

WAITING = "waiting for data"
GROUPS = {
    "matrix products": r"gemm|nvjet|cutlass|cublas|addmm|::mm$|::bmm$|::linear$|::matmul$",
    "attention": r"attention|flash|fmha",
    "optimizer": r"adam|muon",
    "collectives": r"nccl|allreduce|all_gather|allgather|reduce_scatter|gloo",
    "copies": r"memcpy|memset|copy_|direct_copy|::cat$|catarray",
}
"""Groups of the table and patterns for names of kernels (on the CPU: of operators); the first match counts."""


class StepProfiler:
    """Profiles the steps that ``logging.profile`` names, on rank 0, and writes a trace and a table."""

    def __init__(self, steps: tuple[int, int] | None, folder: Path, ranks: Ranks) -> None:
        self.first, self.last = steps or (0, 0)
        self.folder, self.device = folder, ranks.device
        self.active = steps is not None and ranks.is_main
        self._profile: Any = None
        self._started = 0.0

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Covers one step, its wait for data included; ``number`` is from 1."""
        if self.active and number == self.first:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self.device.type == "cuda")
            self._profile = profile(activities=activities)
            self._wait()
            self._profile.start()
            self._started = time.perf_counter()
        yield
        if self._profile is not None and number >= self.last:
            self._wait()
            seconds = time.perf_counter() - self._started
            self._profile.stop()
            self._write(seconds, number - self.first + 1)
            self._profile, self.active = None, False

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _write(self, seconds: float, steps: int) -> None:
        self.folder.mkdir(exist_ok=True)
        self._profile.export_chrome_trace(str(self.folder / "trace.json.gz"))
        lines = table(self._profile.events(), seconds, steps, on_device=self.device.type == "cuda")
        (self.folder / "table.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def waiting_for_data() -> Any:
    """A context manager that marks the wait for data in the profile."""
    return record_function(WAITING)


def table(events: Sequence[Any], seconds: float, steps: int, *, on_device: bool) -> list[str]:
    """The lines of ``table.txt``.

    Args:
        events: Events of the profiler, times in microseconds.
        seconds: Duration of all steps.
        steps: Number of steps.
        on_device: Count kernels; else operators of the CPU, each without the operators that it calls.
    """
    times: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    intervals = []
    waiting = 0.0
    for event in events:
        span = event.time_range
        if event.name == WAITING and event.device_type.name == "CPU":
            waiting += (span.end - span.start) / 1e6
        elif on_device and event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False):
            times[event.name] += (span.end - span.start) / 1e6
            counts[event.name] += 1
            intervals.append((span.start, span.end))
        elif not on_device:
            times[event.name] += event.self_cpu_time_total / 1e6
            counts[event.name] += 1
    grouped: dict[str, float] = dict.fromkeys([*GROUPS, "other"], 0.0)
    for name, value in times.items():
        fits = (group for group, pattern in GROUPS.items() if re.search(pattern, name, re.IGNORECASE))
        grouped[next(fits, "other")] += value
    lines = [f"{steps} step(s), {1000 * seconds / steps:.1f} ms each"]
    if on_device:
        busy = union(intervals) / 1e6
        lines.append(f"device busy {busy / seconds:.1%}, {len(intervals) // steps:,} kernels and copies a step")
    lines.append(f"waiting for data {waiting / seconds:.1%}")
    lines += ["", "ms a step", *(f"{1000 * value / steps:10.2f}  {group}" for group, value in grouped.items())]
    longest = sorted(times, key=lambda name: -times[name])[:40]
    lines += ["", "ms a step   calls  name"]
    lines += [f"{1000 * times[name] / steps:10.2f} {counts[name] // steps:6,}  {name[:140]}" for name in longest]
    return lines


def union(intervals: Sequence[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total

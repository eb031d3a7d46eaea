"""The table of a profile."""

from types import SimpleNamespace
from typing import Any

from pretrain.training.profiling import WAITING, table, union


def event(name: str, start: float, end: float, device: str = "CUDA") -> Any:
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=start, end=end),
        device_type=SimpleNamespace(name=device),
        self_cpu_time_total=end - start,
    )


def test_overlapping_kernels_count_once_as_busy() -> None:
    assert union([(0, 4), (2, 6), (10, 11), (10, 11), (3, 4)]) == 7
    assert union([]) == 0


def test_the_table_groups_kernels_and_says_how_busy_the_device_was() -> None:
    events = [
        event("nvjet_gemm", 0, 400_000),
        event("flex_attention_backward", 300_000, 600_000),
        event("fused_adam", 700_000, 800_000),
        event("Memcpy DtoD", 800_000, 900_000),
        event("silu", 900_000, 1_000_000),
        event(WAITING, 0, 250_000, "CPU"),
        event("aten::mm", 0, 1, "CPU"),
    ]
    lines = table(events, seconds=2.0, steps=2, on_device=True)
    assert lines[0] == "2 step(s), 1000.0 ms each"
    assert lines[1].startswith("device busy 45.0%") and lines[2] == "waiting for data 12.5%"
    groups = {line.split(maxsplit=1)[1]: float(line.split()[0]) for line in lines[5:11]}
    assert groups == {
        "matrix products": 200, "attention": 150, "optimizer": 50, "collectives": 0, "copies": 50, "other": 50,
    }  # fmt: skip
    on_cpu = table(events, seconds=2.0, steps=2, on_device=False)
    assert not any("busy" in line for line in on_cpu)

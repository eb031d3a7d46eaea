"""What a rank on a GPU tells its process group; no GPU is needed to see it."""

import importlib
import os
import warnings
from types import SimpleNamespace
from typing import Any
from unittest import mock

import deepspeed
import deepspeed.accelerator
import deepspeed.ops
import pytest
import torch
import torch.distributed as dist

from pretrain.runtime import distributed

GPUS = SimpleNamespace(
    device_name=lambda index=None: "cuda" if index is None else f"cuda:{index}",
    device=lambda index: torch.device("cuda", index),
    device_count=lambda: 4,
    communication_backend_name=lambda: "nccl",
)


def start(monkeypatch: pytest.MonkeyPatch, rank: int, ranks: int) -> tuple[Any, list[tuple[str, Any]]]:
    """The ranks that one of them sees, and its calls, in order."""
    calls: list[tuple[str, Any]] = []
    assert deepspeed.ops.__compatible_ops__  # found out with the real accelerator, at the first look
    gpus = SimpleNamespace(**vars(GPUS), set_device=lambda index: calls.append(("set_device", index)))
    first = SimpleNamespace(item=lambda: calls.append(("wait", None)))
    for name, value in {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": ranks,
        "MASTER_ADDR": "a",
        "MASTER_PORT": 1,
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(deepspeed.accelerator, "get_accelerator", lambda: gpus)
    monkeypatch.setattr(deepspeed, "init_distributed", lambda **given: calls.append(("init", given["dist_backend"])))
    monkeypatch.setattr(distributed, "meet", lambda: None)
    monkeypatch.setattr(distributed.torch, "zeros", lambda size, device: calls.append(("zeros", device)) or first)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: calls.append(("all_reduce", tensor is first)))
    monkeypatch.setattr(dist, "barrier", lambda *given, **more: calls.append(("barrier", more)))
    monkeypatch.setattr(dist, "get_rank", lambda: rank)
    monkeypatch.setattr(dist, "get_world_size", lambda: ranks)
    return distributed.start_ranks(5), calls


@pytest.mark.parametrize(("rank", "ranks"), [(0, 1), (2, 4)])
def test_the_first_collective_is_on_the_device_of_the_rank(
    monkeypatch: pytest.MonkeyPatch, rank: int, ranks: int
) -> None:
    """A barrier that comes first would have to guess the device, as NCCL says at length."""
    with mock.patch.dict(os.environ), warnings.catch_warnings(record=True) as shown:
        found, calls = start(monkeypatch, rank, ranks)
        warnings.warn("barrier(): using the device under current context. You can specify ...", stacklevel=1)
    device = torch.device("cuda", rank)
    assert found == distributed.Ranks(rank, ranks, device)
    assert calls == [
        ("set_device", rank),
        ("init", "nccl"),
        ("zeros", device),
        ("all_reduce", True),
        ("wait", None),
    ]
    shown = [each for each in shown if "barrier()" in str(each.message)]
    assert len(shown) == (ranks > 1)  # of several ranks it would be a fault: their group is bound to a device


@pytest.mark.parametrize("ranks", [1, 4])
def test_deepspeed_binds_a_group_of_several_ranks_to_their_devices(monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    """What ``start_ranks`` relies on in the pinned version."""
    backend = importlib.import_module("deepspeed.comm.torch")  # the attribute of that name is torch itself
    monkeypatch.setattr(backend, "get_accelerator", lambda: GPUS)
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    monkeypatch.setattr(dist, "init_process_group", mock.create_autospec(dist.init_process_group))
    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    backend.TorchBackend.init_process_group(SimpleNamespace(), "nccl", None, None, -1, -1)
    given = dist.init_process_group.call_args.kwargs  # type: ignore[attr-defined]
    assert given.get("device_id") == (torch.device("cuda", 2) if ranks > 1 else None)

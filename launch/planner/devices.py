"""Accelerators and networks that plans are made for, with the figures of their data sheets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import psutil

from pretrain.runtime.errors import DiptychError
from pretrain.runtime.suggestions import nearest
from pretrain.training.monitor import PEAK_TFLOPS

T = TypeVar("T")


@dataclass(frozen=True)
class Gpu:
    """One accelerator.

    Attributes:
        name: As it is given to ``--gpu``.
        memory: Bytes that torch reports in all; 0: those of this machine, shared by the ranks of a node.
        bfloat16_tflops: Dense bfloat16 peak, in TFLOP/s.
        float32_tflops: Peak without tensor cores, in TFLOP/s.
        bandwidth: Of its memory, in GB/s.
        link: To the others of its node, in GB/s and one direction.
        host_link: To host memory (PCIe), in GB/s and one direction.
        sheet: Where the figures are from.
    """

    name: str
    memory: int
    bfloat16_tflops: float
    float32_tflops: float
    bandwidth: float
    link: float
    host_link: float
    sheet: str

    @property
    def is_cpu(self) -> bool:
        """Ranks that compute on the CPU."""
        return self.name == "cpu"


@dataclass(frozen=True)
class Network:
    """The network between nodes.

    Attributes:
        name: As it is given to ``--network``.
        gigabits: Of one adapter, in Gbit/s and one direction.
        per_gpu: Whether every GPU has an adapter of its own, or a node has one.
        source: What has it.
    """

    name: str
    gigabits: float
    per_gpu: bool
    source: str

    def of_node(self, gpus: int) -> float:
        """Bandwidth of a node with so many GPUs, in GB/s and one direction."""
        return self.gigabits / 8 * (gpus if self.per_gpu else 1)


def _gpu(name: str, model: str, gib: float, rest: tuple[float, float, float, float], sheet: str) -> Gpu:
    float32, bandwidth, link, host = rest
    return Gpu(name, int(gib * 2**30), PEAK_TFLOPS[model], float32, bandwidth, link, host, sheet)


# Memory as torch.cuda.mem_get_info reports it, a little less than is on the box; NVLink as half of its two directions.
GPUS: Mapping[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _gpu("a100-40gb", "A100", 39.4, (19.5, 1555, 300, 32), "NVIDIA A100 Tensor Core GPU data sheet, SXM4 40 GB"),
        _gpu("a100-80gb", "A100", 79.1, (19.5, 2039, 300, 32), "NVIDIA A100 Tensor Core GPU data sheet, SXM4 80 GB"),
        _gpu("h100-80gb", "H100", 79.1, (67, 3350, 450, 64), "NVIDIA H100 Tensor Core GPU data sheet, SXM5"),
        _gpu("h200-141gb", "H200", 139.8, (67, 4800, 450, 64), "NVIDIA H200 Tensor Core GPU data sheet, SXM"),
        _gpu("b200", "B200", 178.3, (75, 8000, 900, 64), "NVIDIA DGX B200 data sheet, one of eight GPUs"),
        _gpu("l40s", "L40S", 44.4, (91.6, 864, 32, 32), "NVIDIA L40S data sheet; no NVLink, PCIe 4.0 x16"),
        _gpu(
            "mi300x", "MI300X", 191.9, (163.4, 5300, 448, 64), "AMD Instinct MI300X data sheet; 7 Infinity Fabric links"
        ),
        Gpu("cpu", 0, 0.1, 0.1, 20, 5, 20, "no data sheet: one or two cores of a server, a rough guess"),
    )
}

NETWORKS: Mapping[str, Network] = {
    network.name: network
    for network in (
        Network("ib-200", 200, True, "InfiniBand HDR, an adapter per GPU (NVIDIA DGX A100)"),
        Network("ib-400", 400, True, "InfiniBand NDR, an adapter per GPU (NVIDIA DGX H100, H200, B200)"),
        Network("ib-800", 800, True, "InfiniBand XDR, an adapter per GPU"),
        Network("ethernet-400", 400, True, "RoCE, an adapter per GPU"),
        Network("ethernet-100", 100, False, "one adapter per node"),
        Network("ethernet-25", 25, False, "one adapter per node"),
        Network("ethernet-10", 10, False, "one adapter per node"),
    )
}


def find_gpu(name: str) -> Gpu:
    """The accelerator of a name.

    Raises:
        DiptychError: There is none; names the nearest.
    """
    return _find("--gpu", name, GPUS)


def find_network(name: str) -> Network:
    """The network of a name.

    Raises:
        DiptychError: There is none; names the nearest.
    """
    return _find("--network", name, NETWORKS)


def device_memory(gpu: Gpu, ranks_of_node: int) -> int:
    """Bytes that one rank has for itself."""
    return gpu.memory or int(psutil.virtual_memory().total) // ranks_of_node


def _find(option: str, name: str, known: Mapping[str, T]) -> T:
    if name.lower() in known:
        return known[name.lower()]
    near = nearest(name, known)
    hint = f"did you mean {near}? Known" if near else "known"
    raise DiptychError(f"{option}: {name}: unknown; {hint}: {', '.join(known)}")

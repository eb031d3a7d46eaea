"""The most memory that a process had, of itself alone."""

from pathlib import Path


def peak_memory() -> float:
    """MiB of resident memory, mapped files included, that this process had at most. Linux only.

    Not ``ru_maxrss``: that one survives ``exec``, so a process that was started by a large one reports the large one's.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status names no VmHWM")


def forget_peak_memory() -> None:
    """From now on :func:`peak_memory` counts what this process has now and later."""
    Path("/proc/self/clear_refs").write_text("5")

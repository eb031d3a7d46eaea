"""Output of a run while it trains: progress bar, metrics.jsonl, and TensorBoard under the same names."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import tqdm

from pretrain.config.sections import LoggingConfig
from pretrain.runtime.errors import DiptychError

# Dense bfloat16 peak in TFLOP/s without sparsity, from the vendors' data sheets; the first name that matches counts.
PEAK_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "B200": 2250.0,
    "A100": 312.0,
    "A40": 149.7,
    "L40S": 362.0,
    "L4": 121.0,
    "MI300X": 1307.0,
    "MI250X": 383.0,
}


def peak_flops(config: LoggingConfig, device: torch.device, dtype: torch.dtype) -> float | None:
    """Peak FLOP/s of one device; None if unknown."""
    if config.peak_tflops is not None:
        return config.peak_tflops * 1e12
    if device.type == "cuda" and dtype == torch.bfloat16:
        words = torch.cuda.get_device_name(device).replace("-", " ").split()
        for name, tflops in PEAK_TFLOPS.items():
            if set(name.split()) <= set(words):
                return tflops * 1e12
    return None


def memory_gib(device: torch.device) -> float:
    """Peak device memory since the last call on CUDA, resident memory of this process on the CPU."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak / 2**30
    return float(psutil.Process().memory_info().rss) / 2**30


class Monitor:
    """Writes the metrics on rank 0; on other ranks every call does nothing.

    ``metrics.jsonl`` is only appended to. After a resumption a line ``{"event": "resume", "step": s}`` says that
    earlier lines of later steps are superseded. TensorBoard hides those by itself.
    """

    def __init__(self, folder: Path, config: LoggingConfig, *, active: bool, first_step: int, num_steps: int) -> None:
        self.active = active
        self._tensorboard: Any = None
        if not active:
            return
        self._metrics, self._samples = folder / "metrics.jsonl", folder / "samples.txt"
        _append(self._metrics, "")
        if first_step:
            self._line({"event": "resume", "step": first_step})
        if config.tensorboard:
            self._tensorboard = _summary_writer(
                str(folder / "tensorboard"), purge_step=first_step + 1 if first_step else None
            )
        shown = sys.stderr.isatty() if config.progress_bar is None else config.progress_bar
        self._bar = tqdm.tqdm(
            total=num_steps, initial=first_step, unit="step", disable=not shown, dynamic_ncols=True, smoothing=0.05
        )
        self._shown = shown
        self._num_steps = num_steps
        self._timed_from: tuple[int, float] | None = None
        self._step = first_step

    def advance(self) -> None:
        """Moves the progress bar by one step."""
        if self.active:
            self._bar.update()
            self._step += 1
            # The first step warms up; time per step is counted from its end.
            self._timed_from = self._timed_from or (self._step, time.monotonic())

    def go_back(self, step: int) -> None:
        """Notes that the run rolled back to ``step`` steps done, so that lines of later steps are superseded."""
        if not self.active:
            return
        self._line({"event": "resume", "step": step})
        if self._tensorboard:
            folder = self._tensorboard.log_dir
            self._tensorboard.close()
            self._tensorboard = _summary_writer(folder, purge_step=step + 1)
        self._bar.n = self._step = step
        self._bar.refresh()
        self._timed_from = None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Writes metrics after ``step`` steps."""
        if not self.active:
            return
        self._line({"step": step, **metrics})
        if self._tensorboard:
            for name, value in metrics.items():
                self._tensorboard.add_scalar(name, value, step)
        if "train/lm_loss" in metrics:
            shown = f"lm {metrics['train/lm_loss']:.3f}"
            if "train/pair_loss" in metrics:
                shown += f"  pair {metrics['train/pair_loss']:.4f}"
            self._bar.set_postfix_str(shown, refresh=False)
            if not self._shown:
                speed = metrics["speed/label_tokens_per_second"]
                self.say(
                    f"step {step}/{self._num_steps}  {shown}  grad norm {metrics['train/grad_norm']:.3f}  "
                    f"{speed:,.0f} label tokens/s{self._left(step)}"
                )
        if "eval/lm_loss" in metrics:
            self.say(
                f"step {step}  held-out: lm {metrics['eval/lm_loss']:.3f}  "
                f"{metrics['eval/bits_per_byte']:.3f} bits/byte  pair {metrics['eval/pair_loss']:.4f}  "
                f"margin {metrics['health/views_margin']:.3f}  "
                f"retrieval@1 {metrics['health/views_retrieval_at_1']:.2f}  "
                f"effective rank {metrics['health/source_effective_rank']:.1f}"
            )

    def log_probe(self, step: int, label_tokens: int, metrics: dict[str, float]) -> None:
        """Writes the scores of a probe, over steps and over label tokens."""
        if not self.active:
            return
        self._line({"step": step, "train/label_tokens": label_tokens, **metrics})
        if self._tensorboard:
            for name, value in metrics.items():
                self._tensorboard.add_scalar(name, value, step)
                self._tensorboard.add_scalar(name.replace("probe/", "probe_over_tokens/"), value, label_tokens)
        self.say(
            f"step {step}  probe: accuracy {metrics['probe/accuracy']:.3f} (majority {metrics['probe/majority']:.3f}, "
            f"shuffled labels {metrics['probe/shuffled']:.3f})"
        )

    def _left(self, step: int) -> str:
        if self._timed_from is None or step <= self._timed_from[0]:
            return ""
        begun, when = self._timed_from
        left = (time.monotonic() - when) / (step - begun) * (self._num_steps - step)
        return f"  about {_duration(left)} left"

    def samples(self, step: int, texts: list[tuple[str, str]]) -> None:
        """Writes prompts and their continuations."""
        if not self.active or not texts:
            return
        blocks = [f"[{prompt}] {continuation}" for prompt, continuation in texts]
        _append(self._samples, f"--- step {step}\n" + "\n".join(blocks) + "\n")
        if self._tensorboard:
            self._tensorboard.add_text("samples", "\n\n".join(blocks), step)

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if self.active:
            self._bar.write(text, file=sys.stderr)
            sys.stderr.flush()

    def flush(self) -> None:
        """Flushes TensorBoard, so that its curves never lag behind a checkpoint."""
        if self.active and self._tensorboard:
            self._tensorboard.flush()

    def close(self) -> None:
        """Closes the progress bar and TensorBoard."""
        if not self.active:
            return
        self._bar.close()
        if self._tensorboard:
            self._tensorboard.close()

    def _line(self, values: dict[str, Any]) -> None:
        _append(self._metrics, json.dumps(values) + "\n")


def _summary_writer(folder: str, purge_step: int | None) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=purge_step)  # type: ignore[no-untyped-call]


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise DiptychError(f"{path}: cannot be written ({error.strerror}); free space, then resume") from None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"

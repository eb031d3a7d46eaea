"""Steps that are left out because their loss or gradient broke: how they are found, and which they are.

A bad step is found before any weight is touched. Its rows count as used: step s stands for the same rows in every run,
the schedules go on by the step's number, and only the optimizer's own counter stays behind. Every bad step is a line in
``RUN/bad_steps.jsonl`` before anything else is done about it, so a run that is killed and started from an older
checkpoint leaves out the same steps.
"""

import json
import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from pretrain.config.sections import TrainConfig
from pretrain.runtime.distributed import Ranks
from pretrain.training.diagnosis import RankReport

WINDOW = 100
"""Good steps whose losses make the median."""

FEWEST = 20
"""Good steps before a loss can be a spike."""


class BadSteps:
    """The bad steps of a run and the losses of its good ones. All ranks hold the same.

    Attributes:
        left_out: Why each step that is left out is so, by its number from 0.
    """

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self.left_out: dict[int, str] = {}
        self._config = config
        self._path = folder / "bad_steps.jsonl"
        self._losses: deque[float] = deque(maxlen=WINDOW)

    def load_state_dict(self, state: Mapping[str, Any], ranks: Ranks) -> None:
        """Takes up what the run knows at the checkpoint that it goes on from. Collective.

        Steps that were left out after that checkpoint are known as well: from the run folder, or from before.

        Args:
            state: What :meth:`state_dict` gave to the checkpoint; empty: there is none.
            ranks: All ranks.
        """
        self._losses = deque(state.get("losses", ()), maxlen=WINDOW)
        self.left_out |= {int(index): reason for index, reason in state.get("left_out", ())}
        self.left_out |= ranks.on_main(self._read)

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint stores, for :meth:`load_state_dict`."""
        return {"left_out": sorted(self.left_out.items()), "losses": list(self._losses)}

    def verdict(self, loss: float) -> str | None:
        """What is wrong with the loss of a step; None: nothing. The same loss on all ranks gives the same verdict."""
        if not math.isfinite(loss):
            return "the loss is not finite"
        factor, usual = self._config.spike_factor, self.median
        if factor and len(self._losses) >= FEWEST and usual is not None and loss > factor * usual:
            steps = f"{len(self._losses)} steps"
            return f"the loss {loss:.4g} is {loss / usual:.3g} times the median {usual:.4g} of the last {steps}"
        return None

    def add_good(self, loss: float) -> None:
        """Counts the loss of a step that was taken."""
        self._losses.append(loss)

    @property
    def median(self) -> float | None:
        """Of the last good steps' losses; None: there is none."""
        return median(self._losses) if self._losses else None

    @property
    def policy(self) -> str:
        """What to do about the next bad step: ``train.on_bad_step``, or stop if too many are left out already."""
        return "stop" if len(self.left_out) >= self._config.max_bad_steps else self._config.on_bad_step

    def record(
        self, index: int, reason: str, *, loss: float, learning_rate: float, reports: Sequence[RankReport], ranks: Ranks
    ) -> str:
        """Writes a bad step down, and leaves it out from now on unless the run stops. Collective.

        Args:
            index: Number of the step, from 0.
            reason: From :meth:`verdict`, or another.
            loss: Of the step, if known.
            learning_rate: Of the step.
            reports: What each rank computed in it (:func:`pretrain.training.diagnosis.gather_reports`).
            ranks: All ranks.

        Returns:
            The policy: ``stop``, ``skip`` or ``rollback``.

        Raises:
            DiptychError: It cannot be written, and the run was to go on.
        """
        policy = self.policy
        line = {
            "step": index + 1,
            "reason": reason,
            "policy": policy,
            "loss": loss if math.isfinite(loss) else None,
            "median": self.median,
            "learning_rate": learning_rate,
            "ranks": [
                report | {"values": {name: _json_number(value) for name, value in report["values"].items()}}
                for report in reports
            ],
        }

        def write() -> None:
            try:
                if ranks.is_main:
                    _append(self._path, json.dumps(line, allow_nan=False))
            except OSError:
                if policy != "stop":  # else what stops the run must be said, whatever else fails
                    raise

        ranks.agree(write)
        if policy != "stop":
            self.left_out[index] = reason
        return policy

    def _read(self) -> dict[int, str]:
        found = {}
        if self._path.is_file():
            for text in self._path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):  # a kill may have cut a line: then nothing was done about that step yet
                    line = json.loads(text)
                    if line["policy"] != "stop":
                        found[line["step"] - 1] = line["reason"]
        return found


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _append(path: Path, text: str) -> None:
    """Appends a whole line that outlives a kill, also after one that a kill has cut."""
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            text = text if file.read() == b"\n" else "\n" + text
        file.write(text.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())

"""Bad steps, whose loss or gradient broke: how they are detected, and whether the run stops, skips or rolls back.

A bad step is detected before any weight is changed. Its rows count as used: step s has the same rows in every run, all
schedules follow the number of the step, and only the optimizer's step counter does not advance. A bad step is written
to ``RUN/bad_steps.jsonl`` before anything else is done about it. So a run that is killed and resumes from an older
checkpoint leaves out the same steps.
"""

import json
import math
import os
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeAlias

from pretrain.config.sections import TrainConfig
from pretrain.runtime.distributed import Ranks
from pretrain.training.diagnosis import BadStep

Action: TypeAlias = Literal["stop", "skip", "rollback"]

WINDOW = 100
"""The median is that of the losses of so many good steps."""

FEWEST = 20
"""With fewer good steps no loss is a spike."""


class BadSteps:
    """The bad steps of a run and the losses of its good ones. All ranks hold the same.

    Attributes:
        left_out: The reason for each step that is left out, by the step's number from 0.
    """

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self.left_out: dict[int, str] = {}
        self._config = config
        self._path = folder / "bad_steps.jsonl"
        self._losses: deque[float] = deque(maxlen=WINDOW)

    def load_state_dict(self, state: Mapping[str, Any], ranks: Ranks) -> None:
        """Restores the state that a checkpoint stored. Collective.

        Steps that were left out after that checkpoint stay left out: they are known to this object or read from the
        run folder.

        Args:
            state: From :meth:`state_dict`; empty without a checkpoint.
            ranks: All ranks.
        """
        self._losses = deque(state.get("losses", ()), maxlen=WINDOW)
        self.left_out |= {int(index): reason for index, reason in state.get("left_out", ())}
        self.left_out |= ranks.on_main(self._read)

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint stores, for :meth:`load_state_dict`."""
        return {"left_out": sorted(self.left_out.items()), "losses": list(self._losses)}

    def verdict(self, loss: float) -> str | None:
        """What is wrong with the loss of a step, or None; equal losses on all ranks give equal verdicts."""
        if not math.isfinite(loss):
            return "the loss is not finite"
        factor, usual = self._config.spike_factor, self.median
        if factor and len(self._losses) >= FEWEST and usual is not None and loss > factor * usual:
            steps = f"{len(self._losses)} steps"
            return f"the loss {loss:.4g} is {loss / usual:.3g} times the median {usual:.4g} of the last {steps}"
        return None

    def add_good(self, loss: float) -> None:
        """Adds the loss of a good step to the median."""
        self._losses.append(loss)

    @property
    def median(self) -> float | None:
        """Of the losses of the last good steps; None if there are none."""
        return median(self._losses) if self._losses else None

    @property
    def next_action(self) -> Action:
        """What to do about the next bad step: ``train.on_bad_step``, or stop if too many are left out already."""
        return "stop" if len(self.left_out) >= self._config.max_bad_steps else self._config.on_bad_step

    def decide(self, bad: BadStep, ranks: Ranks) -> Action:
        """Writes a bad step to the file and decides what to do; unless the run stops, it is left out. Collective.

        Raises:
            DiptychError: The file cannot be written, and the run was to continue.
        """
        action = self.next_action
        line = {
            "step": bad.number,
            "reason": bad.reason,
            "policy": action,
            "loss": bad.loss if math.isfinite(bad.loss) else None,
            "median": self.median,
            "learning_rate": bad.learning_rate,
            "ranks": [
                report | {"values": {name: _json_number(value) for name, value in report["values"].items()}}
                for report in bad.reports
            ],
        }

        def write() -> None:
            try:
                if ranks.is_main:
                    _append(self._path, json.dumps(line, allow_nan=False))
            except OSError:
                if action != "stop":  # else the error that stops the run is the one to show
                    raise

        ranks.agree(write)
        if action != "stop":
            self.left_out[bad.number - 1] = bad.reason
        return action

    def _read(self) -> dict[int, str]:
        left_out = {}
        if self._path.is_file():
            for text in self._path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):  # a kill may have cut a line; then that step was not left out yet
                    line = json.loads(text)
                    if line["policy"] != "stop":
                        left_out[line["step"] - 1] = line["reason"]
        return left_out


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _append(path: Path, text: str) -> None:
    """Appends a line and syncs it to disk; if a kill has cut the last line, a new one is started."""
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            text = text if file.read() == b"\n" else "\n" + text
        file.write(text.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())

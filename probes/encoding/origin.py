"""Where a model comes from (a run's export, a checkpoint, or elsewhere), and what is known about its training."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pretrain.checkpoint.checkpoints import Checkpoints, read_state
from pretrain.checkpoint.export import export
from pretrain.config.sections import CheckpointConfig
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError

_SETTING = re.compile(r"^- `([\w.]+)`: (.+)$", re.MULTILINE)
_STEPS = re.compile(r"^- ([\d,]+) steps, ([\d,]+) label tokens", re.MULTILINE)


@dataclass(frozen=True)
class Origin:
    """What is known of a model besides its weights.

    Attributes:
        name: For people.
        predictors: Number of ``[PRED]`` tokens that it was trained to predict with; 0 if none, None if not known.
        repeated: True if they are all ``[PRED_1]``.
        run: Folder of its training run, if known.
        step: Optimizer steps of the run until then, if known.
        tokens: Label tokens trained on until then, if known.
        settings: Its run's objective and packing, by dotted key of the config; empty if not known.
    """

    name: str
    predictors: int | None = None
    repeated: bool = False
    run: str | None = None
    step: int | None = None
    tokens: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first; each is a model that can be opened.

    Raises:
        DiptychError: It is no run folder, or has none yet.
    """
    if not (run / "checkpoints").is_dir():
        raise DiptychError(f"{run}: is no run folder: it has no checkpoints")
    found = [path for path in sorted((run / "checkpoints").glob("step_" + "[0-9]" * 8)) if is_checkpoint(path)]
    if not found:
        raise DiptychError(f"{run}: the run has no checkpoint yet")
    return found


def is_checkpoint(folder: Path) -> bool:
    """True for a checkpoint of a run."""
    return (folder / "manifest.json").is_file() and not (folder / "config.json").exists()


@contextmanager
def located(given: str, *, trust_remote_code: bool) -> Iterator[tuple[str, Origin]]:
    """The folder or name to open for what a user gave, valid within the context, and what is known of the model.

    A run folder stands for its export, or for its last checkpoint if it has no export yet. A checkpoint is exported
    into a temporary folder.

    Args:
        given: A folder, or a hub name.
        trust_remote_code: Run Python code that the model brings along.

    Raises:
        DiptychError: A broken checkpoint, or one that cannot be exported.
    """
    folder = Path(given).expanduser()
    if (folder / "checkpoints").is_dir() and not (folder / "config.json").exists():
        exported = folder / "export"
        folder = exported if exported.is_dir() else checkpoints_of(folder)[-1]
        given = str(folder)
    if not is_checkpoint(folder):
        yield given, _of_export(folder) if folder.is_dir() else Origin(given)
        return
    scratch = Path(tempfile.mkdtemp(prefix="diptych-export-"))
    try:
        yield str(_exported(folder, scratch / "model", trust_remote_code)), _of_checkpoint(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _exported(checkpoint: Path, out: Path, trust_remote_code: bool) -> Path:
    alone = Ranks(0, 1, torch.device("cpu"))
    problem = Checkpoints(checkpoint.parent, CheckpointConfig(), alone).problem(checkpoint)
    if problem:
        raise DiptychError(f"{checkpoint}: {problem}; probe another checkpoint")
    state = read_state(checkpoint)
    if state.identity.get("model.trust_remote_code") and not trust_remote_code:
        raise DiptychError(
            f"{checkpoint}: its run may run Python code of the model; give --trust-remote-code if you trust it"
        )
    tokenizer = checkpoint.parent.parent / "tokenizer"
    if not tokenizer.is_dir():
        raise DiptychError(f"{tokenizer}: no tokenizer; a checkpoint is probed within its run folder")
    export(checkpoint, tokenizer, out)
    return out


def _of_checkpoint(checkpoint: Path) -> Origin:
    state = read_state(checkpoint)
    run = checkpoint.resolve().parent.parent
    settings = {key: value for key, value in state.identity.items() if key.startswith(("objective.", "packing."))}
    count, repeated = _predictors(settings)
    return Origin(f"{run.name}@{state.step}", count, repeated, str(run), state.step, state.label_tokens, settings)


def _of_export(folder: Path) -> Origin:
    """Reads the model card that the export wrote, and the run folder around it."""
    folder = folder.resolve()
    parent = folder.parent if (folder.parent / "run.json").is_file() else None
    name = parent.name if parent and folder.name == "export" else folder.name
    try:
        card = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        card = ""
    if "tags: [diptych" not in card:  # another model's card may hold similar lines
        return Origin(name)
    settings = {key: _value(text) for key, text in _SETTING.findall(card)}
    count, repeated = _predictors(settings)
    steps = _STEPS.search(card)
    step, tokens = (int(number.replace(",", "")) for number in steps.groups()) if steps else (None, None)
    return Origin(name, count, repeated, str(parent) if parent else None, step, tokens, settings)


def _predictors(settings: Mapping[str, Any]) -> tuple[int | None, bool]:
    count = settings.get("objective.predictors")
    if not isinstance(count, int):
        return None, False
    return count if settings.get("objective.lambda") else 0, bool(settings.get("objective.repeat_predictor"))


def _value(text: str) -> Any:
    try:
        return json.loads({"True": "true", "False": "false"}.get(text, text))
    except ValueError:
        return text

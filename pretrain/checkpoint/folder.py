"""The folder of a run's checkpoints. A process may be killed at any point and leaves it consistent.

    step_N          a whole checkpoint: renamed to this after all of its files were on disk
    step_N.tmp      being written or removed; ignored, and removed by the next save
    step_N.old      a whole checkpoint that a new one of the same step replaces; put back if step_N is missing

Only rank 0 of the run changes the folder.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.checkpoint.files import MANIFEST, sync_folder, write_manifest
from pretrain.config.sections import CheckpointConfig

_STEP = "step_" + "[0-9]" * 8


def checkpoint_name(step: int) -> str:
    """Folder name of a checkpoint."""
    return f"step_{step:08d}"


def found_steps(folder: Path) -> dict[int, Path]:
    """Folders named like a checkpoint, whole or broken, by step, oldest first."""
    return {int(path.name.removeprefix("step_")): path for path in sorted(folder.glob(_STEP))}


def recover(folder: Path) -> None:
    """Puts back a checkpoint whose replacement was killed in the middle of :func:`commit`."""
    for aside in sorted(folder.glob(f"{_STEP}.old")):
        if not (final := aside.with_suffix("")).exists():
            os.rename(aside, final)
            sync_folder(folder)


def start(scratch: Path) -> None:
    """Makes an empty folder ``step_N.tmp`` for a checkpoint, and removes what killed saves left behind."""
    folder = scratch.parent
    recover(folder)
    for left in (*folder.glob(f"{_STEP}.tmp"), *folder.glob(f"{_STEP}.old")):
        # A file that cannot be removed (on NFS one that is open somewhere) only blocks saves of the same step.
        shutil.rmtree(left, ignore_errors=True)
    scratch.mkdir(parents=True)


def commit(scratch: Path, state: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]) -> Path:
    """Turns a folder whose files are all on disk into a checkpoint; returns its path."""
    write_manifest(scratch, state, files)
    final, aside = scratch.with_suffix(""), scratch.with_suffix(".old")
    if final.exists():  # the same step of the same run, saved before a resumption from an older checkpoint
        os.rename(final, aside)
    os.rename(scratch, final)
    sync_folder(final.parent)
    if aside.exists():
        _remove(aside)
    return final


def prune(folder: Path, saved: int, config: CheckpointConfig, keep: int | None) -> None:
    """Removes old checkpoints.

    Args:
        folder: The folder of the checkpoints.
        saved: The step just committed. Later ones are left over from before a resumption and may be broken; they are
            left alone and not counted.
        config: How many are kept, and which.
        keep: One more step to keep.
    """
    steps = {step: path for step, path in found_steps(folder).items() if step <= saved}
    whole = [step for step, path in steps.items() if (path / MANIFEST).is_file()]
    for step in whole[: -config.keep_last]:
        if step != keep and not (config.keep_every and step % config.keep_every == 0):
            _remove(steps[step])


def _remove(path: Path) -> None:
    """Renames before removing, so that a half-removed checkpoint does not look whole."""
    scratch = path.with_suffix(".tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    os.rename(path, scratch)
    shutil.rmtree(scratch, ignore_errors=True)

"""The folder that holds a run's checkpoints, in an order of steps that a kill may cut anywhere.

    step_N          a whole checkpoint: it got this name by one rename, after all of its files were on the disk
    step_N.tmp      one that is being written or removed; it counts for nothing and goes with the next save
    step_N.old      a whole one that makes way for a new one of the same step; without step_N it is put back

One process at a time changes the folder: rank 0 of the run.
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
    """Folders that have the name of a checkpoint, whole or broken, by step; oldest first."""
    return {int(path.name.removeprefix("step_")): path for path in sorted(folder.glob(_STEP))}


def recover(folder: Path) -> None:
    """Puts back what a kill in the middle of :func:`commit` left without its name."""
    for aside in sorted(folder.glob(f"{_STEP}.old")):
        if not (final := aside.with_suffix("")).exists():
            os.rename(aside, final)
            sync_folder(folder)


def start(scratch: Path) -> None:
    """Makes an empty folder ``step_N.tmp`` to write a checkpoint to; what killed saves of this run left is removed."""
    folder = scratch.parent
    recover(folder)
    for left in (*folder.glob(f"{_STEP}.tmp"), *folder.glob(f"{_STEP}.old")):
        # What cannot be removed, as on NFS a file that somebody has open, keeps only its own step from being saved.
        shutil.rmtree(left, ignore_errors=True)
    scratch.mkdir(parents=True)


def commit(scratch: Path, state: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]) -> Path:
    """Makes a folder whose files are all on the disk a checkpoint; returns its place."""
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
        folder: Of the checkpoints.
        saved: The step just committed. Later ones are left over from before a resumption and may be broken: they are
            left alone, and must not displace what was saved.
        config: How many stay, and which.
        keep: One more step that stays.
    """
    steps = {step: path for step, path in found_steps(folder).items() if step <= saved}
    whole = [step for step, path in steps.items() if (path / MANIFEST).is_file()]
    for step in whole[: -config.keep_last]:
        if step != keep and not (config.keep_every and step % config.keep_every == 0):
            _remove(steps[step])


def _remove(path: Path) -> None:
    """Takes the name away first: a checkpoint that is half removed must not look whole."""
    scratch = path.with_suffix(".tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    os.rename(path, scratch)
    shutil.rmtree(scratch, ignore_errors=True)

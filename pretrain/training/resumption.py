"""Which checkpoint a run resumes from, by ``run.resume`` and the checkpoints in its folder.

A path in ``run.resume`` stays in the command when Slurm requeues the job. So a checkpoint stores the path that its run
was started from, and a later start with the same path resumes from the newest checkpoint instead.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.checkpoint.checkpoints import Checkpoints, RunState, read_state, refuse_other
from pretrain.checkpoint.folder import checkpoint_name, found_steps
from pretrain.config.sections import Config
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError


@dataclass(frozen=True)
class Resumption:
    """Where a run resumes.

    Attributes:
        path: The checkpoint, or None if the run starts from scratch.
        state: Its contents besides tensors.
        origin: The path in ``run.resume`` that the run was started from; its checkpoints store it.
        lines: Messages to show.
    """

    path: Path | None
    state: RunState | None
    origin: str | None
    lines: Sequence[str]


def choose_checkpoint(
    config: Config, checkpoints: Checkpoints, data_fingerprint: str, num_steps: int, ranks: Ranks
) -> Resumption:
    """Chooses the checkpoint, and refuses one that the run cannot resume from. Collective.

    If ``run.resume`` names a checkpoint of this run, later checkpoints and the export are moved to ``set-aside-N``.

    Raises:
        DiptychError: The named checkpoint is broken or belongs to another run, or this run has checkpoints that do not
            come from it.
    """
    newest, lines = checkpoints.newest()
    path, origin, elsewhere, rewinds = newest, None, False, False
    asked = config.run.resume
    if asked not in ("auto", "never"):
        named = Path(asked)
        is_ours = named.resolve().parent == checkpoints.folder.resolve()
        origin = named.name if is_ours else str(named.resolve())
        if newest is not None and read_state(newest).extra.get("origin") == origin:
            lines.append(
                f"run.resume {named}: {newest.name} was trained from it, and goes on; to start from it once more, "
                "choose another run.folder"
            )
        elif not ranks.on_main(named.exists):
            raise DiptychError(f"run.resume {named}: no such path; name a checkpoint, or run.resume=auto")
        elif newest is not None and not is_ours:
            raise DiptychError(
                f"run.resume {named}: {newest} of this run does not come from it; choose another run.folder to start "
                "from it, or run.resume=auto to go on here"
            )
        else:
            if problem := checkpoints.problem(named):
                raise DiptychError(f"run.resume {named}: {problem}")
            path, elsewhere, rewinds = named, not is_ours, is_ours
    if path is None:
        return Resumption(None, None, origin, lines)
    state = read_state(path)
    refuse_other(path, state, config, data_fingerprint, elsewhere=elsewhere)
    if state.step > num_steps:
        raise DiptychError(f"{path}: is at step {state.step}, this config ends at {num_steps}")
    if rewinds and (line := ranks.on_main(lambda: set_aside(checkpoints.folder, state.step))):
        lines.append(line)
    return Resumption(path, state, origin or state.extra.get("origin"), lines)


def set_aside(folder: Path, step: int) -> str | None:
    """Moves the checkpoints of later steps, and the export made from them, to ``set-aside-N`` in the run folder.

    Args:
        folder: The run's checkpoints.
        step: Step of the checkpoint that the run resumes from.

    Returns:
        A message, or None if there is nothing to move.
    """
    later = [path for number, path in found_steps(folder).items() if number > step]
    if not later:
        return None
    number = 1
    while (aside := folder.parent / f"set-aside-{number}").exists():
        number += 1
    aside.mkdir()
    export = folder.parent / "export"
    for path in (*([export] if export.is_dir() else []), *later):
        os.rename(path, aside / path.name)
    names = later[0].name if len(later) == 1 else f"{later[0].name} to {later[-1].name}"
    with_export = " and the export" if (aside / export.name).is_dir() else ""
    return f"goes back to {checkpoint_name(step)}: {names}{with_export} were moved to {aside}"

"""Which checkpoint a run goes on from, by ``run.resume`` and what its folder holds.

A path is asked for once and then stands in the command of every later start, as of a job that Slurm requeues. So a
checkpoint says which path its run came from: a later start with that path goes on with what was trained since.
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
    """Where a run goes on.

    Attributes:
        path: The checkpoint; None: the run begins.
        state: What it says.
        origin: The path that ``run.resume`` named when the run came from there, for its checkpoints to say.
        lines: To show.
    """

    path: Path | None
    state: RunState | None
    origin: str | None
    lines: Sequence[str]


def choose_checkpoint(
    config: Config, checkpoints: Checkpoints, data_fingerprint: str, num_steps: int, ranks: Ranks
) -> Resumption:
    """Finds the checkpoint and refuses one that the run cannot go on from. Collective.

    If ``run.resume`` names one of the run's own, later ones and the export are moved to a folder beside them.

    Raises:
        DiptychError: The named checkpoint is broken or of another run, or the run has others of its own.
    """
    newest, lines = checkpoints.newest()
    path, origin, elsewhere, back = newest, None, False, False
    asked = config.run.resume
    if asked not in ("auto", "never"):
        named = Path(asked)
        own = named.resolve().parent == checkpoints.folder.resolve()
        origin = named.name if own else str(named.resolve())
        if newest is not None and read_state(newest).extra.get("origin") == origin:
            lines.append(
                f"run.resume {named}: {newest.name} was trained from it, and goes on; to start from it once more, "
                "choose another run.folder"
            )
        elif not ranks.on_main(named.exists):
            raise DiptychError(f"run.resume {named}: no such path; name a checkpoint, or run.resume=auto")
        elif newest is not None and not own:
            raise DiptychError(
                f"run.resume {named}: {newest} of this run does not come from it; choose another run.folder to start "
                "from it, or run.resume=auto to go on here"
            )
        else:
            if problem := checkpoints.problem(named):
                raise DiptychError(f"run.resume {named}: {problem}")
            path, elsewhere, back = named, not own, own
    if path is None:
        return Resumption(None, None, origin, lines)
    state = read_state(path)
    refuse_other(path, state, config, data_fingerprint, elsewhere=elsewhere)
    if state.step > num_steps:
        raise DiptychError(f"{path}: is at step {state.step}, this config ends at {num_steps}")
    if back and (line := ranks.on_main(lambda: set_aside(checkpoints.folder, state.step))):
        lines.append(line)
    return Resumption(path, state, origin or state.extra.get("origin"), lines)


def set_aside(folder: Path, step: int) -> str | None:
    """Moves checkpoints of later steps, and the export that was made of them, out of a run's way.

    Args:
        folder: Of the run's checkpoints.
        step: Of the one that the run goes back to.

    Returns:
        A line that says so; None if there are none.
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

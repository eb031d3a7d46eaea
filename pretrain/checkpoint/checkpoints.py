"""Checkpoints: the training state in one folder, which is either complete or absent.

A checkpoint is written to ``step_N.tmp``; when every rank has written its files and their checksums are in
``manifest.json``, the folder is renamed to ``step_N``. It holds full tensors per parameter (``engine/state.py``), so
any number of ranks and any ZeRO stage can resume from it. No random state is stored: the data order and all random
numbers are functions of seed and step.

A save holds up training while the state is copied to host memory. Then one thread of each rank writes it, and all ranks
commit it together after a later step.
"""

import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from pretrain.checkpoint import folder as checkpoint_folder
from pretrain.checkpoint.files import (
    MANIFEST,
    checksum_problem,
    open_tensors,
    present_files,
    read_manifest,
    wait_to_see,
)
from pretrain.checkpoint.folder import checkpoint_name
from pretrain.checkpoint.save import Save, parts
from pretrain.config.loading import identity
from pretrain.config.sections import CheckpointConfig, Config
from pretrain.engine.state import restore_state
from pretrain.model.fixed_state import set_fixed_state
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError

_PLANNED = ("model.", "tokenizer.", "data.", "packing.", "run.seed", "train.rows_per_step")
"""Settings that a checkpoint of another run must share."""


@dataclass(frozen=True)
class RunState:
    """Contents of a checkpoint besides tensors.

    Attributes:
        step: Optimizer steps done.
        label_tokens: Label tokens trained on.
        tokens: Positions computed, without padding.
        optimizer_step: The optimizer's own counter.
        identity: The settings that identify the run (``config.loading.identity``).
        data_fingerprint: Fingerprint of the prepared corpus.
        model: The Hugging Face config.
        dtype: Type of the computation, e.g. "float32".
        extra: State of the loop, and entries of the model card.
        cursor: Shortcut to the rows of the next step (``data.schedule.Cursor``), if known.
    """

    step: int
    label_tokens: int
    tokens: int
    optimizer_step: int
    identity: Mapping[str, Any]
    data_fingerprint: str
    model: Mapping[str, Any]
    dtype: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    cursor: Mapping[str, int] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run folder.

    Attributes:
        worth_keeping: A step whose checkpoint is not pruned. A change takes effect with the next :meth:`begin`; a save
            in flight still protects the step that was set before.
        stall_seconds: Time for which the last finished save held up training.
        save_seconds: Time from the beginning of the last finished save until it was committed.
        write_seconds: Time until this rank had written its part of it.
    """

    def __init__(self, folder: Path, config: CheckpointConfig, ranks: Ranks) -> None:
        self.folder = folder
        self.config = config
        self.ranks = ranks
        self.worth_keeping: int | None = None
        self.stall_seconds = 0.0
        self.save_seconds = 0.0
        self.write_seconds = 0.0
        self._warned = False
        self._save: Save | None = None

    def path(self, step: int) -> Path:
        """Path of the checkpoint of a step, whether it exists or not."""
        return self.folder / checkpoint_name(step)

    @property
    def in_flight(self) -> bool:
        """True between :meth:`begin` and :meth:`complete`; the same on all ranks."""
        return self._save is not None

    @property
    def written(self) -> bool:
        """True if a save is in flight and this rank has written its files or failed to. Not collective."""
        return self._save is not None and self._save.written

    def save(self, engine: Any, state: RunState, canary: Mapping[str, Tensor]) -> Path:
        """Writes a checkpoint and prunes old ones, while training waits. Collective.

        A save of this step that is in flight is finished instead.

        Args:
            engine: The engine, between two steps.
            state: Everything but tensors.
            canary: Token ids and what the running engine gives for them (``canary.canary``).

        Raises:
            DiptychError: Some rank could not write; no checkpoint is left behind and the others are untouched.
        """
        if self._save is None or self._save.step != state.step:
            self.begin(engine, state, canary)
        self.complete()
        return self.path(state.step)

    def begin(self, engine: Any, state: RunState, canary: Mapping[str, Tensor]) -> None:
        """Copies the state to host memory and lets a thread write it. Collective.

        A save in flight is finished first, so that there is never more than one copy. If ``config.asynchronous`` is
        false the files are written here, in parts of ``checkpoint_save.PART_BYTES``, and no whole copy is made.

        Args:
            engine: The engine, between two steps.
            state: Everything but tensors.
            canary: As for :meth:`save`.

        Raises:
            DiptychError: There is no room to write to, or the save that was in flight failed.
        """
        self.complete()
        scratch = self.path(state.step).with_suffix(".tmp")
        save = Save(state.step, asdict(state), scratch, self.worth_keeping)
        try:
            self.ranks.agree(lambda: checkpoint_folder.start(scratch) if self.ranks.is_main else None)
            self.ranks.agree(lambda: wait_to_see(self.folder, {scratch.name: None}))
        except (DiptychError, OSError) as error:
            raise self._failed(save, error) from None
        files = parts(engine, canary, self.ranks.rank)
        if self.config.asynchronous:
            save.write_aside(list(files))
        else:
            save.write(files)
        self._save = save
        save.stall = time.perf_counter() - save.began

    def complete(self) -> Path | None:
        """Waits for the save in flight on all ranks, commits it and prunes old checkpoints. Collective.

        Returns:
            The checkpoint; None if no save was in flight.

        Raises:
            DiptychError: On all ranks, as for :meth:`save`.
        """
        save, self._save = self._save, None
        if save is None:
            return None
        joined = time.perf_counter()
        try:
            self.ranks.agree(save.check)
            files = {name: entry for part in self.ranks.gather(save.files) for name, entry in part.items()}
            self.ranks.agree(
                lambda: checkpoint_folder.commit(save.scratch, save.state, files) if self.ranks.is_main else None
            )
        except (DiptychError, OSError) as error:
            raise self._failed(save, error) from None
        self.save_seconds = time.perf_counter() - save.began
        self.write_seconds = save.write_seconds
        if self.ranks.is_main:
            with suppress(OSError):  # what stays is removed after the next one
                checkpoint_folder.prune(self.folder, save.step, self.config, save.keep)
        self.stall_seconds = save.stall + time.perf_counter() - joined
        return self.path(save.step)

    def metrics(self) -> dict[str, float]:
        """Times of the last finished save, in seconds."""
        return {"checkpoint/stall_seconds": self.stall_seconds, "checkpoint/save_seconds": self.save_seconds}

    def late(self, seconds: float) -> str | None:
        """A warning if ``seconds`` from the signal to the checkpoint are longer than the job may have."""
        notice = self.config.notice_seconds
        if seconds <= notice:
            return None
        return (
            f"warning: {seconds:.0f} s from the signal to the checkpoint, of {notice:.0f} s that there may be "
            "(checkpoint.notice_seconds): ask for the signal earlier, e.g. sbatch --signal=USR1@300"
        )

    def too_slow(self) -> str | None:
        """A warning, once, if writing a checkpoint takes longer than the time between signal and end of the job."""
        notice = self.config.notice_seconds
        if self.write_seconds <= notice or self._warned:
            return None
        self._warned = True
        return (
            f"warning: writing a checkpoint takes {self.write_seconds:.0f} s, longer than the {notice:.0f} s from a "
            "signal to the end (checkpoint.notice_seconds): ask for the signal earlier, e.g. sbatch --signal=USR1@300"
        )

    def _failed(self, save: Save, error: Exception) -> Exception:
        if self.ranks.is_main:
            shutil.rmtree(save.scratch, ignore_errors=True)
            with suppress(OSError):
                checkpoint_folder.recover(self.folder)
        kind = OSError if isinstance(error, OSError) else DiptychError
        return kind(f"checkpoint of step {save.step}: {error}; free space or check the disk")

    def check_room(self, num_parameters: int) -> None:
        """Refuses a disk without room for one checkpoint, before any work is done.

        Raises:
            DiptychError: Names the space that is there and the space that a checkpoint takes.
        """
        needed = 12 * num_parameters  # master weight and two moments, float32
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise DiptychError(
                f"run.folder {self.folder.parent}: {free / 2**30:.1f} GiB free, but one checkpoint takes "
                f"{needed / 2**30:.1f} GiB; free space or choose a folder on another disk"
            )

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest whole checkpoint, and a line about each broken one that was skipped. Collective.

        Raises:
            DiptychError: Another rank does not see what rank 0 sees.
        """

        def look() -> list[Path]:
            checkpoint_folder.recover(self.folder)
            return list(checkpoint_folder.found_steps(self.folder).values())

        skipped: list[str] = []
        # Rank 0's list: on a network file system another node may not see the newest folder yet.
        for path in reversed(self.ranks.on_main(look)):
            problem = self.problem(path)
            if problem is None:
                return path, skipped
            skipped.append(f"skipping checkpoint {path}: {problem}")
        return None, skipped

    def problem(self, path: Path) -> str | None:
        """What is wrong with a checkpoint by sizes and checksums, or None. Collective: the ranks share the files.

        Rank 0's view of the folder decides; other ranks wait until they see the same. All get the same answer.

        Raises:
            DiptychError: Another rank does not see what rank 0 sees.
        """

        def look() -> tuple[dict[str, dict[str, Any]], int]:
            return present_files(path), (path / MANIFEST).stat().st_size

        try:
            files, manifest_size = self.ranks.on_main(look)
        except DiptychError as error:
            return str(error)
        sizes = {MANIFEST: manifest_size} | {name: entry["size"] for name, entry in files.items()}
        self.ranks.agree(lambda: wait_to_see(path, sizes))
        problem: str | None = None
        for name, entry in list(files.items())[self.ranks.rank :: self.ranks.world_size]:
            problem = problem or checksum_problem(path / name, entry)
        problems = [text for text in self.ranks.gather(problem) if text is not None]
        return problems[0] if problems else None


def read_state(path: Path) -> RunState:
    """Reads the contents of a checkpoint besides tensors.

    Raises:
        DiptychError: The folder is no checkpoint, or was written by another version with other fields.
    """
    try:
        return RunState(**read_manifest(path)["state"])
    except TypeError as error:
        raise DiptychError(f"{path}: is a checkpoint of another version of Diptych ({error})") from None


def refuse_other(path: Path, state: RunState, config: Config, data_fingerprint: str, *, elsewhere: bool) -> None:
    """Refuses a checkpoint that a run cannot resume from.

    Args:
        path: The checkpoint.
        state: Its contents besides tensors.
        config: The run's settings.
        data_fingerprint: Fingerprint of the run's corpus.
        elsewhere: It lies outside the run folder. Then optimizer and objective may differ, but nothing that the packing
            plan depends on, because a step number would then mean other rows.

    Raises:
        DiptychError: It is of another model or other data; names every difference.
    """
    problems = planned_difference(state.identity, config) if elsewhere else difference(state.identity, identity(config))
    if state.data_fingerprint != data_fingerprint:
        problems.append(f"data fingerprint: {state.data_fingerprint[:12]} -> {data_fingerprint[:12]}")
    if problems:
        raise DiptychError("\n  ".join([f"{path}: is a checkpoint of another model or other data:", *problems]))


def planned_difference(stored: Mapping[str, Any], config: Config) -> list[str]:
    """Differences that forbid to start a run from another run's checkpoint, as ``key: stored -> asked``.

    These are differences in the model, in the data, and in what the packing plan depends on.
    """
    prefixes: tuple[str, ...] = _PLANNED
    if not config.packing.reserve_branches:
        prefixes += ("objective.predictors", "objective.dropout")
        if (stored.get("objective.lambda", 0) > 0) != (config.objective.lambda_ > 0):
            prefixes += ("objective.lambda",)
    return difference(stored, identity(config), prefixes)


def restore(path: Path, engine: Any, state: RunState) -> None:
    """Loads a checkpoint into the engine. Collective.

    Raises:
        DiptychError: The checkpoint lacks something that the engine needs.
    """
    with open_tensors(path, "state-") as where:
        kinds: dict[str, list[str]] = {}
        for key in where:
            kinds.setdefault(key.rpartition("/")[0], []).append(key)

        def read(name: str) -> dict[str, Tensor]:
            keys = kinds.get(name.removeprefix("lm."), [])
            return {key.rpartition("/")[2]: where[key].get_tensor(key) for key in keys}

        restore_state(engine, read, state.optimizer_step)
    with open_tensors(path, "buffers.") as where:

        def fixed(name: str) -> Tensor:
            if name not in where:
                raise DiptychError(f"{path}: holds no {name}; it is a checkpoint of an older version or another model")
            tensor: Tensor = where[name].get_tensor(name)
            return tensor

        set_fixed_state(engine.module.lm, fixed)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Float32 master weights and the fixed state (``fixed_state.py``) of a checkpoint by Hugging Face name."""
    weights = {}
    for kind in ("state-", "buffers."):
        with open_tensors(path, kind) as where:
            for key, file in where.items():
                name, _, part = key.partition("/")
                if part in ("weight", ""):
                    weights[name] = file.get_tensor(key)
    return weights


def read_canary(path: Path) -> dict[str, Tensor]:
    """The token ids, logits and loss that the running engine stored (``model/canary.py``)."""
    with open_tensors(path, "canary.") as where:
        return {key: file.get_tensor(key) for key, file in where.items()}


def difference(stored: Mapping[str, Any], asked: Mapping[str, Any], prefixes: tuple[str, ...] = ("",)) -> list[str]:
    """Settings under some prefixes in which two identities differ, as ``key: stored -> asked``."""
    keys = sorted(key for key in {*stored, *asked} if key.startswith(prefixes))
    return [f"{key}: {stored.get(key)!r} -> {asked.get(key)!r}" for key in keys if stored.get(key) != asked.get(key)]

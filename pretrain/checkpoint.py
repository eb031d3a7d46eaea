"""Checkpoints: the training state as one folder that is either whole or not there.

A checkpoint is written to ``step_N.tmp``; when every rank has written its files and their checksums are in
``manifest.json``, the folder is renamed to ``step_N``. It holds full tensors per parameter (``engine_state.py``), so
any number of ranks and any ZeRO stage can resume from it. Its only other state is integers: the data order and all
random numbers are functions of seed and step.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pretrain.config import CheckpointConfig
from pretrain.distributed import Ranks
from pretrain.engine_state import gather_state, restore_state
from pretrain.errors import DiptychError

FORMAT = 1
PART_BYTES = 2**30
"""State that a rank holds back before it writes a file."""


@dataclass(frozen=True)
class RunState:
    """What a checkpoint says besides tensors.

    Attributes:
        step: Optimizer steps done.
        label_tokens: Label tokens trained on.
        tokens: Positions computed, padding left out.
        optimizer_step: The optimizer's own counter.
        identity: The settings that make the run (``config_file.identity``).
        data_fingerprint: Of the prepared corpus.
        model: The Hugging Face config.
        dtype: Of the computation, e.g. "float32".
        extra: Facts for the model card.
        cursor: Shortcut to the rows of the next step (``schedule.Cursor``), if it is known.
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


def checkpoint_name(step: int) -> str:
    """Folder name of a checkpoint."""
    return f"step_{step:08d}"


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path, config: CheckpointConfig, ranks: Ranks) -> None:
        self.folder = folder
        self.config = config
        self.ranks = ranks
        self.worth_keeping: int | None = None  # a step whose checkpoint is not pruned

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.folder / checkpoint_name(step)

    def save(self, engine: Any, state: RunState, canary: Mapping[str, Tensor]) -> Path:
        """Writes a checkpoint and prunes old ones. Collective.

        Args:
            engine: The engine, between two steps.
            state: Everything but tensors.
            canary: Token ids and the logits that the running engine gives for them; the export is compared with it.

        Raises:
            DiptychError: Some rank could not write; no checkpoint is left behind and the others are untouched.
        """
        final = self.path(state.step)
        scratch = final.with_suffix(".tmp")

        def start() -> None:
            if self.ranks.is_main:
                for left in self.folder.glob("step_????????.tmp"):  # by an interrupted save of this run
                    shutil.rmtree(left)
                scratch.mkdir(parents=True)

        self.ranks.agree(start)
        try:
            written = self._write_parts(engine, scratch, canary)
            self.ranks.agree(lambda: self._commit(scratch, final, state, written) if self.ranks.is_main else None)
        except DiptychError as error:
            if self.ranks.is_main:
                shutil.rmtree(scratch, ignore_errors=True)
            raise DiptychError(f"checkpoint of step {state.step}: {error}; free space or check the disk") from None
        self.ranks.agree(lambda: self._prune(state.step) if self.ranks.is_main else None)
        return final

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

    def _write_parts(self, engine: Any, scratch: Path, canary: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
        """Writes this rank's files; returns size and checksum of every rank's files by name."""
        files: dict[str, dict[str, Any]] = {}
        pending: dict[str, Tensor] = {}
        problem: DiptychError | None = None

        def flush(name: str, tensors: Mapping[str, Tensor]) -> None:
            nonlocal problem
            if problem is not None or not tensors:
                return
            try:
                files[name] = _write_tensors(scratch / name, tensors)
            except DiptychError as error:
                problem = error  # raised below: the other ranks are still gathering with us

        size = 0
        for name, tensors in gather_state(engine):
            for kind, tensor in tensors.items():
                pending[f"{name.removeprefix('lm.')}/{kind}"] = tensor
                size += tensor.numel() * tensor.element_size()
            if size >= PART_BYTES:
                flush(f"state-{self.ranks.rank:05d}-{len(files):03d}.safetensors", pending)
                pending, size = {}, 0
        flush(f"state-{self.ranks.rank:05d}-{len(files):03d}.safetensors", pending)
        if self.ranks.is_main:
            buffers = dict(_persistent_buffers(engine.module.lm))
            flush("buffers.safetensors", buffers)
            flush("canary.safetensors", canary)

        def report() -> None:
            if problem is not None:
                raise problem

        self.ranks.agree(report)
        return {name: entry for part in self.ranks.gather(files) for name, entry in part.items()}

    def _commit(self, scratch: Path, final: Path, state: RunState, files: dict[str, dict[str, Any]]) -> None:
        manifest = {"format": FORMAT, "state": asdict(state), "files": files}
        path = scratch / "manifest.json"
        with path.open("w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(scratch)
        if final.exists():  # the same step of the same run, saved before a resumption from an older checkpoint
            shutil.rmtree(final)
        os.replace(scratch, final)
        _sync_folder(self.folder)

    def _prune(self, saved: int) -> None:
        # Later steps are left over from before a resumption and may be broken: they must not displace what was saved.
        steps = {int(path.name.removeprefix("step_")): path for path in self.folder.glob("step_????????")}
        whole = sorted(step for step, path in steps.items() if step <= saved and (path / "manifest.json").is_file())
        for step in whole[: -self.config.keep_last]:
            regular = self.config.keep_every and step % self.config.keep_every == 0
            if not regular and step != self.worth_keeping:
                shutil.rmtree(steps[step])

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest whole checkpoint, and a line about each broken one that was skipped. Collective."""
        skipped: list[str] = []
        # Rank 0's list: on a network file system another node may not see the newest folder yet.
        found = sorted(self.folder.glob("step_????????"), reverse=True)
        for path in self.ranks.gather(found)[0]:
            problem = self.problem(path)
            if problem is None:
                return path, skipped
            skipped.append(f"skipping checkpoint {path}: {problem}")
        return None, skipped

    def problem(self, path: Path) -> str | None:
        """What is wrong with a checkpoint, by sizes and checksums; None if whole. Collective: ranks share the reading.

        Every rank gets the same answer.
        """
        found: str | None = None
        try:
            files = _read_manifest(path)["files"]
            for name, entry in list(files.items())[self.ranks.rank :: self.ranks.world_size]:
                found = found or _file_problem(path / name, entry)
        except DiptychError as error:
            found = str(error)
        problems = [text for text in self.ranks.gather(found) if text is not None]
        return problems[0] if problems else None


def read_state(path: Path) -> RunState:
    """Reads what a checkpoint says besides tensors.

    Raises:
        DiptychError: The folder is no checkpoint.
    """
    return RunState(**_read_manifest(path)["state"])


def restore(path: Path, engine: Any, state: RunState) -> None:
    """Sets the engine to a checkpoint. Collective."""
    with ExitStack() as stack:
        where: dict[str, Any] = {}
        for file in sorted(path.glob("state-*.safetensors")):
            handle = stack.enter_context(safe_open(file, framework="pt"))
            where |= {key: handle for key in handle.keys()}  # noqa: SIM118

        def read(name: str) -> dict[str, Tensor]:
            prefix = name.removeprefix("lm.") + "/"
            return {key.removeprefix(prefix): where[key].get_tensor(key) for key in where if key.startswith(prefix)}

        restore_state(engine, read, state.optimizer_step)
    buffers = path / "buffers.safetensors"
    if buffers.is_file():
        with safe_open(buffers, framework="pt") as handle:
            for name, buffer in _persistent_buffers(engine.module.lm):
                buffer.copy_(handle.get_tensor(name))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Float32 master weights and persistent buffers of a checkpoint by Hugging Face name."""
    weights = {}
    for file in [*sorted(path.glob("state-*.safetensors")), path / "buffers.safetensors"]:
        if file.is_file():
            with safe_open(file, framework="pt") as handle:
                for key in handle.keys():  # noqa: SIM118
                    name, _, kind = key.partition("/")
                    if kind in ("weight", ""):
                        weights[name] = handle.get_tensor(key)
    return weights


def read_canary(path: Path) -> dict[str, Tensor]:
    """Token ids and logits of the running engine."""
    with safe_open(path / "canary.safetensors", framework="pt") as handle:
        return {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118


def difference(stored: Mapping[str, Any], asked: Mapping[str, Any], prefixes: tuple[str, ...] = ("",)) -> list[str]:
    """Settings under some prefixes in which two identities differ, as ``key: stored -> asked``."""
    keys = sorted(key for key in {*stored, *asked} if key.startswith(prefixes))
    return [f"{key}: {stored.get(key)!r} -> {asked.get(key)!r}" for key in keys if stored.get(key) != asked.get(key)]


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DiptychError(f"{path}: no whole checkpoint, its manifest.json cannot be read ({error})") from None
    if manifest.get("format") != FORMAT:
        raise DiptychError(f"{path}: checkpoint format {manifest.get('format')!r}, this version reads {FORMAT}")
    return manifest


def _file_problem(path: Path, entry: Mapping[str, Any]) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    if path.stat().st_size != entry["size"]:
        return f"{path.name} has {path.stat().st_size} bytes, not {entry['size']}"
    return None if _checksum(path) == entry["sha256"] else f"{path.name} does not match its checksum"


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return {"size": path.stat().st_size, "sha256": _checksum(path)}
    except (SafetensorError, OSError) as error:
        raise DiptychError(f"{path}: cannot be written ({error})") from None


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _persistent_buffers(lm: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """Buffers that belong to the model's state dict."""
    buffers = []
    for module_name, module in lm.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                buffers.append((f"{module_name}.{name}".lstrip("."), buffer))
    return buffers

"""The run folder: which run it belongs to, and the record of config, versions and commit."""

import importlib.metadata
import json
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from pretrain import __version__
from pretrain.checkpoint.checkpoints import difference, planned_difference
from pretrain.checkpoint.folder import found_steps
from pretrain.config.loading import dump_config, identity
from pretrain.config.sections import Config
from pretrain.runtime.atomic_write import write_text
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.locks import FROZEN, LOCK_FILE, lock_run

_PACKAGES = ("torch", "deepspeed", "transformers", "tokenizers", "sentencepiece", "datasets", "numpy", "pyarrow")

_BEFORE_A_RUN = (LOCK_FILE, FROZEN)


def check_run_folder(config: Config) -> None:
    """Refuses a run folder that this config must not write to.

    Raises:
        DiptychError: It holds files that are not a run, another run, or any run while ``run.resume`` is never.
    """
    folder = config.run.folder
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DiptychError(f"run.folder {folder}: is a file; choose another folder")
    record = folder / "run.json"
    if not record.is_file():
        if any(path.name not in _BEFORE_A_RUN for path in folder.iterdir()):
            raise DiptychError(f"run.folder {folder}: holds files that are no run; choose another or an empty folder")
        return
    if config.run.resume == "never":
        raise DiptychError(f"run.folder {folder}: holds a run already; choose another folder or set run.resume=auto")
    try:
        stored = json.loads(record.read_text(encoding="utf-8"))["identity"]
    except (ValueError, KeyError, OSError) as error:
        raise DiptychError(f"{record}: cannot be read ({error}); choose another run.folder") from None
    differences = difference(stored, identity(config))
    if not differences:
        return
    lines = [f"run.folder {folder}: holds another run; choose another folder. It differs in", *differences]
    checkpoints = list(found_steps(folder / "checkpoints").values())
    if checkpoints and not planned_difference(stored, config):
        lines += [f"a run in another folder may start from its last checkpoint: run.resume={checkpoints[-1]}"]
    raise DiptychError("\n  ".join(lines))


def claim_run_folder(config: Config) -> str | None:
    """Locks the run folder for this job. Called by rank 0, after the corpus is prepared.

    Returns:
        A message to show, or None.

    Raises:
        DiptychError: Another job holds the lock, or the folder belongs to another run.
    """
    note = lock_run(config.run.folder)
    check_run_folder(config)
    return note


def describe_run(config: Config, tokenizer: Path, step: int) -> None:
    """Stores config, versions, git commit and tokenizer; a resumption writes ``run.resumed-at-N.json`` and so on."""
    folder = config.run.folder
    folder.mkdir(parents=True, exist_ok=True)
    content = {"identity": identity(config), "versions": versions(), "git": git_commit()}
    suffix = f".resumed-at-{step}" if step and (folder / "run.json").is_file() else ""
    # run.json makes the folder this run's, so it is written first, and atomically; the rest can be written again.
    write_text(folder / f"run{suffix}.json", json.dumps(content, indent=1) + "\n")
    write_text(folder / f"config{suffix}.yaml", dump_config(config))
    shutil.copytree(tokenizer, folder / "tokenizer", dirs_exist_ok=True)
    (folder / "checkpoints").mkdir(exist_ok=True)


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    return {
        "diptych": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def git_commit() -> dict[str, Any]:
    """Commit of this source tree and whether it has local changes; empty outside git."""
    root = Path(__file__).parents[2]
    if (frozen := root / "git.json").is_file():  # a copy of the code, made when the job was submitted
        commit: dict[str, Any] = json.loads(frozen.read_text(encoding="utf-8"))
        return commit

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}

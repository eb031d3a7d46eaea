"""The copies of code and config in the run folder that a submitted job runs."""

import json
import shutil
from pathlib import Path

from pretrain.runtime.atomic_write import whole_folder
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.locks import FROZEN
from pretrain.training.run_folder import git_commit

SOURCE = Path(__file__).resolve().parents[1]
PACKAGES = ("pretrain", "finetune", "probes", "launch")


def freeze(folder: Path, config: str, *, again: bool = False) -> bool:
    """Copies code and config into ``folder/frozen``, so that later edits do not change the job.

    Args:
        folder: Run folder.
        config: The config as YAML.
        again: Replace what was frozen for an earlier submission.

    Returns:
        False if this config was frozen there before; it stays with the code of that time.

    Raises:
        DiptychError: Another config is frozen there.
    """
    frozen = folder / FROZEN
    if frozen.exists() and not again:
        if (frozen / "config.yaml").read_text(encoding="utf-8") == config:
            return False
        raise DiptychError(
            f"{frozen}: was submitted with another config; choose another folder, or replace code and config by those "
            "of now with --refreeze"
        )
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    with whole_folder(frozen) as scratch:
        for package in PACKAGES:
            shutil.copytree(SOURCE / package, scratch / "code" / package, ignore=ignore)
        (scratch / "code" / "git.json").write_text(json.dumps(git_commit()) + "\n", encoding="utf-8")
        (scratch / "config.yaml").write_text(config, encoding="utf-8")
        shutil.rmtree(frozen, ignore_errors=True)
    return True

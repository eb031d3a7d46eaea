"""The task that a model was fine-tuned for, stored beside its weights, so that evaluation prompts it alike."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from finetune.prompts import Style
from pretrain.runtime.errors import DiptychError

RECIPE_FILE = "finetune.json"


@dataclass(frozen=True)
class Recipe:
    """How a model was asked while it was trained.

    Attributes:
        task: Name of the task.
        settings: The task's settings that were not the default.
        style: Of the prompts.
    """

    task: str
    settings: dict[str, Any]
    style: Style

    def text(self) -> str:
        """Content of the file in a model folder."""
        return json.dumps(asdict(self), indent=1) + "\n"


def read_recipe(folder: Path) -> Recipe | None:
    """The recipe of a model folder, None if it has none.

    Raises:
        DiptychError: It is damaged.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        return None
    try:
        recipe = Recipe(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DiptychError(f"{path}: cannot be read ({error}); remove it and name --task and --style") from None
    sound = isinstance(recipe.task, str) and isinstance(recipe.settings, dict) and recipe.style in get_args(Style)
    if not sound:
        raise DiptychError(f"{path}: is damaged; remove it and name --task and --style")
    return recipe

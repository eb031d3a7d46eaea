"""What only the libraries can tell of a config: transformers of the model, DeepSpeed of its own keys."""

from pathlib import Path

from pretrain.config.checks import refuse
from pretrain.config.sections import Config
from pretrain.engine.config import extra_problems
from pretrain.model.build import model_problems


def check_with_libraries(config: Config, path: Path | None = None) -> None:
    """Refuses a config whose model or whose DeepSpeed keys do not exist. Imports torch and DeepSpeed.

    Args:
        config: Checked by itself (:func:`~pretrain.config.loading.load_config`).
        path: Where it was read from.

    Raises:
        DiptychError: Lists every problem.
    """
    refuse([*model_problems(config.model), *extra_problems(config.deepspeed.extra)], path)

"""A trial of the model in small, before any work: what it cannot do is found in a second, not after preparation."""

from pretrain.config.model import ModelConfig
from pretrain.model.balance_loss import balance_weight
from pretrain.model.build import hf_config
from pretrain.model.initialization import has_own_code
from pretrain.model.suitable_models import try_small
from pretrain.runtime.errors import DiptychError


def try_model(config: ModelConfig) -> None:
    """Refuses a section ``model`` whose model cannot be trained here, as far as a small one of its kind shows it.

    A model that is code of its own is tried with its weights instead, when they are loaded.

    Raises:
        DiptychError: It cannot be trained here.
    """
    found = hf_config(config, vocab_size=1, bos=None, eos=0, pad=None, positions=1)
    if not has_own_code(found):
        try_small(found, loaded=config.path is not None)
    elif balance_weight(found):
        raise DiptychError(
            f"model.path: {config.path}: output_router_logits asks for a load-balancing loss, which training does not"
            " know of models that are code of their own. Set it to false in the model's config.json"
        )

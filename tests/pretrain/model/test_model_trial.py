"""Models that cannot be trained here are refused before any work, each in one line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, MixtralForCausalLM

from pretrain.config.loading import load_config
from pretrain.config.model import ModelConfig
from pretrain.config.sections import Config
from pretrain.model import suitable_models
from pretrain.model.sizes import head_widths, small_config
from pretrain.model.suitable_models import try_small
from pretrain.model.trial import try_model
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError
from pretrain.tools.dry_run import dry_run
from pretrain.training.trainer import pretrain
from tests.support.tiny_run import tiny_run

FALCON = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "alibi": ("falcon", FALCON | {"alibi": True}, "where a row holds several texts|texts packed into one row"),
    "layerdrop": ("biogpt", {"layerdrop": 0.1}, r"model\.fields\.layerdrop: 0\.1 leaves out layers at random"),
    "no balance loss": ("deepseek_v3", {"output_router_logits": True}, "load-balancing loss, which this type has not"),
    "no first values": ("apertus", {"hidden_size": 64}, "cannot be initialised from scratch"),
}
PASSING: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {},
    "falcon": {"alibi": False},
    "gemma2": {},
    "gemma3_text": {},
    "gemma4_text": {},
    "deepseek_v3": {},
    "glm4_moe": {},
    "gpt_oss": {"output_router_logits": True},
    "mixtral": {"output_router_logits": True, "router_aux_loss_coef": 1.0},
    "qwen3_moe": {"output_router_logits": True, "router_aux_loss_coef": 1.0},
    "jetmoe": {"output_router_logits": True, "aux_loss_coef": 1.0},
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsuitable_models_are_refused(name: str) -> None:
    type_, fields, message = REFUSED[name]
    with pytest.raises(DiptychError, match=message) as error:
        try_model(ModelConfig(type=type_, fields=fields))
    assert ("\n" not in str(error.value) and type_ in str(error.value)) or name == "layerdrop"


@pytest.mark.parametrize("type_", PASSING)
def test_suitable_models_of_any_size_pass(type_: str) -> None:
    """The type's own sizes, of which some have billions of parameters."""
    hf_config = CONFIG_MAPPING[type_](**PASSING[type_])
    before = hf_config.to_dict()
    try_small(hf_config)
    assert hf_config.to_dict() == before
    small = small_config(hf_config, vocab_size=128, positions=32)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(small).parameters())
    assert count < 1_000_000


@pytest.mark.parametrize(
    ("heads", "groups", "width"), [(1, 1, 24), (2, 2, 16), (3, 3, 40), (3, 1, 32), (6, 2, 16), (5, 5, 8)]
)
def test_any_number_of_heads(heads: int, groups: int, width: int) -> None:
    sizes = {"hidden_size": heads * width, "num_attention_heads": heads, "num_key_value_heads": groups}
    for type_ in ("llama", "mixtral"):
        hf_config = CONFIG_MAPPING[type_](**sizes)
        try_small(hf_config)
        small = small_config(hf_config, vocab_size=128, positions=32)  # it can be built, else nothing is tried
        with torch.device("meta"):
            assert AutoModelForCausalLM.from_config(small).num_parameters() < 1_000_000


def test_layers_that_differ_stay_different() -> None:
    """Gemma 4's full-attention layers have wider heads; reading one width of the whole config is an error there."""
    config = CONFIG_MAPPING["gemma4_text"]()
    assert {*head_widths(config)} == {256, 512}
    assert {*head_widths(small_config(config, vocab_size=128, positions=32))} == {16, 32}


def test_a_term_of_the_loss_that_training_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    original = MixtralForCausalLM.forward

    def with_z_loss(self: Any, *args: Any, labels: Any = None, **kwargs: Any) -> Any:
        output = original(self, *args, labels=labels, **kwargs)
        if labels is not None:
            output.loss = output.loss + 0.01 * output.logits.logsumexp(-1).square().mean()
        return output

    monkeypatch.setattr(MixtralForCausalLM, "forward", with_z_loss)
    with pytest.raises(DiptychError, match="its own loss of a text has a term that training does not know"):
        try_small(CONFIG_MAPPING["mixtral"]())


def test_only_what_passes_is_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DiptychError, match=r"made of several models .*; choose 'gemma4_text'$"):
        try_model(ModelConfig(type="gemma4", fields={}))

    def fails(*args: Any, **kwargs: Any) -> None:
        raise DiptychError("as if")

    monkeypatch.setattr(suitable_models, "try_small", fails)
    with pytest.raises(DiptychError, match=r"made of several models .*; choose a text model$"):
        try_model(ModelConfig(type="gemma4", fields={}))


def test_before_any_work(tmp_path: Path) -> None:
    path = tiny_run(tmp_path, model={"type": "falcon", "fields": FALCON | {"alibi": True}})
    config = load_config(path, [], Config)
    for start in (pretrain, dry_run):
        with pytest.raises(DiptychError, match=r"model\.type: 'falcon' cannot be trained here"):
            start(config, Ranks(0, 1, torch.device("cpu")))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tiny.yaml"]


def test_a_base_needs_no_first_values(tmp_path: Path) -> None:
    fields = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    with pytest.raises(DiptychError, match="cannot be initialised from scratch"):
        try_model(ModelConfig(type="apertus", fields=fields))
    config = CONFIG_MAPPING["apertus"](**fields, num_key_value_heads=4, vocab_size=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    try_model(ModelConfig(path=str(tmp_path)))

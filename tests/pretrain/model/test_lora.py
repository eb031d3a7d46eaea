"""LoRA: what it trains, that it starts as the model was, and that the merged model computes the same."""

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from pretrain.config.model import LoraConfig
from pretrain.model.build import count_parameters, num_parameters
from pretrain.model.lora import add_lora, merged_weights
from pretrain.runtime.errors import DiptychError

IDS = (1, 2, 37)
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**SIZES, "tie_word_embeddings": False},
    "qwen2": {**SIZES, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "gemma2": {**SIZES, "num_key_value_heads": 1, "head_dim": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 32},
}


def build(family: str) -> Any:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**FAMILIES[family])
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def logits(lm: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = lm(torch.tensor([[1, 5, 37, 9, 2, 11]])).logits
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_merged_model_computes_the_same(family: str) -> None:
    lm, config = build(family), LoraConfig(rank=3, alpha=8)
    before = logits(lm)
    add_lora(lm, config, ids=IDS, seed=5)
    assert torch.equal(logits(lm), before)
    generator = torch.Generator().manual_seed(1)
    trained = {name: parameter for name, parameter in lm.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name or ".rows.difference." in name for name in trained)
    for parameter in trained.values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        if len(parameter) == 1 + len(IDS):
            parameter.data[0] = 0  # padding: tokens whose rows are not trained
    after = logits(lm)
    assert not torch.allclose(after, before, atol=1e-2)

    values = {name: parameter.detach().clone() for name, parameter in trained.items()}
    whole, fresh = merged_weights(build(family), config, values, ids=IDS), build(family)
    missing, unexpected = fresh.load_state_dict(whole, strict=False)
    assert not missing and not unexpected
    torch.testing.assert_close(logits(fresh), after, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_updates_and_the_special_rows_get_gradients(family: str) -> None:
    lm = build(family)
    add_lora(lm, LoraConfig(rank=2), ids=IDS, seed=0)
    lm(ids := torch.tensor([[1, 37, 5]]), labels=ids).loss.backward()
    for name, parameter in lm.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    rows = lm.get_input_embeddings().rows.difference.weight.grad
    assert rows[1].any() and rows[3].any() and not rows[0].any()


def test_the_count_needs_no_model() -> None:
    lm, config = build("llama"), LoraConfig(rank=4, targets=("q_proj", "v_proj"))
    counts = count_parameters(lm.config, config, IDS)
    add_lora(lm, config, ids=IDS, seed=0)
    assert counts.trained == num_parameters(lm, trained=True) == 2 * 2 * (4 * 32 + 32 * 4) + 2 * 4 * 32
    assert counts.total == num_parameters(build("llama"))
    assert count_parameters(lm.config).trained == counts.total


def test_first_values_depend_on_the_seed_alone() -> None:
    values = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        lm = build("llama")
        torch.manual_seed(noise)
        add_lora(lm, LoraConfig(rank=2), ids=IDS, seed=seed)
        values.append(torch.cat([p.flatten() for name, p in lm.named_parameters() if "lora_A" in name]))
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])


def test_wrong_targets_and_foreign_weights_are_refused() -> None:
    with pytest.raises(DiptychError, match=r"model\.lora\.targets: \('nowhere',\)"):
        add_lora(build("llama"), LoraConfig(rank=2, targets=("nowhere",)), ids=IDS, seed=0)
    with pytest.raises(DiptychError, match=r"model\.lora\.targets: 'v_prj' is no linear layer of the model"):
        add_lora(build("llama"), LoraConfig(rank=2, targets=("q_proj", "v_prj")), ids=IDS, seed=0)
    for name, family in (("embed_tokens", "llama"), ("lm_head", "llama")):
        with pytest.raises(DiptychError, match=f"model.lora.targets: '{name}' is the embedding or the head"):
            add_lora(build(family), LoraConfig(rank=2, targets=("q_proj", name)), ids=IDS, seed=0)
    with pytest.raises(ValueError, match="targets without a rank"):
        LoraConfig(targets=("q_proj",))
    with pytest.raises(DiptychError, match=r"checkpoint and model\.lora do not match"):
        merged_weights(build("llama"), LoraConfig(rank=2), {"model.layers.9.x": torch.zeros(1)}, ids=IDS)

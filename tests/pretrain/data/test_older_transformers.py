"""What is exported says the same to transformers 4, as far as that can be seen without it.

Opened with transformers 4.57.6 by hand, these models gave the logits that they gave here, and the tokenizers the ids.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pretrain.config.model import TokenizerConfig
from pretrain.data.older_transformers import add_older_model_names, add_older_tokenizer_names
from pretrain.preparation.tokenizer_training import train

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_theta": 5e5,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_theta": 123.0, "rope_type": "linear", "factor": 4.0}
HALF = {"rope_theta": 123.0, "rope_type": "default", "partial_rotary_factor": 0.5}


@pytest.mark.parametrize(
    ("model_type", "rope", "older"),
    [
        ("llama", {"rope_theta": 5e5, "rope_type": "default"}, {"rope_theta": 5e5}),
        ("llama", LLAMA3, {"rope_theta": 5e5, "rope_scaling": LLAMA3}),
        ("mistral", LINEAR, {"rope_theta": 123.0, "rope_scaling": LINEAR}),
        ("stablelm", HALF, {"rope_theta": 123.0, "partial_rotary_factor": 0.5}),
        ("gpt_neox", HALF, {"rotary_emb_base": 123.0, "rotary_pct": 0.5}),
    ],
)
def test_rotary_parameters_are_there_under_both_names(
    tmp_path: Path, model_type: str, rope: dict[str, Any], older: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SIZES, rope_parameters=dict(rope))
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path)
    before = AutoConfig.from_pretrained(tmp_path).to_dict()
    assert add_older_model_names(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert {name: written[name] for name in older} == older
    after = AutoConfig.from_pretrained(tmp_path)
    assert after.to_dict()["rope_parameters"] == before["rope_parameters"] == rope
    ids = torch.arange(50)[None]
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        assert torch.equal(again(ids, use_cache=False).logits, model(ids, use_cache=False).logits)


def test_what_has_no_older_names_is_said(tmp_path: Path) -> None:
    AutoConfig.for_model("gemma3_text", **SIZES).save_pretrained(tmp_path)  # other frequencies by type of layer
    assert not add_older_model_names(tmp_path)
    AutoConfig.for_model("gpt2").save_pretrained(tmp_path)  # no rotary embeddings
    before = (tmp_path / "config.json").read_bytes()
    assert add_older_model_names(tmp_path) and (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_a_saved_tokenizer_names_what_both_know(tmp_path: Path, algorithm: Any) -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("aeinrst", k=draw.randint(2, 8))) for _ in range(200)]
    texts = [" ".join(draw.choices([*words, "naïve", "12"], k=9)) for _ in range(300)]
    trained = train(texts, TokenizerConfig(algorithm=algorithm, vocab_size=320))
    trained.save(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "extra_special_tokens" not in settings
    assert settings["additional_special_tokens"][0] == "[PRED_1]"
    opened, text = AutoTokenizer.from_pretrained(tmp_path), "naïve  dogs </s> [PRED_1] 12"
    assert opened(text)["input_ids"] == trained.hf(text)["input_ids"]
    assert opened.all_special_tokens == trained.hf.all_special_tokens
    before = settings
    add_older_tokenizer_names(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == before

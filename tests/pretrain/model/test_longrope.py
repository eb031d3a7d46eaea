"""Rotary embeddings that change with the longest text of a batch are used only where they do not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config

from finetune.generate import generate
from pretrain.config.model import ModelConfig, TokenizerConfig
from pretrain.model.build import hf_config
from pretrain.model.sizes import context_length, rope_limit
from pretrain.preparation.tokenizer_training import train
from pretrain.runtime.errors import DiptychError
from probes.encoding.encode import encode
from probes.encoding.probed_model import open_model

ORIGINAL, CONTEXT = 32, 256
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 4.0, 9.0, 16.0],
    "original_max_position_embeddings": ORIGINAL,
}
FIELDS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "original_max_position_embeddings": ORIGINAL,
    "rope_parameters": LONGROPE,
    "initializer_range": 0.2,
}
SPECIAL = {"vocab_size": 320, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@pytest.fixture(scope="module")
def lm() -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(Phi3Config(**FIELDS, **SPECIAL)).eval()


def states(lm: Any, rows: list[list[int]]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = lm.base_model(torch.tensor(rows), use_cache=False).last_hidden_state
    return found


def test_a_longer_text_would_change_the_others(lm: Any) -> None:
    """Why the limit is there; and up to it nothing changes."""
    text = list(range(3, 3 + ORIGINAL))
    alone = states(lm, [text])
    longer = states(lm, [[*text, 5], [*reversed(text), 5]])[:1, :ORIGINAL]
    assert float((longer - alone).norm() / alone.norm()) > 0.05
    assert torch.allclose(states(lm, [text, text[::-1]])[:1], alone, atol=1e-5)


def test_the_limit_is_the_original_context(lm: Any) -> None:
    assert rope_limit(lm.config) == context_length(lm.config) == ORIGINAL
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    plain = LlamaConfig(max_position_embeddings=CONTEXT, rope_parameters=dynamic)
    assert rope_limit(plain) is None and context_length(plain) == CONTEXT  # unchanged up to there
    nested = Phi3Config(**FIELDS)
    nested.rope_parameters = {"full_attention": LONGROPE | {"original_max_position_embeddings": 20}}
    assert context_length(nested) == 20


def test_training_refuses_longer_examples(tmp_path: Path, lm: Any) -> None:
    message = r"has longrope embeddings, which change for a whole batch .*\(32\), and the longest example needs 33 pos"
    given = ModelConfig(type="phi3", fields=FIELDS)
    lm.save_pretrained(tmp_path)
    for config in (given, ModelConfig(path=str(tmp_path))):
        hf_config(config, vocab_size=320, bos=1, eos=2, pad=0, positions=ORIGINAL)
        with pytest.raises(DiptychError, match=message):
            hf_config(config, vocab_size=320, bos=1, eos=2, pad=0, positions=ORIGINAL + 1)


def test_answers_do_not_depend_on_the_batch(lm: Any) -> None:
    prompts = [list(range(3, 3 + length)) for length in (26, 9, 4, 17)]
    given: dict[str, Any] = {"stop": [2], "pad": 0, "max_new_tokens": ORIGINAL - 26}
    answers = [generate(lm, prompts, batch_size=size, **given) for size in (1, 2, 4)]
    assert answers[0] == answers[1] == answers[2]
    with pytest.raises(DiptychError, match=r"prompt 0: 26 tokens of prompt and 7 new ones are more than .* of 32"):
        generate(lm, prompts, batch_size=4, **given | {"max_new_tokens": 7})


def test_probes_read_what_does_not_depend_on_the_batch(lm: Any, tmp_path: Path) -> None:
    lm.save_pretrained(tmp_path)
    train([f"number {number} is here" for number in range(60)], TokenizerConfig(vocab_size=320)).hf.save_pretrained(
        tmp_path
    )
    model = open_model(tmp_path)
    assert model.context == ORIGINAL
    assert any("texts may take 32 positions: beyond, longrope" in note for note in model.notes)
    texts = ["number 7", "number 1 is here " * 40]
    together = encode(model, texts, progress=False)
    assert together.truncated == 1
    alone = encode(model, texts[:1], progress=False)
    assert torch.allclose(torch.tensor(together.get(2, "mean")[:1]), torch.tensor(alone.get(2, "mean")), atol=1e-5)

"""What a state dict holds besides trained parameters is loaded, saved, restored, merged and exported."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from pretrain.commands.export import main as export_main
from pretrain.config.model import ModelConfig, TokenizerConfig
from pretrain.model.build import build_model, hf_config
from pretrain.model.canary import check_base
from pretrain.model.existing_weights import load_existing
from pretrain.model.fixed_state import fixed_state, gather_fixed_state, set_fixed_state
from pretrain.preparation.tokenizer_training import train
from pretrain.runtime.errors import DiptychError
from tests.support.ranks import run_ranks

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}
ROUTED = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
GROUPED = ROUTED | {"n_group": 1, "topk_group": 1}
GLM = SIZES | GROUPED | {"n_routed_experts": 4, "first_k_dense_replace": 1}
# Persistent buffers, or parameters that the type itself freezes (afmoe, laguna).
TYPES: dict[str, tuple[str, dict[str, Any]]] = {
    "glm4_moe": ("e_score_correction_bias", GLM),
    "solar_open": ("e_score_correction_bias", GLM),
    "exaone_moe": ("e_score_correction_bias", SIZES | GROUPED | {"num_experts": 4, "sliding_window": 512}),
    "minimax_m2": ("e_score_correction_bias", SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "afmoe": ("expert_bias", SIZES | GROUPED | {"num_experts": 4, "num_dense_layers": 1, "sliding_window": 512}),
    "apertus": ("beta", {key: value for key, value in SIZES.items() if key != "head_dim"}),
    "gemma4_text": ("layer_scalar", SIZES | {"hidden_size_per_layer_input": 8, "sliding_window": 512}),
}
CPU = torch.device("cpu")


def make_base(name: str, folder: Path, **tokens: Any) -> Any:
    """Saves a random model of a type whose fixed state is random as well."""
    torch.manual_seed(0)
    fields = TYPES[name][1]
    more = {"vocab_size_per_layer_input": tokens["vocab_size"]} if name == "gemma4_text" else {}
    lm = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**fields, **more, **tokens)).eval()
    with torch.no_grad():
        for value in fixed_state(lm).values():
            value += 0.5 * torch.randn(value.shape)
    lm.save_pretrained(folder)
    return lm


def opened(name: str, folder: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    config = ModelConfig(path=str(folder))
    found = hf_config(config, vocab_size=64, bos=1, eos=2, pad=0, positions=64)
    lm = build_model(
        found, seed=0, zero3_config=None, dtype=torch.float32, attention="sdpa", loaded=config.path is not None
    )
    return lm.eval(), load_existing(lm, str(folder))


def engine_of(lm: Any) -> Any:
    return SimpleNamespace(module=SimpleNamespace(lm=lm), eval=lm.eval, train=lm.eval)


def logits(lm: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = lm(torch.arange(3, 40)[None], use_cache=False).logits
    return found


@pytest.mark.parametrize("name", TYPES)
def test_a_base_is_opened_as_transformers_opens_it(name: str, tmp_path: Path) -> None:
    base = make_base(name, tmp_path / name, vocab_size=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    lm, canary = opened(name, tmp_path / name)
    wanted, found = fixed_state(base), fixed_state(lm)
    assert wanted.keys() == found.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)
    leaf = TYPES[name][0]
    assert any(key.endswith(f".{leaf}") for key in found)
    assert torch.equal(logits(lm), logits(base))
    check_base(engine_of(lm), canary, "float32", CPU)

    kept = gather_fixed_state(lm)
    with torch.no_grad():
        for key, value in fixed_state(lm).items():
            if key.endswith(f".{leaf}"):
                value.copy_(torch.zeros_like(value))
    with pytest.raises(DiptychError, match=r"model\.path: the model gives other logits here than transformers"):
        check_base(engine_of(lm), canary, "float32", CPU)
    set_fixed_state(lm, kept.__getitem__)
    check_base(engine_of(lm), canary, "float32", CPU)


@pytest.mark.parametrize("name", TYPES)
def test_buffers_have_the_types_of_transformers_in_bfloat16(name: str, tmp_path: Path) -> None:
    """Scales are bfloat16; biases of routers and frequencies stay in float32."""
    base = make_base(name, tmp_path / name, vocab_size=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.bfloat16)
    ours = build_model(base.config, seed=0, zero3_config=None, dtype=torch.bfloat16, attention="sdpa", loaded=True)
    found, wanted = (
        {key: buffer.dtype for key, buffer in lm.named_buffers() if buffer.is_floating_point()} for lm in (ours, theirs)
    )
    assert found == wanted


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bases with random biases and runs from them, on two ranks under ZeRO-3 and on one under ZeRO-1."""
    root = tmp_path_factory.mktemp("fixed")
    torch.set_num_threads(1)
    tokenizer = train([f"number {number} is here" for number in range(60)], TokenizerConfig(vocab_size=320))
    special = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
    for name in ("glm4_moe", "afmoe"):
        make_base(name, root / name, vocab_size=len(tokenizer.hf), **special)
        tokenizer.hf.save_pretrained(root / name)
    tree = {
        "run": {"folder": "set by the worker"},
        "data": {
            "folder": str(root / "data"),
            "sources": [{"type": "reviews", "count": 200}],
            "max_view_tokens": 100,
        },
        "packing": {"row_length": 512},
        "train": {"steps": 1, "rows_per_step": 2, "micro_batch_rows": 1},
        "optimizer": {"lr": 1e-12, "warmup_steps": 0},
        "evaluation": {"max_records": 4, "prompts": 0},
        "logging": {"tensorboard": False},
    }
    (root / "run.yaml").write_text(yaml.safe_dump(tree))
    worker = Path(__file__).parents[2] / "workers" / "fixed_state.py"
    run_ranks(worker, 2, root, "3", "glm4_moe", "afmoe", timeout=300)
    run_ranks(worker, 1, root, "1", "glm4_moe+lora", timeout=300)
    refused = run_ranks(worker, 2, root, "3", "afmoe+lora", timeout=300, check=False)
    (root / "refused.txt").write_text(refused[0].output)
    return root


@pytest.mark.ranks
@pytest.mark.parametrize("name", ["glm4_moe", "afmoe", "glm4_moe+lora"])
def test_a_run_keeps_what_it_does_not_train(runs: Path, name: str, tmp_path: Path) -> None:
    """One step at a rate of 1e-12: the export computes what the base computes, and so does the resumed run's."""
    run, base = runs / "runs" / name, AutoModelForCausalLM.from_pretrained(runs / name.partition("+")[0])
    expected = logits(base)
    assert export_main([str(run), str(tmp_path / "out")]) == 0
    for folder in (run / "first", run / "export", tmp_path / "out"):
        lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        found = logits(lm)[..., : expected.shape[-1]]
        assert float((found - expected).norm() / expected.norm()) < 1e-6, folder
        kept, wanted = fixed_state(lm), fixed_state(base)
        assert kept.keys() == wanted.keys() and all(torch.equal(kept[key], wanted[key]) for key in wanted)


@pytest.mark.ranks
def test_experts_take_no_lora_under_zero3(runs: Path) -> None:
    assert "error: model.lora: updates of a mixture's experts and routers" in (runs / "refused.txt").read_text()

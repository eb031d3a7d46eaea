"""The model section: config errors, first values and their independence of ranks and ZeRO stages.

Run as a program, this file is one rank of the comparison (see ``_rank_main``).
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, LlamaPreTrainedModel

from pretrain.config.model import ModelConfig
from pretrain.model import initialization
from pretrain.model.build import (
    build_model,
    choose_attention,
    count_parameters,
    hf_config,
    num_parameters,
    training_flops,
)
from pretrain.model.network import cap_logits
from pretrain.model.suitable_models import check_plain_head
from pretrain.runtime.errors import DiptychError
from tests.support.ranks import run_ranks

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "tie_word_embeddings": False,
}
GQA = {**SIZES, "num_key_value_heads": 2}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", GQA),
    "llama tied": ("llama", {**GQA, "tie_word_embeddings": True}),
    "gpt2": ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4}),
    "qwen2": ("qwen2", GQA),
    "mistral": ("mistral", GQA),
    "gpt_neox": ("gpt_neox", SIZES),
    "olmo2": ("olmo2", GQA),
    "mixtral": ("mixtral", {**GQA, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt2 wide steps": ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.1}),
}
TOKENS = {"vocab_size": 512, "bos": 1, "eos": 2, "pad": 0}


def config_of(name: str = "llama", **changes: Any) -> Any:
    type_, fields = MODELS[name]
    return hf_config(ModelConfig(type=type_, fields={**fields, **changes}), **TOKENS, positions=128)


def build(name: str = "llama", *, seed: int = 7, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    return build_model(config_of(name, **changes), seed=seed, zero3_config=None, dtype=dtype, attention="sdpa")


def values(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def refused(type_: str = "llama", positions: int = 128, **fields: Any) -> str:
    with pytest.raises(DiptychError) as error:
        hf_config(ModelConfig(type=type_, fields=fields), **TOKENS, positions=positions)
    assert "\n" not in str(error.value)
    return str(error.value)


# ----------------------------------------------------------------------------------------------------- first values


@pytest.mark.parametrize("name", MODELS)
def test_distribution_is_transformers_own(name: str) -> None:
    """Constants are equal; random parameters have the same mean and standard deviation, up to sampling."""
    ours = build(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = AutoModelForCausalLM.from_config(config_of(name), attn_implementation="sdpa")
    reference = values(theirs)
    assert list(values(ours)) == list(reference)
    for key, value in values(ours).items():
        other = reference[key]
        assert value.shape == other.shape and value.dtype == other.dtype, key
        if key in dict(ours.named_buffers()) or len(other.unique()) == 1:
            assert torch.equal(value, other), key
            continue
        error = 5 / (2 * other.numel()) ** 0.5 * 2**0.5
        assert abs(value.std() / other.std() - 1) < error, key
        assert abs(value.mean() - other.mean()) < 10 * other.std() / other.numel() ** 0.5, key
        assert not torch.equal(value, other), key
    # The padding row is zero where theirs is.
    rows = [model.get_input_embeddings().weight[TOKENS["pad"]].abs().sum() == 0 for model in (ours, theirs)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("name", ["llama tied", "gpt2", "olmo2"])
def test_seed_decides(name: str) -> None:
    first, again, other = build(name), build(name), build(name, seed=8)
    assert all(torch.equal(a, b) for a, b in zip(values(first).values(), values(again).values(), strict=True))
    for (key, a), b in zip(first.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) == (len(a.unique()) == 1), key


def test_building_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    build()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt_neox"])
def test_value_does_not_depend_on_other_parameters(name: str) -> None:
    small, deep = values(build(name)), values(build(name, num_hidden_layers=3))
    assert len(deep) > len(small)
    assert all(torch.equal(value, deep[key]) for key, value in small.items())
    weights = [value for key, value in deep.items() if key.endswith(("down_proj.weight", "4h_to_h.weight"))]
    assert len(weights) == 3 and not torch.equal(weights[0], weights[1])


def test_gpt2_residual_projections_are_rescaled() -> None:
    small, deep = values(build("gpt2")), values(build("gpt2", n_layer=8))
    key = "transformer.h.0.mlp.c_proj.weight"
    torch.testing.assert_close(deep[key] * 2, small[key])  # sqrt(8 / 2)
    assert small[key].std() == pytest.approx(0.02 / 2, rel=0.03)


def test_tied_embeddings_stay_tied() -> None:
    tied, untied = build("llama tied"), build("llama")
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert torch.equal(tied.lm_head.weight, untied.model.embed_tokens.weight)
    assert num_parameters(untied) - num_parameters(tied) == 512 * 64


def test_bf16_values_are_rounded_float32_values() -> None:
    exact, rounded = build(), build(dtype=torch.bfloat16)
    for key, value in rounded.named_parameters():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, exact.get_parameter(key).bfloat16()), key
    assert rounded.model.rotary_emb.inv_freq.dtype == torch.float32


def test_config_is_not_changed() -> None:
    config = config_of()
    before = config.to_dict()
    build_model(config, seed=1, zero3_config=None, dtype=torch.bfloat16, attention="sdpa")
    assert config.to_dict() == before


# --------------------------------------------------------------------------- what if transformers changes under us?


def test_uninitialised_parameter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaPreTrainedModel

    original = LlamaPreTrainedModel._init_weights

    def forgets_linear(self: Any, module: torch.nn.Module) -> None:
        if not isinstance(module, torch.nn.Linear):
            original(self, module)

    monkeypatch.setattr(LlamaPreTrainedModel, "_init_weights", forgets_linear)
    with pytest.raises(
        DiptychError, match=r"q_proj\.weight: transformers' _init_weights gives it no value.*and 12 more"
    ):
        build()


def test_half_initialised_parameter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaPreTrainedModel

    original = LlamaPreTrainedModel._init_weights

    def forgets_rows(self: Any, module: torch.nn.Module) -> None:
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.zeros_(module.weight[1:])
        else:
            original(self, module)

    monkeypatch.setattr(LlamaPreTrainedModel, "_init_weights", forgets_rows)
    with pytest.raises(DiptychError, match=r"q_proj\.weight: 64 of 4096 first values are not finite"):
        build()


def test_wrong_scale_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaPreTrainedModel

    def torch_default(self: Any, module: torch.nn.Module) -> None:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif getattr(module, "weight", None) is not None:
            torch.nn.init.ones_(module.weight)

    monkeypatch.setattr(LlamaPreTrainedModel, "_init_weights", torch_default)
    with pytest.raises(DiptychError, match=r"embedding: standard deviation .* the config asks for 0\.02"):
        build()


def test_module_seed_is_stable() -> None:
    assert initialization.module_seed(0, "model.embed_tokens") == 2461174871
    seeds = {initialization.module_seed(s, n) for s in (0, 1) for n in ("", "a", "a.b", "1")}
    assert len(seeds) == 8 and max(seeds) < 2**32


# ---------------------------------------------------------------------------------------------------- ranks and ZeRO


def _zero3(dtype: torch.dtype, world: int) -> dict[str, Any]:
    return {
        "train_batch_size": world,
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "bf16": {"enabled": dtype == torch.bfloat16},
    }


def _rank_main(folder: Path) -> None:
    """Builds every model at stage 3 and at stage 0, and saves what this rank sees."""
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # nothing to compile
    deepspeed.init_distributed("gloo")
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    seen: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for name in MODELS if dtype == torch.float32 else ("llama tied", "gpt2", "mixtral"):
            config = config_of(name)
            for stage, zero3 in ((3, _zero3(dtype, world)), (0, None)):
                model = build_model(config, seed=7, zero3_config=zero3, dtype=dtype, attention="sdpa")
                check_plain_head(model)
                parameters = list(model.parameters())
                assert all(hasattr(parameter, "ds_id") == (stage == 3) for parameter in parameters)
                count = num_parameters(model)
                if config.tie_word_embeddings:
                    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
                with deepspeed.zero.GatheredParameters(parameters):
                    copied = {key: value.clone() for key, value in values(model).items()}
                seen[f"{name}/{dtype}/{stage}"] = (count, copied)

    from transformers import LlamaPreTrainedModel

    with pytest.raises(DiptychError, match=r"asked for torch\.float32 parameters, .* makes torch\.bfloat16"):
        build_model(
            config_of(), seed=7, zero3_config=_zero3(torch.bfloat16, world), dtype=torch.float32, attention="sdpa"
        )
    original = LlamaPreTrainedModel._init_weights
    LlamaPreTrainedModel._init_weights = lambda self, module: (
        torch.nn.init.zeros_(module.weight[1:]) if isinstance(module, torch.nn.Linear) else original(self, module)
    )
    # Only rank 0 sees these values, but every rank must stop.
    with pytest.raises(DiptychError, match=r"q_proj\.weight: 64 of 4096 first values are not finite"):
        build_model(
            config_of(), seed=7, zero3_config=_zero3(torch.float32, world), dtype=torch.float32, attention="sdpa"
        )
    torch.save(seen, folder / f"{world}-{rank}.pt")


@pytest.mark.ranks
def test_same_bits_on_any_ranks_and_stage(tmp_path: Path) -> None:
    for world in (1, 2):
        run_ranks(Path(__file__), world, tmp_path)
    for file in ("1-0", "2-0", "2-1"):
        seen = torch.load(tmp_path / f"{file}.pt", weights_only=True)
        for key, (count, got) in seen.items():
            name, dtype, _ = key.split("/")
            reference = build(name, dtype=getattr(torch, dtype.removeprefix("torch.")))
            expected = values(reference)
            assert count == num_parameters(reference) == count_parameters(reference.config).total
            assert list(got) == list(expected)
            for parameter, value in got.items():
                assert value.dtype == expected[parameter].dtype, (file, key, parameter)
                assert torch.equal(value, expected[parameter]), (file, key, parameter)


# ------------------------------------------------------------------------------------------------------ plain head


@pytest.mark.parametrize("name", MODELS)
def test_head_of_base_is_the_model(name: str) -> None:
    model = build(name).eval()
    ids = torch.randint(3, 512, (2, 9))
    with torch.no_grad():
        full = model(input_ids=ids, use_cache=False, output_hidden_states=True)
        last = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        assert torch.equal(full.hidden_states[-1], last)
        assert torch.equal(full.logits, model.get_output_embeddings()(last))
    check_plain_head(model)


@pytest.mark.parametrize(
    ("type_", "fields"),
    [
        ("cohere", {}),
        ("granite", {"logits_scaling": 8.0}),
        ("minicpm3", {}),
        ("opt", {}),
    ],
)
def test_processed_logits_are_refused(type_: str, fields: dict[str, Any]) -> None:
    message = refused(type_, num_hidden_layers=2, **fields)
    assert message.startswith(f"model.type: {type_!r} cannot be trained here")


def test_switched_off_post_processing_is_accepted() -> None:
    fields = {"num_hidden_layers": 2, "logits_scaling": 1.0}
    assert hf_config(ModelConfig(type="granite", fields=fields), **TOKENS, positions=8).logits_scaling == 1


def test_capped_logits_are_capped_in_training_too() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    fields = {**sizes, "num_key_value_heads": 1, "head_dim": 16, "final_logit_softcapping": 0.01}
    config = hf_config(ModelConfig(type="gemma2", fields=fields), **TOKENS, positions=8)
    attention = choose_attention(ModelConfig(), config, "cpu")
    assert attention == "eager"
    model = build_model(config, seed=0, zero3_config=None, dtype=torch.float32, attention=attention).eval()
    ids = torch.randint(3, 512, (2, 9))
    with torch.no_grad():
        states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        head = model.get_output_embeddings()(states)
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, cap_logits(head, config))
        assert not torch.equal(head, cap_logits(head, config))


def test_a_model_at_a_path_brings_its_own_config(tmp_path: Path) -> None:
    model = build("llama")
    model.save_pretrained(tmp_path / "model")
    config = hf_config(ModelConfig(path=str(tmp_path / "model")), **{**TOKENS, "vocab_size": 600}, positions=8)
    assert (config.model_type, config.vocab_size) == ("llama", 600)
    assert config.hidden_size == model.config.hidden_size
    (tmp_path / "empty").mkdir()
    with pytest.raises(DiptychError, match=r"model\.path: .*empty: is no Hugging Face model \(no config\.json\)"):
        hf_config(ModelConfig(path=str(tmp_path / "empty")), **TOKENS, positions=8)
    with pytest.raises(DiptychError, match=r"has \d+ positions, but the longest example needs 10000000"):
        hf_config(ModelConfig(path=str(tmp_path / "model")), **TOKENS, positions=10_000_000)
    with pytest.raises(ValueError, match="give path, or type and fields"):
        ModelConfig(path="x", type="llama", fields={})


def test_packed_documents_do_not_see_each_other() -> None:
    """Every model type of this file obeys a 4-D boolean mask and our positions (SDPA)."""
    for name in MODELS:
        model = build(name).eval()
        first, second = torch.randint(3, 512, (2, 5))
        mask = torch.block_diag(*[torch.ones(5, 5).tril()] * 2).bool()[None, None]
        positions = torch.arange(5).repeat(2)[None]
        with torch.no_grad():
            packed = model.base_model(
                input_ids=torch.cat([first, second])[None], attention_mask=mask, position_ids=positions, use_cache=False
            ).last_hidden_state
            alone = model.base_model(input_ids=second[None], use_cache=False).last_hidden_state
        torch.testing.assert_close(packed[:, 5:], alone, msg=name, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------- counting


def test_counts_of_a_large_model_need_no_memory() -> None:
    start = time.monotonic()
    llama3 = hf_config(
        ModelConfig(
            fields={
                "hidden_size": 4096,
                "intermediate_size": 14336,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "rope_theta": 500000.0,
            }
        ),
        vocab_size=128256,
        bos=128000,
        eos=128001,
        pad=None,
        positions=8192,
    )
    counts = count_parameters(llama3)
    assert time.monotonic() - start < 5
    assert counts == (8_030_261_248, 128256 * 4096, 128256 * 4096, 8_030_261_248)
    assert llama3.rope_parameters["rope_theta"] == 500000.0
    body = counts.total - 2 * 128256 * 4096
    flops = training_flops(llama3, counts, tokens=10, labels=4, visible=55)
    assert flops == 6 * (10 * body + 4 * counts.head) + 12 * 32 * 4096 * 55


def test_tied_table_counts_once_and_experts_are_not_guessed() -> None:
    counts = count_parameters(config_of("llama tied"))
    assert (counts.embedding, counts.head) == (0, 512 * 64)
    mixtral = config_of("mixtral")
    assert training_flops(mixtral, count_parameters(mixtral), tokens=1, labels=1, visible=1) is None


def test_auto_attention() -> None:
    auto = ModelConfig(fields=SIZES)
    assert choose_attention(auto, config_of(), "cuda") == "flex"
    assert choose_attention(auto, config_of("gpt2"), "cuda") == "sdpa"
    assert choose_attention(auto, config_of(), "cpu") == "sdpa"
    assert choose_attention(ModelConfig(fields=SIZES, attention="flex"), config_of(), "cpu") == "flex"
    with pytest.raises(DiptychError, match=r"cannot build 'gpt2'.*flex"):
        build_model(config_of("gpt2"), seed=0, zero3_config=None, dtype=torch.float32, attention="flex")


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("type_", "fields", "parts"),
    [
        ("llama", {"hiden_size": 64}, ["model.fields.hiden_size", "did you mean 'hidden_size'?"]),
        ("gpt2", {"n_layers": 2}, ["model.fields.n_layers", "did you mean 'n_layer'?"]),
        ("gpt2", {"rope_theta": 1e4}, ["model.fields.rope_theta", "'gpt2' config has no such field"]),
        ("llama", {"temperature": 1.0}, ["model.fields.temperature", "no such field"]),
        ("llama", {"vocab_size": 9}, ["model.fields.vocab_size", "tokenizer"]),
        ("llama", {"pad_token_id": 9}, ["model.fields.pad_token_id", "tokenizer"]),
        ("llama", {"dtype": "float16"}, ["model.fields.dtype", "precision"]),
        ("llama", {"model_type": "gpt2"}, ["model.fields.model_type", "model.type"]),
        ("gpt2", {"n_embd": 64, "hidden_size": 64}, ["model.fields.hidden_size: given twice", "'n_embd'"]),
        ("llama", {"hidden_size": 10, "num_attention_heads": 3}, ["hidden size (10)", "heads (3)"]),
        ("llama", {"hidden_size": "64"}, ["'hidden_size'", "expected int, got str"]),
        ("llama", {"num_attention_heads": 0}, ["transformers refuses this 'llama' config"]),
        ("llama", {**SIZES, "num_key_value_heads": 3}, ["num_key_value_heads: 3 does not divide", "(4)"]),
        ("llama", {"max_position_embeddings": 100}, ["max_position_embeddings: 100 positions", "needs 128"]),
        ("gpt2", {"n_positions": 100}, ["n_positions: 100 positions", "needs 128"]),
        ("mistral", {"sliding_window": 64}, ["sliding_window: 64", "128 positions"]),
        ("lama", {}, ["model.type: 'lama' is no Hugging Face model type", "did you mean 'llama'?"]),
        ("vit", {}, ["model.type: 'vit' has no causal language model"]),
        ("t5", {}, ["model.type: 't5' has no causal language model"]),
        ("bart", {}, ["encoder-decoder"]),
        ("gemma3", {}, ["made of several models", "choose 'gemma3_text'"]),
        ("mamba", {}, ["model.type: 'mamba'", "leak"]),
        ("bloom", {}, ["model.type: 'bloom' takes no position_ids"]),
        ("bert", {}, ["model.type: 'bert' would not be causal"]),
    ],
)
def test_errors_name_the_place(type_: str, fields: dict[str, Any], parts: list[str]) -> None:
    message = refused(type_, **fields)
    assert all(part in message for part in parts), message


def test_a_type_without_kernels_for_a_mask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No type is named: which ones have them changes with the version of transformers."""
    for kernel in ("_supports_sdpa", "_supports_flex_attn"):
        monkeypatch.setattr(LlamaPreTrainedModel, kernel, False)
    assert "model.type: 'llama' has neither SDPA nor FlexAttention" in refused("llama")


def test_positions_grow_as_needed() -> None:
    for needed, expected in ((128, 1024), (3000, 3000)):
        config = hf_config(ModelConfig(type="gpt2", fields={"n_layer": 1}), **TOKENS, positions=needed)
        assert config.n_positions == config.max_position_embeddings == expected
    assert config.vocab_size == 512 and config.pad_token_id == 0 and config.eos_token_id == 2


def test_config_section() -> None:
    with pytest.raises(ValidationError, match="atention"):
        ModelConfig(atention="sdpa")
    with pytest.raises(ValidationError, match=r"model\.fields: give the sizes"):
        ModelConfig(type="gpt2")
    assert all(field.description for field in ModelConfig.model_fields.values())
    hf_config(ModelConfig(), **TOKENS, positions=128)


def test_living_hf_deepspeed_config_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of()
    # A real one needs the package accelerate, which Diptych does without.
    monkeypatch.setattr("pretrain.model.initialization.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(DiptychError, match="HfDeepSpeedConfig is alive"):
        build_model(config, seed=7, zero3_config=None, dtype=torch.float32, attention="sdpa")


if __name__ == "__main__":
    _rank_main(Path(sys.argv[1]))

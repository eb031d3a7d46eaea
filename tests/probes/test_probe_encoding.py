"""Encoding: packed rows give what one text at a time gives; caches, ranks, checkpoints and refusals."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from pretrain.config.model import TokenizerConfig
from pretrain.data.tokenizer import Tokenizer
from pretrain.preparation.tokenizer_training import train
from pretrain.runtime.errors import DiptychError
from pretrain.sources.jsonl import JsonlSource
from probes.encoding import encode as encoding
from probes.encoding.cache import CacheFolder
from probes.encoding.encode import Encoded, encode
from probes.encoding.origin import checkpoints_of
from probes.encoding.pairs import read_pairs
from probes.encoding.probed_model import ProbedModel, open_model
from probes.encoding.rows import lay_out, make_batches
from probes.encoding.sentence_transformer import main as write_main
from probes.encoding.sentence_transformer import write_sentence_transformer
from tests.support.ranks import run_alone, run_ranks

POOLINGS = ("last", "mean", "pred")  # that models which read from left to right have
CONTEXT, WINDOW, VOCABULARY = 128, 16, 320
WORDS = ["red", "green", "blue", "cat", "dog", "house", "tree", "runs", "sleeps", "eats", "a", "the"]
SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 0,
}
SPECIAL = {"bos_token_id": 2, "eos_token_id": 3, "vocab_size": VOCABULARY}
SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
PACKED: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHARED)),
    # Absolute positions.
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(**SPECIAL, n_positions=CONTEXT, n_embd=32, n_layer=3, n_head=4, initializer_range=0.3)
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHARED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHARED, head_dim=8)),
    # Windows shorter than the longest texts.
    "qwen3 sliding": lambda: Qwen3ForCausalLM(Qwen3Config(**SHARED, head_dim=8, use_sliding_window=True, **SLIDING)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHARED, sliding_window=WINDOW)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHARED, head_dim=8, query_pre_attn_scalar=8, attn_logit_softcapping=5.0, **SLIDING)
    ),
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**SHARED)),
}
ALONE: dict[str, Any] = {
    # Positions made from a 2-D mask, and a recurrent state.
    "bloom": lambda: BloomForCausalLM(BloomConfig(**SPECIAL, hidden_size=32, n_layer=3, n_head=4)),
    "mamba": lambda: MambaForCausalLM(MambaConfig(**SPECIAL, hidden_size=32, num_hidden_layers=3, state_size=4)),
}


def random_texts(count: int, longest: int = 25) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, longest))) for _ in range(count)]


TEXTS = ["", *random_texts(24), "", "the </s> cat [PRED_1]", *random_texts(2)]
"""Empty and equal ones, some longer than the window."""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return train(random_texts(300), TokenizerConfig(vocab_size=VOCABULARY, predictor_tokens=3))


@pytest.fixture(scope="module")
def folders(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of model folders by name, each written at its first use by :func:`folder_of`."""
    return tmp_path_factory.mktemp("models")


def folder_of(folders: Path, tokenizer: Tokenizer, family: str) -> Path:
    folder = folders / family.replace(" ", "_")
    if not folder.exists():
        torch.manual_seed(1234)
        (PACKED | ALONE)[family]().save_pretrained(folder)
        tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def llama(folders: Path, tokenizer: Tokenizer) -> ProbedModel:
    return open_model(folder_of(folders, tokenizer, "llama"), predictors=2)


def one_by_one(
    folder: Path, model: ProbedModel, texts: Sequence[str], limit: int = 10**6, start: Sequence[int] = (2,)
) -> np.ndarray:
    """What transformers gives for each text alone; shape [layers, poolings, texts, width]."""
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for ids in model.tokenizer.encode_batch(texts):
        own = [*start, *ids][:limit]
        whole = [*own, *model.predictors]
        with torch.no_grad():
            output = lm(torch.tensor([whole]), output_hidden_states=True, use_cache=False)
        states = torch.stack(output.hidden_states)[:, 0]
        found.append(torch.stack([states[:, len(own) - 1], states[:, : len(own)].mean(1), states[:, -1]], dim=1))
    return torch.stack(found, dim=2).numpy()


def everything(encoded: Encoded) -> np.ndarray:
    return np.stack([[encoded.get(layer, each) for each in encoded.poolings] for layer in range(encoded.layers)])


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    """Within 1e-5 of the largest state, or of 1."""
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, float(np.abs(expected).max()))


@pytest.mark.parametrize("family", PACKED)
def test_packed_rows_give_what_one_text_gives(folders: Path, tokenizer: Tokenizer, family: str) -> None:
    folder = folder_of(folders, tokenizer, family)
    model = open_model(folder, predictors=2)
    assert (model.notes, model.mode.hooked, model.layers, model.width) == ((), True, 4, 32)
    assert model.mode.longest_packed >= WINDOW
    lengths = [len(ids) + 1 for ids in tokenizer.encode_batch(TEXTS)]
    assert max(lengths) > WINDOW
    expected = one_by_one(folder, model, TEXTS)
    for batch_tokens in (1, 100, 4096):
        found = encode(model, TEXTS, poolings=POOLINGS, batch_tokens=batch_tokens)
        assert found.truncated == 0
        assert_near(everything(found), expected)
    # Without [PRED] tokens the other poolings are the same.
    assert_near(everything(encode(model, TEXTS)), expected[:, :2])


def test_rows_may_be_longer_than_a_short_context(tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(**SPECIAL, n_positions=40, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    model, texts = open_model(tmp_path), TEXTS[:12]
    assert model.mode.longest_packed > 40
    assert_near(everything(encode(model, texts)), one_by_one(tmp_path, model, texts, limit=40)[:, :2])


def test_a_forward_pass_that_fails_names_the_model(llama: ProbedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (IndexError, RuntimeError, ValueError):

        def fail(*given: Any, error: type[Exception] = error) -> None:
            raise error("index out of\nrange")

        monkeypatch.setattr(encoding, "pooled", fail)
        with pytest.raises(DiptychError, match=r"llama: its forward pass fails at .* \(index out of range\)"):
            encode(llama, TEXTS)


@pytest.mark.parametrize("family", [*PACKED, *ALONE])
def test_batches_side_by_side_give_the_same_bits(folders: Path, tokenizer: Tokenizer, family: str) -> None:
    model = open_model(folder_of(folders, tokenizer, family), predictors=2)
    expected = everything(encode(model, TEXTS, poolings=POOLINGS, batch_tokens=40))
    torch.set_num_threads(3)  # one for each of three batches at once
    try:
        found = everything(encode(model, TEXTS, poolings=POOLINGS, batch_tokens=40))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert (found == expected).all()


@pytest.mark.parametrize("family", ALONE)
def test_a_model_that_cannot_share_rows_gets_one_text_per_row(folders: Path, tokenizer: Tokenizer, family: str) -> None:
    folder = folder_of(folders, tokenizer, family)
    model = open_model(folder, predictors=2)
    assert model.mode.longest_packed == 0
    assert "one text per row" in model.notes[0]
    found = encode(model, TEXTS, poolings=POOLINGS, batch_tokens=100)
    assert_near(everything(found), one_by_one(folder, model, TEXTS))


def test_states_that_blocks_do_not_show_are_taken_as_the_model_reports_them(
    folders: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(folders, tokenizer, "llama")
    monkeypatch.setattr("probes.encoding.forward.blocks_of", lambda base: None)
    model = open_model(folder, predictors=1)
    assert not model.mode.hooked and model.mode.longest_packed > CONTEXT
    assert_near(everything(encode(model, TEXTS, poolings=POOLINGS)), one_by_one(folder, model, TEXTS))


def test_a_tokenizer_without_bos_starts_without_one(folders: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = folder_of(folders, tokenizer, "llama")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text())
        settings.pop("bos_token", None)
        settings["post_processor"] = None
        (tmp_path / name).write_text(json.dumps(settings))
    model = open_model(tmp_path)
    assert model.prefix == model.suffix == ()
    texts = ["the cat", "a dog runs"]
    assert_near(everything(encode(model, texts)), one_by_one(tmp_path, model, texts, start=())[:, :2])
    # Nothing at all is its end token.
    assert_near(everything(encode(model, [""])), one_by_one(tmp_path, model, [""], start=(3,))[:, :2])


def test_long_texts_are_cut_and_counted(folders: Path, tokenizer: Tokenizer, llama: ProbedModel) -> None:
    folder = folder_of(folders, tokenizer, "llama")
    texts = ["the cat", "the cat " * 100, "a dog " * 90]
    found = encode(llama, texts, poolings=POOLINGS)
    assert found.truncated == 2
    expected = one_by_one(folder, llama, texts, limit=CONTEXT - 2)
    assert_near(everything(found), expected)
    # The room of the predictors is left free whether or not they are asked for.
    assert_near(everything(encode(llama, texts)), expected[:, :2])
    short = encode(llama, texts, max_tokens=2)
    assert short.truncated == 3
    assert_near(everything(short), one_by_one(folder, llama, texts, limit=2)[:, :2])


def test_no_texts(llama: ProbedModel, tmp_path: Path) -> None:
    for cache in (None, tmp_path):
        assert encode(llama, [], cache=cache).get(3, "last").shape == (0, 32)


def test_windows_change_nothing(llama: ProbedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = everything(encode(llama, TEXTS))
    monkeypatch.setattr(encoding, "WINDOW_TEXTS", (1, 5))
    assert_near(everything(encode(llama, TEXTS, cache=tmp_path)), whole)


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 600), st.sampled_from([0, 50, 1000]))
def test_batches_hold_every_text_once_and_fit(sizes: list[int], batch_tokens: int, longest_packed: int) -> None:
    batches = make_batches(np.array(sizes, dtype=np.int64), batch_tokens, longest_packed)
    assert sorted(number for batch in batches for row in batch for number in row) == list(range(len(sizes)))
    for batch in batches:
        numbers = [number for row in batch for number in row]
        longest = max(sizes[number] for number in numbers)
        assert len(numbers) == 1 or sum(sizes[number] for number in numbers) <= batch_tokens
        if longest > longest_packed:
            assert all(len(row) == 1 for row in batch)
            assert len(batch) == 1 or len(batch) * longest <= batch_tokens
        assert all(sum(sizes[number] for number in row) <= max(longest, 128) for row in batch)


def test_rows_are_laid_out_as_said() -> None:
    rows = lay_out([[2, 0], [1]], [[5, 6], [7, 8, 9], [4]], (1, 2))
    assert rows.numbers.tolist() == [2, 0, 1]
    assert rows.ids.tolist() == [[4, 1, 2, 5, 6, 1, 2], [7, 8, 9, 1, 2, 4, 4]]
    assert rows.positions.tolist() == [[0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 3, 4, 0, 0]]
    assert rows.segments.tolist() == [[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]]
    assert [each.tolist() for each in (rows.starts, rows.stops, rows.ends)] == [[0, 3, 7], [1, 5, 10], [2, 6, 11]]
    assert not rows.single


def calls(model: ProbedModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one at every forward pass."""
    seen: list[int] = []
    real = encoding.pooled

    def counted(*given: Any) -> Any:
        seen.append(1)
        return real(*given)

    monkeypatch.setattr(encoding, "pooled", counted)
    return seen


def test_two_programs_that_write_the_same_do_not_disturb_each_other(tmp_path: Path) -> None:
    shape = (1, 1, 4, 2)
    one, other = (CacheFolder(tmp_path, {"model": "m"}, shape) for _ in range(2))
    for folder in (one, other):
        folder.start()
        folder.write(0, np.ones((1, 1, 2, 2), np.float32))
    old = time.time() - 2 * 86_400
    os.utime(other.scratch, (old, old))  # it grows within, which its own time does not show
    third = CacheFolder(tmp_path, {"model": "m"}, shape)
    third.start()
    third.discard()
    for folder in (one, other):
        folder.write(2, np.ones((1, 1, 2, 2), np.float32))
        folder.commit({})
    assert one.look() == ({}, None) and one.read(0, 0).tolist() == [[1, 1]] * 4
    assert [path.name for path in tmp_path.iterdir()] == [one.key]


def test_cache_is_used_and_a_broken_one_is_rebuilt(
    llama: ProbedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = everything(encode(llama, TEXTS, max_tokens=10))
    seen = calls(llama, monkeypatch)
    first = encode(llama, TEXTS, max_tokens=10, cache=tmp_path)
    assert seen and not first.notes and first.truncated > 0
    seen.clear()
    again = encode(llama, TEXTS, max_tokens=10, cache=tmp_path)
    assert not seen and not again.notes and again.truncated == first.truncated
    assert np.array_equal(everything(again), expected)
    (folder,) = tmp_path.iterdir()
    states, manifest = folder / "states.f32", folder / "manifest.json"
    flipped = bytearray(states.read_bytes())
    flipped[100] ^= 1
    whole = states.read_bytes()

    def rebuilt(word: str) -> None:
        seen.clear()
        found = encode(llama, TEXTS, max_tokens=10, cache=tmp_path)
        assert seen and word in found.notes[0] and "encoded anew" in found.notes[0]
        assert np.array_equal(everything(found), expected)
        assert states.read_bytes() == whole and [folder] == list(tmp_path.iterdir())

    states.write_bytes(whole[:-4])
    rebuilt("bytes")
    states.write_bytes(flipped)
    rebuilt("checksum")
    for content in ("", "[]", "{}", '{"sha256": 3}'):
        manifest.write_text(content)
        rebuilt("c")
    states.unlink()
    rebuilt("cannot be read")


def test_cache_tells_apart_what_gives_other_numbers(llama: ProbedModel, tmp_path: Path) -> None:
    def count() -> int:
        return len(list(tmp_path.iterdir()))

    encode(llama, TEXTS, cache=tmp_path)
    encode(llama, TEXTS, cache=tmp_path, batch_tokens=7)
    assert count() == 1
    encode(llama, TEXTS[::-1], cache=tmp_path)
    encode(llama, TEXTS, cache=tmp_path, max_tokens=9)
    encode(llama, TEXTS, cache=tmp_path, poolings=("mean", "last"))
    encode(llama, TEXTS, cache=tmp_path, poolings=("pred",))
    encode(replace(llama, predictors=(4,)), TEXTS, cache=tmp_path, poolings=("pred",))
    encode(replace(llama, fingerprint="other"), TEXTS, cache=tmp_path)
    encode(replace(llama, prefix=()), ["the cat"], cache=tmp_path)
    assert count() == 8


def test_an_interrupted_cache_leaves_nothing(
    llama: ProbedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(encoding, "pooled", stop)
    with pytest.raises(KeyboardInterrupt):
        encode(llama, TEXTS, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_refusals(llama: ProbedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DiptychError, match="PRED"):
        encode(replace(llama, predictors=()), ["a"], poolings=("pred",))
    with pytest.raises(DiptychError, match="expected one of last, mean, cls, pred"):
        encode(llama, ["a"], poolings=("max",))
    with pytest.raises(DiptychError, match="each once"):
        encode(llama, ["a"], poolings=("last", "last"))
    with pytest.raises(DiptychError, match="text 1: expected a string"):
        encode(llama, ["a", None])  # type: ignore[list-item]
    with pytest.raises(DiptychError, match="batch_tokens"):
        encode(llama, ["a"], batch_tokens=0)
    with pytest.raises(DiptychError, match="max_tokens"):
        encode(llama, ["a"], max_tokens=0)
    with pytest.raises(DiptychError, match="fill its context"):
        encode(replace(llama, context=2), ["a"])
    (tmp_path / "file").write_text("")
    with pytest.raises(DiptychError, match=r"cache .*cannot be written"):
        encode(llama, ["a"], cache=tmp_path / "file" / "cache")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(DiptychError, match="GiB free"):
        encode(llama, ["a"], cache=tmp_path / "cache")


def test_states_that_are_not_finite_are_refused(folders: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    lm = AutoModelForCausalLM.from_pretrained(folder_of(folders, tokenizer, "llama"))
    number = tokenizer.encode_batch(["house"])[0][-1]
    with torch.no_grad():
        lm.model.layers[0].mlp.down_proj.weight[:] *= float("nan")
    lm.save_pretrained(tmp_path / "all")
    tokenizer.save(tmp_path / "all")
    with pytest.raises(DiptychError, match=r"all: layer 1 is not finite at text 0 \('the cat'\)"):
        encode(open_model(tmp_path / "all"), ["the cat", "a dog"], cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    lm = AutoModelForCausalLM.from_pretrained(folder_of(folders, tokenizer, "llama"))
    with torch.no_grad():
        lm.model.embed_tokens.weight[number] = float("inf")
    lm.save_pretrained(tmp_path / "one")
    tokenizer.save(tmp_path / "one")
    with pytest.raises(DiptychError, match=r"one: layer 0 is not finite at text 2 \('a house'\)"):
        encode(open_model(tmp_path / "one"), ["the cat", "a dog", "a house", "house"])


def test_random_twin(folders: Path, tokenizer: Tokenizer, llama: ProbedModel) -> None:
    folder = folder_of(folders, tokenizer, "llama")
    state = torch.get_rng_state()
    first, again, other = (open_model(folder, random=True, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    numbers = [everything(encode(model, TEXTS)) for model in (first, again, other, llama)]
    assert np.array_equal(numbers[0], numbers[1])
    assert not np.allclose(numbers[0], numbers[2]) and not np.allclose(numbers[0], numbers[3])
    assert first.fingerprint == again.fingerprint
    # One twin serves models whose config, tokenizer and [PRED] tokens are the same.
    assert (
        first.twin_key
        == other.twin_key
        == open_model(folder).twin_key
        != llama.twin_key
        == open_model(folder, predictors=2).twin_key
    )
    assert len({first.fingerprint, other.fingerprint, llama.fingerprint}) == 3
    facts = first.describe("twin", "llama")
    assert (facts.random_twin_of, facts.parameters, facts.layers) == ("llama", llama.parameters, llama.layers)
    assert first.name == "llama (random weights)"


def test_no_more_pairs_are_read_than_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"a": f"a{n}", "b": f"b{n}"}) + "\n" for n in range(3)) + "no pair\n")
    once = JsonlSource.parts
    monkeypatch.setattr(JsonlSource, "parts", lambda source, files: [*once(source, files)] * 2)
    assert read_pairs(path, ("a", "b"), 3) == (("a0", "a1", "a2"), ("b0", "b1", "b2"))
    with pytest.raises(DiptychError, match=r"pairs\.jsonl:4: "):
        read_pairs(path, ("a", "b"), 4)
    with pytest.raises(DiptychError, match=r"^none\.jsonl: no such file; name JSON Lines"):
        read_pairs(Path("none.jsonl"), ("a", "b"), 4)


def test_code_of_its_own_runs_only_when_allowed(folders: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder_of(folders, tokenizer, "llama")).save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own-llama'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["model_type"] = "own-llama"
    settings["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    for random in (False, True):
        with pytest.raises(DiptychError):
            open_model(tmp_path, random=random)
    model = open_model(tmp_path, trust_remote_code=True)
    assert model.architecture == "own-llama"
    expected = one_by_one(folder_of(folders, tokenizer, "llama"), model, TEXTS)[:, :2]
    assert_near(everything(encode(model, TEXTS)), expected)
    assert open_model(tmp_path, trust_remote_code=True, random=True).layers == 4


def test_missing_predictors_and_models(folders: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = folder_of(folders, tokenizer, "llama")
    assert open_model(folder).predictors == ()
    assert open_model(folder, predictors=3).predictors == tokenizer.predictors
    with pytest.raises(DiptychError, match="no \\[PRED_4\\]"):
        open_model(folder, predictors=4)
    with pytest.raises(DiptychError):
        open_model(tmp_path / "none")
    with pytest.raises(DiptychError, match="no run folder"):
        checkpoints_of(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(DiptychError, match="no checkpoint yet"):
        checkpoints_of(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small pre-training run with two checkpoints and an export."""
    folder = tmp_path_factory.mktemp("run")
    fields = "{hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2}"
    settings = [
        "data.sources=[{type: reviews, count: 300}]",
        f"data.folder='{folder / 'data'}'",
        "tokenizer.vocab_size=768",
        f"model.fields={fields}",
        "packing.layout=independent",
        "packing.row_length=128",
        "objective.lambda=1",
        "objective.predictors=2",
        "objective.repeat_predictor=true",
        "train.steps=4",
        "train.rows_per_step=2",
        "train.micro_batch_rows=2",
        "checkpoint.every=2",
        "evaluation.every=4",
        "evaluation.prompts=1",
        "deepspeed.zero_stage=0",
        "logging.tensorboard=false",
        f"run.folder='{folder / 'small'}'",
    ]
    run_alone("-m pretrain", *settings, timeout=240)
    return folder / "small"


@pytest.mark.ranks
def test_a_run_its_checkpoints_and_its_export_are_models(run: Path, tmp_path: Path) -> None:
    middle, last = checkpoints_of(run)
    assert [path.name for path in (middle, last)] == ["step_00000002", "step_00000004"]
    early, late, exported, whole = (open_model(path) for path in (middle, last, run / "export", run))
    for model, step in ((early, 2), (late, 4), (exported, 4), (whole, 4)):
        names = model.tokenizer.hf.convert_ids_to_tokens(list(model.predictors))
        assert names == ["[PRED_1]", "[PRED_1]"]
        assert (model.step, model.run) == (step, str(run.resolve()))
    assert (early.name, late.name, exported.name) == ("small@2", "small@4", "small")
    assert 0 < early.tokens < late.tokens == exported.tokens  # type: ignore[operator]
    assert late.fingerprint == exported.fingerprint != early.fingerprint
    same, other = (everything(encode(model, TEXTS, poolings=POOLINGS)) for model in (late, early))
    assert np.array_equal(everything(encode(exported, TEXTS, poolings=POOLINGS)), same)
    assert not np.allclose(same, other)
    twin = open_model(middle, random=True)
    assert twin.step is None and twin.predictors == early.predictors
    with pytest.raises(DiptychError, match="no run folder"):
        checkpoints_of(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    state = next((broken / "checkpoints" / "step_00000002").glob("state-*.safetensors"))
    state.write_bytes(state.read_bytes()[:-1])
    with pytest.raises(DiptychError, match=r"bytes, not .*another checkpoint"):
        open_model(broken / "checkpoints" / "step_00000002")


RANKS_SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from pretrain.runtime.command import exit_rank
from pretrain.runtime.distributed import start_ranks
from pretrain.runtime.errors import DiptychError
from probes.encoding.encode import encode
from probes.encoding.probed_model import open_model
ranks = start_ranks(2)
model_folder, out = Path(sys.argv[1]), Path(sys.argv[2])
texts = json.loads((out / "texts.json").read_text())
model = open_model(model_folder, device=ranks.device)
for name, cache in (("memory", None), ("cache", out / "cache"), ("again", out / "cache")):
    found = encode(model, texts, batch_tokens=60, cache=cache, ranks=ranks)
    values = [[found.get(layer, each) for each in found.poolings] for layer in range(found.layers)]
    np.save(out / f"{name}-{ranks.rank}.npy", np.array(values))
try:
    encode(model, texts, cache=out / "texts.json" / "no", ranks=ranks)
except DiptychError as error:
    (out / f"error-{ranks.rank}.txt").write_text(str(error))
exit_rank(0)
"""


@pytest.mark.ranks
def test_two_ranks_share_the_texts_and_both_get_all(
    folders: Path, tokenizer: Tokenizer, llama: ProbedModel, tmp_path: Path
) -> None:
    script = tmp_path / "two_ranks.py"
    script.write_text(RANKS_SCRIPT)
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    run_ranks(script, 2, folder_of(folders, tokenizer, "llama"), tmp_path)
    expected = everything(encode(llama, TEXTS, batch_tokens=60))
    for name in ("memory", "cache", "again"):
        for rank in range(2):
            assert np.array_equal(np.load(tmp_path / f"{name}-{rank}.npy"), expected)
    assert {(tmp_path / f"error-{rank}.txt").read_text().partition(":")[0] for rank in range(2)} == {
        f"cache {tmp_path / 'texts.json' / 'no'}"
    }


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "gemma2"])
def test_sentence_transformers_gives_the_same(
    folders: Path, tokenizer: Tokenizer, family: str, pooling: Any, tmp_path: Path
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = folder_of(folders, tokenizer, family)
    texts = ["", *random_texts(20), "the cat " * 100]
    write_sentence_transformer(folder, tmp_path / "out", pooling=pooling)
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts, batch_size=7)
    model = open_model(folder)
    ours = encode(model, texts).get(model.layers - 1, pooling)
    assert_near(ours, theirs)


def test_sentence_transformer_folder_is_never_overwritten(
    folders: Path, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(folders, tokenizer, "llama")
    out = tmp_path / "out"
    assert write_main([str(folder), str(out), "--pooling", "mean", "--normalize"]) == 0
    assert str(out) in capsys.readouterr().out
    assert len(json.loads((out / "modules.json").read_text())) == 3
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(DiptychError, match="exists already"):
        write_main([str(folder), str(out)])
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert list(tmp_path.iterdir()) == [out]
    sentence_transformers = pytest.importorskip("sentence_transformers")
    lengths = np.linalg.norm(sentence_transformers.SentenceTransformer(str(out), device="cpu").encode(TEXTS), axis=1)
    assert np.abs(lengths - 1).max() < 1e-5


HARNESS = """
import json, sys
import lm_eval
from lm_eval.tasks import TaskManager
model, tasks = sys.argv[1:]
found = lm_eval.simple_evaluate(
    model="hf",
    model_args=f"pretrained={model},dtype=float32",
    tasks=["local_polarity"],
    task_manager=TaskManager(include_path=tasks, include_defaults=False),
    device="cpu",
    batch_size=4,
    bootstrap_iters=0,
)
print(json.dumps(found["results"]["local_polarity"]["acc,none"]))
"""


def test_the_evaluation_harness_runs_an_export(folders: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    own = Path(__file__).parents[2] / ".venv-lm-eval" / "bin" / "python"
    if not own.exists():
        pytest.skip("no evaluation harness: make lm-eval (an environment of its own)")
    rows = [{"text": text, "label": number % 2} for number, text in enumerate(random_texts(12))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(
        "task: local_polarity\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: '{tmp_path / 'rows.jsonl'}'}}}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{text}}"\ndoc_to_target: label\ndoc_to_choice: ["the cat", "a dog"]\n'
        "metric_list: [{metric: acc}]\n"
    )
    script = tmp_path / "harness.py"
    script.write_text(HARNESS)
    folder = folder_of(folders, tokenizer, "llama")
    done = subprocess.run(
        [str(own), str(script), str(folder), str(tmp_path)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert 0 <= float(done.stdout.splitlines()[-1]) <= 1

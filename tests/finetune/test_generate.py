"""Generation: batches give token by token what ``model.generate`` gives one by one."""

import copy
import inspect
import math
import random
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from finetune.decoding_step import DecodingStep
from finetune.generate import Decoding, Generation, answer_likelihoods, generate, make_batches
from pretrain.runtime.errors import DiptychError
from tests.support.ranks import run_ranks

NEW, CONTEXT, STOP = 12, 64, (2, 7, 9)
SHARED = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,  # far from uniform, so that rounding does not decide
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": 60, "n_positions": CONTEXT, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
FAMILIES: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHARED)),
    # Absolute positions.
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2, bos_token_id=1, eos_token_id=2)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHARED)),
    # A window shorter than the prompts, and capped logits.
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SHARED, head_dim=8, sliding_window=16, query_pre_attn_scalar=8)),
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**SHARED)),
}


@cache
def model(family: str) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return FAMILIES[family]().eval()


def random_prompts(count: int) -> list[list[int]]:
    rng = random.Random(0)
    return [[1, *(rng.randrange(3, 60) for _ in range(rng.randint(1, 40)))] for _ in range(count)]


PROMPTS = random_prompts(14)


def by_transformers(lm: Any, prompt: Sequence[int], **changes: Any) -> Generation:
    ids = torch.tensor([prompt])
    given = {"do_sample": False, "max_new_tokens": NEW, "eos_token_id": list(STOP), "pad_token_id": 0, **changes}
    new = lm.generate(ids, attention_mask=torch.ones_like(ids), **given)[0, len(prompt) :].tolist()
    return Generation(tuple(new[:-1]), True) if new[-1] in STOP else Generation(tuple(new), False)


def ours(lm: Any, prompts: Sequence[Sequence[int]] = PROMPTS, **changes: Any) -> list[Generation]:
    return generate(lm, prompts, **{"stop": STOP, "pad": 0, "max_new_tokens": NEW, "batch_size": 6, **changes})


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_transformers_one_by_one(family: str) -> None:
    expected = [by_transformers(model(family), prompt) for prompt in PROMPTS]
    assert ours(model(family)) == expected
    assert ours(model(family), batch_size=14) == expected
    assert len({answer.ids for answer in expected}) > 1


def test_answers_end_at_different_places_and_may_be_empty() -> None:
    lm = model("llama")
    answers = ours(lm, max_new_tokens=20)
    assert {answer.stopped for answer in answers} == {True, False}
    assert len({len(answer.ids) for answer in answers}) > 3  # so rows have left the batch
    first = ours(lm, PROMPTS[:1], max_new_tokens=1)[0].ids
    assert ours(lm, PROMPTS[:1], stop=first) == [Generation((), True)]


def test_the_order_of_prompts_does_not_matter_and_pad_is_never_seen() -> None:
    lm = model("gpt2")
    answers = ours(lm)
    assert ours(lm, PROMPTS[::-1])[::-1] == answers
    assert ours(lm, pad=33) == answers


def test_draws_depend_on_seed_and_number_alone() -> None:
    lm = model("llama")
    drawn = ours(lm, temperature=1.0, top_p=0.9, seed=5)
    assert drawn == ours(lm, temperature=1.0, top_p=0.9, seed=5, batch_size=1)
    assert drawn != ours(lm, temperature=1.0, top_p=0.9, seed=6)
    same = ours(lm, [PROMPTS[0]] * 5, temperature=1.0, seed=5)
    assert len({answer.ids for answer in same}) > 1


def test_draws_follow_the_distribution() -> None:
    lm, prompt = model("llama"), PROMPTS[0]
    with torch.no_grad():
        wanted = (lm(torch.tensor([prompt])).logits[0, -1].double() / 2).softmax(-1)
    drawn = ours(lm, [prompt] * 3000, temperature=2.0, max_new_tokens=1, stop=(60,), batch_size=500)
    found = torch.bincount(torch.tensor([answer.ids[0] for answer in drawn]), minlength=60) / 3000
    assert float((found - wanted).abs().sum()) / 2 < 0.08  # total variation
    nucleus = wanted.sort(descending=True)
    allowed = set(nucleus.indices[: int((nucleus.values.cumsum(0) < 0.5).sum()) + 1].tolist())
    drawn = ours(lm, [prompt] * 300, temperature=2.0, top_p=0.5, max_new_tokens=1, stop=(60,), batch_size=300)
    assert {answer.ids[0] for answer in drawn} == allowed
    cold = ours(lm, temperature=1e-4)
    assert cold == ours(lm)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_likelihoods_of_answers(family: str) -> None:
    lm, answers = model(family), [[3, 4, 2], [5, 2], [6]]
    found = answer_likelihoods(lm, PROMPTS[:5], answers, pad=0, batch_size=4)
    for prompt, row in zip(PROMPTS, found, strict=False):
        for answer, likelihood in zip(answers, row, strict=True):
            with torch.no_grad():
                logs = lm(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
            total = sum(float(logs[len(prompt) - 1 + place, token]) for place, token in enumerate(answer))
            assert likelihood.total == pytest.approx(total, abs=1e-4)
            assert likelihood.mean == pytest.approx(total / len(answer), abs=1e-4)


def test_the_whole_context_can_be_used_and_not_more() -> None:
    lm = model("gpt2")
    longest = [1, *range(3, 3 + CONTEXT - NEW - 1)]
    assert ours(lm, [longest]) == [by_transformers(lm, longest)]
    with pytest.raises(DiptychError, match=r"prompt 1: 53 tokens of prompt and 12 new ones .* context of 64"):
        ours(lm, [[1], [*longest, 4]])


def test_wrong_requests() -> None:
    lm = model("llama")
    with pytest.raises(DiptychError, match="prompt 1: the prompt has no tokens"):
        ours(lm, [[1], []])
    with pytest.raises(DiptychError, match="no stop token"):
        ours(lm, stop=())
    with pytest.raises(DiptychError, match="max_new_tokens: 0"):
        ours(lm, max_new_tokens=0)
    with pytest.raises(DiptychError, match="batch_size: 0"):
        ours(lm, batch_size=0)
    for wrong in ({"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(DiptychError, match="expected temperature"):
            Decoding(STOP, 0, NEW, **wrong)  # type: ignore[arg-type]
    assert ours(lm, []) == []


def test_batches_hold_similar_lengths_longest_first() -> None:
    assert make_batches([3, 9, 9, 1, 5], 2) == [[1, 2], [4, 0], [3]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_model_that_gives_no_numbers_is_refused(value: float) -> None:
    lm = copy.deepcopy(model("llama"))
    lm.lm_head.register_forward_hook(lambda layer, given, logits: logits.index_fill(-1, torch.tensor([5]), value))
    if value == -math.inf:  # a token that is forbidden
        assert all(5 not in answer.ids for answer in ours(lm))
        return
    with pytest.raises(DiptychError, match="logits that are NaN or infinite"):
        ours(lm)
    with pytest.raises(DiptychError, match="logits that are NaN or infinite"):
        answer_likelihoods(lm, PROMPTS[:2], [[3]], pad=0, batch_size=2)


RANKS_SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pretrain.runtime.distributed import start_ranks
from pretrain.runtime.command import exit_rank
from tests.finetune.test_generate import PROMPTS, model, ours
ranks = start_ranks(2)
lm = model("llama")
for changes in ({{}}, {{"temperature": 1.0, "seed": 3}}, {{"batch_size": 14}}):
    assert ours(lm, ranks=ranks, **changes) == ours(lm, **changes), changes
print("same answers")
exit_rank(0)
"""


@pytest.mark.ranks
def test_two_ranks_give_the_same_answers(tmp_path: Path) -> None:
    script = tmp_path / "two_ranks.py"
    script.write_text(RANKS_SCRIPT.format(tests=str(Path(__file__).parents[2])))
    for result in run_ranks(script, 2):
        assert "same answers" in result.output


# --- code of a model's own, which may know another name of the cache, or none

ARGUMENT = "cache" if "cache" in inspect.signature(LlamaForCausalLM.forward).parameters else "past_key_values"


class OwnCode(LlamaForCausalLM):  # type: ignore[misc]
    """Takes its cache as `past_key_values`, and swallows what it does not know."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, **rest):  # type: ignore[no-untyped-def]
        return self.run(input_ids, attention_mask, position_ids, past_key_values, rest.get("use_cache"))

    def run(self, ids: Any, mask: Any, positions: Any, cache: Any, use_cache: Any) -> Any:
        given = {"attention_mask": mask, "position_ids": positions, "use_cache": use_cache, ARGUMENT: cache}
        return super().forward(input_ids=ids, **given)


class NewName(OwnCode):
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, cache=None, **rest):  # type: ignore[no-untyped-def]
        return self.run(input_ids, attention_mask, position_ids, cache, rest.get("use_cache"))


class SwallowsAll(OwnCode):
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **rest):  # type: ignore[no-untyped-def]
        return self.run(input_ids, attention_mask, position_ids, None, rest.get("use_cache"))


class NamesNone(OwnCode):
    def forward(self, input_ids=None, attention_mask=None, use_cache=None):  # type: ignore[no-untyped-def]
        return self.run(input_ids, attention_mask, None, None, use_cache)


class ForgetsPadding(OwnCode):
    def run(self, ids: Any, mask: Any, positions: Any, cache: Any, use_cache: Any) -> Any:
        return super().run(ids, None, None, cache, use_cache)


class ReturnsNone(OwnCode):
    def run(self, ids: Any, mask: Any, positions: Any, cache: Any, use_cache: Any) -> Any:
        return super().run(ids, mask, positions, cache, False)


class IndexesTheCache(OwnCode):
    def run(self, ids: Any, mask: Any, positions: Any, cache: Any, use_cache: Any) -> Any:
        seen = 0 if cache is None else cache.tuples_of_layers[0][0].shape[2]
        return super().run(ids, mask[:, seen - seen :], positions, cache, use_cache)


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        (OwnCode, ""),
        (NewName, ""),
        (SwallowsAll, "gives other logits than without"),
        (NamesNone, "takes no cache or past_key_values"),
        (ForgetsPadding, "gives other logits than without"),
        (ReturnsNone, "returns no cache"),
        (IndexesTheCache, "fails with its cache (AttributeError: "),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_own_code_never_answers_without_its_past(own: Any, problem: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    lm, plain = own(LlamaConfig(**SHARED)).eval(), model("llama")
    lm.load_state_dict(plain.state_dict())
    lm.to(dtype)
    note = DecodingStep(lm, PROMPTS, 0).note
    assert problem in note and bool(note) == bool(problem)
    if dtype != torch.float32:
        return
    assert ours(lm, max_new_tokens=20) == ours(plain, max_new_tokens=20)
    assert ours(lm, temperature=1.0) == ours(plain, temperature=1.0)
    answers = [[3, 4, 2], [5, 2], [6]]
    found, wanted = (answer_likelihoods(each, PROMPTS, answers, pad=0, batch_size=4) for each in (lm, plain))
    for ours_, theirs in zip(found, wanted, strict=True):
        assert [each.total for each in ours_] == pytest.approx([each.total for each in theirs], abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_transformers_keep_their_cache(family: str, caplog: pytest.LogCaptureFixture) -> None:
    lm = copy.deepcopy(model(family))
    step = DecodingStep(lm, PROMPTS, 0)
    assert step.note == "" and step.cache_name == ARGUMENT
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours(lm)
    assert "deprecated" not in caplog.text
    assert DecodingStep(copy.deepcopy(lm).to(torch.bfloat16), PROMPTS, 0).note == ""

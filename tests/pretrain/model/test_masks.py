"""One pass over packed rows gives what separate passes give, and nothing crosses from one example to another."""

import random
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pretrain.config.sections import ObjectiveConfig
from pretrain.data.batch import Batch
from pretrain.data.branches import IGNORE, Branches, View
from pretrain.model.masks import block_mask, dense_mask
from pretrain.model.network import BranchNetwork, check_attention
from pretrain.objectives.mixed import MixedObjective
from pretrain.runtime.errors import DiptychError
from tests.support.tiny import BOS, EOS, PREDICTORS, batch_of, tiny_llama
from tests.support.trees import lay_out

ROW = 72
Pair = tuple[View, View]


def draw_pairs(count: int, seed: int = 0) -> list[Pair]:
    draw = random.Random(seed)

    def view() -> View:
        return View([draw.randrange(3, 57) for _ in range(draw.randrange(1, 8))], complete=draw.random() < 0.7)

    return [(view(), view()) for _ in range(count)]


def brute_force(segments: list[int], parents: list[int]) -> list[list[bool]]:
    length = len(segments)
    return [[j <= i and segments[j] in (segments[i], parents[i]) for j in range(length)] for i in range(length)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=24), st.integers(0, 3))
def test_dense_mask_follows_the_rule(pairs: list[tuple[int, int]], shift: int) -> None:
    first = ([a for a, _ in pairs], [b for _, b in pairs])
    second = (first[1], [(value + shift) % 6 for value in first[0]])
    mask = dense_mask(torch.tensor([first[0], second[0]]), torch.tensor([first[1], second[1]]))
    assert mask.dtype == torch.bool and mask.shape == (2, 1, len(pairs), len(pairs))
    assert mask[:, 0].tolist() == [brute_force(*first), brute_force(*second)]


def test_block_mask_follows_the_same_rule() -> None:
    branches = Branches("conditional", eos=EOS, bos=BOS, predictors=PREDICTORS)
    batch = batch_of(branches, [draw_pairs(9, seed=1), draw_pairs(3, seed=2)], 300)
    rule = block_mask(batch.segments, batch.parents).mask_mod
    index = torch.arange(300)
    found = torch.stack([rule(torch.tensor(row), torch.tensor(0), index[:, None], index[None, :]) for row in range(2)])
    assert torch.equal(found, dense_mask(batch.segments, batch.parents)[:, 0])


@pytest.mark.parametrize("layout", ["conditional", "independent"])
def test_padding_sees_itself_only_and_is_seen_by_nothing(layout: Any) -> None:
    batch = batch_of(Branches(layout, eos=EOS, bos=BOS, predictors=PREDICTORS), [draw_pairs(2), []], ROW)
    mask = dense_mask(batch.segments, batch.parents)[:, 0]
    used = batch.num_tokens
    assert not mask[0, :used, used:].any() and not mask[0, used:, :used].any()
    assert mask.any(dim=-1).all()  # a softmax over nothing is NaN
    assert mask[1].sum() == ROW * (ROW + 1) // 2


@pytest.mark.parametrize(("layout", "branched"), [*product(["conditional", "independent"], [True, False])])
def test_num_visible_counts_the_mask_without_padding(layout: Any, branched: bool) -> None:
    branches = Branches(layout, eos=EOS, bos=BOS, predictors=PREDICTORS)
    batch = batch_of(branches, [draw_pairs(3, seed=3), draw_pairs(1, seed=4)], ROW, branched=branched)
    mask = dense_mask(batch.segments, batch.parents)[:, 0]
    used = [int((batch.ids[row] != 0).sum()) for row in range(2)]
    assert batch.num_tokens == sum(used)
    assert batch.num_visible == sum(int(mask[row, : used[row]].sum()) for row in range(2))


def separate(lm: Any, branches: Branches, pair: Pair) -> tuple[float, dict[str, torch.Tensor]]:
    """LM loss and embeddings of a pair from one forward pass for each sequence, without mask or position ids."""
    bos = [] if branches.bos is None else [branches.bos]

    def states(ids: list[int]) -> torch.Tensor:
        return lm.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]

    def loss(ids: list[int], first_label: int, complete: bool) -> torch.Tensor:
        wanted = ids[first_label:] + ([EOS] if complete else [])
        logits = lm.lm_head(states(ids))[first_label - 1 : first_label - 1 + len(wanted)]
        return functional.cross_entropy(logits, torch.tensor(wanted), reduction="sum")

    one, two = ([*bos, *view.tokens] for view in pair)
    if branches.layout == "conditional":
        prompt = [*bos, *branches.lead, *pair[0].tokens, *branches.join]
        total = loss([*prompt, *pair[1].tokens], len(prompt), pair[1].complete)
    else:
        total = loss(one, 1, pair[0].complete) + loss(two, 1, pair[1].complete)
    source, target = (one, two) if branches.direction == "forward" else (two, one)
    embeddings = {
        "source": states(source)[len(bos) :],
        "prediction": states([*source, *branches.predictors])[-len(branches.predictors) or len(bos) :],
        "target": states(target)[len(bos) :],
    }
    return total, embeddings


@pytest.mark.parametrize(
    ("layout", "direction", "k", "bos", "lead", "join"),
    [
        *product(["conditional", "independent"], ["forward", "reverse"], [0, 1, 3], [BOS], [()], [()]),
        ("conditional", "forward", 1, None, (), ()),
        ("independent", "reverse", 2, None, (), ()),
        *product(["conditional"], ["forward", "reverse"], [0, 2], [BOS], [(), (11, 12)], [(21, 22, 23)]),
        ("conditional", "forward", 1, None, (11,), ()),
    ],
)
def test_one_pass_over_rows_equals_separate_passes(
    layout: Any, direction: Any, k: int, bos: int | None, lead: tuple[int, ...], join: tuple[int, ...]
) -> None:
    lm = tiny_llama()
    branches = Branches(layout, EOS, bos, PREDICTORS[:k], direction, lead, join)
    rows = [draw_pairs(2, seed=5), draw_pairs(1, seed=6), draw_pairs(2, seed=7)]
    batch = batch_of(branches, rows, ROW)
    with torch.no_grad():
        lm_sum, states, _ = BranchNetwork(lm)(batch)
        expected = [separate(lm, branches, pair) for row in rows for pair in row]
    assert float(lm_sum) == pytest.approx(sum(float(loss) for loss, _ in expected), rel=2e-6)
    for number, (_, embeddings) in enumerate(expected):
        for name, wanted in embeddings.items():
            start, stop = getattr(batch, f"{name}_spans")[number].tolist()
            torch.testing.assert_close(states[start:stop], wanted, atol=4e-6, rtol=0)


def test_gradients_equal_those_of_separate_passes() -> None:
    lm = tiny_llama()
    branches = Branches("conditional", eos=EOS, bos=BOS, predictors=PREDICTORS[:2])
    pairs = draw_pairs(3, seed=8)
    batch = batch_of(branches, [pairs], ROW)
    lm_sum, states, _ = BranchNetwork(lm)(batch)
    (lm_sum + MixedObjective(ObjectiveConfig()).distances(states, batch).sum()).backward()
    found = {name: parameter.grad.clone() for name, parameter in lm.named_parameters()}
    lm.zero_grad()
    for pair in pairs:
        loss, embeddings = separate(lm, branches, pair)
        cosine = functional.cosine_similarity(embeddings["prediction"][-1], embeddings["target"][-1], dim=0)
        (loss + 1 - cosine).backward()
    for name, parameter in lm.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=2e-5, rtol=2e-5, msg=name)


@pytest.mark.parametrize(("layout", "changed"), [*product(["conditional", "independent"], [0, 1, 2])])
def test_changing_one_example_leaves_the_others_bit_for_bit(layout: Any, changed: int) -> None:
    lm = tiny_llama()
    branches = Branches(layout, eos=EOS, bos=BOS, predictors=PREDICTORS[:2])
    pairs = draw_pairs(3, seed=9)
    others = list(pairs)
    others[changed] = tuple(View([3 + (token + 7) % 54 for token in view.tokens]) for view in pairs[changed])  # type: ignore[call-overload]
    sizes = [len(lay_out(branches, *pair, branched=True)[0].ids) for pair in pairs]
    own = torch.zeros(ROW, dtype=torch.bool)
    own[sum(sizes[:changed]) : sum(sizes[: changed + 1])] = True

    def logits(row: list[Pair]) -> torch.Tensor:
        with torch.no_grad():
            return lm.lm_head(BranchNetwork(lm)(batch_of(branches, [row], ROW))[1])

    before, after = logits(pairs), logits(others)
    assert torch.equal(before[~own], after[~own])
    assert not torch.equal(before[own], after[own])


@pytest.mark.parametrize("layout", ["conditional", "independent"])
def test_loss_of_one_example_has_no_gradient_in_the_tokens_of_another(layout: Any) -> None:
    lm = tiny_llama()
    branches = Branches(layout, eos=EOS, bos=None, predictors=PREDICTORS[:1])
    pairs = [(View([5, 6, 7]), View([8, 9])), (View([15, 16]), View([17, 18, 19]))]
    batch = batch_of(branches, [pairs], ROW)
    _, states, _ = BranchNetwork(lm)(batch)
    own = len(lay_out(branches, *pairs[0], branched=True)[0].ids)
    states[:own].square().sum().backward()
    gradient = lm.base_model.embed_tokens.weight.grad
    assert not gradient[15:20].any()
    assert gradient[5:10].any(dim=-1).all()


def test_rows_of_nothing_but_padding_give_zero_loss_and_finite_gradients() -> None:
    lm = tiny_llama()
    lm_sum, states, _ = BranchNetwork(lm)(batch_of(Branches("conditional", eos=EOS), [[], []], 16))
    assert lm_sum.item() == 0 and torch.isfinite(states).all()
    (lm_sum + 0 * states.sum()).backward()
    for name, parameter in lm.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_an_empty_row_beside_a_full_one_changes_nothing() -> None:
    lm = tiny_llama()
    branches = Branches("independent", eos=EOS, bos=BOS, predictors=PREDICTORS[:1])
    with torch.no_grad():
        alone, *_ = BranchNetwork(lm)(batch_of(branches, [draw_pairs(3)], ROW))
        beside, *_ = BranchNetwork(lm)(batch_of(branches, [[], draw_pairs(3), []], ROW))
    assert float(beside) == pytest.approx(float(alone), rel=1e-6)


@pytest.mark.parametrize(("chunk", "capacity"), [(1, None), (7, None), (7, 60), (4096, 60), (1000, 5000)])
def test_loss_in_chunks_is_the_loss_in_one_piece(chunk: int, capacity: int | None) -> None:
    lm = tiny_llama()
    batch = batch_of(Branches("independent", eos=EOS, bos=BOS), [draw_pairs(4)], ROW)
    whole, *_ = BranchNetwork(lm)(batch)
    whole.backward()
    expected = lm.lm_head.weight.grad.clone()
    lm.zero_grad()
    wider = Batch(**{**vars(batch), "label_capacity": capacity or batch.label_capacity})
    parts, *_ = BranchNetwork(lm, loss_chunk_tokens=chunk)(wider)
    parts.backward()
    assert float(parts) == pytest.approx(float(whole), rel=1e-6)
    torch.testing.assert_close(lm.lm_head.weight.grad, expected, atol=1e-5, rtol=1e-5)


def test_number_of_head_calls_depends_on_the_capacity_not_on_the_labels_of_this_rank() -> None:
    lm = tiny_llama()
    calls = []
    lm.lm_head.register_forward_hook(lambda *_: calls.append(1))
    branches = Branches("independent", eos=EOS, bos=BOS)
    for rows in ([draw_pairs(4)], [[]]):
        batch = batch_of(branches, rows, ROW)
        with torch.no_grad():
            BranchNetwork(lm, loss_chunk_tokens=10)(Batch(**{**vars(batch), "label_capacity": 45}))
        assert len(calls) == 5
        calls.clear()


def test_labels_lie_where_the_tree_put_them() -> None:
    branches = Branches("conditional", eos=EOS, bos=BOS, predictors=PREDICTORS[:1])
    pairs = [(View([5, 6]), View([7, 8])), (View([9]), View([10], complete=False))]
    batch = batch_of(branches, [[pairs[0]], [pairs[1]]], 16)
    flat = torch.full((32,), IGNORE)
    flat[batch.label_index] = batch.labels
    assert flat[:5].tolist() == [IGNORE, IGNORE, 7, 8, EOS]
    assert flat[16:19].tolist() == [IGNORE, 10, IGNORE]
    assert batch.label_capacity == len(batch.labels) == 4
    assert batch.pair_capacity == 2 and batch.groups.tolist() == [0, 1]


def test_flex_attention_agrees_with_sdpa_on_the_cpu() -> None:
    """Forward only, without compilation: FlexAttention has no backward pass on the CPU."""
    flex = pytest.importorskip("torch.nn.attention.flex_attention", reason="this torch has no FlexAttention")
    branches = Branches("conditional", eos=EOS, bos=BOS, predictors=PREDICTORS)
    batch = batch_of(branches, [draw_pairs(9, seed=1), draw_pairs(3, seed=2), []], 300)
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 3, 4, 300, 16).unbind()
    try:
        with torch.no_grad():
            found = flex.flex_attention(query, key, value, block_mask=block_mask(batch.segments, batch.parents))
    except (NotImplementedError, RuntimeError) as error:
        pytest.skip(f"FlexAttention does not run on this CPU: {error}")
    mask = dense_mask(batch.segments, batch.parents)
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def test_flex_is_refused_where_it_cannot_train(monkeypatch: pytest.MonkeyPatch) -> None:
    check_attention("sdpa", torch.device("cpu"))
    with pytest.raises(DiptychError, match=r"model\.attention: flex has no backward pass on the CPU; use auto or sdpa"):
        check_attention("flex", torch.device("cpu"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DiptychError, match=r"found no C\+\+ compiler.*model\.attention=sdpa"):
        check_attention("flex", torch.device("cuda"))

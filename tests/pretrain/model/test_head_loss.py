"""The head's own loss against plain autograd in float64, and what blocks are."""

from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.nn import functional

from pretrain.data.branches import Branches, View
from pretrain.model.blocks import Shape, blocks, compile_blocks, compile_problem, recompute_blocks, shape
from pretrain.model.head_loss import LossHead
from pretrain.model.network import BranchNetwork
from pretrain.runtime.errors import DiptychError
from pretrain.training.introduction import compile_note
from tests.support.tiny import BOS, EOS, PREDICTORS, batch_of, tiny_llama


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_loss_and_gradients_are_those_of_autograd(cap: float | None, bias: bool, chunk: int) -> None:
    torch.manual_seed(0)
    head = nn.Linear(16, 50, bias=bias).double()
    states, labels = 3 * torch.randn(23, 16, dtype=torch.float64), torch.randint(50, (23,))

    def gradients(loss: Any) -> list[torch.Tensor]:
        return list(torch.autograd.grad(0.3 * loss, [leaf, *head.parameters()]))

    leaf = states.requires_grad_()
    logits = head(leaf)
    logits = cap * torch.tanh(logits / cap) if cap else logits
    expected = functional.cross_entropy(logits, labels, reduction="sum")
    of_autograd = gradients(expected)
    LossHead.take_over(head, cap=cap, chunk_tokens=chunk)
    found = head(leaf, labels)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    for ours, theirs in zip(gradients(found), of_autograd, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)
    assert torch.equal(head(leaf), functional.linear(leaf, head.weight, head.bias))


def test_a_frozen_head_and_no_labels() -> None:
    head = nn.Linear(4, 6, bias=False)
    LossHead.take_over(head, cap=None, chunk_tokens=3)
    states = torch.randn(5, 4, requires_grad=True)
    head(states[:0], torch.zeros(0, dtype=torch.long)).backward()
    assert not head.weight.grad.any()  # there, and zero: other ranks may have labels
    head.requires_grad_(False)
    head(states, torch.arange(5)).backward()
    assert states.grad is not None and states.grad.any()


def test_blocks_and_shape_of_a_model() -> None:
    lm = tiny_llama()
    units = blocks(lm)
    assert units == list(lm.model.layers)
    expected = sum(parameter.numel() for parameter in units[0].parameters())
    largest = max(parameter.numel() for parameter in lm.parameters())
    total = sum(parameter.numel() for parameter in lm.parameters())
    assert shape(lm) == Shape(total, expected, largest)


@pytest.mark.parametrize(("every", "expected"), [(1, [True, True]), (2, [True, False])])
def test_every_nth_block_is_recomputed(every: int, expected: list[bool]) -> None:
    lm = tiny_llama().train()
    recompute_blocks(lm, every)
    calls = [0] * len(expected)
    for number, block in enumerate(blocks(lm)):  # hooks of the block itself do not run when it is recomputed

        def count(*_: Any, number: int = number) -> None:
            calls[number] += 1

        next(block.children()).register_forward_pre_hook(count)
    lm(torch.tensor([[5, 6, 7]])).logits.sum().backward()
    assert [count == 2 for count in calls] == expected


def test_why_blocks_are_not_compiled() -> None:
    lm = tiny_llama()
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert compile_problem("auto", lm, cuda) is None and compile_problem(True, lm, cpu) is None
    assert "CUDA alone" in str(compile_problem("auto", lm, cpu))
    assert compile_problem(False, lm, cuda) == "model.compile is false"
    lm.model.layers = nn.ModuleList()
    assert "no blocks that are known" in str(compile_problem("auto", lm, cuda))
    with pytest.raises(DiptychError, match=r"model\.compile: 'llama' has no blocks"):
        compile_problem(True, lm, cuda)


@pytest.mark.slow
@pytest.mark.parametrize("every", [0, 1])
def test_compiled_blocks_compute_what_they_did_and_share_their_code(every: int) -> None:
    lm = tiny_llama().train()
    if every:
        recompute_blocks(lm, every)
    pairs = [(View([5, 6, 7, number]), View([8, number, 9])) for number in range(10, 15)]
    batch = batch_of(Branches("independent", eos=EOS, bos=BOS, predictors=PREDICTORS[:1]), [pairs], 96)

    def step() -> tuple[float, list[torch.Tensor]]:
        loss, states, _ = BranchNetwork(lm)(batch)
        gradients = torch.autograd.grad(loss + states.square().sum(), list(lm.parameters()))
        return float(loss.detach()), list(gradients)

    expected_loss, expected = step()
    torch._dynamo.reset()
    counters["stats"].clear()
    compile_blocks(lm)
    loss, gradients = step()
    assert counters["stats"]["unique_graphs"] == 1 and len(blocks(lm)) > 1
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert float(torch.linalg.vector_norm(ours - theirs)) <= 1e-4 * float(torch.linalg.vector_norm(theirs))
    lm.eval()
    with torch.no_grad():
        BranchNetwork(lm)(batch)
    assert counters["stats"]["unique_graphs"] == 1  # evaluation is not compiled


def test_a_gpu_run_says_why_its_blocks_are_not_compiled() -> None:
    lm = tiny_llama()
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert not [*compile_note("auto", lm, cuda), *compile_note(False, lm, cuda), *compile_note("auto", lm, cpu)]
    lm.model.layers = nn.ModuleList()
    (note,) = compile_note("auto", lm, cuda)
    assert note.startswith("note: blocks are not compiled (model.compile: 'llama' has no blocks that are known)")

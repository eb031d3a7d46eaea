"""FlexAttention against SDPA on CUDA: the same loss and the same gradients."""

import random
from typing import Any

import pytest
import torch

from pretrain.config.sections import ObjectiveConfig
from pretrain.data.branches import Branches, View
from pretrain.model.blocks import compile_blocks
from pretrain.model.network import BranchNetwork, check_attention
from pretrain.objectives.mixed import MixedObjective
from pretrain.runtime.errors import DiptychError
from tests.support.tiny import BOS, EOS, PREDICTORS, batch_of, tiny_llama
from tests.support.trees import lay_out

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention trains on CUDA only, and there is none"),
]


def rows(seed: int) -> list[list[tuple[View, View]]]:
    draw = random.Random(seed)

    def view() -> View:
        return View([draw.randrange(3, 57) for _ in range(draw.randrange(2, 20))], complete=draw.random() < 0.8)

    return [[(view(), view()) for _ in range(count)] for count in (5, 2, 0)]


def run(
    attention: str, layout: Any, dtype: torch.dtype, *, compiled: bool = False
) -> tuple[float, torch.Tensor, dict[str, torch.Tensor]]:
    device = torch.device("cuda")
    try:
        check_attention({"flex_attention": "flex"}.get(attention, attention), device)
    except DiptychError as error:
        pytest.skip(str(error))
    lm = tiny_llama(attention, head_dim=16).to(device, dtype).train()
    if compiled:
        compile_blocks(lm)
    branches = Branches(layout, eos=EOS, bos=BOS, predictors=PREDICTORS[:2])
    batch = batch_of(branches, rows(0), 384).to(device)
    lm_sum, states, _ = BranchNetwork(lm)(batch)
    loss = lm_sum / len(batch.labels) + MixedObjective(ObjectiveConfig()).distances(states, batch).mean()
    loss.backward()
    gradients = {name: parameter.grad.float().cpu() for name, parameter in lm.named_parameters()}
    used = torch.cat([batch.label_index, batch.prediction_spans[:, 1] - 1, batch.target_spans[:, 1] - 1])
    return float(loss), states[used].detach().float().cpu(), gradients


@pytest.mark.parametrize("layout", ["conditional", "independent"])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-3), (torch.bfloat16, 5e-2)])
def test_flex_and_sdpa_give_the_same_loss_states_and_gradients(
    layout: Any, dtype: torch.dtype, tolerance: float, compiled: bool
) -> None:
    """Relative to the size of each tensor; float32 leaves room for TF32 products inside the kernel."""
    loss, states, gradients = run("flex_attention", layout, dtype, compiled=compiled)
    expected_loss, expected_states, expected_gradients = run("sdpa", layout, dtype)
    assert loss == pytest.approx(expected_loss, rel=tolerance)
    pairs = {"states": (states, expected_states)}
    pairs |= {name: (gradients[name], expected_gradients[name]) for name in expected_gradients}
    for name, (found, expected) in pairs.items():
        difference = torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)
        assert float(difference) < tolerance, name


def test_flex_does_not_leak_between_examples() -> None:
    lm = tiny_llama("flex_attention", head_dim=16).cuda()
    branches = Branches("independent", eos=EOS, bos=BOS, predictors=PREDICTORS[:1])
    pairs = rows(1)[0]
    others = [*pairs[:-1], (View([50] * len(pairs[-1][0].tokens)), View([51] * len(pairs[-1][1].tokens)))]
    kept = sum(len(lay_out(branches, *pair, branched=True)[0].ids) for pair in pairs[:-1])
    with torch.no_grad():
        before, after = (
            BranchNetwork(lm)(batch_of(branches, [row], 384).to(torch.device("cuda")))[1] for row in (pairs, others)
        )
    assert torch.equal(before[:kept], after[:kept])
    assert not torch.equal(before, after)

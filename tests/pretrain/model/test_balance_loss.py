"""The load-balancing loss of mixtures of experts: transformers' own value of each row, whatever the ranks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MixtralConfig
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from finetune.generate import generate
from pretrain.config.sections import ObjectiveConfig
from pretrain.data.batch import BatchBuilder
from pretrain.data.branches import Branches
from pretrain.data.mixture import resolve
from pretrain.data.order import Order
from pretrain.data.packing import WindowPlanner
from pretrain.data.schedule import Schedule
from pretrain.model.balance_loss import balance_sum, balance_weight
from pretrain.model.network import BranchNetwork
from pretrain.objectives.mixed import MixedObjective
from tests.support.ranks import run_ranks
from tests.support.splits import MadeSplit
from tests.support.tiny import BOS, EOS, PAD, PREDICTORS, VOCABULARY
from tests.support.tiny_run import tiny_run

ROUTED = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "output_router_logits": True,
}


def mixtral(weight: float = 2.0, **changes: Any) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = MixtralConfig(
        **ROUTED | changes, vocab_size=VOCABULARY, router_aux_loss_coef=weight, initializer_range=0.1
    )
    return AutoModelForCausalLM.from_config(config)


def test_a_row_has_the_value_of_transformers() -> None:
    logits = [3 * torch.randn(3 * 10, 5, generator=torch.Generator().manual_seed(layer)) for layer in range(4)]
    lengths = torch.tensor([10, 7, 0])
    for chosen in (1, 2):
        expected = 0.0
        for row, length in enumerate(lengths.tolist()):
            if length:
                mask = (torch.arange(10) < length).long()[None]
                own = tuple(layer.view(3, 10, 5)[row] for layer in logits)
                expected += length * float(load_balancing_loss_func(own, 5, chosen, mask))
        assert float(balance_sum(logits, chosen, lengths)) == pytest.approx(expected, rel=1e-5)


def step_gradients(world: int, micro: int, weight: float, **changes: Any) -> tuple[float, dict[str, Any]]:
    """A step's balance loss and gradients: all ranks' micro-batches one after the other."""
    split = MadeSplit({"pairs": 24}, longest=7)
    branches = Branches("conditional", eos=EOS, bos=BOS, predictors=PREDICTORS[:1])
    builder = BatchBuilder(split, branches, 48, PAD)  # type: ignore[arg-type]
    lm = mixtral(weight, **changes)
    network, order = BranchNetwork(lm).train(), Order(resolve((), split.sources, repeat=False), seed=0)
    objective = MixedObjective(ObjectiveConfig(distance="cosine"), balance_weight=balance_weight(lm.config))
    total = 0.0
    for rank in range(world):
        planner = WindowPlanner(split, order, branches, 48, branched=True, dropout=0.0)
        schedule = Schedule(planner, rows_per_step=6, micro_batch_rows=micro, rank=rank, world_size=world)
        step = schedule.step(0)
        for part in step.micro_batches:
            batch = builder.build(part)
            lm_sum, states, balance = network(batch)
            terms = objective(states, lm_sum, batch, step, balance)
            terms.loss.backward()  # type: ignore[no-untyped-call]
            total += float(terms.balance_sum) / step.num_tokens
    return total, {name: parameter.grad for name, parameter in lm.named_parameters()}


def test_ranks_and_accumulation_change_nothing_and_the_weight_does() -> None:
    loss, gradients = step_gradients(1, 6, 2.0)
    assert loss > 2  # two of four experts: 2 if all are used alike
    for world, micro in ((1, 1), (2, 2), (5, 1)):
        other, found = step_gradients(world, micro, 2.0)
        assert other == pytest.approx(loss, rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, atol=3e-6, rtol=1e-4, msg=f"{name} {world} {micro}")
    gate = next(name for name in gradients if name.endswith("gate.weight"))
    for weight in (0.0, 100.0):
        assert not torch.allclose(step_gradients(1, 6, weight)[1][gate], gradients[gate], rtol=0.1)
    off, without = step_gradients(1, 6, 100.0, output_router_logits=False)
    assert off == 0
    torch.testing.assert_close(without[gate], step_gradients(1, 6, 0.0)[1][gate])


def test_recomputed_blocks_give_the_same_gradient() -> None:
    kept, recomputed = mixtral().train(), mixtral().train()
    recomputed.activation_checkpointing_enable({"use_reentrant": False})
    gradients = []
    for lm in (kept, recomputed):
        split = MadeSplit({"pairs": 4}, longest=7)
        branches = Branches("conditional", eos=EOS, bos=BOS, predictors=())
        order = Order(resolve((), split.sources, repeat=False), seed=0)
        planner = WindowPlanner(split, order, branches, 48, branched=True, dropout=0.0)
        step = Schedule(planner, rows_per_step=2, micro_batch_rows=2, rank=0, world_size=1).step(0)
        batch = BatchBuilder(split, branches, 48, PAD).build(step.micro_batches[0])  # type: ignore[arg-type]
        BranchNetwork(lm)(batch)[2].backward()
        gradients.append({name: value.grad for name, value in lm.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and any("gate" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_answers_do_not_need_the_loss() -> None:
    prompts = [[3, 4, 5, 6], [7, 8], [9, 10, 11]]
    answers = [
        generate(mixtral(output_router_logits=asked).eval(), prompts, stop=[2], pad=0, max_new_tokens=4, batch_size=3)
        for asked in (True, False)
    ]
    assert answers[0] == answers[1]


@pytest.mark.ranks
def test_a_run_logs_the_loss_and_trains_with_it(tmp_path: Path) -> None:
    found, gates = [], []
    for weight in (0.0, 100.0):
        (folder := tmp_path / str(weight)).mkdir()
        fields = ROUTED | {"router_aux_loss_coef": weight}
        path = tiny_run(
            folder,
            data={"folder": str(tmp_path / "data")},
            model={"type": "mixtral", "fields": fields},
            train={"steps": 3},
            optimizer={"lr": 1e-2, "warmup_steps": 0},
            evaluation={"prompts": 1, "new_tokens": 4},
            logging={"every": 1},
        )
        assert yaml.safe_load(path.read_text())["model"]["fields"]["output_router_logits"]
        run_ranks("-m pretrain", 1, path)
        rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        found.append([row["train/balance_loss"] for row in rows if "train/balance_loss" in row])
        weights = load_file(folder / "run" / "export" / "model.safetensors")
        gates.append({name: value for name, value in weights.items() if name.endswith("gate.weight")})
    assert found[0] == []  # not computed
    assert len(found[1]) == 3 and all(1.9 < value < 4 for value in found[1])  # 2: two of four experts, used alike
    assert gates[0] and all(not torch.equal(value, gates[1][name]) for name, value in gates[0].items())

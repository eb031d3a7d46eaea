"""Distances against references written here, groups over ranks, pooling, weights, and the published code's values."""

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from pretrain.config.sections import COUPLING_DISTANCES, DistanceName, ObjectiveConfig
from pretrain.data.batch import Batch, BatchBuilder
from pretrain.data.branches import Branches
from pretrain.data.mixture import resolve
from pretrain.data.order import Order
from pretrain.data.packing import WindowPlanner
from pretrain.data.schedule import Schedule, Step
from pretrain.model.network import BranchNetwork
from pretrain.objectives import OBJECTIVES
from pretrain.objectives.groups import PairGroups
from pretrain.objectives.mixed import MixedObjective
from pretrain.runtime.errors import DiptychError
from pretrain.tools import conformance
from tests.support.ranks import run_alone, run_ranks
from tests.support.splits import MadeSplit
from tests.support.tiny import BOS, EOS, PAD, PREDICTORS, tiny_llama
from tests.workers.infonce import COUNTS, GROUPS, draw, objective_gradients

TEMPERATURE = 0.2
GROUP_OF = [0, 1, 0, 0, 2, 1]  # pair 4 is alone
Array = Any


def unit(vector: Array) -> Array:
    return vector / np.sqrt((vector**2).sum())


def reference_infonce(predictions: Array, targets: Array) -> list[float]:
    values = []
    for i, group in enumerate(GROUP_OF):
        scores = {
            j: float(unit(predictions[i]) @ unit(targets[j])) / TEMPERATURE
            for j, other in enumerate(GROUP_OF)
            if other == group
        }
        values.append(np.log(sum(np.exp(score) for score in scores.values())) - scores[i])
    return values


REFERENCES = {
    "cosine": lambda p, t: [1 - unit(a) @ unit(b) for a, b in zip(p, t, strict=True)],
    "l2": lambda p, t: [np.sqrt(((a - b) ** 2).sum()) for a, b in zip(p, t, strict=True)],
    "normalized_l2": lambda p, t: [np.sqrt(((unit(a) - unit(b)) ** 2).sum()) for a, b in zip(p, t, strict=True)],
    "mse": lambda p, t: [((a - b) ** 2).sum() / len(a) for a, b in zip(p, t, strict=True)],
    "infonce": reference_infonce,
}


def groups_of(numbers: list[int]) -> PairGroups:
    return PairGroups(torch.tensor(numbers), TEMPERATURE, len(numbers))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_distance_and_its_gradient_match_the_reference(name: str) -> None:
    """Gradients against central differences of the reference, with a weight of its own for each pair."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(6, 5)), 3 * rng.normal(size=(6, 5))]
    weights = rng.normal(size=6)
    prediction, target = (torch.tensor(array, requires_grad=True) for array in arrays)
    values = OBJECTIVES[name].function(prediction, target, groups_of(GROUP_OF))
    assert values.shape == (6,)
    np.testing.assert_allclose(values.detach().numpy(), REFERENCES[name](*arrays), rtol=1e-12, atol=1e-12)
    (values * torch.tensor(weights)).sum().backward()
    for which, tensor in enumerate((prediction, target)):
        expected = np.zeros_like(arrays[which])
        for place in np.ndindex(expected.shape):
            sides = []
            for sign in (1, -1):
                moved = [array.copy() for array in arrays]
                moved[which][place] += sign * 1e-6
                sides.append(float(np.dot(REFERENCES[name](*moved), weights)))
            expected[place] = (sides[0] - sides[1]) / 2e-6
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_every_objective_has_a_reference_here() -> None:
    assert set(REFERENCES) == set(OBJECTIVES)
    assert set(get_args(DistanceName)) == set(OBJECTIVES)
    assert COUPLING_DISTANCES == ("infonce",)


def test_distances_of_equal_and_opposite_embeddings() -> None:
    vector = torch.tensor([[3.0, 4.0]])
    alone = groups_of([0])
    for name, opposite in {"cosine": 2.0, "l2": 10.0, "normalized_l2": 2.0, "mse": 50.0}.items():
        function = OBJECTIVES[name].function
        assert float(function(vector, vector, alone)) == pytest.approx(0, abs=1e-6)
        assert float(function(vector, -vector, alone)) == pytest.approx(opposite)


def test_infonce_compares_within_a_group_only() -> None:
    torch.manual_seed(0)
    prediction, target = torch.randn(6, 4), torch.randn(6, 4)
    infonce = OBJECTIVES["infonce"].function
    before = infonce(prediction, target, groups_of(GROUP_OF))
    assert before[4] == 0  # nothing to be told from
    changed = target.clone()
    changed[[1, 5]] = torch.randn(2, 4)
    after = infonce(prediction, changed, groups_of(GROUP_OF))
    others = [0, 2, 3, 4]
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[[1, 5]], after[[1, 5]])


def test_infonce_of_a_pair_that_is_alone_has_zero_gradient() -> None:
    prediction = torch.randn(2, 4, requires_grad=True)
    OBJECTIVES["infonce"].function(prediction, torch.randn(2, 4), groups_of([0, 1])).sum().backward()
    assert prediction.grad is not None and not prediction.grad.any()


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_no_pairs_give_no_distances(name: str) -> None:
    empty = torch.zeros(0, 4, requires_grad=True)
    values = OBJECTIVES[name].function(empty, empty, groups_of([]))
    assert values.shape == (0,)
    values.sum().backward()


# ------------------------------------------------------------------------------------------------------ over ranks


@pytest.mark.ranks
def test_infonce_over_two_ranks_is_that_of_one_process(tmp_path: Path) -> None:
    """Groups spread over ranks with unequal pairs, and one rank without any: the same values and gradients."""
    run_ranks(Path(__file__).parents[2] / "workers" / "infonce.py", 2, tmp_path, timeout=90)
    for case, counts in COUNTS.items():
        states = [draw(case, rank) for rank in range(2)]
        for stop_gradient in (False, True):
            whole = [torch.cat([states[0][which], states[1][which]]) for which in (0, 1)]
            groups = GROUPS[case][0] + GROUPS[case][1]
            values, *gradients = objective_gradients(whole, groups, len(groups), stop_gradient, 0, 1)
            start = 0
            for rank, count in enumerate(counts):
                found = torch.load(tmp_path / f"{case}-{stop_gradient}-{rank}.pt", weights_only=True)
                own = slice(start, start + count)
                torch.testing.assert_close(found[0], values[own], atol=1e-6, rtol=1e-6)
                for tensor, expected in zip(found[1:], gradients, strict=True):
                    torch.testing.assert_close(tensor, expected[own], atol=1e-6, rtol=1e-6)
                start += count
            assert stop_gradient or sum(counts) == len(values)


# ---------------------------------------------------------------------------------------------- the mixed objective


def objective(**settings: Any) -> MixedObjective:
    return MixedObjective(ObjectiveConfig(**settings))


def spans_batch(prediction: list[list[int]], target: list[list[int]]) -> Batch:
    """A batch of which only the pairs matter."""
    one = torch.zeros(1, 1, dtype=torch.int64)
    none = torch.zeros(0, dtype=torch.int64)
    spans = torch.tensor(prediction), torch.tensor(target)
    groups = torch.zeros(len(prediction), dtype=torch.int64)
    return Batch(one, one, one, one, none, none, spans[0], *spans, groups, 0, len(prediction), 1, 1, one)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_pooling_reads_the_last_token_or_the_mean(pooling: str) -> None:
    torch.manual_seed(0)
    states = torch.randn(20, 8, dtype=torch.bfloat16)
    spans = [(0, 1), (3, 9), (19, 20), (4, 6), (3, 9)]
    found = objective(pooling=pooling).pool(states, torch.tensor(spans))
    assert found.dtype == torch.float32
    for row, (start, stop) in zip(found, spans, strict=True):
        tokens = states[start:stop].float()
        torch.testing.assert_close(row, tokens[-1] if pooling == "last" else tokens.mean(dim=0))


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_pooling_of_no_spans_is_empty(pooling: str) -> None:
    found = objective(pooling=pooling).pool(torch.randn(4, 8), torch.zeros(0, 2, dtype=torch.int64))
    assert found.shape == (0, 8)


@pytest.mark.parametrize("distance", sorted(OBJECTIVES))
def test_stop_gradient_holds_the_target_still(distance: str) -> None:
    torch.manual_seed(0)
    gradients = {}
    for stop in (True, False):
        states = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
        batch = spans_batch([[0, 1], [2, 3]], [[4, 5], [6, 7]])
        objective(distance=distance, stop_gradient=stop).distances(states, batch).sum().backward()
        gradients[stop] = states.grad
    stopped, free = gradients[True], gradients[False]
    assert not stopped[[4, 6]].any() and free[[4, 6]].any()
    assert torch.equal(stopped[[0, 2]], free[[0, 2]])


def test_lambda_rises_linearly_over_its_warm_up() -> None:
    warm = objective(**{"lambda": 2.0}, lambda_warmup_steps=4)
    assert [warm.weight(step) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert objective(**{"lambda": 0.3}).weight(0) == 0.3


def test_dropout_lowers_the_weight_unless_it_is_divided_out() -> None:
    assert objective(dropout=0.75).weight(0) == 1.0
    assert objective(dropout=0.75, dropout_rescale=True).weight(0) == 4.0
    assert objective(dropout=0.75, dropout_rescale=True, lambda_warmup_steps=2).weight(0) == 2.0


def test_loss_is_gamma_times_lm_plus_lambda_times_distance_over_the_counts_of_the_step() -> None:
    states = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    batch = spans_batch([[0, 1], [2, 3]], [[1, 2], [3, 4]])
    step = Step(index=0, num_labels=50, num_pairs=8, micro_batches=())
    terms = objective(gamma=0.5, **{"lambda": 3.0})(states, torch.tensor(20.0), batch, step)
    pairs = 1 + (1 - 0.5**0.5)
    assert float(terms.pair_sum) == pytest.approx(pairs)
    assert float(terms.loss) == pytest.approx(0.5 * 20 / 50 + 3 * pairs / 8)
    assert float(terms.lm_sum) == 20 and terms.num_pairs == 2


def test_lambda_zero_needs_no_branches_and_leaves_the_language_model() -> None:
    plain = objective(**{"lambda": 0.0})
    assert not plain.needs_branches and objective().needs_branches
    batch = spans_batch([], [])
    batch = Batch(**{**vars(batch), "source_spans": torch.zeros(0, 2), "groups": torch.zeros(0)})
    terms = plain(torch.randn(4, 2), torch.tensor(20.0), batch, Step(0, 50, 8, ()))
    assert float(terms.loss) == pytest.approx(0.4) and float(terms.pair_sum) == 0


def step_gradients(
    world: int, micro: int, config: ObjectiveConfig, layout: Any
) -> tuple[float, dict[str, torch.Tensor]]:
    """One optimizer step's loss and gradients: all ranks' micro-batches one after the other."""
    split = MadeSplit({"pairs": 24}, longest=7)
    branches = Branches(layout, eos=EOS, bos=BOS, predictors=PREDICTORS[:1])
    builder = BatchBuilder(split, branches, 48, PAD)  # type: ignore[arg-type]
    network = BranchNetwork(tiny_llama())
    order = Order(resolve((), split.sources, repeat=False), seed=0)
    loss = 0.0
    for rank in range(world):
        schedule = Schedule(
            WindowPlanner(split, order, branches, 48, branched=True, dropout=config.dropout),
            rows_per_step=6,
            micro_batch_rows=micro,
            rank=rank,
            world_size=world,
        )
        step = schedule.step(0)
        for part in step.micro_batches:
            batch = builder.build(part)
            lm_sum, states, _ = network(batch)
            terms = MixedObjective(config)(states, lm_sum, batch, step)
            terms.loss.backward()
            loss += float(terms.loss.detach())
    return loss, {name: parameter.grad for name, parameter in network.lm.named_parameters()}


@pytest.mark.parametrize("layout", ["conditional", "independent"])
@pytest.mark.parametrize("distance", ["cosine", "infonce"])
def test_loss_and_gradient_of_a_step_do_not_depend_on_ranks_and_accumulation(distance: str, layout: str) -> None:
    config = ObjectiveConfig(distance=distance, dropout=0.3)
    loss, gradients = step_gradients(1, 6, config, layout)
    for world, micro in [(1, 1), (1, 4), (2, 2), (4, 1), (5, 3)]:
        other, found = step_gradients(world, micro, config, layout)
        assert other == pytest.approx(loss, rel=2e-6), (world, micro)
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, atol=3e-6, rtol=1e-4, msg=f"{name} {world} {micro}")


def test_a_dropped_pair_still_counts_as_a_pair() -> None:
    full, _ = step_gradients(1, 6, ObjectiveConfig(gamma=0.0, distance="l2"), "independent")
    kept, _ = step_gradients(1, 6, ObjectiveConfig(gamma=0.0, distance="l2", dropout=0.5), "independent")
    rescaled, _ = step_gradients(
        1, 6, ObjectiveConfig(gamma=0.0, distance="l2", dropout=0.5, dropout_rescale=True), "independent"
    )
    assert rescaled == pytest.approx(2 * kept, rel=1e-6)
    assert 0.2 < kept / full < 0.8


# ------------------------------------------------------------------------------------- values of the published code


@pytest.fixture
def golden(shared: Path) -> Path:
    if not (shared / "golden" / "cases.json").is_file():
        pytest.skip(f"no golden values under {shared}")
    return shared / "golden"


def altered(golden: Path, folder: Path, change: Any) -> Path:
    """A copy of the golden folder with the first two cases, the first changed."""
    cases = json.loads((golden / "cases.json").read_text())
    cases["cases"] = cases["cases"][:2]
    change(cases["cases"][0])
    shutil.copytree(golden / "model", folder / "model")
    (folder / "cases.json").write_text(json.dumps(cases))
    return folder


def test_golden_values_are_reproduced(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert conformance.main([str(golden)]) == 0
    count = len(json.loads((golden / "cases.json").read_text())["cases"])
    output = capsys.readouterr().out
    assert f"{count} of {count} cases agree" in output and "DIFFERS" not in output


@pytest.mark.parametrize("key", ["lm_loss", "jepa_loss", "grad_norms"])
@pytest.mark.parametrize("value", ["altered", "nan"])
def test_an_altered_golden_value_is_found(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: str
) -> None:
    def change(case: dict[str, Any]) -> None:
        place, name = (case, key) if key != "grad_norms" else (case[key], "model.norm.weight")
        place[name] = place[name] * 1.0001 if value == "altered" else float("nan")

    assert conformance.main([str(altered(golden, tmp_path / "copy", change))]) == 1
    output = capsys.readouterr().out
    assert "1 of 2 cases agree" in output
    assert "DIFFERS case 0" in output and "ok      case 1" in output


@pytest.mark.ranks
def test_conformance_on_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DiptychError, match=r"nowhere/cases\.json: cannot be read"):
        conformance.main([str(tmp_path / "nowhere")])
    result = run_alone("-m pretrain.conformance", tmp_path / "nowhere", check=False)
    assert result.exit_code == 1
    assert result.output.strip().splitlines()[-1].startswith("error: ")
    assert "nowhere/cases.json: cannot be read" in result.output and "Traceback" not in result.output


def test_conformance_on_an_unreadable_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "cases.json").write_text("{")
    with pytest.raises(DiptychError, match=r"cases\.json: cannot be read"):
        conformance.main([str(tmp_path)])


def test_conformance_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        conformance.main(["--help"])
    with pytest.raises(DiptychError, match="FOLDER: is missing"):
        conformance.main([])
    assert "cases.json" in capsys.readouterr().out

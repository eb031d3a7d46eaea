"""Checks this implementation against values of the published code: ``python -m pretrain.conformance FOLDER``.

The folder holds ``model/`` (a Hugging Face causal LM) and ``cases.json`` (a list under ``cases``; each with ``batch``,
``predictors``, ``eos``, ``distance``, ``lm_loss``, ``jepa_loss`` and, if known, ``grad_norms``). Every case goes
through the layout, packing, network and objective that training uses; values must agree to 2e-5 relative in float32.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.config.sections import ObjectiveConfig
from pretrain.data.batch import collate
from pretrain.data.branches import Branches, View, ViewPairs
from pretrain.data.corpus import Pairs
from pretrain.data.packing import pack
from pretrain.data.schedule import Step
from pretrain.model.network import BranchNetwork
from pretrain.objectives.mixed import MixedObjective
from pretrain.runtime.command_line import CommandLine
from pretrain.runtime.errors import DiptychError

TOLERANCE = 2e-5


def check_case(network: BranchNetwork, case: Mapping[str, Any]) -> dict[str, float]:
    """Relative differences of one case, by name of the value."""
    views = [(View(pair["text"]), View(pair["code"])) for pair in case["batch"]]
    branches = Branches("conditional", eos=case["eos"], predictors=tuple(case["predictors"]))
    lengths = np.array([[len(first.tokens), len(second.tokens)] for first, second in views], dtype=np.int64)
    zeros = np.zeros_like(lengths)
    pairs = Pairs(zeros, lengths, np.ones_like(lengths, dtype=np.bool_), zeros, zeros)
    row_length = int(branches.num_tokens(lengths, branched=True).sum())
    plan = pack(np.arange(len(views)), pairs, np.ones(len(views), np.bool_), branches, row_length)
    in_row = ViewPairs.of([views[example] for example in plan.examples])
    trees = branches.lay_out(in_row, plan.branched, np.zeros_like(plan.examples))
    batch = collate(trees, np.zeros(1, np.int64), row_length, pad=0)
    objective = MixedObjective(ObjectiveConfig(distance=case["distance"], predictors=len(case["predictors"])))
    step = Step(0, int(plan.num_labels.sum()), len(views), ())
    network.zero_grad(set_to_none=True)
    lm_sum, states, _ = network(batch)
    terms = objective(states, lm_sum, batch, step)
    terms.loss.backward()  # type: ignore[no-untyped-call]
    computed = {
        "lm_loss": float(terms.lm_sum) / step.num_labels,
        "jepa_loss": float(terms.pair_sum) / step.num_pairs,
    }
    expected = {name: case[name] for name in computed}
    for name, norm in (case.get("grad_norms") or {}).items():
        gradient = network.lm.get_parameter(name).grad
        expected[f"grad {name}"] = norm
        computed[f"grad {name}"] = 0.0 if gradient is None else float(torch.linalg.vector_norm(gradient))
    return {name: abs(computed[name] - value) / max(abs(value), 1e-12) for name, value in expected.items()}


def main(argv: Sequence[str]) -> int:
    """The command; exit status 1 if any value disagrees."""
    parser = CommandLine("pretrain.conformance", __doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="holds model/ and cases.json")
    folder = parser.read(argv).folder
    try:
        cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))["cases"]
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise DiptychError(f"{folder / 'cases.json'}: cannot be read ({error})") from None
    if not cases:
        raise DiptychError(f"{folder / 'cases.json'}: holds no case")
    from transformers import AutoModelForCausalLM

    try:
        lm = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="sdpa")
    except (OSError, ValueError) as error:
        raise DiptychError(f"{folder / 'model'}: cannot be opened ({' '.join(str(error).split())[:200]})") from None
    network = BranchNetwork(lm.train())
    worst, values, failed = 0.0, 0, 0
    for number, case in enumerate(cases):
        try:
            differences = check_case(network, case)
        except KeyError as error:
            raise DiptychError(f"{folder / 'cases.json'}: case {number} has no or a wrong {error}") from None
        name, difference = max(differences.items(), key=lambda item: (math.isnan(item[1]), item[1]))
        worst = difference if math.isnan(difference) else max(worst, difference)
        values += len(differences)
        verdict = "ok" if difference <= TOLERANCE else "DIFFERS"
        failed += verdict != "ok"
        print(
            f"{verdict:8}case {number}: {case['distance']}, k = {len(case['predictors'])}, {len(case['batch'])} pairs: "
            f"{len(differences)} values, worst {difference:.1e} ({name})"
        )
    print(f"{len(cases) - failed} of {len(cases)} cases agree; {values} values, worst relative difference {worst:.1e}")
    return 1 if failed else 0

"""Probes while training: they are written, and change nothing of the run."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pretrain.config.sections import ObjectiveConfig
from pretrain.data.branches import Branches
from pretrain.model.network import BranchNetwork
from pretrain.probing.prober import Prober
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError
from tests.support.ranks import run_ranks
from tests.support.splits import MadeSplit
from tests.support.tiny import BOS, EOS, PAD, PREDICTORS, tiny_llama

TIMEOUT = 240


def config(folder: Path) -> Path:
    path = folder / "run.yaml"
    path.write_text(
        f"data: {{folder: {folder}/data, sources: [{{type: reviews, count: 900}}], heldout_fraction: 0.1}}"
        """
tokenizer: {vocab_size: 512}
model:
  type: llama
  fields: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2, attention_dropout: 0.1}
objective: {lambda: 0.1, distance: infonce}
train: {steps: 6, rows_per_step: 4, micro_batch_rows: 2}
evaluation: {every: 100, prompts: 0}
logging: {tensorboard: true, every: 2}
"""
    )
    return path


@pytest.mark.ranks
def test_probes_change_nothing(tmp_path: Path) -> None:
    runs = {"without": (1, 0, 0), "with": (1, 0, 2), "ranks without": (2, 3, 0), "ranks": (2, 3, 3)}
    for name, (ranks, stage, every) in runs.items():
        settings = [f"run.folder={tmp_path / name}", f"probe.every={every}", f"deepspeed.zero_stage={stage}"]
        output = run_ranks("-m pretrain", ranks, config(tmp_path), *settings, timeout=TIMEOUT)[0].output
        assert ("probe: accuracy" in output) == bool(every)
    # One rank and two are not compared: attention dropout draws per rank.
    weights = {name: load_file(tmp_path / name / "export" / "model.safetensors") for name in runs}
    for without, probed in (("without", "with"), ("ranks without", "ranks")):
        assert all(torch.equal(tensor, weights[probed][name]) for name, tensor in weights[without].items())

    rows = [json.loads(line) for line in (tmp_path / "with" / "metrics.jsonl").read_text().splitlines()]
    found = {row["step"]: row for row in rows if "probe/accuracy" in row}
    assert sorted(found) == [0, 2, 4, 6]
    for row in found.values():
        assert 0.5 <= row["probe/majority"] <= 0.65 and 0 < row["probe/accuracy"] < 1 and 0 < row["probe/shuffled"] < 1

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "with" / "tensorboard"))
    events.Reload()
    curve = events.Scalars("probe_over_tokens/accuracy")
    assert [event.step for event in curve] == [found[step]["train/label_tokens"] for step in sorted(found)]


@pytest.mark.ranks
def test_without_labels_the_run_does_not_start(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps({"text": f"a {n} b", "code": f"c {n}"}) + "\n" for n in range(300)))
    settings = [f"run.folder={tmp_path / 'run'}", "probe.every=2", "data.heldout_fraction=0.2"]
    settings += [f"data.sources=[{{type: jsonl, path: {data}}}]", "data.views=[text, code]", "tokenizer.vocab_size=300"]
    result = run_ranks("-m pretrain", 1, config(tmp_path), *settings, timeout=TIMEOUT, check=False)[0]
    assert result.exit_code == 1
    assert "held-out records have a label, of 0 classes" in result.output and "Traceback" not in result.output


class LabelledSplit(MadeSplit):
    """Records of so many classes, in turn."""

    def __init__(self, count: int, classes: int) -> None:
        super().__init__({"made": count})
        self.classes = classes

    def label(self, record: int) -> int:
        return record % self.classes

    def group(self, record: int) -> None:
        return None


def prober(split: MadeSplit, records: int = 40, **layout: Any) -> Prober:
    config: Any = SimpleNamespace(
        probe=SimpleNamespace(max_records=records),
        packing=SimpleNamespace(row_length=96),
        train=SimpleNamespace(micro_batch_rows=2),
        objective=ObjectiveConfig(),
    )
    corpus: Any = SimpleNamespace(heldout=split)
    branches = Branches(eos=EOS, bos=BOS, predictors=PREDICTORS[:1], **layout)
    return Prober(config, corpus, SimpleNamespace(pad=PAD, decode=str), branches, Ranks(0, 1, torch.device("cpu")))  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["conditional", "independent"])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_first_view_of_every_record_is_probed_alone(
    layout: Literal["conditional", "independent"], direction: Literal["forward", "reverse"]
) -> None:
    split, lm = LabelledSplit(40, 2), tiny_llama().eval()
    found = prober(split, layout=layout, direction=direction).embeddings(BranchNetwork(lm))
    assert sorted(found) == list(range(40))
    for record, embedding in found.items():
        tokens = split.views(record)[0].tokens
        with torch.no_grad():
            states = lm.model(torch.tensor([[BOS, *tokens]])).last_hidden_state[0, 1:]
        expected = states[-1] if ObjectiveConfig().pooling == "last" else states.mean(dim=0)
        np.testing.assert_allclose(embedding, expected.numpy(), atol=1e-5)


def test_embeddings_that_are_not_finite_leave_the_probe_out() -> None:
    network = BranchNetwork(tiny_llama())
    with torch.no_grad():
        network.lm.model.norm.weight.fill_(math.nan)
    found = prober(LabelledSplit(40, 2), layout="independent").run(network)
    assert found == {}


def test_too_many_classes_are_refused_at_the_start() -> None:
    prober(LabelledSplit(40, 8), layout="independent")
    with pytest.raises(DiptychError, match=r"probe\.every: of 40 held-out records .* needs 5 of each of 9 classes"):
        prober(LabelledSplit(40, 9), layout="independent")

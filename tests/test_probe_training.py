"""Probes while training: they are written, and change nothing of the run."""

import json
from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from safetensors.torch import load_file

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
    runs = {"without": (1, 0, 0), "with": (1, 0, 2), "ranks": (2, 3, 3)}
    for name, (ranks, stage, every) in runs.items():
        settings = [f"run.folder={tmp_path / name}", f"probe.every={every}", f"deepspeed.zero_stage={stage}"]
        output = run_ranks("-m pretrain", ranks, config(tmp_path), *settings, timeout=TIMEOUT)[0].output
        assert ("probe: accuracy" in output) == bool(every)
    without, probed, ranked = (load_file(tmp_path / name / "export" / "model.safetensors") for name in runs)
    assert all(torch.equal(tensor, probed[name]) for name, tensor in without.items())
    assert all(torch.allclose(tensor, ranked[name], atol=1e-4) for name, tensor in without.items())

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


def test_without_labels_the_run_does_not_start(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps({"text": f"a {n} b", "code": f"c {n}"}) + "\n" for n in range(300)))
    settings = [f"run.folder={tmp_path / 'run'}", "probe.every=2", "data.heldout_fraction=0.2"]
    settings += [f"data.sources=[{{type: jsonl, path: {data}}}]", "data.views=[text, code]", "tokenizer.vocab_size=300"]
    result = run_ranks("-m pretrain", 1, config(tmp_path), *settings, timeout=TIMEOUT, check=False)[0]
    assert result.exit_code == 1
    assert "held-out records have a label, of 0 classes" in result.output and "Traceback" not in result.output

"""The planner: its memory against DeepSpeed's own estimator and against real training steps, and what it says."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.planner import main, make_plan, parse
from launch.planner.devices import GPUS, NETWORKS, find_gpu, find_network
from launch.planner.job import Job, Machines, make_job
from launch.planner.memory import plan_memory
from launch.planner.remedies import candidates
from launch.planner.report import Plan, as_data, as_text
from launch.planner.speed import bandwidth, plan_speed
from pretrain.config.loading import load_config
from pretrain.config.model import LoraConfig, ModelConfig
from pretrain.footprint.states import model_states
from pretrain.footprint.trace import TraceRequest, empty_batch, trace, watch_step
from pretrain.model.build import hf_config
from pretrain.model.initialization import causal_lm
from pretrain.model.network import BranchNetwork
from pretrain.runtime.errors import DiptychError
from tests.support.ranks import REPOSITORY, run_ranks

EIGHT_B = [
    "model={type: llama, fields: {hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32, "
    "num_attention_heads: 32, num_key_value_heads: 8, tie_word_embeddings: false}}",
    "tokenizer.vocab_size=128256",
    "packing.row_length=8192",
    "train.rows_per_step=256",
    "train.micro_batch_rows=1",
]
GIB = 2**30


def job_of(*overrides: str, gpus: int = 64, gpu: str = "h100-80gb", network: str = "ib-400") -> Job:
    return make_job(load_config(None, [*EIGHT_B, *overrides]), Machines(gpus, 8, find_gpu(gpu), find_network(network)))


def planned(*overrides: str, **machines: Any) -> dict[str, int]:
    """Bytes of the states on the device and, with a prefix, in host memory."""
    device, host = model_states(job_of(*overrides, **machines))
    return device | {f"host {part}": size for part, size in host.items()}


# --------------------------------------------------------------------------------------------------------- activations


def llama(layers: int = 5, **changes: Any) -> Any:
    fields = {
        "hidden_size": 96,
        "intermediate_size": 224,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        **changes,
    }
    return hf_config(ModelConfig(fields=fields), vocab_size=300, bos=1, eos=2, pad=0, positions=64)


GPT2 = {"n_embd": 64, "n_layer": 4, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def real(config: Any, request: TraceRequest) -> BranchNetwork:
    torch.set_num_threads(1)
    lm = causal_lm(config, dtype=request.dtype, attn_implementation=request.attention)
    if request.checkpointing:
        lm.activation_checkpointing_enable({"use_reentrant": False})
    return BranchNetwork(lm, request.loss_chunk_tokens).train()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("chunk", [1000, 30])
def test_trace_is_what_a_real_step_keeps_and_allocates(
    dtype: torch.dtype, checkpointing: bool, attention: str, chunk: int
) -> None:
    """To the byte: a model of five blocks that runs on the CPU, and its extrapolation from two and three blocks."""
    request = TraceRequest(2, 48, 70, chunk, attention, checkpointing, dtype)
    found = trace(llama(), request)
    measured = watch_step(real(llama(), request), empty_batch(request, "cpu"))
    for name in ("kept", "head", "block", "embedding", "products"):
        assert getattr(found, name) == getattr(measured, name), name


def test_trace_of_another_family_is_exact_too() -> None:
    config = hf_config(ModelConfig(type="gpt2", fields=GPT2), vocab_size=300, bos=1, eos=2, pad=0, positions=64)
    request = TraceRequest(2, 48, 70, 1000, "sdpa", False, torch.float32)
    found, measured = trace(config, request), watch_step(real(config, request), empty_batch(request, "cpu"))
    assert (found.kept, found.head, found.block) == (measured.kept, measured.head, measured.block)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "flex"])
def test_block_of_a_llama_keeps_what_its_formula_says(dtype: torch.dtype, attention: str) -> None:
    """Bytes that a block keeps, summed by hand over its operators; saved_tensors_hooks sees the same on the CPU."""
    rows, length, hidden, inner, heads, groups = 2, 48, 96, 224, 4, 2
    size, positions, width = dtype.itemsize, rows * length, hidden // heads
    # RMSNorm computes in float32: it keeps its input and 1/rms there, and the product with the weight's two factors.
    norm = hidden * (4 if dtype == torch.bfloat16 else 0) + 4 + 2 * hidden * size
    repeated = groups if attention == "flex" else heads  # sdpa with a mask of its own repeats keys and values
    states = (2 * hidden + 2 * repeated * width) * size + 4 * heads  # query, output, keys, values; log-sum-exp
    swiglu = 4 * inner * size  # gate, its SiLU, up, their product
    # What residual additions make is kept as the next norm's input where no float32 copy of it is.
    residual = 2 * hidden * size if dtype == torch.float32 else 0
    mask = rows * length * length * size if attention == "sdpa" else 0
    formula = positions * (2 * norm + states + swiglu + residual) + mask
    request = TraceRequest(rows, length, 70, 1000, attention, False, dtype)
    kept = [trace(llama(layers), request).kept for layers in (2, 3)]
    assert kept[1] - kept[0] == formula
    if attention == "sdpa":
        assert formula == saved(llama(3), request) - saved(llama(2), request)


def saved(config: Any, request: TraceRequest) -> int:
    """Bytes of distinct storages that autograd saves, parameters left out."""
    network, storages = real(config, request), {}
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = network(empty_batch(request, "cpu"))
    assert len(output) == 3
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in own)


def test_frozen_weights_keep_less() -> None:
    request = TraceRequest(2, 48, 70, 1000, "flex", False, torch.bfloat16)
    low = TraceRequest(2, 48, 70, 1000, "flex", False, torch.bfloat16, LoraConfig(rank=2, targets=("q_proj",)), (1, 2))
    whole, part = trace(llama(), request), trace(llama(), low)
    assert part.kept < whole.kept
    assert part.embedding < whole.embedding  # it gets no gradient
    assert part.products < whole.products


def test_attention_functions_are_put_back() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = dict(ALL_ATTENTION_FUNCTIONS.items())
    trace(llama(), TraceRequest(1, 16, 8, 1000, "flex", False, torch.float32))
    assert dict(ALL_ATTENTION_FUNCTIONS.items()) == before


# -------------------------------------------------------------------------------------------------------------- states


@pytest.mark.parametrize("nodes", [1, 8])
def test_zero3_states_are_deepspeeds_estimate(nodes: int) -> None:
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as estimate

    job = job_of(gpus=8 * nodes)
    total, layer = job.counts.total, job.sizes.largest_unit
    _, gpu, largest = estimate(total, layer, 8, nodes, cpu_offload=False)
    device, _ = model_states(job)
    partitioned = sum(device[part] for part in ("weights", "gradients", "master weights", "optimizer moments"))
    assert partitioned == pytest.approx(gpu - largest, abs=18)  # 18 bytes a parameter, rounded once or by part
    # Theirs has the largest layer with its gradient, ours what the generated config lets DeepSpeed gather.
    assert largest == 4 * layer <= plan_memory(job).moments["blocks"]["gathered weights"]


@pytest.mark.parametrize("parameters", [False, True])
def test_zero3_offloaded_states_are_deepspeeds_estimate(parameters: bool) -> None:
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as estimate

    overrides = ["deepspeed.offload_optimizer=true", f"deepspeed.offload_parameters={str(parameters).lower()}"]
    job = job_of(*overrides, gpus=16)
    total, layer = job.counts.total, job.sizes.largest_unit
    cpu, gpu, largest = estimate(total, layer, 8, 2, True, parameters, True, additional_buffer_factor=1)
    device, host = model_states(job)
    assert device.get("weights", 0) + device["gradients"] == pytest.approx(gpu - largest, abs=2)
    # They count gradients once; the optimizer reads them from a second buffer (stage3.py, initialize_optimizer_states).
    second = host["gradients"] / 2
    assert 8 * (sum(host.values()) - second) == pytest.approx(cpu, abs=8 * 18)


def test_zero2_states_are_deepspeeds_estimate() -> None:
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as estimate

    job = job_of("deepspeed.zero_stage=2")
    total = job.counts.total
    _, gpu = estimate(total, 8, 8, cpu_offload=False)
    parts = plan_memory(job).moments["optimizer step"]
    names = ("weights", "gradients of the pass", "master weights", "optimizer moments")
    # Theirs has 2 bytes of bfloat16 gradients for each parameter besides; ours has them where they are reduced.
    assert sum(parts[name] for name in names) == pytest.approx(gpu - 2 * total / 64, abs=18)
    assert plan_memory(job).moments["blocks"]["reduction"] > 2 * total / 64


def test_states_by_hand() -> None:
    total = job_of().counts.total
    assert total == 8_030_261_248
    share = total // 64
    assert planned() == {
        "weights": 2 * share,
        "gradients": 4 * share,
        "master weights": 4 * share,
        "optimizer moments": 8 * share,
        "small weights, whole": 2 * 65 * 4096,
        "reduce bucket": 10**9,
    }
    whole = planned("deepspeed.zero_stage=0", "train.precision=float32")
    assert (whole["weights"], whole["master weights"], whole["optimizer moments"]) == (4 * total, 0, 8 * total)
    first = planned("deepspeed.zero_stage=1")
    assert (first["weights"], first["gradients"], first["master weights"]) == (2 * total, 4 * total, 4 * share)


@pytest.mark.ranks
def test_real_steps_take_what_is_planned(tmp_path: Path) -> None:
    """Bytes of all tensors of real engines on two ranks: between steps, in a pass and while the optimizer steps."""
    cases = ["zero0-float32", "zero1-bfloat16", "zero2-bfloat16", "zero3-bfloat16-checkpointing"]
    worker = REPOSITORY / "tests" / "workers" / "planner.py"
    run_ranks(worker, 2, tmp_path / "out.json", *cases, timeout=280)
    for case, found in json.loads((tmp_path / "out.json").read_text()).items():
        measured, plan = found["measured"], found["planned"]
        assert measured["between"] == pytest.approx(plan["between"], rel=0.01), case
        assert measured["step"] == pytest.approx(plan["step"], rel=0.03), case
        assert measured["pass"] == pytest.approx(plan["pass"], rel=0.12), case


# ------------------------------------------------------------------------------------------------------------- wholes


SMALL = "model={type: llama, fields: {hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4}}"


@settings(max_examples=25, deadline=None)
@given(
    stage=st.integers(0, 3),
    gpus=st.integers(1, 40),
    rows=st.integers(1, 4),
    offload=st.booleans(),
    checkpointing=st.booleans(),
    gpu=st.sampled_from(["h100-80gb", "cpu", "l40s"]),
)
def test_parts_add_up(stage: int, gpus: int, rows: int, offload: bool, checkpointing: bool, gpu: str) -> None:
    config = load_config(
        None,
        [
            SMALL,
            f"deepspeed.zero_stage={stage}",
            f"train.micro_batch_rows={rows}",
            f"deepspeed.offload_optimizer={str(offload and stage > 0).lower()}",
            f"model.activation_checkpointing={str(checkpointing).lower()}",
        ],
    )
    job = make_job(config, Machines(gpus, 8, find_gpu(gpu), find_network("ib-200")))
    plan = Plan(job, plan_memory(job), plan_speed(job, price=2.0, tokens=1e9))
    data = as_data(plan)["memory"]
    sums = {moment: sum(parts.values()) for moment, parts in data["moments"].items()}
    assert data["device"] == max(sums.values()) == sums[data["peak_moment"]]
    assert all(size > 0 for parts in data["moments"].values() for size in parts.values())
    assert plan.memory.host_total == sum(plan.memory.host.values())
    assert plan.speed.step == pytest.approx(sum(plan.speed.seconds.values()))
    assert all(seconds >= 0 for seconds in plan.speed.seconds.values())
    assert 0 < (plan.speed.mfu or 0) < 1
    assert plan.speed.cost == pytest.approx(2.0 * gpus * 24 * (plan.speed.days or 0))
    assert job.accumulation * gpus * job.request.rows >= config.train.rows_per_step
    json.dumps(as_data(plan))
    assert "assumptions" in as_text(plan)


def test_what_more_of_a_thing_does() -> None:
    def device(*overrides: str, **machines: Any) -> int:
        return plan_memory(job_of(*overrides, **machines)).device

    by_gpus = [device(gpus=gpus) for gpus in (8, 16, 64, 256)]
    assert by_gpus == sorted(by_gpus, reverse=True)
    by_stage = [device(f"deepspeed.zero_stage={stage}", "train.rows_per_step=1024") for stage in (0, 1, 2, 3)]
    assert by_stage == sorted(by_stage, reverse=True)
    recomputed = [device(f"model.activation_checkpointing={every}") for every in ("true", 2, 4, "false")]
    assert recomputed == sorted(recomputed) and len(set(recomputed)) == 4
    assert device("train.micro_batch_rows=2") > device()
    assert device("deepspeed.offload_optimizer=true", gpus=8) < device(gpus=8)
    parts = plan_memory(job_of("train.loss_chunk_tokens=512")).moments["LM head"]
    assert parts["LM head"] < plan_memory(job_of()).moments["LM head"]["LM head"]
    assert "checkpoint being written" not in plan_memory(job_of("checkpoint.asynchronous=false")).host
    host = plan_memory(job_of()).host["checkpoint being written"]
    assert host == pytest.approx(12 * job_of().counts.trained / 8, rel=1e-6)  # of one of eight nodes


def test_what_speed_depends_on() -> None:
    def speed(*overrides: str, **machines: Any) -> Any:
        return plan_speed(job_of(*overrides, **machines))

    base = speed()
    assert base.limit == "matrix products" and 0.3 < base.mfu < 0.65
    recomputed = [speed(f"model.activation_checkpointing={every}").step for every in ("false", 4, 2, "true")]
    assert recomputed == sorted(recomputed) and len(set(recomputed)) == 4
    assert speed(gpu="b200").step < base.step < speed(gpu="a100-80gb").step
    slow = speed(network="ethernet-10")
    assert slow.limit == "network" and slow.communication > 10 * base.communication
    assert speed("train.micro_batch_rows=2", network="ethernet-10").step < slow.step  # fewer gathers
    assert bandwidth(job_of(gpus=8)) > bandwidth(job_of(gpus=16, network="ethernet-100"))
    assert speed(gpus=1, gpu="h200-141gb").communication == 0
    assert speed("deepspeed.offload_optimizer=true").step > base.step
    synchronous, written = speed("checkpoint.asynchronous=false"), base.save_seconds
    assert synchronous.save_stall == synchronous.save_seconds == written > base.save_stall
    assert speed("train.steps=100").days == pytest.approx(100 * base.step / 86400, rel=0.01)


# ------------------------------------------------------------------------------------------------------------ remedies


@pytest.mark.parametrize(
    ("overrides", "gpus", "gpu"),
    [
        (["train.micro_batch_rows=4"], 64, "h100-80gb"),
        ([], 64, "a100-40gb"),
        (["deepspeed.zero_stage=0", "model.activation_checkpointing=true"], 64, "h100-80gb"),
        (["model.activation_checkpointing=true"], 2, "h100-80gb"),
    ],
)
def test_remedy_makes_it_fit(overrides: list[str], gpus: int, gpu: str) -> None:
    line = [*EIGHT_B, *overrides, "--gpus", str(gpus), "--gpu", gpu]
    plan = make_plan(parse(line))
    assert not plan.memory.fits and plan.remedy is not None
    changed = ["--gpus", str(plan.remedy.gpus)] if plan.remedy.gpus else []
    again = make_plan(parse([*line, *plan.remedy.settings, *changed]))
    assert again.memory.fits and again.memory.device == plan.remedy.memory.device
    assert plan.remedy.text in as_text(plan)


def test_candidates_begin_with_what_costs_least() -> None:
    config = load_config(None, [*EIGHT_B, "train.micro_batch_rows=4", "deepspeed.zero_stage=2"])
    tried = list(candidates(config, 8))
    assert tried[:3] == [
        (("train.micro_batch_rows=2",), 8),
        (("train.micro_batch_rows=1",), 8),
        (("model.activation_checkpointing=true",), 8),
    ]
    assert len(set(tried)) == len(tried)
    order = [" ".join(change) for change, _ in tried]
    first = [
        next(place for place, text in enumerate(order) if key in text)
        for key in ("activation_checkpointing", "loss_chunk_tokens", "zero_stage", "offload_optimizer", "_parameters")
    ]
    assert first == sorted(first)
    assert all(gpus == 8 for _, gpus in tried[: first[-1] + 1]) and tried[-1][1] > 8


def test_nothing_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GPUS, "l40s", replace(GPUS["l40s"], memory=GIB))
    plan = make_plan(parse([SMALL, "--gpus", "8", "--gpu", "l40s"]))
    assert not plan.memory.fits and plan.remedy is None
    assert "no change of settings" in as_text(plan)


# ------------------------------------------------------------------------------------------------------------- command


@pytest.mark.slow
def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    config = str(REPOSITORY / "configs" / "llama-3.1-8b.yaml")
    assert main([config, "--gpus", "64", "--gpu", "h100-80gb", "--price", "2.5", "--tokens", "1e12"]) == 0
    text = capsys.readouterr().out
    assert "fits:" in text and "MFU" in text and "costs" in text and "NVIDIA H100 Tensor Core GPU data sheet" in text
    assert main([config, "--gpus", "1", "train.micro_batch_rows=1", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["remedy"]["device"] <= data["memory"]["available"] < data["memory"]["device"]
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "8", "--gpu", "h100"], "did you mean h100-80gb?"),
        (["--gpus", "8", "--gpu", "H200"], "did you mean h200-141gb?"),
        (["--gpus", "8", "--network", "ib400"], "did you mean ib-400?"),
        (["--gpus", "0"], "--gpus: 0: must be more than 0"),
        (["--gpus", "-4"], "--gpus: -4: must be more than 0"),
        (["--gpus", "8", "--gpus-per-node", "0"], "--gpus-per-node: 0"),
        (["--gpus", "8", "--tokens", "-1"], "--tokens: -1"),
        (["--gpus", "8", "--used", "1.5"], "--used: 1.5: a share is at most 1"),
        (["--gpus", "eight"], "invalid int value: 'eight'"),
        (["--gpu", "h100-80gb"], "--gpus: say how many"),
        (["--gpus", "8", "--gpuz", "b200"], "--gpuz: unknown option; did you mean --gpu?"),
        (["--gpus", "8", "train.step=4"], "did you mean train.steps?"),
        (["--gpus", "8", "--corpus", "nowhere"], "holds no prepared corpus"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(DiptychError, match=r".") as error:
        main(arguments)
    assert message in str(error.value)


def test_length_of_the_run_may_be_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train.steps=null", "--gpus", "8"])
    assert "give --tokens, train.steps or --corpus" in capsys.readouterr().out


def test_corpus_gives_epochs(tmp_path: Path) -> None:
    from pretrain.preparation.prepare import prepare

    overrides = [f"data.folder={tmp_path}", "data.sources=[{type: reviews, count: 400}]", "data.workers=1"]
    overrides += ["train.steps=null", "train.epochs=3", "train.rows_per_step=4", "tokenizer.vocab_size=700"]
    folder = prepare(load_config(None, overrides), quiet=True)
    plan = make_plan(parse([*overrides, "--gpus", "2", "--gpu", "cpu", "--corpus", str(folder)]))
    rows = plan.job.data.rows_per_epoch
    assert rows is not None and plan.speed.steps == -(-3 * rows // 4)
    assert 0.5 < plan.job.data.used <= 1 and 0.5 < plan.job.data.labelled < 1


def test_tables_are_sound() -> None:
    assert set(GPUS) >= {"a100-40gb", "a100-80gb", "h100-80gb", "h200-141gb", "b200", "l40s", "mi300x", "cpu"}
    for name, gpu in GPUS.items():
        assert gpu.name == name and gpu.sheet
        assert gpu.is_cpu or (gpu.memory > 30 * GIB and gpu.bfloat16_tflops > gpu.float32_tflops)
    assert NETWORKS["ib-400"].of_node(8) == 400 and NETWORKS["ethernet-100"].of_node(8) == 12.5


def test_peak_memory_is_that_of_the_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY)
    from benchmarks.peak_memory import forget_peak_memory, peak_memory

    forget_peak_memory()
    before = peak_memory()
    much = bytearray(b"x") * (300 << 20)
    assert 290 < peak_memory() - before < 310
    program = "from benchmarks.peak_memory import peak_memory; print(peak_memory())"
    found = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert 1 < float(found.stdout) < 100
    del much
    assert peak_memory() - before > 290
    forget_peak_memory()
    assert peak_memory() - before < 100


def test_large_models_take_little(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """70 B: no weights are made, so the process stays small."""
    monkeypatch.syspath_prepend(REPOSITORY)
    from benchmarks.peak_memory import forget_peak_memory, peak_memory

    forget_peak_memory()  # of the tests before
    before = peak_memory()
    fields = "hidden_size: 8192, intermediate_size: 28672, num_hidden_layers: 80, num_attention_heads: 64"
    model = f"model={{type: llama, fields: {{{fields}, num_key_value_heads: 8}}, activation_checkpointing: true}}"
    assert main([model, "tokenizer.vocab_size=128256", "packing.row_length=8192", "--gpus", "256"]) == 0
    assert peak_memory() - before < 1024  # MiB
    assert "70.55 B" in capsys.readouterr().out


def test_document_has_the_planned_table() -> None:
    """Two rows of docs/scale.md, planned again."""
    path = REPOSITORY / "benchmarks" / "plan_table.py"
    spec = importlib.util.spec_from_file_location("plan_table", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    document = (REPOSITORY / "docs" / "scale.md").read_text()
    for name, gpus in (("8 B", 64), ("70 B", 1024)):
        assert f"| {' | '.join(module.row(name, gpus))} |" in document

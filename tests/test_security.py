"""Nothing that lies in a folder runs as code, unless the user allowed it for that model."""

import hashlib
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from pretrain.checkpoint import save as checkpoint_save
from pretrain.checkpoint.checkpoints import read_canary, read_state, read_weights, restore
from pretrain.commands.export import main as export_main
from pretrain.config.loading import load_config
from pretrain.config.model import ModelConfig, TokenizerConfig
from pretrain.data.corpus import read_corpus
from pretrain.model.build import model_problems
from pretrain.model.existing_weights import load_existing
from pretrain.model.loading import find_base, find_model, load_model
from pretrain.preparation.prepare import prepare
from pretrain.preparation.tokenizer_training import train
from pretrain.runtime.command import run_command
from pretrain.runtime.errors import DiptychError
from probes.encoding.cache import CacheFolder
from probes.encoding.origin import located
from tests.support.tiny import tiny_llama
from tests.workers.checkpoint import CANARY, checkpoints, engine, gather, state, version

REPOSITORY = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


class Hostile:
    """A pickle that writes a file when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.trace}'",)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Is there once the code of a hostile file has run."""
    trace = tmp_path / "the code has run"
    pickle.loads(pickle.dumps(Hostile(trace)))
    assert trace.exists()  # the attack works
    trace.unlink()
    return trace


def pickled(trace: Path) -> bytes:
    return pickle.dumps(Hostile(trace))


def torch_pickled(trace: Path, path: Path) -> None:
    torch.save({"weight": Hostile(trace)}, path)


# --------------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checkpoint_save, "gather_state", gather)
    return checkpoints(tmp_path / "checkpoints").save(engine(10), state(10), CANARY)


def test_pickles_beside_a_checkpoint_are_not_read(checkpoint: Path, trace: Path) -> None:
    for name in ("state-00000-001.safetensors", "canary.pt", "pytorch_model.bin", "manifest.pkl", "latest"):
        (checkpoint / name).write_bytes(pickled(trace))
    torch_pickled(trace, checkpoint / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (checkpoint.parent / "step_00000020").mkdir()
    torch_pickled(trace, checkpoint.parent / "step_00000020/mp_rank_00_model_states.pt")
    path, skipped = checkpoints(checkpoint.parent).newest()
    assert path == checkpoint
    assert "manifest.json cannot be read" in skipped[0]
    assert version(path) == 10
    assert read_canary(path).keys() == CANARY.keys()
    assert not trace.exists()


@pytest.mark.parametrize("name", ["state-00000-000.safetensors", "buffers.safetensors", "canary.safetensors"])
def test_a_pickle_in_place_of_a_part_is_refused(checkpoint: Path, trace: Path, name: str) -> None:
    torch_pickled(trace, checkpoint / name)
    assert f"{name} has " in (checkpoints(checkpoint.parent).problem(checkpoint) or "")
    # Even if the manifest is made to fit.
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    content = (checkpoint / name).read_bytes()
    manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoints(checkpoint.parent).problem(checkpoint) is None
    with pytest.raises(DiptychError, match=f"{name}: is no safetensors file"):
        (read_canary if name.startswith("canary") else read_weights)(checkpoint)
    if name.startswith("state"):
        with pytest.raises(DiptychError, match=f"{name}: is no safetensors file"):
            restore(checkpoint, engine(0), state(10))
    assert not trace.exists()


def test_a_pickle_in_place_of_the_manifest_is_refused(checkpoint: Path, trace: Path) -> None:
    (checkpoint / "manifest.json").write_bytes(pickled(trace))
    with pytest.raises(DiptychError, match=r"manifest\.json cannot be read"):
        read_state(checkpoint)
    assert not trace.exists()


# -------------------------------------------------------------------------------------------------------------- models


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder that opens."""
    folder = tmp_path / "model"
    tokenizer = train([f"some text number {n}" for n in range(50)], TokenizerConfig(vocab_size=320))
    lm = tiny_llama()
    lm.resize_token_embeddings(tokenizer.vocab_size)
    lm.save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def opened(folder: Path) -> Any:
    return load_model(found := find_model(str(folder)), find_base(found, None), dtype="auto", device=CPU)


def train_on(folder: Path) -> None:
    load_existing(tiny_llama(), str(folder))


OPENERS: dict[str, Callable[[Path], Any]] = {"evaluate and probe": opened, "train on": train_on}


@pytest.mark.parametrize("opener", OPENERS)
def test_a_model_of_pickled_weights_alone_is_refused(model: Path, trace: Path, opener: str) -> None:
    (model / "model.safetensors").unlink()
    torch_pickled(trace, model / "pytorch_model.bin")
    with pytest.raises(DiptychError, match=r"no safetensors|safetensors|pytorch_model"):
        OPENERS[opener](model)
    # Nor does a safetensors file of another name open the door.
    save_file({"x": torch.zeros(1)}, model / "other.safetensors")
    with pytest.raises(DiptychError):
        OPENERS[opener](model)
    assert not trace.exists()


def test_a_config_that_asks_for_pickled_weights_is_refused(model: Path, trace: Path) -> None:
    (model / "model.safetensors").unlink()
    torch_pickled(trace, model / "pytorch_model.bin")
    (problem,) = model_problems(ModelConfig(path=str(model)))
    assert "only pickled ones, which can run code" in problem
    assert not trace.exists()


def test_pickles_and_code_beside_a_model_are_not_read(model: Path, trace: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.pkl", "adapter_model.bin"):
        torch_pickled(trace, model / name)
    code = f"import os\nos.system(\"touch '{trace}'\")\ndef generate(*args, **kwargs): pass\n"
    (model / "custom_generate").mkdir()
    for name in ("custom_generate/generate.py", "modeling_llama.py", "__init__.py", "conftest.py"):
        (model / name).write_text(code)
    lm = opened(model).lm
    lm.generate(torch.tensor([[1, 2]]), max_new_tokens=1)
    assert not trace.exists()


def test_code_of_a_model_or_tokenizer_does_not_run_unasked(model: Path, trace: Path) -> None:
    (model / "code.py").write_text(f"import os\nos.system(\"touch '{trace}'\")\nclass Model: pass\n")
    plain = {name: (model / name).read_text() for name in ("config.json", "tokenizer_config.json")}
    for name, classes in {
        "config.json": {"AutoConfig": "code.Model", "AutoModelForCausalLM": "code.Model"},
        "tokenizer_config.json": {"AutoTokenizer": ["code.Model", "code.Model"]},
    }.items():
        (model / name).write_text(json.dumps({**json.loads(plain[name]), "auto_map": classes}))
        try:
            opened(model)  # by transformers' own class, or not at all
        except DiptychError as error:
            assert "code" in str(error) or "trust" in str(error), error
        (model / name).write_text(plain[name])
    assert not trace.exists()


def test_a_checkpoint_cannot_grant_itself_permission(checkpoint: Path, model: Path, trace: Path) -> None:
    """Its manifest says that the run was allowed to run the code of its base model: the user at hand did not say so."""
    (model / "code.py").write_text(f"import os\nos.system(\"touch '{trace}'\")\nclass Model: pass\n")
    config = json.loads((model / "config.json").read_text())
    classes = {"AutoConfig": "code.Model", "AutoModelForCausalLM": "code.Model"}
    (model / "config.json").write_text(json.dumps(config | {"auto_map": classes}))
    shutil.copytree(model, checkpoint.parent.parent / "tokenizer")
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    lora = {"model.lora.rank": 2, "model.lora.alpha": 4, "model.lora.targets": ["q_proj"]}
    identity = {"run.seed": 0, "model.trust_remote_code": True, "model.path": str(model), **lora}
    manifest["state"] |= {"identity": identity, "model": config, "extra": {"lora_rows": []}}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DiptychError, match="--trust-remote-code"):
        export_main([str(checkpoint), str(checkpoint.parent / "out")])
    with pytest.raises(DiptychError, match="--trust-remote-code"), located(str(checkpoint), trust_remote_code=False):
        pass
    assert not trace.exists()


def test_an_adapter_of_pickled_weights_is_refused(model: Path, tmp_path: Path, trace: Path) -> None:
    adapter = tmp_path / "adapter"
    lm = load_model(model, None, dtype="auto", device=CPU).lm
    lm.name_or_path = str(model)
    get_peft_model(lm, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(str(adapter))
    settings = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(model)}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    torch_pickled(trace, adapter / "adapter_model.bin")
    opened(adapter)  # the pickle beside is not read
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(DiptychError, match="holds no safetensors weights, only pickled ones"):
        opened(adapter)
    save_file({"x": torch.zeros(1)}, adapter / "other.safetensors")
    with pytest.raises(DiptychError, match=r"holds no adapter_model\.safetensors"):
        opened(adapter)
    assert not trace.exists()


def test_yaml_makes_no_objects(tmp_path: Path, trace: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"run: !!python/object/apply:os.system [\"touch '{trace}'\"]\n")
    with pytest.raises(DiptychError, match="invalid YAML: could not determine a constructor"):
        load_config(tmp_path / "config.yaml")
    with pytest.raises(DiptychError, match="no valid YAML value"):
        load_config(None, [f"run.seed=!!python/object/apply:os.system [\"touch '{trace}'\"]"])
    assert not trace.exists()


# ------------------------------------------------------------------------------------------------- corpora and caches


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    lines = [json.dumps({"text": f"a sentence {n}", "code": f"another of {n}"}) for n in range(60)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    return [
        f"data.sources=[{{type: jsonl, path: '{tmp_path / 'pairs.jsonl'}'}}]",
        "data.views=[text, code]",
        f"data.folder='{tmp_path / 'data'}'",
        "data.heldout_fraction=0.2",
        "tokenizer.vocab_size=320",
    ]


def test_pickles_in_a_prepared_corpus_do_not_run(settings: list[str], trace: Path) -> None:
    """Shards, tokenizer and the work of single stages, each replaced by a pickle of the same size where that counts."""
    folder = prepare(load_config(None, settings), quiet=True)
    shard = next((folder / "train").rglob("*.arrow"))
    content = pickled(trace)
    assert len(content) <= shard.stat().st_size
    shard.write_bytes(content.ljust(shard.stat().st_size, b"\0"))
    with pytest.raises(Exception, match=r"(?i)arrow"):
        read_corpus(folder).train.views(0)
    shard.write_bytes(content)
    with pytest.raises(DiptychError, match="missing or cut short"):
        read_corpus(folder)
    shutil.rmtree(folder)
    replaced = [path for path in (folder.parent / "work").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert {path.suffix for path in replaced} >= {".npz"}, replaced
    for path in replaced:
        before = path.read_bytes()
        path.write_bytes(content)
        try:
            prepare(load_config(None, settings), quiet=True)
        except DiptychError as error:
            assert str(path) in str(error) or str(path.parent) in str(error), error
        path.write_bytes(before)
        shutil.rmtree(folder, ignore_errors=True)
    assert not trace.exists()


def test_an_array_of_objects_in_a_cache_does_not_run(settings: list[str], trace: Path) -> None:
    """NumPy's own format can hold pickles."""
    folder = prepare(load_config(None, settings), quiet=True)
    path = next((folder.parent / "work/examined").rglob("*.npz"))
    names = list(np.load(path).files)
    np.savez(path, **{name: np.array([Hostile(trace)], dtype=object) for name in names})
    assert not trace.exists()
    shutil.rmtree(folder)
    with pytest.raises((DiptychError, ValueError), match=r"allow_pickle=False|damaged"):
        prepare(load_config(None, settings), quiet=True)
    assert not trace.exists()


def test_a_pickle_in_a_cache_of_states_does_not_run(tmp_path: Path, trace: Path) -> None:
    cache = CacheFolder(tmp_path / "cache", {"model": "m"}, (1, 1, 100, 3))
    cache.start()
    cache.write(0, np.zeros((1, 1, 100, 3), np.float32))
    cache.commit({})
    assert cache.look() == ({}, None)
    content = pickled(trace)
    cache.states.write_bytes(content)
    assert cache.look()[1] == f"states.f32 has {len(content)} bytes, not 1200"
    cache.states.write_bytes(content.ljust(1200, b"\0"))
    assert cache.look()[1] == "states.f32 does not match its checksum"
    manifest = json.loads((cache.folder / "manifest.json").read_text())
    manifest["sha256"] = hashlib.sha256(cache.states.read_bytes()).hexdigest()
    (cache.folder / "manifest.json").write_text(json.dumps(manifest))
    assert cache.look() == ({}, None)
    assert cache.read(0, 0).shape == (100, 3)  # numbers, whatever they were
    (cache.folder / "manifest.json").write_bytes(content)
    assert "cannot be read" in (cache.look()[1] or "")
    assert not trace.exists()


# --------------------------------------------------------------------------------------------------------------- modes


def test_what_commands_create_is_not_writable_for_the_world(
    settings: list[str], tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0)
    try:
        monkeypatch.setattr(sys, "argv", ["prepare", *settings])

        def main(argv: Any) -> int:
            folder = prepare(load_config(None, argv), quiet=True)
            saved = checkpoints(tmp_path / "run/checkpoints").save(engine(1), state(1), CANARY)
            return 0 if folder.is_dir() and saved.is_dir() else 1

        assert run_command(main) == 0
    finally:
        os.umask(before)
    for root in (tmp_path / "data", tmp_path / "run"):
        for path in (root, *root.rglob("*")):
            assert not path.stat().st_mode & stat.S_IWOTH, path


def test_the_guard_keeps_a_stricter_umask_and_a_chosen_cache(tmp_path: Path) -> None:
    script = (
        "import os, sys\nos.umask(int(sys.argv[1], 8))\n"
        "from pretrain.runtime.process_guard import guard_process\nguard_process()\n"
        "print(oct(os.umask(0)), os.environ['TORCHINDUCTOR_CACHE_DIR'])"
    )

    def run(umask: str, **env: str) -> str:
        known = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
        done = subprocess.run(
            [sys.executable, "-c", script, umask],
            cwd=REPOSITORY,
            env={**known, "HOME": "/home/somebody", "XDG_CACHE_HOME": "", **env},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    assert run("000") == "0o2 /home/somebody/.cache/torchinductor"
    assert run("022") == "0o22 /home/somebody/.cache/torchinductor"
    assert run("077", TORCHINDUCTOR_CACHE_DIR="/elsewhere") == "0o77 /elsewhere"

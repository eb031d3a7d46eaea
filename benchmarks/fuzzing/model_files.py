"""Tokenizers and checkpoints."""

import json
import random
from hashlib import sha256
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from benchmarks.fuzzing.data_files import TEXTS
from benchmarks.fuzzing.reader import Reader
from pretrain.checkpoint.checkpoints import read_canary, read_state, read_weights
from pretrain.checkpoint.files import MANIFEST, checksum_problem, present_files, write_manifest, write_tensors
from pretrain.config.model import TokenizerConfig
from pretrain.data.tokenizer import load
from pretrain.runtime.errors import DiptychError

SETTINGS: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": {"content": "</s>", "lstrip": False, "normalized": False, "special": True, "__type": "AddedToken"},
    "model_max_length": 100,
    "padding_side": "left",
    "extra_special_tokens": ["<x>"],
    "chat_template": "{{ messages }}",
}
STATE: dict[str, Any] = {
    "step": 3,
    "label_tokens": 9,
    "tokens": 20,
    "optimizer_step": 3,
    "identity": {"run.seed": 0},
    "data_fingerprint": "f",
    "model": {"model_type": "llama"},
    "dtype": "float32",
    "cursor": {"a": 1},
}


def readers(scratch: Path) -> dict[str, Reader]:
    """The readers of models; valid files are made in an empty folder."""
    transformers.logging.set_verbosity_error()
    return tokenizer_readers() | checkpoint_readers(scratch)


def tokenizer_readers() -> dict[str, Reader]:
    """A tokenizer, and what Hugging Face keeps beside it."""
    made = [made_tokenizer(*kind) for kind in tokenizer_kinds()]

    def read(folder: Path, tokenizer: bytes, settings: bytes) -> None:
        (folder / "tokenizer.json").write_bytes(tokenizer)
        (folder / "tokenizer_config.json").write_bytes(settings)
        load(folder, TokenizerConfig()).encode_batch(TEXTS)

    settings = json.dumps(SETTINGS).encode()
    return {
        "tokenizer.json": Reader(made, lambda folder, content, _: read(folder, content, settings), "json"),
        "tokenizer_config.json": Reader([settings], lambda folder, content, _: read(folder, made[0], content), "json"),
    }


def tokenizer_kinds() -> list[tuple[Any, Any]]:
    """Models with their trainers."""
    quiet: dict[str, Any] = {"show_progress": False}
    return [
        (models.BPE(), trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>"], **quiet)),
        (
            models.Unigram(),
            trainers.UnigramTrainer(vocab_size=40, special_tokens=["<s>", "<u>"], unk_token="<u>", **quiet),
        ),
        (models.WordLevel(unk_token="<u>"), trainers.WordLevelTrainer(special_tokens=["<u>", "</s>"], **quiet)),
    ]


def made_tokenizer(model: Any, trainer: Any) -> bytes:
    """A small tokenizer.json."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.Whitespace()])
    backend.normalizer = normalizers.NFC()
    backend.train_from_iterator(TEXTS, trainer)
    backend.enable_truncation(9)
    text: str = backend.to_str()
    return text.encode()


def checkpoint_readers(scratch: Path) -> dict[str, Reader]:
    """The manifest, and tensors whose checksums the manifest confirms, as one who means harm would write it."""
    tensors = {
        "state-00000-of-00001.safetensors": {"a.weight/weight": torch.ones(3, 4), "a.weight/exp_avg": torch.zeros(12)},
        "canary.safetensors": {"ids": torch.arange(4), "logits": torch.ones(2, 5)},
    }
    files = {name: write_tensors(scratch / name, content) for name, content in tensors.items()}
    write_manifest(scratch, STATE, files)
    shards = {name: (scratch / name).read_bytes() for name in tensors}

    def manifest(folder: Path, content: bytes, draw: random.Random) -> None:
        for name, own in shards.items():
            (folder / name).write_bytes(own)
        (folder / MANIFEST).write_bytes(content)
        read_checkpoint(folder)

    def shard(folder: Path, content: bytes, draw: random.Random) -> None:
        entries = {}
        for name, own in (shards | {draw.choice(sorted(shards)): content}).items():
            (folder / name).write_bytes(own)
            entries[name] = {"size": len(own), "sha256": sha256(own).hexdigest()}
        write_manifest(folder, STATE, entries)
        read_checkpoint(folder)

    return {
        "checkpoint manifest": Reader([(scratch / MANIFEST).read_bytes()], manifest, "json"),
        "checkpoint shards": Reader([*shards.values()], shard, "binary"),
    }


def read_checkpoint(folder: Path) -> None:
    """Reads all that a run or an export reads."""
    read_state(folder)
    for name, entry in present_files(folder).items():
        if problem := checksum_problem(folder / name, entry):
            raise DiptychError(problem)
    read_canary(folder)
    read_weights(folder)

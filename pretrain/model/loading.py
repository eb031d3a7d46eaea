"""Opening a finished model, to evaluate or probe it: a Hugging Face folder or hub name, whole or a LoRA adapter."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pretrain.config.model import TokenizerConfig
from pretrain.data.tokenizer import BOS, Tokenizer, load
from pretrain.model import sizes as model_sizes
from pretrain.runtime.errors import DiptychError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

_WEIGHTS = ("*.safetensors", "*.bin")
_DECIDING = ("config.json", "adapter_config.json", *_WEIGHTS, "*.py")


@dataclass(frozen=True)
class LoadedModel:
    """A causal LM that is ready to generate.

    Attributes:
        lm: The Hugging Face model, in evaluation mode, on its device; an adapter is merged into it.
        tokenizer: Its tokenizer.
        bos: False where the tokenizer came without a bos: the model never saw one.
        dtype: Name of the weights' type.
        notes: What was changed to make it fit, for people.
        prompt_notes: What prompts and answers lack, for people.
    """

    lm: Any
    tokenizer: Tokenizer
    bos: bool
    dtype: str
    notes: tuple[str, ...]
    prompt_notes: tuple[str, ...]


def find_model(name: str, *, trust_remote_code: bool = False) -> Path:
    """The folder of a model.

    Args:
        name: A folder, or a hub name; that is downloaded where the hub's cache has no copy.
        trust_remote_code: Also take weights in pickles and Python code.

    Raises:
        DiptychError: No such folder or model, or the folder holds no model.
    """
    folder = Path(name).expanduser()
    if folder.exists():
        if not folder.is_dir():
            raise DiptychError(f"{name}: is a file; give the folder that holds the model")
    else:
        folder = _from_hub(name, trust_remote_code)
    if not (folder / "config.json").is_file() and not _is_adapter(folder):
        run = " (export the run's checkpoint first)" if (folder / "checkpoints").is_dir() else ""
        raise DiptychError(f"{name}: is no model folder: it has no config.json{run}")
    if not any(folder.glob("*.safetensors")) and not (trust_remote_code and any(folder.glob("*.bin"))):
        pickled = ", only pickled ones, which can run code: convert them, or give --trust-remote-code"
        raise DiptychError(f"{name}: holds no safetensors weights{pickled if any(folder.glob('*.bin')) else ''}")
    return folder


def find_base(adapter: Path, given: str | None, *, trust_remote_code: bool = False) -> Path | None:
    """The folder of the base of a LoRA adapter; None: the folder is no adapter.

    Args:
        adapter: A folder from :func:`find_model`.
        given: The base to use in place of the one that the adapter names.
        trust_remote_code: As there.

    Raises:
        DiptychError: There is no base, or it is not needed.
    """
    if not _is_adapter(adapter):
        if given is not None:
            raise DiptychError(f"--base: {adapter} is a whole model, no adapter; leave it out")
        return None
    name = given or _read(adapter / "adapter_config.json").get("base_model_name_or_path")
    if not name:
        raise DiptychError(f"{adapter}: the adapter names no base model; give --base")
    try:
        base = find_model(name, trust_remote_code=trust_remote_code)
    except DiptychError as error:
        hint = "" if given else "; give the adapter's base with --base"
        raise DiptychError(f"{adapter}: base model {error}{hint}") from None
    return base


def fingerprint(folders: Sequence[Path]) -> str:
    """SHA-256 (hex) of the configs and weights of model folders, wherever they lie."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted({file for pattern in _DECIDING for file in folder.glob(pattern)}):
            with file.open("rb") as stream:
                digest.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def load_model(
    folder: Path, base: Path | None, *, dtype: Dtype, device: torch.device, trust_remote_code: bool = False
) -> LoadedModel:
    """Loads a model and its tokenizer.

    Args:
        folder: A folder from :func:`find_model`.
        base: Its base from :func:`find_base`.
        dtype: Type of the weights; auto: as they are stored.
        device: Where the model goes.
        trust_remote_code: Run Python code that the folder brings along.

    Raises:
        DiptychError: The model or tokenizer cannot be loaded, or the adapter does not fit its base.
    """
    tokens = folder if base is None or any(folder.glob("tokenizer*")) else base
    tokenizer = load(str(tokens), TokenizerConfig(predictor_tokens=0, trust_remote_code=trust_remote_code))
    lm = _open(base or folder, dtype, trust_remote_code)
    notes, prompt_notes = _make_room(lm, tokenizer), []
    if tokenizer.hf.eos_token in tokenizer.added:
        prompt_notes.append(
            f"the tokenizer had no stop token: {tokenizer.hf.eos_token} was added, which the model never wrote"
        )
    if base is not None:
        named = _read(folder / "adapter_config.json").get("base_model_name_or_path")
        if named != str(base) and f"models--{str(named).replace('/', '--')}" not in base.parts:  # the hub's cache
            notes.append(f"the adapter names the base {named}, it was put on {base}: that the weights fit is not known")
        lm = _with_adapter(lm, folder)
    bos = _has_bos(tokens, tokenizer, trust_remote_code)
    if not bos:
        prompt_notes.append("the tokenizer has no bos: prompts start without one")
    if limit := model_sizes.rope_limit(_text_config(lm.config)):
        notes.append(
            f"texts may take {limit:,} positions: beyond, longrope would change the others of their batch as well"
        )
    stored = str(lm.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return LoadedModel(lm.to(device).eval(), tokenizer, bos, stored, tuple(notes), tuple(prompt_notes))


def _from_hub(name: str, trust_remote_code: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    if trust_remote_code:
        patterns += ["*.py", "*.bin"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, etag_timeout=10))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        message = " ".join(str(error).split())[:200]
        raise DiptychError(
            f"{name}: no such folder, and no model of that name in the hub's cache or to be had from the hub: {message}"
        ) from error


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DiptychError(f"{file}: cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise DiptychError(f"{file}: expected an object")
    return found


def _open(folder: Path, dtype: Dtype, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if not trust_remote_code and "AutoModelForCausalLM" in _read(folder / "config.json").get("auto_map", {}):
        raise DiptychError(f"{folder}: the model is Python code of its own; give --trust-remote-code if you trust it")
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            use_safetensors=None if trust_remote_code else True,
        )
    except Exception as error:  # transformers, safetensors and remote code raise all kinds
        message = " ".join(str(error).split())[:300]
        raise DiptychError(f"{folder}: cannot be loaded as a causal LM: {message}") from error


def _make_room(lm: Any, tokenizer: Tokenizer) -> list[str]:
    """Gives every id of the tokenizer an embedding: the mean of the others, which is never the likeliest token."""
    rows = lm.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size <= rows:
        return []
    names = tokenizer.hf.convert_ids_to_tokens(list(range(rows, tokenizer.vocab_size)))
    lm.resize_token_embeddings(tokenizer.vocab_size, mean_resizing=False)
    with torch.no_grad():
        for layer in (lm.get_input_embeddings(), lm.get_output_embeddings()):
            layer.weight[rows:] = layer.weight[:rows].float().mean(0)
            if getattr(layer, "bias", None) is not None:
                layer.bias[rows:] = layer.bias[:rows].float().mean()
    shown = " ".join(str(name) for name in names[:8]) + (" …" if len(names) > 8 else "")
    return [f"embeddings resized from {rows:,} to {tokenizer.vocab_size:,}, the new ones untrained: {shown}"]


def _with_adapter(lm: Any, folder: Path) -> Any:
    from peft import PeftModel, get_peft_model_state_dict  # here: importing it takes seconds
    from safetensors import safe_open

    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise DiptychError(f"{folder}: holds no adapter_model.safetensors")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # keys that do not fit are refused below
            adapted = PeftModel.from_pretrained(lm, str(folder))
        with safe_open(weights, "pt") as file:
            strange = set(file.keys()) ^ set(get_peft_model_state_dict(adapted))
    except Exception as error:  # peft, torch and safetensors raise all kinds
        message = " ".join(str(error).split())[:200]
        raise DiptychError(f"{folder}: the adapter does not fit its base model: {message}") from error
    if strange:
        raise DiptychError(f"{folder}: the adapter does not fit its base model: {len(strange)} tensors, {min(strange)}")
    return adapted.merge_and_unload()


def _has_bos(folder: Path, tokenizer: Tokenizer, trust_remote_code: bool) -> bool:
    if tokenizer.hf.bos_token != BOS:  # not the one that pretrain.data.tokenizer.load adds
        return True
    from transformers import AutoTokenizer

    opened = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    return opened.bos_token is not None


def context_length(model: Any) -> int | None:
    """Most positions that a text may take; None: not known."""
    return context_of(model.config)


def context_of(config: Any) -> int | None:
    """Most positions that a text may take in a model with this Hugging Face config; None: not known."""
    return model_sizes.context_length(_text_config(config))


def _text_config(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config

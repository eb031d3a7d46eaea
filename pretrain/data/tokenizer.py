"""One tokenizer type for the whole pipeline: trained on the corpus (``tokenizer_training.py``), or a Hugging Face one.

Both ways end as :class:`Tokenizer`: a plain Hugging Face tokenizer with bos, eos, a pad that is neither, and the
``[PRED_i]`` pieces of the predictors.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pretrain.config.model import TokenizerConfig
from pretrain.data.older_transformers import add_older_tokenizer_names
from pretrain.data.text_encoder import TextEncoder
from pretrain.runtime.errors import DiptychError

PAD, UNK, BOS, EOS = "<pad>", "<unk>", "<s>", "</s>"
_FILES = ("tokenizer*.json", "*.model", "vocab*", "*.tiktoken", "tekken.json")
_UNUSUAL = ("\u2603", "\U00013000", "\ue000", "\uffff")  # unknown to a tokenizer, unless it knows everything
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Tokenizer:
    """A Hugging Face tokenizer and the ids that the pipeline relies on.

    Attributes:
        hf: The tokenizer; ``hf(text)`` gives ``<s>`` and the ids of the text.
        bos: Id that starts every view.
        eos: Id that ends a text.
        pad: Id of padding; never bos, eos or unk.
        predictors: Ids of ``[PRED_1]``, ``[PRED_2]``, …
        vocab_size: ``len(hf)``, or more where the ids have holes: one above the highest id.
        fingerprint: SHA-256 (hex) over all that decides ids; stable across runs and machines.
        model: The SentencePiece model, where the tokenizer is one.
        prefix: Ids that the tokenizer put before a text when it was opened; ours put bos.
        suffix: Ids that it put after one; ours put none.
        added: Special tokens that it lacked when it was opened.
        encoder: Encodes texts; none reaches a special token.
    """

    hf: PreTrainedTokenizerFast = field(compare=False)
    bos: int
    eos: int
    pad: int
    predictors: tuple[int, ...]
    vocab_size: int
    fingerprint: str
    model: bytes | None = field(compare=False, repr=False)
    encoder: TextEncoder = field(compare=False, repr=False)
    added: tuple[str, ...] = field(default=(), compare=False)
    prefix: tuple[int, ...] = field(default=(), compare=False)
    suffix: tuple[int, ...] = field(default=(), compare=False)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes texts without adding special tokens.

        Args:
            texts: The texts. A special token spelt out in one, such as ``</s>``, is ordinary text.

        Returns:
            The ids of each text.
        """
        texts = list(texts)
        try:
            return self.encoder.encode_batch(texts)
        except (TypeError, UnicodeError):
            for number, text in enumerate(texts):
                check_text(text, f"encode_batch: text {number}")
            raise

    def decode(self, ids: Iterable[int]) -> str:
        """Gives the text of ids, special tokens left out.

        Args:
            ids: Ids of this tokenizer.

        Returns:
            The text.
        """
        text: str = self.hf.backend_tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)
        return text

    def save(self, folder: Path) -> None:
        """Writes a plain Hugging Face tokenizer folder, and ``tokenizer.model`` where there is one.

        Args:
            folder: Made where missing; ``AutoTokenizer.from_pretrained`` opens it.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.hf.save_pretrained(str(folder))
            add_older_tokenizer_names(folder)
            if self.model is not None:
                (folder / "tokenizer.model").write_bytes(self.model)
        except OSError as error:
            raise DiptychError(f"{folder}: cannot save the tokenizer: {error.strerror or error}") from error


def load(path: str | Path, config: TokenizerConfig) -> Tokenizer:
    """Opens an existing Hugging Face tokenizer and adds what is missing.

    A missing bos, eos or predictor piece is added, and a pad of its own where the tokenizer has none or shares it with
    another role. ``hf(text)`` is made to give bos and the ids of the text, as training does.

    Args:
        path: Folder, or hub name; a folder or a copy in the hub's cache needs no network.
        config: Number of predictor pieces, and whether remote code may run.

    Returns:
        The tokenizer.
    """
    opened = _open(str(path), config)
    backend = getattr(opened, "backend_tokenizer", None)
    if backend is None:
        raise DiptychError(
            f"tokenizer.path: {path}: {type(opened).__name__} is not backed by the tokenizers library: convert it to a "
            "folder with a tokenizer.json"
        )
    had, processor = opened.get_vocab(), backend.post_processor
    special: dict[str, str | AddedToken] = {
        role: token for role, token in opened._special_tokens_map.items() if token is not None
    }
    special.setdefault("bos_token", BOS)
    special.setdefault("eos_token", EOS)
    taken = {str(special[role]) for role in ("bos_token", "eos_token", "unk_token") if role in special}
    if str(special.get("pad_token", special["eos_token"])) in taken:
        special["pad_token"] = next(name for name in _pad_names() if name not in taken)
    extra = list(opened.extra_special_tokens)
    extra += [name for name in predictor_names(config.predictor_tokens) if name not in map(str, extra)]
    try:
        with _panics_raised():
            hf = PreTrainedTokenizerFast(
                tokenizer_object=_deterministic(backend),
                **special,
                extra_special_tokens=extra,
                clean_up_tokenization_spaces=False,
                model_input_names=["input_ids", "attention_mask"],
                model_max_length=opened.model_max_length,
                padding_side=opened.padding_side,
                truncation_side=opened.truncation_side,
                chat_template=opened.chat_template,
            )
    except Exception as error:  # the Rust side raises plain Exception
        raise DiptychError(f"tokenizer.path: {path}: cannot add special tokens: {_one_line(error)}") from error
    kept = Path(path) / "tokenizer.model"
    model = kept.read_bytes() if len(hf) == len(opened) and kept.is_file() else None
    try:
        with _panics_raised():
            tokenizer = finish(hf, config.predictor_tokens, model)
            prefix, suffix = _around(processor, tokenizer.encoder)
    except Exception as error:  # transformers does not check all settings that lie beside a tokenizer
        raise DiptychError(
            f"tokenizer.path: {path}: {_one_line(error)}; use another tokenizer, or train one"
        ) from error
    if not tokenizer.encode_batch(["a b"])[0]:
        raise DiptychError(f"tokenizer.path: {path}: is not a usable tokenizer: it encodes plain text to nothing")
    named = (hf.bos_token, hf.eos_token, hf.pad_token, *predictor_names(config.predictor_tokens))
    added = tuple(token for token in named if token not in had)
    return replace(tokenizer, added=added, prefix=prefix, suffix=suffix)


def _around(processor: Any, encoder: TextEncoder) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that a post-processor puts before and after a text."""
    if processor is None:
        return (), ()
    plain = encoder.encode("a b")
    own, whole = plain.ids, processor.process(plain, None, True).ids
    for start in range(len(whole) - len(own) + 1):
        if whole[start : start + len(own)] == own:
            return tuple(whole[:start]), tuple(whole[start + len(own) :])
    raise ValueError("its post-processor changes the tokens of a text")


def predictor_names(count: int) -> list[str]:
    """Names of the predictor pieces."""
    return [f"[PRED_{number}]" for number in range(1, count + 1)]


def _pad_names() -> Iterator[str]:
    yield PAD
    yield from (f"<pad_{number}>" for number in itertools.count(1))


@contextmanager
def _panics_raised() -> Iterator[None]:
    """Raises a panic of the Rust side, which is no ``Exception``, as one."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(f"the tokenizers library panics: {error}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def check_text(text: object, place: str) -> None:
    """Refuses what is no text, naming its place."""
    if not isinstance(text, str):
        raise DiptychError(f"{place}: expected a string, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DiptychError(
            f"{place}: character {error.start} is half a surrogate pair, which no UTF-8 can hold: repair the text"
        ) from error


def start_with(bos: str, bos_id: int) -> processors.TemplateProcessing:
    """A post-processor that puts bos before every text."""
    return processors.TemplateProcessing(
        single=[f"{bos}:0", "$A:0"], pair=[f"{bos}:0", "$A:0", f"{bos}:1", "$B:1"], special_tokens=[(bos, bos_id)]
    )


def finish(hf: PreTrainedTokenizerFast, predictor_tokens: int, model: bytes | None) -> Tokenizer:
    """Collects the ids; raises ValueError where the tokenizer did not take a special token."""
    ids: list[int] = []
    names = [hf.bos_token, hf.eos_token, hf.pad_token, *predictor_names(predictor_tokens)]
    for token in names:
        number = hf.backend_tokenizer.token_to_id(token)
        if number is None or hf.convert_ids_to_tokens(number) != token:
            raise ValueError(f"the tokenizer did not take the special token {token}")
        ids.append(number)
    bos, eos, pad, *predictors = ids
    if pad in (bos, eos) or len({pad, *predictors}) != 1 + len(predictors) or {bos, eos} & set(predictors):
        raise ValueError("the tokenizer does not keep its special tokens apart")
    encoder = TextEncoder(hf.backend_tokenizer.to_str())
    _check_unknown(encoder, dict(zip(ids, names, strict=True)))
    sample = "a b"
    if hf(sample)["input_ids"] != [bos, *encoder.encode_batch([sample])[0]]:
        hf.backend_tokenizer.post_processor = start_with(hf.bos_token, bos)
    return Tokenizer(
        hf=hf,
        bos=bos,
        eos=eos,
        pad=pad,
        predictors=tuple(predictors),
        vocab_size=max(len(hf), 1 + max(hf.get_vocab().values())),
        fingerprint=_fingerprint(hf, ids),
        model=model,
        encoder=encoder,
        prefix=(bos,),
    )


def _deterministic(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer as it encodes whole texts, alike at every call: without BPE dropout, truncation and padding."""
    spec = json.loads(backend.to_str())
    if not (spec["truncation"] or spec["padding"] or spec["model"].get("dropout")):
        return backend
    spec["truncation"] = spec["padding"] = None
    if "dropout" in spec["model"]:
        spec["model"]["dropout"] = None
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def _fingerprint(hf: PreTrainedTokenizerFast, special: Sequence[int]) -> str:
    spec = json.loads(hf.backend_tokenizer.to_str())
    deciding = {key: spec[key] for key in ("added_tokens", "normalizer", "pre_tokenizer", "model")}
    text = json.dumps({**deciding, "special": list(special)}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _check_unknown(encoder: TextEncoder, special: Mapping[int, str]) -> None:
    """Refuses a tokenizer in which an unknown character becomes one of some special tokens, or an error."""
    for text in _UNUSUAL:
        try:
            (found,) = encoder.encode_batch([text])
        except Exception as error:  # the Rust side raises plain Exception
            raise ValueError(f"it cannot encode the character U+{ord(text):04X}: {_one_line(error)}") from error
        if reached := special.keys() & {*found}:
            raise ValueError(f"characters that it does not know become its special token {special[min(reached)]}")


def _open(path: str, config: TokenizerConfig) -> Any:
    """Opens a folder or a hub name; asks the hub only for what is neither a folder nor in its cache."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not any(file.is_file() for pattern in _FILES for file in folder.glob(pattern)):
            raise DiptychError(f"tokenizer.path: {path}: holds no tokenizer: expected a tokenizer.json or the like")
        try:
            return _from_pretrained(str(folder), config, _opener(folder), local_files_only=True)
        except Exception as error:  # transformers, its remote code and the Rust side raise all kinds
            raise DiptychError(
                f"tokenizer.path: {path}: is not a folder of a Hugging Face tokenizer: {_one_line(error)}"
            ) from error
    if folder.exists():
        raise DiptychError(f"tokenizer.path: {path}: is a file: give the folder that holds the tokenizer")
    if not _HUB_NAME.fullmatch(path) or path.startswith("."):
        raise DiptychError(f"tokenizer.path: {path}: no such folder")
    try:
        return _from_pretrained(path, config, AutoTokenizer, local_files_only=True)
    except Exception:
        pass
    try:
        # One request with a time limit, before the many that transformers makes and repeats.
        from huggingface_hub import HfApi

        HfApi().model_info(path, timeout=10)
        return _from_pretrained(path, config, AutoTokenizer, local_files_only=False)
    except Exception as error:
        raise DiptychError(
            f"tokenizer.path: {path}: no such folder, and no tokenizer of that name in the hub's cache or to be had "
            f"from the hub: correct the path, or download it first: {_one_line(error)}"
        ) from error


def _opener(folder: Path) -> Any:
    """Chooses the class: for some model types beside it, AutoTokenizer rebuilds a plain tokenizer as something else."""
    plain = ("TokenizersBackend", "PreTrainedTokenizerFast", "PreTrainedTokenizer")
    settings = folder / "tokenizer_config.json"
    if (folder / "tokenizer.json").is_file() and settings.is_file():
        found = json.loads(settings.read_text(encoding="utf-8"))
        if found.get("tokenizer_class") in plain and "auto_map" not in found:
            return PreTrainedTokenizerFast
    return AutoTokenizer


def _from_pretrained(path: str, config: TokenizerConfig, opener: Any, *, local_files_only: bool) -> Any:
    with _panics_raised():
        return opener.from_pretrained(
            path, trust_remote_code=config.trust_remote_code, local_files_only=local_files_only
        )

"""Texts to ids as ordinary text: no text reaches a special token, whatever it holds."""

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import tokenizers

from pretrain.runtime.errors import DiptychError

_MARKS = range(0x10FFFF, 0xF0000, -1)
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")


class TextEncoder:
    """A tokenizer in which special tokens have names that the text at hand does not hold.

    They are renamed among the added tokens and in the model alike, for a Unigram or word model matches its special
    pieces like any other. A name ends in a character of the private planes that neither the text nor any piece holds;
    the rare text that holds the usual one is encoded with another.

    Args:
        spec: The tokenizer, as the tokenizers library writes it (JSON).

    Raises:
        ValueError: The id of a special token changes with its name.
    """

    def __init__(self, spec: str) -> None:
        self.spec = spec
        whole = json.loads(spec)
        vocab = whole["model"]["vocab"]
        pieces: Iterable[str] = vocab if isinstance(vocab, dict) else (piece for piece, _ in vocab)
        self._taken = frozenset("".join(pieces))
        self._byte_level = "ByteLevel" in json.dumps([whole["normalizer"], whole["pre_tokenizer"]])
        self._prefix = whole["model"].get("continuing_subword_prefix") or ""
        self._suffix = whole["model"].get("end_of_word_suffix") or ""
        self._renamed = lru_cache(4)(lambda mark: _rename_special_tokens(spec, mark))
        self._mark = self._free_mark("")
        self._renamed(self._mark)

    def __reduce__(self) -> tuple[Any, ...]:
        return TextEncoder, (self.spec,)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without added special tokens.

        Raises:
            TypeError: A text is no string.
            UnicodeError: A text cannot be written as UTF-8.
        """
        marked = [number for number, text in enumerate(texts) if self._mark in text]
        usual = [text for text in texts if self._mark not in text] if marked else list(texts)
        found = self._renamed(self._mark).encode_batch_fast(usual, add_special_tokens=False)
        ids = [encoding.ids for encoding in found]
        for number in marked:
            ids.insert(number, self.encode(texts[number]).ids)
        return ids

    def kept_bytes(self, text: str, count: int) -> int:
        """UTF-8 bytes of a text that its first ``count`` tokens stand for.

        Characters and tokens are matched by the offsets of the tokenizer, so that what it normalises, drops or puts in
        front does not count. Where the cut lies inside a character, whose tokens all have the same offsets, the bytes
        of the tokens that are cut off are taken from it.
        """
        encoding = self.encode(text)
        spans, tokens = encoding.offsets, encoding.tokens
        if count >= len(spans):
            return len(text.encode())
        end = max((stop for _, stop in spans[:count]), default=0)
        cut_off = 0
        for (start, stop), token in zip(spans[count:], tokens[count:], strict=True):
            if start >= end:
                break
            end = max(end, stop)
            cut_off += self._own_bytes(token)
        return max(0, len(text[:end].encode()) - cut_off)

    def encode(self, text: str) -> tokenizers.Encoding:
        """The tokens of a text with their offsets in characters, without added special tokens."""
        mark = self._mark if self._mark not in text else self._free_mark(text)
        return self._renamed(mark).encode(text, add_special_tokens=False)

    def _free_mark(self, text: str) -> str:
        taken = self._taken.union(text)
        for code in _MARKS:
            if chr(code) not in taken:
                return chr(code)
        raise DiptychError("a text holds all private-use characters that Unicode has; leave it out")

    def _own_bytes(self, token: str) -> int:
        """Bytes of what a token alone stands for."""
        if self._byte_level:
            return len(token)
        if _BYTE_PIECE.fullmatch(token):
            return 1
        return len(token.removeprefix(self._prefix).removesuffix(self._suffix).replace("\u2581", " ").encode())


def _rename_special_tokens(text: str, mark: str) -> tokenizers.Tokenizer:
    """A copy of a tokenizer with its special tokens renamed; it neither cuts, fills up nor drops anything."""
    spec = json.loads(text)
    spec.update(truncation=None, padding=None, post_processor=None, decoder=None)
    model = spec["model"]
    if model.get("dropout"):
        model["dropout"] = None
    names: dict[str, str] = {}
    ids: dict[str, int] = {}
    for token in spec["added_tokens"]:
        if token["special"]:
            name = names[token["content"]] = f"{token['id']}{mark}"
            ids[name] = token["id"]
            token.update(content=name, normalized=False)  # a normalizer might take the mark out of the name
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(piece, piece): number for piece, number in vocab.items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
    if "merges" in model:
        pairs = [pair if isinstance(pair, list) else pair.split(" ", 1) for pair in model["merges"]]
        model["merges"] = [[a, b] for a, b in pairs if not names.keys() & {a, b, a + b}]
    encoder = tokenizers.Tokenizer.from_str(json.dumps(spec))
    for original, name in names.items():
        if encoder.token_to_id(name) != ids[name]:
            raise ValueError(f"the id of the special token {original} is not stable")
    return encoder

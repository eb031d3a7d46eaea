"""Training a SentencePiece tokenizer whose Hugging Face form gives the same ids.

Three things make the ids equal, and each is needed:

- Unigram scores are rounded to multiples of 1/32 in the SentencePiece model, too. SentencePiece adds them up in single
  precision and ``tokenizers`` in double; rounded, both sums are exact (up to 2**19, some 50 000 pieces in one text) and
  ties are broken alike.
- In the Unigram trie of ``tokenizers`` *every* piece can match, ``</s>`` and ``<0x41>`` included. Their scores are put
  below every other path there, and the characters they are spelt with are always pieces of their own.
- A BPE pair may form a piece from several splits. SentencePiece merges them all at the piece's rank, so all of them
  become merges, in the order of the pieces.
"""

import json
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from pretrain.config.model import TokenizerConfig
from pretrain.data.tokenizer import BOS, EOS, PAD, UNK, Tokenizer, check_text, finish, predictor_names, start_with
from pretrain.preparation import sentencepiece_process
from pretrain.preparation.sentencepiece_process import COMPLAINED
from pretrain.runtime.errors import DiptychError

_SPACE = "\u2581"
_NORMAL = 1  # SentencePiece's type of a piece that text can match
_BYTES = 256
# The trainer sums over fixed shares of the corpus, one a thread: the number, not the machine, decides the last bits.
_THREADS = 8
_MAX_CHARS = 1000  # of a training line; in UTF-8 under the 4192 bytes that SentencePiece is made for
_SCORE_STEPS = 32
_UNREACHABLE = -1e6
# SentencePiece marks what it does not cover with U+2585 and drops a training line that holds one.
_RESERVED = re.compile("[\0\u2585]+")


def train(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Trains a SentencePiece tokenizer; the same texts give the same bytes.

    Args:
        texts: The corpus, read once.
        config: Algorithm, size and sample.

    Returns:
        The tokenizer, with the ids of the SentencePiece model.
    """
    names = [PAD, UNK, BOS, EOS, *predictor_names(config.predictor_tokens)]
    fixed = len(names) + _BYTES
    if config.vocab_size <= fixed:
        raise DiptychError(
            f"tokenizer.vocab_size: {config.vocab_size} is too small: {len(names)} special pieces and {_BYTES} bytes "
            f"take {fixed}, and the characters of the corpus come on top"
        )
    lines = [line for text in _sample(texts, config.sample_texts) for line in _lines(text)]
    if not lines:
        raise DiptychError("tokenizer: no text to train on: the corpus has no texts or only empty ones")
    model = _train_in_process(
        lines,
        config,
        model_type=config.algorithm,
        vocab_size=config.vocab_size,
        hard_vocab_limit=True,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        character_coverage=0.9995,
        required_chars="".join(sorted({*"".join(names), *"<0x123456789ABCDEF>"})),
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        pad_piece=PAD,
        unk_piece=UNK,
        bos_piece=BOS,
        eos_piece=EOS,
        control_symbols=names[4:],
        max_sentence_length=1 << 20,
        train_extremely_large_corpus=sum(map(len, lines)) > 1 << 29,
        num_threads=_THREADS,
        minloglevel=3,
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    if config.algorithm == "unigram":
        for piece in proto.pieces:
            piece.score = round(piece.score * _SCORE_STEPS) / _SCORE_STEPS
    special = {"bos_token": BOS, "eos_token": EOS, "unk_token": UNK, "pad_token": PAD}
    hf = PreTrainedTokenizerFast(
        tokenizer_object=_from_sentencepiece(proto, names),
        **special,
        extra_special_tokens=names[4:],
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    return finish(hf, config.predictor_tokens, proto.SerializeToString(deterministic=True))


def _train_in_process(lines: Sequence[str], config: TokenizerConfig, **settings: Any) -> bytes:
    """Trains in a process of its own, which SentencePiece may end; returns the model."""
    command = [sys.executable, "-P", sentencepiece_process.__file__]  # -P: modules beside it hide none of Python's
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it has ended; its status says why
                for part in (settings, *lines):
                    process.stdin.write(json.dumps(part).encode() + b"\n")
                process.stdin.close()
            output = process.stdout.read()
            status = process.wait()
        finally:
            process.kill()
            with suppress(BrokenPipeError):
                process.stdin.close()
        if status == 0:
            return output
        if status == COMPLAINED:
            raise DiptychError(_explain(output.decode(), config))
        errors.seek(0)
        raise DiptychError(_explain_end(status, errors.read().decode(errors="replace")))


def _sample(texts: Iterable[str], limit: int) -> list[str]:
    """Draws up to ``limit`` texts in one pass, always the same ones, in their order.

    Drawn, not every n-th: the views of a record follow each other, and a fixed step would meet only some kinds.
    """
    kept: list[tuple[int, str]] = []
    draw = random.Random(0).random  # of the module's generators, the one promised never to change
    for number, text in enumerate(texts):
        slot = number if number < limit else int(draw() * (number + 1))
        if slot >= limit:
            continue
        check_text(text, f"tokenizer: training text {number}")
        if slot == len(kept):
            kept.append((number, text))
        else:
            kept[slot] = (number, text)
    return [text for _, text in sorted(kept)]


def _lines(text: str) -> Iterator[str]:
    """Cuts a text into training lines, at spaces if possible: the trainer silently drops lines that are too long.

    Line ends stay inside, so that pieces may hold them and a line's start is seen as it is met in a text. Only a cut
    drops its space, as SentencePiece puts one in front of every line.
    """
    for line in _RESERVED.split(text):
        while len(line) > _MAX_CHARS:
            space = line.rfind(" ", 1, _MAX_CHARS)
            cut, rest = (space, space + 1) if space > 0 else (_MAX_CHARS, _MAX_CHARS)
            if line[:cut].strip():
                yield line[:cut]
            line = line[rest:]
        if line.strip():
            yield line


def _explain(message: str, config: TokenizerConfig) -> str:
    """Turns a complaint of SentencePiece into one about the configuration."""
    if found := re.search(r"too high \(\d+\)\. Please set it to a value <= (\d+)", message):
        return (
            f"tokenizer.vocab_size: {config.vocab_size} is more than the corpus gives with {config.algorithm}: set it "
            f"to at most {found[1]}, or train on more texts"
        )
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return (
            f"tokenizer.vocab_size: {config.vocab_size} is too small: the special pieces, {_BYTES} bytes and the "
            f"characters of the corpus need at least {found[1]}"
        )
    return f"tokenizer: SentencePiece cannot train on this corpus: {' '.join(message.split())}"


def _explain_end(status: int, errors: str) -> str:
    """What to say when SentencePiece ended its process; a status below 0 is that of a signal."""
    if status == -signal.SIGKILL:
        return (
            "tokenizer: the process that trains it was killed, perhaps for want of memory; lower tokenizer.sample_texts"
        )
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    last = (errors.strip().splitlines() or ["it does not say why"])[-1][:300]
    return (
        f"tokenizer: SentencePiece {version('sentencepiece')} ended with {how} while it trained: {last}; try another "
        "tokenizer.vocab_size or tokenizer.algorithm, or set tokenizer.path to a tokenizer that is there"
    )


def _from_sentencepiece(proto: Any, names: Sequence[str]) -> tokenizers.Tokenizer:
    """Builds the tokenizer that gives the same ids as a SentencePiece model."""
    pieces = list(proto.pieces)
    if proto.trainer_spec.model_type == proto.trainer_spec.BPE:
        backend = tokenizers.Tokenizer(
            models.BPE(
                vocab={piece.piece: number for number, piece in enumerate(pieces)},
                merges=_merges(pieces),
                unk_token=UNK,
                fuse_unk=True,
                byte_fallback=True,
            )
        )
    else:
        scores = [(piece.piece, piece.score if piece.type == _NORMAL else _UNREACHABLE) for piece in pieces]
        backend = tokenizers.Tokenizer(models.Unigram(scores, unk_id=names.index(UNK), byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    backend.post_processor = start_with(BOS, names.index(BOS))
    return backend


def _merges(pieces: Sequence[Any]) -> list[tuple[str, str]]:
    """Lists all pairs that form a piece, best piece first, the longer left part first within a piece."""
    normal = {piece.piece: piece.score for piece in pieces if piece.type == _NORMAL}
    merges = []
    for piece in sorted(normal, key=lambda piece: -normal[piece]):
        for cut in range(len(piece) - 1, 0, -1):
            if piece[:cut] in normal and piece[cut:] in normal:
                merges.append((piece[:cut], piece[cut:]))
    return merges

"""Texts to ids: no text reaches a special token, and what of a text its first tokens stand for is counted in bytes."""

import json
import math
import pickle
import random
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, trainers

from pretrain.config.loading import load_config
from pretrain.config.model import TokenizerConfig
from pretrain.data.corpus import read_corpus
from pretrain.data.text_encoder import TextEncoder
from pretrain.data.tokenizer import Tokenizer, load
from pretrain.model.network import BranchNetwork
from pretrain.objectives.mixed import make_branches
from pretrain.preparation.prepare import prepare
from pretrain.preparation.tokenizer_training import train
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError
from pretrain.training.evaluation import Evaluator

ENGLISH = [f"the {animal} sat on mat {n} and the dog ran" for n in range(40) for animal in ("cat", "heron", "fox")]
PRIVATE = st.sampled_from(["\U0010ffff", "\U0010fffe", "\uffff", "\ue000", "\U000f0001", "\ufdd0"])
TEXT = st.text(st.one_of(PRIVATE, st.sampled_from("0123456789 abç漢</s>")), min_size=1, max_size=30)
CHINESE = "一只猫坐在垫子上安静地看着窗外的雨水慢慢落下来然后睡着了"


def trained(algorithm: str = "bpe") -> Tokenizer:
    size = {"bpe": 330, "unigram": 308}[algorithm]
    return train(ENGLISH, TokenizerConfig.model_validate({"algorithm": algorithm, "vocab_size": size}))


def saved(folder: Path, backend: tokenizers.Tokenizer, **roles: str) -> Path:
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)
    return folder


def byte_level(normalizer: normalizers.Normalizer | None = None) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([*ENGLISH, *(CHINESE[n : n + 2] for n in range(20))], trainer)
    return backend


# ------------------------------------------------------------------------------------------------ special tokens


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_no_text_reaches_a_special_token_of_a_trained_tokenizer(algorithm: str) -> None:
    tokenizer = trained(algorithm)
    special = {tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.hf.unk_token_id, *tokenizer.predictors}
    sp = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)

    @settings(max_examples=500, deadline=None)
    @given(TEXT)
    def check(text: str) -> None:
        for encoder in (tokenizer.encoder, again):
            (ids,) = encoder.encode_batch([text])
            assert not special & {*ids}
            assert ids == sp.encode(text)
        assert tokenizer.decode(ids) == text

    again = pickle.loads(pickle.dumps(tokenizer.encoder))
    check()


PIECES = ["<unk>", "<pad>", "</s>", *"<>/sabc0123456789"]
MODELS = {
    "unigram": models.Unigram([(piece, -1.0) for piece in PIECES], unk_id=0),
    "word": models.WordLevel({piece: number for number, piece in enumerate(PIECES)}, unk_token="<unk>"),
    "wordpiece": models.WordPiece({piece: number for number, piece in enumerate(PIECES)}, unk_token="<unk>"),
    "whole words": models.BPE({piece: number for number, piece in enumerate(PIECES)}, [], ignore_merges=True),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("cleaned", [False, True])
def test_no_text_reaches_a_special_token_of_a_given_tokenizer(tmp_path: Path, kind: str, cleaned: bool) -> None:
    """Whatever name the token has inside: its number is tried between all characters that such a name could have."""
    backend = tokenizers.Tokenizer(MODELS[kind])
    backend.normalizer = normalizers.BertNormalizer() if cleaned else None
    backend.add_special_tokens([tokenizers.AddedToken("</s>", normalized=True, special=True)])
    tokenizer = load(saved(tmp_path, backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"), _config())
    special = {tokenizer.bos, tokenizer.eos, tokenizer.pad, *tokenizer.predictors}
    marks = ["", "\uffff", "\U0010fffe", "\U0010ffff", "\uffff\U0010fffe", "\U0010ffff\U0010fffe", "\U0010fffd"]
    texts = [f"{before}{number}{after}" for number in sorted(special) for before in marks for after in marks]
    texts += ["</s>", "a</s>b", "<pad>", "</s>\U0010ffff"]
    spec = json.loads(tokenizer.encoder.spec)
    assert any(token["content"] == "</s>" for token in spec["added_tokens"])
    for encoder in (tokenizer.encoder, pickle.loads(pickle.dumps(tokenizer.encoder))):
        for text, ids in zip(texts, encoder.encode_batch(texts), strict=True):
            assert not special & {*ids}, text
    # Texts beside such a one are encoded as without it.
    one, marked, other = tokenizer.encode_batch(["abc", "a\U0010ffff", "cab"])
    assert [one, other] == tokenizer.encode_batch(["abc", "cab"])
    assert marked == tokenizer.encode_batch(["a\U0010ffff"])[0]


def test_a_tokenizer_whose_unknown_token_ends_texts_is_refused(tmp_path: Path) -> None:
    model = models.WordLevel({"</s>": 0, "a": 1, "b": 2}, unk_token="</s>")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.raises(DiptychError, match=r"tokenizer\.path: .*become its special token </s>; use another tokenizer"):
        load(saved(tmp_path, backend, eos_token="</s>", unk_token="</s>"), _config())


def test_a_tokenizer_that_cannot_encode_every_character_is_refused(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.raises(DiptychError, match=r"tokenizer\.path: .*cannot encode the character U\+2603"):
        load(saved(tmp_path, backend, eos_token="</s>"), _config())


def _config() -> TokenizerConfig:
    return TokenizerConfig(predictor_tokens=2)


# ------------------------------------------------------------------------------------------------ bytes of a cut text

MIXED = st.text(st.sampled_from(" aetx漢字éßœⅷ👩\u0301ﬁ\n"), min_size=1, max_size=20)


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_kept_bytes_of_a_trained_tokenizer_are_those_of_its_pieces(algorithm: str) -> None:
    """Beside the pieces of SentencePiece, of which a byte piece is one byte and the space in front none of the text."""
    tokenizer = trained(algorithm)
    sp = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)

    def size(number: int) -> int:
        return 1 if sp.is_byte(number) else len(sp.id_to_piece(number).replace("\u2581", " ").encode())

    @settings(max_examples=300, deadline=None)
    @given(MIXED)
    def check(text: str) -> None:
        ids = sp.encode(text)
        for count in range(1, len(ids) + 1):
            assert tokenizer.encoder.kept_bytes(text, count) == sum(map(size, ids[:count])) - 1
        assert tokenizer.encoder.kept_bytes(text, len(ids)) == len(text.encode())

    check()


def test_kept_bytes_of_byte_level_pieces() -> None:
    backend = byte_level()
    encoder = TextEncoder(backend.to_str())
    # Of every piece of its alphabet: the byte it stands for (the table of GPT-2).
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    table |= {chr(256 + n): byte for n, byte in enumerate(sorted({*range(256)} - {*printable}))}

    @settings(max_examples=300, deadline=None)
    @given(MIXED)
    def check(text: str) -> None:
        tokens = backend.encode(text).tokens
        for count in range(1, len(tokens) + 1):
            kept = bytes(table[character] for token in tokens[:count] for character in token)
            assert text.encode().startswith(kept)
            assert encoder.kept_bytes(text, count) == len(kept)

    check()


def test_kept_bytes_are_those_of_the_text_not_of_what_a_tokenizer_makes_of_it() -> None:
    backend = byte_level(normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()]))
    encoder = TextEncoder(backend.to_str())
    text = "  \uff21\uff22 \uff43"  # full-width letters of three bytes each, which become ASCII; spaces that go
    tokens = backend.encode(text).tokens
    assert "".join(tokens) == "ab\u0120c"
    assert [encoder.kept_bytes(text, count) for count in range(1, 1 + len(tokens))] == [5, 8, 9, 12]

    words = {piece: number for number, piece in enumerate(["[UNK]", "the", "cat", "##s"])}
    pieces = tokenizers.Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    text = " Th\u00e9  CATs 漢 zzz"
    assert pieces.encode(text).tokens == ["the", "cat", "##s", "[UNK]", "[UNK]"]
    found = [TextEncoder(pieces.to_str()).kept_bytes(text, count) for count in range(1, 6)]
    assert found == [len(text[:end].encode()) for end in (4, 9, 10, 12, 16)]


@pytest.mark.slow
def test_bits_per_byte_of_cut_texts_are_those_of_the_bytes_that_are_left(tmp_path: Path) -> None:
    """A Chinese second view under an English tokenizer, cut inside a character: beside the export, by itself."""
    trained().save(tmp_path / "tokenizer")
    rng = random.Random(0)
    rows = [
        {"text": f"the cat sat on mat {n}", "code": "".join(rng.sample(CHINESE, rng.choice([8, 14, 20])))}
        for n in range(60)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = load_config(
        None,
        [
            f"data.sources=[{{type: jsonl, path: '{tmp_path}/pairs.jsonl'}}]",
            *("data.views=[text, code]", f"data.folder='{tmp_path}/data'", "data.heldout_fraction=0.3"),
            *("data.max_view_tokens=30", f"tokenizer.path='{tmp_path}/tokenizer'", "packing.layout=conditional"),
        ],
    )
    corpus = read_corpus(prepare(config, quiet=True))
    tokenizer = load(corpus.folder / "tokenizer", config.tokenizer)
    branches = make_branches(
        config.packing, config.objective, eos=tokenizer.eos, bos=tokenizer.bos, predictors=tokenizer.predictors
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, attn_implementation="sdpa",
        )
    )  # fmt: skip
    ranks = Ranks(0, 1, torch.device("cpu"))
    found = Evaluator(config, corpus, tokenizer, branches, ranks).run(BranchNetwork(model))["eval/bits_per_byte"]

    model.save_pretrained(tmp_path / "export")
    tokenizer.save(tmp_path / "export")
    lm = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    hf = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    held = {int(corpus.heldout.place(index).rpartition(":")[2]) - 1 for index in range(len(corpus.heldout))}
    bits, num_bytes, cut = 0.0, 0, 0
    for row in (rows[number] for number in sorted(held)):
        first = hf(row["text"], add_special_tokens=False)["input_ids"]
        whole = hf(row["code"], add_special_tokens=False)["input_ids"]
        second = whole[:30] if len(whole) > 30 else [*whole, hf.eos_token_id]
        logits = lm(torch.tensor([[hf.bos_token_id, *first, *second]])).logits[0].detach()
        places = torch.arange(len(first), len(first) + len(second))
        bits -= float(torch.log_softmax(logits[places].double(), -1)[range(len(second)), second].sum()) / math.log(2)
        pieces = hf.convert_ids_to_tokens(whole[:30])
        data = b"".join(bytes([int(p[3:5], 16)]) if p.startswith("<0x") else p.encode() for p in pieces)
        left = len(data.removeprefix("\u2581".encode()))
        assert row["code"].encode().startswith(data.removeprefix("\u2581".encode()))
        num_bytes += left
        cut += len(whole) > 30
    assert len(held) > cut > 5  # short views are whole; the others are cut after 29 bytes, inside a character
    assert found == pytest.approx(bits / num_bytes, rel=1e-5)
    counts = corpus.manifest["splits"]["heldout"]
    assert (counts["second_bytes"], counts["second_truncated"]) == (num_bytes, cut)

"""The tokenizer: the same ids as SentencePiece, exact round trips, and one type for trained and existing ones."""

import contextlib
import gzip
import hashlib
import itertools
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import psutil
import pytest
import sentencepiece
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import models, pre_tokenizers

from pretrain.config.model import TokenizerConfig
from pretrain.data.tokenizer import Tokenizer, load
from pretrain.preparation.tokenizer_training import _sample, train
from pretrain.runtime.errors import DiptychError

ROOT = Path(__file__).resolve().parents[3]
SHARED = Path(os.environ.get("DIPTYCH_SHARED", ROOT.parent / "shared")) / "data"
ALGORITHMS = ("bpe", "unigram")
WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "house",
    "running",
    "quickly",
    "über",
    "straße",
    "naïve",
    "élève",
    "return",
    "def",
    "self",
    "value",
    "index",
    "<div>",
    "[x]",
    "</s>",
    "==",
    "----",
    "123",
    "4567",
    "3.14",
    "don't",
    "(foo_bar)",
    "{key:",
    "'value'}",
    "日本語",
    "テスト",
    "Привет",
    "мир",
    "aaaa",
    "abab",
    "banana",
]
TRICKY = [
    "",
    " ",
    "   ",
    "\n",
    "\t\t\n \n",
    " leading",
    "trailing ",
    "  two  spaces  ",
    "def f(x):\n    if x:\n\treturn [x,\n            1]\n\n\n",
    "line\r\nline\rline\x0b\x0c\x85\u2028",
    "emoji 👩‍👩‍👧‍👦🏳️‍🌈 end",
    "日本語のテスト、漢字",
    "한국어 العربية ไทย",
    "\ufeffbom \ufffd \u2585 \xa0nbsp\u3000",
    "\x01\x7f\ue000\uffff\U0010ffff",
    "</s><s><pad><unk>[PRED_1][PRED_2]",
    "a </s> b [PRED_1] <0x41><0x0A> <unk>",
    "a" * 3000,
    " " * 77 + "x",
    "=" * 50 + "ab" * 40,
    "x" + "日" * 600,
]
TEXT = st.text(
    st.one_of(
        st.sampled_from(" \n\tabe=-<>[]/_s0x14PREDunkéß日👩\u0301"),
        st.characters(exclude_categories=("Cs",), exclude_characters="\0\u2581"),
    ),
    max_size=60,
) | st.lists(st.sampled_from([*WORDS, " ", "  ", "\n", "</s>", "<0x41>", "[PRED_1]"]), max_size=20).map("".join)


def corpus(count: int = 600, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        words = [rng.choice(WORDS) + rng.choice(("", "s", "ing", "x", ".")) for _ in range(rng.randint(1, 30))]
        texts.append(rng.choice(("", "    ", "\t")) + rng.choice((" ", "\n", "  ", "")).join(words))
    return texts


def config(algorithm: str = "bpe", **changes: object) -> TokenizerConfig:
    return TokenizerConfig.model_validate({"algorithm": algorithm, "vocab_size": 512, **changes})


def reference(tokenizer: Tokenizer) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)


@pytest.fixture(scope="module", params=ALGORITHMS)
def trained(request: pytest.FixtureRequest) -> Tokenizer:
    return train(corpus(), config(request.param))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def byte_level(folder: Path, *, special: str = "<|endoftext|>", **wrap: object) -> Path:
    """Saves a tiny GPT-2-style tokenizer: byte-level BPE, one special token for all roles."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus(100), trainer)
    roles = wrap or {"bos_token": special, "eos_token": special, "pad_token": special}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)
    return folder


def wrapped(folder: Path, model: object, **roles: str) -> Path:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)
    return folder


# --- trained: ids and round trips


def test_ids_and_special_tokens(trained: Tokenizer) -> None:
    sp = reference(trained)
    assert trained.vocab_size == len(trained.hf) == sp.get_piece_size() == 512
    assert (trained.pad, trained.bos, trained.eos) == (sp.pad_id(), sp.bos_id(), sp.eos_id())
    assert trained.predictors == tuple(sp.piece_to_id(f"[PRED_{number}]") for number in (1, 2, 3, 4))
    assert len({trained.pad, trained.bos, trained.eos, trained.hf.unk_token_id, *trained.predictors}) == 8
    assert trained.hf.convert_ids_to_tokens(list(range(512))) == [sp.id_to_piece(number) for number in range(512)]
    assert trained.hf.extra_special_tokens == ["[PRED_1]", "[PRED_2]", "[PRED_3]", "[PRED_4]"]


def test_every_character_of_the_special_pieces_is_a_piece(trained: Tokenizer) -> None:
    sp = reference(trained)
    special = [number for number in range(512) if sp.is_control(number) or sp.is_byte(number) or sp.is_unknown(number)]
    assert len(special) == 264
    for character in {*"".join(sp.id_to_piece(number) for number in special)}:
        assert not sp.is_unknown(sp.piece_to_id(character)), character


@pytest.mark.parametrize("text", TRICKY, ids=range(len(TRICKY)))
def test_tricky_texts(trained: Tokenizer, text: str) -> None:
    ids = trained.encode_batch([text])[0]
    assert ids == reference(trained).encode(text)
    assert trained.decode(ids) == text
    assert not {trained.pad, trained.bos, trained.eos, trained.hf.unk_token_id, *trained.predictors} & {*ids}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_any_text_equals_sentencepiece_and_round_trips(algorithm: str) -> None:
    tokenizer = train(corpus(), config(algorithm))
    sp = reference(tokenizer)

    @settings(max_examples=600, deadline=None)
    @given(TEXT)
    def check(text: str) -> None:
        ids = tokenizer.encode_batch([text])[0]
        assert ids == sp.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode([tokenizer.bos, *ids, tokenizer.predictors[0], tokenizer.eos, tokenizer.pad]) == text

    check()


@pytest.mark.slow
@pytest.mark.parametrize("alphabet", ["ab", "ab ", "a  ", "a-= "])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_repetitive_texts_with_many_ties_equal_sentencepiece(algorithm: str, alphabet: str) -> None:
    rng = random.Random(alphabet)
    blocks = ["".join(rng.choices(alphabet, k=rng.randint(1, 30))) for _ in range(20)]
    lines = ["".join(rng.choices(blocks, k=20)) for _ in range(300)]
    sizes = iter([330, 310, 300, 295, 293, 291])
    tokenizer = None
    while tokenizer is None:
        with contextlib.suppress(DiptychError):  # as large as these texts give
            tokenizer = train(lines, config(algorithm, vocab_size=next(sizes)))
    texts = ["".join(rng.choices(alphabet, k=rng.randint(1, 60))) for _ in range(3000)]
    assert tokenizer.encode_batch(texts) == reference(tokenizer).encode(texts)


def shared_texts(name: str, limit: int) -> Iterator[str]:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"no {path}: set DIPTYCH_SHARED to the folder that holds data/")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        for line in itertools.islice(lines, limit):
            row = json.loads(line)
            yield from (row[key] for key in ("text", "code") if key in row)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_real_texts_equal_sentencepiece(algorithm: str) -> None:
    sources = {
        "quora/train.jsonl": 8000,
        "multi30k_en_de/train.jsonl": 4000,
        "codedoc/train.jsonl": 2500,
        "imdb_unlabelled/train.jsonl.gz": 800,
    }
    texts = [text for name, limit in sources.items() for text in shared_texts(name, limit)]
    tokenizer = train(texts, config(algorithm, vocab_size=4096, sample_texts=5000))
    sp = reference(tokenizer)
    got = tokenizer.encode_batch(texts)
    assert [number for number, (a, b) in enumerate(zip(got, sp.encode(texts), strict=True)) if a != b] == []
    assert [number for number, ids in enumerate(got) if tokenizer.decode(ids) != texts[number]] == []
    # One text of more than 10 000 pieces: in single precision the sums of unrounded scores would not decide alike.
    whole = "\n".join(texts[-300:])
    assert tokenizer.encode_batch([whole])[0] == sp.encode(whole)


# --- trained: special tokens, defaults, training


def test_special_strings_are_text_for_us_and_bos_is_the_default_for_users(trained: Tokenizer) -> None:
    text = "a</s>b [PRED_1] <s>"
    plain = trained.encode_batch([text])[0]
    assert trained.hf("the cat")["input_ids"] == [trained.bos, *trained.encode_batch(["the cat"])[0]]
    assert trained.hf(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == plain
    # A user's call reads special strings; it must not change what we read afterwards.
    assert trained.eos in trained.hf(text)["input_ids"]
    trained.hf(["a", "a b c"], padding=True, truncation=True, max_length=2)
    assert trained.encode_batch([text, "the cat and the dog"])[0] == plain
    assert trained.hf("a", "b")["input_ids"].count(trained.bos) == 2
    assert set(trained.hf("a")) == {"input_ids", "attention_mask"}


def test_tokenizer_survives_a_pickle(trained: Tokenizer) -> None:
    again = pickle.loads(pickle.dumps(trained))
    assert again == trained
    assert again.encode_batch(TRICKY) == trained.encode_batch(TRICKY)


def test_no_text_gives_no_ids(trained: Tokenizer) -> None:
    assert trained.encode_batch([]) == []
    assert trained.encode_batch(["", "a"])[0] == []
    assert trained.decode([]) == ""


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_same_texts_give_the_same_bytes(algorithm: str) -> None:
    first = train(corpus(), config(algorithm))
    second = train(iter(corpus()), config(algorithm))
    assert (first.model, first.fingerprint) == (second.model, second.fingerprint)
    other = train(corpus(seed=1), config(algorithm))
    assert other.fingerprint != first.fingerprint


@pytest.mark.slow
def test_another_process_gives_the_same_bytes() -> None:
    script = (
        "import hashlib\nfrom tests.pretrain.data.test_tokenizer import ALGORITHMS, config, corpus\n"
        "from pretrain.preparation.tokenizer_training import train\n"
        "for name in ALGORITHMS:\n"
        "    t = train(corpus(), config(name)); print(hashlib.sha256(t.model).hexdigest(), t.fingerprint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    here = [train(corpus(), config(name)) for name in ALGORITHMS]
    assert done.stdout.split() == [
        word for t in here for word in (hashlib.sha256(t.model or b"").hexdigest(), t.fingerprint)
    ], done.stderr


def test_training_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    train(corpus(100), config("unigram", vocab_size=400))
    with pytest.raises(DiptychError):
        train(corpus(100), config(vocab_size=100_000))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_long_and_odd_lines_are_trained_on(algorithm: str) -> None:
    text = "zyzzyva " * 20_000 + "\n" + "qoph\u2585qophs\u2585" * 999 + "\0wug\0wugs" * 999 + "x" * 5000
    tokenizer = train([text, *corpus(200)], config(algorithm, vocab_size=480))
    sp = reference(tokenizer)
    assert len(sp.encode("zyzzyva")) == 1
    assert len(sp.encode("qoph")) == 1
    assert len(sp.encode("wug")) == 1


def test_code_gives_pieces_for_indentation_and_line_ends() -> None:
    lines = ["def f():", *["        return x"] * 30, "    pass"] * 20
    tokenizer = train(["\n".join(lines), *corpus(300)], config())
    assert len(tokenizer.encode_batch(["f():\n        return x"])[0]) < 8
    sp = reference(tokenizer)
    assert any("\n" in sp.id_to_piece(number) for number in range(len(sp)))
    assert not any("\u2581" in sp.id_to_piece(number).lstrip("\u2581") for number in range(len(sp)))


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 200, 1000, 12345])
def test_sample_is_even_and_the_same_every_time(count: int) -> None:
    taken = [int(text) for text in _sample(map(str, range(count)), 100)]
    assert taken == [int(text) for text in _sample([str(number) for number in range(count)], 100)]
    assert len(taken) == min(count, 100)
    assert len(set(taken)) == len(taken)
    assert taken == sorted(taken)
    if count >= 200:
        assert 35 <= sum(number < count / 2 for number in taken) <= 65


def test_sample_meets_all_views_of_interleaved_records() -> None:
    for views in (2, 3, 4):
        taken = _sample((str(number % views) for number in range(1600)), 200)
        assert all(taken.count(str(view)) > 200 / views / 2 for view in range(views))


def test_predictor_pieces_are_optional_and_many() -> None:
    none = train(corpus(), config(predictor_tokens=0))
    assert none.predictors == ()
    many = train(corpus(), config("unigram", predictor_tokens=64))
    assert many.predictors == tuple(range(4, 68))
    text = "[PRED_64][PRED_1]"
    assert many.encode_batch([text])[0] == reference(many).encode(text)
    assert many.decode(many.encode_batch([text])[0]) == text


# --- saving and loading


def test_saved_folder_is_a_plain_tokenizer(trained: Tokenizer, tmp_path: Path, offline: None) -> None:
    trained.save(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert {file.name for file in folder.iterdir()} == {"tokenizer.json", "tokenizer_config.json", "tokenizer.model"}
    assert (folder / "tokenizer.model").read_bytes() == trained.model
    plain = transformers.AutoTokenizer.from_pretrained(folder)
    assert (plain.bos_token_id, plain.eos_token_id, plain.pad_token_id) == (trained.bos, trained.eos, trained.pad)
    assert len(plain) == trained.vocab_size
    for text in TRICKY:
        ids = trained.encode_batch([text])[0]
        got = plain(text, split_special_tokens=True)
        assert got["input_ids"] == [trained.bos, *ids]
        assert plain.decode(got["input_ids"], skip_special_tokens=True) == text

    again = load(folder, config())
    assert again == trained
    assert again.fingerprint == trained.fingerprint
    assert again.model == trained.model
    assert again.encode_batch(TRICKY) == trained.encode_batch(TRICKY)
    again.save(tmp_path / "second")
    for name in ("tokenizer.json", "tokenizer.model"):
        assert (tmp_path / "second" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "gpt2"])
def test_a_model_beside_it_does_not_change_the_tokenizer(trained: Tokenizer, tmp_path: Path, model_type: str) -> None:
    trained.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert load(tmp_path, config()).encode_batch(TRICKY) == trained.encode_batch(TRICKY)


def test_more_or_fewer_predictor_pieces_of_a_saved_folder(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path)
    assert load(tmp_path, config(predictor_tokens=2)).predictors == trained.predictors[:2]
    more = load(tmp_path, config(predictor_tokens=6))
    assert more.predictors == (*trained.predictors, 512, 513)
    assert more.vocab_size == 514
    assert more.fingerprint != trained.fingerprint
    assert more.model is None  # it lacks the two new pieces
    assert more.encode_batch(TRICKY) == trained.encode_batch(TRICKY)


def test_fingerprint_does_not_change_with_use(trained: Tokenizer, tmp_path: Path) -> None:
    trained.hf(["a", "a b c"], padding=True, truncation=True, max_length=2)
    trained.save(tmp_path)
    assert load(tmp_path, config()).fingerprint == trained.fingerprint


def test_existing_tokenizer_with_one_special_token_for_all_roles(tmp_path: Path, offline: None) -> None:
    byte_level(tmp_path / "gpt")
    before = transformers.AutoTokenizer.from_pretrained(tmp_path / "gpt")
    assert before.pad_token_id == before.eos_token_id
    tokenizer = load(tmp_path / "gpt", config())
    assert tokenizer.bos == tokenizer.eos == before.eos_token_id
    assert tokenizer.pad == len(before)
    assert tokenizer.predictors == tuple(range(len(before) + 1, len(before) + 5))
    assert tokenizer.vocab_size == len(tokenizer.hf) == len(before) + 5
    assert tokenizer.model is None

    texts = [text for text in TRICKY if text]
    assert tokenizer.encode_batch(texts) == before(texts)["input_ids"]
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)] == texts
    literal = "x<|endoftext|>y [PRED_1]<pad>"
    ids = tokenizer.encode_batch([literal])[0]
    assert not {tokenizer.eos, tokenizer.pad, *tokenizer.predictors} & {*ids}
    assert tokenizer.decode(ids) == literal
    assert tokenizer.hf("x y")["input_ids"] == [tokenizer.bos, *tokenizer.encode_batch(["x y"])[0]]

    tokenizer.save(tmp_path / "saved")
    assert load(tmp_path / "saved", config()) == tokenizer
    plain = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert plain("x y")["input_ids"] == tokenizer.hf("x y")["input_ids"]
    assert plain.pad_token_id == tokenizer.pad


def test_existing_tokenizer_without_any_special_token(tmp_path: Path) -> None:
    tokenizer = load(byte_level(tmp_path, unk_token="<|endoftext|>"), config(predictor_tokens=1))
    roles = [tokenizer.hf.bos_token, tokenizer.hf.eos_token, tokenizer.hf.pad_token]
    assert roles == ["<s>", "</s>", "<pad>"]
    assert len({tokenizer.bos, tokenizer.eos, tokenizer.pad, *tokenizer.predictors}) == 4


def test_what_only_training_a_tokenizer_needs_is_stripped(tmp_path: Path) -> None:
    """BPE dropout, truncation and padding: what is saved encodes whole texts, alike at every call."""
    opened = load(byte_level(tmp_path / "plain"), config())
    text = "running quickly, the house runs quickly " * 3
    (expected,) = opened.encode_batch([text])
    backend = tokenizers.Tokenizer.from_file(str(byte_level(tmp_path / "odd") / "tokenizer.json"))
    backend.enable_truncation(5)
    backend.enable_padding(length=200)
    spec = json.loads(backend.to_str())
    spec["model"]["dropout"] = 0.5
    (tmp_path / "odd" / "tokenizer.json").write_text(json.dumps(spec))
    tokenizer = load(tmp_path / "odd", config())
    tokenizer.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer.json").read_text())
    assert saved["truncation"] is saved["padding"] is saved["model"]["dropout"] is None
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    for _ in range(5):
        assert tokenizer.encode_batch([text]) == [expected]
        assert tokenizer.hf(text)["input_ids"] == again(text)["input_ids"] == [tokenizer.bos, *expected]
    assert tokenizer.fingerprint == opened.fingerprint == load(tmp_path / "saved", config()).fingerprint


def test_the_shared_tokenizer_with_dropout_encodes_alike_at_every_call(shared: Path, tmp_path: Path) -> None:
    load(shared / "cases" / "tokenizer_with_dropout", config()).save(tmp_path)
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len({tuple(saved("a sentence of some words")["input_ids"]) for _ in range(20)}) == 1


def test_pad_that_is_taken_gets_another_name(tmp_path: Path) -> None:
    tokenizer = load(byte_level(tmp_path, special="<pad>"), config())
    assert tokenizer.hf.eos_token == "<pad>"
    assert tokenizer.hf.pad_token == "<pad_1>"
    assert tokenizer.pad != tokenizer.eos


@pytest.mark.parametrize("kind", ["unigram", "word", "bpe"])
def test_special_tokens_that_the_model_itself_can_match(tmp_path: Path, kind: str) -> None:
    letters = ["<unk>", "<pad>", "</s>", *"<>/sabc"]
    if kind == "unigram":
        model: object = models.Unigram([(piece, -1.0 if piece != "</s>" else 0.0) for piece in letters], unk_id=0)
    elif kind == "word":
        model = models.WordLevel({piece: number for number, piece in enumerate(letters)}, unk_token="<unk>")
    else:
        pieces = {piece: number for number, piece in enumerate([*letters, "</", "s>"])}
        model = models.BPE(pieces, [("<", "/"), ("s", ">"), ("</", "s>")], unk_token="<unk>")
    wrapped(tmp_path, model, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    tokenizer = load(tmp_path, config())
    assert tokenizer.eos == 2
    ids = tokenizer.encode_batch(["a </s> b", "</s>", "a b"])
    assert not any(tokenizer.eos in row for row in ids)
    assert ids[2] == tokenizer.hf("a b", add_special_tokens=False)["input_ids"]


def test_ids_with_holes_count_up_to_the_highest(tmp_path: Path) -> None:
    model = models.WordLevel({"<unk>": 0, "a": 1, "b": 9}, unk_token="<unk>")
    tokenizer = load(wrapped(tmp_path, model, unk_token="<unk>"), config())
    assert tokenizer.vocab_size > max(tokenizer.bos, tokenizer.eos, tokenizer.pad, *tokenizer.predictors, 9)


# --- errors


def test_config_is_strict() -> None:
    for wrong in ({"vocab": 1}, {"predictor_tokens": 65}, {"vocab_size": 0}, {"algorithm": "word"}):
        with pytest.raises(ValidationError):
            TokenizerConfig.model_validate(wrong)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_too_large_vocabulary_names_the_most_that_works(algorithm: str) -> None:
    with pytest.raises(DiptychError, match=r"tokenizer\.vocab_size: 50000 .* at most \d+") as caught:
        train(corpus(), config(algorithm, vocab_size=50_000))
    most = int(str(caught.value).split("at most ")[1].split(",")[0])
    assert train(corpus(), config(algorithm, vocab_size=most)).vocab_size == most


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_too_small_vocabulary(algorithm: str) -> None:
    with pytest.raises(DiptychError, match=r"tokenizer\.vocab_size: 264 is too small"):
        train(corpus(), config(algorithm, vocab_size=264))
    with pytest.raises(DiptychError, match=r"tokenizer\.vocab_size: 265 is too small.*at least \d+") as caught:
        train(corpus(), config(algorithm, vocab_size=265))
    least = int(str(caught.value).split("at least ")[1])
    tokenizer = train(corpus(), config(algorithm, vocab_size=least))
    assert tokenizer.encode_batch(TRICKY) == reference(tokenizer).encode(TRICKY)


@pytest.mark.parametrize(
    ("end", "line"),
    [
        (
            "print('Check failed: a piece', file=sys.stderr); os.abort()",
            r"ended with SIGABRT .*: Check failed: a piece; ",
        ),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "was killed, perhaps for want of memory; lower tokenizer.sample_texts",
        ),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended with SIGSEGV while it trained: it does not say why; try"),
        ("raise TypeError('no such setting')", "ended with status 1 .*TypeError: no such setting; try another"),
    ],
)
def test_native_code_that_ends_its_process_becomes_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, line: str
) -> None:
    """As sentencepiece 0.2.2 does, here before it has read what it is sent."""
    code = f"import os, signal, sys\nclass SentencePieceTrainer:\n    def train(**settings): {end}\n"
    (tmp_path / "sentencepiece.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(DiptychError, match=line) as caught:
        train(corpus(20_000), config())
    assert "\n" not in str(caught.value)
    monkeypatch.delenv("PYTHONPATH")
    assert train(corpus(), config()).vocab_size == config().vocab_size


@pytest.mark.slow
def test_training_ends_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    """Also where that one is killed and cannot end it."""
    noted = tmp_path / "pid"
    (tmp_path / "sentencepiece.py").write_text(
        "import os, time\nclass SentencePieceTrainer:\n    def train(**settings):\n"
        f"        with open({str(noted)!r}, 'w') as file: print(os.getpid(), file=file)\n        time.sleep(120)\n"
    )
    program = (
        "import os\n"
        "from pretrain.data.tokenizer import TokenizerConfig\n"
        "from pretrain.preparation.tokenizer_training import train\n"
        f"os.environ['PYTHONPATH'] = {str(tmp_path)!r}; train(['a few words'] * 9, TokenizerConfig(vocab_size=400))"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as parent:
        while not (noted.exists() and noted.read_text().endswith("\n")):
            time.sleep(0.05)
            assert parent.poll() is None
        child = psutil.Process(int(noted.read_text()))
        os.kill(child.pid, signal.SIGUSR1)  # Slurm signals all processes; the parent decides
        time.sleep(0.2)
        assert child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        parent.kill()
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)


@pytest.mark.parametrize("texts", [[], [""], [" ", "\n\n", "\t"]])
def test_no_text_to_train_on(texts: list[str]) -> None:
    with pytest.raises(DiptychError, match="no text to train on"):
        train(texts, config())


def test_half_a_surrogate_pair_is_named(trained: Tokenizer) -> None:
    with pytest.raises(DiptychError, match=r"training text 1: character 2 .*surrogate"):
        train(["fine", "no\ud800"], config())
    with pytest.raises(DiptychError, match=r"text 1: character 0 .*surrogate"):
        trained.encode_batch(["fine", "\udfff"])
    with pytest.raises(DiptychError, match="text 0: expected a string, got int"):
        trained.encode_batch([3])  # type: ignore[list-item]


def test_path_that_is_no_tokenizer(tmp_path: Path, offline: None) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text("{}")
    (tmp_path / "file").write_text("x")
    expected = {
        str(tmp_path / "empty"): "holds no tokenizer",
        str(tmp_path / "model"): "holds no tokenizer",
        str(tmp_path / "broken"): "is not a folder of a Hugging Face tokenizer",
        str(tmp_path / "file"): "is a file",
        str(tmp_path / "missing"): "no such folder",
        "./missing": "no such folder",
        "no-such-owner/no-such-tokenizer": "no such folder, and no tokenizer of that name",
        "no-such-tokenizer": "no such folder, and no tokenizer of that name",
    }
    for path, message in expected.items():
        started = time.monotonic()
        with pytest.raises(DiptychError) as caught:
            load(path, config())
        assert str(caught.value).startswith(f"tokenizer.path: {path}: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert time.monotonic() - started < 20


def test_a_wrong_setting_beside_a_tokenizer_is_one_line(tmp_path: Path, offline: None) -> None:
    settings = json.loads((byte_level(tmp_path) / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": "long"}))
    with pytest.raises(DiptychError, match=r"tokenizer\.path: .*use another tokenizer"):
        load(tmp_path, config())


def test_a_tokenizer_at_which_the_library_panics_is_one_line(tmp_path: Path, offline: None) -> None:
    path = byte_level(tmp_path) / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec["model"]["continuing_subword_prefix"] = "long"  # merges are shorter
    path.write_text(json.dumps(spec))
    with pytest.raises(DiptychError, match=r"tokenizer\.path: .*not a folder of a Hugging Face tokenizer.*panics"):
        load(tmp_path, config())


def test_saving_over_a_file(trained: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DiptychError, match="cannot save the tokenizer"):
        trained.save(tmp_path / "file")

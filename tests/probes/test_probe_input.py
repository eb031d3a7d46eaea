"""What a model reads of a text: the tokens that its tokenizer adds, where it is cut, and TF-IDF words of the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForCausalLM,
)

from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError
from probes.arguments import read_arguments
from probes.encoding.encode import encode
from probes.encoding.probed_model import open_model
from probes.encoding.sentence_transformer import write_sentence_transformer
from probes.results import CUT_WORDS, Report
from probes.run import ProbingRun
from tests.probes.test_probe_encoding import assert_near, everything

WORDS = ["good", "bad", "film", "the", "a", "is", "long", "##er", "very", "dull"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
}
TEXTS = ["the film is good", "", "a very very long film", "Dull", "the longer film is bad " * 3, "unknown"]


def wordpiece(folder: Path, *, template: str = "[CLS] $A [SEP]", classes: bool = True) -> None:
    """A tokenizer in the manner of BERT's, with the padding and truncation that such files often hold."""
    backend = Backend(models.WordPiece({word: n for n, word in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    added = [(token, SPECIAL.index(token)) for token in ("[CLS]", "[SEP]") if token in template]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=added) if template else None
    backend.enable_padding(length=24, pad_id=0, pad_token="[PAD]")
    backend.enable_truncation(16)
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"} if classes else {}
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", model_max_length=40, **names
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = BertConfig(**SIZES, vocab_size=len(SPECIAL) + len(WORDS), max_position_embeddings=40)
    BertModel(config).save_pretrained(folder)
    wordpiece(folder)
    return folder


def test_an_encoder_is_read_as_its_tokenizer_was_made_to(bert: Path) -> None:
    model = open_model(bert)
    assert (model.prefix, model.suffix) == ((2,), (3,))
    assert (model.describe("bert").prefix, model.describe("bert").suffix) == (("[CLS]",), ("[SEP]",))
    assert not model.mode.causal and model.mode.longest_packed > 40  # several texts in a row
    assert model.poolings == ("last", "mean", "cls")
    assert model.notes == ("embeddings resized from 15 to 17, the new ones untrained: <s> </s>",)
    reference, tokenizer = BertModel.from_pretrained(bert).eval(), AutoTokenizer.from_pretrained(bert)
    expected = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        assert ids[0, 0] == 2 and ids[0, -1] == 3
        with torch.no_grad():
            states = torch.stack(reference(ids, output_hidden_states=True).hidden_states)[:, 0]
        expected.append(torch.stack([states[:, -1], states.mean(1), states[:, 0]], dim=1))
    truth = torch.stack(expected, dim=2).numpy()
    alone = replace(model, mode=replace(model.mode, longest_packed=0))
    for each in (model, alone):
        for batch_tokens in (1, 40, 4096):
            assert_near(everything(encode(each, TEXTS, poolings=model.poolings, batch_tokens=batch_tokens)), truth)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_sentence_transformers_reads_an_encoder_alike(bert: Path, tmp_path: Path, pooling: Any) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules

    transformer = modules.Transformer(str(bert), max_seq_length=10)
    mode = {"mean": "mean", "cls": "cls", "last": "lasttoken"}[pooling]
    pooled = modules.Pooling(transformer.get_embedding_dimension(), pooling_mode=mode)
    theirs = sentence_transformers.SentenceTransformer(modules=[transformer, pooled], device="cpu").encode(TEXTS)
    model = open_model(bert)
    assert_near(encode(model, TEXTS, poolings=model.poolings, max_tokens=10).get(2, pooling), theirs)
    # The folder that we write for it keeps the tokens.
    write_sentence_transformer(bert, tmp_path / "out", pooling=pooling)
    written = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS)
    assert_near(encode(model, TEXTS, poolings=model.poolings).get(2, pooling), written)


def test_a_cut_leaves_room_for_what_is_added(bert: Path) -> None:
    model = open_model(bert)
    text = "The film, isn't  very LONG a good film"
    found = encode(model, ["a film", text], max_tokens=6)
    assert found.cut == {1: len("The film, isn")} and found.truncated == 1
    whole = encode(model, ["The film, isn"])
    assert_near(everything(found)[:, :, 1], everything(whole)[:, :, 0])
    for tokens in (1, 2):
        with pytest.raises(DiptychError, match=rf"max_tokens: {tokens}; .* needs at least 3: one beside the 2"):
            encode(model, ["a film"], max_tokens=tokens)
    assert encode(model, [text * 30]).truncated == 1  # the context is 40


@pytest.mark.parametrize(
    ("template", "added"), [("", ((), ())), ("$A [SEP]", ((), (3,))), ("[CLS] $A", ((2,), ())), ("$A", ((), ()))]
)
def test_a_decoder_gets_what_its_tokenizer_adds_and_no_more(tmp_path: Path, template: str, added: Any) -> None:
    torch.manual_seed(0)
    # A bos that the tokenizer names but does not add, as GPT-2's.
    config = GPT2Config(
        vocab_size=15, n_positions=40, n_embd=32, n_layer=2, n_head=4, bos_token_id=2, eos_token_id=3, pad_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    wordpiece(tmp_path, template=template, classes=False)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    names = {"bos_token": "[CLS]", "eos_token": "[SEP]", "tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | names))
    model = open_model(tmp_path)
    assert (model.prefix, model.suffix) == added
    assert model.mode.causal and model.poolings == ("last", "mean")
    with pytest.raises(DiptychError, match="reads from left to right"):
        encode(model, TEXTS, poolings=["cls"])
    lm = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    before, after = added
    for number, ids in enumerate(model.tokenizer.encode_batch(TEXTS)):
        own = [*before, *ids, *after] or [model.tokenizer.eos]
        with torch.no_grad():
            states = lm.transformer(torch.tensor([own])).last_hidden_state[0]
        found = encode(model, TEXTS)
        assert_near(found.get(2, "last")[number], states[-1].numpy())
        assert_near(found.get(2, "mean")[number], states.mean(0).numpy())


def test_positions_that_begin_after_padding_are_counted(tmp_path: Path) -> None:
    """RoBERTa's config says 42 for 40 tokens."""
    torch.manual_seed(0)
    config = RobertaConfig(**SIZES, vocab_size=15, max_position_embeddings=42, pad_token_id=1)
    RobertaForCausalLM(config).save_pretrained(tmp_path)
    wordpiece(tmp_path)
    model = open_model(tmp_path)
    assert model.context == 40
    assert encode(model, ["film " * 100, "a film"]).cut == {0: 38 * 5 - 1}


@pytest.mark.slow
def test_words_are_compared_at_equal_input(bert: Path, tmp_path: Path) -> None:
    """The label is in the first word of half of the texts, and behind the cut in the others."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 160), ("test", 80)):
        lines = []
        for number in range(count):
            label = int(draw.integers(2))
            word, filler = ("bad", "good")[label], " ".join(draw.choice(["film", "the", "a", "is", "very"], 7))
            text = f"{word} {filler}" if number % 2 else f"{filler} {word}"
            lines.append(json.dumps({"text": text, "label": label}))
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    arguments = [f"bert={bert}", "--data", f"films={tmp_path}", "--max-tokens", "8", "--pooling", "mean"]
    arguments += ["--seeds", "1", "--random-seeds", "1", "--sizes", "--out", str(tmp_path / "out")]
    run = ProbingRun(read_arguments(arguments, ""), Ranks(0, 1, torch.device("cpu")), "")
    report: Report = run.run()
    assert not report.problems
    assert report.equal_input == {"films": {"bert": CUT_WORDS + "bert"}}
    cut, whole = (report.chosen("films", system) for system in (CUT_WORDS + "bert", "tfidf"))
    assert cut is not None and whole is not None
    assert whole.accuracy.value == 1.0 and 0.6 < cut.accuracy.value < 0.9
    tested = {(one.first, one.second) for one in report.comparisons if one.pooling is None}
    assert {("bert", CUT_WORDS + "bert"), ("bert", "tfidf"), ("bert", "majority")} <= tested
    from probes.reporting.summary import summarise

    (sentence,) = summarise(report).sets
    assert f"TF-IDF words of what `bert` reads ({100 * cut.accuracy.value:.1f} %;" in sentence
    assert "; TF-IDF words of the whole texts reach 100.0 %." in sentence
    assert {score.system for score in report.scores} == {
        "bert",
        "bert (random weights)",
        CUT_WORDS + "bert",
        "tfidf",
        "majority",
    }

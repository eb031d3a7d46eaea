"""A model as a ``sentence-transformers`` folder: ``python -m probes.encoding.sentence_transformer MODEL OUT``.

``SentenceTransformer(OUT)`` gives the representation of the last layer, after the final norm, that probes see: so MTEB
and SetFit can use it. MODEL is what probes take: a Hugging Face folder or hub name, a run, or a checkpoint of a run.
"""

from pretrain.runtime.preemption import preemption

if __name__ == "__main__":
    preemption.listen()  # before what takes seconds to import

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import processors

from pretrain.runtime.atomic_write import whole_folder
from pretrain.runtime.command import run_command
from pretrain.runtime.command_line import CommandLine
from pretrain.runtime.errors import DiptychError
from probes.encoding.probed_model import ProbedModel, open_model

_MODULES = {
    "": "sentence_transformers.models.Transformer",
    "1_Pooling": "sentence_transformers.models.Pooling",
    "2_Normalize": "sentence_transformers.models.Normalize",
}
_POOLINGS = {
    "last": "pooling_mode_lasttoken",
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
}
_LONGEST = 512
"""Most tokens of a text where the model knows no limit."""


def write_sentence_transformer(
    model_folder: Path, out: Path, *, pooling: Literal["last", "mean", "cls"], normalize: bool = False
) -> None:
    """Writes the folder.

    A text gets the same ids as in probes, but for special tokens spelt out in it, which are special here.

    Args:
        model_folder: A model without code of its own.
        out: Must not exist.
        pooling: As in :mod:`probes.encoding.pooling`.
        normalize: Scale embeddings to length 1.

    Raises:
        DiptychError: ``out`` exists or cannot be written, the model cannot be opened, or it lacks the pooling.
    """
    if out.exists():
        raise DiptychError(f"{out}: exists already; choose a new folder")
    model = open_model(model_folder, dtype="auto")
    if pooling not in model.poolings:
        raise DiptychError(f"{model_folder}: has no pooling {pooling}; choose one of {', '.join(model.poolings)}")
    try:
        with whole_folder(out) as scratch:
            _write(model, scratch, pooling, normalize)
    except OSError as error:
        raise DiptychError(f"{out}: cannot be written ({error.strerror or error}); choose another folder") from None


def _write(model: ProbedModel, folder: Path, pooling: str, normalize: bool) -> None:
    # The base model alone: the head would be left out at loading, with a warning. Its ordinary kernel, not ours.
    model.base.save_pretrained(folder)
    tokenizer = model.tokenizer.hf
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    longest = (model.context or _LONGEST + len(model.predictors)) - len(model.predictors)  # cut where probes cut
    tokenizer.model_max_length = longest
    tokenizer.backend_tokenizer.post_processor = _template(model)  # pretrain.data.tokenizer.load made it put bos alone
    tokenizer.save_pretrained(folder)
    _check_tokenizer(model, folder)
    parts = list(_MODULES)[: 3 if normalize else 2]
    modules = [
        {"idx": number, "name": str(number), "path": part, "type": _MODULES[part]} for number, part in enumerate(parts)
    ]
    _store(folder / "modules.json", modules)
    _store(folder / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})
    _store(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine", "prompts": {}})
    modes = {name: name == _POOLINGS[pooling] for name in ("pooling_mode_max_tokens", *sorted(_POOLINGS.values()))}
    for part in parts[1:]:
        (folder / part).mkdir()
    _store(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": model.width, **modes})
    card = f"---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n---\n\n# {model.name}\n\n"
    which = {"last": "last token state", "mean": "mean of the token states", "cls": "first token state"}
    card += f"Embeddings: {which[pooling]} of the last layer.\n"
    (folder / "README.md").write_text(card, encoding="utf-8")


def _template(model: ProbedModel) -> Any:
    """A post-processor that adds what the model's own tokenizer adds."""
    if not model.prefix and not model.suffix:
        return None
    before, after = (model.tokenizer.hf.convert_ids_to_tokens(list(ids)) for ids in (model.prefix, model.suffix))
    added = sorted({*zip(before, model.prefix, strict=True), *zip(after, model.suffix, strict=True)})
    single = [*before, "$A", *after]
    return processors.TemplateProcessing(single=single, pair=[*single, "$B", *after], special_tokens=added)


def _check_tokenizer(model: ProbedModel, folder: Path) -> None:
    """For some model types transformers 5.23's AutoTokenizer rebuilds a tokenizer as that type's own."""
    from transformers import AutoTokenizer

    text = "A text, with 12 tokens\n  or  more: naïve (x) -> y."
    expected = [*model.prefix, *model.tokenizer.encode_batch([text])[0], *model.suffix]
    if AutoTokenizer.from_pretrained(folder)(text)["input_ids"] != expected:
        raise DiptychError(
            f"{model.path}: AutoTokenizer, which sentence-transformers uses, gives other ids for its model type "
            f"{model.architecture!r}; it cannot be written as such a folder"
        )


def _store(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(argv: Sequence[str]) -> int:
    """The command ``python -m probes.encoding.sentence_transformer``."""
    parser = CommandLine("probes.encoding.sentence_transformer", __doc__)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("--pooling", choices=tuple(_POOLINGS), default="last", help="last, mean or cls (last)")
    parser.add_argument("--normalize", action="store_true", help="embeddings of length 1")
    arguments = parser.read(argv)
    write_sentence_transformer(arguments.model, arguments.out, pooling=arguments.pooling, normalize=arguments.normalize)
    print(f"{arguments.out}: open it with SentenceTransformer({str(arguments.out)!r})")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))

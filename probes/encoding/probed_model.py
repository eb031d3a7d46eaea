"""Opens the model to probe, or its twin with random weights."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pretrain.data.tokenizer import Tokenizer, predictor_names
from pretrain.model.build import num_parameters, plain_attention
from pretrain.model.loading import Dtype, context_length, find_base, find_model, fingerprint, load_model
from pretrain.runtime.errors import DiptychError
from probes.encoding.forward import ForwardMode, find_forward_mode
from probes.encoding.origin import Origin, located
from probes.encoding.pooling import POOLINGS
from probes.results import ModelFacts


@dataclass(frozen=True)
class ProbedModel:
    """A frozen language model, causal or not.

    Attributes:
        name: For people; not unique.
        path: What it was opened by.
        base: The Hugging Face base model, without head, in evaluation mode on its device.
        tokenizer: Its tokenizer.
        prefix: Ids that its tokenizer puts before every text, such as bos or ``[CLS]``.
        suffix: Ids that it puts after every text, such as ``[SEP]``.
        predictors: Ids of the ``[PRED_i]`` tokens that the model was trained with; may be empty.
        architecture: Hugging Face model type.
        parameters: Their number, the head's included.
        mode: How it is run.
        fingerprint: SHA-256 (hex) of config and weights; for a random twin, of config, seed and versions.
        twin_key: SHA-256 (hex) of config, tokenizer, added tokens and predictors, but not of weights. Models with
            equal keys share random twins.
        context: Most positions; None: not known.
        random_seed: Seed of random weights; None: a trained model.
        run: Folder of its training run, if known.
        step: Optimizer steps of that run, if known.
        tokens: Label tokens of that run until then, if known.
        notes: What was changed to make the model fit, for people.
        training: Its run's objective and packing, by dotted key of the config; empty if not known.
    """

    name: str
    path: str
    base: Any
    tokenizer: Tokenizer
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    predictors: tuple[int, ...]
    architecture: str
    parameters: int
    mode: ForwardMode
    fingerprint: str
    twin_key: str
    context: int | None
    random_seed: int | None = None
    run: str | None = None
    step: int | None = None
    tokens: int | None = None
    notes: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> int:
        """Number of representations: the embeddings, then one per block; the last is after the final norm."""
        return self.mode.layers

    @property
    def width(self) -> int:
        """Of a representation."""
        return self.mode.width

    @property
    def poolings(self) -> tuple[str, ...]:
        """Poolings that it has."""
        has = {"pred": bool(self.predictors), "cls": bool(self.prefix) and not self.mode.causal}
        return tuple(pooling for pooling in POOLINGS if has.get(pooling, True))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self.base.get_input_embeddings().weight.device
        return device

    def describe(self, name: str, random_twin_of: str | None = None) -> ModelFacts:
        """The model as the report names it."""
        return ModelFacts(
            name=name,
            path=self.path,
            random_twin_of=random_twin_of,
            architecture=self.architecture,
            parameters=self.parameters,
            layers=self.layers,
            width=self.width,
            fingerprint=self.fingerprint,
            run=self.run,
            step=self.step,
            tokens=self.tokens,
            notes=self.notes,
            random_seed=self.random_seed,
            prefix=self._names(self.prefix),
            suffix=self._names(self.suffix),
            training=self.training,
        )

    def _names(self, ids: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(map(str, self.tokenizer.hf.convert_ids_to_tokens(list(ids))))


def open_model(
    path_or_name: str | Path,
    *,
    random: bool = False,
    seed: int = 0,
    dtype: Dtype = "float32",
    device: torch.device | None = None,
    trust_remote_code: bool = False,
    base: str | None = None,
    predictors: int | None = None,
) -> ProbedModel:
    """Opens a model.

    Args:
        path_or_name: A Hugging Face folder or hub name, whole or a LoRA adapter; a run folder; a checkpoint of a run.
        random: The same architecture with random weights in place of the trained ones, and the same tokenizer.
        seed: Of the random weights.
        dtype: Type of the weights; auto: as they are stored.
        device: Where it computes; None: the CPU.
        trust_remote_code: Run Python code that the model brings along, and read pickled weights.
        base: The base of an adapter, in place of the one that it names.
        predictors: How many ``[PRED_i]`` tokens follow a text; None: as many as the model was trained with, if its card
            or run says so.

    Raises:
        DiptychError: It cannot be found, read or run, or its tokenizer lacks the predictors.
    """
    given = str(path_or_name)
    with located(given, trust_remote_code=trust_remote_code) as (place, origin):
        folder = find_model(place, trust_remote_code=trust_remote_code)
        base_folder = find_base(folder, base, trust_remote_code=trust_remote_code)
        loaded = load_model(
            folder, base_folder, dtype=dtype, device=torch.device("cpu"), trust_remote_code=trust_remote_code
        )
        folders = [folder] if base_folder is None else [folder, base_folder]
        print_of_weights = None if random else fingerprint(folders)
    lm, tokenizer = loaded.lm, loaded.tokenizer
    appended = _predictors(given, tokenizer, origin, predictors)
    config = {key: value for key, value in lm.config.to_dict().items() if key not in ("_name_or_path", "dtype")}
    twin_key = _digest([config, tokenizer.fingerprint, tokenizer.prefix, tokenizer.suffix, appended])
    if random:
        import transformers

        lm = _random_twin(lm, seed=seed, trust_remote_code=trust_remote_code)
        made = {"config": config, "seed": seed, "torch": torch.__version__, "transformers": transformers.__version__}
        print_of_weights = _digest(made)
        origin = replace(origin, name=f"{origin.name} (random weights)", run=None, step=None, tokens=None, settings={})
    lm = lm.to(device or torch.device("cpu")).eval()
    lm.set_attn_implementation(plain_attention(lm))
    try:
        mode, notes = find_forward_mode(lm.base_model, tokenizer.vocab_size)
    except DiptychError as error:
        raise DiptychError(f"{given}: {error}") from None
    assert print_of_weights is not None
    return ProbedModel(
        name=origin.name,
        path=given,
        base=lm.base_model,
        tokenizer=tokenizer,
        prefix=tokenizer.prefix,
        suffix=tokenizer.suffix,
        predictors=appended,
        architecture=lm.config.model_type,
        parameters=num_parameters(lm),
        mode=mode,
        fingerprint=print_of_weights,
        twin_key=twin_key,
        context=_context(lm),
        random_seed=seed if random else None,
        run=origin.run,
        step=origin.step,
        tokens=origin.tokens,
        notes=(*loaded.notes, *notes),
        training=origin.settings,
    )


def _predictors(place: str, tokenizer: Tokenizer, origin: Origin, asked: int | None) -> tuple[int, ...]:
    count = (origin.predictors or 0) if asked is None else asked
    names = predictor_names(1) * count if origin.repeated else predictor_names(count)
    vocabulary = tokenizer.hf.get_vocab()
    missing = [name for name in names if name not in vocabulary]
    if missing:
        raise DiptychError(f"{place}: predictors: its tokenizer has no {', '.join(missing[:4])}; give fewer, or 0")
    return tuple(vocabulary[name] for name in names)


def _context(lm: Any) -> int | None:
    """Most positions; those of RoBERTa and its kin begin after that of padding."""
    context = context_length(lm)
    embeddings: Any = getattr(lm.base_model, "embeddings", None)
    if context is None or not hasattr(embeddings, "create_position_ids_from_input_ids"):
        return context
    return context - int(embeddings.padding_idx) - 1


def _random_twin(lm: Any, *, seed: int, trust_remote_code: bool) -> Any:
    """A causal LM of the same config with first values of transformers' own making, which the seed decides."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(lm.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    return twin.to(lm.dtype)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()

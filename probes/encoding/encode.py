"""Texts to pooled hidden states: every layer and pooling from one forward pass."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.data.tokenizer import check_text
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError
from probes.encoding.cache import CacheFolder, FloatArray, Memory, Shape, Store
from probes.encoding.forward import pooled
from probes.encoding.pooling import POOLINGS
from probes.encoding.probed_model import ProbedModel
from probes.encoding.rows import Batch, PackedRows, lay_out, make_batches
from probes.encoding.workers import Workers
from probes.progress import Progress

WINDOW_TEXTS = 256, 8192
"""Fewest and most texts that are sorted by length together."""

BATCH_TOKENS = {"cpu": 1024, "accelerator": 16384}

WINDOW_BYTES = 2**24
"""Pooled states of a window, if it holds more than the fewest texts."""


@dataclass(frozen=True)
class Encoded:
    """Representations of texts, in the order of the texts.

    Attributes:
        layers: Number of layers: 0 the embeddings, i the output of block i, the last one after the final norm.
        poolings: Their names.
        cut: Of texts longer than the context, of which the beginning was read: number of the text to the characters
            that were read.
        notes: Messages for people, such as that a broken cache file was replaced.
    """

    layers: int
    poolings: tuple[str, ...]
    cut: Mapping[int, int]
    notes: tuple[str, ...]
    _states: CacheFolder | Memory = field(repr=False)

    @property
    def truncated(self) -> int:
        """Number of texts that were cut."""
        return len(self.cut)

    def get(self, layer: int, pooling: str) -> FloatArray:
        """One representation of all texts.

        Args:
            layer: 0 to ``layers - 1``.
            pooling: One of ``poolings``.

        Returns:
            Shape [texts, width]; not to be changed, it may be a file's.
        """
        place = self.poolings.index(pooling)
        if not 0 <= layer < self.layers:
            raise IndexError(f"layer {layer} of {self.layers}")
        if isinstance(self._states, CacheFolder):
            return self._states.read(layer, place)
        states: FloatArray = self._states.values[layer, place]
        return states


def encode(
    model: ProbedModel,
    texts: Sequence[str],
    *,
    poolings: Sequence[str] = ("last", "mean"),
    batch_tokens: int | None = None,
    max_tokens: int | None = None,
    cache: Path | None = None,
    ranks: Ranks | None = None,
    progress: bool = True,
) -> Encoded:
    """Encodes texts. Collective: ranks share the texts, and every rank gets all representations.

    A text is its tokens and what the model's tokenizer adds before and after them (bos, ``[CLS]``, ``[SEP]``); for a
    model of a run that is its bos, as in training. Of a text that is too long the beginning is read, with all that is
    added. A text without any token is the end token.

    Args:
        model: From :func:`probes.encoding.probed_model.open_model`; the same on every rank.
        texts: Texts; a special token spelt out in one is ordinary text.
        poolings: Of :data:`probes.encoding.pooling.POOLINGS`, as far as the model has them.
        batch_tokens: Positions of a forward pass; None: few on the CPU, whose caches they should fit, else many.
        max_tokens: Most tokens of a text, those that the tokenizer adds included; None: as many as the context takes,
            its predictors reserved.
        cache: Folder of cached representations, seen by all ranks; None: they are kept in memory.
        ranks: Default: this process alone.
        progress: Show a bar on rank 0 of a terminal.

    Raises:
        DiptychError: A pooling that the model does not have, no room for a text, a forward pass that fails, a state
            that is not finite, or a cache that cannot be written.
    """
    ranks = ranks or Ranks(0, 1, model.device)
    if batch_tokens is None:
        batch_tokens = BATCH_TOKENS["cpu" if model.device.type == "cpu" else "accelerator"]
    job = _Job(model, texts, _checked_poolings(model, poolings), batch_tokens, _limit(model, max_tokens), ranks)
    if batch_tokens < 1:
        raise DiptychError(f"batch_tokens: {batch_tokens}; needs at least 1")
    for number, text in enumerate(texts):
        check_text(text, f"text {number}")
    if cache is None:
        memory = Memory(job.shape)
        cut = job.run(memory, True, progress)
        return Encoded(model.layers, job.poolings, cut, (), memory)
    folder = CacheFolder(cache, job.identity(), job.shape)
    known, problem = ranks.on_main(folder.look)
    if known is None:
        known = _fill(folder, job, progress)
    ranks.agree(folder.check_visible)
    notes = (f"cache {folder.folder}: {problem}; encoded anew",) if problem else ()
    return Encoded(model.layers, job.poolings, known, notes, folder)


def _fill(folder: CacheFolder, job: "_Job", progress: bool) -> dict[int, int]:
    """Writes a cache folder; returns which texts were cut. Collective."""
    ranks = job.ranks
    try:
        ranks.on_main(folder.start)
        cut = job.run(folder, ranks.is_main, progress)
        ranks.on_main(lambda: folder.commit(cut))
    except BaseException:
        if ranks.is_main:
            folder.discard()
        raise
    return cut


@dataclass(frozen=True)
class _Job:
    """Texts to encode, and how."""

    model: ProbedModel
    texts: Sequence[str]
    poolings: tuple[str, ...]
    batch_tokens: int
    limit: int | None
    ranks: Ranks

    @property
    def shape(self) -> Shape:
        return self.model.layers, len(self.poolings), len(self.texts), self.model.width

    @property
    def appended(self) -> tuple[int, ...]:
        return self.model.predictors if "pred" in self.poolings else ()

    def identity(self) -> dict[str, Any]:
        """Everything that the states depend on."""
        texts = hashlib.sha256()
        for text in self.texts:
            encoded = text.encode()
            texts.update(len(encoded).to_bytes(8, "big") + encoded)
        return {
            "model": self.model.fingerprint,
            "dtype": str(self.model.base.dtype),
            "tokenizer": self.model.tokenizer.fingerprint,
            "added": [self.model.prefix, self.model.suffix],
            "appended": self.appended,
            "limit": self.limit,
            "poolings": self.poolings,
            "texts": texts.hexdigest(),
        }

    def run(self, store: Store, writes: bool, progress: bool) -> dict[int, int]:
        """Encodes window by window, so that memory does not grow with the texts; returns the texts that were cut.

        Batches depend on the texts alone, so any number of ranks gives the same states to the last bit. Collective.
        """
        layers, poolings, count, width = self.shape
        fewest, most = WINDOW_TEXTS
        size = max(fewest, min(most, WINDOW_BYTES // (layers * poolings * width * 4)))
        ranks = self.ranks
        cut: dict[int, int] = {}
        threads = torch.get_num_threads() if self.model.device.type == "cpu" else 1
        # One buffer for all windows: the heap would not shrink between them.
        room = np.empty(layers * poolings * min(size, count) * width, np.float32)
        with (
            closing(Workers(self.model.base, threads)) as workers,
            Progress(f"encoding, {self.model.name}", count, "text", shown=progress and ranks.is_main) as bar,
        ):
            for start in range(0, count, size):
                tokens, read = self._tokens(self.texts[start : start + size])
                cut |= {start + text: characters for text, characters in read.items()}
                lengths = np.array([len(ids) + len(self.appended) for ids in tokens], dtype=np.int64)
                batches = make_batches(lengths, self.batch_tokens, self.model.mode.longest_packed)
                own = batches[ranks.rank :: ranks.world_size]
                values = room[: layers * poolings * len(tokens) * width].reshape(layers, poolings, len(tokens), width)
                numbers = ranks.agree(lambda: self._compute(own, tokens, values, workers, bar), long=True)  # noqa: B023
                if ranks.world_size > 1:
                    for theirs, states in ranks.gather((numbers, values[:, :, numbers])):
                        values[:, :, theirs] = states
                self._check(values, tokens, start)
                ranks.agree(lambda: store.write(start, values) if writes else None)  # noqa: B023
                bar.reach(start + len(tokens))  # computed by the other ranks
        return cut

    def _tokens(self, texts: Sequence[str]) -> tuple[list[list[int]], dict[int, int]]:
        """Ids of texts, and of those that were cut the characters that are left."""
        tokenizer, prefix, suffix = self.model.tokenizer, self.model.prefix, self.model.suffix
        own = tokenizer.encode_batch(texts)
        room = None if self.limit is None else self.limit - len(prefix) - len(suffix)
        cut: dict[int, int] = {}
        if room is not None:
            longer = [text for text, ids in enumerate(own) if len(ids) > room]
            cut = {
                text: max(stop for _, stop in tokenizer.encoder.encode(texts[text]).offsets[:room]) for text in longer
            }
        return [[*prefix, *ids[:room], *suffix] or [tokenizer.eos] for ids in own], cut

    def _compute(
        self,
        batches: Sequence[Batch],
        tokens: Sequence[Sequence[int]],
        values: FloatArray,
        workers: Workers,
        bar: Progress,
    ) -> list[int]:
        """Computes the pooled states of some batches; returns the numbers of their texts."""

        def compute(base: Any, batch: Batch) -> tuple[list[int], FloatArray]:
            rows = lay_out(batch, tokens, self.appended)
            return rows.numbers.tolist(), self._pooled(base, rows)

        done: list[int] = []
        for numbers, states in workers.map(compute, batches):
            values[:, :, numbers] = states
            done += numbers
            bar.advance(len(numbers))
        return done

    def _pooled(self, base: Any, rows: PackedRows) -> FloatArray:
        model = self.model
        try:
            states: FloatArray = pooled(base, rows, model.mode, self.poolings).cpu().numpy()
        except torch.OutOfMemoryError:
            raise DiptychError(
                f"{model.name}: out of memory on the device at {rows.ids.numel():,} tokens; lower --batch-tokens"
            ) from None
        except (RuntimeError, IndexError, ValueError) as error:  # such as a text beyond an unstated context
            message = " ".join(str(error).split())[:300]
            raise DiptychError(
                f"{model.name}: its forward pass fails at texts of up to {int((rows.stops - rows.starts).max()):,} "
                f"tokens ({message}); try shorter texts (--max-tokens)"
            ) from error
        return states

    @torch.inference_mode()
    def _check(self, values: FloatArray, tokens: Sequence[Sequence[int]], start: int) -> None:
        """Refuses states that are not finite. In a packed row NaN spreads to other texts, so each is tried alone."""
        if np.isfinite(values).all():
            return
        model = self.model
        for text in np.flatnonzero(np.any(~np.isfinite(values), axis=(0, 1, 3))).tolist():
            states = self._pooled(model.base, lay_out([[text]], tokens, self.appended))
            broken = np.flatnonzero(~np.isfinite(states).all(axis=(1, 2, 3)))
            if len(broken):
                shown = " ".join(self.texts[start + text].split())[:60]
                raise DiptychError(
                    f"{model.name}: layer {broken[0]} is not finite at text {start + text} ({shown!r}); the model is "
                    "broken, or its values are beyond its number type: try float32"
                )
        raise DiptychError(f"{model.name}: states are not finite, but only of texts that are computed together")


def _checked_poolings(model: ProbedModel, poolings: Sequence[str]) -> tuple[str, ...]:
    for pooling in poolings:
        if pooling not in POOLINGS:
            raise DiptychError(f"pooling: {pooling!r}; expected one of {', '.join(POOLINGS)}")
    if "cls" in poolings and "cls" not in model.poolings:
        why = "reads from left to right" if model.mode.causal else "has no token before its texts"
        raise DiptychError(f"{model.name}: {why}, so no first token stands for a text: leave the pooling cls out")
    if "pred" in poolings and not model.predictors:
        raise DiptychError(
            f"{model.name}: was not trained with [PRED] tokens, or does not say how many (open_model's predictors): "
            "leave the pooling pred out"
        )
    if not poolings or len(set(poolings)) < len(poolings):
        raise DiptychError(f"pooling: {', '.join(poolings) or 'none'}; name at least one, and each once")
    return tuple(poolings)


def _limit(model: ProbedModel, max_tokens: int | None) -> int | None:
    """Most tokens of a text; room for predictors is left whether or not they are asked for, so texts are cut alike."""
    added = len(model.prefix) + len(model.suffix)
    if max_tokens is not None and max_tokens <= added:
        raise DiptychError(
            f"max_tokens: {max_tokens}; {model.name} needs at least {added + 1}: one beside the {added} that its "
            "tokenizer adds to a text"
        )
    if model.context is None:
        return max_tokens
    room = model.context - len(model.predictors)
    if room <= added:
        raise DiptychError(
            f"{model.name}: its {len(model.predictors)} [PRED] tokens and the {added} that its tokenizer adds fill its "
            f"context of {model.context}"
        )
    return room if max_tokens is None else min(room, max_tokens)

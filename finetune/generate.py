"""Batched generation with a KV cache; the tokens equal those of ``model.generate`` one prompt at a time.

Batches depend on the lengths of the prompts alone, not on finished work or on the number of ranks. So an
interrupted evaluation goes on with the same batches, and gets the same answers also where rounding depends on them.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from finetune.decoding_step import DecodingStep
from pretrain.model.loading import context_length
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer.

    Attributes:
        ids: New tokens, without the stop token.
        stopped: True if a stop token ended it, False if ``max_new_tokens`` did.
    """

    ids: tuple[int, ...]
    stopped: bool


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely an answer is after a prompt.

    Attributes:
        total: Log-probability of the answer's tokens in nats.
        mean: The same per token.
    """

    total: float
    mean: float


@dataclass(frozen=True)
class Decoding:
    """How answers are drawn.

    Attributes:
        stop: Ids that end an answer.
        pad: Any id that the model has an embedding for; it is never seen.
        max_new_tokens: Most tokens of an answer.
        temperature: 0: the likeliest token; otherwise logits are divided by it and a token is drawn.
        top_p: Draw only among the likeliest tokens that together have this probability.
        seed: Of the draws; those of an example depend on it and on the example's number alone.
    """

    stop: tuple[int, ...]
    pad: int
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.stop:
            raise DiptychError("stop: no stop token; an answer would never end")
        if self.max_new_tokens < 1:
            raise DiptychError(f"max_new_tokens: {self.max_new_tokens}; needs at least 1")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise DiptychError(
                f"temperature {self.temperature:g}, top_p {self.top_p:g}: expected temperature >= 0 and 0 < top_p <= 1"
            )


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop: Sequence[int],
    pad: int,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    ranks: Ranks | None = None,
    progress: Callable[[int], None] = lambda count: None,
    before_pass: Callable[[], None] | None = None,
) -> list[Generation]:
    """Answers every prompt. Collective: every rank gets all answers.

    Args:
        model: A Hugging Face causal LM, whole on every rank. Its ``generation_config`` is not looked at.
        prompts: Ids, with bos and all that belongs to the prompt.
        stop: Ids that end an answer.
        pad: Any id that the model has an embedding for; it is never seen.
        max_new_tokens: Most tokens of an answer.
        batch_size: Prompts computed at once.
        temperature: 0: the likeliest token at each place.
        top_p: See :class:`Decoding`.
        seed: Of the draws; those of an example depend on it and on the example's number alone.
        ranks: Default: this process alone.
        progress: Called with the number of answers after every round of batches.
        before_pass: Called before every forward pass; what it raises ends the work.

    Returns:
        The answers in the order of the prompts.

    Raises:
        DiptychError: A prompt is empty, or with ``max_new_tokens`` longer than the model's context; or the model gives
            NaN.
    """
    decoding = Decoding(tuple(stop), pad, max_new_tokens, temperature, top_p, seed)
    check_room(context_length(model), prompts, max_new_tokens)
    batches = make_batches([len(prompt) for prompt in prompts], batch_size)
    answers: dict[int, Generation] = {}
    ranks = ranks or Ranks(0, 1, torch.device("cpu"))
    for done in over_ranks(batches, lambda batch: answer_batch(model, prompts, batch, decoding, before_pass), ranks):
        answers |= done
        progress(len(answers))
    return [answers[number] for number in range(len(prompts))]


def check_room(
    limit: int | None, prompts: Sequence[Sequence[int]], max_new_tokens: int, names: Sequence[str] | None = None
) -> None:
    """Refuses prompts that are empty or leave too little of the model's context.

    Args:
        limit: The context, in tokens; None: not known.
        prompts: Ids.
        max_new_tokens: Room that an answer needs.
        names: Of the examples; default: their numbers.

    Raises:
        DiptychError: Names the example.
    """
    for number, prompt in enumerate(prompts):
        name = names[number] if names else f"prompt {number}"
        if not prompt:
            raise DiptychError(f"{name}: the prompt has no tokens")
        if limit is not None and len(prompt) + max_new_tokens > limit:
            raise DiptychError(
                f"{name}: {len(prompt)} tokens of prompt and {max_new_tokens} new ones are more than the model's "
                f"context of {limit}; lower max_new_tokens, shorten the prompt, or have long prompts cut"
            )


def make_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Numbers of examples in batches, longest first: similar lengths share a batch, too little memory shows at once."""
    if batch_size < 1:
        raise DiptychError(f"batch_size: {batch_size}; needs at least 1")
    order = sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def over_ranks(
    batches: Sequence[Sequence[int]],
    compute: Callable[[Sequence[int]], Mapping[int, T]],
    ranks: Ranks,
    *,
    long: bool = False,
) -> Iterator[dict[int, T]]:
    """Deals batches round robin; yields what each round gave, on every rank. Collective.

    Args:
        batches: Numbers of examples.
        compute: Gives the results of a batch.
        ranks: They share the batches.
        long: As in :meth:`Ranks.agree`.
    """

    def attempt(batch: Sequence[int]) -> Mapping[int, T]:
        try:
            return compute(batch)
        except torch.OutOfMemoryError as error:
            raise DiptychError(f"batch of {len(batch)}: out of memory on the device; lower the batch size") from error

    for start in range(0, len(batches), ranks.world_size):
        own = start + ranks.rank
        part = ranks.agree(
            lambda own=own: attempt(batches[own]) if own < len(batches) else {},  # type: ignore[misc]
            long=long,
        )
        merged: dict[int, T] = {}
        for found in ranks.gather(part):
            merged.update(found)
        yield merged


@torch.inference_mode()
def answer_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    batch: Sequence[int],
    decoding: Decoding,
    before_pass: Callable[[], None] | None = None,
) -> dict[int, Generation]:
    """Answers some of the prompts at once.

    Args:
        model: On its device, in evaluation mode.
        prompts: All prompts.
        batch: Numbers of those to answer.
        decoding: How.
        before_pass: Called before every forward pass; what it raises ends the work.

    Returns:
        The answers by number.
    """
    device = model.device
    ids, mask = _left_padded([prompts[number] for number in batch], decoding.pad)
    width = ids.shape[1]
    ids = ids.to(device)
    # Room for all new tokens; a step sees the first columns.
    mask = torch.cat([mask, torch.ones(len(batch), decoding.max_new_tokens, dtype=mask.dtype)], dim=1).to(device)
    positions = (mask[:, :width].cumsum(1) - 1).clamp(min=0)
    draws = _Draws(decoding, batch) if decoding.temperature else None
    step = DecodingStep(model, prompts, decoding.pad)
    answers: dict[int, list[int]] = {number: [] for number in batch}
    stopped: set[int] = set()
    rows = list(batch)  # the example of each row of the tensors
    active = set(batch)
    cache = None
    for length in range(width, width + decoding.max_new_tokens):
        if before_pass:
            before_pass()
        logits, cache = step(ids, mask[:, :length], positions, cache)
        chosen = logits.argmax(-1) if draws is None else draws.choose(logits, rows)
        for number, token in zip(rows, chosen.tolist(), strict=True):
            if number not in active:
                continue
            if token in decoding.stop:
                stopped.add(number)
                active.discard(number)
            else:
                answers[number].append(token)
        if not active:
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        if 2 * len(active) <= len(rows) and hasattr(cache, "batch_select_indices"):
            kept = torch.tensor([row for row, number in enumerate(rows) if number in active], device=device)
            cache.batch_select_indices(kept)
            ids, positions, mask = ids[kept], positions[kept], mask[kept]
            rows = [rows[row] for row in kept.tolist()]
    return {number: Generation(tuple(answers[number]), number in stopped) for number in batch}


@torch.inference_mode()
def answer_likelihoods(
    model: Any,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    pad: int,
    batch_size: int,
) -> list[list[Likelihood]]:
    """How likely each of a few answers is after each prompt.

    Args:
        model: On its device, in evaluation mode.
        prompts: Ids of the prompts.
        answers: Ids of the answers, the same for every prompt; with the stop token, where its being written counts.
        pad: Any id that the model has an embedding for; it is never seen.
        batch_size: Prompts computed at once.

    Returns:
        For each prompt, the likelihood of each answer.
    """
    if not all(answers):
        raise DiptychError("answers: one has no tokens")
    step, device = DecodingStep(model, prompts, pad), model.device
    found: dict[int, list[Likelihood]] = {}
    for batch in make_batches([len(prompt) for prompt in prompts], batch_size):
        ids, mask = (part.to(device) for part in _left_padded([prompts[number] for number in batch], pad))
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits, cache = step(ids, mask, positions, None)
        columns = []
        for answer in answers:
            wanted = torch.tensor(answer, device=device).expand(len(batch), -1)
            logs = logits.log_softmax(-1)[:, None]
            if rest := len(answer) - 1:
                seen = torch.cat([mask, mask.new_ones(len(batch), rest)], dim=1)
                following = positions[:, -1:] + 1 + torch.arange(rest, device=device)
                # Every answer continues from a copy of the prompt's cache, because a step writes into it.
                more, _ = step(wanted[:, :-1], seen, following, copy.deepcopy(cache), keep=rest)
                logs = torch.cat([logs, more.view(len(batch), rest, -1).log_softmax(-1)], dim=1)
            columns.append(logs.gather(-1, wanted[..., None])[..., 0].double().sum(1).tolist())
        for place, number in enumerate(batch):
            totals = [column[place] for column in columns]
            found[number] = [
                Likelihood(total, total / len(answer)) for total, answer in zip(totals, answers, strict=True)
            ]
    return [found[number] for number in range(len(prompts))]


class _Draws:
    """Random choices; each example has its own stream of numbers, so batches and ranks do not matter."""

    def __init__(self, decoding: Decoding, batch: Sequence[int]) -> None:
        self.decoding = decoding
        self.streams = {number: np.random.default_rng([decoding.seed, number]) for number in batch}

    def choose(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        """Draws a token for each row, shape [rows]."""
        probabilities = (logits.double() / self.decoding.temperature).softmax(-1)
        if self.decoding.top_p < 1:
            ordered, order = probabilities.sort(-1, descending=True)
            outside = ordered.cumsum(-1) - ordered >= self.decoding.top_p
            probabilities = probabilities.masked_fill(outside.gather(-1, order.argsort(-1)), 0)
        # Sum in the order of ids: the order of nearly equal probabilities would depend on rounding.
        cumulated = probabilities.cumsum(-1)
        points = torch.tensor([self.streams[number].random() for number in rows], dtype=torch.float64)
        wanted = points.to(logits.device)[:, None] * cumulated[:, -1:]
        chosen = torch.searchsorted(cumulated, wanted, right=True)[:, 0]
        return chosen.clamp(max=logits.shape[-1] - 1)


def _left_padded(sequences: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask (1: a token), shape [sequences, longest]; every sequence ends in the last column."""
    width = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), width), pad)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(list(sequence))
        mask[row, width - len(sequence) :] = 1
    return ids, mask

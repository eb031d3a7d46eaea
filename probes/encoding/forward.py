"""One forward pass of a base model over rows of texts, in a mode that was tested on the model.

The mode is chosen once when a model is opened: texts that share a row must give the same states as alone, and the
inputs of the blocks must equal the hidden states that the model reports. A model with code of its own, a recurrent
state or relative positions made from a 2-D mask then gets one text per row, and its reported states are pooled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pretrain.model.masks import dense_mask
from pretrain.runtime.errors import DiptychError
from probes.encoding.pooling import Pooler, blocks_of, watching
from probes.encoding.rows import Batch, PackedRows, lay_out

_TRIAL = (5, 3, 4)
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}


@dataclass(frozen=True)
class ForwardMode:
    """How a model is run.

    Attributes:
        longest_packed: Longest text that may share its row with others; 0: none may.
        causal: True if no state depends on later tokens.
        hooked: True if states are pooled before each block, False if the model reports them all at the end.
        layers: Number of representations: the embeddings, then one per block; the last is after the final norm.
        width: Of a representation.
    """

    longest_packed: int
    causal: bool
    hooked: bool
    layers: int
    width: int


def pooled(base: Any, rows: PackedRows, mode: ForwardMode, poolings: Sequence[str]) -> Tensor:
    """Runs the base model once.

    Args:
        base: A Hugging Face base model, in evaluation mode.
        rows: The texts.
        mode: From :func:`find_forward_mode`.
        poolings: Of :data:`probes.encoding.pooling.POOLINGS`.

    Returns:
        Float32, shape [layers, poolings, texts, width], on the model's device; texts as ``rows`` numbers them.
    """
    device = base.get_input_embeddings().weight.device
    pooler = Pooler(rows, poolings, mode.layers, mode.width, device)
    if mode.hooked:
        with watching(blocks_of(base) or (), pooler.add):
            output = _run(base, rows, mode, device)
    else:
        output = _run(base, rows, mode, device, output_hidden_states=True)
        for layer, states in enumerate(output.hidden_states[:-1]):
            pooler.add(layer, states)
    pooler.add(mode.layers - 1, _last(output))
    return pooler.values


def find_forward_mode(base: Any, vocabulary: int) -> tuple[ForwardMode, tuple[str, ...]]:
    """Chooses the mode of a model by running it on a few ids.

    Args:
        base: A Hugging Face base model, in evaluation mode.
        vocabulary: Ids are below this number.

    Returns:
        The mode, and notes for people.

    Raises:
        DiptychError: It cannot be run at all, or reports no hidden states.
    """
    tokens = [
        [(7 * text + 3 * place + 1) % vocabulary for place in range(length)] for text, length in enumerate(_TRIAL)
    ]
    alone: Batch = [[number] for number in range(len(tokens))]
    every = ("last", "mean")
    try:
        rows = lay_out(alone, tokens, ())
        with torch.inference_mode():
            device = base.get_input_embeddings().weight.device
            states = _run(base, rows, ForwardMode(0, True, False, 0, 0), device, True).hidden_states
            causal = _is_causal(base, tokens, vocabulary, states, device)
            reported = ForwardMode(0, causal, False, len(states), states[-1].shape[-1])
            expected = pooled(base, rows, reported, every)
    except Exception as error:  # transformers and remote code raise all kinds of errors
        message = " ".join(str(error).split())[:300]
        raise DiptychError(f"model: {type(base).__name__} gives no hidden states: {message}") from error
    mode, notes = reported, []
    if _gives(base, rows, hooked := replace(reported, hooked=True), every, expected):
        mode = hooked
    window = _window(base)
    packed = replace(mode, longest_packed=window)
    together = lay_out([[0, 1], [2]], tokens, ())
    if window >= max(_TRIAL) and _gives(base, together, packed, every, expected):
        return packed, ()
    notes.append("one text per row: the model does not keep texts apart that share one")
    return mode, tuple(notes)


def _is_causal(
    base: Any, tokens: Sequence[Sequence[int]], vocabulary: int, states: Sequence[Tensor], device: torch.device
) -> bool:
    """Whether a change of the last token of the first text leaves all earlier states unchanged."""
    *first, last = tokens[0]
    other = [*first, (last + 1) % vocabulary]
    changed = _run(base, lay_out([[0]], [other], ()), ForwardMode(0, True, False, 0, 0), device, True).hidden_states
    return all(
        torch.allclose(
            new[0, : len(first)],
            old[0, : len(first)],
            atol=_TOLERANCE[base.dtype] * float(old.nan_to_num().abs().max()),
            equal_nan=True,
        )
        for new, old in zip(changed, states, strict=True)
    )


def _gives(base: Any, rows: PackedRows, mode: ForwardMode, poolings: Sequence[str], expected: Tensor) -> bool:
    try:
        with torch.inference_mode():
            found = pooled(base, rows, mode, poolings)
    except Exception:  # the model cannot be run in this mode
        return False
    scale = float(expected.nan_to_num().abs().max())
    return torch.allclose(found, expected, rtol=0, atol=_TOLERANCE[base.dtype] * scale, equal_nan=True)


def _window(base: Any) -> int:
    """Longest text that every layer attends to in full; longer ones get a row and the model's own masks."""
    config = base.config.get_text_config()
    limits = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    both_sides = getattr(config, "local_attention", None)
    limits.append(both_sides // 2 if isinstance(both_sides, int) else None)
    return min((limit for limit in limits if isinstance(limit, int)), default=2**31)


def _run(
    base: Any, rows: PackedRows, mode: ForwardMode, device: torch.device, output_hidden_states: bool = False
) -> Any:
    given: dict[str, Any] = {"input_ids": rows.ids.to(device), "use_cache": False, "return_dict": True}
    if output_hidden_states:
        given["output_hidden_states"] = True
    if mode.longest_packed and not rows.single:
        segments = rows.segments.to(device)
        mask = dense_mask(segments, segments) if mode.causal else segments[:, None, :, None] == segments[:, None, None]
        if base.config._attn_implementation == "eager":  # eager attention adds its mask, even a boolean one
            mask = torch.zeros_like(mask, dtype=base.dtype).masked_fill(~mask, torch.finfo(base.dtype).min)
        # With an explicit mask and use_cache=False transformers does not guess the packing from position ids.
        given |= {"attention_mask": mask, "position_ids": rows.positions.to(device)}
    elif not (mode.longest_packed and mode.causal):  # else padding follows the text, and causal attention hides it
        given["attention_mask"] = (rows.segments == 0).long().to(device)
    return base(**given)


def _last(output: Any) -> Tensor:
    states = getattr(output, "last_hidden_state", None)
    result: Tensor = output.hidden_states[-1] if states is None else states
    return result

"""The canary of a checkpoint or base model: logits and loss for one short text, to compare with later."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pretrain.model.build import plain_kernel
from pretrain.model.loading import context_length
from pretrain.runtime.errors import DiptychError

TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
"""Largest accepted norm of the difference of logits over their norm; bfloat16 rounds differently on each device."""

BASE_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}
"""The same for an engine and its base model, which is computed in float32."""

_POSITIONS = 4
_BASE_TOKENS = 32


def canary(engine: Any, ids: Sequence[int], device: torch.device, positions: int = _POSITIONS) -> dict[str, Tensor]:
    """Logits and loss of an engine for a text. Collective under ZeRO-3.

    Returns:
        The token ids, shape [1, length]; the logits at the last positions, [1, positions, vocabulary]; and the mean
        next-token loss over all positions, a float64.
    """
    engine.eval()
    logits = _logits(engine.module.lm, ids, device)
    engine.train()
    return measure(logits, torch.tensor([list(ids)]), positions)


def check_canary(engine: Any, stored: Mapping[str, Tensor], dtype: str, device: torch.device) -> None:
    """Checks that a restored engine computes the logits and loss in its checkpoint. Collective under ZeRO-3.

    Raises:
        DiptychError: They differ by more than other kernels or numbers of ranks explain.
    """
    restored = canary(engine, stored["ids"][0].tolist(), device, stored["logits"].shape[1])
    _, other, how = compare(restored, stored, TOLERANCE[dtype])
    if other:
        raise DiptychError(
            f"the restored model gives other {other} than when the checkpoint was written ({how}): were the weights at "
            "model.path changed, or a package? Do not go on from it"
        )


def base_canary(lm: Any) -> dict[str, Tensor]:
    """The canary of a base model as transformers opened it: whole, in float32 on the CPU, in evaluation mode."""
    rows = lm.get_input_embeddings().weight.shape[0]
    length = min(_BASE_TOKENS, context_length(lm) or _BASE_TOKENS)
    ids = [(7 + 31 * number) % rows for number in range(length)]  # 31: neighbours differ
    return measure(_logits(lm, ids, torch.device("cpu")), torch.tensor([ids]), _POSITIONS)


def check_base(engine: Any, base: Mapping[str, Tensor], dtype: str, device: torch.device) -> None:
    """Checks that a new engine computes what its base model computes. Collective under ZeRO-3.

    Args:
        engine: Before its first step; rows that were added to the vocabulary are left out of the comparison.
        base: From :func:`base_canary`.
        dtype: Of the engine's computation.
        device: Of the engine.

    Raises:
        DiptychError: They differ, so a part of the base model was lost.
    """
    engine.eval()
    logits = _logits(engine.module.lm, base["ids"][0].tolist(), device)
    engine.train()
    measured = measure(logits[..., : base["logits"].shape[-1]], base["ids"], base["logits"].shape[1])
    _, other, how = compare(measured, base, BASE_TOLERANCE[dtype])
    if other:
        raise DiptychError(
            f"model.path: the model gives other {other} here than transformers computes from the same folder ({how}), "
            "so a part of it was lost; please report its model type"
        )


def measure(logits: Tensor, ids: Tensor, positions: int) -> dict[str, Tensor]:
    """The ids of one text, its last logits, shape [1, positions, vocabulary], and the loss over all of them."""
    logits = logits.float().cpu()
    losses = functional.cross_entropy(logits[0, :-1].double(), ids[0, 1:], reduction="none")
    return {"ids": ids, "logits": logits[:, -positions:].clone(), "loss": losses.sum() / max(1, len(losses))}


def compare(measured: Mapping[str, Tensor], stored: Mapping[str, Tensor], limit: float) -> tuple[float, str, str]:
    """Relative difference of logits; ``logits``, ``losses`` or empty for what differs too much; and the figures."""
    was = torch.linalg.vector_norm(stored["logits"])
    difference = float(torch.linalg.vector_norm(measured["logits"] - stored["logits"]) / was)
    if not difference <= limit:
        return difference, "logits", f"{difference:.1e} relative, limit {limit:.0e}"
    loss, stored_loss = float(measured["loss"]), float(stored.get("loss", measured["loss"]))  # old ones have none
    same = abs(loss - stored_loss) <= limit * max(1.0, stored_loss)
    return difference, "" if same else "losses", f"{loss:.6f}, not {stored_loss:.6f}, limit {limit:.0e}"


def _logits(lm: Any, ids: Sequence[int], device: torch.device) -> Tensor:
    with torch.no_grad(), plain_kernel(lm):
        logits: Tensor = lm(torch.tensor([list(ids)], device=device), use_cache=False).logits
    return logits

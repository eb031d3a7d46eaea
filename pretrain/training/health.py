"""Representation health: figures that tell a learned embedding space from a collapsed one."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def health(source: Tensor, target: Tensor, prediction: Tensor | None) -> dict[str, float]:
    """Health figures of held-out pairs.

    Args:
        source: Embeddings of the source views, shape [pairs, width], float32.
        target: Embeddings of the target views, shape [pairs, width].
        prediction: Predictions of the targets, shape [pairs, width]; None where the predictor is the identity.

    Returns:
        Per embedding space its effective rank and spread; per way of matching (the views themselves, and the
        predictions) the cosine of pairs, of non-pairs, their difference and retrieval@1.
    """
    figures = {}
    for name, embeddings in (("source", source), ("target", target)):
        figures[f"{name}_effective_rank"] = effective_rank(embeddings)
        figures[f"{name}_std"] = relative_std(embeddings)
    figures |= _matching("views", source, target)
    if prediction is not None:
        figures |= _matching("prediction", prediction, target)
    return figures


def effective_rank(embeddings: Tensor) -> float:
    """Exp of the entropy of the normalised singular values of the centred embeddings (Roy and Vetterli, 2007).

    Between 1 (all on a line, or a point) and min(pairs - 1, width).
    """
    if not bool(embeddings.isfinite().all()):
        return math.nan
    centred = embeddings.double() - embeddings.double().mean(dim=0)
    singular = torch.linalg.svdvals(centred)
    total = float(singular.sum())
    if not math.isfinite(total) or total <= 1e-12 * len(embeddings):
        return 1.0
    shares = singular / total
    shares = shares[shares > 0]
    return float(torch.exp(-(shares * shares.log()).sum()))


def relative_std(embeddings: Tensor) -> float:
    """Mean over dimensions of the std of the unit vectors, times sqrt(width): about 1 if isotropic, 0 if collapsed."""
    unit = functional.normalize(embeddings.double(), dim=-1)
    return float(unit.std(dim=0, correction=0).mean() * math.sqrt(embeddings.shape[1]))


def _matching(name: str, queries: Tensor, targets: Tensor) -> dict[str, float]:
    count = len(queries)
    cosines = functional.normalize(queries.double(), dim=-1) @ functional.normalize(targets.double(), dim=-1).T
    pairs = cosines.diagonal()
    others = cosines.masked_fill(torch.eye(count, dtype=torch.bool, device=cosines.device), -torch.inf)
    paired = float(pairs.mean())
    unpaired = float((cosines.sum() - pairs.sum()) / (count * (count - 1)))
    return {
        f"{name}_paired_cosine": paired,
        f"{name}_unpaired_cosine": unpaired,
        f"{name}_margin": paired - unpaired,
        # A hit is nearer than every other target by more than rounding; a tie, as in a collapsed space, is none.
        f"{name}_retrieval_at_1": float((pairs > others.max(dim=1).values + 1e-12).double().mean()),
    }

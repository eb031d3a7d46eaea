"""Forward passes that continue from a KV cache, for models whose cached passes equal whole passes.

Transformers 5.24 renamed the argument ``past_key_values`` to ``cache``. A model's own code may take either, both or
neither, and often ignores unknown arguments: it then runs without a past, and its answers are silently wrong. So cached
and whole passes are compared once for each model; if they differ, every token computes the whole text again.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pretrain.model.loading import context_length
from pretrain.runtime.errors import DiptychError

CACHE_NAMES = ("cache", "past_key_values", "cache_params")

_TOLERANCE = 2e-3
_COARSE_TOLERANCE = 0.1  # for bfloat16 and float16, whose rounding errors are far smaller
_STEPS = (1, 3)  # new tokens of the cached passes that are compared with a whole pass
_FEWEST_TOKENS, _MOST_TOKENS = 8, 16  # of the text that is compared


@dataclass(frozen=True)
class _Finding:
    """How a model takes its cache.

    Attributes:
        name: The argument for the cache; None: no cache is used.
        problem: Why no cache is used.
    """

    name: str | None
    problem: str = ""


# Keyed by model: whether a cache works depends on the model's code, not on its weights.
_findings: WeakKeyDictionary[Any, _Finding] = WeakKeyDictionary()


class DecodingStep:
    """One forward pass with only the arguments that the model knows.

    Args:
        model: A causal LM on its device, in evaluation mode.
        prompts: All prompts, the same on every rank: the first use of a model compares cached and whole passes on
            the longest one.
        pad: Any id that the model has an embedding for.

    Attributes:
        note: Why there is no cache; empty if there is one.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], pad: int) -> None:
        self.model, self.pad = model, pad
        self.parameters = inspect.signature(model.forward).parameters
        # Transformers cannot compute the load-balancing loss from the mask of cached tokens.
        self.arguments = {"output_router_logits": False} if "output_router_logits" in self.parameters else {}
        if model not in _findings:
            _findings[model] = self._find_cache(max(prompts, key=len))
        self.cache_name = _findings[model].name
        problem = _findings[model].problem
        self.note = f"every token computes the whole text again, which is slow: {problem}" if problem else ""

    def __call__(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any, keep: int = 1) -> tuple[Tensor, Any]:
        """Runs the model on the tokens that follow the cache.

        Args:
            ids: New tokens, shape [batch, new].
            mask: 1 for tokens, 0 for padding on the left, over the cache and the new tokens.
            positions: Of the new tokens, shape [batch, new].
            cache: What the step before returned; None: there was none.
            keep: At how many of the last positions logits are wanted.

        Returns:
            Logits in float32, shape [batch * keep, vocabulary], and the cache.

        Raises:
            DiptychError: The logits are NaN or infinite.
        """
        if self.cache_name is None:
            return self._whole(ids, mask, cache, keep)
        return self._cached(self.cache_name, ids, mask, positions, cache, keep)

    def _cached(
        self, name: str, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any, keep: int
    ) -> tuple[Tensor, Any]:
        arguments: dict[str, Any] = {"attention_mask": mask, "use_cache": True, name: cache, **self.arguments}
        if "position_ids" in self.parameters:
            arguments["position_ids"] = positions
        if "logits_to_keep" in self.parameters:  # else a long prompt's logits are the largest tensor by far
            arguments["logits_to_keep"] = keep
        output = self.model(input_ids=ids, **arguments)
        # Transformers names the output's attribute, the model's code names the argument.
        cache = next((getattr(output, name) for name in CACHE_NAMES if hasattr(output, name)), None)
        return _finite(output.logits[:, -keep:]).flatten(0, 1), cache

    def _whole(self, ids: Tensor, mask: Tensor, texts: "_Texts | None", keep: int) -> tuple[Tensor, "_Texts"]:
        """A pass over all tokens, padded on the right, which no earlier token of a causal model can see."""
        if texts is None:
            rows = [row[seen.bool()] for row, seen in zip(ids, mask, strict=True)]
        else:
            rows = [torch.cat([row, new]) for row, new in zip(texts.rows, ids, strict=True)]
        lengths = torch.tensor([len(row) for row in rows], device=ids.device)
        padded = pad_sequence(rows, batch_first=True, padding_value=self.pad)
        seen = (torch.arange(padded.shape[1], device=ids.device) < lengths[:, None]).to(mask.dtype)
        logits = self.model(input_ids=padded, attention_mask=seen, use_cache=False, **self.arguments).logits
        wanted = lengths[:, None] - keep + torch.arange(keep, device=ids.device)
        found = logits.gather(1, wanted[..., None].expand(-1, -1, logits.shape[-1]))
        return _finite(found).flatten(0, 1), _Texts(rows)

    @torch.inference_mode()
    def _find_cache(self, prompt: Sequence[int]) -> _Finding:
        """The first name under which a cache gives the logits of whole passes."""
        names = [name for name in CACHE_NAMES if name in self.parameters]
        if not names and any(parameter.kind is parameter.VAR_KEYWORD for parameter in self.parameters.values()):
            names = list(CACHE_NAMES)
        problem = f"the model's code takes no {' or '.join(CACHE_NAMES[:2])}"
        for name in names:
            problem = self._cache_problem(name, prompt)
            if not problem:
                return _Finding(name)
        return _Finding(None, problem)

    def _cache_problem(self, name: str, prompt: Sequence[int]) -> str:
        """Compares a batch of two texts, one of them padded, with whole passes over each; empty if they agree."""
        length = min(_MOST_TOKENS, context_length(self.model) or _MOST_TOKENS)
        if length < _FEWEST_TOKENS:
            return f"the model's context of {length} tokens is too short to test its cache"
        text = torch.tensor((list(prompt) * length)[:length], device=self.model.device)
        padding = length // 4
        ids = text.repeat(2, 1)
        ids[1, :padding] = self.pad
        mask = torch.ones_like(ids)
        mask[1, :padding] = 0
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        start, cache, cached = 0, None, []
        try:
            for new in (length - sum(_STEPS), *_STEPS):
                stop, keep = start + new, new if start else 1
                part = slice(start, stop)
                logits, cache = self._cached(name, ids[:, part], mask[:, :stop], positions[:, part], cache, keep)
                if cache is None:
                    return "the model's code returns no cache"
                cached.append(logits.view(2, keep, -1))
                start = stop
        except (DiptychError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the model's own code may raise anything
            message = " ".join(str(error).split())[:100]
            return f"the model's code fails with its cache ({type(error).__name__}: {message})"
        keep = sum(_STEPS) + 1
        alone = (text, text[padding:])
        whole = torch.stack([self._whole(row[None], torch.ones_like(row)[None], None, keep)[0] for row in alone])
        coarse = self.model.dtype in (torch.bfloat16, torch.float16)
        # In a mixture of experts, coarse rounding may route a token to another expert.
        if _disagreements(torch.cat(cached, 1), whole, _COARSE_TOLERANCE if coarse else _TOLERANCE) > coarse:
            return "with its cache, the model's code gives other logits than without"
        return ""


def _disagreements(found: Tensor, wanted: Tensor, tolerance: float) -> int:
    """Largest number of differing positions in any text; logits have shape [texts, positions, vocabulary]."""
    found, wanted = (logits.masked_fill(logits.isneginf(), 0) for logits in (found, wanted))  # forbidden tokens
    size = (wanted - wanted.mean(-1, keepdim=True)).norm(dim=-1)
    differ = ~((found - wanted).norm(dim=-1) <= tolerance * size)
    return int(differ.sum(1).max())


@dataclass
class _Texts:
    """The tokens of each row, in place of a cache."""

    rows: list[Tensor]

    def batch_select_indices(self, indices: Tensor) -> None:
        self.rows = [self.rows[index] for index in indices.tolist()]


def _finite(logits: Tensor) -> Tensor:
    """The logits in float32."""
    logits = logits.float()
    # The maximum of a row with NaN is NaN, and no comparison with NaN is true. -inf is allowed: it forbids a token.
    if not bool((logits.amax(-1) < math.inf).all()):
        raise DiptychError(
            "the model gives logits that are NaN or infinite: its weights are damaged, or its numbers have too "
            "small a range (float16); use bfloat16 or float32"
        )
    return logits

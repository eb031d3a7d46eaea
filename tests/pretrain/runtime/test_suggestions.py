"""The nearest known name."""

import pytest

from pretrain.runtime.suggestions import suggestion


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("cosin", ("l2", "cosine"), "did you mean cosine?"),
        ("H200", ("b200", "h200-141gb"), "did you mean h200-141gb?"),  # its first word
        ("ADAMW", ("muon", "AdamW"), "did you mean AdamW?"),
        ("zzz", ("b", "a"), "known: b, a"),
    ],
)
def test_suggestion(name: str, known: tuple[str, ...], hint: str) -> None:
    assert suggestion(name, known) == hint

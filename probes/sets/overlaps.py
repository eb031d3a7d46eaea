"""Texts that the splits of labelled sets share."""

import hashlib
import re
from collections.abc import Sequence

from pretrain.errors import DiptychError
from probes.sets.labelled import LabelledSet, Split

_NEITHER_LETTER_NOR_DIGIT = re.compile(r"[\W_]+")


def same_text_key(text: str) -> str:
    """What texts have in common that differ in case, space and punctuation only; empty without letters and digits."""
    return _NEITHER_LETTER_NOR_DIGIT.sub("", text.casefold())


def find_overlaps(sets: Sequence[LabelledSet]) -> dict[str, tuple[str, ...]]:
    """Counts the texts that train and test of a set share, and those that two sets share.

    Texts are the same if they are after :func:`same_text_key`; there is no least length, so "No." is one, too.

    Args:
        sets: With different names.

    Returns:
        Sentences by name of the set, such as "763 of 1,066 test texts are in sst2/train"; test before train.

    Raises:
        DiptychError: Two sets have one name.
    """
    keys = {}
    for item in sets:
        if item.name in keys:
            raise DiptychError(f"{item.name}: two sets have this name; give one another, as in other={item.source}")
        keys[item.name] = {"test": _keys(item.test), "train": _keys(item.train)}
    inside = {name: {split: set(own) for split, own in splits.items()} for name, splits in keys.items()}
    found: dict[str, tuple[str, ...]] = {}
    for name, own in keys.items():
        sentences = []
        for split in ("test", "train"):
            for other, theirs in inside.items():
                for other_split in ("train", "test"):
                    # Of one set, what of test is in train is said once.
                    if other == name and (split, other_split) != ("test", "train"):
                        continue
                    count = sum(key in theirs[other_split] for key in own[split] if key is not None)
                    if count:
                        whose = "its own train split" if other == name else f"{other}/{other_split}"
                        verb = "is" if count == 1 else "are"
                        sentences.append(f"{count:,} of {len(own[split]):,} {split} texts {verb} in {whose}")
        found[name] = tuple(sentences)
    return found


def _keys(split: Split) -> list[bytes | None]:
    """One digest per text, for reviews are long; None where nothing is left of a text."""
    keys = map(same_text_key, split.texts)
    return [hashlib.blake2b(key.encode(), digest_size=16).digest() if key else None for key in keys]

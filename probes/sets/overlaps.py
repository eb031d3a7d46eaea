"""Texts that the splits of labelled sets share."""

import hashlib
from collections.abc import Sequence

from pretrain.runtime.errors import DiptychError
from probes.sets.labelled import LabelledSet, Split
from probes.sets.same_text import same_text_key


def find_overlaps(sets: Sequence[LabelledSet]) -> dict[str, tuple[str, ...]]:
    """Counts the texts, and groups, that train and test of a set share, and the texts that two sets share.

    Texts are the same if they are after :func:`~probes.sets.same_text.same_text_key`; there is no least length, so
    "No." is one, too.

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
    for item in sets:
        if count := int(item.test_in_train(groups=True).sum()):
            sentence = f"{count:,} of {len(item.test):,} test texts {'is' if count == 1 else 'are'} of groups in train"
            found[item.name] = (sentence, *found[item.name])
    return found


def _keys(split: Split) -> list[bytes | None]:
    """One digest per text, for reviews are long; None where nothing is left of a text."""
    keys = map(same_text_key, split.texts)
    return [hashlib.blake2b(key.encode(), digest_size=16).digest() if key else None for key in keys]

"""Single records as tokens and as branches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretrain.data.branches import Branches, Trees, ViewPairs
from pretrain.data.corpus import CorpusSplit
from pretrain.data.tokenizer import Tokenizer

SHOWN = 600
"""Tokens of a view, at most, whose text is made out."""

WORDINGS = 5
"""Wordings of a view, at most, that are shown."""


@dataclass(frozen=True)
class Token:
    """A token: its id, its name in the vocabulary, and what it adds to the text.

    ``text`` is empty for a token that adds nothing by itself: a special one, or bytes of a character that later ones
    complete.
    """

    id: int
    name: str
    text: str = ""

    @property
    def shown(self) -> str:
        """The text, or the name of a token without one."""
        return self.text or self.name


@dataclass(frozen=True)
class Wording:
    """One text of a record: its title, its first ``SHOWN`` tokens, how many it has, whether it is whole."""

    title: str
    tokens: tuple[Token, ...]
    count: int
    complete: bool


@dataclass(frozen=True)
class Branch:
    """One branch of a pair as laid out.

    Attributes:
        segment: Its number.
        parent: The branch that it hangs on; None: it is a root.
        last: No later branch hangs on the same root.
        title: What it holds.
        row: Its places in the row, first and last.
        positions: Its position ids, first and last.
        head: Its first tokens.
        tail: Its last tokens, where they are not among the first.
        labels: How many of its tokens carry a label.
        labelled: The first and the last place in the row that carries one; None: none does.
        ends: The last label is the end of the text.
        marks: The embeddings that are read here, each with its first and last place in the row.
    """

    segment: int
    parent: int | None
    last: bool
    title: str
    row: tuple[int, int]
    positions: tuple[int, int]
    head: tuple[Token, ...]
    tail: tuple[Token, ...]
    labels: int
    labelled: tuple[int, int] | None
    ends: bool
    marks: tuple[tuple[str, int, int], ...]

    @property
    def is_cut(self) -> bool:
        """Tokens lie between head and tail that are not shown."""
        return self.row[1] - self.row[0] + 1 > len(self.head) + len(self.tail)


@dataclass(frozen=True)
class RecordFacts:
    """A record.

    Attributes:
        source: Name of its source.
        split: ``train`` or ``heldout``.
        number: Within the split.
        place: Where it was read, ``file:line``.
        label: Class for probing, if it has one.
        wordings: Its texts, ``WORDINGS`` of a view at most: those of the first view, then those of the second.
        num_wordings: How many it has in all.
        branches: Its first pair as laid out, every branch behind the root that it hangs on.
        num_positions: Positions that the pair takes in a row.
    """

    source: str
    split: str
    number: int
    place: str
    label: int | None
    wordings: tuple[Wording, ...]
    num_wordings: int
    branches: tuple[Branch, ...]
    num_positions: int


def describe_record(
    split: CorpusSplit,
    title: str,
    source: str,
    number: int,
    views: tuple[str, str],
    tokenizer: Tokenizer,
    branches: Branches,
) -> RecordFacts:
    """Reads a record and lays out its first pair.

    Args:
        split: Where it lies.
        title: Name of the split.
        source: Name of its source.
        number: Within the split.
        views: Names of the two views.
        tokenizer: Of the corpus.
        branches: How to lay it out.
    """
    of_first, of_second = split.wordings(number)
    titles = [
        name if count == 1 else f"{name} #{wording + 1}"
        for name, count in zip(views, (of_first, of_second), strict=True)
        for wording in range(count)
    ]
    pair = (0, of_first if of_second else 1)
    wordings = []
    for wording in (*range(min(of_first, WORDINGS)), *range(of_first, of_first + min(of_second, WORDINGS))):
        view = split.views(number, (wording, wording))[0]
        wordings.append(
            Wording(titles[wording], tokens_of(tokenizer, view.tokens[:SHOWN]), len(view.tokens), view.complete)
        )
    example = ViewPairs.of([split.views(number, pair)])
    tree = branches.lay_out(example, np.ones(1, np.bool_), np.zeros(1, np.int64))
    return RecordFacts(
        source,
        title,
        number,
        split.place(number),
        split.label(number),
        tuple(wordings),
        len(titles),
        describe_tree(tree, (titles[pair[0]], titles[pair[1]]), tokenizer, branches),
        len(tree.ids),
    )


def tokens_of(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[Token, ...]:
    """What every token adds to the text of those before it; together that is what the ids decode to.

    A decoder may treat the beginning of a text in its own way, and the bytes of a character give nothing until the last
    of them is there, so no token can be decoded alone.
    """
    names = tokenizer.hf.convert_ids_to_tokens(list(ids))
    tokens = []
    start = settled = 0  # ids[start:settled] is the context whose text is known to be whole
    for stop in range(1, len(ids) + 1):
        before, after = tokenizer.decode(ids[start:settled]), tokenizer.decode(ids[start:stop])
        added = ""
        if after.startswith(before) and not after.endswith("\ufffd"):
            added = after[len(before) :]
            start, settled = settled, stop
        tokens.append(Token(int(ids[stop - 1]), str(names[stop - 1]), added))
    return tuple(tokens)


def describe_tree(tree: Trees, titles: tuple[str, str], tokenizer: Tokenizer, branches: Branches) -> tuple[Branch, ...]:
    """The branches of a laid-out pair, every one behind the root that it hangs on.

    Args:
        tree: The pair.
        titles: Of its two views.
        tokenizer: Of the corpus.
        branches: How it was laid out.
    """
    source, target = titles if branches.direction == "forward" else titles[::-1]
    ids, positions, segments, parents = (
        values.tolist() for values in (tree.ids, tree.positions, tree.segments, tree.parents)
    )
    labels = dict(zip(tree.label_index.tolist(), tree.labels.tolist(), strict=True))
    ranges = {"source": tree.sources, "prediction": tree.predictions, "target": tree.targets}
    spans: dict[str, tuple[int, int]] = {name: tuple(found[0].tolist()) for name, found in ranges.items()}
    held = {segments[spans["source"][0]]: source, segments[spans["target"][0]]: target}
    if branches.predictors:
        held[segments[spans["prediction"][0]]] = f"[PRED]×{len(branches.predictors)}"
    found = []
    for segment in sorted(set(segments)):
        first = segments.index(segment)
        last = first + segments.count(segment) - 1
        parent = parents[first]
        read: dict[tuple[int, int], list[str]] = {}  # without [PRED] tokens the source is read for the prediction, too
        for name, span in spans.items():
            if first <= span[0] <= last:
                read.setdefault(span, []).append(name)
        labelled = [place for place in range(first, last + 1) if place in labels]
        head, tail = _ends(tokenizer, ids[first : last + 1])
        found.append(
            Branch(
                segment=segment,
                parent=None if parent == segment else parent,
                last=parent != segment and parent not in parents[last + 1 :],
                title=held.get(segment, titles[1]),  # the conditional layout's second view behind the first
                row=(first, last),
                positions=(positions[first], positions[last]),
                head=head,
                tail=tail,
                labels=len(labelled),
                labelled=(labelled[0], labelled[-1]) if labelled else None,
                ends=bool(labelled) and labels[labelled[-1]] == branches.eos,
                marks=tuple((", ".join(names), start, stop - 1) for (start, stop), names in read.items()),
            )
        )
    return tuple(sorted(found, key=lambda branch: branch.segment if branch.parent is None else branch.parent))


def _ends(tokenizer: Tokenizer, own: Sequence[int]) -> tuple[tuple[Token, ...], tuple[Token, ...]]:
    """The first and the last tokens of a branch."""
    head, tail = 4, 2
    if len(own) <= head + tail:
        return tokens_of(tokenizer, own), ()
    return tokens_of(tokenizer, own[:head]), tokens_of(tokenizer, own[-tail - 6 :])[-tail:]

"""English for the conditions of the regex grammar: several wordings of each, so that texts vary and meanings do not."""

import re
from collections.abc import Sequence

from pretrain.sources.synthetic.regex_grammar import lexicon
from pretrain.sources.synthetic.regex_grammar.meaning import (
    Begins,
    Condition,
    Consists,
    Denied,
    Ends,
    InOrder,
    Joined,
    Single,
    SomeWord,
    Thing,
    Times,
)
from pretrain.sources.synthetic.reviews import Draw


def word(draw: Draw, condition: Condition) -> str:
    """Word a condition as a request for the lines that it holds for."""
    if isinstance(condition, Denied) and draw.chance(0.35):
        form, frame = draw.pick(lexicon.FRAMES_DENIED)
        return frame.format(_inflect(_condition(draw, condition.condition), form))
    form, frame = draw.pick(lexicon.FRAMES)
    return frame.format(_inflect(_condition(draw, condition), form))


def _inflect(text: str, form: lexicon.Form) -> str:
    which = ("plural", "singular", "base").index(form)

    def inflected(match: re.Match[str]) -> str:
        verb = match[1]
        if verb in lexicon.IRREGULAR:
            return lexicon.IRREGULAR[verb][which]
        return verb if which != 1 else verb + ("es" if verb.endswith("sh") else "s")

    return re.sub(r"<(\w+)>", inflected, text)


# ----------------------------------------------------------------------------------------------------- whole conditions


def _condition(draw: Draw, condition: Condition) -> str:
    match condition:
        case Joined(every, inners):
            return _joined(draw, every, inners)
        case Denied(Joined(every, inners)):
            fields = {name: _condition(draw, inner) for name, inner in zip("ab", inners, strict=True)}
            if not every:
                return draw.pick(lexicon.NEITHER).format(**fields)
            template = draw.pick(lexicon.NOT_BOTH)
            if template.startswith("<do>"):
                fields = {name: _inflect(text, "base") for name, text in fields.items()}
            return template.format(**fields)
        case Denied(inner):
            return _denied(draw, inner)
        case _:
            return _single(draw, condition)


def _joined(draw: Draw, every: bool, inners: tuple[Condition, ...]) -> str:
    inners = _denied_last(draw, inners)
    first, last = inners[0], inners[-1]
    if isinstance(last, Joined):
        texts = [_condition(draw, inner) for inner in (first, *_denied_last(draw, last.conditions))]
        return draw.pick(lexicon.AND_OR if every else lexicon.OR_AND).format(**dict(zip("abc", texts, strict=True)))
    templates: Sequence[str]
    if len(inners) == 3:
        templates = lexicon.AND_THREE if every else lexicon.OR_THREE
    elif isinstance(first, Denied):
        templates = lexicon.DENIED_BOTH[every]
    elif isinstance(last, Denied):
        if not every and draw.chance(0.4):
            fields = {"a": _condition(draw, last.condition), "b": _condition(draw, first)}
            return draw.pick(lexicon.WHENEVER).format(**fields)
        templates = lexicon.BUT if every else lexicon.OR
    else:
        templates = lexicon.AND if every else lexicon.OR
    texts = [_condition(draw, inner) for inner in inners]
    return draw.pick(templates).format(**dict(zip("abc", texts, strict=False)))


def _denied_last(draw: Draw, conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
    """Put conditions in any order in which no "do not" can be taken to reach beyond its own condition."""
    mixed = draw.sample(conditions, len(conditions))
    return tuple(sorted(mixed, key=lambda condition: (isinstance(condition, Joined), isinstance(condition, Denied))))


def _denied(draw: Draw, condition: Condition) -> str:
    if isinstance(condition, InOrder) and len(condition.things) == 1 and draw.chance(0.4):
        return draw.pick(lexicon.HAS_NOT).format(x=_thing(draw, condition.things[0]))
    text = _condition(draw, condition)
    if text.startswith("<be>"):
        return text.replace("<be>", "<be> not", 1)
    return f"<do> not {_inflect(text, 'base')}"


def _single(draw: Draw, single: Single) -> str:
    match single:
        case InOrder(things):
            templates: tuple[Sequence[str], ...] = (lexicon.HAS, lexicon.TWO, lexicon.THREE)
            named = [_thing(draw, thing) for thing in things]
            return draw.pick(templates[len(things) - 1]).format(**dict(zip("xyz", named, strict=False)))
        case Times(thing, low, high):
            if thing.single and thing.sort != "either":
                return draw.pick(lexicon.COUNT).format(n=_amount(draw, thing, low, high))
            return draw.pick(lexicon.REPEATED).format(x=_thing(draw, thing), t=_amount(draw, None, low, high))
        case Begins(Thing("chain", _, (Thing("kind", "character"), *rest))):
            return draw.pick(lexicon.PLACE).format(x=_thing(draw, rest[-1]), o=lexicon.ORDINALS[len(rest)])
        case Ends(Thing("chain", _, (*rest, Thing("kind", "character")))):
            return lexicon.PLACE[0].format(x=_thing(draw, rest[0]), o=f"{lexicon.ORDINALS[len(rest)]} to last")
        case Begins(thing):
            return draw.pick(lexicon.BEGINS).format(x=_thing(draw, thing))
        case Ends(thing):
            return draw.pick(lexicon.ENDS).format(x=_thing(draw, thing))
        case Consists(thing, 1, 1):
            return draw.pick(lexicon.IS).format(x=_thing(draw, thing))
        case Consists(thing, low, high):
            if thing.name == "character":
                return draw.pick(lexicon.LONG).format(n=_amount(draw, thing, low, high))
            if thing.single and thing.sort != "either":
                return draw.pick(lexicon.ALL).format(n=_amount(draw, thing, low, high))
            return draw.pick(lexicon.ALL_REPEATED).format(x=_thing(draw, thing), t=_amount(draw, None, low, high))
        case SomeWord(Begins(thing)):
            return draw.pick(lexicon.WORD_BEGINS).format(x=_thing(draw, thing))
        case SomeWord(Ends(thing)):
            return draw.pick(lexicon.WORD_ENDS).format(x=_thing(draw, thing))
        case SomeWord(Consists(thing, low, high)):
            if low == high == 1:
                return draw.pick(lexicon.WORD_IS).format(x=_thing(draw, thing))
            return draw.pick(lexicon.WORD_ALL).format(n=_amount(draw, thing, low, high))
    raise AssertionError(single)


# --------------------------------------------------------------------------------------------------- things and amounts


def _amount(draw: Draw, thing: Thing | None, low: int, high: int | None) -> str:
    """Word ``low`` to ``high`` of a thing, or that many times."""
    sort = "least" if high is None else "most" if low == 0 else "exact" if low == high else "between"
    numbers = [number for number in (low, high) if number is not None and not (sort == "most" and number == 0)]
    numbers = numbers[:1] if sort == "exact" else numbers
    spelled = draw.chance(0.5)
    written = [lexicon.NUMBERS[number] if spelled else str(number) for number in numbers]
    amount = draw.pick(lexicon.AMOUNTS[sort]).format(*written)
    one = numbers[-1] == 1
    if thing is None:
        return f"{amount} time{'' if one and not amount.endswith('more') else 's'}"
    single, _, plural = _noun(draw, thing).partition("/")
    return f"{amount} {single.partition(' ')[2] if one and not amount.endswith('more') else plural}"


def _noun(draw: Draw, thing: Thing) -> str:
    """Return one character of a kind or of a range, and several: ``a digit/digits``."""
    if thing.sort == "kind":
        return draw.pick(lexicon.NOUNS[thing.name])
    first, last = thing.name[0], thing.name[1]
    noun = "digit" if first.isdigit() else "capital letter" if first.isupper() else "lowercase letter"
    extent = draw.pick(lexicon.RANGES).format(first, last)
    return f"a {noun} {extent}/{noun}s {extent}"


def _thing(draw: Draw, thing: Thing) -> str:
    match thing.sort:
        case "kind" | "range":
            return _noun(draw, thing).partition("/")[0]
        case "text":
            mark = draw.pick("\"'")
            return draw.pick(lexicon.TEXTS).format(q=f"{mark}{thing.name}{mark}")
        case "either":
            first, second = (_thing(draw, part) for part in thing.parts)
            return draw.pick(lexicon.EITHER).format(x=first, y=second)
        case "chain":
            first, last = _thing(draw, thing.parts[0]), _thing(draw, thing.parts[-1])
            between = len(thing.parts) - 2
            if not between:
                return draw.pick(lexicon.CHAIN).format(x=first, y=last)
            gap = f"{lexicon.NUMBERS[between]} character{'s' if between > 1 else ''}"
            return draw.pick(lexicon.GAP).format(x=first, y=last, n=gap)

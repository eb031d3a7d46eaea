"""Numbers in text, read whole or not at all.

``3 1/2`` begins with a 3 and ``7e4`` with a 7, but they are other numbers. What stands next to digits either belongs to
the number and is read with it (a sign, a fraction, a power of ten, groups of digits, "million") or leaves it unread.
"""

import re
import unicodedata
from fractions import Fraction
from typing import Final

# Beyond them no answer is sensible and judging becomes slow: digits of a number, its power of ten, and characters at
# the end of a text among which a number is looked for.
_MAX_DIGITS: Final = 60
_MAX_POWER: Final = 60
_LONGEST: Final = 10_000

_AROUND: Final = 40
"""Characters on either side of a number that may make another one of it."""

# Groups of digits are put apart by commas, apostrophes or thin spaces: a plain space may stand between two numbers.
_NUMBER: Final = re.compile(
    r"""
    (?P<sign>[-+][ ]{0,3}|\b(?:minus|negative)[ ]{1,3})?
    (?P<currency>[$\u00a2-\u00a5\u20a0-\u20cf][ ]?(?P<inner>[-+])?)?
    (?:
        (?P<whole>[0-9]{1,9})[ ]{1,3}(?P<part>[0-9]{1,9})/(?P<parts>[0-9]{1,9})
        |(?P<above>
            (?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?:['\u00a0\u2009\u202f][0-9]{3})+|[0-9]+)(?:\.[0-9]+)?
            |(?<![.\w])\.[0-9]+
        )
        (?:e(?P<power>[-+]?[0-9]{1,9}))?
        (?:[ ]?/[ ]?(?P<below>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:\.[0-9]+)?))?
    )
    (?P<words>(?:[ -]{1,3}(?:hundred|thousand|million|billion|trillion)s?\b)*)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_WORD: Final = re.compile(r"[a-z]+?(?=s?\b)")
_POWERS: Final = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_GROUPING: Final = str.maketrans("", "", ",'\u00a0\u2009\u202f")

_NUMERAL: Final = (
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundred|thousand|million"
    r"|(?:twen|thir|four|for|fif|six|seven|eigh|nine)(?:ty|teen))"
)
_PART: Final = (
    r"(?:hal(?:f|ve)|third"
    r"|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|[a-z]+t(?:een|ie)|hundred|thousand|million)th)"
)

# What makes another number, one that is not read, of the digits after it and before it.
_VOID_BEFORE: Final = re.compile(
    r"""
    [0-9][.,:'/·⋅]\Z                    # 3.5.2, 1,08, 10:30, 1/2/3
    |[0-9][ ]+(?:[.:·⋅][ ]*)?\Z        # 1 000, 3 : 1
    |(?<![0-9)])(?<![0-9)][ ])-[ ]?\(\Z # -(3)
    |[)}\w]/\Z                          # x/3
    |[0-9]-[0-9]+-?\Z                   # 2024-05-06
    |_\{?\Z|\^[ ]*\{?\Z               # 10^4
    |[0-9)](?:\*\*|[ ]\*\*[ ])\Z       # 10**4
    |\\[a-z]+[ ]?\{\Z|\}[ ]?\{\Z|√\Z    # \sqrt{3}
    |[±≤≥≠][ ]?\Z|(?:\A|\s)[<>][ ]*\Z   # no equality
    """,
    re.VERBOSE | re.IGNORECASE,
)
# "3 quarters" may be coins, and in "3 fifth graders" no part is meant.
_VOID_AFTER: Final = re.compile(
    rf"""
    [.,:'·⋅][0-9]|[ ]+[.:·⋅][ ]*[0-9]|[ ]?/[ ]?\.?[0-9]|[ ]*\^|[ ]?\*\*[ ]?[0-9]|\.?[ ]*e[-+]?[0-9]
    |\s*\\(?:pi|sqrt|[dt]?frac|times|cdot|div|pm)\b
    |[ -]+{_PART}(?:s\b|\b(?![ -]+(?!of\b)\w))
    |(?:[ ]\w+)?[ ](?:and|plus|&)[ ](?:an?|{_NUMERAL})[ -](?:{_PART}|quarter)s?\b
    |[ ](?:plus|point|minus|times|divided[ ]by|to[ ]the)[ ](?:{_NUMERAL}|{_PART})\b
    |[ ]and[ ]{_NUMERAL}\b(?![ -]+\w)
    |[ ]*[√π]|[ ](?:pi|squared|cubed|bn|mn|mln|lakhs?|crores?)\b|[ ](?-i:[kKMBexyz])(?!\.?[\w&-])
    """,
    re.VERBOSE | re.IGNORECASE,
)

_MARKUP: Final = re.compile(r"""[\s*_`"'“”‘’«({\[$]*""")
_CLAUSE_END: Final = re.compile(r"[.;!?](?=\s|\Z)|,\s|:\s|[(\[<#=]")
_FURTHER: Final = re.compile(r"(?<![A-Za-z^])[0-9]")

_ENDS_A_TERM: Final = re.compile(r"[\w)]\Z")
_ENDS_A_NUMBER: Final = re.compile(r"[0-9)]\s*\Z")
_STARTS_A_TERM: Final = re.compile(r"[=({\[]\s*\Z")

_SAME: Final = dict(zip("\u2212\u2044\u066b\u066c\u2018\u2019\u02bc\u2032", "-/.,''''", strict=True))
_VULGAR: Final = re.compile(r"([0-9]?)([\u00bc-\u00be\u2150-\u215e\u2189])")
_LATEX_FRACTION: Final = re.compile(r"([0-9]?)\\[dt]?frac[ ]?\{([0-9]{1,9})\}[ ]?\{([0-9]{1,9})\}")
_LATEX_BOX: Final = re.compile(r"\\(?:boxed|text[a-z]*|math[a-z]*)[ ]?\{")
_LATEX_SPACE: Final = re.compile(r"\\[,;: ]")
_LATEX_NOTHING: Final = re.compile(r"\\!|\\(?=[$%])|\\[()\[\]]|\{(?=,\})|(?<=,)\}")


def first_number(line: str) -> tuple[bool, Fraction | None]:
    """The number that a line begins with, markup and currency aside; no other may follow in its clause.

    Returns:
        Whether the line begins with a number at all, and its value; None: it is written in a way that is not read.
    """
    line = _plain(line[:_LONGEST])
    markup = _MARKUP.match(line)
    found = _NUMBER.match(line, markup.end() if markup else 0)
    if found is None:
        return False, None
    after = line[found.end() :]
    if _is_part_of_more("", after) or _FURTHER.search(_CLAUSE_END.split(after, maxsplit=1)[0]):
        return True, None
    return True, _value(found, negative=(found["sign"] or "+")[0] != "+")


def last_number(text: str) -> Fraction | None:
    """The last number in a text; None if there is none, or it is written in a way that is not read."""
    text = _plain(text[-_LONGEST:])
    found = None
    for found in _NUMBER.finditer(text):  # noqa: B007
        pass
    if found is None:
        return None
    before, sign = text[max(0, found.start() - _AROUND) : found.start()], (found["sign"] or "").lower()
    if sign and before.endswith(("-", "+", "±")):
        return None
    if _is_part_of_more("" if found["currency"] else before + sign, text[found.end() :]):
        return None
    return _value(found, negative=_is_negative(sign, before))


def _is_negative(sign: str, before: str) -> bool:
    """Whether a sign within a text is that of its number, and neither a difference nor a dash."""
    if sign == "-":
        return not _ENDS_A_TERM.search(before)
    if sign.startswith("-"):
        return bool(_STARTS_A_TERM.search(before))
    return sign.startswith("negative") or (sign.startswith("minus") and not _ENDS_A_NUMBER.search(before))


def _is_part_of_more(before: str, after: str) -> bool:
    """Whether what surrounds a number makes another one of it."""
    before, after = before[-_AROUND:], after[:_AROUND]
    adjoins = _adjoins(before[-1:]) or _adjoins(after[:1]) or after.lstrip(" ")[:1].isnumeric()
    return bool(adjoins or _VOID_BEFORE.search(before) or _VOID_AFTER.match(after))


def _adjoins(character: str) -> bool:
    """Whether a character beside digits is of one word with them: a letter, unless its script puts no spaces."""
    return bool(character) and (
        character == "_" or character.isnumeric() or unicodedata.category(character) in ("Lu", "Ll", "Lt")
    )


def _value(found: re.Match[str], *, negative: bool) -> Fraction | None:
    if found["whole"]:
        part, parts = int(found["part"]), int(found["parts"])
        if part >= parts:
            return None
        number = int(found["whole"]) + Fraction(part, parts)
    else:
        above, below = (found[name].translate(_GROUPING) if found[name] else "1" for name in ("above", "below"))
        power = int(found["power"] or 0)
        if len(above) + len(below) > _MAX_DIGITS or abs(power) > _MAX_POWER or not Fraction(below):
            return None
        number = Fraction(above) * Fraction(10) ** power / Fraction(below)
    if found["inner"] and found["sign"]:
        return None
    words = _WORD.findall(found["words"].lower())
    if len(words) > 3:
        return None
    for word in words:
        number *= 10 ** _POWERS[word]
    return -number if negative or found["inner"] == "-" else number


def _plain(text: str) -> str:
    """Text with one sign for minus, ASCII digits, fractions with a slash, and without LaTeX around numbers."""
    if not text.isascii():
        text = _VULGAR.sub(_written_out, "".join(map(_ascii, text)))
    if "\\" in text or "{" in text:
        text = _LATEX_FRACTION.sub(_written_out, text)
        text = _LATEX_NOTHING.sub("", _LATEX_SPACE.sub("\u2009", _LATEX_BOX.sub("", text)))
    return text


def _ascii(character: str) -> str:
    if unicodedata.category(character) == "Pd":
        return "-"
    if "\uff01" <= character <= "\uff5e":  # full width
        return chr(ord(character) - 0xFEE0)
    return _SAME.get(character, character)


def _written_out(found: re.Match[str]) -> str:
    """A fraction with a slash; after a digit it makes a mixed number."""
    digit, *parts = found.groups()
    fraction = "/".join(parts) if len(parts) > 1 else unicodedata.normalize("NFKC", parts[0]).replace("\u2044", "/")
    return f"{digit} {fraction}" if digit else fraction

"""SQL as a list of words in which two spellings of one query are the same.

It reads word by word and needs no grammar, so any text has such a list: also queries that no dialect allows, as those
of WikiSQL. Untrusted text costs time in proportion to its length.

A grammar would be a package (sqlglot), which takes what is in double quotes for a name, though Spider's queries write
strings so, and fails on one in five queries of WikiSQL.
"""

import re
import string
from itertools import pairwise
from typing import Final

from finetune.tasks.untrusted import MAX_TEXT

# As SQLite reads it: white space and letters' case are those of ASCII, anything beyond ASCII is part of a name.
_WORD: Final = re.compile(
    r"""
    (?P<space>[ \t\n\f\r]+)
    |(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))
    |(?P<string>'(?:[^']|'')*'|"(?:[^"]|"")*")
    |(?P<name>`(?:[^`]|``)*`|\[[^\]]*\])
    |(?P<unfinished>['"`\[].*)
    |(?P<plain>
        x'[0-9a-f]*'
        |(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?(?![\w$\x80-\U0010ffff])
        |[\w$\x80-\U0010ffff]+
        |<>|!=|==|<=|>=|<<|>>|\|\||->>|->|.
    )
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE | re.ASCII,
)
_SAME: Final = {"<>": "!=", "==": "="}

_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_PLAIN_NAME: Final = re.compile(r"[a-z_][a-z0-9_$]*")

# Words that may stand before a table or column, so that what follows them is no alias.
_BEFORE_NAMES: Final = """
all and as asc between by case cross desc distinct else end escape except exists from full glob group having in
inner intersect is join left like limit not null offset on or order outer right select then union using values when
where with
"""
_KEYWORDS: Final = frozenset(_BEFORE_NAMES.split())


def sql_words(sql: str) -> list[str]:
    """The words of a query, normalised.

    The same are: any case of keywords and names; any white space; strings in either kind of quotes (in double
    quotes is a string unless a dot is next to it, as models of these data write it); quoted and plain names; ``<>`` and
    ``!=``, ``==`` and ``=``; aliases of tables whatever they are called, with or without ``AS``; ``INNER``, ``OUTER``
    and ``ASC``, which say nothing; a semicolon at the end. Not the same are: another order of columns, conditions or
    joins, a table with an alias and without, ``5`` and ``5.0``, a comment and none (``a - - 1`` and ``a -- 1``).

    Where a word ends is SQLite's rule: white space and letters of either case are those of ASCII, and all that is
    beyond ASCII is part of a name.
    """
    if len(sql) > MAX_TEXT:
        return [sql]
    words = [_SAME.get(word, word) for word in _split(sql)]
    while words and words[-1] == ";":
        words.pop()
    words = [
        word
        for at, word in enumerate(words)
        if word not in ("as", "asc")
        and not (word == "inner" and words[at + 1 : at + 2] == ["join"])
        and not (word == "outer" and words[at + 1 : at + 2] == ["join"])
    ]
    return _without_aliases(words)


def has_order(sql: str) -> bool:
    """Whether the rows of a query are ordered: an ``ORDER BY`` that is not within parentheses."""
    depth, words = 0, sql_words(sql)
    for word, after in zip(words, [*words[1:], ""], strict=True):
        depth += (word == "(") - (word == ")")
        if depth == 0 and word == "order" and after == "by":
            return True
    return False


def _split(sql: str) -> list[str]:
    found = [match for match in _WORD.finditer(sql.strip()) if match.lastgroup != "space"]
    words = []
    for at, match in enumerate(found):
        text = match[0]
        if match.lastgroup == "plain":
            words.append(text.translate(_LOWER))
        elif match.lastgroup in ("comment", "unfinished"):
            words.append(text)
        elif match.lastgroup == "name" or any(near[0] == "." for near in found[max(at - 1, 0) : at + 2]):
            words.append(_name(text[1:-1] if text[0] == "[" else text[1:-1].replace(text[0] * 2, text[0])))
        else:
            words.append("'" + text[1:-1].replace(text[0] * 2, text[0]) + "'")
    return words


def _name(quoted: str) -> str:
    """A quoted name as the plain one, unless it needs its quotes: a keyword, or what is no single word."""
    name = quoted.translate(_LOWER)
    return name if _PLAIN_NAME.fullmatch(name) and name not in _KEYWORDS else f"`{name}`"


def _without_aliases(words: list[str]) -> list[str]:
    """Calls aliases of tables ``#1``, ``#2``, ... in their order: names before a dot that elsewhere follow a name."""
    qualifiers = {word for word, after in pairwise(words) if after == "."}
    new: dict[str, str] = {}
    defined = set()
    for at in range(1, len(words)):
        word, before = words[at], words[at - 1]
        if word in qualifiers and words[at + 1 : at + 2] != ["."] and _is_name(before):
            defined.add(at)
            new.setdefault(word, f"#{len(new) + 1}")
    return [
        new.get(word, word) if at in defined or words[at + 1 : at + 2] == ["."] else word
        for at, word in enumerate(words)
    ]


def _is_name(word: str) -> bool:
    return word == ")" or (word not in _KEYWORDS and (word[:1].isalnum() or word[:1] in ("_", "`")))

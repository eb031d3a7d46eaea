"""Colours of the charts: the light ones of the pages' style sheet.

In a page each of them is replaced by its CSS variable, so that charts follow the theme.
"""

import re
from importlib.resources import files

import pretrain.tools.pages

_STYLES = files(pretrain.tools.pages).joinpath("templates/base.css").read_text(encoding="utf-8")
COLOURS: dict[str, str] = dict(re.findall(r"--(\w+): light-dark\((#\w{6}),", _STYLES))
"""The light colours by the name of their variable."""

# Colour, marker and dash go together: a line can be told from another without its colour.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
SERIES = tuple(f"s{number}" for number in range(len(MARKERS)))


def light(name: str) -> str:
    """The colour that charts are drawn in."""
    return COLOURS[name]

"""Colours of page and charts: one name each, for light and for dark.

Charts are drawn in the light colours; in the page each of them is replaced by the name, so that it follows the theme.
"""

# Light, dark. Every light colour is there once: a chart's colour tells which name it is.
COLOURS = {
    "ink": ("#1b1f24", "#e6e9ed"),
    "soft": ("#59626d", "#9da7b3"),
    "line": ("#dde1e6", "#343b44"),
    "page": ("#f5f6f8", "#121519"),
    "card": ("#ffffff", "#1a1e24"),
    "tint": ("#eef2f7", "#232932"),
    "accent": ("#0b5cad", "#7db7f5"),
    "good": ("#0b6b50", "#5fd0a8"),
    "warn": ("#8f3d00", "#ffb27a"),
    "s0": ("#0072b2", "#58aee8"),
    "s1": ("#d55e00", "#ff9152"),
    "s2": ("#00805f", "#40cfa4"),
    "s3": ("#b0508f", "#ec9ccb"),
    "s4": ("#a87400", "#efc04c"),
    "s5": ("#4f57c4", "#a3a8ff"),
    "s6": ("#7a6248", "#cdb08c"),
    "s7": ("#8a1f3d", "#ff8aa3"),
}

# Colour, marker and dash go together: a line can be told from another without its colour.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
SERIES = tuple(f"s{number}" for number in range(len(MARKERS)))


def light(name: str) -> str:
    """The colour that charts are drawn in."""
    return COLOURS[name][0]


def style_sheet() -> str:
    """Every colour as a CSS variable."""
    names = "".join(f"--{name}:light-dark({bright},{dark});" for name, (bright, dark) in COLOURS.items())
    return f":root{{{names}}}\n"

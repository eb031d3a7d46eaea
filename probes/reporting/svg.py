"""A matplotlib SVG made small and part of a page: names of its own, the page's fonts, and the theme's colours."""

import re
from collections.abc import Mapping
from xml.etree import ElementTree

from probes.reporting.palette import COLOURS

_HREF = "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_VARIABLES = {bright: f"var(--{name})" for name, bright in COLOURS.items()}
_COLOUR = re.compile("|".join(_VARIABLES))
_TURN = re.compile(r"rotate\(-?0(?:\.0)? [^)]*\)")


def inline(text: str, name: str, label: str) -> str:
    """The SVG element for a page.

    Args:
        text: What matplotlib wrote, drawn in the palette's light colours.
        name: Unique within the page; ids begin with it.
        label: What the chart shows, for those who cannot see it.
    """
    root = ElementTree.fromstring(text)
    _plain(root)
    for child in [child for child in root if child.tag == "metadata"]:
        root.remove(child)
    written = ElementTree.tostring(root, encoding="unicode")
    used = set(re.findall(r'href="#([^"]+)"', written)) | set(re.findall(r"url\(#([^)]+)\)", written))
    numbers = {old: f"{name}.{number}" for number, old in enumerate(sorted(used))}
    for element in root.iter():
        _compact(element, numbers)
    _unwrap(root)
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib |= {"viewBox": box, "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _plain(root: ElementTree.Element) -> None:
    """Removes namespaces, which SVG within HTML does not need."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        if _HREF in element.attrib:
            element.set("href", element.attrib.pop(_HREF))
        if element.tag != "text" or not (element.text or "").strip():
            element.text = None if element.tag != "style" else element.text
        element.tail = None


def _compact(element: ElementTree.Element, names: dict[str, str]) -> None:
    found = element.attrib
    if "id" in found:
        own = names.get(found.pop("id"))
        if own:
            found["id"] = own
    if "href" in found and found["href"].startswith("#"):
        found["href"] = f"#{names[found['href'][1:]]}"
    if "clip-path" in found:
        found["clip-path"] = f"url(#{names[found['clip-path'][5:-1]]})"
    for key in ("d", "x", "y", "width", "height"):
        if key in found:
            found[key] = _NUMBER.sub(lambda match: f"{float(match[0]):.1f}".removesuffix(".0"), found[key])
    if "d" in found:
        found["d"] = re.sub(r"\s*([A-Za-z])\s*", r"\1", found["d"])
    if "transform" in found:
        found["transform"] = _TURN.sub("", found["transform"])
        if not found["transform"]:
            del found["transform"]
    if "style" in found:
        style = re.sub(r"font-family: [^;]*;? ?", "", found["style"])
        found["style"] = _COLOUR.sub(lambda match: _VARIABLES[match[0]], style).replace(": ", ":").replace("; ", ";")
    if element.tag == "style":
        element.text = None


def _unwrap(parent: ElementTree.Element) -> None:
    """Removes groups without attributes, and empty elements."""
    children = []
    for child in list(parent):
        _unwrap(child)
        bare = child.tag == "g" and not child.attrib
        empty = child.tag == "style" or (child.tag == "defs" and not len(child)) or child.get("style") == "fill:none"
        if bare or empty:
            children += list(child)
        else:
            children.append(child)
    parent[:] = children


def share(drawings: Mapping[str, str]) -> tuple[list[str], str]:
    """Drawings of one page made smaller: their ids short, and their styles as classes.

    Args:
        drawings: What :func:`inline` made, by the name that it was given.

    Returns:
        The drawings, and the rules of the classes.
    """
    names: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        return f'{match[1]} class="{names.setdefault(match[2], f"k{len(names)}")}"'

    shared = []
    for number, (own, drawing) in enumerate(drawings.items()):
        for before in ('id="', 'href="#', "url(#"):
            drawing = drawing.replace(f"{before}{own}.", f"{before}c{number}.")
        shared.append(re.sub(r'(<[^<>]*) style="([^"]*)"', name, drawing))
    return shared, "".join(f".{name}{{{style}}}\n" for style, name in names.items())

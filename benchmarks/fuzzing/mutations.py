"""Changes of valid files, drawn by seed: some know the format, most know bytes only."""

import json
import random
import re
from collections.abc import Sequence
from typing import Any

INTERESTING = [
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b'"',
    b"'",
    b"\\",
    b'"\\ud800"',
    b"\\u0000",
    b"\xe2\x80\xa8",
    b"\x1b[31m",
    b"9" * 5000,
    b"1e999",
    b"-1",
    b"NaN",
    b"0x",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"[" * 3000,
    b'{"a":' * 3000,
    b",",
    b"\t",
    b": ",
    b"- ",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!int ",
    b"? ",
    b"|\n",
    b"a" * 70_000,
]
NUMBERS = ["0", "-1", "1", "255", "65536", "2147483648", "4294967295", "9223372036854775808", "1e308", "1.5", "-0"]
NUMBERS += ["9" * 400, "9" * 5000, "1e-400", '"7"', "null", "true", "[]", "{}"]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    10**30,
    "",
    "x",
    "\0",
    "a/../b",
    "\u202e",
    [],
    {},
    [[]],
    {"a": None},
]
VALUES += [[1] * 50, {"type": "x"}, "/", "\ud800", float("inf"), 2**63]


def mutate(seeds: Sequence[bytes], form: str, draw: random.Random) -> bytes:
    """A seed with one to four changes.

    Args:
        seeds: Valid files.
        form: What is known of the format: ``text``, ``json`` (one value), ``jsonl`` or ``binary``.
        draw: Random numbers.
    """
    content = draw.choice(seeds)
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
        kind = draw.random()
        if form in ("json", "jsonl") and kind < 0.5:
            content = of_json(content, draw, lines=form == "jsonl")
        elif form == "text" and kind < 0.5:
            content = of_text(content, draw)
        else:
            content = of_bytes(content, draw, seeds)
    return content


def of_bytes(content: bytes, draw: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Changes that know no format."""
    size = len(content)
    at = draw.randrange(size + 1)
    length = min(draw.choice((1, 1, 2, 4, 8, 32, 256)), size - at)
    span = content[at : at + length]
    match draw.randrange(10):
        case 0 if span:
            return content[:at] + bytes([span[0] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
        case 1:
            return content[:at] + draw.randbytes(length) + content[at + length :]
        case 2:
            return content[:at] + content[at + length :]
        case 3:
            return content[:at] + span * draw.choice((2, 3, 100)) + content[at + length :]
        case 4:
            return content[:at]
        case 5:
            other = draw.choice(seeds)
            return content[:at] + other[draw.randrange(len(other) + 1) :]
        case 6:
            to = draw.randrange(size + 1)
            rest = content[:at] + content[at + length :]
            return rest[:to] + span + rest[to:]
        case 7:  # an integer of a binary header
            wide = draw.choice((1, 2, 4, 8))
            value = draw.choice(
                (0, 1, 2 ** (8 * wide) - 1, 2 ** (8 * wide - 1), 2 ** (8 * wide - 1) - 1, 2 ** (4 * wide))
            )
            return content[:at] + value.to_bytes(wide, "little") + content[at + wide :]
        case 8:
            return content[at:] if draw.random() < 0.3 else content + draw.randbytes(length)
        case _:
            return content[:at] + draw.choice(INTERESTING) + content[at:]


def of_text(content: bytes, draw: random.Random) -> bytes:
    """Changes of words, numbers and lines."""
    match draw.randrange(4):
        case 0:
            numbers = list(re.finditer(rb"-?\d+(\.\d+)?(e-?\d+)?", content))
            if numbers:
                found = draw.choice(numbers)
                return content[: found.start()] + draw.choice(NUMBERS).encode() + content[found.end() :]
        case 1:
            words = list(re.finditer(rb"\w+", content))
            if words:
                one, two = draw.choice(words), draw.choice(words)
                return content[: one.start()] + two[0] + content[one.end() :]
        case 2:
            lines = content.split(b"\n")
            lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
            return b"\n".join(lines)
        case _:
            lines = content.split(b"\n")
            draw.shuffle(lines)
            return b"\n".join(lines)
    return content


def of_json(content: bytes, draw: random.Random, *, lines: bool) -> bytes:
    """Changes of one value or key."""
    parts = content.split(b"\n") if lines else [content]
    at = draw.randrange(len(parts))
    try:
        tree = json.loads(parts[at])
    except (ValueError, RecursionError):
        return content
    places: list[tuple[Any, Any]] = []
    todo = [tree]
    while todo:
        node = todo.pop()
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            todo.append(node[key])
    if not places:
        return content
    node, key = draw.choice(places)
    match draw.randrange(5):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            node[draw.choice(("", "x", "a.b", "\0", "text", key + " "))] = node.pop(key)
        case 2:
            other, place = draw.choice(places)
            node[key] = (
                json.loads(json.dumps(other[place]))
                if place in (other if isinstance(other, dict) else range(len(other)))
                else None
            )
        case 3 if isinstance(node, dict):  # the key twice
            text = json.dumps(tree)
            name = json.dumps(key)
            parts[at] = text.replace(name, f"{name}: 1, {name}", 1).encode()
            return b"\n".join(parts)
        case _:
            node[key] = draw.choice(VALUES)
    parts[at] = json.dumps(tree, ensure_ascii=draw.random() < 0.8).encode(errors="surrogatepass")
    return b"\n".join(parts)

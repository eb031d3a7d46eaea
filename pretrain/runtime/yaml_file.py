"""Reading and writing YAML for configs, overrides and pipelines; words stay as they were written.

Types are those of YAML 1.2's core schema, so ``yes``, ``no``, ``on``, dates and ``12:30`` are words, ``true`` and
``false`` the only truth values, and ``1e-4`` is a number. Keys are always words. A number remembers how it was written,
and where a setting takes text, :func:`validate` gives it that: ``1.10`` stays ``1.10`` and ``007`` stays ``007``.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pretrain.runtime.errors import DiptychError

M = TypeVar("M", bound=BaseModel)

_MAX_VALUES = 100_000
"""Of a document once its aliases are written out; a few lines of aliases can stand for billions."""
_MAX_DEPTH = 100
"""Of brackets; the time of PyYAML's scanner grows with their square."""
_TAG = "tag:yaml.org,2002:"
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NULL = re.compile(r"~|null|Null|NULL|")
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


class _WrittenInt(int):
    text = ""

    def __str__(self) -> str:
        return self.text


class _WrittenFloat(float):
    text = ""

    def __str__(self) -> str:
        return self.text


class _WrittenBool(int):  # there are no subclasses of bool
    text = ""

    def __str__(self) -> str:
        return self.text


_Written = _WrittenInt | _WrittenFloat | _WrittenBool
_VALUE_OF: dict[type, type] = {_WrittenInt: int, _WrittenFloat: float, _WrittenBool: bool}


def parse(text: str) -> Any:
    """The value of a document. A number whose text Python would write differently remembers its text.

    Raises:
        yaml.YAMLError: The text is no YAML, gives a key twice, or holds what no config can; a
            ``yaml.MarkedYAMLError`` knows the line.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _refuse_bombs(node, {})
            return _unshared(loader.construct_document(node))
        finally:
            loader.dispose()  # type: ignore[no-untyped-call]
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, OverflowError) as error:  # an escape that is no character
        raise yaml.YAMLError(str(error)) from None


def read_mapping(path: Path, of: str) -> dict[str, Any]:
    """The mapping in a file; an empty file is an empty mapping.

    Args:
        path: The file.
        of: What the mapping holds, for the message.

    Raises:
        DiptychError: The file cannot be read or is no such YAML; names the line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DiptychError(f"config {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise DiptychError(f"{path}:{number}: not valid UTF-8; convert the file to UTF-8") from None
    try:
        tree = parse(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise DiptychError(f"{path}:{line}: invalid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise DiptychError(f"{path}: invalid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise DiptychError(f"{path}: expected a mapping of {of}, found {_type_name(tree)}")
    return tree


def validate(kind: type[M], tree: Any, *, as_written: bool = False) -> M:
    """The model of a parsed tree; a field that takes text gets a number or truth value as it was written.

    Args:
        kind: The model.
        tree: What :func:`parse` gave.
        as_written: Where the model takes anything, numbers still remember how they were written.

    Raises:
        ValidationError: As ``kind.model_validate`` raises it.
    """
    given = _unshared(tree) if as_written else plain(tree)
    while True:
        try:
            return kind.model_validate(given)
        except ValidationError as error:
            changed = False
            for item in error.errors(include_url=False):
                if item["type"] in ("string_type", "path_type") and _write_out(given, tree, item["loc"]):
                    changed = True
            if not changed:
                raise


def plain(tree: Any) -> Any:
    """A copy of a parsed tree whose numbers no longer remember how they were written.

    The values of ``keep`` become text instead, for rows are compared with the word: version 1.10 is not version 1.1.
    """
    if isinstance(tree, dict):
        return {
            key: _keep(value) if key == "keep" and isinstance(value, dict) else plain(value)
            for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [plain(value) for value in tree]
    return _VALUE_OF[type(tree)](tree) if isinstance(tree, _Written) else tree


def number(text: str) -> int | float | None:
    """The number that a word is in YAML; None where it is none."""
    if _INT.fullmatch(text):
        return _integer(text)
    return _decimal(text) if _FLOAT.fullmatch(text) else None


def dump(tree: Any) -> str:
    """YAML that :func:`parse`, and any other YAML reader, reads back as the same tree."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=100)


def dump_line(value: Any) -> str:
    """The same in one line, as the value of an override; numbers stay as they were written."""
    text = yaml.dump(value, Dumper=_LineDumper, sort_keys=False, default_flow_style=True, width=float("inf"))
    return text.removesuffix("\n...\n").strip()


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (None, f"{_TAG}seq", f"{_TAG}map")
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._flat: set[yaml.Node] = set()
        """Mappings that hold what they merge, whose keys may then be there twice."""

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        if self.flow_level >= _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=self.get_mark())  # type: ignore[no-untyped-call]
        super().fetch_flow_collection_start(token)  # type: ignore[misc]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if not isinstance(node, yaml.MappingNode):
            return super().construct_mapping(node, deep)  # which says so
        self.flatten_mapping(node)
        # What is merged comes first, so that the mapping's own keys win.
        return {key.value: self.construct_object(value, deep) for key, value in node.value}

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key, _ in node.value if node not in self._flat else ():
            if not isinstance(key, yaml.ScalarNode):
                word = self.construct_object(key, deep=True)
                raise yaml.MarkedYAMLError(problem=f"key {word!r} is no plain word", problem_mark=key.start_mark)
            if key.tag == f"{_TAG}merge":
                continue
            key.value = _text(key)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        self._flat.add(node)
        super().flatten_mapping(node)  # type: ignore[no-untyped-call]


class _Dumper(yaml.SafeDumper):
    """Quotes text that a reader of YAML 1.2 or 1.1 would take for something else."""


class _LineDumper(_Dumper):
    """Writes line ends inside a text as escapes."""


def _text(node: yaml.ScalarNode) -> str:
    text = _SURROGATE_PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), node.value)
    if "\0" in text:
        raise yaml.MarkedYAMLError(problem="a text holds a NUL", problem_mark=node.start_mark)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise yaml.MarkedYAMLError(problem="a text holds half a surrogate pair", problem_mark=node.start_mark) from None
    return text


def _construct(_: _Loader, node: yaml.Node) -> Any:
    tag = node.tag.removeprefix(_TAG)
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.MarkedYAMLError(problem=f"expected one value for !!{tag}", problem_mark=node.start_mark)
    text = _text(node)
    if tag == "str":
        return text
    if tag == "null":
        return None
    if tag == "bool" and _BOOL.fullmatch(text):
        truth = text.lower() == "true"
        return truth if text.islower() else _remember(_WrittenBool(truth), text)
    value = number(text)
    if value is None and _INT.fullmatch(text):
        problem = f"a number of {len(text):,} digits is more than can be read"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    if tag == "int" and isinstance(value, int):
        return value if str(value) == text else _remember(_WrittenInt(value), text)
    if tag == "float" and value is not None:
        value = float(value)
        # PyYAML writes 1e-05 as 1.0e-05, so that readers of YAML 1.1 take it for a number.
        return value if str(value) == text and "e" not in text else _remember(_WrittenFloat(value), text)
    raise yaml.MarkedYAMLError(problem=f"{text[:40]!r} is no !!{tag}", problem_mark=node.start_mark)


def _remember(value: Any, text: str) -> Any:
    value.text = text
    return value


def _integer(text: str) -> int | None:
    try:
        return int(text, 8 if text.startswith("0o") else 16) if text.startswith(("0o", "0x")) else int(text)
    except ValueError:  # more digits than Python reads
        return None


def _decimal(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _represent(dumper: _Dumper, value: Any) -> yaml.ScalarNode:
    tag = {_WrittenBool: "bool", _WrittenInt: "int", _WrittenFloat: "float"}[type(value)]
    return dumper.represent_scalar(f"{_TAG}{tag}", str(value))


def _represent_in_line(dumper: _LineDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(f"{_TAG}str", text, style='"' if text.splitlines() not in ([], [text]) else None)


for _kind in ("str", "null", "bool", "int", "float"):
    _Loader.add_constructor(f"{_TAG}{_kind}", _construct)
for _tag, _pattern, _first in (
    ("bool", _BOOL, "tTfF"),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("null", _NULL, ["~", "n", "N", ""]),
    ("merge", re.compile("<<"), "<"),
):
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(f"{_TAG}{_tag}", re.compile(f"(?:{_pattern.pattern})$"), list(_first))
for _type in (_WrittenInt, _WrittenFloat, _WrittenBool):
    _Dumper.add_representer(_type, _represent)
    _LineDumper.add_representer(_type, _represent)
_LineDumper.add_representer(str, _represent_in_line)


def _refuse_bombs(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many values a node is with its aliases written out."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    known = sizes.get(id(node))
    if known == 0:
        raise yaml.MarkedYAMLError(problem="an alias stands for what it is part of", problem_mark=node.start_mark)
    if known is None:
        sizes[id(node)] = 0
        children = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        known = sizes[id(node)] = 1 + sum(_refuse_bombs(child, sizes) for child in children)
        if known > _MAX_VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {_MAX_VALUES:,} values", problem_mark=node.start_mark)
    return known


def _write_out(given: Any, tree: Any, location: tuple[int | str, ...]) -> bool:
    """Puts the text of a number or truth value into the given tree; False where there is none at the location."""
    parent: Any = None
    key: Any = None
    for part in location:
        inside = part in tree if isinstance(tree, dict) else isinstance(tree, list) and part in range(len(tree))
        if inside:  # else it is the name of a type, which pydantic adds to the keys
            parent, key = given, part
            given, tree = given[key], tree[key]
    if parent is None or isinstance(given, str) or not isinstance(tree, int | float):
        return False
    parent[key] = str(tree).lower() if isinstance(tree, bool) else str(tree)
    return True


def _keep(words: dict[str, Any]) -> dict[str, Any]:
    return {
        field: str(word) if isinstance(word, _WrittenInt | _WrittenFloat) else plain(word)
        for field, word in words.items()
    }


def _unshared(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _unshared(value) for key, value in tree.items()}
    return [_unshared(value) for value in tree] if isinstance(tree, list) else tree


def _type_name(tree: Any) -> str:
    return "a number" if isinstance(tree, _Written) else type(tree).__name__

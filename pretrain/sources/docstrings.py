"""Docstrings and the Python code they describe, from source trees on disk."""

import ast
import contextlib
import hashlib
import io
import os
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import ClassVar, Literal, TypeAlias

from pydantic import Field, field_validator

from pretrain.runtime.errors import DiptychError
from pretrain.sources.columns import PathText
from pretrain.sources.files import Files
from pretrain.sources.opening import reading
from pretrain.sources.part import Part
from pretrain.sources.record import Record, Source

Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

_PART_BYTES = 4 << 20
_LEFT_OUT = frozenset(("__pycache__", "site-packages", "dist-packages", "test", "tests"))


@dataclass(frozen=True, slots=True)
class TreePart(Part):
    """Files of a source tree.

    Attributes:
        root: The tree.
        names: The files, relative to it.
    """

    root: str = ""
    names: tuple[str, ...] = ()


def _tree_part(root: str, names: list[str], watched: list[tuple[str, int, int]], size: int, digest: str) -> TreePart:
    return TreePart(names[0], digest, size, watched=tuple(watched), root=root, names=tuple(names))


class DocstringsSource(Source):
    """Every documented function of Python source trees: its docstring, and its code without the docstring.

    Left out of a tree are tests (folders ``test`` and ``tests``: they say what is checked, not what is done), hidden
    folders, installed packages inside it (``site-packages``, so that nothing is read twice), and definitions whose body
    is the docstring and no more. Files that are no Python of the running version are passed over: trees of other people
    hold templates and test data.
    """

    location: ClassVar[frozenset[str]] = frozenset({"paths"})

    type: Literal["docstrings"]
    paths: tuple[PathText, ...] | None = Field(
        None, min_length=1, description="Folders or files; none: the running Python's library and installed packages."
    )
    views: tuple[str, str] = Field(("docstring", "code"), description="Names of the two views.")
    classes: bool = Field(False, description="Classes too; their code holds that of their methods.")
    summary: bool = Field(False, description="Only the first paragraph of a docstring.")

    @field_validator("views")
    @classmethod
    def _names_are_usable(cls, views: tuple[str, str]) -> tuple[str, str]:
        if not all(views) or views[0] == views[1]:
            raise ValueError(f"expected two different names, got {list(views)}")
        return views

    def view_names(self) -> tuple[str, ...]:
        """The views that every record has."""
        return self.views

    def code_views(self) -> tuple[str, ...]:
        """The second."""
        return self.views[1:]

    def where(self) -> str:
        """The trees."""
        return ", ".join(self.paths) if self.paths else "the Python library and installed packages"

    def parts(self, files: Files) -> Sequence[Part]:
        """Groups of files of about 4 MiB.

        Raises:
            DiptychError: A path does not exist or holds no Python file.
        """
        parts: list[Part] = []
        seen: set[str] = set()
        for root, names in self._trees():
            group: list[str] = []
            watched: list[tuple[str, int, int]] = []
            size, digest = 0, hashlib.sha256()
            for name in names:
                path = os.path.join(root, name)
                if path in seen:
                    continue
                seen.add(path)
                with reading(path), open(path, "rb") as file:
                    state = os.fstat(file.fileno())
                    content = file.read()
                group.append(name)
                watched.append((path, state.st_size, state.st_mtime_ns))
                size += len(content)
                digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\0".encode(errors="surrogateescape"))
                if size >= _PART_BYTES:
                    parts.append(_tree_part(root, group, watched, size, digest.hexdigest()))
                    group, watched, size, digest = [], [], 0, hashlib.sha256()
            if group:
                parts.append(_tree_part(root, group, watched, size, digest.hexdigest()))
        return parts

    def read(self, part: Part) -> Iterator[Record]:
        """Yields the records of a part by file and line; the file, which is the group too, relative to its tree."""
        assert isinstance(part, TreePart)
        for name in part.names:
            path = os.path.join(part.root, name)
            with reading(path), open(path, "rb") as file:
                content = file.read()
            shown = name.replace(os.sep, "/").encode(errors="replace").decode()
            for line, docstring, code in documented(content, classes=self.classes):
                if self.summary:
                    docstring = "\n".join(takewhile(str.strip, docstring.splitlines()))
                views = {self.views[0]: (docstring,), self.views[1]: (code,)}
                yield Record(views, shown, line, group=shown)

    def _trees(self) -> Iterator[tuple[str, list[str]]]:
        """Yields every folder and its Python files, sorted."""
        if self.paths is None:
            roots = dict.fromkeys(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
            for root in dict.fromkeys(os.path.realpath(root) for root in roots):
                if os.path.isdir(root):
                    yield root, sorted(_python_files(root))
            return
        for path in (os.path.realpath(os.path.expanduser(path)) for path in self.paths):
            if os.path.isfile(path):
                yield os.path.dirname(path), [os.path.basename(path)]
                continue
            found = sorted(_python_files(path))
            if not found:
                what = "holds no .py file" if os.path.isdir(path) else "no such file or folder"
                raise DiptychError(f"{path}: {what}; check the path")
            yield path, found


def documented(source: bytes, *, classes: bool = False) -> Iterator[tuple[int, str, str]]:
    """Finds the documented definitions of a Python file.

    Args:
        source: The file; whatever does not parse has none.
        classes: Classes as well as functions.

    Yields:
        Line of the definition (from 1), its docstring without indentation, and its code with decorators, comments and
        layout, without the docstring and without the indentation of the definition.
    """
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, *((ast.ClassDef,) if classes else ()))
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        text = source.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(text)
        lines = text.encode().split(b"\n")  # columns count bytes of UTF-8
    except (SyntaxError, ValueError, LookupError, RecursionError, MemoryError):
        return
    found = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    for node in sorted(found, key=lambda node: (node.lineno, node.col_offset)):
        docstring = ast.get_docstring(node)
        if not docstring or not docstring.strip() or _says_nothing(node):
            continue
        try:
            docstring.encode()
        except UnicodeEncodeError:
            continue  # an escape for half a surrogate pair
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        while node.decorator_list and not lines[first - 1].lstrip().startswith(b"@"):
            first -= 1  # the @ may stand on a line before what it marks
        yield first, docstring, _code(lines, node, first)


def _says_nothing(node: Definition) -> bool:
    """Whether nothing but ``pass`` and ``...`` follows the docstring."""
    return all(
        isinstance(statement, ast.Pass)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for statement in node.body[1:]
    )


def _code(lines: Sequence[bytes], node: Definition, first: int) -> str:
    """The lines of a definition without its docstring and its indentation."""
    last = node.end_lineno or node.lineno
    doc = node.body[0]
    doc_last = doc.end_lineno or doc.lineno
    before = lines[doc.lineno - 1][: doc.col_offset]
    after = lines[doc_last - 1][doc.end_col_offset :].strip()
    rest = after.removeprefix(b";").lstrip()
    # What follows a docstring of its own lines begins with the next line that is not blank.
    resume = doc_last + 1
    while not rest and before.isspace() and resume < last and not lines[resume - 1].strip():
        resume += 1
    joint = [] if before.isspace() and not rest else [(doc.lineno, before + rest)]
    numbered = [(number, lines[number - 1]) for number in range(first, doc.lineno)]
    numbered += joint + [(number, lines[number - 1]) for number in range(resume, last + 1)]
    margin = lines[first - 1][: len(lines[first - 1]) - len(lines[first - 1].lstrip())]
    fixed = _inside_strings(lines[first - 1 : last], first, node) if margin else frozenset()
    kept = [line if number in fixed else line.removeprefix(margin) for number, line in numbered]
    return b"\n".join(kept).decode().rstrip()


def _inside_strings(lines: Sequence[bytes], first: int, node: Definition) -> frozenset[int]:
    """Numbers of the lines that begin inside a string, whose spaces are not indentation."""
    docstring = getattr(node.body[0], "value", None)
    strings = (child for child in ast.walk(node) if isinstance(child, ast.Constant | ast.JoinedStr))
    if all(string.lineno == string.end_lineno for string in strings if string is not docstring):
        return frozenset()  # most of them; tokenizing is slow
    inside: set[int] = set()
    code = io.StringIO(b"\n".join(lines).decode())
    with contextlib.suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(code.readline):
            inside.update(range(first + token.start[0], first + token.end[0]))
    return frozenset(inside)


def _python_files(root: str) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _LEFT_OUT and not name.startswith(".")]
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".py") and os.path.isfile(path):
                yield os.path.relpath(path, root)

"""Docstrings and their code: the code says the same as before, and says nothing of the docstring."""

import ast
import os
import pickle
import shutil
import sysconfig
import warnings
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from pretrain.runtime.errors import DiptychError
from pretrain.sources import DocstringsSource, Files, Record
from pretrain.sources import docstrings as docstrings_module
from pretrain.sources.docstrings import documented


def source(**options: Any) -> DocstringsSource:
    return DocstringsSource.model_validate({"type": "docstrings", **options})


def read(made: DocstringsSource) -> list[Record]:
    made, parts = pickle.loads(pickle.dumps((made, list(made.parts(Files())))))
    return [record for part in parts for record in made.read(part)]


def pairs(text: str, **options: Any) -> list[tuple[str, str]]:
    return [(docstring, code) for _, docstring, code in documented(dedent(text).encode(), **options)]


# --------------------------------------------------------------------------------------------------------- definitions


def test_the_docstring_goes_and_all_else_stays() -> None:
    text = '''
    class Shop:
        """A shop."""

        @property  # cheap
        @cached(
            size=3,
        )
        async def price(self, item: str = """x
        y""") -> float:  # the price
            # of what?
            """Tells the price.

            Args:
                item: What.
            """

            query = """
    select 1
        from t
            """  # at the margin
            total = sum(item
                        for item in self.items)

            # almost done
            return f"""{query}
                and {total}"""  # done
    '''
    ((docstring, code),) = pairs(text)
    assert docstring == "Tells the price.\n\nArgs:\n    item: What."
    assert (
        code
        == dedent(
            '''
        @property  # cheap
        @cached(
            size=3,
        )
        async def price(self, item: str = """x
            y""") -> float:  # the price
            # of what?
            query = """
        select 1
            from t
                """  # at the margin
            total = sum(item
                        for item in self.items)

            # almost done
            return f"""{query}
                    and {total}"""  # done
        '''
        ).strip()
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('def f(): "doc"; return 1', "def f(): return 1"),
        ('def f():\n    "doc"; x = 1; return x', "def f():\n    x = 1; return x"),
        ('def f():\n    """doc"""  # noqa\n    return 1', "def f():\n    # noqa\n    return 1"),
        ('def f():\n    ("do"\n     "c")\n    return 1', "def f():\n    return 1"),
        ('def f():\n    "do" \\\n    "c"\n    return 1', "def f():\n    return 1"),
        ('def f():\n\t"""doc"""\n\treturn 1', "def f():\n\treturn 1"),
        ('def f():\r\n    """doc"""\r\n    return 1\r\n', "def f():\n    return 1"),
        ('é = "é"; π = 1\ndef f(ä="ö"): "döc"; return π', 'def f(ä="ö"): return π'),
        (
            'if x:\n    @(\n        g\n    )\n    def f():\n        "doc"\n        return 1',
            "@(\n    g\n)\ndef f():\n    return 1",
        ),
        ('def f():\n    r"""doc \\d"""\n    return 1', "def f():\n    return 1"),
        (
            'def f():\n    """doc"""\n    def g():\n        return 1\n    return g',
            "def f():\n    def g():\n        return 1\n    return g",
        ),
    ],
)
def test_layouts(text: str, code: str) -> None:
    ((_, found),) = pairs(text)
    assert found == code


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    return 1",
        'def f():\n    """doc"""',
        'def f():\n    """doc"""\n    pass',
        'def f():\n    """doc"""\n    ...  # abstract',
        'def f():\n    """   """\n    return 1',
        'def f():\n    b"""doc"""\n    return 1',
        'def f():\n    f"""doc"""\n    return 1',
        'def f():\n    x = 1\n    """doc"""\n    return 1',
        'def f():\n    "\\ud800"\n    return 1',
        '"""A module."""\nx = 1',
        "print 'Python 2'",
        "def f(:",
        "\0",
        "# -*- coding: klingon -*-\ndef f():\n    'doc'\n    return 1",
        "(" * 10_000,
        "",
    ],
)
def test_what_gives_no_pair(text: str) -> None:
    assert pairs(text) == []


def test_the_encoding_of_a_file_is_its_own() -> None:
    text = "# -*- coding: latin-1 -*-\ndef f():\n    'café'; x = 'é'; return x\n"
    ((_, docstring, code),) = documented(text.encode("latin-1"))
    assert (docstring, code) == ("café", "def f():\n    x = 'é'; return x")
    ((_, docstring, _),) = documented(b"\xef\xbb\xbfdef f():\n    'caf\xc3\xa9'; return 1\n")
    assert docstring == "café"
    assert list(documented("def f():\n    'café'; return 1\n".encode("latin-1"))) == []


def test_classes_and_definitions_within_others() -> None:
    text = '''
    class Outer:
        """Outside."""

        x = 1

        def method(self):
            """Does."""
            def inner():
                """Inside."""
                return 1
            return inner
    '''
    assert [docstring for docstring, _ in pairs(text)] == ["Does.", "Inside."]
    outer, method, inner = pairs(text, classes=True)
    assert outer[0] == "Outside." and outer[1].startswith(
        'class Outer:\n    x = 1\n\n    def method(self):\n        """Does'
    )
    assert method[1] == 'def method(self):\n    def inner():\n        """Inside."""\n        return 1\n    return inner'
    assert inner[1] == "def inner():\n    return 1"
    assert [line for line, _, _ in documented(dedent(text).encode())] == [7, 9]


@pytest.mark.parametrize(
    "module", ["argparse", "textwrap", "dataclasses", "typing", "inspect", "ast", "subprocess", "pdb"]
)
def test_real_code_means_the_same_without_its_docstring(module: str) -> None:
    content = (Path(sysconfig.get_path("stdlib")) / f"{module}.py").read_bytes()
    nodes = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                nodes[min([node.lineno, *(marker.lineno for marker in node.decorator_list)])] = node
        found = list(documented(content, classes=True))
        for line, docstring, code in found:
            node = nodes[line]
            assert docstring == ast.get_docstring(node)
            node.body = node.body[1:]
            (again,) = ast.parse(code).body
            assert ast.dump(again) == ast.dump(node)
            node.body = [ast.Expr(ast.Constant("")), *node.body]  # an outer definition still has it
    assert len(found) > 5


# --------------------------------------------------------------------------------------------------------------- trees

FUNCTION = 'def {0}():\n    """Says {0}.\n\n    At length.\n    """\n    return "{0}"\n'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in (
        "b.py",
        "a/x.py",
        "a/test/y.py",
        "tests/z.py",
        "__pycache__/w.py",
        ".hidden/v.py",
        "lib/site-packages/u.py",
        "testing/t.py",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FUNCTION.format(path.stem))
    (root / "broken.py").write_text("def f(:")
    (root / "notes.txt").write_text(FUNCTION.format("notes"))
    os.symlink("nowhere.py", root / "dangling.py")
    return root


def test_a_tree_is_read_in_order_relative_to_its_root(tree: Path) -> None:
    found = read(source(paths=[str(tree)]))
    assert [(record.file, record.line, record.group) for record in found] == [
        ("a/x.py", 1, "a/x.py"),
        ("b.py", 1, "b.py"),
        ("testing/t.py", 1, "testing/t.py"),
    ]
    assert found[0].views == {"docstring": ("Says x.\n\nAt length.",), "code": ('def x():\n    return "x"',)}
    named = source(paths=[str(tree)], summary=True, views=["what", "how"])
    assert named.view_names() == ("what", "how")
    assert read(named)[1].views == {"what": ("Says b.",), "how": ('def b():\n    return "b"',)}


def test_no_file_is_read_twice(tree: Path) -> None:
    found = read(source(paths=[str(tree / "b.py"), str(tree), f"{tree}/a/../a"]))
    assert [record.file for record in found] == ["b.py", "a/x.py", "testing/t.py"]


def test_the_content_decides_the_fingerprint(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings_module, "_PART_BYTES", 100)
    parts = source(paths=[str(tree)]).parts(Files())
    assert len(parts) == 2
    copy = shutil.copytree(tree, tmp_path / "elsewhere" / "copy", symlinks=True)
    moved = source(paths=[str(copy)])
    assert [part.fingerprint for part in moved.parts(Files())] == [part.fingerprint for part in parts]
    assert read(moved) == read(source(paths=[str(tree)]))
    (copy / "b.py").write_text(FUNCTION.format("other"))
    assert [part.fingerprint for part in moved.parts(Files())] != [part.fingerprint for part in parts]


def test_a_path_without_python_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiptychError, match="gone: no such file or folder"):
        source(paths=[str(tmp_path / "gone")]).parts(Files())
    with pytest.raises(DiptychError, match=r"holds no \.py file"):
        source(paths=[str(tmp_path)]).parts(Files())


def test_the_running_python_is_the_default(monkeypatch: pytest.MonkeyPatch, tree: Path, tmp_path: Path) -> None:
    library = tmp_path / "python" / "lib"
    shutil.copytree(tree, library, symlinks=True)
    roots = {
        "stdlib": library,
        "purelib": library / "lib" / "site-packages",
        "platlib": library / "lib" / "site-packages",
    }
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(roots[name]))
    assert [record.file for record in read(source())] == ["a/x.py", "b.py", "testing/t.py", "u.py"]
    monkeypatch.undo()
    assert os.path.realpath(os.path.dirname(ast.__file__)) in {root for root, _ in source()._trees()}
    assert source().where() == "the Python library and installed packages"

"""Pinned packages, and what happens with versions that were not tested."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from pretrain.runtime.command import run_command
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.tested_versions import ALLOW, TESTED, check_versions

ROOT = Path(__file__).parents[3]
PINS = [
    Requirement(line.partition("#")[0])
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.lstrip().startswith("#")
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = [Requirement(line) for line in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"])]


def pins_for(python: str) -> dict[str, Version]:
    """Version by name of what is pinned for a version of Python on Linux."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    environment |= {"platform_machine": "x86_64", "os_name": "posix", "platform_system": "Linux"}
    found: dict[str, Version] = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate(environment):
            assert pin.name not in found, f"{pin.name} is pinned twice for Python {python}"
            (version,) = pin.specifier
            assert version.operator == "==" and "*" not in version.version and "+" not in version.version
            found[pin.name] = Version(version.version)
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_all_that_is_installed_for_the_project_is_pinned(python: str) -> None:
    pins = pins_for(python)
    for requirement in NEEDED:
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
    # Also what is needed by what is needed.
    left, seen = [requirement.name for requirement in NEEDED], set()
    while left:
        name = canonicalize_name(left.pop())
        if name in seen:
            continue
        seen.add(name)
        if Version(importlib.metadata.version(name)) != pins.get(name):
            continue  # another version may need others
        needs = [Requirement(line) for line in importlib.metadata.requires(name) or ()]
        left += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    assert seen <= pins.keys()
    assert len(seen) > 60


def test_the_evaluation_harness_is_pinned_with_the_rest() -> None:
    assert {"lm-eval", "sacrebleu", "nltk"} <= pins_for("3.11").keys()


def test_pins_name_no_place_and_agree_with_what_was_tested() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"://|/|^ *-|@", re.sub("(?m)#.*$", "", text), re.MULTILINE) and "://" not in text
    for name, versions in TESTED.items():
        assert SpecifierSet(versions).contains(pins_for("3.11")[name])
    (torch,) = re.findall(r"(?m)^TORCH \?= (.*)$", (ROOT / "Makefile").read_text())
    assert pins_for("3.11")["torch"] == Version(torch)


def test_installations_without_pins_begin_with_tested_versions() -> None:
    needed = {requirement.name: requirement.specifier for requirement in NEEDED}
    assert needed["deepspeed"] == SpecifierSet(TESTED["deepspeed"])
    (oldest,) = needed["transformers"]
    assert str(oldest) in TESTED["transformers"].split(",")
    assert not needed["sentencepiece"].contains("0.2.2")  # which aborts while it trains


@pytest.mark.parametrize(
    ("name", "version", "refused"),
    [
        ("deepspeed", "0.19.7", True),
        ("deepspeed", "0.19.8", None),
        ("deepspeed", "0.19.8+cu130", None),
        ("deepspeed", "0.19.9", True),
        ("deepspeed", "1.0", True),
        ("transformers", "5.22.2", True),
        ("transformers", "5.23.0", None),
        ("transformers", "5.24.7", None),
        ("transformers", "5.25.0.dev0", False),
        ("transformers", "5.25.0", False),
        ("transformers", "6.0", False),
    ],
)
def test_versions_outside_the_tested_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, version: str, refused: bool | None
) -> None:
    """Refused, announced by a note (False), or fine (None)."""
    pretended = {"deepspeed": "0.19.8", "transformers": "5.24.0"} | {name: version}
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda package: pretended.get(package) or real(package))
    monkeypatch.delenv(ALLOW, raising=False)
    expected = f"{name} {version} is not tested with this version of Diptych, {name}{TESTED[name]} is"
    if refused:
        with pytest.raises(DiptychError) as error:
            check_versions()
        assert str(error.value) == f"{expected}: pip install '{name}{TESTED[name]}'; or try it with {ALLOW}=1"
        assert "\n" not in str(error.value)
        assert run_command(lambda argv: pytest.fail("went on")) == 1
        assert f"error: {expected}" in capsys.readouterr().err
        monkeypatch.setenv(ALLOW, "1")
    assert check_versions() == ([] if refused is None else [expected])
    assert run_command(lambda argv: 0) == 0
    assert (f"note: {expected}" in capsys.readouterr().err) == (refused is not None)

"""Versions of packages that Diptych was tested with, and what happens with others.

DeepSpeed is used through names of its own that change without notice, so another version is refused. Transformers keeps
most of its interface, so a newer one is announced by a note. ``make test-newest`` runs the tests with the newest ones.
"""

import importlib.metadata
import os

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from pretrain.runtime.errors import DiptychError

TESTED = {"deepspeed": "==0.19.8", "transformers": ">=5.23,<5.25"}
ALLOW = "DIPTYCH_ALLOW_UNTESTED"

_MAY_BE_NEWER = "transformers"


def check_versions() -> list[str]:
    """Compares installed packages with the tested versions, without importing them.

    Returns:
        Notes on versions that may do. With $DIPTYCH_ALLOW_UNTESTED=1 every other version may.

    Raises:
        DiptychError: A version is not tested and may not do.
    """
    notes = []
    for name, versions in TESTED.items():
        try:
            installed = Version(importlib.metadata.version(name))
        except (importlib.metadata.PackageNotFoundError, InvalidVersion):  # the import says more
            continue
        tested = SpecifierSet(versions)
        if tested.contains(installed, prereleases=True):
            continue
        problem = f"{name} {installed} is not tested with this version of Diptych, {name}{versions} is"
        older = any(part.operator != "<" and installed < Version(part.version) for part in tested)
        if os.environ.get(ALLOW) != "1" and (older or name != _MAY_BE_NEWER):
            raise DiptychError(f"{problem}: pip install '{name}{versions}'; or try it with {ALLOW}=1")
        notes.append(problem)
    return notes

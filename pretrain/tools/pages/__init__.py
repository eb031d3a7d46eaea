"""Web pages from Jinja2 templates, with one base template and style sheet: each page is one file that works offline."""

import base64
import hashlib
import re
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pretrain.tools.visible import visible


def render_page(package: str, template: str, **values: Any) -> str:
    """Renders a template of a package that extends ``base.html.j2``.

    Every value is escaped, and characters that print as nothing are spelt out, unless a template marks it as safe.

    Args:
        package: The package whose folder ``templates`` holds the template, its styles and its script.
        template: Name of the template.
        values: What it may use.
    """
    return _environment(package).get_template(template).render(values)


@cache
def _environment(package: str) -> Environment:
    # The shared templates come first, so that no page can replace the base by accident.
    loader = ChoiceLoader([PackageLoader(__package__ or __name__), PackageLoader(package)])
    environment = Environment(
        loader=loader,
        autoescape=True,
        finalize=_spelt_out,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

    def file(name: str) -> Markup:
        """A style sheet or a script as it stands."""
        return Markup(loader.get_source(environment, name)[0])

    environment.globals["file"] = file
    environment.filters |= {"sha256": _sha256, "unbroken": _unbroken}
    return environment


def _spelt_out(value: Any) -> Any:
    return visible(value) if type(value) is str else value


def _unbroken(sentence: str) -> str:
    """A sentence whose numbers stay on one line with their signs, as in ``74.1 %`` and ``p = .003``."""
    return re.sub(r"(?<=\d) (?=%)|(?<=\bp) (?=[=<])|(?<=\bp [=<]) (?=\.?\d)", "\u00a0", sentence)


def _sha256(text: str) -> str:
    """The digest of a script as a content security policy gives it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

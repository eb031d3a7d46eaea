"""The facts as one web page: no script, nothing from the network, light and dark, wide and narrow."""

from pretrain.tools.inspection import phrases
from pretrain.tools.inspection.facts import Facts
from pretrain.tools.pages import render_page


def render(facts: Facts) -> str:
    """The whole page; every text of the corpus in it is escaped, and characters that print as nothing are spelt out."""
    return render_page(__package__, "inspect.html.j2", facts=facts, phrases=phrases)

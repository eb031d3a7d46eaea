"""Look at a prepared corpus: ``python -m pretrain.inspect DATA [key=value ...]``.

DATA is the folder of a corpus (data.folder/FINGERPRINT), a data folder that holds one corpus, or a config.yaml, with
key=value settings behind it: the corpus of that config, prepared first if it is not there.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.config.loading import load_config
from pretrain.config.model import TokenizerConfig
from pretrain.config.sections import ObjectiveConfig, PackingConfig
from pretrain.data.corpus import read_corpus
from pretrain.data.tokenizer import load
from pretrain.engine.checks import check_with_libraries
from pretrain.objectives.mixed import make_branches
from pretrain.preparation.prepare import prepare
from pretrain.runtime.atomic_write import write_text
from pretrain.runtime.command_line import CommandLine, whole_number
from pretrain.runtime.errors import DiptychError
from pretrain.tools.inspection import html, terminal
from pretrain.tools.inspection.facts import Facts, gather
from pretrain.tools.inspection.finding import find_corpus
from pretrain.tools.visible import visible


@dataclass(frozen=True)
class InspectOptions:
    """What the command line asks for.

    Attributes:
        data: Folder or config.
        overrides: Settings of the config.
        records: Records of every source.
        layout: Layout, if asked for.
        predictors: k, if asked for.
        page: File of the page; "none": no page; None: in the corpus.
        overwrite: Whether it may replace another file.
    """

    data: Path
    overrides: tuple[str, ...] = ()
    records: int = 2
    layout: str | None = None
    predictors: int | None = None
    page: str | None = None
    overwrite: bool = False


def read_arguments(argv: Sequence[str]) -> InspectOptions:
    """Reads the command line.

    Raises:
        DiptychError: An unknown option, or a value that is none; no DATA.
    """
    parser = CommandLine("pretrain.inspect", __doc__)
    add = parser.add_argument
    add("data", metavar="DATA", type=Path, help="a corpus, a folder that holds one, or a config.yaml")
    add("settings", metavar="key=value", nargs="*", default=[], help="settings on top of the config")
    add("--records", type=whole_number(0), default=2, metavar="N", help="records shown of every source (2)")
    add("--layout", choices=("conditional", "independent"), help="how pairs are laid out (that of the config)")
    add("--k", type=whole_number(0), metavar="K", help="[PRED] tokens (that of the config; 1)")
    add("--html", metavar="FILE", help="where the page goes, or none (inspect.html in the corpus)")
    add("--overwrite", action="store_true", help="let --html replace an existing file")
    given = parser.read(argv)
    return InspectOptions(
        given.data, tuple(given.settings), given.records, given.layout, given.k, given.html, given.overwrite
    )


def find_facts(options: InspectOptions) -> Facts:
    """Opens the corpus that is asked for and computes the facts about it.

    Raises:
        DiptychError: There is none, or more than one; it is not whole; or its tokenizer has too few [PRED] tokens.
    """
    packing, objective = PackingConfig(), ObjectiveConfig()
    if options.data.suffix in (".yaml", ".yml"):
        config = load_config(options.data, options.overrides)
        check_with_libraries(config, options.data)
        packing, objective = config.packing, config.objective
        folder = prepare(config)
    elif options.overrides:
        raise DiptychError(f"{options.overrides[0]}: settings go with a config.yaml, not with a prepared corpus")
    else:
        folder = find_corpus(options.data)
    _check_page(options, folder)
    corpus = read_corpus(folder)
    reserved = corpus.manifest["inputs"]["tokenizer"]["predictor_tokens"]
    tokenizer = load(folder / "tokenizer", TokenizerConfig(predictor_tokens=reserved))
    count = objective.predictors if options.predictors is None else options.predictors
    if options.predictors is None and not reserved:
        count = 0
    if (1 if objective.repeat_predictor else count) > reserved and count:
        raise DiptychError(f"--k: {count} [PRED] tokens, but the tokenizer of {folder} has {reserved}")
    branches = make_branches(
        packing.model_copy(update={"layout": options.layout or packing.layout}),
        objective.model_copy(update={"predictors": count}),
        eos=tokenizer.eos,
        bos=tokenizer.bos,
        predictors=tokenizer.predictors,
    )
    return gather(corpus, tokenizer, branches, options.records)


def _page_of(options: InspectOptions, folder: Path) -> Path | None:
    """The file of the page; None: no page."""
    if options.page == "none":
        return None
    return folder / "inspect.html" if options.page is None else Path(options.page)


def _check_page(options: InspectOptions, folder: Path) -> None:
    """Refuses, before any work, to replace a file that this command did not write."""
    page = _page_of(options, folder)
    if page is None or page.absolute() == (folder / "inspect.html").absolute():
        return
    if page.is_dir():
        raise DiptychError(f"--html {page}: is a folder; name a file")
    if not page.parent.is_dir():
        raise DiptychError(f"--html {page}: there is no folder {page.parent}")
    if page.exists() and not options.overwrite:
        raise DiptychError(f"--html {page}: exists already; choose another file or give --overwrite")


def main(argv: Sequence[str]) -> int:
    """The command ``python -m pretrain.inspect``."""
    options = read_arguments(argv)
    facts = find_facts(options)
    page = _page_of(options, facts.folder)
    if page is not None:
        text = html.render(facts)
        try:
            write_text(page, text)
        except OSError as error:
            reason = error.strerror or error
            raise DiptychError(f"--html {page}: cannot be written ({reason}); name another file, or none") from None
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = shutil.get_terminal_size(fallback=(100, 24)).columns
    _print(terminal.render(facts, max(40, width), colour) + (f"page: {visible(str(page))}\n" if page else ""))
    return 0


def _print(text: str) -> None:
    """Prints text; characters that the encoding of stdout lacks are replaced."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), end="", flush=True)

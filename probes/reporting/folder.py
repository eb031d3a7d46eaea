"""The folder of a report: what is written there, and what is left alone."""

from collections.abc import Callable
from pathlib import Path

from pretrain.errors import DiptychError
from pretrain.preparation.workers import write_text, write_whole
from probes.reporting import markdown, page
from probes.reporting.canvas import PNG_MARK
from probes.reporting.charts import draw_charts
from probes.results import Report, read_report


def write_report(report: Report, folder: Path) -> Path:
    """Writes ``index.html``, ``report.md``, ``report.json`` and ``figures/*.png``.

    Each file is there whole or not at all. Other files in the folder stay; a file of these names is replaced only if it
    is from an earlier report.

    Returns:
        The path of ``index.html``.

    Raises:
        DiptychError: A file of such a name is not from a report, or the folder cannot be written.
    """
    charts = draw_charts(report)
    index = folder / "index.html"
    pictures = {folder / "figures" / f"{chart.name}.png": chart.png for chart in charts}
    _check(folder / "report.json", _is_json)
    _check(folder / "report.md", lambda path: _begins(path, markdown.MARK))
    _check(index, lambda path: _begins(path, 'content="Diptych probing report"'))
    for path in pictures:
        _check(path, lambda path: _begins(path, PNG_MARK))
    try:
        for path, picture in pictures.items():
            write_whole(path, _writer(picture))
        write_whole(folder / "report.json", report.write)
        write_text(folder / "report.md", markdown.render(report, charts))
        write_text(index, page.render(report, charts))
    except OSError as error:
        raise DiptychError(f"{folder}: cannot be written ({error.strerror}); name another folder") from None
    return index


def _writer(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def _check(path: Path, is_own: Callable[[Path], bool]) -> None:
    if path.is_symlink() or (path.exists() and not (path.is_file() and is_own(path))):
        raise DiptychError(f"{path}: is not from an earlier report; move it, or name another folder for the report")


def _begins(path: Path, mark: str) -> bool:
    with path.open("rb") as file:
        return mark.encode() in file.read(512)


def _is_json(path: Path) -> bool:
    try:
        read_report(path)
    except DiptychError:
        return False
    return True

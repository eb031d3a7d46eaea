"""The folder of a report: writes its files and leaves other files alone."""

from collections.abc import Callable
from pathlib import Path

from pretrain.runtime.atomic_write import whole_file, write_text
from pretrain.runtime.errors import DiptychError
from probes import examples
from probes.reporting import markdown, page
from probes.reporting.canvas import PNG_MARK
from probes.reporting.charts import FILE_NAME, draw_charts
from probes.results import Report, read_report


def write_report(report: Report, folder: Path) -> Path:
    """Writes ``index.html``, ``report.md``, ``report.json`` and ``figures/*.png``.

    Each file is there whole or not at all. Other files in the folder stay; a file of these names is replaced only if it
    is from an earlier report, and pictures of an earlier report that this one does not have go.

    Returns:
        The path of ``index.html``.

    Raises:
        DiptychError: A file of such a name is not from a report, or the folder cannot be written.
    """
    charts = draw_charts(report)
    check_folder(folder)
    index = folder / "index.html"
    pictures = {folder / "figures" / f"{chart.name}.png": chart.png for chart in charts}
    try:
        for path, picture in pictures.items():
            with whole_file(path) as scratch:
                scratch.write_bytes(picture)
        with whole_file(folder / "report.json") as scratch:
            report.write(scratch)
        write_text(folder / "report.md", markdown.render(report, charts))
        write_text(index, page.render(report, charts))
        for path in set(_pictures(folder)) - set(pictures):
            path.unlink()
    except OSError as error:
        raise DiptychError(f"{folder}: cannot be written ({error.strerror}); name another folder") from None
    return index


def check_folder(folder: Path) -> None:
    """Checks that a report can be written into a folder, before any work.

    Raises:
        DiptychError: It is no folder, or a file there has a name of the report's (``index.html``, ``report.md``,
            ``report.json``, ``predictions.parquet``, or that of a chart in ``figures``) and no earlier report wrote it.
    """
    for place in (folder, folder / "figures"):
        if place.exists() and not place.is_dir():
            raise DiptychError(f"{place}: is not a folder; move it, or name another folder for the report")
    _check(folder / "report.json", _is_json)
    _check(folder / examples.FILE, examples.is_predictions)
    _check(folder / "report.md", lambda path: _begins(path, markdown.MARK))
    _check(folder / "index.html", lambda path: _begins(path, 'content="Diptych probing report"'))
    for path in _pictures(folder):
        _check(path, lambda path: _begins(path, PNG_MARK))


def _pictures(folder: Path) -> list[Path]:
    """Files that have the name of a chart's picture."""
    return [path for path in sorted((folder / "figures").glob("*.png")) if FILE_NAME.fullmatch(path.name)]


def _check(path: Path, is_own: Callable[[Path], bool]) -> None:
    if path.is_symlink() or (path.exists() and not (path.is_file() and is_own(path))):
        raise DiptychError(f"{path}: is not from an earlier report; move it, or name another folder for the report")


def _begins(path: Path, mark: str) -> bool:
    try:
        with path.open("rb") as file:
            return mark.encode() in file.read(512)
    except OSError:
        return False


def _is_json(path: Path) -> bool:
    try:
        read_report(path)
    except DiptychError:
        return False
    return True

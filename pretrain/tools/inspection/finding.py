"""Which corpus is meant, and whether it is one that can be read."""

from datetime import datetime
from pathlib import Path

from pretrain.data.corpus import read_manifest
from pretrain.runtime.errors import DiptychError
from pretrain.tools.visible import visible


def find_corpus(data: Path) -> Path:
    """The folder of a corpus: the given folder itself, or the only corpus in it.

    Raises:
        DiptychError: There is none, or more than one.
    """
    if not data.exists():
        raise DiptychError(f"{data}: no such file or folder; name a prepared corpus or a config.yaml")
    if not data.is_dir():
        raise DiptychError(f"{data}: is a file; name the folder of a prepared corpus, or a config.yaml")
    if (data / "manifest.json").is_file():
        return data
    corpora = sorted(manifest.parent for manifest in data.glob("*/manifest.json"))
    if len(corpora) == 1:
        return corpora[0]
    if corpora:
        lines = [f"{data}: holds {len(corpora)} corpora; name one of them", *map(_describe, corpora)]
        raise DiptychError("\n  ".join(lines))
    stopped = [data] if data.suffix == ".partial" else sorted(data.glob("*.partial"))
    if stopped:
        raise DiptychError(
            f"{stopped[0]}: holds half a corpus, its preparation was stopped; start python -m pretrain.prepare again "
            "with its config: it goes on from there"
        )
    raise DiptychError(f"{data}: holds no prepared corpus (no manifest.json); run python -m pretrain.prepare")


def _describe(folder: Path) -> str:
    """When a corpus was prepared, from which sources, and how many records it has."""
    date = datetime.fromtimestamp((folder / "manifest.json").stat().st_mtime)
    try:
        manifest = read_manifest(folder) or {}
        names = ", ".join(source["name"] for source in manifest["sources"])
        records = sum(counts["records"] for counts in manifest["splits"].values())
    except (DiptychError, KeyError, TypeError):
        return f"{folder}  {date:%Y-%m-%d %H:%M}  cannot be read"
    return f"{folder}  {date:%Y-%m-%d %H:%M}  {records:,} records of {visible(names)}"

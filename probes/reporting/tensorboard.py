"""The same scores as TensorBoard scalars, and representations for its Projector."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.runtime.atomic_write import write_text
from pretrain.runtime.errors import DiptychError
from pretrain.tools.visible import visible
from probes.reporting.lookup import controls, poolings, runs, whole
from probes.reporting.series import run_title
from probes.results import Report, Score

_LONGEST_TEXT = 300
# These mark what a report wrote; nothing else in a log folder is ever removed.
_SUFFIX = ".diptych-probes"
_PLACE = "diptych-probes"
_CONFIG = "projector_config.pbtxt"


def write_tensorboard(report: Report, folder: Path) -> None:
    """Puts the scores into a log folder, in place of the scores and representations that an earlier report put there.

    Other event files and other entries of the Projector stay. Call it before :func:`write_projector`.

    Tags: ``probe/<set>/<system>/<pooling>/accuracy`` and ``.../macro_f1`` with the layer as step, the same without a
    pooling for controls (at step 0), ``.../shuffled_accuracy``; for checkpoints of a run
    ``probe_training/<set>/<run>/<pooling>/accuracy`` with the optimizer step, each at its chosen layer.

    Raises:
        DiptychError: The Projector's configuration in the folder cannot be read.
    """
    from torch.utils.tensorboard import SummaryWriter

    _forget_vectors(folder)
    earlier = [path for path in folder.glob(f"events.out.tfevents.*{_SUFFIX}") if path.is_file()]
    writer = SummaryWriter(str(folder), filename_suffix=_SUFFIX)  # type: ignore[no-untyped-call]
    try:
        for tag, step, value in scalars(report):
            writer.add_scalar(tag, value, step)  # type: ignore[no-untyped-call]
    finally:
        writer.close()  # type: ignore[no-untyped-call]
    for path in earlier:
        path.unlink()


def scalars(report: Report) -> list[tuple[str, int, float]]:
    """Tags, steps and values in order."""
    found = []
    without_model = controls(report)
    for facts in report.sets:
        size = whole(report, facts.name)
        for score in report.scores:
            if score.set == facts.name and score.train_size == size and score.layer is not None:
                found += _named(score, f"probe/{facts.name}/{score.system}/{score.pooling}", score.layer)
        for system in without_model:
            chosen = report.chosen(facts.name, system)
            if chosen:
                found += _named(chosen, f"probe/{facts.name}/{system}", 0)
        for run, models in runs(report).items():
            title = run_title(run, list(runs(report)))
            for pooling in poolings(report):
                for model in models:
                    chosen = report.chosen(facts.name, model.name, pooling)
                    if chosen:
                        tag = f"probe_training/{facts.name}/{title}/{pooling}"
                        found += _named(chosen, tag, model.step or 0)
    return sorted(found, key=lambda item: item[:2])


def _named(score: Score, tag: str, step: int) -> list[tuple[str, int, float]]:
    kind = "shuffled_" if score.shuffled else ""
    return [
        (f"{tag}/{kind}accuracy", step, score.accuracy.value),
        (f"{tag}/{kind}macro_f1", step, score.macro_f1.value),
    ]


def write_projector(folder: Path, name: str, vectors: np.ndarray, labels: Sequence[str], texts: Sequence[str]) -> None:
    """Adds representations to those that the Projector of a log folder shows, or replaces those of that name.

    Written without ``SummaryWriter.add_embedding``, which drops the entries of earlier writers.

    Args:
        folder: Log folder, or that of a run within it.
        name: What the Projector calls them.
        vectors: One row per text.
        labels: One per text, shown and coloured by.
        texts: Shown at the points, on one line and cut.

    Raises:
        DiptychError: The numbers differ, a vector is not finite, or the folder's configuration cannot be read.
    """
    from google.protobuf import text_format  # type: ignore[import-untyped]

    if not vectors.ndim == 2 or not len(vectors) == len(labels) == len(texts):
        raise DiptychError(
            f"{name}: {vectors.shape} vectors, {len(labels)} labels, {len(texts)} texts; one row, label and text each"
        )
    if not np.isfinite(vectors).all():
        raise DiptychError(f"{name}: a vector is not finite; the Projector cannot show it")
    config = _config(folder)
    kept = [one for one in config.embeddings if one.tensor_name != name]
    own = f"{_PLACE}/{re.sub(r'[^A-Za-z0-9._-]+', '-', name).strip('.-') or 'vectors'}"
    taken = {one.tensor_path.rpartition("/")[0] for one in kept}
    place, number = own, 2
    while place in taken:
        place, number = f"{own}-{number}", number + 1
    rows = ("\t".join(f"{value:.6g}" for value in row) for row in vectors.tolist())
    write_text(folder / place / "tensors.tsv", "\n".join(rows) + "\n")
    about = ("\t".join(_field(value) for value in pair) for pair in zip(labels, texts, strict=True))
    write_text(folder / place / "metadata.tsv", "\n".join(["label\ttext", *about]) + "\n")
    del config.embeddings[:]
    config.embeddings.extend(kept)
    new = config.embeddings.add()
    new.tensor_name, new.tensor_path, new.metadata_path = name, f"{place}/tensors.tsv", f"{place}/metadata.tsv"
    new.tensor_shape.extend(vectors.shape)
    write_text(folder / _CONFIG, text_format.MessageToString(config))


def _config(folder: Path) -> Any:
    """What the Projector of a log folder shows."""
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig  # type: ignore[import-untyped]

    path, config = folder / _CONFIG, ProjectorConfig()
    if path.exists():
        try:
            text_format.Parse(path.read_text(encoding="utf-8"), config)
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise DiptychError(f"{path}: cannot be read ({error}); move it away") from None
    return config


def _forget_vectors(folder: Path) -> None:
    """Removes the entries of an earlier report from the Projector, and their files."""
    from google.protobuf import text_format

    config = _config(folder)
    own = [one for one in config.embeddings if re.fullmatch(rf"{_PLACE}/\w[\w.-]*/tensors\.tsv", one.tensor_path)]
    if not own:
        return
    kept = [one for one in config.embeddings if one not in own]
    del config.embeddings[:]
    config.embeddings.extend(kept)
    write_text(folder / _CONFIG, text_format.MessageToString(config))
    for one in own:
        place = (folder / one.tensor_path).parent
        for name in ("tensors.tsv", "metadata.tsv"):
            (place / name).unlink(missing_ok=True)
        for emptied in (place, place.parent):
            if emptied.is_dir() and not any(emptied.iterdir()):
                emptied.rmdir()


def _field(value: str) -> str:
    """One field of a table with tabs: what would end it is spelt out."""
    flat = visible(" ".join(value.split()))
    return flat if len(flat) <= _LONGEST_TEXT else f"{flat[: _LONGEST_TEXT - 1]}…"

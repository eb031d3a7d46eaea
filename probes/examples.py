"""The prediction of every probe for every test example, as a Parquet file: enough to repeat the report's tests."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pretrain.runtime.atomic_write import whole_file
from probes.findings import Chosen, Measured
from probes.sets import LabelledSet

FILE = "predictions.parquet"
_MARK = b"diptych.probes"

_WORD = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("set", _WORD),
        ("system", _WORD),  # name of a model or control
        ("layer", pa.int16()),  # none: a control
        ("pooling", _WORD),
        ("chosen", pa.bool_()),  # whether cross-validation prefers this pooling of the system
        ("seed", pa.int16()),
        ("test", pa.int32()),  # number of the text in the test split, from 0
        ("text_sha256", pa.string()),
        ("cluster", pa.int32()),  # equal for copies of a text, and texts of one group: drawn together, counted as one
        ("in_train", pa.bool_()),  # whether train holds the text too
        ("gold", _WORD),
        ("predicted", _WORD),
        ("probability", pa.float32()),  # that the probe gives the label which it predicts
    ],
    metadata={_MARK: b"1"},
)
"""One row for each set, system, pooling, seed and test text; probes of all training examples, with true labels."""


def write_predictions(measured: Measured, folder: Path) -> Path:
    """Writes ``predictions.parquet`` into the folder of a report, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    with whole_file(folder / FILE) as scratch, pq.ParquetWriter(scratch, SCHEMA, compression="zstd") as writer:
        for table in _tables(measured):
            writer.write_table(table)
    return folder / FILE


def is_predictions(path: Path) -> bool:
    """Whether a file was written by :func:`write_predictions`."""
    try:
        return _MARK in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowInvalid):
        return False


def _tables(measured: Measured) -> Iterator[pa.Table]:
    for labelled in measured.sets:
        texts = [hashlib.sha256(text.encode()).hexdigest() for text in labelled.test.texts]
        best = measured.best(labelled.name)
        for item in measured.chosen.get(labelled.name, ()):
            for seed in range(len(item.probe.predictions)):
                yield _table(labelled, item, seed, texts, chosen=best[item.system] is item)


def _table(labelled: LabelledSet, item: Chosen, seed: int, texts: list[str], *, chosen: bool) -> pa.Table:
    count = len(labelled.test)
    names = pa.array(labelled.label_names)

    def word(value: str | None) -> Any:
        return pa.DictionaryArray.from_arrays(
            pa.array([None if value is None else 0] * count, pa.int32()), [value or ""]
        )

    def labels(numbers: Any) -> Any:
        return pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int32()), names)

    columns = [
        word(labelled.name),
        word(item.system),
        pa.array([item.layer] * count, pa.int16()),
        word(item.pooling),
        pa.array([chosen] * count),
        pa.array([seed] * count, pa.int16()),
        pa.array(np.arange(count), pa.int32()),
        pa.array(texts),
        pa.array(labelled.test.copies.clusters, pa.int32()),
        pa.array(labelled.test_in_train()),
        labels(labelled.test.labels),
        labels(item.probe.predictions[seed]),
        pa.array(item.probe.probabilities[seed], pa.float32()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)

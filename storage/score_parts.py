"""The Parquet part of a shard's scores, in the layout that was measured best (docs/decisions/0014).

Shapes: M kept scores, K labels of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.manifest import Part
from schemas.scores import grid_odds
from schemas.tables import SCORES
from storage.files import Folder
from storage.parts import write_part

# How the columns are written: sample numbers rise within a label, log odds have busy low bytes and quiet high ones.
SCORE_ENCODING: dict[str, Any] = {
    "use_dictionary": ["shard", "label_id", "slope", "intercept"],
    "column_encoding": {"sample": "DELTA_BINARY_PACKED", "odds": "BYTE_STREAM_SPLIT"},
}


@dataclass(frozen=True, kw_only=True)
class ScoreColumns:
    """Kept scores of one shard, sorted by label and then by sample, and the labels' maps from logit to score."""

    sample: NDArray[np.int32]  # ordinal in the shard
    label: NDArray[np.int32]  # index into the labels
    logit: NDArray[np.float32]
    label_ids: Sequence[str]
    slope: NDArray[np.float64]  # K; score = sigmoid(slope * logit + intercept)
    intercept: NDArray[np.float64]

    @property
    def odds_M(self) -> NDArray[np.int32]:
        """Log odds on the grid of stored scores."""
        return grid_odds(self.slope[self.label] * self.logit.astype(np.float64) + self.intercept[self.label])


def write_scores(folder: Folder, path: str, shard: str, columns: ScoreColumns) -> Part:
    """Write a shard's kept scores, which must be sorted by label, then sample.

    They are written by `label_id`, so that a row group holds a short stretch of the alphabet, whatever the order of
    the vocabulary: that is what lets a query for one label skip the others.
    """
    rows = _by_label_id(columns)
    label_M = columns.label[rows]
    arrays = (
        pa.DictionaryArray.from_arrays(np.zeros(len(label_M), np.int32), pa.array([shard])),
        pa.array(columns.sample[rows]),
        pa.DictionaryArray.from_arrays(label_M, pa.array(columns.label_ids, pa.string())),
        pa.array(columns.odds_M[rows]),
        pa.array(columns.slope[label_M]),
        pa.array(columns.intercept[label_M]),
    )
    return write_part(folder, path, pa.Table.from_arrays(list(arrays), schema=SCORES), **SCORE_ENCODING)


def _by_label_id(columns: ScoreColumns) -> NDArray[np.int64] | slice:
    """Return the order of the rows by the text of their label, within a label as they are."""
    order_K = sorted(range(len(columns.label_ids)), key=lambda label: columns.label_ids[label])
    if order_K == list(range(len(order_K))):
        return slice(None)
    bounds = np.searchsorted(columns.label, np.arange(len(order_K) + 1))
    return np.concatenate([np.arange(bounds[label], bounds[label + 1]) for label in order_K])

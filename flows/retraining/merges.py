"""Labels that were merged: their scores count for the label that is left, as they do in the views.

Shapes: N images, S scored labels, K active labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from schemas.taxonomy import Taxonomy

if TYPE_CHECKING:
    from clipdecoder.scoring.label_maps import LabelMaps


@dataclass(frozen=True, kw_only=True)
class Merges:
    """Which scored labels an active label answers for, by their columns."""

    own_K: NDArray[np.int64]  # each active label's own column among the scored ones
    merged: Mapping[int, NDArray[np.int64]]  # by column of an active label that others were merged into: all of them

    @classmethod
    def of(cls, taxonomy: Taxonomy) -> Merges:
        """Return the merges of a taxonomy; columns are in file order, as in its vocabulary."""
        scored = [label.id for label in taxonomy.scored_labels()]
        columns: dict[str, list[int]] = {}
        for column, label_id in enumerate(scored):
            columns.setdefault(taxonomy.resolve(label_id), []).append(column)
        place = {label_id: column for column, label_id in enumerate(scored)}
        active = [label.id for label in taxonomy.active_labels()]
        return cls(
            own_K=np.array([place[label_id] for label_id in active], np.int64),
            merged={
                number: np.array(columns[label_id], np.int64)
                for number, label_id in enumerate(active)
                if len(columns[label_id]) > 1
            },
        )

    def best(self, scores_NS: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scores_NK: the best score of the labels that are one label now."""
        best_NK = scores_NS[:, self.own_K]
        for number, columns in self.merged.items():
            best_NK[:, number] = scores_NS[:, columns].max(axis=1)
        return best_NK

    def ranks(self, logits_NS: NDArray[np.float32], maps: LabelMaps) -> NDArray[np.float32]:
        """Return for each active label what orders images as its scores do, without their ties near 0 and 1.

        That is the logit, or the best log odds where logits of several labels must be compared.
        """
        ranks_NK = logits_NS[:, self.own_K]
        for number, columns in self.merged.items():
            ranks_NK[:, number] = maps.log_odds(logits_NS[:, columns], columns).max(axis=1)
        return ranks_NK

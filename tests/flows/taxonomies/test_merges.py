"""What merged labels score together, beside the views' rule: an image's best score counts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clipdecoder.scoring.label_maps import LabelMaps
from flows.retraining.merges import Merges
from schemas.taxonomy import Label, Taxonomy

# a stands for b and, through b, for c; r is retired, so that d, which was merged into it, is scored no more.
TAXONOMY = Taxonomy(
    name="t",
    labels=(
        Label(id="c", name="c", merged_into="b"),
        Label(id="a", name="a"),
        Label(id="b", name="b", merged_into="a"),
        Label(id="r", name="r", retired=True),
        Label(id="d", name="d", merged_into="r"),
        Label(id="e", name="e"),
    ),
)
MAPS = LabelMaps(np.array([2.0, 1.0, 0.5, 3.0]), np.array([0.0, -1.0, 1.0, 0.5]))  # of c, a, b, e


@given(arrays.arrays(np.float32, (6, 4), elements=st.floats(-4, 4, width=16)))
def test_the_best_score_counts_and_orders_the_images(logits_NS: np.ndarray) -> None:
    merges = Merges.of(TAXONOMY)
    scores_NS = MAPS.scores(logits_NS)
    best_NK = merges.best(scores_NS)
    assert (best_NK[:, 0] == scores_NS[:, :3].max(axis=1)).all() and (best_NK[:, 1] == scores_NS[:, 3]).all()
    ranks_NK = merges.ranks(logits_NS, MAPS)
    for label in (0, 1):
        ordered = best_NK[np.argsort(ranks_NK[:, label]), label]
        assert (np.diff(ordered) >= -1e-6).all()


def test_without_merges_everything_stays_as_it_is() -> None:
    plain = Taxonomy(name="t", labels=(Label(id="a", name="a"), Label(id="b", name="b")))
    logits_NS = np.array([[1, 2], [3, 4]], np.float32)
    assert (Merges.of(plain).ranks(logits_NS, LabelMaps.shared(1, 0, 2)) == logits_NS).all()

"""Each branch of a model gives an image and a label one logit, whatever else is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from clipdecoder.scoring.branches import IMAGES_PER_BATCH, Branches, Queries
from schemas.checkpoint import Branch
from tests.clipdecoder.fitted_world import (
    CPU,
    EVERYTHING,
    NUM_JUDGED,
    NUM_LABELS,
    NUM_SEEN,
    model,
    vocabulary,
    world,
)

KINDS: tuple[Branch, ...] = ("clip", "local", "linear", "decoder")


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_one_per_image_and_label(kind: Branch) -> None:
    trained = model()
    logits_NK = trained.branches.logits(kind, trained.queries(EVERYTHING), *world().judged)
    assert logits_NK.shape == (NUM_JUDGED, NUM_LABELS) and logits_NK.dtype == np.float32
    assert np.isfinite(logits_NK).all() and (logits_NK.std(axis=0) > 0).all()
    none = trained.branches.logits(kind, trained.queries(EVERYTHING), *world().images(3, 3))
    assert none.shape == (0, NUM_LABELS)
    assert trained.branches.logits(kind, trained.queries(()), *world().judged).shape == (NUM_JUDGED, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_labels_logit_depends_on_no_other_label_or_image(kind: Branch) -> None:
    trained = model()
    embeddings_ND, tokens_NTC = world().judged
    whole_NK = trained.branches.logits(kind, trained.queries(EVERYTHING), embeddings_ND, tokens_NTC)
    some = [NUM_LABELS - 1, 3, NUM_SEEN, 0]
    rows = np.array([7, 2, 60])
    part = trained.branches.logits(kind, trained.queries(vocabulary(some)), embeddings_ND[rows], tokens_NTC[rows])
    np.testing.assert_allclose(part, whole_NK[rows][:, some], rtol=1e-4, atol=2e-5)


def test_more_images_than_a_batch_are_decoded_alike() -> None:
    trained = model()
    queries = trained.queries(EVERYTHING)
    _, tokens_NTC = world().judged
    assert NUM_JUDGED > IMAGES_PER_BATCH
    whole_NK = trained.branches.decode(queries, tokens_NTC)
    one_by_one = [trained.branches.decode(queries, tokens_NTC[row : row + 1]) for row in range(60, 70)]
    np.testing.assert_allclose(np.concatenate(one_by_one), whole_NK[60:70], rtol=1e-4, atol=2e-5)


def test_tokens_may_be_read_only_and_are_not_changed() -> None:
    trained = model()
    _, tokens_NTC = world().judged
    frozen = tokens_NTC.copy()
    frozen.flags.writeable = False
    queries = trained.queries(EVERYTHING)
    assert np.array_equal(trained.branches.decode(queries, frozen), trained.branches.decode(queries, tokens_NTC))


def test_a_head_with_groups_knows_the_labels_it_was_trained_on_alone() -> None:
    text, groups = model(), model(groups=4)
    queries = groups.queries(EVERYTHING)
    assert text.branches.knows_novel and not groups.branches.knows_novel
    for kind in KINDS:
        known_K = groups.branches.knows(kind, queries)
        assert np.array_equal(known_K, np.arange(NUM_LABELS) < NUM_SEEN if kind == "decoder" else np.ones(NUM_LABELS))
        assert text.branches.knows(kind, queries).all()
    logits_NK = groups.branches.logits("decoder", queries, *world().judged)
    assert not logits_NK[:, NUM_SEEN:].any() and (logits_NK[:, :NUM_SEEN] != 0).all()


def test_a_head_with_groups_gives_columns_as_they_are_asked_for() -> None:
    trained = model(groups=4)
    _, tokens_NTC = world().judged
    seen_K = np.array([5, -1, 0, 11])
    some = Queries(queries_KQ=trained.queries(EVERYTHING).queries_KQ[seen_K], seen_K=seen_K)
    whole_NK = trained.branches.decode(trained.queries(EVERYTHING), tokens_NTC)
    part_NK = trained.branches.decode(some, tokens_NTC)
    assert np.array_equal(part_NK[:, [0, 2, 3]], whole_NK[:, [5, 0, 11]]) and not part_NK[:, 1].any()


def test_a_novel_label_with_a_seen_ones_query_is_treated_as_novel() -> None:
    """The regression knows a seen label by more than its text; cosine and decoder do not."""
    trained = model()
    seen = trained.queries(vocabulary([4]))
    novel = Queries(queries_KQ=seen.queries_KQ, seen_K=np.array([-1]))
    for kind in KINDS:
        one, other = (trained.branches.logits(kind, queries, *world().judged) for queries in (seen, novel))
        assert np.array_equal(one, other) == (kind != "linear"), kind


def test_parts_and_kinds_go_together() -> None:
    with pytest.raises(AssertionError):
        Branches(("clip", "decoder"), linear=None, head=None, device=CPU)

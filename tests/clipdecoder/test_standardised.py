"""Standardised logits: comparable between labels, additive between branches, the same in any company."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdecoder.scoring.standardised import MIN_DEVIATION, Fusion, Spread, StandardisedScorer, branches_of, scorers_of
from schemas.checkpoint import Branch, Scorer
from schemas.training import HeadConfig
from tests.clipdecoder.fitted_world import (
    EVERYTHING,
    MIXED,
    NUM_JUDGED,
    NUM_LABELS,
    NUM_SEEN,
    mixed_model,
    model,
    vocabulary,
    world,
)

ALL: tuple[Branch, ...] = ("clip", "local", "linear", "decoder")
SCORERS: tuple[Scorer, ...] = ("fused", "decoder", "clip+local", "clip")


def test_which_scorers_there_are_and_what_they_add_up() -> None:
    assert scorers_of(ALL) == SCORERS
    assert scorers_of(("linear", "decoder")) == ("fused", "decoder", "clip")
    assert scorers_of(("clip",)) == ("clip",) and scorers_of(("clip", "local")) == ("clip+local", "clip")
    assert branches_of("fused", ALL) == ALL and branches_of("decoder", ALL) == ("decoder",)
    assert branches_of("clip", ALL) == ("clip",) and branches_of("clip+local", ALL) == ("clip", "local")
    assert branches_of("clip", ("linear", "decoder")) == ("linear",)


def test_a_spread_standardises_what_it_was_taken_of() -> None:
    logits_SK = np.random.default_rng(0).normal(5, 3, (40, 6)).astype(np.float32)
    logits_SK[:, 2] = 7
    spread = Spread.of(logits_SK)
    z_SK = spread.standardise(logits_SK)
    assert z_SK.dtype == np.float32 and spread.deviation_K[2] == MIN_DEVIATION and not z_SK[:, 2].any()
    others = z_SK[:, [0, 1, 3, 4, 5]]
    np.testing.assert_allclose(others.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(others.std(axis=0), 1, atol=1e-6)


@pytest.mark.parametrize("scorer", SCORERS)
def test_over_the_reference_every_label_has_mean_0_and_deviation_1(scorer: Scorer) -> None:
    trained = mixed_model()
    reference = trained.parts.reference
    z_SK = trained.standardised(EVERYTHING, scorer).standardised(reference.embeddings_SD, reference.tokens_STC)
    np.testing.assert_allclose(z_SK.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(z_SK.std(axis=0), 1, atol=1e-4)


def test_fused_is_the_weighted_sum_of_standardised_branches() -> None:
    trained = mixed_model()
    queries, reference = trained.queries(EVERYTHING), trained.parts.reference
    expected_NK = np.zeros((NUM_JUDGED, NUM_LABELS))
    for kind in ALL:
        weight_K = np.where(np.arange(NUM_LABELS) < NUM_SEEN, MIXED["seen"][kind], MIXED["novel"][kind])
        before = trained.branches.logits(kind, queries, reference.embeddings_SD, reference.tokens_STC)
        spread = Spread.of(before)
        expected_NK += weight_K * spread.standardise(trained.branches.logits(kind, queries, *world().judged))
    fused_NK = trained.standardised(EVERYTHING, "fused").logits(*world().judged)
    assert fused_NK.dtype == np.float32
    np.testing.assert_allclose(fused_NK, expected_NK, atol=1e-4)


def test_clip_and_local_are_plain_cosines() -> None:
    trained = mixed_model()
    embeddings_ND, tokens_NTC = world().judged
    queries_KQ = trained.queries(EVERYTHING).queries_KQ
    clip_NK = trained.standardised(EVERYTHING, "clip").logits(embeddings_ND, None)
    np.testing.assert_allclose(clip_NK, embeddings_ND.astype(np.float64) @ queries_KQ.T, atol=1e-6)
    both_NK = trained.standardised(EVERYTHING, "clip+local").logits(embeddings_ND, tokens_NTC)
    local_NK = trained.branches.logits("local", trained.queries(EVERYTHING), embeddings_ND, tokens_NTC)
    np.testing.assert_allclose(both_NK, (clip_NK + local_NK) / 2, atol=1e-6)


@pytest.mark.parametrize("scorer", SCORERS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_score_depends_on_no_other_label_and_no_other_image(scorer: Scorer, data: st.DataObject) -> None:
    """Seen and novel labels together or apart, in any order, images in any batches."""
    trained = mixed_model()
    numbers = data.draw(st.lists(st.integers(0, NUM_LABELS - 1), min_size=1, max_size=NUM_LABELS, unique=True))
    rows = np.array(data.draw(st.lists(st.integers(0, NUM_JUDGED - 1), min_size=1, max_size=5)))
    embeddings_ND, tokens_NTC = world().judged
    whole = trained.scorer(EVERYTHING, scorer)
    part = trained.scorer(vocabulary(numbers), scorer)
    logits_RK = part.logits(embeddings_ND[rows], tokens_NTC[rows])
    expected_NK = whole.logits(embeddings_ND, tokens_NTC)
    np.testing.assert_allclose(logits_RK, expected_NK[rows][:, numbers], rtol=1e-3, atol=1e-4)
    scores_NK = whole.maps.scores(expected_NK)[rows][:, numbers]
    np.testing.assert_allclose(part.maps.scores(logits_RK), scores_NK, atol=1e-4)


def test_a_branch_without_weight_is_not_computed_and_needs_no_tokens() -> None:
    trained = mixed_model()
    only_clip: Fusion = {"seen": {"clip": 1.0}, "novel": {"clip": 1.0}}
    queries, reference = trained.queries(EVERYTHING), trained.parts.reference
    scorer = StandardisedScorer(trained.branches, queries, "fused", fusion=only_clip, reference=reference)
    assert scorer.kinds == ("clip",) and not scorer.needs_tokens
    assert np.isfinite(scorer.logits(world().judged[0], None)).all()


def test_with_groups_the_decoder_has_no_say_in_novel_labels() -> None:
    trained = model(groups=4)
    config = trained.parts.head.config if trained.parts.head is not None else None
    assert isinstance(config, HeadConfig) and config.groups == 4 and config.num_labels == NUM_SEEN
    fused = trained.standardised(EVERYTHING, "fused")
    assert not fused.weights_K["decoder"][NUM_SEEN:].any()
    assert trained.fusion["novel"]["decoder"] == 0 and any(trained.fusion["novel"].values())
    logits_NK = fused.logits(*world().judged)
    assert (logits_NK[:, NUM_SEEN:].std(axis=0) > 0.1).all()

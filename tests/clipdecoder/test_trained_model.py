"""A checkpoint as a scorer: seen and novel labels, probabilities, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from clipdecoder.judging.metrics import expected_calibration_error, log_loss, mean_average_precision, reliability_bins
from clipdecoder.scoring.scores import VocabularyScorer, all_logits, keep_scores
from clipdecoder.scoring.trained_model import calibrated_maps
from schemas.checkpoint import Scorer
from schemas.errors import ModelError, TaxonomyError
from schemas.tables import ANY_LABEL
from schemas.taxonomy import Label, Taxonomy, VocabularyLabel
from tests.clipdecoder.fitted_world import (
    EVERYTHING,
    NUM_LABELS,
    NUM_SEEN,
    label_id,
    mixed_model,
    model,
    vocabulary,
    world,
)

SCORERS: tuple[Scorer, ...] = ("fused", "decoder", "clip+local", "clip")
SEEN, NOVEL = slice(0, NUM_SEEN), slice(NUM_SEEN, NUM_LABELS)


def alias(number: int) -> VocabularyLabel:
    """Return a label that the model does not know, with the text of one that it may know."""
    return VocabularyLabel(label_id="brand-new", name="x", texts=(label_id(number),))


def test_it_knows_its_scorers_and_what_they_look_at() -> None:
    trained = model()
    assert trained.record.scorers == SCORERS and trained.uses_tokens
    needs = {name: trained.scorer(EVERYTHING, name).needs_tokens for name in SCORERS}
    assert needs == {"fused": True, "decoder": True, "clip+local": True, "clip": False}
    fused: VocabularyScorer = mixed_model().scorer(EVERYTHING, "fused")
    assert fused.cells_per_image == NUM_LABELS * 4
    assert model(joint=False).record.scorers == ("fused", "decoder", "clip")
    assert trained.as_checkpoint(*world().judged) is trained
    assert trained.learned_from.tolist() == list(range(1, len(world().data().fingerprints_N) + 1))


@pytest.mark.parametrize("name", SCORERS)
def test_scores_are_probabilities_that_rise_with_the_logit(name: Scorer) -> None:
    scorer = model().scorer(EVERYTHING, name)
    assert (scorer.maps.slope_K > 0).all()
    logits_NK = all_logits(*world().judged, scorer)
    scores_NK = scorer.maps.scores(logits_NK)
    assert scores_NK.min() >= 0 and scores_NK.max() <= 1
    order_NK = logits_NK.argsort(axis=0)
    assert (np.diff(np.take_along_axis(scores_NK, order_NK, axis=0), axis=0) >= 0).all()


@pytest.mark.parametrize("group", [SEEN, NOVEL])
@pytest.mark.parametrize("name", ["fused", "clip+local", "clip"])
def test_scores_of_new_images_mean_what_they_say(name: Scorer, group: slice) -> None:
    """Closer to the truth than the constant at each label's own frequency in these images, which no model knows."""
    scorer = model().scorer(EVERYTHING, name)
    targets_NK = world().judged_targets_NK[:, group]
    scores_NK = scorer.maps.scores(all_logits(*world().judged, scorer))[:, group]
    constant_NK = np.broadcast_to(targets_NK.mean(axis=0), targets_NK.shape)
    assert expected_calibration_error(reliability_bins(scores_NK, targets_NK)) < 0.08
    assert log_loss(scores_NK, targets_NK) < 0.8 * log_loss(constant_NK, targets_NK)


def test_fused_ranks_novel_labels_far_above_chance() -> None:
    logits_NK = all_logits(*world().judged, model().scorer(EVERYTHING, "fused"))
    targets_NK = world().judged_targets_NK
    assert mean_average_precision(logits_NK[:, SEEN], targets_NK[:, SEEN])[0] > 0.7  # chance: 0.1
    assert mean_average_precision(logits_NK[:, NOVEL], targets_NK[:, NOVEL])[0] > 0.6


def test_a_novel_label_with_a_seen_ones_text_is_novel() -> None:
    trained = mixed_model()
    scorer = trained.scorer((*vocabulary([3]), alias(3)), "fused")
    assert scorer.raw.queries.seen_K.tolist() == [3, -1]
    logits_NK = scorer.logits(*world().judged)
    assert not np.allclose(logits_NK[:, 0], logits_NK[:, 1])
    rows = {row.label_id: row for row in trained.calibration if row.scorer == "fused"}
    assert trained.thresholds(["brand-new", label_id(3)], "fused").tolist() == [
        rows[ANY_LABEL].threshold,
        rows[label_id(3)].threshold,
    ]


def test_a_label_without_a_map_of_its_own_has_that_of_any() -> None:
    trained = model()
    raw = trained.standardised(vocabulary([0, 17]), "fused")
    rows = {row.label_id: row for row in trained.calibration if row.scorer == "fused"}
    assert len(rows) == NUM_SEEN + 1
    maps = calibrated_maps(raw, trained.calibration, [label_id(0), label_id(17)])
    for column, row in enumerate((rows[label_id(0)], rows[ANY_LABEL])):
        # The stored maps take standardised logits.
        z = np.array([-1.0, 0.0, 2.0])
        logits = z * raw.spread.deviation_K[column] + raw.spread.mean_K[column]
        odds = maps.slope_K[column] * logits + maps.intercept_K[column]
        np.testing.assert_allclose(odds, row.slope * z + row.intercept, atol=1e-9)


def test_a_calibration_without_a_row_for_any_label_is_refused() -> None:
    trained = model()
    raw = trained.standardised(EVERYTHING, "fused")
    without = [row for row in trained.calibration if row.label_id != ANY_LABEL]
    with pytest.raises(ModelError, match=r"no row '\*' for scorer 'fused'"):
        calibrated_maps(raw, without, [label.label_id for label in EVERYTHING])


def test_an_unknown_scorer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"model m1: unknown scorer 'clip\+local'; known: clip, decoder, fused"):
        model(joint=False).scorer(EVERYTHING, "clip+local")


def test_a_decoder_with_groups_refuses_novel_labels_by_name() -> None:
    trained = model(groups=4)
    assert trained.scorer(EVERYTHING[SEEN], "decoder").logits(*world().judged).any()
    with pytest.raises(ModelError, match="not label-16, label-17, label-18, label-19; use --scorer fused, or train"):
        trained.scorer(EVERYTHING, "decoder")
    many = tuple(VocabularyLabel(label_id=f"x{n}", name="x", texts=(label_id(n),)) for n in range(7))
    with pytest.raises(ModelError, match="not x0, x1, x2, x3, x4 and others; "):
        trained.scorer(many, "decoder")
    assert trained.can_score(label_id(17), "fused") and not trained.can_score(label_id(17), "decoder")
    scores = trained.scorer(EVERYTHING, "fused").logits(*world().judged)
    assert np.isfinite(scores).all()


def test_texts_are_checked_by_its_text_encoder() -> None:
    strange = Taxonomy(name="t", templates=("{}",), labels=(Label(id="a", name="an aardvark"),))
    with pytest.raises(TaxonomyError, match="an aardvark"):
        model().check_texts(strange)


def test_kept_scores_are_those_of_the_whole_table() -> None:
    scorer = model().scorer(EVERYTHING, "fused")
    embeddings_ND, tokens_NTC = world().judged
    kept = keep_scores(embeddings_ND, tokens_NTC, scorer, floor=0.0, top_k=0, chunk_rows=7)
    assert len(kept) == len(embeddings_ND) * NUM_LABELS
    logits_NK = scorer.logits(embeddings_ND, tokens_NTC)
    np.testing.assert_allclose(kept.logit, logits_NK[kept.sample, kept.label], rtol=1e-3, atol=1e-4)


def test_an_empty_vocabulary_scores_nothing() -> None:
    for name in SCORERS:
        assert model().scorer((), name).logits(*world().judged).shape == (len(world().judged[0]), 0)

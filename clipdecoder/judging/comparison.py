"""What an evaluation compares: the scorers of a model, its regression, and the baselines of its training images.

Shapes: N images, K labels, D embedding width, T patch tokens, C token width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.baselines import Ridge, constant_scores
from clipdecoder.judging.evaluation import GroundTruth, ScorerOutput
from clipdecoder.scoring.scores import VocabularyScorer, all_logits
from clipdecoder.scoring.trained_model import TrainedModel
from schemas.checkpoint import Scorer
from schemas.evaluation import ScorerName
from schemas.taxonomy import VocabularyLabel

Features = tuple[NDArray[np.float16], NDArray[np.float16] | None]  # embeddings_ND, tokens_NTC


def scorer_outputs(
    scorers: Mapping[Scorer, VocabularyScorer], features: Features, *, joint: bool
) -> list[ScorerOutput]:
    """Return what each scorer says. Without a joint space `clip` is the regression, and is called by that name."""
    outputs = []
    for name, scorer in scorers.items():
        logits_NK = all_logits(*features, scorer)
        shown: ScorerName = "linear" if name == "clip" and not joint else name
        outputs.append(ScorerOutput(scorer=shown, logits_NK=logits_NK, scores_NK=scorer.maps.scores(logits_NK)))
    return outputs


def baseline_outputs(
    model: TrainedModel, vocabulary: Sequence[VocabularyLabel], features: Features, truth: GroundTruth
) -> list[ScorerOutput]:
    """Return what the baselines say that were fitted on the model's training images."""
    embeddings_ND, queries = features[0], model.queries(vocabulary)
    outputs = []
    if "linear" in model.branches.kinds and model.encoders.joint:
        linear_NK = model.branches.logits("linear", queries, *features)
        outputs.append(ScorerOutput(scorer="linear", logits_NK=linear_NK, scores_NK=None))
    if not model.parts.baselines:  # a zero-shot model that was calibrated has no training images
        return [constant_output(np.full(len(queries), np.nan), truth)]
    ridge, label_ridge = (Ridge.from_arrays(model.parts.part(name)) for name in ("ridge", "label_ridge"))
    ridge_NK = ridge.cosines(embeddings_ND, queries.queries_KQ)
    outputs.append(ScorerOutput(scorer="ridge", logits_NK=ridge_NK, scores_NK=None))
    seen = np.flatnonzero(~queries.novel_K)
    label_ridge_NK = np.zeros_like(ridge_NK)
    label_ridge_NK[:, seen] = label_ridge.outputs(embeddings_ND)[:, queries.seen_K[seen]]
    outputs.append(ScorerOutput(scorer="label_ridge", logits_NK=label_ridge_NK, scores_NK=None, groups=("seen",)))
    frequency_K = np.full(len(queries), np.nan)
    frequency_K[seen] = model.parts.baselines["frequency"][queries.seen_K[seen]]
    return [*outputs, constant_output(frequency_K, truth)]


def constant_output(frequency_K: NDArray[np.float64], truth: GroundTruth) -> ScorerOutput:
    """Return what the predictor says that never looks at an image; see `constant_scores`."""
    scores_K = constant_scores(frequency_K, truth.targets_NK)
    scores_NK = np.broadcast_to(scores_K.astype(np.float32), truth.targets_NK.shape)
    return ScorerOutput(scorer="constant", logits_NK=scores_NK, scores_NK=scores_NK)

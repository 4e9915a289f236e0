"""A zero-shot model as a scorer, and as a checkpoint that is still to be calibrated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipdecoder.encoders.model import ClipModel
from clipdecoder.encoders.open_clip_models import load_open_clip
from clipdecoder.scoring.parts import Parts
from clipdecoder.scoring.trained_model import calibrated_maps
from clipdecoder.scoring.zero_shot import REFERENCE_IMAGES, ZeroShotModel
from schemas.checkpoint import CalibrationRow, Scorer
from schemas.errors import ModelError
from schemas.manifest import DEFAULT_THRESHOLD
from schemas.tables import ANY_LABEL
from schemas.taxonomy import VocabularyLabel

NAMES = ("cat", "dog", "bee")
VOCABULARY = tuple(VocabularyLabel(label_id=name, name=name, texts=(f"a {name}",)) for name in NAMES)
CPU = torch.device("cpu")

Images = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def clip(model_folders: dict[str, Path]) -> ClipModel:
    return ClipModel(load_open_clip(f"open_clip:{model_folders['plain']}"), CPU)


@pytest.fixture(scope="module")
def model(clip: ClipModel) -> ZeroShotModel:
    return ZeroShotModel(clip)


@pytest.fixture(scope="module")
def images(clip: ClipModel) -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    encoded = clip.encode(pixels, tokens=True)
    assert encoded.tokens_BTC is not None
    return encoded.embeddings_BD, encoded.tokens_BTC


def test_it_scores_by_cosine_with_its_own_prior(model: ZeroShotModel, clip: ClipModel, images: Images) -> None:
    assert model.record.scorers == ("clip", "clip+local") and model.uses_tokens and not len(model.learned_from)
    scorer = model.scorer(VOCABULARY, "clip")
    assert not scorer.needs_tokens and model.scorer(VOCABULARY, "clip+local").needs_tokens
    logits_NK = scorer.logits(images[0], None)
    expected = images[0].astype(np.float32) @ clip.encode_vocabulary(VOCABULARY).T
    np.testing.assert_allclose(logits_NK, expected, atol=1e-6)
    assert scorer.maps.equal and scorer.maps.slope_K[0] == clip.record.slope
    assert model.thresholds(NAMES, "clip").tolist() == [DEFAULT_THRESHOLD] * 3


def test_scorers_it_lacks_are_refused_with_those_it_has(model: ZeroShotModel) -> None:
    with pytest.raises(ModelError, match=r"unknown scorer 'fused'; known: clip, clip\+local"):
        model.scorer(VOCABULARY, "fused")


def test_a_resnet_has_no_patches_in_the_joint_space(write_model: Callable[..., Path], tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "patch_size": None},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    model = ZeroShotModel(ClipModel(load_open_clip(f"open_clip:{write_model(tmp_path, config)}"), CPU))
    assert model.record.scorers == ("clip",) and not model.uses_tokens
    with pytest.raises(ModelError, match="known: clip$"):
        model.scorer(VOCABULARY, "clip+local")
    embeddings_ND = np.eye(16, dtype=np.float16)
    assert model.as_checkpoint(embeddings_ND, None).record.scorers == ("clip",)


@pytest.mark.parametrize("name", ["clip", "clip+local"])
def test_as_a_checkpoint_it_gives_the_same_logits(name: Scorer, model: ZeroShotModel, images: Images) -> None:
    trained = model.as_checkpoint(*images)
    assert trained.record.scorers == model.record.scorers and trained.record.slope is None
    assert trained.branches.kinds == ("clip", "local") and trained.uses_tokens
    raw = trained.standardised(VOCABULARY, name)
    expected = model.scorer(VOCABULARY, name).logits(*images)
    np.testing.assert_allclose(raw.logits(*images), expected, atol=1e-6)
    assert raw.queries.novel_K.all()


def test_as_a_checkpoint_it_has_no_scores_until_it_is_calibrated(model: ZeroShotModel, images: Images) -> None:
    trained = model.as_checkpoint(*images)
    with pytest.raises(ModelError, match="no row"):
        trained.scorer(VOCABULARY, "clip")
    row = CalibrationRow(scorer="clip", label_id=ANY_LABEL, slope=2.0, intercept=-1.0, threshold=0.3, positives=9)
    maps = calibrated_maps(trained.standardised(VOCABULARY, "clip"), [row], NAMES)
    scores_NK = maps.scores(model.scorer(VOCABULARY, "clip").logits(images[0], None))
    # These images are the reference: their standardised logits have mean 0 and deviation 1.
    odds_NK = np.log(scores_NK / (1 - scores_NK.astype(np.float64)))
    np.testing.assert_allclose(odds_NK.mean(axis=0), -1, atol=1e-3)
    np.testing.assert_allclose(odds_NK.std(axis=0), 2, atol=1e-3)


def test_its_parts_are_reference_images_alone_and_come_back(model: ZeroShotModel, images: Images) -> None:
    trained = model.as_checkpoint(*images)
    assert trained.record.checkpoint is not None
    again = Parts.from_bytes(trained.parts.to_bytes(), trained.record.checkpoint)
    assert again.head is None and again.linear is None and not again.baselines
    for ours, theirs in zip(images, (again.reference.embeddings_SD, again.reference.tokens_STC), strict=True):
        assert theirs is not None and sorted(x.tobytes() for x in ours) == sorted(x.tobytes() for x in theirs)


def test_the_reference_is_a_sample_of_many_images(model: ZeroShotModel) -> None:
    rng = np.random.default_rng(0)
    embeddings_ND = rng.standard_normal((REFERENCE_IMAGES + 90, 64)).astype(np.float16)
    tokens_NTC = rng.standard_normal((REFERENCE_IMAGES + 90, 2, 64)).astype(np.float16)
    reference = model.as_checkpoint(embeddings_ND, tokens_NTC).parts.reference
    assert reference.tokens_STC is not None and len(reference.tokens_STC) == REFERENCE_IMAGES
    assert len(np.unique(reference.embeddings_SD, axis=0)) == REFERENCE_IMAGES
    row = int(np.flatnonzero((embeddings_ND == reference.embeddings_SD[7]).all(axis=1))[0])
    assert np.array_equal(reference.tokens_STC[7], tokens_NTC[row])

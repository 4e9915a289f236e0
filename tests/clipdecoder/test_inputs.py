"""What training reads: stored tokens as they are, or pixels through a backbone that is trained too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from clipdecoder.encoders.encoder import ImageEncoder
from clipdecoder.encoders.model import load_encoders
from clipdecoder.scoring.parts import Parts
from clipdecoder.training.fitting import FitData, Fitted
from clipdecoder.training.inputs import FrozenInputs, PixelInputs
from clipdecoder.training.targets import Targets
from schemas.errors import ConfigError
from schemas.taxonomy import VocabularyLabel
from tests.clipdecoder.fitted_world import checkpoint_of, fit_quietly, recipe

NUM_IMAGES, NUM_LABELS = 48, 4
LAST_BLOCK = "transformer.resblocks.1."
CPU = torch.device("cpu")


def make_pixels() -> tuple[np.ndarray, list[list[int]]]:
    """Return pictures whose labels are the colours of their patches."""
    rng = np.random.default_rng(0)
    pixels_NHWC = rng.integers(0, 60, (NUM_IMAGES, 32, 32, 3)).astype(np.uint8)
    labels = [[int(label)] for label in rng.integers(0, NUM_LABELS, NUM_IMAGES)]
    for picture, (label,) in zip(pixels_NHWC, labels, strict=True):
        if label < 3:
            picture[:16, 8:24, label] += 180
    return pixels_NHWC, labels


@dataclass
class FineTuned:
    """One fine-tuning, and what it was made from."""

    data: FitData
    inputs: PixelInputs
    fitted: Fitted


@pytest.fixture(scope="module")
def encoder(model_folders: dict[str, Path]) -> ImageEncoder:
    return load_encoders(f"open_clip:{model_folders['plain']}", device="cpu").image


@pytest.fixture(scope="module")
def inputs(encoder: ImageEncoder, tmp_path_factory: pytest.TempPathFactory) -> PixelInputs:
    return PixelInputs(pixels_NHWC=make_pixels()[0], encoder=encoder, scratch=tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def tuned(model_folders: dict[str, Path], inputs: PixelInputs) -> FineTuned:
    pair = load_encoders(f"open_clip:{model_folders['plain']}", device="cpu")
    names = ("red", "green", "blue", "grey")
    labels = [VocabularyLabel(label_id=name, name=name, texts=(f"a {name} box",)) for name in names]
    data = FitData(
        inputs=inputs,
        targets=Targets.of(make_pixels()[1], num_labels=NUM_LABELS),
        queries_KQ=pair.text.encode_vocabulary(labels),
        label_ids=names,
        fingerprints_N=np.arange(NUM_IMAGES, dtype=np.uint64),
        train_M=np.arange(32),
        validation_V=np.arange(32, NUM_IMAGES),
        joint=True,
        local=True,
        device=CPU,
    )
    config = recipe(epochs=2, finetune=1, backbone_learning_rate=1e-3)
    return FineTuned(data=data, inputs=inputs, fitted=fit_quietly(data, config))


def test_frozen_inputs_are_what_they_are() -> None:
    rng = np.random.default_rng(0)
    tokens_NTC = rng.standard_normal((6, 3, 4)).astype(np.float16)
    frozen = FrozenInputs(embeddings_ND=rng.standard_normal((6, 4)).astype(np.float16), tokens_NTC=tokens_NTC)
    assert frozen.arrays is tokens_NTC and frozen.frozen() is frozen and frozen.tokens_of(recipe()) is None
    model = torch.nn.Identity()
    assert frozen.trained_weights(model) == {}  # type: ignore[arg-type]
    rows = np.array([4, 1])
    assert np.array_equal(frozen.validation_tokens(model, rows), tokens_NTC[rows])  # type: ignore[arg-type]


def test_pixels_are_seen_as_the_encoder_sees_them(inputs: PixelInputs, encoder: ImageEncoder) -> None:
    frozen = inputs.frozen()
    expected = encoder.encode(inputs.pixels_NHWC[:8], tokens=True)
    np.testing.assert_allclose(frozen.embeddings_ND[:8], expected.embeddings_BD, atol=1e-3)
    np.testing.assert_allclose(frozen.tokens_NTC[:8], expected.tokens_BTC, atol=1e-2)  # type: ignore[arg-type]
    assert frozen.tokens_NTC.shape == (NUM_IMAGES, encoder.num_tokens, encoder.token_width)
    # Asked for at every turn of a fit, and a pass over all images each time.
    assert inputs.frozen() is frozen


def test_more_blocks_than_there_are_are_refused(inputs: PixelInputs) -> None:
    with pytest.raises(ConfigError, match=r"finetune = 9, and the backbone has 3 blocks"):
        inputs.tokens_of(recipe(finetune=9))


def test_what_is_unfrozen_is_a_copy(inputs: PixelInputs, encoder: ImageEncoder) -> None:
    module = inputs.tokens_of(recipe(finetune=1))
    assert module is not None and any(value.requires_grad for value in module.parameters())
    assert not any(value.requires_grad for value in encoder.backbone.parameters())


def test_fine_tuning_moves_the_last_block_and_it_alone(tuned: FineTuned, encoder: ImageEncoder) -> None:
    weights, before = tuned.fitted.parts.backbone, encoder.backbone.tower.state_dict()
    assert weights and all(name.startswith((LAST_BLOCK, "ln_post", "proj")) for name in weights)
    moved = [name for name, value in weights.items() if not torch.equal(value, before[name])]
    assert {f"{LAST_BLOCK}mlp.c_fc.weight", "proj"} <= set(moved)
    assert not any(value.requires_grad for value in weights.values())


def test_the_tuned_encoder_is_another_one_and_the_base_stays(tuned: FineTuned, encoder: ImageEncoder) -> None:
    rebuilt = encoder.with_weights(tuned.fitted.parts.backbone)
    assert rebuilt.encoder_id != encoder.encoder_id
    assert load_encoders(encoder.name, device="cpu").image.encoder_id == encoder.encoder_id
    ours, theirs = (one.encode(tuned.inputs.pixels_NHWC[:4], tokens=True) for one in (rebuilt, encoder))
    assert not np.array_equal(ours.tokens_BTC, theirs.tokens_BTC)  # type: ignore[arg-type]
    assert not np.array_equal(ours.embeddings_BD, theirs.embeddings_BD)


def test_the_other_branches_are_fitted_to_what_the_tuned_backbone_sees(tuned: FineTuned, encoder: ImageEncoder) -> None:
    parts = tuned.fitted.parts
    encoded = encoder.with_weights(parts.backbone).encode(tuned.inputs.pixels_NHWC, tokens=True)
    assert parts.reference.tokens_STC is not None and parts.linear is not None
    known = {row.tobytes() for row in encoded.embeddings_BD}
    seen = [row.tobytes() in known for row in parts.reference.embeddings_SD]
    landmarks = [row.tobytes() in known for row in parts.linear.images.landmarks_MD]
    # Rounding may differ by the size of a batch, so not all need be equal to the bit; of the base's none would be.
    assert np.mean(seen) > 0.5 and np.mean(landmarks) > 0.5


def test_a_reloaded_checkpoint_has_the_backbones_weights_and_id(tuned: FineTuned, encoder: ImageEncoder) -> None:
    parts = tuned.fitted.parts
    record = checkpoint_of(tuned.fitted)
    assert record.finetuned
    again = Parts.from_bytes(parts.to_bytes(), record)
    assert again.backbone.keys() == parts.backbone.keys()
    assert all(torch.equal(again.backbone[name], value) for name, value in parts.backbone.items())
    assert encoder.with_weights(again.backbone).encoder_id == encoder.with_weights(parts.backbone).encoder_id


def test_training_learned_something(tuned: FineTuned) -> None:
    final = [record for record in tuned.fitted.report.history if record.stage == "final"]
    assert all(np.isfinite(record.losses["loss"]) for record in final)
    assert {row.branch for row in tuned.fitted.report.branches} == {"clip", "local", "linear", "decoder", "fused"}

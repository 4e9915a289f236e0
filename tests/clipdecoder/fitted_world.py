"""Models fitted to a small made-up world, each once per session.

An image has two of twenty labels: its embedding is the sum of their directions and noise, and two of its patches are
the directions themselves. The last four labels are novel: of them no model has seen anything but, now, their texts.

Shapes: N images, K seen labels, T patch tokens, C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg
from torch import nn

from clipdecoder.encoders.backbone import Backbone
from clipdecoder.encoders.encoder import EncoderFacts, EncoderPair, ImageEncoder
from clipdecoder.encoders.text_tables import TableText
from clipdecoder.encoders.transforms import ImageTransform
from clipdecoder.scoring.parts import Parts
from clipdecoder.scoring.standardised import Fusion
from clipdecoder.scoring.trained_model import TrainedModel
from clipdecoder.training.fitting import FitData, FitHooks, Fitted, fit
from clipdecoder.training.inputs import FrozenInputs
from clipdecoder.training.targets import Targets
from schemas.checkpoint import CheckpointRecord
from schemas.manifest import ModelRecord
from schemas.taxonomy import VocabularyLabel
from schemas.training import TrainConfig, train_config

NUM_IMAGES, NUM_TRAINED, NUM_JUDGED, NUM_TOKENS, WIDTH = 260, 100, 100, 5, 16
NUM_LABELS, NUM_SEEN = 20, 16
CPU = torch.device("cpu")

# Whatever validation would choose: every branch has its say.
MIXED: Fusion = {
    "seen": {"clip": 1.0, "local": 0.5, "linear": 2.0, "decoder": 1.0},
    "novel": {"clip": 0.5, "local": 1.0, "linear": 0.25, "decoder": 0.5},
}

Vocabulary = tuple[VocabularyLabel, ...]


class LocalBackbone(Backbone):
    """A backbone whose patches lie in the joint space; no picture is ever shown to it."""

    local = True


class MapBackbone(Backbone):
    """A backbone whose patches do not."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Images, their labels, and the two sides of a model."""

    embeddings_ND: NDArray[np.float16]
    tokens_NTC: NDArray[np.float16]
    positives: tuple[tuple[int, ...], ...]
    encoders: EncoderPair

    def images(self, start: int, stop: int) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """Return embeddings and tokens of some images."""
        return self.embeddings_ND[start:stop], self.tokens_NTC[start:stop]

    @property
    def judged(self) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """Images that no model has learned from."""
        return self.images(NUM_IMAGES - NUM_JUDGED, NUM_IMAGES)

    @property
    def judged_targets_NK(self) -> NDArray[np.int8]:
        """Ground truth of those images, for all labels."""
        return Targets.of(self.positives, num_labels=NUM_LABELS).dense(np.arange(NUM_IMAGES - NUM_JUDGED, NUM_IMAGES))

    def data(self, num_labels: int = NUM_SEEN) -> FitData:
        """Return what a model is fitted to: the seen labels, and images to train and to validate on."""
        known = NUM_IMAGES - NUM_JUDGED
        seen = [[label for label in labels if label < num_labels] for labels in self.positives[:known]]
        return FitData(
            inputs=FrozenInputs(embeddings_ND=self.embeddings_ND[:known], tokens_NTC=self.tokens_NTC[:known]),
            targets=Targets.of(seen, num_labels=num_labels),
            queries_KQ=self.encoders.text.encode_vocabulary(vocabulary(range(num_labels))),
            label_ids=[label_id(number) for number in range(num_labels)],
            fingerprints_N=np.arange(1, known + 1, dtype=np.uint64),
            train_M=np.arange(NUM_TRAINED),
            validation_V=np.arange(NUM_TRAINED, known),
            joint=self.encoders.joint,
            local=self.encoders.joint and self.encoders.image.local,
            device=CPU,
        )


def label_id(number: int) -> str:
    """Return the id of a label."""
    return f"label-{number:02d}"


def vocabulary(numbers: Sequence[int]) -> Vocabulary:
    """Return some of the labels."""
    return tuple(
        VocabularyLabel(label_id=label_id(number), name=label_id(number), texts=(label_id(number),))
        for number in numbers
    )


EVERYTHING = vocabulary(range(NUM_LABELS))


def world(*, joint: bool = True) -> World:
    """Return the world. Without a joint space the texts are embedded in another one, of another width."""
    return _world(joint)


@cache
def _world(joint: bool) -> World:
    rng = np.random.default_rng(0)
    direction_KC = _unit(rng.standard_normal((NUM_LABELS, WIDTH)) + 0.5)
    positives = tuple(tuple(sorted(rng.choice(NUM_LABELS, 2, replace=False).tolist())) for _ in range(NUM_IMAGES))
    sums_ND = np.stack([direction_KC[list(pair)].sum(axis=0) for pair in positives])
    tokens_NTC = 0.3 * rng.standard_normal((NUM_IMAGES, NUM_TOKENS, WIDTH))
    for tokens_TC, pair in zip(tokens_NTC, positives, strict=True):
        tokens_TC[rng.choice(NUM_TOKENS, 2, replace=False)] += direction_KC[list(pair)]
    embeddings_ND = _unit(sums_ND + 0.35 * rng.standard_normal(sums_ND.shape))
    vectors_KQ = direction_KC if joint else direction_KC @ rng.standard_normal((WIDTH, 12))
    text = TableText([label_id(number) for number in range(NUM_LABELS)], vectors_KQ, "table:labels.parquet")
    facts = EncoderFacts(
        name="open_clip:tiny",
        architecture="tiny",
        embedding_width=WIDTH,
        joint_text_id=text.text_encoder_id if joint else None,
        identity={},
    )
    tower = nn.Identity().eval()
    backbone = LocalBackbone(tower) if joint else MapBackbone(tower)
    return World(
        embeddings_ND=embeddings_ND.astype(np.float16),
        tokens_NTC=tokens_NTC.astype(np.float16),
        positives=positives,
        encoders=EncoderPair(
            image=ImageEncoder(backbone, ImageTransform(PreprocessCfg(size=8), CPU), facts, CPU), text=text
        ),
    )


def recipe(**changes: object) -> TrainConfig:
    """Return a recipe that trains in a second."""
    small: dict[str, object] = {
        "width": 16,
        "num_heads": 2,
        "feedforward_width": 16,
        "projection_width": 8,
        "epochs": 8,
        "batch_size": 20,
        "learning_rate": 1e-2,
        "ema_decay": 0.8,
        "holdout_label_share": 0.3,
    }
    return train_config(**small | changes)


def fit_quietly(
    data: FitData, config: TrainConfig, hooks: FitHooks | None = None, *, target_precision: float | None = None
) -> Fitted:
    """Fit on one thread: more are slower for tensors this small, and far slower on cores that others use too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return fit(data, config, hooks or FitHooks(), target_precision=target_precision)
    finally:
        torch.set_num_threads(threads)


def fitted(*, joint: bool = True, groups: int = 0) -> Fitted:
    """Return a model fitted to the world: the same one whenever it is asked for."""
    return _fitted(joint, groups)


@cache
def _fitted(joint: bool, groups: int) -> Fitted:
    return fit_quietly(world(joint=joint).data(), recipe(groups=groups))


def checkpoint_of(fitted: Fitted) -> CheckpointRecord:
    """Return what a checkpoint of a fitted model says of itself."""
    return CheckpointRecord(
        base="open_clip:tiny",
        text=None,
        head=fitted.parts.head.config if fitted.parts.head is not None else None,
        train=recipe(),
        branches=fitted.kinds,
        fusion={group: dict(weights) for group, weights in fitted.fusion.items()},
        finetuned=bool(fitted.parts.backbone),
        epochs=fitted.report.epochs,
        taxonomy="labels",
        taxonomy_digest="0",
        novel_labels=tuple(label_id(number) for number in range(NUM_SEEN, NUM_LABELS)),
        data=None,
        weights_sha256="",
        versions={},
    )


def model_of(
    fitted: Fitted, *, joint: bool = True, parts: Parts | None = None, num_seen: int = NUM_SEEN
) -> TrainedModel:
    """Return a fitted model as it is when loaded, with other parts if they are given."""
    encoders = world(joint=joint).encoders
    record = ModelRecord(
        model_id="m1",
        encoder_id=encoders.image.encoder_id,
        text_encoder_id=encoders.text.text_encoder_id,
        kind="decoder",
        scorers=fitted.scorers,
        name=encoders.image.name,
        architecture="tiny",
        image_size=(8, 8),
        embedding_width=WIDTH,
        calibration="fitted",
        seen_labels=tuple(label_id(number) for number in range(num_seen)),
        checkpoint=checkpoint_of(fitted),
    )
    return TrainedModel(record, encoders, parts or fitted.parts, fitted.calibration)


def model(*, joint: bool = True, groups: int = 0) -> TrainedModel:
    """Return a model fitted to the world, loaded."""
    return model_of(fitted(joint=joint, groups=groups), joint=joint)


def mixed_model() -> TrainedModel:
    """Return a model fitted to the world with weights under which no branch is left out of `fused`."""
    return model_of(replace(fitted(), fusion=MIXED))


def _unit(vectors_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True))

"""Annotated images made ready to be trained on: which labels, and which images train, choose and calibrate.

Shapes: M images to train on, V images to validate on, N = M + V.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows.ground_truth import AnnotatedImages
from flows.train_plan import TrainPlan
from schemas.checkpoint import TrainingData
from schemas.digests import digest_of
from schemas.errors import RequestError
from schemas.taxonomy import VocabularyLabel

MAX_VALIDATION = 5000  # more images choose and calibrate no better, and their patch tokens stand in memory
MIN_IMAGES = 20  # fewer cannot be split into images to train on and images to judge by


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Annotated images, made ready: which labels are trained, and which images train, choose and calibrate."""

    images: AnnotatedImages
    vocabulary: tuple[VocabularyLabel, ...]  # the labels that are trained
    without_positives: tuple[str, ...]
    positives: list[list[int]]  # columns of `vocabulary`, by image
    absent: list[list[int]]
    train_M: NDArray[np.int64]
    validation_V: NDArray[np.int64]
    training_id: str


def prepare_lesson(plan: TrainPlan, images: AnnotatedImages) -> Lesson:
    """Split the images and choose the labels. Of a novel label nothing comes through here.

    Images are split by their content, so that copies of one picture never stand on both sides, and so that a shard
    more moves no image from one side to the other.

    Raises:
        RequestError: too few images, or no label with enough of them.
    """
    recipe = plan.request.recipe
    share = min(recipe.validation_share, MAX_VALIDATION / len(images))
    held_out = np.array([_draw(row.sha256 or row.key, recipe.seed) < share for row in images.rows])
    train_M, validation_V = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    damaged = f"; {len(images.damaged)} side files cannot be used" if images.damaged else ""
    if len(images) < MIN_IMAGES or not len(train_M) or not len(validation_V):
        raise RequestError(
            f"{len(images)} annotated images, {len(validation_V)} of them to validate on, are too few to train on: at "
            f"least {MIN_IMAGES} are needed, hundreds are sensible, some on either side (raise validation_share); "
            f"copies of one picture stand on one side{damaged}"
        )
    counts = Counter(label_id for row in train_M.tolist() for label_id in images.labels[row])
    wanted = [label.id for label in plan.taxonomy.active_labels() if label.id not in plan.novel]
    trained = [label_id for label_id in wanted if counts[label_id] >= recipe.min_positives]
    if not trained:
        raise RequestError(
            f"no label of the taxonomy has {recipe.min_positives} training images or more, novel ones left aside: "
            "annotate more, or lower min_positives"
        )
    if recipe.missing == "unknown" and not any(images.absent):
        raise RequestError(no_negatives("in the recipe"))
    column = {label_id: number for number, label_id in enumerate(trained)}
    identity = {
        "encoders": [plan.encoders.image.encoder_id, plan.encoders.text.text_encoder_id],
        "taxonomy": plan.taxonomy.digest,
        "novel": sorted(plan.novel),
        "ground_truth": images.digest,
        "recipe": recipe.model_dump(mode="json"),
        "target_precision": plan.request.target_precision,
    }
    return Lesson(
        images=images,
        vocabulary=plan.taxonomy.vocabulary(trained),
        without_positives=tuple(label_id for label_id in wanted if label_id not in column),
        positives=[[column[label_id] for label_id in labels if label_id in column] for labels in images.labels],
        absent=[[column[label_id] for label_id in labels if label_id in column] for labels in images.absent],
        train_M=train_M,
        validation_V=validation_V,
        training_id=digest_of(identity),
    )


def no_negatives(where: str) -> str:
    """Say why nothing can be learned or judged where nobody said that a label is absent."""
    return (
        f'no side file names a label under "absent", and with missing = "unknown" ({where}) all that is not named is '
        'unknown: there is no negative. Annotate some, or say missing = "negative"'
    )


def _draw(text: str, seed: int) -> float:
    """Return a number from 0 to 1 that is always the same for this text and seed."""
    return int(hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()[:12], 16) / 16**12


def training_data(plan: TrainPlan, lesson: Lesson) -> TrainingData:
    """Return what the checkpoint says of the images it was trained on."""
    images = lesson.images
    return TrainingData(
        dataset=plan.dataset,
        root=plan.found.root,
        patterns=plan.found.patterns,
        digest=images.digest,
        shards=images.shards,
        images=len(images),
        train_images=len(lesson.train_M),
        validation_images=len(lesson.validation_V),
        positives=sum(map(len, lesson.positives)),
        unknown_labels=images.unknown_words(),
    )

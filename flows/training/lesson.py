"""Annotated images made ready to be trained on: which labels, and which images train, choose and calibrate.

Shapes: M images to train on, V images to validate on, N = M + V.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flows.training.annotated_images import AnnotatedImages
from flows.training.plan import TrainPlan
from schemas.checkpoint import TrainingData, TrainingSource
from schemas.counts import counted
from schemas.digests import digest_of
from schemas.errors import RequestError
from schemas.sample import SampleRow
from schemas.taxonomy import VocabularyLabel

if TYPE_CHECKING:
    from clipdecoder.training.targets import Targets

MAX_VALIDATION = 5000  # more images choose and calibrate no better, and their patch tokens stand in memory
# Fewer images say too little of which branch to trust: on 40 of them the best one changes with the draw. So of a small
# ground truth more than the recipe's share validates, up to SMALL_SHARE.
MIN_VALIDATION, SMALL_SHARE = 200, 0.3
MIN_IMAGES = 20  # fewer cannot be split into images to train on and images to judge by
HELD_OUT = "held out"  # the salt of what compares models: it never changes


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Annotated images, made ready: which labels are trained, and which images train, choose and calibrate."""

    images: AnnotatedImages
    vocabulary: tuple[VocabularyLabel, ...]  # the labels that are trained
    without_positives: tuple[str, ...]
    without_negatives: tuple[str, ...]
    targets: Targets  # of all images and the labels of `vocabulary`
    train_M: NDArray[np.int64]
    validation_V: NDArray[np.int64]
    held_out_images: int  # in neither
    training_id: str


def prepare_lesson(plan: TrainPlan, images: AnnotatedImages) -> Lesson:
    """Split the images and choose the labels. Of a novel label nothing comes through here.

    Images are split by their content, so that copies of one picture never stand on both sides, and so that a shard
    more moves no image from one side to the other.

    A label is trained if enough training images have it, and if one at least is known not to have it: of a label with
    answers that are all yes nothing can be learned but that every image has it.

    Raises:
        RequestError: too few images, or no label with enough of them.
    """
    recipe = plan.request.recipe
    train_M, validation_V = _split(plan, images)
    wanted = [label.id for label in plan.taxonomy.active_labels() if label.id not in plan.novel]
    targets = images.targets(wanted, recipe.missing)
    training = targets.subset(train_M)
    enough_K, both_K = training.positives_K() >= recipe.min_positives, training.negatives_K() > 0
    if not enough_K.any():
        raise RequestError(
            f"no label of the taxonomy has {recipe.min_positives} training images or more, novel ones left aside: "
            "annotate more, or lower min_positives"
        )
    columns = np.flatnonzero(enough_K & both_K)
    if not len(columns):
        raise RequestError(no_negatives("in the recipe"))
    return Lesson(
        images=images,
        vocabulary=plan.taxonomy.vocabulary([wanted[column] for column in columns]),
        without_positives=tuple(np.array(wanted)[~enough_K].tolist()),
        without_negatives=tuple(np.array(wanted)[enough_K & ~both_K].tolist()),
        targets=targets.select(columns),
        train_M=train_M,
        validation_V=validation_V,
        held_out_images=len(images) - len(train_M) - len(validation_V),
        training_id=digest_of(_identity(plan, images)),
    )


def _split(plan: TrainPlan, images: AnnotatedImages) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the images to train on and those to validate on; what is held out is in neither."""
    recipe, share = plan.request.recipe, plan.request.held_out_share
    learned = np.flatnonzero([not held_out(row, share) for row in images.rows])
    validation_share = _validation_share(recipe.validation_share, max(1, len(learned)))
    draws = [_draw(_content(images.rows[row]), recipe.seed) for row in learned.tolist()]
    drawn = np.array(draws, np.float64) < validation_share
    train_M, validation_V = learned[~drawn], learned[drawn]
    if len(learned) < MIN_IMAGES or not len(train_M) or not len(validation_V):
        damaged = f"; {counted(len(images.damaged), 'side file', 'cannot')} be used" if images.damaged else ""
        aside = f" besides {len(images) - len(learned)} held out" if share else ""
        raise RequestError(
            f"{len(learned)} annotated images{aside}, {len(validation_V)} of them to validate on, are too few to train "
            f"on: at least {MIN_IMAGES} are needed, hundreds are sensible, some on either side (raise "
            f"validation_share); copies of one picture stand on one side{damaged}"
        )
    return train_M, validation_V


def _validation_share(asked: float, num_images: int) -> float:
    """Return the share that validates: as asked, more where that is too few to choose by, less where it is a crowd."""
    return min(max(asked, min(SMALL_SHARE, MIN_VALIDATION / num_images)), MAX_VALIDATION / num_images)


def held_out(row: SampleRow, share: float) -> bool:
    """Whether an image is held out of every training that holds out this share: models are compared on it.

    The draw is by content alone and the same for ever. A larger share has the images of a smaller one and others.
    """
    return _draw(_content(row), HELD_OUT) < share


def _content(row: SampleRow) -> str:
    return row.sha256 or row.key


def _draw(text: str, salt: int | str) -> float:
    """Return a number from 0 to 1 that is always the same for this text and salt."""
    return int(hashlib.sha256(f"{salt}:{text}".encode()).hexdigest()[:12], 16) / 16**12


def _identity(plan: TrainPlan, images: AnnotatedImages) -> dict[str, Any]:
    """Return all that decides what a training learns."""
    share = plan.request.held_out_share
    return {
        "encoders": [plan.encoders.image.encoder_id, plan.encoders.text.text_encoder_id],
        "taxonomy": plan.taxonomy.digest,
        "novel": sorted(plan.novel),
        "ground_truth": images.digest,
        "recipe": plan.request.recipe.model_dump(mode="json"),
        "target_precision": plan.request.target_precision,
    } | ({"held_out_share": share} if share else {})


def no_negatives(where: str) -> str:
    """Say why nothing can be learned or judged where nobody said that a label is absent."""
    return (
        'no annotation says no: no side file names a label under "absent", no answer is a no, and what is not named is '
        f'unknown, by missing ({where}) or because no side file describes the image. Name some under "absent", answer '
        '(`clipdecoder review export`), or say missing = "negative"'
    )


def training_data(plan: TrainPlan, lesson: Lesson) -> TrainingData:
    """Return what the checkpoint says of the images it was trained on."""
    images = lesson.images
    return TrainingData(
        sources=tuple(
            TrainingSource(dataset=each.name, root=each.found.root, patterns=each.found.patterns)
            for each in plan.datasets
        ),
        digest=images.digest,
        shards=images.shards,
        images=len(images),
        held_out_images=lesson.held_out_images,
        train_images=len(lesson.train_M),
        validation_images=len(lesson.validation_V),
        positives=int(lesson.targets.positives_K().sum()),
        unknown_labels=images.unknown_words(),
    )

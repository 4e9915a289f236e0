"""Calibration as a plain function: a model's scorers fitted anew on annotated shards, as a model of its own.

The new model has the old one's weights and its own id, since its scores mean something else: rows of the old one stay
what they are. A zero-shot model becomes a checkpoint in this way, and its scores probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel

from flows.evaluation.judging import JudgePlan, truth_of, unlearned_images
from flows.evaluation.tables import decimal
from flows.training.annotated_images import AnnotatedImages
from flows.training.ground_truth import Watch
from flows.training.lesson import MIN_IMAGES
from flows.training.model_card import model_card
from flows.versions import versions
from schemas.checkpoint import CalibrationRow, Scorer, TrainingData, TrainingSource
from schemas.commands import store_command
from schemas.config import CalibrateRequest
from schemas.counts import counted
from schemas.errors import RequestError
from schemas.evaluation import CalibrationCheck
from schemas.manifest import ModelRecord
from schemas.tables import ANY_LABEL
from storage.checkpoints import with_id, write_checkpoint
from storage.files import Folder, checksum
from storage.taxonomies import write_taxonomy

if TYPE_CHECKING:
    from clipdecoder.judging.calibration import Calibrated
    from clipdecoder.scoring.trained_model import TrainedModel

MIN_NOVEL_LABELS = 3  # fewer say nothing about labels that nobody annotated
Fits = dict[Scorer, "Calibrated"]


class CalibrateSummary(BaseModel):
    """What a calibration came to, as `calibrate --json` prints it."""

    model_id: str
    calibrated_from: str
    store: str
    images: int
    left_out: int  # annotated images that the model had learned from
    labels: int  # with a map of their own now
    checks: dict[Scorer, list[CalibrationCheck]]
    unreached: dict[Scorer, list[str]]
    next_steps: list[str]

    def lines(self) -> list[str]:
        """Return the summary as Markdown lines, readable as plain text."""
        lines = [
            f"model {self.model_id}: {self.calibrated_from}, calibrated on "
            f"{counted(self.images, 'image')}, {counted(self.labels, 'label')}"
        ]
        if self.left_out:
            lines.append(
                f"- {counted(self.left_out, 'annotated image', 'were')} left out: the model had learned from such"
            )
        lines += [
            f"- {scorer}: calibration error of {check.group} labels {decimal(check.ece)} "
            f"(a constant: {decimal(check.constant_ece)}), log loss {decimal(check.log_loss)} "
            f"({decimal(check.constant_log_loss)})"
            for scorer, checks in self.checks.items()
            for check in checks
        ]
        for scorer, labels in self.unreached.items():
            if labels:
                lines.append(
                    f"- {scorer}: {counted(len(labels), 'label')} cannot reach the target precision, e.g. {labels[0]}"
                )
        return lines + [f"- next: {step}" for step in self.next_steps]


class CalibrationReport(BaseModel):
    """The `metrics.json` of a model that was calibrated anew."""

    calibrated_from: str
    checks: dict[Scorer, tuple[CalibrationCheck, ...]]
    unreached: dict[Scorer, tuple[str, ...]]


def run_calibration(plan: JudgePlan, watch: Watch = lambda stage, done, total: None) -> CalibrateSummary:
    """Fit the maps and thresholds of all of a model's scorers, and write them as a new checkpoint.

    Raises:
        RequestError: no image is annotated, the model learned from all that are, or no label has a positive.
        RunError: a shard cannot be read.
        StoreError: the store cannot be written.
    """
    request = plan.request
    assert isinstance(request, CalibrateRequest)
    tokens = plan.model.uses_tokens
    with unlearned_images(plan, watch, tokens=tokens) as (images, left_out):
        if len(images) < MIN_IMAGES:
            raise RequestError(
                f"{counted(len(images), 'annotated image', 'are')} too few to calibrate on; "
                f"at least {MIN_IMAGES} are needed"
            )
        label_ids = _judged_labels(plan, images)
        model = plan.model.as_checkpoint(images.embeddings_ND, images.tokens_NTC)
        fits = _fit(plan, model, images, label_ids, request.target_precision)
        record = _write(plan, model, images, fits)
    tag = "tag", "SHARDS", "--taxonomy", request.taxonomy, "--model", record.model_id
    promote = "models", "promote", record.model_id
    return CalibrateSummary(
        model_id=record.model_id,
        calibrated_from=plan.model.record.model_id,
        store=request.store,
        images=len(images),
        left_out=left_out,
        labels=len(label_ids),
        checks={scorer: list(done.checks) for scorer, done in fits.items()},
        unreached={scorer: list(done.unreached) for scorer, done in fits.items()},
        next_steps=[store_command(*words, store=request.store) for words in (tag, promote)],
    )


def _judged_labels(plan: JudgePlan, images: AnnotatedImages) -> tuple[str, ...]:
    """Return the active labels that at least one image has, and at least one is known not to have.

    Raises:
        RequestError: there is none.
    """
    label_ids = [label.id for label in plan.taxonomy.active_labels()]
    targets = images.targets(label_ids, plan.missing)
    judged_K = (targets.positives_K() > 0) & (targets.negatives_K() > 0)
    if not judged_K.any():
        raise RequestError(
            "no label has both an image that it is on and one that it is not on, so no score can be judged: annotate "
            "more images, or other ones"
        )
    return tuple(label_id for label_id, judged in zip(label_ids, judged_K, strict=True) if judged)


def _fit(
    plan: JudgePlan,
    model: TrainedModel,
    images: AnnotatedImages,
    label_ids: Sequence[str],
    target_precision: float | None,
) -> Fits:
    """Fit each scorer. Labels that the model was not trained on say what the logits of such labels mean."""
    from clipdecoder.judging.calibration import HeldOut, calibrate

    targets_NK = truth_of(plan, images, label_ids)
    novel_K = np.array([label_id not in set(model.record.seen_labels) for label_id in label_ids])
    fits: Fits = {}
    for scorer in model.record.scorers:
        known = [k for k, label_id in enumerate(label_ids) if model.can_score(label_id, scorer)]
        raw = model.standardised(plan.taxonomy.vocabulary([label_ids[k] for k in known]), scorer)
        logits_NK = raw.standardised(images.embeddings_ND, images.tokens_NTC)
        novel = novel_K[known]
        enough = novel.sum() >= MIN_NOVEL_LABELS
        done = calibrate(
            scorer,
            [label_ids[k] for k in known],
            HeldOut(logits_NK=logits_NK, targets_NK=targets_NK[:, known]),
            HeldOut(logits_NK=logits_NK[:, novel], targets_NK=targets_NK[:, known][:, novel]) if enough else None,
            target_precision=target_precision,
        )
        fits[scorer] = done
    return fits


def _rows(model: TrainedModel, fits: Fits) -> tuple[CalibrationRow, ...]:
    """Return the new rows, and the old ones of labels that have no new evidence.

    Without new evidence about labels that the model was not trained on, the old map for any label stays too.
    """
    rows: list[CalibrationRow] = []
    for scorer, done in fits.items():
        old = {row.label_id: row for row in model.calibration if row.scorer == scorer}
        new = {row.label_id: row for row in done.calibration.records()}
        if ANY_LABEL in old and new[ANY_LABEL].positives == 0:
            del new[ANY_LABEL]
        merged = old | new
        rows += [row for label_id, row in sorted(merged.items(), key=lambda item: item[0] == ANY_LABEL)]
    return tuple(rows)


def _write(plan: JudgePlan, model: TrainedModel, images: AnnotatedImages, fits: Fits) -> ModelRecord:
    folder, old = Folder(plan.request.store), model.record
    assert old.checkpoint is not None
    learned = np.union1d(model.parts.learned_from, images.fingerprints)
    weights = replace(model.parts, learned_from=learned).to_bytes()
    rows = _rows(model, fits)
    data = TrainingData(
        sources=(TrainingSource(dataset=plan.dataset, root=plan.found.root, patterns=plan.found.patterns),),
        digest=images.digest,
        shards=images.shards,
        images=len(images),
        train_images=0,
        validation_images=len(images),
        positives=sum(map(len, images.labels)),
        unknown_labels=images.unknown_words(),
    )
    checkpoint = old.checkpoint.model_copy(
        update={
            "calibrated_from": plan.model.record.model_id,
            "calibration_data": data,
            "weights_sha256": checksum(weights),
            "taxonomy": plan.taxonomy.name,
            "taxonomy_digest": plan.taxonomy.digest,
            "versions": versions(),
        }
    )
    record = with_id(old.model_copy(update={"checkpoint": checkpoint, "calibration": "fitted"}), rows)
    checks = {scorer: done.checks for scorer, done in fits.items()}
    write_taxonomy(folder, plan.taxonomy)
    write_checkpoint(
        folder,
        record,
        weights=weights,
        calibration=rows,
        metrics=CalibrationReport(
            calibrated_from=plan.model.record.model_id,
            checks=checks,
            unreached={scorer: done.unreached for scorer, done in fits.items()},
        ),
        card=model_card(record, checks),
    )
    return record

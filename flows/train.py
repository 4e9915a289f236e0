"""Training as a plain function: annotated shards in, a checkpoint in the store out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from flows.training.ground_truth import Watch, gather
from flows.training.lesson import Lesson, prepare_lesson, training_data
from flows.training.model_card import model_card
from flows.training.plan import TrainPlan
from flows.training.summary import TrainSummary, summarise_training
from flows.versions import versions
from schemas.checkpoint import CheckpointRecord
from schemas.errors import RunError, StoreError
from schemas.manifest import ModelRecord
from schemas.training_report import TrainingReport
from storage.annotations import read_answers
from storage.checkpoints import METRICS, with_id, write_checkpoint
from storage.files import Folder, checksum
from storage.models import promote, read_models, read_promotion
from storage.records import read_json
from storage.taxonomies import write_taxonomy
from storage.trainings import TrainingFolder

if TYPE_CHECKING:
    from clipdecoder.training.fitting import Fitted
    from clipdecoder.training.report import EpochReport
    from clipdecoder.training.stage import FitHooks


@dataclass(frozen=True, kw_only=True)
class TrainWatch:
    """Who is told how a training goes."""

    on_progress: Watch = lambda stage, done, total: None
    on_epoch: Callable[[str, EpochReport], None] = lambda stage, report: None


def run_train(plan: TrainPlan, watch: TrainWatch | None = None) -> TrainSummary | None:
    """Train, and write the checkpoint. A killed training goes on after its last whole epoch when it is asked again.

    Side files of the shards and answers of the store count alike.

    In a group of processes (`torchrun`) each comes here: the main one makes the features first and writes the model,
    and the others return nothing.

    Raises:
        RequestError: nothing in the shards can be learned from.
        RunError: a shard cannot be read, a loss is not finite, or the store can no longer be written.
    """
    from clipdecoder.training.distributed import barrier, is_main

    started, watch = time.perf_counter(), watch or TrainWatch()
    if not is_main():
        barrier()
    pixels = plan.request.recipe.finetune != "none"
    answers = read_answers(Folder(plan.request.store))
    with gather(plan.sources, plan.encoders.image, plan.taxonomy, answers, watch.on_progress, pixels=pixels) as images:
        if is_main():
            barrier()
        lesson = prepare_lesson(plan, images)
        record = _already_trained(plan, lesson)
        if record is None:
            record = _train(plan, lesson, watch)
        if record is None or not is_main():
            return None
        report = read_json(Folder(plan.request.store), f"models/{record.model_id}/{METRICS}", TrainingReport)
        return summarise_training(plan, lesson, report, record, time.perf_counter() - started)


def _already_trained(plan: TrainPlan, lesson: Lesson) -> ModelRecord | None:
    """Return the model that this very request made before, if the store has it."""
    for record in read_models(Folder(plan.request.store)).values():
        checkpoint = record.checkpoint
        if checkpoint is not None and checkpoint.training_id == lesson.training_id and not checkpoint.calibrated_from:
            return record
    return None


def _train(plan: TrainPlan, lesson: Lesson, watch: TrainWatch) -> ModelRecord | None:
    """Train and write the checkpoint; in a process that is not the main one return nothing.

    Raises:
        RunError: the store can no longer be written.
    """
    from clipdecoder.training.distributed import is_main

    try:
        fitted = _fit(plan, lesson, watch)
        return _write(plan, lesson, fitted) if is_main() else None
    except StoreError as error:
        raise RunError(
            f"the training stopped; mend the store, and the same command goes on after the last epoch kept: {error}"
        ) from error


def _fit(plan: TrainPlan, lesson: Lesson, watch: TrainWatch) -> Fitted:
    """Train on a lesson, from the last state that is kept."""
    from clipdecoder.training.fitting import fit
    from clipdecoder.training.inputs import FrozenInputs, PixelInputs
    from clipdecoder.training.stage import FitData

    images, encoders = lesson.images, plan.encoders
    inputs: FrozenInputs | PixelInputs
    if images.pixels_NHWC is not None:
        inputs = PixelInputs(pixels_NHWC=images.pixels_NHWC, encoder=encoders.image, scratch=images.scratch)
    else:
        assert images.tokens_NTC is not None
        inputs = FrozenInputs(embeddings_ND=images.embeddings_ND, tokens_NTC=images.tokens_NTC)
    data = FitData(
        inputs=inputs,
        targets=lesson.targets,
        queries_KQ=encoders.text.encode_vocabulary(lesson.vocabulary),
        label_ids=[label.label_id for label in lesson.vocabulary],
        fingerprints_N=images.fingerprints,
        train_M=lesson.train_M,
        validation_V=lesson.validation_V,
        joint=encoders.joint,
        local=encoders.joint and encoders.image.local,
        device=encoders.image.device,
    )
    kept = TrainingFolder(folder=Folder(plan.request.store), training_id=lesson.training_id)
    hooks = _hooks(kept, watch)
    return fit(data, plan.request.recipe, hooks, target_precision=plan.request.target_precision)


def _hooks(kept: TrainingFolder, watch: TrainWatch) -> FitHooks:
    from clipdecoder.training.stage import FitHooks

    def on_epoch(stage: str, report: EpochReport) -> None:
        kept.log({"stage": stage, **asdict(report)})
        watch.on_epoch(stage, report)

    return FitHooks(on_step=watch.on_progress, on_epoch=on_epoch, load=kept.load, save=kept.save)


def _write(plan: TrainPlan, lesson: Lesson, fitted: Fitted) -> ModelRecord:
    """Write the checkpoint, and drop what a killed training would have gone on from."""
    folder, image = Folder(plan.request.store), plan.encoders.image
    if fitted.parts.backbone:
        image = image.with_weights(fitted.parts.backbone)
    weights = fitted.parts.to_bytes()
    checkpoint = CheckpointRecord(
        base=image.name,
        text=plan.encoders.text.name if plan.request.text is not None else None,
        head=fitted.parts.head.config if fitted.parts.head is not None else None,
        train=plan.request.recipe,
        branches=fitted.kinds,
        fusion={group: dict(chosen) for group, chosen in fitted.fusion.items()},
        own_fusion=fitted.report.own_fusion,
        finetuned=bool(fitted.parts.backbone),
        epochs=fitted.report.epochs,
        taxonomy=plan.taxonomy.name,
        taxonomy_digest=plan.taxonomy.digest,
        novel_labels=plan.novel,
        data=training_data(plan, lesson),
        training_id=lesson.training_id,
        weights_sha256=checksum(weights),
        versions=versions(),
    )
    record = ModelRecord(
        model_id="",
        encoder_id=image.encoder_id,
        text_encoder_id=plan.encoders.text.text_encoder_id,
        kind="decoder",
        scorers=fitted.scorers,
        name=image.name,
        architecture=image.facts.architecture,
        image_size=image.transform.size,
        embedding_width=image.embedding_width,
        calibration="fitted",
        seen_labels=tuple(label.label_id for label in lesson.vocabulary),
        checkpoint=checkpoint,
    )
    record = with_id(record, fitted.calibration)
    write_taxonomy(folder, plan.taxonomy)
    write_checkpoint(
        folder,
        record,
        weights=weights,
        calibration=fitted.calibration,
        metrics=fitted.report,
        card=model_card(record, fitted.report.calibration, fitted.report.branches),
    )
    if read_promotion(folder) is None:
        promote(folder, record.model_id, "the first model of this store")
    TrainingFolder(folder=folder, training_id=lesson.training_id).clear()
    return record

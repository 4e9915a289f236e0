"""What a training came to: the numbers a person and a program are told."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from flows.evaluation.tables import decimal, percent
from flows.training.lesson import Lesson
from flows.training.plan import TrainPlan
from schemas.checkpoint import Scorer
from schemas.commands import store_command
from schemas.counts import counted
from schemas.manifest import ModelRecord
from schemas.training_report import BranchPrecision, TrainingReport
from storage.files import Folder
from storage.models import read_promotion

_SHOWN = 8


class TrainSummary(BaseModel):
    """What a training came to, as `train --json` prints it."""

    model_id: str
    store: str
    promoted: bool
    base: str
    images: int
    train_images: int
    validation_images: int
    seen_labels: int
    novel_labels: int
    held_out_images: int  # in neither: models are compared on them
    without_positives: list[str]  # active labels that too few training images have: not trained on
    without_negatives: list[str]  # active labels that no training image is known not to have: not trained on
    unknown_labels: dict[str, int]  # words in side files that are no label, the most frequent ones
    num_unknown_labels: int
    damaged: dict[str, str]  # side files that cannot be used, and why
    num_failed: int  # annotated images that cannot be decoded; `failures` says why
    left_out: int  # labels that the first stage did without
    epochs: int
    branches: list[BranchPrecision]
    scorers: list[Scorer]
    own_weights: list[str]  # labels whose branches have weights of their own
    ece: dict[str, float | None]  # of the first scorer, by group
    seconds: float
    next_steps: list[str]

    def lines(self) -> list[str]:
        """Return the summary as Markdown lines, readable as plain text."""
        lines = [
            f"model {self.model_id}: trained {counted(self.epochs, 'epoch')} on "
            f"{counted(self.train_images, 'image')} and "
            f"{counted(self.seen_labels, 'label')} in {self.seconds:.0f} s",
            f"- {counted(self.novel_labels, 'label', 'were')} held out as novel; "
            f"{counted(self.validation_images, 'image')} chose and "
            "calibrated",
        ]
        if self.without_positives:
            lines.append(
                f"- {counted(len(self.without_positives), 'label', 'have')} too few training images: "
                + _some(self.without_positives)
            )
        if self.without_negatives:
            lines.append(
                f"- {counted(len(self.without_negatives), 'label', 'are')} not trained on, as every training image has "
                f"the label, or may have it: {_some(self.without_negatives)}; answer "
                "some with no (`clipdecoder review export`)"
            )
        if self.held_out_images:
            lines.append(f"- {counted(self.held_out_images, 'image', 'were')} held out of it, to compare models on")
        if self.unknown_labels:
            words = [f"{word!r} ({count})" for word, count in self.unknown_labels.items()]
            more = self.num_unknown_labels - len(words)
            lines.append(
                f"- no label of the taxonomy: {counted(self.num_unknown_labels, 'word')} of side files: "
                + _some([*words, *[""] * more])
            )
        if self.damaged:
            damaged = [f"{key}: {why}" for key, why in self.damaged.items()]
            lines.append(f"- {counted(len(self.damaged), 'side file', 'cannot')} be used: {_some(damaged)}")
        if self.num_failed:
            lines.append(f"- {counted(self.num_failed, 'annotated image', 'cannot')} be decoded and used")
        if not self.left_out:
            lines.append(
                "- too few labels have positives among the validation images to leave any out: what novel labels score "
                "is a guess from what was never trained; annotate more, or raise validation_share"
            )
        lines += [
            f"- {branch.branch}: mAP {percent(branch.seen)} on seen labels, {percent(branch.novel)} on labels left out"
            for branch in self.branches
        ]
        if self.own_weights:
            lines.append(
                f"- with weights of their own: {counted(len(self.own_weights), 'label')}: {_some(self.own_weights)}"
            )
        lines.append(
            f"- calibration error of {self.scorers[0]}: "
            + ", ".join(f"{decimal(value)} {group}" for group, value in self.ece.items())
        )
        lines.append(
            "- these numbers chose epochs and weights: `clipdecoder evaluate` on other shards says what it is worth"
        )
        return lines + [f"- next: {step}" for step in self.next_steps]


def summarise_training(
    plan: TrainPlan, lesson: Lesson, report: TrainingReport, record: ModelRecord, seconds: float
) -> TrainSummary:
    """Return the summary of a training that has ended well."""
    promotion = read_promotion(Folder(plan.request.store))
    promoted = promotion is not None and promotion.model_id == record.model_id
    images = lesson.images
    return TrainSummary(
        model_id=record.model_id,
        store=plan.request.store,
        promoted=promoted,
        base=record.name,
        images=len(images),
        train_images=len(lesson.train_M),
        validation_images=len(lesson.validation_V),
        seen_labels=len(lesson.vocabulary),
        novel_labels=len(plan.novel),
        held_out_images=lesson.held_out_images,
        without_positives=list(lesson.without_positives),
        without_negatives=list(lesson.without_negatives),
        unknown_labels=images.unknown_words(),
        num_unknown_labels=len(images.unknown),
        damaged=images.damaged,
        num_failed=images.num_failed,
        left_out=len(report.left_out),
        epochs=report.epochs,
        branches=list(report.branches),
        scorers=list(record.scorers),
        own_weights=sorted(report.own_fusion),
        ece={check.group: check.ece for check in report.calibration[record.scorers[0]]},
        seconds=round(seconds, 1),
        next_steps=_next_steps(plan, record, promoted=promoted),
    )


def _next_steps(plan: TrainPlan, record: ModelRecord, *, promoted: bool) -> list[str]:
    store = plan.request.store
    words = "SHARDS", "--taxonomy", plan.request.taxonomy, "--model", record.model_id
    steps = [store_command(name, *words, store=store) for name in ("evaluate", "tag")]
    if not promoted:
        promote = store_command("models", "promote", record.model_id, store=store)
        steps.append(f"`scores` and `tags` show another model; {promote}")
    return steps


def _some(words: Sequence[str]) -> str:
    rest = len(words) - _SHOWN
    return ", ".join(words[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")

"""A checkpoint's model card: what it is, what it was trained on, what is known of it, and what is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from flows.evaluation.tables import decimal, percent
from flows.markdown_tables import table
from schemas.checkpoint import CheckpointRecord, Scorer, TrainingData
from schemas.counts import counted
from schemas.evaluation import CalibrationCheck
from schemas.manifest import ModelRecord
from schemas.training_report import BranchPrecision

_SHOWN_LABELS = 60
_CALIBRATION_COLUMNS = (
    "scorer",
    "labels",
    "ECE",
    "constant predictor's ECE",
    "log loss",
    "constant predictor's",
)


def model_card(
    record: ModelRecord,
    checks: Mapping[Scorer, Sequence[CalibrationCheck]],
    branches: Sequence[BranchPrecision] = (),
) -> str:
    """Return the card as Markdown.

    Args:
        record: of the checkpoint.
        checks: how good each scorer's calibration is.
        branches: what each branch is worth on validation images, where it was trained.
    """
    checkpoint = record.checkpoint
    assert checkpoint is not None
    lines = [f"# {record.model_id}", "", _what(checkpoint), "", *table(("", ""), _facts(record, checkpoint)), ""]
    if branches:
        lines += _branches(branches)
    lines += _calibration(checks)
    lines += _labels(record, checkpoint)
    lines += ["## Limits", "", _novel_scores(checks), ""]
    lines.append(
        "Pictures of another kind than those it was calibrated on need a calibration of their own (`clipdecoder "
        "calibrate`). The base and the text encoder are not in this folder: they must stay where they were."
    )
    return "\n".join(lines) + "\n"


def _novel_scores(checks: Mapping[Scorer, Sequence[CalibrationCheck]]) -> str:
    """Say what a novel label's scores rest on."""
    if any(check.group == "novel" for of_scorer in checks.values() for check in of_scorer):
        return (
            "A novel label's scores rest on labels that the scorer was not trained on, and on how well it knew them: "
            "they are probabilities for labels like those."
        )
    return (
        "No label could be left out to learn what a novel label's logit means: its scores are those of a usual seen "
        "label, and too high."
    )


def _what(checkpoint: CheckpointRecord) -> str:
    kind = "A CLIP-Decoder checkpoint" if checkpoint.head is not None else "A zero-shot CLIP model, calibrated,"
    return f"{kind} of clipdecoder {checkpoint.versions['clipdecoder']}: scores any vocabulary."


def _facts(record: ModelRecord, checkpoint: CheckpointRecord) -> Iterator[tuple[str, str]]:
    finetuned = "trained along" if checkpoint.finetuned else "frozen"
    yield "backbone", f"`{checkpoint.base}` ({record.architecture}), {finetuned}, encoder {record.encoder_id}"
    yield "text encoder", f"`{checkpoint.text or checkpoint.base}`, {record.text_encoder_id}"
    yield "scorers", f"{', '.join(record.scorers)}"
    if checkpoint.head is not None and checkpoint.train is not None:
        shape = ", ".join(f"{name} {value}" for name, value in checkpoint.head.model_dump().items())
        yield "head", f"{shape}"
        yield "epochs, seed", f"{checkpoint.epochs}, {checkpoint.train.seed}"
    yield "taxonomy", f"{checkpoint.taxonomy} ({checkpoint.taxonomy_digest})"
    if checkpoint.data is not None:
        yield "trained on", f"{counted(checkpoint.data.train_images, 'image')}{_source(checkpoint.data)}"
        yield "chosen and calibrated on", f"{checkpoint.data.validation_images} others of them"
        if checkpoint.data.held_out_images:
            yield "held out, to compare models on", f"{checkpoint.data.held_out_images} others"
    if checkpoint.calibration_data is not None:
        data = checkpoint.calibration_data
        yield "calibrated anew on", f"{counted(data.validation_images, 'image')}{_source(data)}"
        yield "calibrated from", f"{checkpoint.calibrated_from}"


def _source(data: TrainingData) -> str:
    sources = ", ".join(f"{source.dataset!r} ({source.root})" for source in data.sources)
    return f" of dataset{'s' if len(data.sources) > 1 else ''} {sources}, {counted(data.positives, 'positive')}"


def _branches(branches: Sequence[BranchPrecision]) -> Iterator[str]:
    yield from ("## What each branch is worth on the validation images", "")
    rows = ((each.branch, percent(each.seen), percent(each.novel)) for each in branches)
    yield from table(("branch", "mAP seen", "mAP of labels left out"), rows)
    yield from ("", "These images chose epochs and weights of `fused`: the numbers are a little too good.", "")


def _calibration(checks: Mapping[Scorer, Sequence[CalibrationCheck]]) -> Iterator[str]:
    yield from ("## Calibration, cross-fitted", "")
    rows = (
        (scorer, check.group, *map(decimal, (check.ece, check.constant_ece, check.log_loss, check.constant_log_loss)))
        for scorer, of_scorer in checks.items()
        for check in of_scorer
    )
    yield from table(_CALIBRATION_COLUMNS, rows)
    yield ""


def _labels(record: ModelRecord, checkpoint: CheckpointRecord) -> Iterator[str]:
    shown, more = record.seen_labels[:_SHOWN_LABELS], len(record.seen_labels) - _SHOWN_LABELS
    yield from ("## Labels", "")
    yield f"{len(record.seen_labels)} seen: {', '.join(shown) or 'none'}{f' and {more} more' if more > 0 else ''}."
    yield from ("", f"{len(checkpoint.novel_labels)} of the taxonomy were held out as novel, captions included.", "")

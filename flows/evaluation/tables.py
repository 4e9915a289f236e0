"""An evaluation in words and tables: what was tested on what, the scorers side by side, the worst and best labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from schemas.counts import counted
from schemas.evaluation import Evaluation, GroupMetrics, GroupName, LabelEvaluation, ScorerEvaluation, ScorerName
from storage.terminal import draw_table

_SHOWN_LABELS = 10  # of the worst, and of the best, in the terminal
GROUPS: tuple[GroupName, ...] = get_args(GroupName)

# What a label's average precision is compared with, the most telling first; the first two that were measured are shown.
_COMPARED: tuple[ScorerName, ...] = ("clip", "ridge", "linear", "label_ridge")
_MAX_COMPARED = 2


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number of the table of scorers."""

    heading: str
    group: GroupName | None  # None: of no single group
    value: Callable[[ScorerEvaluation], float | None]
    show: Callable[[float | None], str]
    higher_is_better: bool = True


def percent(value: float | None) -> str:
    """Return a share in per cent with one decimal: 0.4821 is 48.2; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f}"


def decimal(value: float | None) -> str:
    """Return a number with three decimals, as errors of calibration are written; a dash where there is none."""
    return "-" if value is None else f"{value:.3f}"


def statement(evaluation: Evaluation) -> list[str]:
    """Return sentences that say what was tested, on which images and labels, and what is in no number."""
    images = f"{evaluation.num_images:,} annotated images of {evaluation.dataset}"
    lines = [f"{evaluation.scorer} of model {evaluation.model_id} on {images}; {protocol(evaluation)}"]
    lines += [_labels_line(metrics) for metrics in groups_of(evaluation.scorers[0])]
    cells = [f"{counted(evaluation.num_positives, 'positive')}"]
    if evaluation.num_unknown:
        cells.append(f"in no number: {counted(evaluation.num_unknown, 'cell')} that nobody annotated")
    if evaluation.num_failed:
        cells.append(f"in no number: {counted(evaluation.num_failed, 'image')} that could not be scored")
    lines.append("; ".join(cells))
    if evaluation.calibration == "none":
        lines.append("the model is not calibrated: its scores are a prior, and ECE, thresholds and F1 at them say so")
    return lines


def protocol(evaluation: Evaluation) -> str:
    """Return which images each group of labels is tested on."""
    if evaluation.protocol == "A":
        return "protocol A: every group of labels is tested on all of them"
    return "protocol F: a group of labels is tested on the images that have at least one of them"


def groups_of(scorer: ScorerEvaluation) -> list[GroupMetrics]:
    """Return the groups that exist here; `all` only beside both others, as it is the same as the one otherwise."""
    found = [metrics for metrics in (scorer.seen, scorer.novel) if metrics is not None]
    return [*found, scorer.all] if len(found) == 2 and scorer.all is not None else found


def ranking_columns(evaluation: Evaluation) -> list[Column]:
    """Return mAP of each group and the harmonic mean of seen and novel."""
    groups = [metrics.group for metrics in groups_of(evaluation.scorers[0])]
    columns = [Column(heading="mAP", group=group, value=_mean_ap(group), show=percent) for group in groups]
    if len(groups) > 1:
        columns.append(Column(heading="H", group=None, value=lambda row: row.harmonic_mean, show=percent))
    return columns


def f1_columns(evaluation: Evaluation) -> list[Column]:
    """Return F1@k of each group, by k."""
    groups = groups_of(evaluation.scorers[0])
    return [
        Column(heading=f"F1@{f1.k}", group=metrics.group, value=_f1(metrics.group, position), show=percent)
        for position, f1 in enumerate(groups[0].f1_at)
        for metrics in groups
    ]


def calibration_columns(evaluation: Evaluation) -> list[Column]:
    """Return the calibration error of seen and of novel labels: over all cells, and over those that may be a yes."""
    groups = [metrics.group for metrics in groups_of(evaluation.scorers[0]) if metrics.group != "all"]
    fields = {"ECE": "ece", "ECE likely": "likely_ece", "Brier": "brier", "log loss": "log_loss"}
    return [
        Column(heading=heading, group=group, value=_field(group, name), show=decimal, higher_is_better=False)
        for heading, name in fields.items()
        for group in groups
    ]


def ranked_labels(evaluation: Evaluation) -> list[LabelEvaluation]:
    """Return the labels that have an average precision, the worst first; equal ones by id."""
    return sorted(
        (label for label in evaluation.labels if label.average_precision is not None),
        key=lambda label: (label.average_precision, label.label_id),
    )


def compared_scorers(evaluation: Evaluation) -> list[ScorerName]:
    """Return the scorers whose average precision stands beside a label's own, at most two."""
    present = {row.scorer for row in evaluation.scorers[1:]}
    return [name for name in _COMPARED if name in present][:_MAX_COMPARED]


def draw_tables(evaluation: Evaluation, width: int | None) -> list[str]:
    """Return titled tables for a terminal: ranking and calibration, F1@k, and the worst and best labels.

    Args:
        evaluation: what to show.
        width: characters at which cells fold; None, where nobody looks at it.
    """
    columns = ranking_columns(evaluation) + [c for c in calibration_columns(evaluation) if c.heading == "ECE"]
    tables = [
        _titled("Scorers (mAP in per cent, H: harmonic mean of seen and novel)", _scorers(evaluation, columns, width)),
        _titled(
            "F1@k in per cent: of each image, the k surest labels of the group count as said",
            _scorers(evaluation, f1_columns(evaluation), width),
        ),
    ]
    ranked = ranked_labels(evaluation)
    if len(ranked) <= 2 * _SHOWN_LABELS:
        return [*tables, _titled("Labels, the worst first", _labels(evaluation, ranked, width))]
    return [
        *tables,
        _titled(f"The {_SHOWN_LABELS} worst labels", _labels(evaluation, ranked[:_SHOWN_LABELS], width)),
        _titled(f"The {_SHOWN_LABELS} best labels", _labels(evaluation, ranked[: -_SHOWN_LABELS - 1 : -1], width)),
    ]


def _mean_ap(group: GroupName) -> Callable[[ScorerEvaluation], float | None]:
    return _field(group, "mean_average_precision")


def _field(group: GroupName, name: str) -> Callable[[ScorerEvaluation], float | None]:
    def value(row: ScorerEvaluation) -> float | None:
        metrics: GroupMetrics | None = getattr(row, group)
        found: float | None = getattr(metrics, name, None)
        return found

    return value


def _f1(group: GroupName, position: int) -> Callable[[ScorerEvaluation], float | None]:
    def value(row: ScorerEvaluation) -> float | None:
        metrics: GroupMetrics | None = getattr(row, group)
        return metrics.f1_at[position].f1 if metrics is not None and metrics.f1_at else None

    return value


def _labels_line(metrics: GroupMetrics) -> str:
    why = "without a positive or a negative and so without AP"
    skipped = f", {metrics.num_skipped} of them {why}" if metrics.num_skipped else ""
    name = "seen and novel together" if metrics.group == "all" else metrics.group
    return f"{name}: {counted(metrics.num_labels, 'label')}{skipped}, {counted(metrics.num_images, 'image')}"


def _titled(title: str, table: str) -> str:
    return f"{title}\n{table}"


def _scorers(evaluation: Evaluation, columns: Sequence[Column], width: int | None) -> str:
    headings = [(f"{column.heading}\n{column.group or ''}".rstrip(), True) for column in columns]
    rows = [[row.scorer, *(column.show(column.value(row)) for column in columns)] for row in evaluation.scorers]
    return draw_table([("scorer", False), *headings], rows, width)


def _labels(evaluation: Evaluation, labels: Sequence[LabelEvaluation], width: int | None) -> str:
    others = compared_scorers(evaluation)
    headings = [("label", False), ("", False), ("positives", True), ("AP", True)]
    headings += [(name, True) for name in others] + [("F1", True)]
    rows = [
        [
            label.name,
            "seen" if label.seen else "novel",
            f"{label.num_positives:,}",
            percent(label.average_precision),
            *(percent(label.other_average_precisions.get(name)) for name in others),
            percent(label.f1),
        ]
        for label in labels
    ]
    return draw_table(headings, rows, width)

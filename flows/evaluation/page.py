"""An evaluation as one self-contained HTML page: scorers, labels, curves, reliability, pictures. It loads nothing.

It is read without JavaScript too; with it, labels can be sorted and searched. Its size is bounded whatever the
vocabulary: 0.3 KB for each label in the table (`MAX_ROWS`) and for each bar (`MAX_BARS` a group), 5 KB for each label
shown in full (`MAX_DETAILED`), and the pictures, which have a budget of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from flows.evaluation.drawings import SIDE, ReliabilityPoint, curve_path, histogram_bars, reliability_points
from flows.evaluation.pictures import Place, data_url
from flows.evaluation.tables import (
    Column,
    calibration_columns,
    compared_scorers,
    decimal,
    f1_columns,
    groups_of,
    percent,
    ranked_labels,
    ranking_columns,
    statement,
)
from schemas.evaluation import (
    LIKELY_SCORE,
    EvaluatedImage,
    Evaluation,
    GroupMetrics,
    GroupName,
    LabelEvaluation,
    Reliability,
    ScorerEvaluation,
    ScorerName,
)
from storage.terminal import visible

MAX_DETAILED = 80  # labels shown in full: half of them the worst, half the best
MAX_ROWS = 2_000  # labels in the table, the worst ones
MAX_BARS = 500  # bars of a group; of more labels every second, third and so on is drawn
_PER_KIND = 3  # pictures of each kind per label

SCORER_MEANINGS: dict[ScorerName, str] = {
    "fused": "sum of decoder, CLIP and linear branches, standardised per label, with weights chosen on held-out data",
    "decoder": "attention from the label's text query to the patches of the picture",
    "clip": "cosine of picture and label, as CLIP has it; nothing was trained",
    "clip+local": "clip with the best patch's cosine beside the whole picture's; nothing was trained",
    "linear": "ridge regression from the pooled embedding, joined across labels by the likeness of their texts",
    "ridge": "baseline: ridge regression from the pooled embedding to the text embedding of the picture's labels",
    "label_ridge": "baseline: one ridge regression per seen label from the pooled embedding; it knows no novel label",
    "constant": "baseline: every picture gets each label's frequency in training, so it ranks labels and no pictures",
    "chance": "baseline: what a random order of pictures, and k random labels of each, get on average",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number in the table of scorers."""

    text: str
    best: bool


@dataclass(frozen=True, kw_only=True)
class ScorerTable:
    """The scorers side by side."""

    headings: dict[str, list[Column]]  # columns under what they have in common
    rows: list[tuple[ScorerEvaluation, tuple[Cell, ...]]]


@dataclass(frozen=True, kw_only=True)
class Diagram:
    """The reliability of one group, with the constant predictor's numbers to hold it against."""

    group: GroupName
    points: list[ReliabilityPoint]
    metrics: GroupMetrics | None
    constant: GroupMetrics | None


@dataclass(frozen=True, kw_only=True)
class Bars:
    """The labels of one group by rank, the best first, thinned where there are too many to draw."""

    num_labels: int
    rows: list[Row]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One label in the table and, if it is shown in full, its place on the page."""

    label: LabelEvaluation
    detailed: bool
    anchor: str
    others: tuple[float | None, ...]  # average precision of the compared scorers
    base_rate: float  # share of positives: little less than a random order gets

    @property
    def gain(self) -> float | None:
        """The average precision above that of the first compared scorer."""
        mine, other = self.label.average_precision, self.others[0] if self.others else None
        return None if mine is None or other is None else mine - other


def evaluation_page(evaluation: Evaluation, pictures: Mapping[Place, bytes]) -> str:
    """Return the page. Names and keys are other people's text: they are escaped, control characters spelled out.

    Args:
        evaluation: what to show.
        pictures: small pictures of samples that `wanted_pictures` names; missing ones are shown as empty frames.
    """
    environment = Environment(
        loader=PackageLoader("flows", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(visible=visible, percent=percent, decimal=decimal)
    environment.globals.update(curve_path=curve_path, histogram_bars=histogram_bars, per_kind=_PER_KIND, side=SIDE)
    ranked = ranked_labels(evaluation)
    rows = _rows(evaluation, ranked)
    shown = {place: pictures[place] for place in wanted_pictures(evaluation) if place in pictures}
    return environment.get_template("evaluation.html").render(
        evaluation=evaluation,
        groups=groups_of(evaluation.scorers[0]),
        statement=statement(evaluation),
        table=_table(evaluation.scorers, ranking_columns(evaluation) + f1_columns(evaluation)),
        probabilities=_table([row for row in evaluation.scorers if row.probabilities], calibration_columns(evaluation)),
        meanings=SCORER_MEANINGS,
        rows=rows[:MAX_ROWS],
        num_left_out=max(0, len(rows) - MAX_ROWS),
        details=[row for row in rows if row.detailed],
        num_ranked=len(ranked),
        compared=compared_scorers(evaluation),
        bars={name: _bars(rows, seen=name == "seen") for name in ("seen", "novel")},
        curves={name: _curves(ranked, seen=name == "seen") for name in ("seen", "novel")},
        reliability=[_diagram(evaluation, each) for each in evaluation.reliability if each.group != "all"],
        likely=LIKELY_SCORE,
        sources={place: f"p{number}" for number, place in enumerate(shown)},
        urls=[data_url(picture) for picture in shown.values()],
        num_missing=len(wanted_pictures(evaluation)) - len(shown),
    )


def wanted_pictures(evaluation: Evaluation) -> list[Place]:
    """Return the samples whose pictures the page shows, each once, in the order of the page."""
    found: dict[Place, None] = {}
    for label in _detailed(ranked_labels(evaluation)):
        examples = label.examples
        for images in (examples.surest_right, examples.surest_wrong, examples.least_sure_positives):
            found.update(dict.fromkeys(_place(image) for image in images[:_PER_KIND]))
    return list(found)


def _place(image: EvaluatedImage) -> Place:
    return image.shard, image.sample


def _detailed(ranked: Sequence[LabelEvaluation]) -> list[LabelEvaluation]:
    """Return the labels to show in full: all of a small vocabulary, else the worst and the best."""
    if len(ranked) <= MAX_DETAILED:
        return list(ranked)
    half = MAX_DETAILED // 2
    return [*ranked[:half], *ranked[-half:]]


def _rows(evaluation: Evaluation, ranked: Sequence[LabelEvaluation]) -> list[Row]:
    """Return every label, the worst first, those without an average precision last."""
    skipped = [label for label in evaluation.labels if label.average_precision is None]
    detailed = {label.label_id for label in _detailed(ranked)}
    others = compared_scorers(evaluation)
    return [
        Row(
            label=label,
            detailed=label.label_id in detailed,
            anchor=f"label-{number}",
            others=tuple(label.other_average_precisions.get(name) for name in others),
            base_rate=label.num_positives / max(1, label.num_positives + label.num_negatives),
        )
        for number, label in enumerate([*ranked, *skipped])
    ]


def _bars(rows: Sequence[Row], *, seen: bool) -> Bars:
    ranked = [row for row in reversed(rows) if row.label.seen == seen and row.label.average_precision is not None]
    return Bars(num_labels=len(ranked), rows=ranked[:: math.ceil(len(ranked) / MAX_BARS) or 1])


def _curves(ranked: Sequence[LabelEvaluation], *, seen: bool) -> dict[str, list[LabelEvaluation]]:
    """Return the labels of one panel of curves: the best, the middle and the worst one stand out of the others."""
    labels = [label for label in ranked if label.seen == seen and label.curve is not None]
    marked = [labels[-1], labels[len(labels) // 2], labels[0]] if len(labels) >= 3 else labels[::-1]
    return {"marked": marked, "others": [label for label in _detailed(labels) if label not in marked]}


def _table(scorers: Sequence[ScorerEvaluation], columns: Sequence[Column]) -> ScorerTable:
    """Return the scorers' numbers, the best of each column marked; equal ones, as far as they are shown, all."""
    headings: dict[str, list[Column]] = {}
    for column in columns:
        headings.setdefault(column.heading, []).append(column)
    by_column = [_cells(scorers, column) for headed in headings.values() for column in headed]
    return ScorerTable(headings=headings, rows=list(zip(scorers, zip(*by_column, strict=True), strict=True)))


def _cells(scorers: Sequence[ScorerEvaluation], column: Column) -> list[Cell]:
    values = [column.value(row) for row in scorers]
    known = [value for value in values if value is not None]
    best = (max if column.higher_is_better else min)(known, default=None)
    texts = [column.show(value) for value in values]
    return [Cell(text=text, best=best is not None and text == column.show(best)) for text in texts]


def _diagram(evaluation: Evaluation, reliability: Reliability) -> Diagram:
    constant = next((row for row in evaluation.scorers if row.scorer == "constant"), None)
    return Diagram(
        group=reliability.group,
        points=reliability_points(reliability.bins),
        metrics=getattr(evaluation.scorers[0], reliability.group),
        constant=getattr(constant, reliability.group, None),
    )

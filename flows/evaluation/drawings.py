"""The geometry of the evaluation page: curves, reliability diagrams and histograms as coordinates of their drawings.

Every drawing is a square or strip of `SIDE` units with y downwards, as SVG has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.counts import counted
from schemas.evaluation import PrecisionRecallCurve, ScoreBin, ScoreHistogram

SIDE = 200
_FEW_CELLS = 30  # a bin with fewer says little; it is drawn pale
_NORMAL_95 = 1.96


@dataclass(frozen=True, kw_only=True)
class ReliabilityPoint:
    """One bin of a reliability diagram: a point with the interval of its height, and a bar for its count."""

    x: float
    y: float
    low_y: float
    high_y: float
    few: bool
    left: float
    width: float
    bar: float  # share of the strip's height, logarithmic
    says: str


@dataclass(frozen=True, kw_only=True)
class HistogramBar:
    """One bin of scores: how high its positives stand and how deep its negatives hang, as shares of the most."""

    left: float
    width: float
    positives: float
    negatives: float
    says: str


def curve_path(curve: PrecisionRecallCurve) -> str:
    """Return the curve as steps, so that the area below is the average precision: a point holds back to the last."""
    path: list[str] = []
    for recall, precision in zip(curve.recall, curve.precision, strict=True):
        path.append(f"{'V' if path else 'M0 '}{round(SIDE * (1 - precision))}H{round(SIDE * recall)}")
    return "".join(path)


def reliability_points(bins: Sequence[ScoreBin]) -> list[ReliabilityPoint]:
    """Return the bins that have cells, with 95 % intervals (Wilson 1927) as if cells were independent."""
    most = max((math.log1p(each.count) for each in bins), default=0.0)
    return [
        _reliability_point(each, each.mean_score, each.positive_rate, math.log1p(each.count) / most)
        for each in bins
        if each.count and each.mean_score is not None and each.positive_rate is not None
    ]


def histogram_bars(histogram: ScoreHistogram) -> list[HistogramBar]:
    """Return the bins on a logarithmic scale that positives and negatives share: rare positives stay visible."""
    pairs = list(zip(histogram.positives, histogram.negatives, strict=True))
    most = max((math.log1p(max(pair)) for pair in pairs), default=0.0) or 1.0
    width = SIDE / len(pairs) if pairs else 0.0
    return [
        HistogramBar(
            left=round(position * width, 1),
            width=round(width, 1),
            positives=round(math.log1p(positives) / most, 3),
            negatives=round(math.log1p(negatives) / most, 3),
            says=f"{position / len(pairs):.2f} to {(position + 1) / len(pairs):.2f}: "
            f"{counted(positives, 'positive')}, {counted(negatives, 'negative')}",
        )
        for position, (positives, negatives) in enumerate(pairs)
        if positives or negatives
    ]


def wilson_interval(rate: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share that was measured on `count` independent cells."""
    square = _NORMAL_95**2 / count
    centre = (rate + square / 2) / (1 + square)
    half = _NORMAL_95 * math.sqrt(rate * (1 - rate) / count + square / (4 * count)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def _reliability_point(each: ScoreBin, mean_score: float, rate: float, bar: float) -> ReliabilityPoint:
    low, high = wilson_interval(rate, each.count)
    return ReliabilityPoint(
        x=round(SIDE * mean_score, 1),
        y=round(SIDE * (1 - rate), 1),
        low_y=round(SIDE * (1 - low), 1),
        high_y=round(SIDE * (1 - high), 1),
        few=each.count < _FEW_CELLS,
        left=round(SIDE * each.low, 1),
        width=round(SIDE * (each.high - each.low), 1),
        bar=round(bar, 3),
        says=f"scores {each.low:.2f} to {each.high:.2f}: {each.count:,} cells, mean score {mean_score:.3f}, "
        f"{100 * rate:.1f} % true",
    )

"""The drawings of a report, by matplotlib. Names of labels are not in them: the page writes those, in any script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from flows.report.svg import INK, LINE, NOVEL, SEEN, SOFT, inline_svg
from schemas.report import LabelFigures, ScoreHistogram

_MAX_POINTS = 400  # of a curve; of more labels every second, third and so on is drawn
_MAX_MARKS = 60  # a curve of more labels is a line alone
_MAX_TAGS = 20  # bars; pictures with more tags share the last one
_LETTERS = 9  # points: drawings are about as wide on the page as they are made
_WIDE_RANGE = 50  # largest over smallest, from which a scale is logarithmic


def draw_stages(stages: Mapping[str, float]) -> Markup:
    """Return the seconds of each stage as bars, the longest on top."""
    names, seconds = list(stages), list(stages.values())
    figure, axes = _figure(4.6, 0.5 + 0.28 * len(names), left=0.9, bottom=0.05)
    axes.barh(names, seconds, color=[INK, *[SOFT] * (len(names) - 1)], height=0.62)
    for row, value in enumerate(seconds):
        _write(axes, _seconds(value), (value, row), (4, 0), va="center", size=_LETTERS)
    axes.invert_yaxis()
    axes.set_xlim(0, max(seconds) * 1.22 or 1)
    axes.set_xticks([])
    _quiet(axes)
    return inline_svg(figure, f"seconds per stage: {', '.join(f'{k} {_seconds(v)}' for k, v in stages.items())}")


def draw_ranks(labels: Sequence[LabelFigures]) -> Markup:
    """Return how many images have each label, seen and novel ones each from the most frequent to the rarest."""
    figure, axes = _figure(4.6, 2.6, left=0.62, bottom=0.44)
    for group, colour in ((True, SEEN), (False, NOVEL)):
        tags = sorted((label.tags for label in labels if label.seen == group), reverse=True)
        ranks = range(1, len(tags) + 1)
        step = math.ceil(len(tags) / _MAX_POINTS) or 1
        marker = "none" if len(tags) > _MAX_MARKS else "o" if group else "D"
        axes.plot(ranks[::step], tags[::step], color=colour, marker=marker, markersize=3.2, linewidth=1.2)
    _count_scale(axes, [label.tags for label in labels])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("labels by rank", color=SOFT, size=_LETTERS)
    axes.set_ylabel("images", color=SOFT, size=_LETTERS)
    _quiet(axes, grid="y")
    return inline_svg(figure, "images per label, seen and novel labels by rank; the table has the numbers")


def draw_tags_per_picture(pictures: Mapping[int, int]) -> Markup:
    """Return how many pictures have how many tags."""
    last = min(max(pictures), _MAX_TAGS)
    heights = [sum(n for tags, n in pictures.items() if min(tags, last) == bar) for bar in range(last + 1)]
    figure, axes = _figure(4.6, 2.6, left=0.62, bottom=0.44)
    axes.bar(range(last + 1), heights, color=SOFT, width=0.72)
    ticks = range(0, last + 1, 1 if last <= 10 else 5)
    axes.set_xticks(ticks, [f"{tags}+" if tags == last < max(pictures) else str(tags) for tags in ticks])
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    axes.set_xlabel("tags of a picture", color=SOFT, size=_LETTERS)
    axes.set_ylabel("images", color=SOFT, size=_LETTERS)
    _quiet(axes, grid="y")
    says = ", ".join(f"{n:,} with {tags}" for tags, n in sorted(pictures.items())[:_MAX_TAGS])
    return inline_svg(figure, f"images by their number of tags: {says}")


def draw_histogram(histogram: ScoreHistogram, *, seen: bool) -> Markup:
    """Return a label's stored scores: what is tagged is dark, and the dashed line is the threshold."""
    figure, axes = _figure(3.0, 1.75, left=0.48, bottom=0.42)
    bins, low, high = len(histogram.counts), histogram.low, histogram.high
    width = (high - low) / bins or 1 / bins
    edges = [low + number * width for number in range(bins + 1)]
    cut = histogram.threshold
    for bar, count in enumerate(histogram.counts):
        if count:
            tagged = histogram.all_tagged or (cut is not None and edges[bar] + width / 2 >= cut)
            axes.bar(edges[bar], count, width, align="edge", color=SEEN if seen else NOVEL, alpha=1 if tagged else 0.4)
    axes.set_xlim(edges[0], edges[-1])
    _count_scale(axes, [count for count in histogram.counts if count])
    if cut is not None:
        axes.axvline(cut, color=INK, linewidth=1, linestyle=(0, (3, 2)))
        _name_cut(axes, cut, (cut - edges[0]) / (edges[-1] - edges[0]) > 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xlabel(histogram.axis, color=SOFT, size=_LETTERS - 1)
    _quiet(axes, grid="y")
    where = f"threshold {cut:.3f}" if cut is not None else "no threshold among them"
    return inline_svg(figure, f"{sum(histogram.counts):,} stored {histogram.axis}s, {low:.2f} to {high:.2f}; {where}")


def _name_cut(axes: Axes, cut: float, on_the_left: bool) -> None:
    offset, side = (-3, "right") if on_the_left else (3, "left")
    text, top = f"{round(cut, 2) + 0.0:.2f}", axes.get_ylim()[1]
    _write(axes, text, (cut, top), (offset, 0), ha=side, va="top", size=_LETTERS - 1)


def _write(axes: Axes, text: str, place: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    """Write beside a place of the data; the offset is in points."""
    axes.annotate(text, place, offset, textcoords="offset points", color=INK, **style)


def _figure(width: float, height: float, *, left: float, bottom: float) -> tuple[Figure, Axes]:
    """Return a figure of so many inches with one set of axes and margins of so many inches."""
    figure = Figure(figsize=(width, height))
    figure.patch.set_visible(False)
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + 0.08) / width, 1 - (bottom + 0.1) / height))
    axes.patch.set_visible(False)
    return figure, axes


def _quiet(axes: Axes, grid: str = "") -> None:
    """Leave of the axes what is read: letters, and pale lines behind the data."""
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(side == "bottom" and bool(grid))
        axes.spines[side].set_color(LINE)
    axes.tick_params(which="both", length=0, labelsize=_LETTERS - 1, labelcolor=SOFT, pad=3)
    if grid == "y":
        axes.grid(axis="y", which="major", color=LINE, linewidth=0.7)
        axes.set_axisbelow(True)


def _count_scale(axes: Axes, counts: Sequence[int]) -> None:
    """Scale the upright axis for counts: logarithmic where they differ much, with room for none at all."""
    most, least = max(counts, default=1), min(counts, default=1)
    if most > _WIDE_RANGE * max(1, least):
        axes.set_yscale("symlog", linthresh=1)
        axes.set_yticks([0, *(10**power for power in range(int(math.log10(most)) + 1))])
        axes.minorticks_off()
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    axes.set_ylim(0, most * (2 if axes.get_yscale() == "symlog" else 1.12) or 1)


def _short(value: float, _: object = None) -> str:
    """Return a count as short as it can be read: 1.2k, 3M."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def _seconds(value: float) -> str:
    return f"{value:,.1f} s" if value < 600 else f"{value / 60:,.0f} min"

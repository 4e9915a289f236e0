"""A run's report as one self-contained HTML page: it loads nothing, runs nothing, and is read in light and in dark.

Its size is bounded whatever the run: `MAX_ROWS` labels in the table, a few labels in full, and a budget for pictures.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flows.evaluation.pictures import Place, data_url, read_thumbnails
from flows.report.drawings import draw_histogram, draw_ranks, draw_stages, draw_tags_per_picture
from schemas.report import ChosenLabel, ReportPicture, ReportRequest, RunReport
from storage.files import Folder
from storage.runs import read_run
from storage.shard_pictures import StoredShard
from storage.terminal import visible

MAX_ROWS = 500  # labels in the table
PICTURE_BYTES = 4_000_000  # of all pictures on the page, in base64
_SIZES = ((176, 72), (160, 65), (144, 55), (128, 50), (112, 40), (80, 30), (48, 20))  # longest side, WebP quality
# How far a pair is from chance, in standard deviations of a Poisson count, and the shade that it gets.
_SHADES = ((8, 3), (4, 2), (2, 1))

_KINDS = {
    "above": ("Just above the threshold", "tagged, nearest to the threshold"),
    "below": ("Just below", "not tagged, nearest to the threshold"),
    "surest": ("Surest", "highest scores, tagged or not"),
    "surprising": ("Most surprising", "sure, and unlike the label's other pictures"),
}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two labels, and how many pictures have both."""

    count: int
    expected: float  # if one label said nothing about the other
    shade: str  # CSS class

    @property
    def ratio(self) -> str:
        """How many times as often as by chance."""
        return f"{self.count / self.expected:.1f} times chance" if self.expected else "never expected"


def report_page(report: RunReport, pictures: Mapping[Place, bytes]) -> str:
    """Return the page. Names, keys and messages are other people's text: escaped, control characters spelled out.

    Args:
        report: what to show.
        pictures: small pictures by shard and ordinal; what is missing is an empty frame, and counted.
    """
    loader = PackageLoader("flows", "pages")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = visible
    environment.filters["share"] = _share
    style, _, _ = loader.get_source(environment, "report.css")
    wanted = wanted_pictures(report)
    return environment.get_template("report.html").render(
        report=report,
        run=report.run,
        labels={label.label_id: label for label in report.labels},
        most=max((label.tags for label in report.labels), default=0) or 1,
        max_rows=MAX_ROWS,
        kinds=_KINDS,
        pairs=_pairs(report),
        drawings=_drawings(report),
        sources={place: data_url(pictures[place]) for place in wanted if place in pictures},
        with_pictures=bool(wanted),
        num_missing=sum(place not in pictures for place in wanted),
        place=_place,
        style=Markup(style),  # our own
        style_hash=f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}",
    )


def wanted_pictures(report: RunReport) -> dict[Place, str]:
    """Return the samples whose pictures the page shows, in its order, each with the SHA-256 of its bytes."""
    return {_place(picture): picture.sha256 for label in report.chosen for picture in _pictures(label)}


def read_pictures(
    request: ReportRequest, report: RunReport, on_shard: Callable[[int, int], None] = lambda done, total: None
) -> dict[Place, bytes]:
    """Return small pictures for the page; a shard that is gone, or has other bytes now, gives none."""
    folder = Folder(request.store)
    run = read_run(folder, report.run.run_id)
    wanted = wanted_pictures(report)
    return read_thumbnails(
        wanted,
        {shard.shard: shard.url for shard in run.reports},
        max_pixels=request.max_pixels,
        budget_bytes=PICTURE_BYTES,
        sizes=_SIZES,
        contents=wanted,
        stored={shard.shard: StoredShard(folder, shard) for shard in run.reports},
        on_shard=on_shard,
    )


def _pictures(label: ChosenLabel) -> tuple[ReportPicture, ...]:
    return label.above + label.below + label.surest + label.surprising


def _place(picture: ReportPicture) -> Place:
    return picture.shard, picture.sample


def _share(part: float, whole: float) -> str:
    """Return a share in percent, fine enough to tell little from nothing."""
    percent = 100 * part / whole if whole else 0
    return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{percent:.2g} %"


def _drawings(report: RunReport) -> dict[str, Markup]:
    """Return what there is to draw."""
    seen = {label.label_id: label.seen for label in report.labels}
    found = {each.label_id: draw_histogram(each.histogram, seen=seen[each.label_id]) for each in report.chosen}
    drawings = {f"label {label_id}": drawing for label_id, drawing in found.items()}
    if report.time.stages:
        drawings["stages"] = draw_stages(report.time.stages)
    if len(report.labels) > 1:
        drawings["ranks"] = draw_ranks(report.labels)
    if report.scored:
        drawings["tags"] = draw_tags_per_picture(report.tags_per_picture)
    return drawings


def _pairs(report: RunReport) -> list[list[Pair]]:
    """Return a row for each label of the table of pairs."""
    counts = report.together.counts
    return [
        [
            _pair(count, counts[row][row] * counts[column][column] / report.scored, diagonal=row == column)
            for column, count in enumerate(line)
        ]
        for row, line in enumerate(counts)
    ]


def _pair(count: int, expected: float, *, diagonal: bool) -> Pair:
    distance = (count - expected) / expected**0.5 if expected else 0
    shade = next((shade for least, shade in _SHADES if abs(distance) >= least), 0)
    kind = "self" if diagonal else f"{'more' if distance > 0 else 'less'}-{shade}" if shade else "chance"
    return Pair(count=count, expected=expected, shade=kind)

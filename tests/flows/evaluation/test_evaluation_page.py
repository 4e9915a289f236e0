"""The evaluation page and its tables: their numbers are the record's, strangers' text is harmless, size is bounded."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.evaluation.drawings import SIDE, curve_path, histogram_bars, reliability_points, wilson_interval
from flows.evaluation.page import MAX_BARS, MAX_DETAILED, MAX_ROWS, SCORER_MEANINGS, evaluation_page, wanted_pictures
from flows.evaluation.pictures import data_url, read_thumbnails
from flows.evaluation.tables import decimal, draw_tables, percent, statement
from schemas.evaluation import Evaluation, PrecisionRecallCurve, ScoreHistogram, ScorerName
from tests.flows.evaluations import SHARD_IMAGES, draw_targets, make_evaluation
from tests.nasty import build_tar, jpeg

NAMES = [f"label {number}" for number in range(24)]
MAX_PIXELS = 10_000


class Page(HTMLParser):
    """What a browser finds: tags opened and closed, ids, links, and the cells of every table row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.rows: list[list[str]] = []
        self.in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.ids.update(filter(None, [values.get("id")]))
        self.links.update(filter(None, [values.get("href"), values.get("src")]))
        if tag == "tr":
            self.rows.append([])
        self.in_cell = tag in ("td", "th") or (self.in_cell and tag != "tr")
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th", "tr", "tbody", "thead")

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.rows[-1][-1] += data.strip()

    def row(self, start: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == start)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Return 24 labels on 150 images in 3 shards; the last label has no positive."""
    targets_NK = draw_targets(150, len(NAMES))
    targets_NK[:, -1] = 0
    return make_evaluation(NAMES, targets_NK)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the URLs of the evaluation's three shards."""
    folder = tmp_path_factory.mktemp("shards")
    urls = {f"{number:05d}": str(folder / f"{number:05d}.tar") for number in range(3)}
    for number, url in enumerate(urls.values()):
        members = [(f"{i}.jpg", jpeg(100 * number + i)) for i in range(SHARD_IMAGES)]
        Path(url).write_bytes(build_tar(members))
    return urls


# --- tables ----------------------------------------------------------------------------------------------------------


def _cells(table: str, first: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"│ {first} "))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_tables_hold_the_numbers_of_the_record(evaluation: Evaluation) -> None:
    ranking, f1, worst, best = draw_tables(evaluation, 100)
    tested = evaluation.scorers[0]
    groups = tested.seen, tested.novel, tested.all
    assert tested.seen and tested.novel and tested.all
    assert _cells(ranking, "fused") == [
        "fused",
        *(percent(group.mean_average_precision) for group in groups if group),
        percent(tested.harmonic_mean),
        decimal(tested.seen.ece),
        decimal(tested.novel.ece),
    ]
    assert _cells(f1, "fused")[1:] == [percent(group.f1_at[at].f1) for at in range(2) for group in groups if group]
    assert _cells(ranking, "chance")[-2:] == ["-", "-"]
    lowest = min(label.average_precision for label in evaluation.labels if label.average_precision is not None)
    assert _cells(worst.split("┡")[1].split("\n", 1)[1], "label")[3] == percent(lowest)
    assert "The 10 best labels" in best and NAMES[-1] not in worst + best


def test_tables_fit_a_narrow_terminal(evaluation: Evaluation) -> None:
    assert max(len(line) for table in draw_tables(evaluation, 80) for line in table.splitlines()) <= 80


def test_the_statement_says_what_is_in_no_number(evaluation: Evaluation) -> None:
    said = "\n".join(statement(evaluation))
    assert "150 annotated images of scenes; protocol A" in said
    assert "novel: 6 labels, 1 of them without a positive" in said
    assert "2 images that could not be scored" in said and "not calibrated" not in said


def test_protocol_f_and_missing_calibration_are_said() -> None:
    targets_NK = draw_targets(40, 4)
    targets_NK[0, 0] = -1
    evaluation = make_evaluation(NAMES[:4], targets_NK, protocol="F", calibrated=False)
    said = "\n".join(statement(evaluation))
    assert "protocol F" in said and "not calibrated" in said and "1 cell that nobody annotated" in said
    page = evaluation_page(evaluation, {})
    assert "This model is not calibrated" in page and "Here it is F" in page


def test_without_novel_labels_there_are_no_columns_of_them() -> None:
    evaluation = make_evaluation(NAMES[:4], draw_targets(60, 4), novel=False)
    for table in draw_tables(evaluation, 100)[:2]:
        assert "novel" not in table.split("\n", 1)[1] and " all " not in table
    page = evaluation_page(evaluation, {})
    assert "harmonic mean<b>" not in page and "ECE novel" not in page and "ECE seen" in page


# --- page ------------------------------------------------------------------------------------------------------------


def test_page_columns_stand_under_their_headings(evaluation: Evaluation) -> None:
    page = Page(evaluation_page(evaluation, {}))
    tested = evaluation.scorers[0]
    groups = [group for group in (tested.seen, tested.novel, tested.all) if group]
    ranking = [percent(group.mean_average_precision) for group in groups] + [percent(tested.harmonic_mean)]
    f1 = [percent(group.f1_at[at].f1) for at in range(2) for group in groups]
    assert page.rows[0][2:] == ["mAP", "H", "F1@3", "F1@5"]
    assert page.rows[1] == ["seen", "novel", "all", "", "seen", "novel", "all", "seen", "novel", "all"]
    assert page.row("fused")[2:] == ranking + f1


def test_page_has_every_label_and_says_which_are_skipped(evaluation: Evaluation) -> None:
    page = Page(evaluation_page(evaluation, {}))
    assert {row[0] for row in page.rows if row} >= set(NAMES)
    assert "skipped: no positive" in page.row(NAMES[-1])
    assert page.tags.count("article") == len(NAMES) - 1


def test_page_loads_nothing(evaluation: Evaluation, shards: dict[str, str]) -> None:
    pictures = read_thumbnails(wanted_pictures(evaluation), shards, max_pixels=MAX_PIXELS)
    text = evaluation_page(evaluation, pictures)
    page = Page(text)
    assert {link.lstrip("#") for link in page.links} <= page.ids and all(link[0] == "#" for link in page.links)
    assert "http" not in text and "@import" not in text
    assert set(re.findall(r"url\((.{11})", text)) == {"data:image/"}
    assert text.count("data:image/webp;base64,") == len(pictures)
    assert "could not be read again" not in text


def test_text_of_strangers_is_escaped() -> None:
    names = ["<script>alert(1)</script>", 'a" onload="x', "\u202eevil\x1b[2J", "\ud800half"]
    keys = [f"</style><b>{row}\udc80\u2066" for row in range(60)]
    page = evaluation_page(make_evaluation(names, draw_targets(60, 4), keys=keys), {})
    assert "<script>alert" not in page and 'a" onload' not in page and "</style><b>" not in page
    assert "\u202e" not in page and "\x1b" not in page and "\\u202eevil" in page
    page.encode()
    assert Page(page).tags.count("script") == 1


def test_page_of_many_labels_is_bounded() -> None:
    names = [f"label {number}" for number in range(MAX_ROWS + 50)]
    evaluation = make_evaluation(names, draw_targets(80, len(names)))
    page = evaluation_page(evaluation, {})
    assert Page(page).tags.count("article") == MAX_DETAILED
    num_seen = sum(label.seen and label.average_precision is not None for label in evaluation.labels)
    drawn = math.ceil(num_seen / math.ceil(num_seen / MAX_BARS))
    assert f"{num_seen:,} seen labels, {drawn} of them drawn" in page and drawn <= MAX_BARS < num_seen
    assert "50 labels more, better ones" in page
    assert "The 40 worst and the 40 best labels" in page
    assert len(page) < 2_000_000
    assert len(wanted_pictures(evaluation)) <= MAX_DETAILED * 9


def test_every_scorer_is_explained() -> None:
    assert set(SCORER_MEANINGS) == set(get_args(ScorerName))


# --- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_are_the_wanted_samples(shards: dict[str, str]) -> None:
    wanted = [("00001", 3), ("00000", 49), ("00001", 0)]
    pictures = read_thumbnails(wanted, shards, max_pixels=MAX_PIXELS)
    assert set(pictures) == set(wanted) and len(set(pictures.values())) == 3
    assert all(data_url(picture).startswith("data:image/webp;base64,UklGR") for picture in pictures.values())


def test_what_cannot_be_read_is_missing_and_counted(evaluation: Evaluation, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.tar", tmp_path / "cut.tar"
    whole.write_bytes(build_tar([("a.jpg", jpeg(1)), ("b.jpg", b"no picture"), ("c.jpg", jpeg(2))]))
    cut.write_bytes(build_tar([("a.jpg", jpeg(1)), ("b.jpg", jpeg(2))])[:-12_000])
    urls = {"whole": str(whole), "cut": str(cut), "gone": str(tmp_path / "gone.tar")}
    wanted = [(shard, sample) for shard in (*urls, "unknown") for sample in range(3)]
    pictures = read_thumbnails(wanted, urls, max_pixels=MAX_PIXELS)
    assert {("whole", 0), ("whole", 2)} <= set(pictures) <= {("whole", 0), ("whole", 2), ("cut", 0)}
    missing = len(wanted_pictures(evaluation))
    assert f"{missing} pictures could not be read again" in evaluation_page(evaluation, pictures)


@pytest.mark.parametrize("budget_bytes", [0, 5_000, 30_000])
def test_pictures_keep_to_their_budget(shards: dict[str, str], budget_bytes: int) -> None:
    wanted = [(shard, sample) for shard in shards for sample in range(20)]
    pictures = read_thumbnails(wanted, shards, max_pixels=MAX_PIXELS, budget_bytes=budget_bytes)
    assert sum(len(data_url(picture)) for picture in pictures.values()) <= budget_bytes
    assert (len(pictures) == 60) == (budget_bytes == 30_000)


# --- drawings --------------------------------------------------------------------------------------------------------


def test_area_under_a_drawn_curve_is_the_average_precision(evaluation: Evaluation) -> None:
    for label in evaluation.labels:
        if label.curve is None or label.average_precision is None:
            continue
        steps = re.findall(r"(?:M0 |V)(\d+)H(\d+)", curve_path(label.curve))
        heights = np.array([SIDE - int(y) for y, _ in steps])
        widths = np.diff([int(x) for _, x in steps], prepend=0)
        assert (heights * widths).sum() / SIDE**2 == pytest.approx(label.average_precision, abs=0.02)


def test_a_curve_of_one_point_is_one_step() -> None:
    assert curve_path(PrecisionRecallCurve(recall=(1.0,), precision=(0.25,), threshold=(0.5,))) == "M0 150H200"


def test_empty_bins_are_not_drawn(evaluation: Evaluation) -> None:
    for reliability in evaluation.reliability:
        points = reliability_points(reliability.bins)
        assert len(points) == sum(each.count > 0 for each in reliability.bins)
        assert max(point.bar for point in points) == 1
        assert all(point.high_y <= point.y <= point.low_y for point in points)
    assert reliability_points([]) == []


def test_histograms_share_one_scale() -> None:
    bars = histogram_bars(ScoreHistogram(positives=(0, 0, 0, 3), negatives=(100, 0, 0, 1)))
    assert [(bar.left, bar.positives > 0, bar.negatives > 0) for bar in bars] == [(0, False, True), (150, True, True)]
    assert bars[0].negatives == 1 and 0 < bars[1].negatives < bars[1].positives < 1


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_the_interval_holds_its_rate_and_narrows(count: int, share: float) -> None:
    rate = round(share * count) / count
    low, high = wilson_interval(rate, count)
    assert 0 <= low <= rate + 1e-9 and rate - 1e-9 <= high <= 1
    wider_low, wider_high = wilson_interval(rate, max(1, count // 2))
    assert wider_high - wider_low >= high - low - 1e-9

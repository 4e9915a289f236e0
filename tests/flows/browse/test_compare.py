"""Two models or runs side by side: the same differences as their tags have, most first, on pages and in the export."""

from __future__ import annotations

import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from flows.browse import compare, comparisons
from flows.browse.comparisons import Comparison, compared_pair
from flows.browse.exports import export_sql
from flows.browse.filters import ComparisonFilter, Filter
from schemas.manifest import Fingerprint
from schemas.taxonomy import Label
from storage.catalog import open_catalog
from storage.comparisons import Change, chosen_sql
from storage.files import Folder
from storage.query import run_query
from tests.flows.browsing import Page, browsing
from tests.stores import OK, Shard, make_model, make_run, make_taxonomy

LABELS = ("ant", "bee", "cat", "dog")
SAMPLES = 12
OTHER = Fingerprint(size=2, tag="other")
PAIRS = [("", "model:m2"), ("model:m2", ""), ("run:r1", "run:r3"), ("run:r3", "model:m2"), ("", "run:r4")]


def make_store(folder: Folder) -> None:
    """Write runs of two models that overlap: shards rescored, changed since, of one model; a merge, a new label."""
    old = make_taxonomy(*LABELS, name="street")
    new = make_taxonomy(
        "ant", "bee", "cat", "dog", Label(id="eel", name="EEL"), Label(id="wasp", name="WASP", merged_into="bee")
    )
    make_model(folder, "m1", seen=("ant",))
    make_model(folder, "m2", promoted=False)
    random = np.random.default_rng(5)

    def shard(labels: tuple[str, ...], fingerprint: Fingerprint | None = None) -> Shard:
        scores = {
            label: [float(each) if each > 0.05 else None for each in random.random(SAMPLES).clip(0, 0.99)]
            for label in labels
        }
        return Shard(scores=scores, statuses=[OK] * SAMPLES, **({"fingerprint": fingerprint} if fingerprint else {}))

    before = make_taxonomy(*LABELS, "wasp", name="street")
    make_run(folder, "r0", before, {"0": shard((*LABELS, "wasp"))}, hours=-5)
    make_run(folder, "r1", old, {"0": shard(LABELS), "a/1": shard(LABELS), "2": shard(LABELS)}, hours=-4)
    make_run(folder, "r2", new, {name: shard(LABELS) for name in ("0", "a/1", "3")}, hours=-3, model_id="m2")
    make_run(folder, "r3", new, {"0": shard(("ant", "eel"))}, labels=("ant", "eel"), hours=-2)
    make_run(folder, "r4", new, {"2": shard(LABELS, OTHER), "a/1": shard(LABELS)}, hours=-1, model_id="m2")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Look at the store; no test writes to it."""
    place = tmp_path_factory.mktemp("compare")
    make_store(Folder(str(place / "store")))
    with browsing(str(place / "store"), place / "cache") as opened:
        yield opened


def made(page: Page, source: str, other: str, label: str = "") -> Comparison:
    """Return a comparison, however long it takes."""
    wanted = ComparisonFilter(source=source, other=other, label=label)
    while not isinstance(found := page.desk.comparisons.get(page.desk.catalogs.get(), wanted), Comparison):
        found.ended.wait()
    return found


def said(page: Page, source: str, view: str) -> dict[tuple[str, str, int, str], float]:
    """Return what a source of its own shows: its tags or scores, with merged labels by the best of them."""
    kind, _, name = source.partition(":")
    url = page.desk.folder.url
    with open_catalog(url, model_id=name if kind == "model" else None, run_id=name if kind == "run" else None) as own:
        rows = run_query(own, f"SELECT dataset, shard, sample, label_id, score FROM {view}").to_pylist()
    found: dict[tuple[str, str, int, str], float] = {}
    for row in rows:
        label = {"wasp": "bee"}.get(row["label_id"], row["label_id"])
        place = row["dataset"], row["shard"], row["sample"], label
        found[place] = max(row["score"], found.get(place, 0.0))
    return found


@pytest.mark.parametrize(("source", "other"), PAIRS)
def test_what_differs_is_what_differs_between_the_tags(page: Page, source: str, other: str) -> None:
    wanted = ComparisonFilter(source=source, other=other)
    pair = compared_pair(page.desk.catalogs.get(), wanted)

    def tags(of: str) -> set[tuple[str, str, int, str]]:
        return {place for place in said(page, of, "tags") if place[:2] in pair.shards and place[3] in pair.labels}

    before, after = tags(source), tags(other)
    found = made(page, source, other)
    assert pair.shards and before != after
    for label in found.labels:
        has = [{place for place in side if place[3] == label.label_id} for side in (before, after)]
        assert (label.before, label.after) == (len(has[0]), len(has[1])), label
        assert (label.gained, label.lost) == (len(has[1] - has[0]), len(has[0] - has[1])), label
    assert {label.label_id for label in found.labels} == {place[3] for place in before | after}
    expected: dict[Change, set[tuple[str, str, int, str]]] = {
        "": before ^ after,
        "gained": after - before,
        "lost": before - after,
    }
    for change, changed in expected.items():
        counts = Counter(place[:3] for place in changed)
        assert {*found.places[change]} == {*counts} and found.pictures[change] == len(counts)
        order = [counts[place] for place in found.places[change]]
        assert order == sorted(order, reverse=True)
        chosen = page.desk.catalogs.get().ask(chosen_sql(pair, change))
        assert {(row["dataset"], row["shard"], row["sample"]) for row in chosen} == {*counts}


@pytest.mark.parametrize(("source", "other"), PAIRS)
@pytest.mark.parametrize("label", ["ant", "bee"])
def test_with_a_label_the_largest_change_of_its_score_comes_first(
    page: Page, source: str, other: str, label: str
) -> None:
    pair = compared_pair(page.desk.catalogs.get(), ComparisonFilter(source=source, other=other, label=label))
    found = made(page, source, other, label)
    if not pair.labels:
        assert label == "bee" and "run:r3" in (source, other) and found.places[""] == []
        return
    sizes: dict[tuple[str, str, int], float] = defaultdict(float)
    for sign, of in ((-1, source), (1, other)):
        for place, score in said(page, of, "scores").items():
            if place[:2] in pair.shards and place[3] == label:
                sizes[place[:3]] += sign * score
    assert {*found.places[""]} == {*sizes}
    order = [abs(sizes[place]) for place in found.places[""]]
    assert order == sorted(order, reverse=True)
    assert {*found.places["gained"]} | {*found.places["lost"]} <= {*sizes}


def test_only_what_both_looked_at_is_compared(page: Page) -> None:
    def shards(source: str, other: str) -> set[str]:
        pair = compared_pair(page.desk.catalogs.get(), ComparisonFilter(source=source, other=other))
        return {shard for _, shard in pair.shards}

    assert shards("", "model:m2") == {"0", "a/1"}  # 2 has other bytes since, 3 has no scores of the first
    assert shards("run:r1", "run:r3") == {"0"} and shards("run:r1", "run:r4") == {"a/1"}
    assert shards("run:r3", "run:r4") == set()
    assert "no shard in common" in page.html("/compare?source=run:r3&other=run:r4")
    labels = compared_pair(page.desk.catalogs.get(), ComparisonFilter(source="run:r1", other="run:r3")).labels
    assert list(labels) == ["ant"]  # eel is scored by one of them alone
    assert "did not score" in unescape(page.html("/compare?source=run:r1&other=run:r3&label=eel"))


def test_pages_show_both_sides_and_lead_on(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "SIDE_BY_SIDE", 5)
    found = made(page, "", "model:m2")
    text = page.html("/compare?other=model:m2")
    assert f"<b>{len(found.places[''])}</b> pictures differ" in text
    assert f"+{found.gained}</b>" in text and f"−{found.lost}</b>" in text
    keys = page.all_keys("/compare?other=model:m2")
    assert len(keys) == len(set(keys)) == len(found.places[""])
    first = text[text.index('<table class="compare"') :].split("</tr>")[1]
    before, after = (re.findall(r'<li class="([^"]*)"', cell) for cell in first.split("<td>")[2:4])
    assert sum("only" in each for each in before + after) >= 2
    assert len(page.all_keys("/compare?other=model:m2&change=lost")) == len(found.places["lost"])
    gained = made(page, "", "model:m2", "cat").places["gained"]
    assert len(page.all_keys("/compare?other=model:m2&label=cat&change=gained")) == len(gained)


def test_the_same_on_both_sides_is_said(page: Page) -> None:
    for path in ("/compare", "/compare?source=model:m1", "/compare?source=run:r1&other=run:r1"):
        text = page.html(path)
        assert "Both sides are the same" in text and "other=model%3Am2" in text
    for path, status, words in (
        ("/compare?other=model:nope", 404, "unknown model 'nope'; known: m1, m2"),
        ("/compare?other=run:nope", 404, "unknown run"),
        ("/compare?other=x", 400, "unknown source"),
        ("/compare?other=model:m2&label=nope", 404, "unknown label"),
        ("/compare?start=-1", 400, "start '-1'"),
        ("/compare?change=x", 400, "change 'x'"),
    ):
        assert words in unescape(page.html(path, status))


def test_a_page_does_not_wait_for_a_long_comparison(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparisons, "PATIENCE_SECONDS", 0)
    page.post("/api/refresh", {})
    free = threading.Event()
    page.desk.jobs.start(lambda tell: {"waited": free.wait()})
    text = page.html("/compare?other=model:m2")
    job = re.search(r'data-job="([^"]*)"', text)
    assert job is not None and "<table" not in text
    assert re.search(r'data-job="([^"]*)"', page.html("/compare?other=model:m2")) is not None
    free.set()
    assert page.awaited(page.get(f"/api/jobs/{job[1]}"))["state"] == "done"
    assert '<table class="compare"' in page.html("/compare?other=model:m2")


def test_an_export_of_what_changed(page: Page, tmp_path: Path) -> None:
    text = page.html("/compare?other=model:m2&change=gained")
    sql = unescape(text.split('id="export-sql"')[1].split(">", 1)[1].split("</textarea>")[0])
    assert "--model m2" in text and 'data-source="model:m2"' in text
    job = page.finished("/api/export", {"sql": sql, "to": str(tmp_path / "out.parquet"), "source": "model:m2"})
    assert job["state"] == "done", job
    assert f"samples: {len(made(page, '', 'model:m2').places['gained'])}," in job["result"]["lines"][0]


def test_an_export_of_a_run_that_is_not_the_newest(page: Page, tmp_path: Path) -> None:
    text = page.html("/?source=run:r1&label=ant")
    assert "--run r1" in text and 'data-source="run:r1"' in text
    sql = export_sql(page.desk.catalogs.get("run:r1"), Filter(source="run:r1", label="ant"))
    asked = {"sql": sql, "to": str(tmp_path / "out.csv"), "source": "run:r1"}
    job = page.finished("/api/export", asked)
    assert job["state"] == "done", job
    tags = {place for place in said(page, "run:r1", "tags") if place[3] == "ant"}
    assert f"samples: {len(tags)}," in job["result"]["lines"][0]
    scores = said(page, "run:r1", "tags")
    lines = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert len(lines) == len(tags) and all("ant" in line for line in lines)
    assert sum(line.count(";") // 2 + 1 for line in lines) <= len(scores)

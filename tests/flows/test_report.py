"""The report of a run: its numbers are those of `sql`, and its page stands whatever the run and its names are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from flows.cli.app import app
from flows.report.drawings import draw_histogram, draw_ranks, draw_stages, draw_tags_per_picture
from flows.report.figures import busy_seconds, run_report
from flows.report.markdown import report_markdown, stored_markdown
from flows.report.page import read_pictures, report_page, wanted_pictures
from schemas.config import make_request
from schemas.errors import ConfigError, StoreError
from schemas.manifest import ShardFacts
from schemas.report import HISTOGRAM_BINS, LabelFigures, ReportRequest, RunReport, ScoreHistogram
from schemas.sample import SampleRow, SampleStatus, ShardStatus
from schemas.taxonomy import Label, Taxonomy
from storage.catalog import open_catalog
from storage.files import Folder
from storage.parts import ShardFeatures, features_path, write_features
from storage.query import run_query
from storage.run_examples import surprising_pictures
from storage.runs import chosen_run, read_run, read_runs
from storage.taxonomies import put_in_force, write_taxonomy
from tests.flows.world import World, make_world
from tests.nasty import jpeg
from tests.stores import FIRST, NOON, OK, Shard, make_model, make_run, make_taxonomy

EVIL = "<script>alert(1)</script> & \"quoted\" 'too'"
BIDI = "a\u202eb\u0007\nc d"
BROKEN = SampleStatus.DECODE_ERROR
SCORES = {
    "dog": (0.9, 0.6, 0.2, None),
    "puppy": (None, 0.95, 0.3, 0.7),
    "cat": (0.5, 0.4, None, 0.8),
    "cow": (0.1,) * 4,
}


def report(store: str | Path, **options: Any) -> RunReport:
    return run_report(make_request(ReportRequest, **{"store": str(store), **options}))


def page_of(figures: RunReport, pictures: dict[Any, bytes] | None = None) -> str:
    return report_page(figures, pictures or {})


class Page(HTMLParser):
    """The parts of a page that could run or load something, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def ask(store: str | Path, sql: str, **which: str) -> list[tuple[Any, ...]]:
    with open_catalog(str(store), **which) as connection:
        return [tuple(row.values()) for row in run_query(connection, sql).to_pylist()]


def make_store(folder: Path, **options: Any) -> Path:
    """Return a store of two shards whose puppies count as dogs by now, and whose cows are retired."""
    store = Folder(str(folder))
    make_model(store, seen=("dog", "cat"))
    merged = (Label(id="puppy", name="puppy", merged_into="dog"), Label(id="cow", name="cow", retired=True))
    shards = {
        "a/1": Shard(scores=SCORES, statuses=(OK,) * 4, contents=tuple("abcd")),
        "a/2": Shard(scores={"dog": (None, 0.7), "cat": (None, 0.55)}, statuses=(BROKEN, OK), contents=("e", "f")),
    }
    make_run(store, "r1", make_taxonomy("dog", "puppy", "cat", "cow"), shards, **options)
    now = make_taxonomy("dog", "cat", *merged)
    write_taxonomy(store, now)
    put_in_force(store, now)
    return folder


def test_the_numbers_are_those_of_sql(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    found = report(store)
    assert [(status, n) for status, n in found.statuses.items()] == ask(
        store, "select status, count(*) from samples group by all order by 2 desc"
    )
    assert (found.samples, found.scored, found.failed) == (6, 5, 1)
    assert [(label.label_id, label.tags, label.mean_score, label.seen) for label in found.labels] == ask(
        store, "select label_id, count(*), avg(score), any_value(seen) from tags group by 1 order by 2 desc, 1"
    )
    assert found.tags == 7 == ask(store, "select count(*) from tags")[0][0]
    assert {(label.label_id, label.threshold, label.source) for label in found.labels} == set(
        ask(store, "select label_id, threshold, source from thresholds where label_id in ('dog', 'cat')")
    )
    per_picture = ask(
        store,
        "select tags, count(*) from (select count(t.label_id) as tags from samples s left join tags t using "
        "(dataset, shard, sample) where status = 'ok' group by dataset, shard, sample) group by all order by all",
    )
    assert sorted(found.tags_per_picture.items()) == sorted({0: 0, **dict(per_picture)}.items())
    pairs = ask(
        store,
        "select a.label_id, b.label_id, count(*) from tags a join tags b using (dataset, shard, sample) group by all",
    )
    ids, counts = found.together.label_ids, found.together.counts
    assert {(a, b, counts[i][j]) for i, a in enumerate(ids) for j, b in enumerate(ids) if counts[i][j]} == set(pairs)


def test_a_label_in_full(tmp_path: Path) -> None:
    found = report(make_store(tmp_path, calibration="fitted"), labels=("dog",))
    (dog,) = found.chosen
    assert dog.histogram.axis == "score" and dog.histogram.threshold == 0.5
    # A picture counts once, by the better score of dog and puppy.
    assert [round(each.score, 2) for each in dog.surest] == [0.95, 0.9, 0.7, 0.7, 0.3]
    bins = {number: count for number, count in enumerate(dog.histogram.counts) if count}
    assert bins == Counter(int(HISTOGRAM_BINS * each.score) for each in dog.surest)
    assert found.labels[0].kept == 5
    assert [round(each.score, 2) for each in dog.above] == [0.7, 0.7, 0.9, 0.95]
    assert [(each.shard, each.sample, round(each.score, 2)) for each in dog.below] == [("a/1", 2, 0.3)]
    assert (dog.surprising, dog.likeness) == ((), None)  # too few, and not embedded


def test_scores_that_are_not_fitted_are_shown_by_their_logits(tmp_path: Path) -> None:
    dog, cat = sorted(report(make_store(tmp_path)).chosen, key=lambda each: each.label_id, reverse=True)
    assert dog.histogram.axis == "logit" and (dog.histogram.low, dog.histogram.high) == (
        cat.histogram.low,
        cat.histogram.high,
    )
    assert dog.histogram.threshold == pytest.approx(0, abs=1e-3)  # between 0.3 and 0.7
    assert sum(dog.histogram.counts) == 5 and dog.histogram.high == pytest.approx(np.log(19), abs=1e-3)


def test_a_label_whose_scores_are_all_tags_is_drawn_as_such(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    make_model(folder)
    scores = {"all": (0.9, 0.6, 0.8), "some": (0.9, 0.6, 0.2), "few": (0.1, None, 0.2)}
    make_run(folder, "r1", make_taxonomy(*scores), {"s": Shard(scores=scores)})
    drawn = {each.label_id: each.histogram for each in report(tmp_path, labels=("all", "some", "few")).chosen}
    assert {name: each.all_tagged for name, each in drawn.items()} == {"all": True, "some": False, "few": False}
    assert [drawn[name].threshold is None for name in ("all", "some", "few")] == [True, False, True]
    pale = {name: draw_histogram(each, seen=True).count('opacity="0.4"') for name, each in drawn.items()}
    assert pale["all"] == 0 and pale["some"] > 0 and pale["few"] == 2


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), shards=st.integers(1, 3))
def test_any_run_is_counted_as_sql_counts(tmp_path_factory: pytest.TempPathFactory, data: Any, shards: int) -> None:
    folder = tmp_path_factory.mktemp("any")
    labels = ("one", "two", "three")
    score = st.none() | st.floats(0.02, 0.98)
    found = {}
    for shard in range(shards):
        count = data.draw(st.integers(0, 4))
        scores = {label: data.draw(st.lists(score, min_size=count, max_size=count)) for label in labels}
        found[f"s{shard}"] = Shard(
            scores=scores, statuses=(OK,) * count, contents=[f"{shard}{n}" for n in range(count)]
        )
    make_model(Folder(str(folder)), seen=("two",))
    make_run(Folder(str(folder)), "r1", make_taxonomy(*labels), found)
    figures = report(folder)
    tags = dict(ask(folder, "select label_id, count(*) from tags group by all"))
    assert {label.label_id: label.tags for label in figures.labels} == dict.fromkeys(labels, 0) | tags
    assert sum(tags * pictures for tags, pictures in figures.tags_per_picture.items()) == figures.tags
    assert (
        sum(figures.tags_per_picture.values()) == figures.scored == sum(len(each.statuses) for each in found.values())
    )
    assert all(sum(each.histogram.counts) == figures.labels[n].kept for n, each in _in_order(figures))


def _in_order(figures: RunReport) -> list[tuple[int, Any]]:
    places = {label.label_id: number for number, label in enumerate(figures.labels)}
    return [(places[each.label_id], each) for each in figures.chosen]


def test_an_older_run_is_shown_by_its_own_rows_and_model(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = Folder(str(store))
    make_model(folder, "m2", seen=("cat",))
    newer = {"a/1": Shard(scores={"dog": (0.1, 0.1, 0.1, 0.1)}, statuses=(OK,) * 4)}
    make_run(folder, "r2", make_taxonomy("dog"), newer, hours=1, model_id="m2")
    old, new = report(store, run="r1"), report(store)
    assert (old.run.run_id, old.run.shown, old.tags, old.samples) == ("r1", False, 7, 6)
    assert (new.run.run_id, new.run.shown, new.tags, new.samples) == ("r2", True, 0, 4)
    assert new.labels[0].seen is False and old.labels[0].seen is True
    assert ask(store, "select count(*) from tags", run_id="r1") == [(7,)]
    words = ["sql", "--store", str(store), "select count(*) as n from tags", "--json", "--run"]
    assert json.loads(CliRunner().invoke(app, [*words, "r1"]).stdout) == [{"n": 7}]
    with pytest.raises(ConfigError, match="--run r1 shows the scores of its own model; leave out --model m2"):
        CliRunner().invoke(app, [*words, "r1", "--model", "m2"], catch_exceptions=False)


def test_which_run_is_meant(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    make_model(folder)
    for number, (run_id, dataset) in enumerate([("sea-12", "sea"), ("sea-19", "sea"), ("road-1", "road")]):
        make_run(folder, run_id, make_taxonomy("dog"), {"s": Shard()}, hours=number, dataset=dataset)
    make_run(folder, "road-2", make_taxonomy("dog"), {"s": Shard()}, hours=9, dataset="road", complete=False)
    runs = read_runs(folder)
    names = {
        None: "road-1",
        "sea": "sea-19",
        "sea-12": "sea-12",
        "sea-19": "sea-19",
        "road-2": "road-2",
        "road": "road-2",
    }
    assert {name: chosen_run(runs, name).record.run_id for name in names} == names
    with pytest.raises(StoreError, match="run 'sea-1' may be sea-12, sea-19; write more of its id"):
        chosen_run(runs, "sea-1")
    with pytest.raises(StoreError, match="unknown run 'x'; known: road-1, road-2, sea-12, sea-19"):
        chosen_run(runs, "x")
    with pytest.raises(StoreError, match="no run of the store is complete; of those begun name one: road-2"):
        chosen_run([run for run in runs if run.manifest is None])


def test_which_labels_are_shown_in_full(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    ids = [f"l{n}" for n in range(9)]
    make_model(folder, seen=("l0", "l1", "l2", "l7"))
    tagged = {label: [0.9] * (9 - n) + [None] * n for n, label in enumerate(ids)} | {"l8": [None] * 9}
    make_run(folder, "r1", make_taxonomy(*ids), {"s": Shard(scores=tagged, statuses=(OK,) * 9)})
    assert [each.label_id for each in report(tmp_path).chosen] == ["l0", "l1", "l6", "l7", "l3", "l4"]
    named = report(tmp_path, labels=("l8", "l0", "l8"))
    assert [each.label_id for each in named.chosen] == ["l8", "l0"]
    with pytest.raises(ConfigError, match="unknown label 'horse'; known: l0, l1, .*these are what run r1 counts for"):
        report(tmp_path, labels=("horse",))


@pytest.mark.parametrize("case", ["nothing", "failed", "retired", "one", "damaged"])
def test_the_page_of_a_meagre_run_stands(tmp_path: Path, case: str) -> None:
    folder = Folder(str(tmp_path))
    make_model(folder)
    taxonomy = make_taxonomy("dog") if case == "one" else make_taxonomy("dog", "cat")
    shard = {
        "nothing": Shard(statuses=()),
        "failed": Shard(statuses=(BROKEN, SampleStatus.EMPTY)),
        "retired": Shard(scores={"dog": (0.9, 0.9, 0.9)}),
        "one": Shard(scores={"dog": (0.5, 0.5, 0.5)}),
        "damaged": Shard(scores={"dog": (0.9, 0.1, 0.2)}, status=ShardStatus.TRUNCATED),
    }[case]
    make_run(folder, "r1", taxonomy, {"s": shard}, complete=case != "damaged")
    if case == "retired":
        retired = Taxonomy(
            name="street", labels=tuple(Label(id=label, name=label, retired=True) for label in ("dog", "cat"))
        )
        write_taxonomy(folder, retired)
        put_in_force(folder, retired)
    found = report(tmp_path, run="r1")
    text = Page(page_of(found)).text
    says = {
        "nothing": ("There is no image.", "say nothing of their time"),
        "failed": ("100 % of the images", "decode_error"),
        "retired": ("No label of the run is active any more.",),
        "one": ("3 stored logits", "3 tags, 100 % of the pictures"),
        "damaged": ("Not complete", "Shard s is truncated"),
    }[case]
    assert all(each in text for each in says)
    assert "Labels that go together" not in text and report_markdown(found).startswith("# `r1`")


def test_failures_are_gathered_by_what_they_say(tagged: World) -> None:
    found = report(tagged.store)
    (cut,) = [failure for failure in found.failures if failure.status is SampleStatus.TRUNCATED]
    assert (cut.count, cut.messages, len(cut.examples)) == (2, 1, 1)
    assert (cut.examples[0].shard, cut.examples[0].key, cut.examples[0].count) == ("00002", "cut", 2)
    assert "after 400 bytes" in str(cut.examples[0].error)
    assert sum(failure.count for failure in found.failures) == found.failed == 3


def test_shards_that_overlap_are_counted_once(tmp_path: Path) -> None:
    run = make_run(Folder(str(tmp_path)), "r1", make_taxonomy("dog"), {name: Shard() for name in ("a", "b", "c", "d")})
    minutes = {"a": (0, 4), "b": (1, 2), "c": (3, 6), "d": (10, 11)}
    reports = [
        each.model_copy(
            update={"started_at": NOON + timedelta(minutes=start), "finished_at": NOON + timedelta(minutes=end)}
        )
        for each, (start, end) in zip(run.reports, minutes.values(), strict=True)
    ]
    assert busy_seconds(reports) == 60 * (6 + 1) and busy_seconds([]) == 0


def test_names_of_others_are_text(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    make_model(folder, seen=("evil",))
    taxonomy = make_taxonomy(Label(id="evil", name=EVIL), Label(id="bidi", name=BIDI.replace("\n", " ")), "plain")
    scores = {label: (0.9, 0.8, None, 0.3) for label in ("evil", "bidi", "plain")}
    keys = (EVIL, BIDI, "plain", "x\u202e")
    make_run(
        folder,
        "r1",
        taxonomy,
        {"s/<b>": Shard(scores=scores, statuses=(OK, OK, BROKEN, OK), keys=keys, contents=tuple("abcd"))},
        patterns=("file:///<i>/*.tar",),
    )
    found = report(tmp_path)
    html = page_of(found)
    page = Page(html)
    assert EVIL in page.text and "a\\u202eb\\x07" in page.text
    assert "\u202e" not in html and "\u0007" not in html
    assert not {"script", "i", "iframe", "object", "form"} & {tag for tag, each in page.tags if "class" not in each}
    assert "s/<b>" not in html and "s/&lt;b&gt;" in html
    text = report_markdown(found)
    assert f"`{EVIL}`" in text and "\u202e" not in text


def test_the_page_loads_nothing_and_keeps_its_policy(tmp_path: Path) -> None:
    page = Page(page_of(report(make_store(tmp_path))))
    policy = next(each["content"] for each in page.of("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    for tag, attributes in page.tags:
        assert "style" not in attributes and not any(name.startswith("on") for name in attributes), tag
        assert all(str(attributes.get(name, "data:")).startswith(("data:", "#")) for name in ("src", "href")), tag


def test_drawings_take_their_colours_from_the_page() -> None:
    labels = [
        LabelFigures(
            label_id=f"l{n}",
            name="n",
            seen=n % 3 > 0,
            threshold=0.5,
            source="default",
            kept=n,
            tags=n**3,
            mean_score=None,
            best_score=None,
        )
        for n in range(1500)
    ]
    histogram = ScoreHistogram(axis="score", low=0, high=1, counts=(1000, *[1] * (HISTOGRAM_BINS - 1)), threshold=0.9)
    drawings = [
        draw_stages({"decode": 1234.5, "write": 0.0}),
        draw_stages({"write": 0.0}),
        draw_ranks(labels),
        draw_ranks(labels[:3]),
        draw_tags_per_picture({0: 5, 3: 1, 77: 2}),
        draw_tags_per_picture({0: 0}),
        draw_histogram(histogram, seen=True),
        draw_histogram(histogram.model_copy(update={"low": 2.0, "high": 2.0, "threshold": None}), seen=False),
        draw_histogram(histogram.model_copy(update={"counts": (0,) * HISTOGRAM_BINS}), seen=False),
    ]
    for drawing in drawings:
        assert set(re.findall(r'(?:fill|stroke)="([^"]*)"', drawing)) <= {"none"}
        assert "style=" not in drawing and "url(" not in drawing and drawing.startswith("<svg")
        assert len(drawing) < 60_000
        marks = set(re.findall(r'<use href="#([^"]+)"', drawing))
        assert marks <= set(re.findall(r' id="([^"]+)"', drawing))
    assert "20+" in drawings[4] and "21 min" in drawings[0]


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a tagged world with pictures of which some fail."""
    world = make_world(tmp_path_factory.mktemp("world"), images=6)
    world.shard("00002", [("broken.jpg", b"no"), ("cut.jpg", jpeg(5)[:400]), ("cut2.jpg", jpeg(6)[:410])])
    world.tag(floor=0.0)
    return world


@pytest.fixture
def own(tagged: World, tmp_path: Path) -> World:
    """Return a copy of its store and shards that a test may damage."""
    for name in ("store", "shards"):
        shutil.copytree(tagged.folder / name, tmp_path / name)
    return replace(tagged, folder=tmp_path)


def test_pictures_are_read_from_the_shards(tagged: World) -> None:
    request = make_request(ReportRequest, store=tagged.store)
    found = run_report(request)
    pictures = read_pictures(request, found)
    assert set(pictures) == set(wanted_pictures(found)) and len(pictures) > 5
    page = Page(page_of(found, pictures))
    assert all(str(each["src"]).startswith("data:image/webp;base64,") for each in page.of("img"))
    assert "cannot be shown" not in page.text and "no picture" not in page.text
    assert {failure.status: failure.count for failure in found.failures} == {
        SampleStatus.UNSUPPORTED: 1,
        SampleStatus.TRUNCATED: 2,
    }
    assert found.time.decoded >= 12 and found.time.busy_seconds > 0 and str(found.time.limit).count("-bound: ") == 1
    without = Page(page_of(report(tagged.store, per_label=0)))
    assert "Labels in full" in without.text and "Surest" not in without.text and "Surest" in page.text


def test_shards_that_are_gone_or_changed_cost_their_pictures_and_no_more(own: World, tagged: World) -> None:
    request = make_request(ReportRequest, store=own.store)
    found = run_report(request)
    run = read_run(Folder(own.store), found.run.run_id)
    for shard in run.reports:
        moved = shard.model_copy(update={"url": shard.url.replace(str(tagged.folder), str(own.folder))})
        path = Path(own.store, "runs", found.run.run_id, "reports", f"{shard.shard}.json")
        path.write_text(moved.model_dump_json())
    Path(own.store, "runs", found.run.run_id, "manifest.json").unlink()
    assert len(read_pictures(request, found)) == len(wanted_pictures(found))
    (own.folder / "shards" / "00000.tar").unlink()
    own.shard("00001", [(f"s1-{i}.jpg", jpeg(900 + i)) for i in range(6)])
    pictures = read_pictures(request, found)
    assert pictures == {}
    page = Page(page_of(found, pictures))
    assert f"{len(wanted_pictures(found))} pictures cannot be shown" in page.text and "no picture" in page.text


def store_embeddings(folder: Folder, shard: str, unit_ND: NDArray[np.float64]) -> None:
    rows = tuple(
        SampleRow(key=str(n), shard=shard, sample=n, status=OK, error=None, width=1, height=1, bytes=1, sha256=str(n))
        for n in range(len(unit_ND))
    )
    facts = ShardFacts(fingerprint=FIRST, status=ShardStatus.OK, error=None, members={}, max_pixels=1000)
    features = ShardFeatures(facts=facts, rows=rows, embeddings_ND=unit_ND.astype(np.float16))
    write_features(folder, features_path("e1", "street", shard), features)


def test_what_looks_unlike_its_label_is_surprising(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    make_model(folder)
    rng = np.random.default_rng(0)
    count = 40
    embeddings = np.eye(8)[0] + 0.1 * rng.standard_normal((count, 8))
    embeddings[[3, 30]] = np.eye(8)[1]  # one of them with a low score: not sure
    score = np.linspace(0.99, 0.55, count).tolist()
    contents = [str(n) for n in range(count)]
    run = make_run(
        folder,
        "r1",
        make_taxonomy("dog", "cat"),
        {"s": Shard(scores={"dog": score, "cat": [0.9] * 7 + [None] * 33}, statuses=(OK,) * count, contents=contents)},
    )
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    store_embeddings(folder, "s", unit)
    with open_catalog(folder) as connection:
        found = surprising_pictures(connection, folder, run, ["dog", "cat"], count=3)
    assert set(found) == {"dog"}  # seven cats say too little
    pictures = found["dog"].pictures
    assert pictures[0].sample == 3 and 30 not in [each.sample for each in pictures]
    mean = unit.mean(axis=0)
    assert pictures[0].likeness == pytest.approx(unit[3] @ mean / np.linalg.norm(mean), abs=1e-3)
    assert found["dog"].likeness > 0.9 and all(each.score >= score[19] - 1e-6 for each in pictures)
    whole = report(tmp_path, labels=("dog",))
    assert whole.chosen[0].surprising[0].sample == 3
    path = Path(tmp_path, features_path("e1", "street", "s"))
    path.write_bytes(path.read_bytes()[:-9])
    assert report(tmp_path, labels=("dog",)).chosen[0].surprising == ()


def test_where_too_few_of_those_that_stand_for_the_tags_are_embedded_nothing_is_surprising(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    make_model(folder)
    many, sure = 6000, 9  # of which a third is looked at, apart from the surest
    shards = {
        name: Shard(scores={"dog": [score] * count}, statuses=(OK,) * count)
        for name, score, count in (("lost", 0.6, many), ("there", 0.9, sure))
    }
    run = make_run(folder, "r1", make_taxonomy("dog"), shards)
    store_embeddings(folder, "there", np.eye(sure))
    with open_catalog(folder) as connection:
        assert surprising_pictures(connection, folder, run, ["dog"], count=3) == {}


def test_copies_of_a_picture_are_shown_once(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    make_model(folder)
    scores = {"dog": (0.9, 0.9, 0.8, 0.7)}
    make_run(
        folder, "r1", make_taxonomy("dog"), {"s": Shard(scores=scores, statuses=(OK,) * 4, contents=tuple("aabc"))}
    )
    (dog,) = report(tmp_path).chosen
    assert [each.sample for each in dog.surest] == [0, 2, 3] and [each.sample for each in dog.above] == [3, 2, 0]


def test_figures_as_markdown(tagged: World) -> None:
    found = report(tagged.store)
    text = stored_markdown(tagged.store, found.run.run_id)
    assert text == report_markdown(report(tagged.store, per_label=0))
    for label in found.labels:
        assert f"| `{label.name}` | novel | {label.threshold:.2f} | {label.tags} |" in text
    assert "| truncated | 2 |" in text and "## Seconds" in text
    assert stored_markdown(tagged.store, "no-run").startswith(
        "The figures of run `no-run` cannot be read: `unknown run"
    )


def test_the_command(tagged: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_id = report(tagged.store).run.run_id
    done = CliRunner().invoke(app, ["report", "--store", tagged.store])
    assert done.exit_code == 0 and done.stdout == "" and f"wrote {run_id}.html" in done.stderr
    assert Page((tmp_path / f"{run_id}.html").read_text()).text.count(run_id) >= 2
    done = CliRunner().invoke(app, ["report", run_id[:9], "--store", tagged.store, "--json", "--label", "blue-star"])
    assert RunReport.model_validate_json(done.stdout) == report(tagged.store, labels=("blue-star",))
    assert [path.name for path in tmp_path.iterdir()] == [f"{run_id}.html"]  # --json alone writes no page
    for words, message in [
        (["-o", "page.pdf"], "give it a local name that ends in .html"),
        (["--label", "horse"], "unknown label 'horse'; known: blue-star, "),
        (["no-such-run"], "unknown run 'no-such-run'"),
    ]:
        with pytest.raises((ConfigError, StoreError), match=message):
            CliRunner().invoke(app, ["report", *words, "--store", tagged.store], catch_exceptions=False)


def test_it_loads_neither_torch_nor_prefect(tagged: World, tmp_path: Path) -> None:
    words = ["report", "--store", tagged.store, "-o", str(tmp_path / "page.html")]
    program = "import sys; from flows.cli import main\ntry: main()\nfinally: sys.stderr.write(repr(set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in eval(done.stderr.partition("\n")[2])}
    assert not loaded & {"torch", "prefect", "open_clip", "timm", "torchvision"}

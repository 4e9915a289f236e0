"""The page over a store: what the grid shows, thresholds, answers, SQL, export, search, names that are scripts."""

from __future__ import annotations

import base64
import io
import json
import re
import tarfile
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from PIL import Image

from flows.browse import filters, grid
from flows.browse.attention import SIDE
from flows.browse.details import histogram_of
from flows.browse.exports import export_sql
from flows.browse.filters import Filter
from flows.browse.results import MAX_ROWS
from schemas.manifest import ModelRecord
from schemas.sample import SampleStatus
from schemas.taxonomy import Label
from storage.files import Folder
from storage.models import write_model
from storage.thumbnails import RANGES
from tests.flows.annotated import LABELS, AnnotatedWorld
from tests.flows.browsing import Page, browsing
from tests.flows.world import World, make_world
from tests.nasty import build_tar, jpeg
from tests.stores import Shard, make_model, make_run, make_taxonomy

EVIL = '<script>alert("x")</script>'
KEYS = ["a", EVIL, 'it\'s "quoted"', "new\nline", "right\u202eleft", "f/../g", "é x"]
PLACE = {"dataset": "street", "shard": "0", "sample": 0}


def make_store(folder: Folder) -> None:
    """Write three datasets' worth of nasty names, merged labels, two models and failures."""
    taxonomy = make_taxonomy(
        Label(id="ant", name=EVIL), Label(id="bee", name="BEE"), "cat", Label(id="wasp", name="WASP", merged_into="bee")
    )
    make_model(folder, "m1", seen=("ant",))
    other = make_model(folder, "m2", promoted=False)
    write_model(folder, ModelRecord.model_validate(other.model_dump() | {"name": "bundled:other"}))
    ok, failed = SampleStatus.OK, SampleStatus.DECODE_ERROR
    first = Shard(
        scores={"ant": [0.9, 0.2, 0.6, None, 0.55, 0.5, 0.1], "bee": [0.3] * 7, "wasp": [0.1, 0.8, 0.7] + [0.05] * 4},
        statuses=[ok, ok, ok, failed, ok, ok, ok],
        keys=KEYS,
    )
    many = Shard(
        scores={"ant": [0.4] * 150, "cat": [n / 160 for n in range(1, 151)]},
        statuses=[ok] * 150,
        keys=[f"m/{number:03d}" for number in range(150)],
    )
    make_run(folder, "r1", taxonomy, {"0": first, "many/1": many})
    swapped = Shard(scores={"ant": [0.1] * 7, "cat": [0.7] * 7}, statuses=[ok] * 7, keys=KEYS)
    make_run(folder, "r2", taxonomy, {"0": swapped}, hours=-1, model_id="m2")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Look at a store of made-up rows; tests of this one write nothing."""
    place = tmp_path_factory.mktemp("browse")
    make_store(Folder(str(place / "store")))
    with browsing(str(place / "store"), place / "cache") as opened:
        yield opened


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Page]:
    """Look at a store that a test may write to."""
    make_store(Folder(str(tmp_path / "store")))
    with browsing(str(tmp_path / "store"), tmp_path / "cache") as opened:
        yield opened


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"), shards=2, images=4)
    world.shard("00002", [("good.jpg", jpeg(7)), ("bad.jpg", b"no picture")])
    world.tag(floor=0.0)
    return world


@pytest.fixture(scope="module")
def real(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Look at pictures that are there."""
    with browsing(world.store, tmp_path_factory.mktemp("cache")) as opened:
        yield opened


def asked(page: Page, sql: str) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in page.desk.catalogs.get().ask(sql)]


# --- the grid


def test_all_pages_together_are_all_pictures_once(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [key for (key,) in asked(page, "SELECT key FROM samples ORDER BY dataset, shard, sample")]
    assert len([unescape(key) for key in page.all_keys("/")]) == len(expected) == 157
    for path, least in (("/?label=ant", 0.5), ("/?label=ant&low=0.39", 0.39), ("/?label=ant&low=0&order=low", 0)):
        keys = page.all_keys(path)
        wanted = asked(page, f"SELECT count(*) FROM scores WHERE label_id = 'ant' AND score >= {least}")
        assert len(keys) == len(set(keys)) == wanted[0][0]
        assert f"{wanted[0][0]} pictures" in page.html(path)


def test_the_highest_score_comes_first_and_equals_keep_their_order(page: Page) -> None:
    assert [unescape(key) for key in page.keys("/?label=ant")] == [
        "a",
        KEYS[2],
        "right\\u202eleft"[:0] + KEYS[4].replace("\u202e", "\\u202e"),
        "f/../g",
    ]
    assert page.all_keys("/?label=ant&low=0.35&high=0.45") == [f"m/{number:03d}" for number in range(150)]
    assert page.keys("/?label=cat&low=0.9")[:2] == ["m/149", "m/148"]
    assert page.keys("/?label=cat&low=0.9&order=low")[0] == "m/143"


def test_merged_labels_count_as_one(page: Page) -> None:
    assert [unescape(key) for key in page.keys("/?label=bee")] == [KEYS[1], KEYS[2]]
    assert len(page.all_keys("/?label=bee&low=0.29")) == 7


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("status=failed", 1),
        ("status=ok", 156),
        ("status=decode_error", 1),
        ("key=m/1", 50),
        ("dataset=street", 157),
        ("knowledge=seen", 4),
        ("knowledge=novel", 2 + 71),
        ("knowledge=novel&key=m/", 71),
        ("low=0.85", 1 + 15),
        ("low=0.75&high=0.85", 1 + 16),
        ("label=ant&key=a", 1),
        ("label=ant&status=failed", 0),
        ("source=model:m2&label=cat", 7),
        ("source=run:r2&label=cat", 7),
        ("source=run:r2", 7),
    ],
)
def test_filters(page: Page, query: str, count: int) -> None:
    assert len(page.all_keys(f"/?{query}")) == count


@pytest.mark.parametrize(
    "query",
    [
        "",
        "label=ant",
        "label=bee&low=0.2",
        "label=cat&high=0.8",
        "knowledge=novel",
        "low=0.75&high=0.85",
        "status=failed",
    ],
)
def test_an_export_has_what_the_pages_show(page: Page, query: str) -> None:
    wanted = Filter(**dict(part.split("=") for part in query.split("&") if part))
    sql = export_sql(page.desk.catalogs.get(), wanted)
    assert len(page.all_keys(f"/?{query}")) == len(asked(page, f"SELECT DISTINCT dataset, shard, sample FROM ({sql})"))


def test_a_page_stops_looking_when_its_time_is_up(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "_SECONDS", -1)
    assert "looked at up to street/0" in page.html("/?knowledge=novel&key=m/")
    assert len(page.all_keys("/?knowledge=novel&key=m/")) == 71


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/?label=nope", 404, "unknown label 'nope'"),
        ("/?source=model:nope", 404, "unknown model 'nope'; known: m1"),
        ("/?source=run:nope", 404, "unknown run 'nope'; known: r1"),
        ("/?source=other", 400, "unknown source 'other'; known: model:ID, run:ID"),
        ("/?dataset=nope", 404, "unknown dataset 'nope'; known: "),
        ("/?after=broken", 400, "after 'broken': no page ended there; go back to the first page"),
        (f"/?after={filters.mark_of((1, 2))}", 400, "no page ended there"),
        (f"/?label=ant&after={filters.mark_of((0.5, float('inf'), 'street', '0', 1))}", 400, "no page ended there"),
        (f"/?after={base64.urlsafe_b64encode(b'[' * 1500).decode()}", 400, "no page ended there"),
        (f"/?after={filters.mark_of(('street', '0', 2**31))}", 400, "no page ended there"),
        ("/?low=abc", 400, "low 'abc': input should be a valid number, unable to parse string as a number; correct"),
        ("/?low=2", 400, "low '2': input should be less than or equal to 1"),
        ("/?high=nan", 400, "high 'nan': input should be a finite number"),
        ("/?low=0.1&low=0.2", 400, "'low' stands in the address 2 times; leave one of them"),
        ("/?order=xyz", 400, "order 'xyz': input should be 'high' or 'low'; correct the address"),
        ("/?status=xyz", 400, "unknown status 'xyz'; known: decode_error, "),
        ("/?knowledge=x", 400, "knowledge 'x': input should be '', 'seen' or 'novel'"),
        ("/?copies=maybe", 400, "copies 'maybe': input should be '' or 'hide'"),
        ("/?lable=ant", 400, "unknown parameter 'lable'; known: after, copies, dataset, "),
        ("/label?label=nope", 404, "unknown label"),
        ("/label", 400, "label is missing; correct the address"),
        ("/picture?dataset=street&shard=0&sample=99", 404, "no sample 99"),
        ("/picture?dataset=street&shard=0&sample=x", 400, "sample 'x': input should be a valid integer"),
        ("/picture?dataset=street&shard=0&sample=0&label=nope", 404, "unknown label 'nope'"),
        ("/found?name=nope", 404, "ask again"),
        ("/found?name=nope&start=-1", 400, "start '-1': input should be greater than or equal to 0"),
    ],
)
def test_a_wrong_address_is_a_sentence(page: Page, path: str, status: int, words: str) -> None:
    text = page.html(path, status)
    assert words in unescape(text) and "Traceback" not in text
    assert str(page.desk.folder.url) not in text


def test_a_path_that_is_not_there(page: Page) -> None:
    assert "Not Found" in page.html("/nope", 404)
    assert page.client.get("/static/../app.py").status_code == 404
    assert page.client.get("/static/%2e%2e/app.py").status_code == 404
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert page.client.get(path).status_code == 404


# --- names of others


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/?label=ant",
        f"/?{urlencode({'key': EVIL})}",
        "/labels",
        "/label?label=ant",
        "/compare?other=model:m2",
        "/picture?dataset=street&shard=0&sample=1&label=ant",
        "/edge?label=ant&at=0.3",
        f"/sql?{urlencode({'sql': EVIL})}",
    ],
)
def test_names_of_others_are_text(page: Page, path: str) -> None:
    text = page.client.get(path).text
    assert "<script>" not in text and "\u202e" not in text and "alert(" in text


def test_query_answers_of_others_are_text(page: Page) -> None:
    to = page.post("/api/sql", {"sql": f"select '{EVIL}' as \"{EVIL.replace(chr(34), '')}\", 1 as n"})["to"]
    assert "<script>" not in page.html(to) and "alert(" in page.html(to)


def test_keys_survive_the_way_to_the_script_and_back(page: Page) -> None:
    places = [json.loads(unescape(found)) for found in re.findall(r'data-place="([^"]*)"', page.html("/"))]
    assert places[:2] == [["street", "0", 0], ["street", "0", 1]]
    tags = page.post("/api/tags", {"places": [PLACE, {**PLACE, "sample": 1}]})["tags"]
    assert [[tag["id"] for tag in each] for each in tags] == [["ant"], ["bee"]]
    assert tags[0][0]["name"] == EVIL and tags[0][0]["seen"]


# --- one picture, labels, two models


def test_one_picture_has_all_its_scores(page: Page) -> None:
    text = page.html("/picture?dataset=street&shard=0&sample=1&label=bee")
    rows = re.findall(r'data-label="(\w+)" data-answer="" tabindex="(-?\d)"', text)
    assert rows == [("bee", "0"), ("ant", "-1")]
    assert "0.80" in text and text.count("<html") == 1
    part = page.client.get("/picture?dataset=street&shard=0&sample=1", headers={"x-part": "1"}).text
    assert "<html" not in part and "0.80" in part


def test_a_histogram_counts_what_the_slider_needs(page: Page) -> None:
    catalog = page.desk.catalogs.get()
    for label_id in ("ant", "bee", "cat"):
        label = catalog.label(label_id)
        histogram = histogram_of(catalog, label)
        assert histogram.tagged == len(page.all_keys(f"/?label={label_id}"))
        for step in (0, 50, 400, 500, 551, 799, 800, 1000):
            shown = page.all_keys(f"/?label={label_id}&low={step / 1000}")
            assert sum(histogram.bins[step:]) == len(shown), (label_id, step)


def test_the_edge_says_which_pictures_change(page: Page) -> None:
    text = page.html("/edge?label=ant&at=0.6")
    above, below = text.split("Just below")
    assert re.findall(r'class="tile ?(\w*)"', above) == ["", ""] and "loses" in below
    assert re.findall(r'class="tile ?(\w*)"', below)[:3] == ["loses", "loses", ""]
    gained = page.html("/edge?label=ant&at=0.39").split("Just below")[0]
    assert set(re.findall(r'class="tile ?(\w*)"', gained)) == {"gains"}
    assert page.html("/edge?label=ant&at=0").count("none</li>") == 1


def test_counts_of_all_labels(page: Page) -> None:
    counts = page.get("/api/counts")["counts"]
    assert counts == {"ant": 4, "bee": 2, "cat": 71}


def test_two_models_side_by_side(page: Page) -> None:
    text = page.html("/compare?other=model:m2")
    first = text[text.index('<table class="compare"') :].split("</tr>")[1]
    assert 'class="novel only"' in first and "CAT" in first
    assert "Both sides are the same" in page.html("/compare")
    assert "Both sides are the same" not in page.html("/compare?source=run:r1&other=run:r2")


# --- SQL


def test_a_query_with_keys_fills_the_grid(page: Page) -> None:
    to = page.post("/api/sql", {"sql": "select key, score as s from scores where label_id = 'cat' order by score desc"})
    assert page.all_keys(to["to"])[:2] == ["m/149", "m/148"] and len(page.all_keys(to["to"])) == 150
    assert "s 0.9375" in page.html(to["to"])
    twice = page.post("/api/sql", {"sql": "select sample, key, shard from samples where sample < 2 order by key desc"})
    assert len(page.all_keys(twice["to"])) == 4


def test_a_query_without_keys_shows_a_table(page: Page) -> None:
    to = page.post("/api/sql", {"sql": "select status, count(*) as n from samples group by all order by all"})["to"]
    text = page.html(to)
    assert '<th>status</th><th class="num">n</th>' in text and "2 rows" in text
    assert "no sample of the store has these keys" in page.html(
        page.post("/api/sql", {"sql": "select 'x' as key"})["to"]
    )
    assert "0 rows" in page.html(page.post("/api/sql", {"sql": "select key from samples where false"})["to"])
    long = page.html(page.post("/api/sql", {"sql": f"select range as n from range({MAX_ROWS + 5})"})["to"])
    assert f"the first {MAX_ROWS:,} rows" in long and f"{MAX_ROWS:,} rows" in long


@pytest.mark.parametrize(
    "sql",
    [
        "copy samples to '{out}'",
        "select * from read_text('/etc/passwd')",
        "drop view tags",
        "select 1; select 2",
        "",
        "select * from '{out}'",
        "install httpfs",
        "set enable_external_access = true",
        "attach '{out}' as other",
        "with a as (copy samples to '{out}') from a",
        "select getenv('HOME')",
    ],
)
def test_the_box_refuses_what_sql_refuses(page: Page, tmp_path: Path, sql: str) -> None:
    error = page.post("/api/sql", {"sql": sql.replace("{out}", str(tmp_path / "out"))}, 400)["error"]
    assert error and "root:" not in error and str(tmp_path) not in error
    assert list(tmp_path.iterdir()) == []


def test_a_query_of_another_model(page: Page) -> None:
    to = page.post("/api/sql", {"sql": "select distinct model_id from scores", "source": "model:m2"})["to"]
    assert "<td>m2</td>" in page.html(to)


# --- answers


def test_an_answer_is_in_the_store_once_it_is_saved(own: Page) -> None:
    assert own.post("/api/answer", {**PLACE, "label": "ant", "value": 1})["waiting"] == 1
    own.post("/api/answer", {**PLACE, "sample": 1, "label": "bee", "value": 0})
    assert own.post("/api/answer", {**PLACE, "sample": 2, "label": "cat", "value": None})["waiting"] == 3
    assert 'data-label="ant" data-answer="yes"' in own.html("/picture?dataset=street&shard=0&sample=0")
    assert re.search(r'data-answer="yes"', own.html("/?label=ant"))
    assert not list(Path(own.desk.folder.root, "annotations").glob("*"))
    assert own.post("/api/save", {}) == {"saved": 3, "waiting": 0, "can_undo": True, "trouble": ""}
    own.post("/api/refresh", {})
    said = asked(own, "SELECT dataset, shard, key, label_id, value, source FROM annotations ORDER BY label_id")
    assert said == [
        ("street", "0", "a", "ant", 1, "browse"),
        ("street", "0", EVIL, "bee", 0, "browse"),
        ("street", "0", KEYS[2], "cat", None, "browse"),
    ]
    assert asked(own, "SELECT count(*) FROM ground_truth") == [(2,)]
    assert "What was said of it (1)" in own.html("/picture?dataset=street&shard=0&sample=0")


def test_undo_before_and_after_answers_are_saved(own: Page) -> None:
    yes, no = ({**PLACE, "label": "ant", "value": value} for value in (1, 0))
    own.post("/api/answer", yes)
    undone = own.post("/api/undo", {})
    assert undone["undone"]["held"] is False and undone["waiting"] == 0
    own.post("/api/answer", yes)
    own.post("/api/save", {})
    own.post("/api/answer", no)
    assert own.post("/api/undo", {})["undone"]["value"] == 1  # as it was before
    own.post("/api/answer", no)
    own.post("/api/save", {})
    assert own.post("/api/undo", {})["undone"]["value"] == 1
    own.post("/api/save", {})
    own.post("/api/refresh", {})
    assert asked(own, "SELECT value FROM ground_truth") == [(1,)]
    last = own.post("/api/undo", {})["undone"]  # of the first answer, before which there was none
    assert (last["value"], last["held"]) == (None, True)
    assert "undone" not in own.post("/api/undo", {}) and "undone" not in own.post("/api/undo", {})


def test_answers_that_wait_are_written_at_the_end(tmp_path: Path) -> None:
    make_store(Folder(str(tmp_path / "store")))
    with browsing(str(tmp_path / "store"), tmp_path / "cache") as page:
        page.post("/api/answer", {**PLACE, "label": "ant", "value": 1})
    assert len(list(Path(tmp_path, "store", "annotations").glob("*.parquet"))) == 1


def test_answers_that_cannot_be_written_wait_and_say_so(tmp_path: Path) -> None:
    make_store(Folder(str(tmp_path / "store")))
    with browsing(str(tmp_path / "store"), tmp_path / "cache") as page:
        page.post("/api/answer", {**PLACE, "label": "ant", "value": 1})
        blocked = tmp_path / "store" / "annotations"
        blocked.write_text("no folder")
        assert "cannot write" in page.post("/api/save", {}, 400)["error"]
        assert page.get("/api/state")["waiting"] == 1
    assert page.desk.answers.waiting == 1 and "cannot write" in page.desk.answers.trouble


def test_answers_write_themselves(tmp_path: Path) -> None:
    make_store(Folder(str(tmp_path / "store")))
    with browsing(str(tmp_path / "store"), tmp_path / "cache") as page:
        for number in range(50):
            page.post("/api/answer", {**PLACE, "shard": "many/1", "sample": number, "label": "ant", "value": 1})
        while page.get("/api/state")["waiting"]:
            time.sleep(0.05)
        assert len(list(Path(tmp_path, "store", "annotations").glob("*.parquet"))) == 1


@pytest.mark.parametrize(
    "answer",
    [{"value": 2}, {"value": "1"}, {"label": "nope"}, {"sample": 99}, {"extra": 1}, {"sample": -1}],
)
def test_a_wrong_answer_is_refused(own: Page, answer: dict[str, object]) -> None:
    answered = own.client.post("/api/answer", json={**PLACE, "label": "ant", "value": 1, **answer}, headers=own.own)
    absent = "nope" in answer.values() or 99 in answer.values()
    assert answered.status_code == (404 if absent else 400) and answered.json()["error"]
    assert own.get("/api/state")["waiting"] == 0


# --- pictures, search, export


def test_pictures_are_small_and_their_failures_say_why(real: Page, world: World) -> None:
    for path, side in (("/thumb", 320), ("/image", 1400)):
        answer = real.client.get(f"{path}?dataset=world&shard=00000&sample=1")
        assert answer.headers["content-type"] == "image/webp" and len(answer.content) < 50_000, side
    for query, words in (
        ("dataset=world&shard=00002&sample=1", "not a picture"),
        ("dataset=world&shard=nope&sample=1", "no shard"),
        ("dataset=world&shard=00000&sample=99", "has no sample 99"),
    ):
        answer = real.client.get(f"/thumb?{query}")
        assert answer.status_code == 404 and answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-type"] == "image/svg+xml" and words in answer.text
        assert str(world.folder) not in answer.text
    assert "unsupported" in real.html("/?status=failed") and "<img loading" not in real.html("/?status=failed")


def test_pictures_of_an_object_store_are_found_without_its_headers(bucket: str, tmp_path: Path) -> None:
    world = make_world(tmp_path, shards=0)
    members = [(f"{number}.jpg", jpeg(number)) for number in range(30)]
    captions = [(f"{number}.json", b'"' + b"x" * (700 * (number % 3)) + b'"') for number in range(30)]
    whole = [each for pair in zip(members, captions, strict=True) for each in pair]
    Folder(f"{bucket}/shards").write_bytes("00000.tar", build_tar([*whole, ("bad.jpg", b"no picture")]))
    world.tag(shards=(f"{bucket}/shards/*.tar",), floor=0.0)
    with browsing(world.store, tmp_path / "cache") as page:
        for sample in (0, 17, 29):
            answer = page.client.get(f"/thumb?dataset=world&shard=00000&sample={sample}")
            assert answer.headers["content-type"] == "image/webp"
        assert "not a picture" in page.client.get("/thumb?dataset=world&shard=00000&sample=30").text
    assert not list((tmp_path / "cache").rglob(RANGES))


def test_what_is_like_a_picture(real: Page) -> None:
    place = {"dataset": "world", "shard": "00000", "sample": 0}
    job = real.finished("/api/search", {"like": place})
    keys = real.keys(job["result"]["to"])
    assert job["state"] == "done" and "s0-0" not in keys and len(keys) == 8
    assert "cosine" in real.html(job["result"]["to"])


def test_a_text_loads_the_model_and_finds(real: Page) -> None:
    job = real.finished("/api/search", {"text": "a red circle"})
    assert len(real.keys(job["result"]["to"])) == 9
    assert real.post("/api/search", {"text": "  "}, 400)["error"] == "say what to look for"


def test_a_picture_of_ones_own(real: Page) -> None:
    headers = {**real.own, "content-type": "application/octet-stream"}

    def search(data: bytes) -> Any:
        return real.awaited(real.client.post("/api/search-picture", content=data, headers=headers).json())

    assert len(real.keys(search(jpeg(1001))["result"]["to"])) == 9
    refused = search(b"no picture")
    assert refused["state"] == "failed" and "/tmp" not in refused["says"]


def test_an_export_of_what_is_shown(real: Page, tmp_path: Path) -> None:
    sql = export_sql(real.desk.catalogs.get(), Filter(key="s1-"))
    job = real.finished("/api/export", {"sql": sql, "to": str(tmp_path / "out-{:02d}.tar")})
    assert job["state"] == "done" and job["result"]["ok"]
    with tarfile.open(tmp_path / "out-00.tar") as tar:
        assert sorted(name for name in tar.getnames() if name.endswith(".jpg")) == [f"s1-{n}.jpg" for n in range(4)]
    failed = real.finished("/api/export", {"sql": "select 1", "to": str(tmp_path / "x-{:02d}.tar")})
    assert failed["state"] == "failed" and "key" in failed["says"]
    assert real.post("/api/export", {"sql": sql, "to": "out.docx"}, 400)["error"]


def test_what_was_written_since_is_seen_after_a_refresh(tmp_path: Path) -> None:
    grown = make_world(tmp_path, shards=1, images=2)
    grown.tag(floor=0.0)
    with browsing(grown.store, tmp_path / "cache") as page:
        assert len(page.all_keys("/")) == 2
        grown.shard("00003", [("late.jpg", jpeg(99))])
        grown.tag(floor=0.0)
        assert len(page.all_keys("/")) == 2
        page.post("/api/refresh", {})
        assert "late" in page.all_keys("/")


def test_a_model_without_a_decoder_looks_nowhere(real: Page) -> None:
    place = {"dataset": "world", "shard": "00000", "sample": 0}
    assert "where?" not in real.html(f"/picture?{urlencode(place)}")
    job = real.finished("/api/look", {**place, "label": "red-circle"})
    assert job["state"] == "failed" and "has no decoder" in job["says"]


def test_pages_are_short(page: Page) -> None:
    assert len(page.keys("/")) == filters.PAGE


def test_where_a_label_looked(annotated: AnnotatedWorld, model_id: str, tmp_path: Path) -> None:
    annotated.tag(model=model_id, floor=0.0)
    with browsing(annotated.store, tmp_path / "cache") as page:
        place = {"dataset": "world", "shard": "00000", "sample": 3}
        assert "where?" in page.html(f"/picture?{urlencode({**place, 'source': f'model:{model_id}'})}")
        job = page.finished("/api/look", {**place, "label": LABELS[0], "source": f"model:{model_id}"})
        assert job["state"] == "done", job
        drawing = page.client.get(job["result"]["image"])
        assert drawing.headers["content-type"] == "image/webp"
        assert Image.open(io.BytesIO(drawing.content)).size == (SIDE, SIDE)
    assert "gone" in page.client.get("/drawing/nope").text

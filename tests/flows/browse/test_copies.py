"""Nearly equal pictures on the page: hidden where a person wants it, linked to each other, and not in the export."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from flows.browse.exports import export_sql
from flows.browse.filters import Filter
from flows.duplicates import run_duplicates
from flows.export import run_export
from flows.quality import run_quality
from schemas.curation import DuplicatesRequest, QualityRequest
from schemas.export import ExportRequest
from tests.flows.browsing import Page, browsing
from tests.flows.world import make_world, pictures
from tests.nasty import jpeg


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Look at six pictures, three of which have the same bytes, and at a file that is none."""
    place = tmp_path_factory.mktemp("copies")
    world = make_world(place, shards=1, images=3)
    world.shard(
        "00001", [("one.jpg", jpeg(3)), ("two.jpg", jpeg(3)), ("bad.jpg", b"no picture"), ("three.jpg", jpeg(3))]
    )
    world.tag(floor=0.0)
    run_quality(QualityRequest(store=world.store))
    run_duplicates(DuplicatesRequest(store=world.store))
    with browsing(world.store, place / "cache") as opened:
        yield opened


def copies(page: Page) -> set[str]:
    rows = page.desk.catalogs.get().ask("SELECT key FROM duplicates WHERE NOT representative")
    return {row["key"] for row in rows}


@pytest.mark.parametrize("query", ["", "label=red-circle&low=0", "low=0", "status=ok"])
def test_copies_are_hidden_on_pages_and_in_the_export(page: Page, query: str) -> None:
    hidden = copies(page)
    everything, shown = page.all_keys(f"/?{query}"), page.all_keys(f"/?{query}&copies=hide")
    assert len(hidden) >= 2 and {"two", "three"} <= hidden
    assert sorted(shown) == sorted(set(everything) - hidden)
    wanted = Filter(copies="hide", **dict(part.split("=") for part in query.split("&") if part))
    catalog = page.desk.catalogs.get()
    rows = catalog.ask(f"SELECT DISTINCT key FROM ({export_sql(catalog, wanted)})")
    assert sorted(row["key"] for row in rows) == sorted(shown)


def test_a_page_says_that_copies_are_hidden(page: Page) -> None:
    assert 'name="copies" value="hide">' in page.html("/")
    text = page.html("/?copies=hide")
    assert 'name="copies" value="hide" checked>' in text and "without copies" in text


def test_a_picture_says_what_it_is_like_and_what_is_like_it(page: Page) -> None:
    text = page.html("/picture?dataset=world&shard=00001&sample=1&source=&label=red-circle")
    assert "Sharpness" in text and "Perceptual hash" in text
    near = text.split("Nearly the same")[1]
    links = [unescape(link) for link in re.findall(r'<a href="([^"]*)"', near)]
    assert "stands for the group" in near and "same bytes" in near
    assert any("sample=0" in link for link in links) and all("sample=1&" not in link for link in links)
    assert "label=red-circle" in links[0] and page.html(links[0])
    assert "Nearly the same" not in page.html("/picture?dataset=world&shard=00001&sample=2")  # it is no picture


def test_a_picture_is_shown_when_its_shard_was_measured_anew_since(tmp_path: Path) -> None:
    world = make_world(tmp_path, shards=1, images=2)
    world.tag(floor=0.0)
    run_quality(QualityRequest(store=world.store))
    with browsing(world.store, tmp_path / "cache") as page:
        page.html("/")
        world.shard("00000", pictures(7, 3))
        world.tag(floor=0.0)
        run_quality(QualityRequest(store=world.store))
        where = "/picture?dataset=world&shard=00000&sample=0"
        assert "Sharpness" not in page.html(where)
        page.post("/api/refresh", {})
        assert "Sharpness" in page.html(where)


def test_of_one_run_one_of_its_own_copies_stays_on_the_page_and_in_the_export(tmp_path: Path) -> None:
    world = make_world(tmp_path, shards=0)
    for name, keys in (("a", ["first"]), ("b", ["second", "third"])):
        world.shard(f"{name}/0", [(f"{key}.jpg", jpeg(3)) for key in keys])
        world.tag(shards=(str(tmp_path / "shards" / name / "*.tar"),), name=name, floor=0.0)
    run_duplicates(DuplicatesRequest(store=world.store))
    with browsing(world.store, tmp_path / "cache") as page:
        assert page.all_keys("/?copies=hide") == ["first"]
        (run,) = (each["value"] for each in page.desk.catalogs.get().sources["runs"] if each["value"][4] == "b")
        assert page.all_keys(f"/?copies=hide&source={run}") == ["second"]
        sql = export_sql(page.desk.catalogs.get(run), Filter(copies="hide", source=run))
    request = ExportRequest(store=world.store, sql=sql, to=str(tmp_path / "out" / "{:05d}.tar"), run=run[4:])
    assert run_export(request).samples == 1


def test_damaged_groups_cost_no_page_and_whoever_hides_copies_learns_what_to_do(tmp_path: Path) -> None:
    world = make_world(tmp_path, shards=1, images=2)
    world.tag(floor=0.0)
    run_duplicates(DuplicatesRequest(store=world.store))
    (path,) = Path(world.store, "duplicates").glob("*.parquet")
    path.write_bytes(b"")
    with browsing(world.store, tmp_path / "cache") as page:
        assert len(page.all_keys("/")) == 2 and page.html("/picture?dataset=world&shard=00000&sample=0")
        assert "clipdecoder duplicates" in page.html("/?copies=hide", 400)


def test_a_store_without_statistics_says_how_to_make_them(tmp_path: Path) -> None:
    world = make_world(tmp_path, shards=1, images=1)
    world.tag(floor=0.0)
    with browsing(world.store, tmp_path / "cache") as page:
        assert "copies" not in page.html("/")
        assert "clipdecoder quality" in page.html("/picture?dataset=world&shard=00000&sample=0")
        assert len(page.all_keys("/?copies=hide")) == 1

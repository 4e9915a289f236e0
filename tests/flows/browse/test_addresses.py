"""Whatever stands in an address, the answer is a page or a sentence: 200, 400 or 404, and never an accident."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import unescape
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flows.browse.filters import mark_of
from storage.files import Folder
from tests.flows.browsing import Page, browsing
from tests.stores import Shard, make_model, make_run, make_taxonomy

PATHS = (
    *("/", "/picture", "/labels", "/label", "/edge", "/sql", "/found", "/compare"),
    *("/thumb", "/image", "/api/counts", "/api/state", "/api/jobs/x", "/drawing/x", "/nope"),
)
# What is there, what is nearly there, and what is none of it.
VALUES = {
    "source": ["", "model:m1", "run:r1", "run:", "model:", "run:nope", "model:../m1", "r1"],
    "other": ["", "model:m1", "run:r1", "run:nope"],
    "label": ["", "ant", "bee", "nope"],
    "dataset": ["", "street", "nope", "\0"],
    "shard": ["0", "nope", "", "'", "\0"],
    "sample": ["0", "2", "99", "-1", "1.0", str(2**31), "9" * 5000],
    "low": ["", "0", "0.5", "1", "1.5", "nan", "-inf", "1e400", "abc", "0x1"],
    "high": ["", "0.5", "nan"],
    "at": ["0.5", "nan", "2", ""],
    "order": ["high", "low", "xyz", ""],
    "status": ["", "ok", "failed", "decode_error", "xyz"],
    "knowledge": ["", "seen", "novel", "xyz"],
    "copies": ["", "hide", "xyz"],
    "key": ["", "x", "%", "'", "\0"],
    "change": ["", "gained", "lost", "xyz"],
    "start": ["0", "5", "-1", str(10**30), "9" * 5000],
    "name": ["nope", ""],
    "sql": ["select 1", "drop table samples"],
    "after": ["", "x", "é", mark_of(("street", "0", 1)), mark_of((0.5, 0.0, "street", "0", 1)), mark_of(({},) * 3)],
    "token": ["x"],
}
pairs = st.sampled_from(sorted(VALUES)).flatmap(
    lambda name: st.tuples(st.just(name), st.one_of(st.sampled_from(VALUES[name]), st.text(max_size=20)))
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Look at one shard that two labels were scored on."""
    place = tmp_path_factory.mktemp("addresses")
    folder = Folder(str(place / "store"))
    make_model(folder)
    make_run(folder, "r1", make_taxonomy("ant", "bee"), {"0": Shard(scores={"ant": [0.9, 0.2, 0.6], "bee": [0.3] * 3})})
    with browsing(folder.url, place / "cache") as opened:
        yield opened


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PATHS), st.lists(pairs, max_size=5), st.booleans())
@example("/", [("label", "ant"), ("after", mark_of((1e300, 1e300, "\0", "'", 0)))], False)
@example("/picture", [("dataset", "street"), ("shard", "0"), ("sample", "0"), ("label", "ant")], True)
@example("/edge", [("label", "ant"), ("at", "0.5")], False)
def test_no_address_is_an_accident(page: Page, path: str, given_pairs: list[tuple[str, str]], as_part: bool) -> None:
    query = urlencode(given_pairs, errors="replace")
    answer = page.client.get(f"{path}?{query}", headers={"x-part": "1"} if as_part else {})
    assert answer.status_code in (200, 400, 404), (path, given_pairs, answer.text)
    if answer.status_code == 200 or path in ("/thumb", "/image", "/drawing/x"):
        return
    if as_part or path.startswith(("/api/", "/edge")):
        assert answer.json()["error"]
    else:
        assert "That did not work" in answer.text


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(("tags", "answer", "sql", "search", "look", "export")), st.data())
def test_no_body_is_an_accident(page: Page, name: str, data: st.DataObject) -> None:
    names = ("dataset", "shard", "sample", "label", "value", "source", "places", "sql", "text", "like", "to")
    values = st.one_of(st.none(), st.integers(), st.text(max_size=5), st.sampled_from(["street", "0", "ant", "run:x"]))
    body = data.draw(st.one_of(st.dictionaries(st.sampled_from(names), values), values, st.lists(values, max_size=2)))
    answer = page.client.post(
        f"/api/{name}", content=json.dumps(body), headers=page.own | {"content-type": "text/json"}
    )
    assert answer.status_code in (200, 400, 404), (name, body, answer.text)
    assert answer.status_code == 200 or answer.json()["error"]


@pytest.mark.parametrize("broken", ["%ff", "%", "%zz", "a=%00&b", "&&==", "=x"])
def test_an_address_that_is_none_is_read_as_far_as_it_goes(page: Page, broken: str) -> None:
    assert page.client.get(f"/?{broken}").status_code in (200, 400)
    assert page.client.get(f"/?key={broken}").status_code in (200, 400)


def test_the_page_and_its_script_are_told_the_same(page: Page) -> None:
    words = unescape(page.html("/?order=xyz", 400))
    told = page.client.get("/?order=xyz", headers={"x-part": "1"})
    assert told.status_code == 400 and told.json()["error"] in words
    assert told.json()["error"] == (
        "order 'xyz': input should be 'high' or 'low'; correct the address, or begin at the first page"
    )
    assert page.client.get(f"/api/counts?source={quote('run:nope')}").status_code == 404


def test_a_range_that_is_reversed_is_named(page: Page) -> None:
    words = unescape(page.html("/?label=ant&low=0.9&high=0.1", 400))
    assert "no score is at least 0.9 and at most 0.1; exchange low and high" in words
    assert page.html("/?label=ant&low=0.5&high=0.5")


def test_sources_that_are_not_there_leave_nothing_behind(page: Page) -> None:
    for number in range(3):
        assert page.client.get(f"/?source=run:nope{number}").status_code == 404
    assert not page.desk.catalogs._opening


def test_head_answers_as_get_does(page: Page) -> None:
    for path in ("/", "/labels", "/api/state", "/static/browse.css"):
        assert page.client.head(path).status_code == page.client.get(path).status_code != 405, path

"""The report in a real Chromium: it loads nothing, keeps its policy, fits any width, is read in light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from flows.report.figures import run_report
from flows.report.page import read_pictures, report_page
from schemas.report import ReportRequest
from tests.e2e.test_review_page import EVIL, browser, chromium, show, world
from tests.flows.world import World

__all__ = ["browser", "chromium", "world"]  # fixtures
pytestmark = pytest.mark.browser

# Of every text of the drawings: how far it is outside of its drawing, and its colour.
_LETTERS = """
return [...document.querySelectorAll("svg text")].map(text => {
    const own = text.getBoundingClientRect(), all = text.closest("svg").getBoundingClientRect();
    const out = Math.max(all.left - own.left, own.right - all.right, all.top - own.top, own.bottom - all.bottom);
    return [out, getComputedStyle(text).fill];
})"""
_COLOURS = """
const style = getComputedStyle(document.body), root = getComputedStyle(document.documentElement);
const paint = name => { const each = document.createElement("i"); each.style.color = root.getPropertyValue(name);
    document.body.append(each); const found = getComputedStyle(each).color; each.remove(); return found; };
return [style.backgroundColor, style.color, paint("--ink"), paint("--soft")]"""


@pytest.fixture(scope="module")
def path(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a run with a label that is a script."""
    request = ReportRequest(store=world.store, labels=("evil", "red-circle"))
    report = run_report(request)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report_page(report, read_pictures(request, report)))
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 800, 390])
def test_it_fits_and_can_be_read(browser: webdriver.Chrome, path: Path, width: int, scheme: str) -> None:
    show(browser, width, 900, scheme)
    browser.get(path.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    paper, *inks = browser.execute_script(_COLOURS)
    light = [sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(", "))) for colour in (paper, *inks)]
    assert (light[0] > light[1]) == (scheme == "light") and abs(light[0] - light[1]) > 500
    letters = browser.execute_script(_LETTERS)
    assert len(letters) > 20 and all(out < 2 and colour in inks for out, colour in letters)


def test_pictures_are_there_and_names_of_others_do_not_run(browser: webdriver.Chrome, path: Path) -> None:
    browser.get(path.as_uri())
    pictures = browser.find_elements(By.CSS_SELECTOR, ".frame img")
    browser.execute_script("for (const each of document.images) each.loading = 'eager'")
    browser.execute_async_script(
        "Promise.all([...document.images].map(each => each.decode())).then(arguments[arguments.length - 1])"
    )
    assert len(pictures) > 8 and all(each.get_property("naturalWidth") for each in pictures)
    assert browser.title.startswith("Run world-")
    assert any(EVIL in each.text for each in browser.find_elements(By.CSS_SELECTOR, "h3"))

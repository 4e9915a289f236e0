"""The review page in a real Chromium: keyboard, reload, download, import; it loads nothing and runs no others' text."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from flows.review.answers import run_import
from flows.review.export import run_export
from flows.review.page import review_page
from flows.review.selection import Task
from schemas.review import MAX_TASKS, ReviewRequest
from storage.review import Candidate, ReviewLabel
from tests.flows.world import World, make_world, taxonomy_text

pytestmark = pytest.mark.browser

SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
EVIL = "<script>document.title = 'owned'</script>"
SECONDS = 20


def program(*names: str) -> str:
    """Return where a program is. Without a browser these tests fail: skipped, they would prove nothing."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.fail(f"none of {', '.join(names)} is installed; `make browser` installs them where apt-get works")
    return found


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Start a Chromium with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium", "chromium-browser", "google-chrome")
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=program("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: webdriver.Chrome, tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """Return the browser with its downloads in `tmp_path`; a test fails if its page complains or loads something."""
    chromium.get("about:blank")
    chromium.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    show(chromium, 1280, 800)
    logs(chromium)
    yield chromium
    complaints, requests = logs(chromium)
    assert complaints == []
    assert {url.partition(":")[0] for url in requests} <= {"file", "data", "blob", "about"}


def logs(driver: webdriver.Chrome) -> tuple[list[str], list[str]]:
    """Return what the console says and what was requested since this was asked last."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    requests = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [entry["message"] for entry in driver.get_log("browser")], requests


def show(driver: webdriver.Chrome, width: int, height: int, scheme: str = "light") -> None:
    """Give the page a size and a colour scheme."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a tagged world with a label that is a script."""
    world = make_world(tmp_path_factory.mktemp("world"))
    world.taxonomy.write_text(taxonomy_text() + f'  - {{id: evil, name: "{EVIL}"}}\n')
    world.tag()
    return world


@pytest.fixture
def page(world: World, tmp_path: Path, browser: webdriver.Chrome) -> webdriver.Chrome:
    """Return the browser with a page of two labels, three questions each."""
    request = ReviewRequest(store=world.store, per_label=3, labels=("blue-star", "red-circle"))
    run_export(request, tmp_path / "review")
    open_page(browser, tmp_path / "review/review.html")
    return browser


def open_page(driver: webdriver.Chrome, path: Path) -> None:
    driver.get(path.as_uri())
    driver.execute_script("localStorage.clear()")
    driver.refresh()


def press(driver: webdriver.Chrome, *keys: str) -> None:
    for key in keys:
        driver.switch_to.active_element.send_keys(key)


def by_id(driver: webdriver.Chrome, name: str) -> WebElement:
    return driver.find_element(By.ID, name)


def text(driver: webdriver.Chrome, name: str) -> str:
    return by_id(driver, name).text


def pressed(driver: webdriver.Chrome) -> list[str | None]:
    """Return which answer is shown as given."""
    buttons = driver.find_elements(By.CSS_SELECTOR, ".answers button")
    return [button.get_attribute("id") for button in buttons if button.get_attribute("aria-pressed") == "true"]


def saved(folder: Path, has: Callable[[dict[str, Any]], bool] = bool) -> tuple[Path, dict[str, Any]]:
    """Return the answers file that the page let the browser save, once it is whole."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for path in folder.glob("answers-*.json"):
            content: dict[str, Any] = json.loads(path.read_text() or "{}")
            if has(content):
                return path, content
        time.sleep(0.05)
    raise AssertionError("nothing was downloaded")


def test_from_keys_to_annotations(page: webdriver.Chrome, world: World, tmp_path: Path) -> None:
    assert text(page, "count") == "0 of 6 answered" and text(page, "name") == "blue star"
    press(page, "y", "n", "u")
    assert text(page, "count") == "3 of 6 answered" and text(page, "name") == "red circle"
    press(page, Keys.ARROW_LEFT, Keys.BACKSPACE)
    assert text(page, "place") == "2 of 3" and pressed(page) == ["no"]
    press(page, "y")
    assert text(page, "name") == "red circle" and pressed(page) == []
    page.refresh()
    assert text(page, "count") == "3 of 6 answered" and text(page, "name") == "red circle"
    press(page, Keys.ARROW_LEFT)
    assert pressed(page) == ["unsure"]
    press(page, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, "n", "s")
    assert "4 answers saved" in text(page, "said")
    path, content = saved(tmp_path)
    answers = content["answers"]
    assert [(each["label_id"], each["value"]) for each in answers] == [
        *(("blue-star", value) for value in (1, 1, None)),
        ("red-circle", 0),
    ]
    assert run_import(world.store, str(path)).new
    found = world.ask("select dataset, shard, key, label_id, value, source from annotations")
    names = ("dataset", "shard", "key", "label_id", "value")
    assert set(found) == {(*(each[name] for name in names), "review") for each in answers}
    assert not run_import(world.store, str(path)).new


def test_the_end_of_a_label_leads_to_the_open_ones(page: webdriver.Chrome) -> None:
    Select(by_id(page, "filter")).select_by_value("1")
    assert text(page, "count") == "0 of 3 answered" and text(page, "name") == "red circle"
    press(page, "y", "y")
    page.find_element(By.ID, "skip").click()
    assert text(page, "done") == "1 of 3 questions are open"
    by_id(page, "onward").click()
    assert text(page, "place") == "3 of 3"
    press(page, "n")
    assert text(page, "done") == "Every question here is answered"
    assert (
        text(page, "tally")
        == "2 yes, 1 no, 0 unsure. 3 questions are open under other labels. Not in a file yet: 3 answers."
    )
    by_id(page, "onward").click()
    assert text(page, "name") == "blue star" and text(page, "count") == "3 of 6 answered"


def test_without_a_mouse_and_with_a_screen_reader(page: webdriver.Chrome) -> None:
    names = []
    for _ in range(8):
        press(page, Keys.TAB)
        element = page.switch_to.active_element
        names.append((element.aria_role, element.accessible_name))
        if element.get_attribute("id") == "unsure":
            break
    roles = {name: role for role, name in names}
    assert roles["Label"] == "combobox" and {"Save answers s", "Yes y", "No n", "Unsure u"} <= roles.keys()
    press(page, Keys.ENTER)
    assert text(page, "count") == "1 of 6 answered"
    assert text(page, "said") == "Answered unsure. Question 2 of 6: blue star?"
    assert by_id(page, "said").aria_role == "status"
    assert by_id(page, "picture").accessible_name.startswith("picture s")
    assert by_id(page, "bar").accessible_name == "questions answered"
    unnamed = [button for button in page.find_elements(By.CSS_SELECTOR, "button, select") if button.is_displayed()]
    assert all(element.accessible_name for element in unnamed)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1600, 900), (1024, 700), (360, 740)])
def test_it_fits_and_can_be_read(page: webdriver.Chrome, width: int, height: int, scheme: str) -> None:
    show(page, width, height, scheme)
    wide, paper, ink, frame = page.execute_script("""
        const style = getComputedStyle(document.body), light = color => color.match(/\\d+/g).map(Number);
        return [document.documentElement.scrollWidth, light(style.backgroundColor), light(style.color),
            document.getElementById("unsure").getBoundingClientRect().bottom]""")
    assert wide <= width and frame <= height  # the answers are in sight without scrolling
    assert (sum(paper) > sum(ink)) == (scheme == "light")
    assert abs(sum(paper) - sum(ink)) > 500


def test_names_of_others_do_not_run(world: World, browser: webdriver.Chrome, tmp_path: Path) -> None:
    run_export(ReviewRequest(store=world.store, per_label=2, labels=("evil",)), tmp_path / "review")
    open_page(browser, tmp_path / "review/review.html")
    assert text(browser, "name").startswith(EVIL) and browser.title == "Review: 2 questions"
    press(browser, "y", "y", "s")
    assert EVIL in by_id(browser, "filter").text
    assert [each["label_id"] for each in saved(tmp_path)[1]["answers"]] == ["evil", "evil"]


def test_a_browser_that_keeps_nothing_says_so(
    browser: webdriver.Chrome, page: webdriver.Chrome, tmp_path: Path
) -> None:
    script = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('blocked'); }})"
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    try:
        page.refresh()
        press(page, "y")
        assert "This browser keeps no answers: save before you close the page" in text(page, "said")
        press(page, "s")
        assert len(saved(tmp_path)[1]["answers"]) == 1
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_thousands_of_questions_stay_fluid(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "large.html"
    tasks, pictures = many_tasks()
    path.write_text(review_page(tasks, pictures, "m"))
    assert path.stat().st_size > 15_000_000
    open_page(browser, path)
    spent = browser.execute_script("""
        const started = performance.now();
        for (let each = 0; each < 100; each++)
            document.dispatchEvent(new KeyboardEvent("keydown", {key: "yn"[each % 2], bubbles: true}));
        return performance.now() - started""")
    assert text(browser, "count") == f"100 of {MAX_TASKS} answered"
    assert spent / 100 < 50  # milliseconds an answer: below what a person notices


def many_tasks() -> tuple[list[Task], list[str]]:
    """Return as many questions as a page may have, of 250 labels, with pictures of some KB that nobody looks at."""
    labels = [ReviewLabel(label_id=f"l{n}", name=f"label {n}", description=None, seen=False) for n in range(250)]
    tasks = []
    for number in range(MAX_TASKS):
        asked = labels[number // 20]
        found = Candidate(
            dataset="d",
            shard="s",
            sample=number,
            key=f"folder/{number:06d}",
            sha256=f"{number:064x}",
            label_id=asked.label_id,
            score=0.5,
            threshold=0.5,
            judged=True,
        )
        tasks.append(Task(label=asked, candidate=found, reason="near"))
    return tasks, [f"data:image/gif;base64,{'A' * 3000}{number:06d}" for number in range(MAX_TASKS)]

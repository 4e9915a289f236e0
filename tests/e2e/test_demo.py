"""The demo as a new user runs it, and the documents' queries on the store it leaves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from storage.catalog import open_catalog
from storage.query import run_query

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).with_name("clipdecoder"))
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
QUERIES = [query for page in DOCUMENTS for query in re.findall(r"```sql\n(.*?)```", page.read_text(), re.DOTALL)]


def demo(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "COLUMNS": "200"}
    return subprocess.run(
        [COMMAND, "demo", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Play the demo once, through Prefect's own temporary server."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, demo(folder)


def test_the_story_is_told(played: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = played
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    commands = re.findall(r"^\$ clipdecoder (\w+)", done.stderr, re.MULTILINE)
    tagged = ["pack", "tag", "sql", "sql", "sql", "tag", "sql", "audit"]
    trained = ["train", "pack", "evaluate", "pack", "calibrate", "tag", "models", "sql"]
    grown = ["taxonomy", "taxonomy", "sql", "evaluate", "review", "annotations", "taxonomy", "taxonomy", "evaluate"]
    assert commands == [*tagged, *trained, *grown]
    assert "601 images: 600 scored, 1 failed (1 truncated)" in done.stdout
    assert "16 labels were held out as novel" in done.stdout and "calibration: fitted" in done.stdout
    assert "fused of model" in (folder / "demo" / "evaluation" / "report.html").read_text()
    page = (folder / "demo" / "contact-sheet.html").read_text()
    assert page.count("<section>") == 65 and page.count("data:image;base64,") > 64 * 6


def test_a_label_is_learned_from_answers(played: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    said = played[1].stdout
    assert "valentine: no answers yet" in said and "and the current model was not trained on it" in said
    before, after = re.findall(r"([\d.]+)% when it was new, ([\d.]+)% now", said)[0]
    assert "outcome: promoted" in said and float(after) > float(before) + 20


def test_the_demo_replaces_itself_and_nothing_else(
    played: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    done = demo(tmp_path, "--to", str(tmp_path))
    assert done.returncode == 2 and "not from a demo" in done.stderr
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_there_are_ten_useful_queries() -> None:
    assert len(QUERIES) >= 10


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_of_the_documents_runs(played: tuple[Path, subprocess.CompletedProcess[str]], query: str) -> None:
    with open_catalog(str(played[0] / "demo" / "store")) as connection:
        run_query(connection, query)

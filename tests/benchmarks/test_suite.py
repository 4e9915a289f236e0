"""The benchmarks start, and the table says of each figure whether its target is reached."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.figures import Figure, Result, arguments, publish, read_figures, table
from benchmarks.gpu import covered
from benchmarks.suite import SCRIPTS, Outcome, rows, summary

ROOT = Path(__file__).parents[2]
# What takes arguments is a script, the rest are parts of scripts.
TAKES_ARGUMENTS = re.compile(r"argparse\.ArgumentParser\(|arguments\(\"benchmarks\.")


def figure(value: float, *, at_most: bool = False, target: float | None = 2.0) -> Figure:
    return Figure(name="speed", value=value, unit="times", target=target, at_most=at_most, basis="by the clock")


def test_a_figure_knows_whether_its_target_is_reached() -> None:
    assert figure(2.0).reached and figure(2.0, at_most=True).reached
    assert figure(1.99).reached is False and figure(2.01, at_most=True).reached is False
    assert figure(1.0, target=None).reached is None


@pytest.mark.parametrize(
    ("made", "row"),
    [
        (figure(2.5), "| speed | 2.5 times | at least 2 times | yes | by the clock |"),
        (figure(2.5, at_most=True), "| speed | 2.5 times | at most 2 times | **no** | by the clock |"),
        (figure(12345.6, target=None), "| speed | 12,346 times |  |  | by the clock |"),
        (figure(0.002141, target=0.0), "| speed | 0.00214 times | at least 0 times | yes | by the clock |"),
    ],
)
def test_a_row_says_value_target_and_verdict(made: Figure, row: str) -> None:
    assert made.row() == row
    assert table([made])[-1] == row


def test_the_suite_shows_every_script_and_why_one_failed() -> None:
    outcomes = [
        Outcome(script="tagging", figures=[figure(3.0), figure(1.0), figure(1.0, target=None)]),
        Outcome(script="memory", failure="MemoryError"),
    ]
    shown = list(rows(outcomes))
    assert [line.split("|")[1].strip() for line in shown[2:]] == ["*tagging*", "speed", "speed", "speed", "*memory*"]
    assert "**failed** | MemoryError" in shown[-1]
    assert len({line.count("|") for line in shown}) == 1
    assert summary(outcomes) == "1 of 2 targets are reached; failed: memory"


def test_a_result_is_printed_written_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = Namespace(write=tmp_path / "result.md", figures=tmp_path / "figures.json", small=True)
    publish(Result(lines=["# Title"], figures=[figure(3.0)]), given)
    assert capsys.readouterr().out == given.write.read_text()
    assert given.write.read_text().startswith("# Title\n") and figure(3.0).row() in given.write.read_text()
    assert read_figures(given.figures) == [figure(3.0)]
    assert json.loads(given.figures.read_text())[0]["target"] == 2.0


def test_the_busy_share_counts_time_once() -> None:
    assert covered([(0, 4), (2, 3), (3, 5), (9, 10)]) == 0.6
    assert covered([(5, 6), (0, 1)]) == pytest.approx(1 / 3)
    assert covered([]) is None


def test_the_parser_has_what_the_suite_asks_with() -> None:
    given = arguments("benchmarks.suite", "What it does.").parse_args(["--small", "--figures", "f.json"])
    assert given.small and given.figures == Path("f.json") and given.write is None


def test_the_suite_names_scripts_that_are_there() -> None:
    assert all((ROOT / "benchmarks" / f"{script}.py").exists() for script in SCRIPTS)


@pytest.mark.slow
def test_every_benchmark_has_a_help() -> None:
    scripts = [path for path in (ROOT / "benchmarks").glob("*.py") if TAKES_ARGUMENTS.search(path.read_text())]
    names = sorted(path.stem for path in scripts if path.stem != "figures")
    assert set(names) >= {*SCRIPTS, "suite", "gpu"}
    # In one process, as most of them load torch.
    done = subprocess.run([sys.executable, "-c", SHOW_HELP, *names], cwd=ROOT, capture_output=True, text=True)
    helps: dict[str, str] = json.loads(done.stdout or "{}")
    assert sorted(helps) == names, done.stderr
    assert all("usage: " in shown and "--help" in shown for shown in helps.values())
    assert not [script for script in SCRIPTS if "--small" not in helps[script] or "--figures" not in helps[script]]


SHOW_HELP = """
import contextlib, io, json, runpy, sys

def shown(name):
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        runpy.run_module("benchmarks." + name, run_name="__main__")
    return said.getvalue()

helps = {name: shown(name) for name in sys.argv[1:]}
print(json.dumps(helps))
"""

"""Every benchmark, one after the other in processes of their own, and one table of what each is to reach.

    python -m benchmarks.suite [--small] [--only tagging,memory] [--write benchmarks/results/NAME.md]

`make bench` runs it small. What the scripts print on the way goes to the standard error. A script that fails is a line
of the table, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import HEADER, Figure, arguments, read_figures
from benchmarks.machine import describe

SCRIPTS = (
    "tagging",
    "feeder",
    "clip_retrieval",
    "head_cost",
    "training_cost",
    "duplicates",
    "backfill",
    "queries",
    "cold_start",
    "memory",
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one script."""

    script: str
    figures: Sequence[Figure] = ()
    failure: str = ""  # the last line that it said, where it failed


def run(script: str, options: Sequence[str]) -> Outcome:
    """Run a script and return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "figures.json")
        words = [sys.executable, "-m", f"benchmarks.{script}", *options, "--figures", str(path)]
        done = subprocess.run(words, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
        sys.stderr.write(done.stderr)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            return Outcome(script=script, failure=said[-1])
        return Outcome(script=script, figures=read_figures(path))


def rows(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the table: the figures of each script under its name, and why there are none of it."""
    yield from HEADER
    for outcome in outcomes:
        if outcome.failure:
            yield f"| *{outcome.script}* | | | **failed** | {outcome.failure} |"
            continue
        yield f"| *{outcome.script}* | | | | |"
        yield from (figure.row() for figure in outcome.figures)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return how many targets are reached, and how many scripts failed."""
    verdicts = [figure.reached for outcome in outcomes for figure in outcome.figures if figure.reached is not None]
    failed = [outcome.script for outcome in outcomes if outcome.failure]
    told = f"{sum(verdicts)} of {len(verdicts)} targets are reached"
    return f"{told}; failed: {', '.join(failed)}" if failed else told


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = arguments("benchmarks.suite", __doc__)
    parser.add_argument("--only", help=f"some of {','.join(SCRIPTS)}, joined by commas")
    given = parser.parse_args()
    given.scripts = given.only.split(",") if given.only else SCRIPTS
    if unknown := sorted(set(given.scripts) - set(SCRIPTS)):
        parser.error(f"no such benchmark: {', '.join(unknown)}; known: {', '.join(SCRIPTS)}")
    return given


def main() -> int:
    """Run, print the table, and write it if asked."""
    given = parse()
    options = ["--small"] if given.small else []
    chosen = " --small" * given.small + (f" --only {given.only}" if given.only else "")
    lines = ["# Every benchmark", "", f"`python -m benchmarks.suite{chosen}`", "", *describe()]
    outcomes: list[Outcome] = []
    for script in given.scripts:
        started = time.perf_counter()
        outcomes.append(run(script, options))
        sys.stderr.write(f"=== {script}: {time.perf_counter() - started:.0f} s\n\n")
    lines += [f"- load after the run: {os.getloadavg()[0]:.1f}", "", *rows(outcomes), "", summary(outcomes) + "."]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if given.write:
        given.write.write_text(text)
    return 1 if any(outcome.failure for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())

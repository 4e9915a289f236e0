"""Figures: what a script found beside what it should reach, as a table for people and as JSON for the suite.

A script makes its parser by `arguments` and hands its result to `publish`: so each has `--small`, `--write` and
`--figures`, and `python -m benchmarks.suite` can run it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HEADER = ("| what | value | target | reached | measured as |", "|---|---:|---:|---|---|")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number. Without a target it is only told."""

    name: str
    value: float
    unit: str = ""  # behind value and target, as in "ms"
    target: float | None = None
    at_most: bool = False  # the target is a bound above; else below
    basis: str  # what it is a ratio of, or how it was measured

    @property
    def reached(self) -> bool | None:
        """Whether the value keeps its target; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target

    def row(self) -> str:
        """Return the figure as a line of the table."""
        bound = "at most" if self.at_most else "at least"
        target = "" if self.target is None else f"{bound} {_number(self.target)}{self._unit}"
        word = {None: "", True: "yes", False: "**no**"}[self.reached]
        return f"| {self.name} | {_number(self.value)}{self._unit} | {target} | {word} | {self.basis} |"

    @property
    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a script found: its Markdown, and the figures of it that stand in the suite's table."""

    lines: Sequence[str]
    figures: Sequence[Figure]


def table(figures: Iterable[Figure]) -> list[str]:
    """Return the figures as a Markdown table."""
    return [*HEADER, *(figure.row() for figure in figures)]


def read_figures(path: Path) -> list[Figure]:
    """Return what a script wrote with `--figures`."""
    return [Figure(**values) for values in json.loads(path.read_text())]


def arguments(prog: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what every script takes.

    Args:
        prog: the module, as in `benchmarks.tagging`.
        description: its docstring.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {prog}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="fewer of everything: well under a minute")
    parser.add_argument("--write", type=Path, help="also write the result here, as Markdown")
    parser.add_argument("--figures", type=Path, help="also write its figures here, as JSON")
    return parser


def publish(result: Result, given: argparse.Namespace) -> None:
    """Print a result, and write it where the arguments ask for it."""
    shown = [*result.lines, "", "## Figures", "", *table(result.figures)]
    text = "\n".join(shown) + "\n"
    sys.stdout.write(text)
    if given.write:
        given.write.write_text(text)
    if given.figures:
        given.figures.write_text(json.dumps([asdict(figure) for figure in result.figures]))


def _number(value: float) -> str:
    """Return three digits that say something: 0.00214, 1.32, 45.1, 12,345."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"

"""How long each command takes to start: `clipdecoder CMD --help`, and those that answer at once from a small store.

    python -m benchmarks.cold_start [--small] [--write benchmarks/results/NAME.md]

Every start is a process of its own, all commands in turns for several rounds: files are in the page cache, nothing else
is warm. `tag` is asked for a run that is done already, without Prefect.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import typer
from typer.core import TyperGroup

from benchmarks.figures import Figure, Result, arguments, publish
from benchmarks.machine import describe
from benchmarks.pictures import photos, write_shards
from benchmarks.rounds import Cost, alternate_costs, cost, median_of
from examples.scenes.render import taxonomy_yaml

ROUNDS, FEW_ROUNDS, PICTURES = 5, 2, 16
QUESTION = "select label, count(*) as images from tags group by all"
SOON = 0.7  # seconds, of `sql`
SQL = "sql (a question)"
FEW = ("--help", "sql --help", "tag --help")


def start(words: Sequence[str], folder: Path) -> Cost:
    """Return what one process of the command line costs."""
    environment = os.environ | {"CLIPDECODER_ORCHESTRATE": "false", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "flows.cli", *words]
    source = str(Path(__file__).parents[1])
    return cost(
        partial(
            subprocess.run,
            command,
            cwd=folder,
            env=environment | {"PYTHONPATH": source},
            capture_output=True,
            check=True,
        )
    )


def helps() -> dict[str, tuple[str, ...]]:
    """Return `--help` of every command there is, and of the whole."""
    from flows.cli.app import app

    found: dict[str, tuple[str, ...]] = {"--help": ("--help",)}
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    for name, command in root.commands.items():
        parts = command.commands if isinstance(command, TyperGroup) else {"": command}
        for part in parts:
            words = (name, part, "--help") if part else (name, "--help")
            found[" ".join(words)] = words
    return found


def answers(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return commands that only look into a store, after making one."""
    write_shards(folder / "shards", list(photos(PICTURES, 500, 375)), shards=2)
    (folder / "taxonomy.yaml").write_text(taxonomy_yaml())
    tag = ("tag", "shards/*.tar", "--taxonomy", "taxonomy.yaml")
    start(tag, folder)
    return {
        SQL: ("sql", QUESTION),
        "models list": ("models", "list"),
        "audit": ("audit",),
        "taxonomy check": ("taxonomy", "check", "taxonomy.yaml"),
        "tag (done already)": tag,
    }


def report(costs: Mapping[str, Cost]) -> Iterator[str]:
    """Yield the table, the slowest first."""
    yield "| clipdecoder | seconds | processor seconds |"
    yield "|---|---:|---:|"
    for name, spent in sorted(costs.items(), key=lambda item: -item[1].cpu):
        yield f"| `{name}` | {spent.wall:.2f} | {spent.cpu:.2f} |"


def figures(costs: Mapping[str, Cost]) -> Iterator[Figure]:
    """Yield what is to be reached."""
    yield Figure(
        name="cold start of clipdecoder sql",
        value=costs[SQL].wall,
        unit="s",
        target=SOON,
        at_most=True,
        basis="seconds of a process that answers a question, page cache warm",
    )
    yield Figure(
        name="cold start of clipdecoder sql, processor",
        value=costs[SQL].cpu,
        unit="s",
        target=SOON,
        at_most=True,
        basis="processor seconds of the same",
    )
    shown = {name: spent.cpu for name, spent in costs.items() if name.endswith("--help")}
    slowest = max(shown, key=lambda name: shown[name])
    yield Figure(
        name="slowest --help",
        value=shown[slowest],
        unit="s",
        basis=f"processor seconds of clipdecoder {slowest}, of {len(shown)} commands",
    )


def main() -> None:
    """Measure, print, and write if asked."""
    given = arguments("benchmarks.cold_start", __doc__).parse_args()
    rounds = FEW_ROUNDS if given.small else ROUNDS
    lines = ["# Cold start of each command", ""]
    lines += [f"`python -m benchmarks.cold_start{' --small' * given.small}`", "", *describe()]
    shown = helps()
    shown = {name: shown[name] for name in FEW} if given.small else shown
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        commands = answers(folder) | shown
        stages = {name: partial(start, words, folder) for name, words in commands.items()}
        alternate_costs(stages, 1)  # compiles, and fills the page cache
        costs = {name: median_of(spent) for name, spent in alternate_costs(stages, rounds).items()}
    lines += [f"- medians of {rounds} rounds in turns; load after the run: {os.getloadavg()[0]:.1f}", ""]
    publish(Result(lines=[*lines, *report(costs)], figures=list(figures(costs))), given)


if __name__ == "__main__":
    main()

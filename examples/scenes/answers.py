"""What a person would answer about a shape of any colour: `python -m examples.scenes.answers FILE heart --to FILE`.

The true labels of generated pictures name shapes with their colours. This makes a table of answers, key, label, value,
about one shape, such as `clipdecoder annotations import` takes.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from examples.scenes.render import SHAPES


def write_answers(table: Path, shape: str, target: Path) -> int:
    """Write an answer for every picture of a `labels.csv` that has a label; return how many are yes.

    Args:
        table: as `python -m examples.scenes` writes it.
        shape: one of the eight; its answers are about the label of this id.
        target: the CSV to write.
    """
    with table.open(newline="") as file:
        pictures = [(Path(row["path"]).stem, row["labels"].split(";")) for row in csv.DictReader(file) if row["labels"]]
    answers = [(key, int(any(label.endswith(f"-{shape}") for label in labels))) for key, labels in pictures]
    with target.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "label", "value"])
        writer.writerows((key, shape, value) for key, value in answers)
    return sum(value for _, value in answers)


def main() -> None:
    """Read the command line and write the answers."""
    parser = argparse.ArgumentParser(prog="python -m examples.scenes.answers", description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--to", type=Path, required=True)
    arguments = parser.parse_args()
    write_answers(arguments.table, arguments.shape, arguments.to)


if __name__ == "__main__":
    main()

"""What a person would answer: `python -m examples.scenes.answers LABELS.csv heart=valentine --to FILE`.

The true labels of generated pictures name shapes with their colours. This makes a table of answers, key, label, value,
about a word for one shape in any colour, such as `clipdecoder annotations import` takes.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from examples.scenes.__main__ import shape_and_word


def write_answers(table: Path, shape: str, word: str, target: Path) -> int:
    """Write an answer for every picture of a `labels.csv` that has a label; return how many are yes.

    Args:
        table: as `python -m examples.scenes` writes it.
        shape: one of the eight.
        word: the label that is answered for: yes where a picture has the shape.
        target: the CSV to write.
    """
    with table.open(newline="") as file:
        pictures = [(Path(row["path"]).stem, row["labels"].split(";")) for row in csv.DictReader(file) if row["labels"]]
    answers = [(key, int(any(label.endswith(f"-{shape}") for label in labels))) for key, labels in pictures]
    with target.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "label", "value"])
        writer.writerows((key, word, value) for key, value in answers)
    return sum(value for _, value in answers)


def main() -> None:
    """Read the command line and write the answers."""
    parser = argparse.ArgumentParser(prog="python -m examples.scenes.answers", description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("word", type=shape_and_word, help="heart=valentine")
    parser.add_argument("--to", type=Path, required=True)
    arguments = parser.parse_args()
    shape, word = arguments.word
    write_answers(arguments.table, shape, word, arguments.to)


if __name__ == "__main__":
    main()

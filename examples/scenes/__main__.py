"""Write generated pictures with their true labels: `python -m examples.scenes --to FOLDER --pictures 600`."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from examples.scenes.render import SHAPES, iter_scenes

DEFAULT_SEED = 2026


def write_scenes(folder: Path, pictures: int, seed: int = DEFAULT_SEED, shapes: Sequence[str] = ()) -> Path:
    """Write pictures and, as the last of them, a damaged one; return the CSV that names them and their true labels.

    Of each picture that has one of `shapes` in any colour, the shape by itself is a true label too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "labels.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "labels"])
        for key, data, label_ids in iter_scenes(pictures, seed):
            (folder / f"{key}.jpg").write_bytes(data)
            alone = [shape for shape in shapes if any(label.endswith(f"-{shape}") for label in label_ids)]
            writer.writerow([f"{key}.jpg", ";".join([*label_ids, *alone])])
        (folder / "damaged.jpg").write_bytes(data[: len(data) // 2])
        writer.writerow(["damaged.jpg", ""])
    return table


def main() -> None:
    """Read the command line and write the pictures."""
    parser = argparse.ArgumentParser(prog="python -m examples.scenes", description=__doc__)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=(), help="labels by themselves, in any colour")
    arguments = parser.parse_args()
    write_scenes(arguments.to, arguments.pictures, arguments.seed, arguments.shapes)


if __name__ == "__main__":
    main()

"""Write generated pictures with their true labels: `python -m examples.scenes --to FOLDER --pictures 600`."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from examples.scenes.render import SHAPES, iter_scenes

DEFAULT_SEED = 2026


def write_scenes(
    folder: Path, pictures: int, seed: int = DEFAULT_SEED, words: Mapping[str, str] = MappingProxyType({})
) -> Path:
    """Write pictures and, as the last of them, a damaged one; return the CSV that names them and their true labels.

    `words` names shapes: of each picture that has one of them in any colour, its word is a true label too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "labels.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "labels"])
        for key, data, label_ids in iter_scenes(pictures, seed):
            (folder / f"{key}.jpg").write_bytes(data)
            more = [word for shape, word in words.items() if any(label.endswith(f"-{shape}") for label in label_ids)]
            writer.writerow([f"{key}.jpg", ";".join([*label_ids, *more])])
        (folder / "damaged.jpg").write_bytes(data[: len(data) // 2])
        writer.writerow(["damaged.jpg", ""])
    return table


def shape_and_word(text: str) -> tuple[str, str]:
    """Return what `heart=valentine` says.

    Raises:
        ValueError: it is no shape, or no word follows.
    """
    shape, _, word = text.partition("=")
    if shape not in SHAPES or not word:
        raise ValueError(f"{text!r}: a shape and a word are expected, such as heart=valentine; {', '.join(SHAPES)}")
    return shape, word


def main() -> None:
    """Read the command line and write the pictures."""
    parser = argparse.ArgumentParser(prog="python -m examples.scenes", description=__doc__)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--word", type=shape_and_word, action="append", default=[], help="heart=valentine")
    arguments = parser.parse_args()
    write_scenes(arguments.to, arguments.pictures, arguments.seed, dict(arguments.word))


if __name__ == "__main__":
    main()

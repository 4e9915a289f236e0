"""The official NUS-WIDE files, read as they are and checked against each other.

One order rules: line i of `Imagelist.txt`, of `AllTags1k.txt` and of every `Labels_<concept>.txt` is about the same
image. So every file must have as many lines as the image list, and a blank line is an error: it would give each image
after it the labels of its neighbour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from schemas.errors import RequestError

SPLITS = {"train": "TrainImagelist.txt", "test": "TestImagelist.txt"}


def find(root: Path, *names: str) -> Path:
    """Return the first of these that is below `root`: archives were unpacked with and without their own folders.

    Raises:
        RequestError: none is there.
    """
    found = next((root / name for name in names if (root / name).exists()), None)
    if found is None:
        raise RequestError(f"{root} has no {' or '.join(names)}; unpack the official NUS-WIDE archives there")
    return found


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file without blanks around them; blank lines at its end do not count.

    Raises:
        RequestError: a line between others is blank, or the file is not text.
    """
    try:
        lines = [line.strip() for line in path.read_bytes().decode("utf-8-sig").rstrip().split("\n")]
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8: {error}; take the file from the official archive") from None
    if "" in lines:
        raise RequestError(f"{path}: line {lines.index('') + 1} is blank; take the file from the official archive")
    return lines


def read_images(root: Path) -> tuple[str, ...]:
    """Return the path of every image, such as `actor/0001_2124494179.jpg`, in the order that rules.

    Raises:
        RequestError: there is no image list, or an image stands in it twice.
    """
    path = find(root, "ImageList/Imagelist.txt", "Imagelist.txt")
    return _images(path)


def read_splits(root: Path, images: Sequence[str]) -> dict[str, str]:
    """Return `train` or `test` for each image that one of the official lists names.

    Raises:
        RequestError: a list names an image that the image list does not have, or both name the same.
    """
    known, split_of = set(images), dict[str, str]()
    for split, name in SPLITS.items():
        path = find(root, f"ImageList/{name}", name)
        for image in _images(path):
            if image not in known:
                raise RequestError(f"{path} names {image}, which Imagelist.txt does not have; are both official?")
            if image in split_of:
                raise RequestError(f"{path} names {image}, which {SPLITS['train']} has as well; are both official?")
            split_of[image] = split
    return split_of


def read_names(root: Path) -> tuple[list[str], list[str]]:
    """Return the tags, in the order of the columns of `AllTags1k.txt`, and the concepts."""
    tags = find(root, "NUS_WID_Tags/TagList1k.txt", "TagList1k.txt")
    concepts = find(root, "ConceptsList/Concepts81.txt", "Concepts81.txt")
    return read_lines(tags), read_lines(concepts)


def iter_tags(root: Path, num_images: int, num_tags: int) -> Iterator[list[int]]:
    """Yield the tags of each image, in the order of the image list, as column numbers from 0. One line is in memory.

    Raises:
        RequestError: a line has not one 0 or 1 for every tag, or the file not one line for every image. The latter
            shows at the end.
    """
    path = find(root, "NUS_WID_Tags/AllTags1k.txt", "AllTags1k.txt")
    num_lines = 0
    with path.open("rb") as file:
        for line in file:
            values = line.split()
            if not values and num_lines >= num_images:
                continue  # blank lines at the end
            num_lines += 1
            if num_lines <= num_images:
                _check_tags(path, num_lines, values, num_tags)
                yield [column for column, value in enumerate(values) if value == b"1"]
    _check_count(path, num_lines, num_images)


def read_concept(root: Path, concept: str, num_images: int) -> str:
    """Return the human labels of one concept: a character 0 or 1 for each image of the image list.

    Raises:
        RequestError: there is no such file, or it has not one 0 or 1 for every image.
    """
    folder = find(root, "Groundtruth/AllLabels", "AllLabels")
    words = concept.split()
    path = find(folder, *dict.fromkeys(f"Labels_{joint.join(words)}.txt" for joint in (" ", "_", "")))
    values = read_lines(path)
    _check_count(path, len(values), num_images)
    for number, value in enumerate(values, 1):
        if value not in ("0", "1"):
            raise RequestError(f"{path}: line {number} is {value[:20]!r}, expected 0 or 1")
    return "".join(values)


def _images(path: Path) -> tuple[str, ...]:
    images = tuple(line.replace("\\", "/") for line in read_lines(path))
    seen: set[str] = set()
    for number, image in enumerate(images, 1):
        if image in seen:
            raise RequestError(f"{path}: line {number}: {image} stands there twice; take the official file")
        seen.add(image)
    return images


def _check_tags(path: Path, number: int, values: Sequence[bytes], num_tags: int) -> None:
    if len(values) != num_tags:
        raise RequestError(
            f"{path}: line {number} has {len(values)} columns, expected {num_tags}, one for each tag of TagList1k.txt"
        )
    if values.count(b"0") + values.count(b"1") != num_tags:
        wrong = next(value for value in values if value not in (b"0", b"1"))
        raise RequestError(f"{path}: line {number} has {wrong[:20].decode('latin-1')!r}, expected 0 or 1")


def _check_count(path: Path, found: int, expected: int) -> None:
    if found != expected:
        raise RequestError(
            f"{path} has {found:,} lines, expected {expected:,}, one for each line of Imagelist.txt; "
            "take both from the official archives"
        )

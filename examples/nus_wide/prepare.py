"""From the official NUS-WIDE files to train and test shards, `taxonomy.yaml` and `novel.txt`.

    OUT/train/00000.tar ...   the images of TrainImagelist.txt, {"labels": [seen labels among their user tags]}
    OUT/test/00000.tar ...    the images of TestImagelist.txt, {"labels": [the same, and their human labels (novel)]}
    OUT/taxonomy.yaml         seen labels, then novel ones
    OUT/novel.txt             ids of the novel labels, for --novel
    OUT/missing.txt           the listed pictures that are not there, one a line

Training images carry no novel label, although the official files have human labels for them: what is not in a shard
cannot leak into training, validation or captions, and no published protocol uses them. `train --novel` is still needed,
for a model has to know which labels are novel and which merely have no image.

Pictures and lines of tags are streamed. What stays in memory is a row for each picture: path, key and labels.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from examples.nus_wide.labels import Labels, make_labels
from examples.nus_wide.official import SPLITS, iter_tags, read_concept, read_images, read_names, read_splits
from schemas.counts import counted
from schemas.errors import RequestError, RunError, StoreError
from storage.files import Folder
from storage.pack import pack
from storage.pictures import some_of

# What the published split of the complete data set has; a copy that differs is used as it is, with a note.
PUBLISHED = {"train images": 161_789, "test images": 107_859, "tags": 1000, "concepts": 81, "seen labels": 925}


@dataclass(kw_only=True)
class Split:
    """What one of the official lists came to."""

    images: int = 0
    missing: list[str] = field(default_factory=list)  # listed, and no file
    seen_positives: int = 0  # pairs of image and label
    novel_positives: int = 0
    with_seen: int = 0  # images with at least one seen label: what protocol F keeps for seen labels
    with_novel: int = 0
    shards: tuple[str, ...] = ()

    def add(self, seen: Sequence[str], novel: Sequence[str]) -> None:
        """Count one image."""
        self.images += 1
        self.seen_positives += len(seen)
        self.novel_positives += len(novel)
        self.with_seen += bool(seen)
        self.with_novel += bool(novel)

    def lines(self, name: str) -> Iterator[str]:
        """Yield what people should know of it."""
        yield (
            f"{name}: {self.images:,} images in {len(self.shards)} shards; {self.seen_positives:,} seen labels "
            f"on {self.with_seen:,} images, {self.novel_positives:,} novel labels on {self.with_novel:,}"
        )
        if self.missing:
            listed = self.images + len(self.missing)
            yield (
                f"{name}: not there, and left out: {len(self.missing):,} of {counted(listed, 'listed picture')} "
                f"(all in missing.txt): {some_of(self.missing)}"
            )


@dataclass(frozen=True, kw_only=True)
class Report:
    """What went where, and what of the lists did not."""

    counts: dict[str, int]  # of the official files, by the names of PUBLISHED
    num_novel: int
    num_unlisted: int  # images that are in neither the list of training images nor that of test images
    splits: dict[str, Split]

    def lines(self) -> list[str]:
        """Return the report for people, one fact a line."""
        seen = self.counts["seen labels"]
        lines = [f"labels: {seen:,} seen, {self.num_novel:,} novel, {seen + self.num_novel:,} in taxonomy.yaml"]
        lines += [line for name, split in self.splits.items() for line in split.lines(name)]
        if self.num_unlisted:
            lines.append(f"{self.num_unlisted:,} images of Imagelist.txt are in neither list, and are left out")
        different = [
            f"{n:,} {what} (not {PUBLISHED[what]:,})" for what, n in self.counts.items() if n != PUBLISHED[what]
        ]
        if different:
            lines.append(
                f"note: this is not the published split: {', '.join(different)}; do not hold numbers on it against "
                "published ones"
            )
        return lines


def prepare(
    nus_wide: Path,
    images: Path,
    to: Path,
    *,
    samples_per_shard: int = 1000,
    on_shard: Callable[[str, int], None] | None = None,
) -> Report:
    """Write shards, taxonomy and novel labels into the folder `to`, and return what went where.

    Args:
        nus_wide: folder of the official text files.
        images: folder of the pictures, one folder for each search word: `actor/0001_2124494179.jpg`.
        to: a new or empty folder.
        samples_per_shard: images in each shard but the last of a split.
        on_shard: called with each finished shard's path and its number of images.

    Raises:
        RequestError: an official file is missing, or does not fit the image list; there are no pictures; `to` has
            files. Nothing was written.
        RunError: a picture could not be read any more, or a file not be written.
        OSError: an official file cannot be read, or the disk of temporary files is full.
    """
    if to.exists() and any(to.iterdir()):
        raise RequestError(f"{to} has files already; name a new or empty folder, or remove them")
    listed = read_images(nus_wide)
    split_of = read_splits(nus_wide, listed)
    tags, concepts = read_names(nus_wide)
    labels = make_labels(tags, concepts)
    human = {labels.of_concepts[concept]: read_concept(nus_wide, concept, len(listed)) for concept in concepts}
    with TemporaryDirectory() as folder:
        rows = zip(listed, iter_tags(nus_wide, len(listed), len(tags)), _novel_labels(human), strict=True)
        splits = _write_tables(Path(folder), images.resolve(), split_of, labels, rows)
        try:
            for name, split in splits.items():
                table, target = f"{folder}/{name}.csv", f"{to}/{name}/{{:05d}}.tar"
                split.shards = pack(table, target, samples_per_shard=samples_per_shard, on_shard=on_shard).shards
            _write_lists(Folder(str(to)), labels, splits)
        except StoreError as error:
            raise RunError(f"{error}; empty {to} and run the same command again") from error
    in_split = {f"{name} images": split.images + len(split.missing) for name, split in splits.items()}
    return Report(
        counts={**in_split, "tags": len(tags), "concepts": len(concepts), "seen labels": len(labels.seen)},
        num_novel=len(labels.novel),
        num_unlisted=len(listed) - len(split_of),
        splits=splits,
    )


def _novel_labels(human: Mapping[str, str]) -> Iterator[list[str]]:
    """Yield the novel labels of each image, given for each label a 0 or 1 of every image."""
    for values in zip(*human.values(), strict=True):
        yield [label_id for label_id, value in zip(human, values, strict=True) if value == "1"]


def _write_tables(
    folder: Path,
    images: Path,
    split_of: Mapping[str, str],
    labels: Labels,
    rows: Iterator[tuple[str, list[int], list[str]]],
) -> dict[str, Split]:
    """Write a CSV for `pack` of each split's pictures that are there. An image and its labels stand in one row."""
    splits = {name: Split() for name in SPLITS}
    with ExitStack() as stack:
        tables = {
            name: csv.writer(stack.enter_context((folder / f"{name}.csv").open("w", newline=""))) for name in splits
        }
        for table in tables.values():
            table.writerow(("path", "key", "labels"))
        for image, columns, novel in rows:
            name = split_of.get(image)
            if name is None:
                continue
            if not (images / image).is_file():
                splits[name].missing.append(image)
                continue
            seen, human = labels.seen_of(columns), novel if name == "test" else []
            splits[name].add(seen, human)
            tables[name].writerow((images / image, image.rpartition(".")[0], ";".join((*seen, *human))))
    _check_pictures(images, splits)
    return splits


def _check_pictures(images: Path, splits: Mapping[str, Split]) -> None:
    for name, split in splits.items():
        if not split.images:
            example = f", {images / split.missing[0]} for one" if split.missing else ""
            raise RequestError(
                f"none of the {len(split.missing):,} pictures of {SPLITS[name]} is there{example}; "
                "name the folder that holds a folder for each search word (official: Flickr) as --images"
            )


def _write_lists(to: Folder, labels: Labels, splits: Mapping[str, Split]) -> None:
    missing = (image for split in splits.values() for image in split.missing)
    to.write_bytes("missing.txt", "".join(f"{image}\n" for image in missing).encode())
    to.write_bytes("novel.txt", "".join(f"{label_id}\n" for label_id in labels.novel).encode())
    to.write_bytes("taxonomy.yaml", labels.taxonomy_yaml().encode())

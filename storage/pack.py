"""Making shards from a folder of images, or from a CSV that lists them.

Bytes go in as they are, never encoded anew, in an order and with headers that depend on the source alone: packing the
same source again gives the same shards, byte for byte.

In a folder, a sample's key is its path below the folder without its extension. Subfolders stay in the key and say
nothing more: no label is inferred from them. Labels come from side files or from a CSV.

Two images that would share a key (`a.jpg` and `a.png`) both go in: the second keeps its extension in its key (`a.png`),
and the report names it.
"""

from __future__ import annotations

import glob
import io
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import IO

from schemas.counts import counted
from schemas.errors import RequestError, RunError, StoreError
from storage.files import Folder, transport_errors
from storage.pictures import Picture, PictureList, list_pictures, read_errors, some_of

_PACK_AGAIN = "shards written before are whole: remove them and pack again"
_INDEX_FORMAT = re.compile(r"0?\d*[dxX]?")


@dataclass(frozen=True, kw_only=True, slots=True)
class PackReport:
    """What went where. Nothing of the source is left out without being named here."""

    samples: int
    shards: tuple[str, ...]  # URLs, in order
    renamed: dict[str, str]  # path -> key, of images whose key another one already had
    ignored: tuple[str, ...]  # paths in the folder that are neither an image nor a side file of one

    def lines(self) -> list[str]:
        """Return the report for people, one fact a line."""
        last = f" to {self.shards[-1]}" if len(self.shards) > 1 else ""
        lines = [f"images: {self.samples}, shards: {len(self.shards)} ({self.shards[0]}{last})"]
        if self.renamed:
            lines.append(f"with its extension in the key, as another image has the key without: {len(self.renamed)}")
            lines.append(f"  {some_of([f'{path} is {key}' for path, key in self.renamed.items()])}")
        if self.ignored:
            lines.append(
                f"neither image nor side file of one: {counted(len(self.ignored), 'file')}: {some_of(self.ignored)}"
            )
        return lines


def pack(
    source: str, to: str, *, samples_per_shard: int = 1000, on_shard: Callable[[str, int], None] | None = None
) -> PackReport:
    """Write the images of `source` into shards, with their side files (.json, .txt, .cls), and return what went where.

    Args:
        source: path or URL of a folder, taken recursively in sorted order, or of a CSV with a header: `path` (or
            `file`, `filename`, `image`) relative to the CSV, optionally `key`, `labels` and `absent` (separated by ; or
            |). Labels go into the sample's .json as a list, other columns as they are; both win over what a .json
            beside the image says. An empty cell of labels is an empty list.
        to: path or URL of the shards with one place for their number, such as `shards/{:05d}.tar`.
        samples_per_shard: images in each shard but the last.
        on_shard: called with each finished shard's URL and its number of images.

    Raises:
        RequestError: the source has no images or lists files that are not there, or `to` is malformed or already has
            shards. Nothing was written.
        RunError: a source file could not be read any more, or the target not be written. Shards written before are
            whole.
        StoreError: the target cannot be written, and nothing was.
    """
    if samples_per_shard < 1:
        raise RequestError(f"samples_per_shard is {samples_per_shard}; a shard needs at least one image")
    target = parse_target(to)
    check_is_free(target)
    found = list_pictures(source)
    shards: list[str] = []
    for start in range(0, len(found.pictures), samples_per_shard):
        pictures = found.pictures[start : start + samples_per_shard]
        _write_shard(target, len(shards), found, pictures)
        shards.append(target.url(len(shards)))
        if on_shard is not None:
            on_shard(shards[-1], len(pictures))
    return PackReport(samples=len(found.pictures), shards=tuple(shards), renamed=found.renamed, ignored=found.ignored)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTarget:
    """Where shards go: `to` in the three parts before, of and after their number."""

    before: str
    number_format: str
    after: str

    @property
    def folder(self) -> Folder:
        """The folder that holds all of them, however deep."""
        folder, slash, _ = self.before.rpartition("/")
        return Folder(folder or slash or ".")

    def url(self, number: int) -> str:
        """Return a shard's URL."""
        return f"{self.before}{number:{self.number_format}}{self.after}"

    def name(self, number: int) -> str:
        """Return a shard's name in the folder."""
        return self.url(number)[self.before.rfind("/") + 1 :]


def parse_target(to: str) -> ShardTarget:
    """Return what `to` says.

    Raises:
        RequestError: it has not exactly one place for a number, or does not end in .tar.
    """
    try:
        parts = list(Formatter().parse(to))
    except ValueError as error:
        raise RequestError(f"--to {to!r}: {error}; write it like 'shards/{{:05d}}.tar'") from None
    places = [position for position, (_, name, _, _) in enumerate(parts) if name is not None]
    if len(places) == 1 and to.endswith(".tar"):
        _, name, number_format, conversion = parts[places[0]]
        if name in ("", "0") and not conversion and _INDEX_FORMAT.fullmatch(number_format or ""):
            literals = [literal for literal, *_ in parts]
            split = places[0] + 1
            return ShardTarget(
                before="".join(literals[:split]), number_format=number_format or "", after="".join(literals[split:])
            )
    raise RequestError(
        f"--to {to!r} must end in .tar and have one place for the shard's number; write it like 'shards/{{:05d}}.tar'"
    )


def check_is_free(target: ShardTarget) -> None:
    """Refuse a target that has shards of such names already: two packings would mix.

    Raises:
        RequestError: naming some of them.
        StoreError: the target cannot be listed.
    """
    folder = target.folder
    before, after = target.before[target.before.rfind("/") + 1 :], target.after
    digits = "[0-9a-fA-F]+" if target.number_format[-1:] in ("x", "X") else "[0-9]+"
    shard = re.compile(f".*{re.escape('/' + before)}{digits}{re.escape(after)}", re.DOTALL)
    folder.fs.invalidate_cache()
    try:
        paths = folder.fs.glob(f"{glob.escape(folder.path(before))}*{glob.escape(after)}")
    except transport_errors() as error:
        raise StoreError(f"cannot list {folder.url!r}: {error}; check the address and the credentials") from error
    found = [path for path in paths if shard.fullmatch("/" + path)]
    if found:
        raise RequestError(
            f"--to already has {len(found)} shards ({some_of(found)}); remove them or name another place"
        )


def _write_shard(target: ShardTarget, number: int, found: PictureList, pictures: Sequence[Picture]) -> None:
    begun = number > 0
    try:
        with target.folder.create(target.name(number)) as file:
            begun = True
            _write_tar(file, found, pictures)
    except StoreError as error:
        message = f"cannot write {target.url(number)!r}: {error.__cause__ or error}"
        if not begun:
            raise StoreError(message) from error
        raise RunError(f"{message}; {_PACK_AGAIN}") from error


def _write_tar(file: IO[bytes], found: PictureList, pictures: Sequence[Picture]) -> None:
    """Write one shard: each image with its side files after it.

    webdataset's TarWriter is not used: it writes USTAR, which refuses long names, and puts `.json` between images.
    """
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for picture in pictures:
            for member, content in picture.members:
                add_member(tar, member, content if isinstance(content, bytes) else _read(found.folder, content))


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Write a file into a tar with a header that depends on nothing else: equal members give equal bytes."""
    header = tarfile.TarInfo(name)  # time, owner and group are 0
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))


def _read(folder: Folder, path: str) -> bytes:
    try:
        return folder.read_bytes(path)
    except read_errors() as error:
        raise RunError(
            f"{path!r} was listed and cannot be read now: {error.__cause__ or error}; {_PACK_AGAIN}"
        ) from error

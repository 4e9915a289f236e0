"""Reading tar shards as a stream: one sample per image member, and every member accounted for.

webdataset's own reader is not used: it merges dotted names into one sample and loses the rest of a damaged tar
uncounted.
"""

from __future__ import annotations

import gzip
import posixpath
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from tarfile import SUPPORTED_TYPES, TarInfo
from typing import NamedTuple

from fsspec.implementations.local import LocalFileSystem

from schemas.errors import ShardError
from schemas.manifest import Fingerprint
from schemas.sample import MemberCounts, Sample, SampleStatus, ShardStatus
from storage.files import fingerprint_of, transport_errors
from storage.tar import TarStream
from storage.urls import open_file_system

MAX_MEMBER_BYTES = 256 * 2**20
# The formats that are decoded, then others, so that these get a row which says `unsupported`. Camera raw is left out:
# it lies beside the JPEG of the same name, and would take its key.
IMAGE_EXTENSIONS = frozenset(
    "jpg jpeg png webp bmp gif tif tiff "
    "jfif jpe heic heif avif jp2 j2k jpx jxl ico dib ppm pgm pbm pnm tga qoi svg psd".split()
)
SIDE_EXTENSIONS = frozenset(("json", "txt", "cls"))
_READ_AHEAD_BYTES = 8 * 2**20
_GZIP_SUFFIXES = (".gz", ".tgz")


def check_bytes(url: str, fingerprint: Fingerprint) -> None:
    """Ask the store that a shard lies in whether it has the bytes that are known of it.

    Raises:
        ShardError: `missing`; `changed`; `unreadable`, when the disk or the network fails.
    """
    with _shard_errors(url):
        fs, path = open_file_system(url)
        fs.invalidate_cache()
        if fingerprint_of(fs.info(path)) != fingerprint:
            raise ShardError(ShardStatus.CHANGED, f"{url} has changed since it was tagged; tag it again")


def iter_samples(url: str, counts: MemberCounts, *, max_member_bytes: int = MAX_MEMBER_BYTES) -> Iterator[Sample]:
    """Yield a shard's samples in tar order, ordinals from 0, and count every member into `counts`.

    A sample is an image member; its key is the member's path without the last extension, exactly as in the tar. Side
    files (.json, .txt, .cls) of the same key, or named after the whole member (a.jpg.json), belong to it when no other
    sample's member stands between. A sample that cannot be used has a status, an error and no data; so one row per
    yielded sample is one row per image member. Memory holds one sample with its side files.

    Args:
        url: anything fsspec opens; .gz and .tgz are decompressed.
        counts: filled while reading.
        max_member_bytes: larger pictures are `too_large` and not read; larger side files are left out.

    Raises:
        ShardError: `truncated`, after the last sample that stands before the damage; `not_a_tar` or `missing`, before
            any sample; `unreadable` at any point, when the disk or the network fails.
    """
    with _open_tar(url) as tar:
        yield from _Reader(tar, counts, max_member_bytes, keep_data=True).samples()


class ByteRange(NamedTuple):
    """Where a picture's content stands in its shard."""

    start: int
    num_bytes: int


def iter_ranges(url: str) -> Iterator[ByteRange | None]:
    """Yield where each picture stands, by ordinal as in `iter_samples`; only headers are read, as far as is asked.

    None: no range of the file is the content, as the shard is compressed or the member is stored sparsely.

    Raises:
        ShardError: as `iter_samples`.
    """
    with _open_tar(url) as tar:
        for info in tar.members():
            if (info.isreg() or info.type not in SUPPORTED_TYPES) and _split(info.name)[1] in IMAGE_EXTENSIONS:
                whole = not (tar.compressed or info.issparse())
                yield ByteRange(info.offset_data, info.size) if whole else None


def read_range(url: str, place: ByteRange) -> bytes:
    """Return the bytes of one picture.

    Raises:
        ShardError: `missing`; `truncated`, where the shard ends before; `unreadable`.
    """
    data = read_some(url, place.start, place.start + place.num_bytes)
    if len(data) < place.num_bytes:
        raise ShardError(ShardStatus.TRUNCATED, f"{url} ends inside this picture; copy or make it anew")
    if len(data) > place.num_bytes:
        raise ShardError(ShardStatus.UNREADABLE, f"{url}: its server gives whole files only, and no part of one")
    return data


def read_some(url: str, start: int, end: int) -> bytes:
    """Return bytes of a shard, fewer where it ends before.

    Raises:
        ShardError: `missing`; `unreadable`.
    """
    with _shard_errors(url):
        fs, path = open_file_system(url)
        return bytes(fs.cat_file(path, start=start, end=end))


def count_members(
    url: str, counts: MemberCounts | None = None, *, max_member_bytes: int = MAX_MEMBER_BYTES
) -> MemberCounts:
    """Return where every member of a shard goes, as `iter_samples` counts them, without reading their content.

    Args:
        url: as in `iter_samples`.
        counts: filled while reading, so that the caller has what stands before the damage in a truncated shard.
        max_member_bytes: as in `iter_samples`.

    Raises:
        ShardError: as `iter_samples`.
    """
    counts = counts if counts is not None else MemberCounts()
    with _open_tar(url) as tar:
        for _ in _Reader(tar, counts, max_member_bytes, keep_data=False).samples():
            pass
    return counts


def is_remote(url: str) -> bool:
    """Whether every read of a shard is a round trip."""
    return not isinstance(open_file_system(url)[0], LocalFileSystem)


def is_compressed(url: str) -> bool:
    """Whether a shard is compressed, by its name."""
    return url.lower().endswith(_GZIP_SUFFIXES)


@contextmanager
def _open_tar(url: str) -> Iterator[TarStream]:
    with _shard_errors(url), ExitStack() as stack:
        fs, path = open_file_system(url)
        # Without block_size and cache_type, remote files read ahead 5 MiB and some cache blocks at random.
        file = stack.enter_context(fs.open(path, "rb", block_size=_READ_AHEAD_BYTES, cache_type="readahead"))
        compressed = is_compressed(path)
        if compressed:
            file = stack.enter_context(gzip.GzipFile(fileobj=file))
        yield TarStream(file, url, compressed=compressed)


@contextmanager
def _shard_errors(url: str) -> Iterator[None]:
    """Turn what disks and networks raise into an error of the shard."""
    try:
        yield
    except FileNotFoundError as error:
        raise ShardError(ShardStatus.MISSING, f"{url} is not there; check the name, or run again when it is") from error
    except transport_errors() as error:
        raise ShardError(
            ShardStatus.UNREADABLE,
            f"{url} cannot be read: {error or type(error).__name__}; check permissions and network, then run again",
        ) from error


@dataclass(slots=True)
class _Group:
    """Neighbouring members that belong together: the images of one key, and side files that may be theirs."""

    names: set[str]  # keys that fit every member so far; more than one only before the first image
    images: list[Sample] = field(default_factory=list)
    sides: list[tuple[str, bytes | None]] = field(default_factory=list)  # path; content, None where it is cut

    def samples(self, counts: MemberCounts) -> Iterator[Sample]:
        """Yield the images, each with its side files, and count the side files."""
        attached: list[dict[str, bytes]] = [{} for _ in self.images]
        for path, content in self.sides:
            stem, extension = _split(path)
            owner = self._owner(stem)
            if owner is None or content is None or extension in attached[owner]:
                counts.orphan_side_files += 1
            else:
                attached[owner][extension] = content
                counts.side_files += 1
        for image, side in zip(self.images, attached, strict=True):
            yield replace(image, side=side) if side else image

    def _owner(self, stem: str) -> int | None:
        """Return which image a side file is of: the one it is named after, or the first of its key."""
        for position, image in enumerate(self.images):
            if stem in (image.key, image.member):
                return position
        return None


class _Reader:
    """One pass over an archive."""

    def __init__(self, tar: TarStream, counts: MemberCounts, max_member_bytes: int, *, keep_data: bool) -> None:
        self.tar = tar
        self.counts = counts
        self.max_member_bytes = max_member_bytes
        self.keep_data = keep_data
        self.group = _Group(set())
        self.first: dict[str, str] = {}  # key -> the member that has it

    def samples(self) -> Iterator[Sample]:
        try:
            for info in self.tar.members():
                names = self._names(info)
                if not names:
                    continue
                if not names & self.group.names:
                    yield from self.group.samples(self.counts)
                    self.group = _Group(names)
                self.group.names &= names
                self._add(info)
        except ShardError as error:
            if error.status is ShardStatus.TRUNCATED:
                yield from self.group.samples(self.counts)
            raise
        yield from self.group.samples(self.counts)

    def _names(self, info: TarInfo) -> set[str]:
        """Return the keys that a member may belong to; none, and counted, if it is neither image nor side file."""
        # POSIX: an unknown type is to be read as a file.
        if not info.isreg() and info.type in SUPPORTED_TYPES:
            self.counts.not_files += 1
            return set()
        stem, extension = _split(info.name)
        if extension in IMAGE_EXTENSIONS:
            return {stem}
        if extension not in SIDE_EXTENSIONS or info.size > self.max_member_bytes:
            self.counts.other_files += 1
            return set()
        inner, inner_extension = _split(stem)
        return {stem, inner} if inner_extension in IMAGE_EXTENSIONS else {stem}

    def _add(self, info: TarInfo) -> None:
        """Read a member into the group."""
        key, extension = _split(info.name)
        if extension in SIDE_EXTENSIONS:
            self.group.sides.append((info.name, self._content(info)))
            return
        ordinal = self.counts.images
        self.counts.images += 1
        status, error = self._refusal(info, key)
        data = self._content(info) if status is SampleStatus.OK else b""
        if data is None:
            status, error = SampleStatus.TRUNCATED, "the shard ends inside this picture"
        self.first.setdefault(key, info.name)
        self.group.images.append(
            Sample(
                key=key,
                sample=ordinal,
                member=info.name,
                data=data or b"",
                num_bytes=info.size,
                status=status,
                error=error,
            )
        )

    def _refusal(self, info: TarInfo, key: str) -> tuple[SampleStatus, str | None]:
        """Return why a picture is not to be read, or `OK`."""
        if key in self.first:
            return SampleStatus.DUPLICATE_KEY, f"the shard already has a sample of this key: {self.first[key]!r}"
        if info.size > self.max_member_bytes:
            limit = f"{self.max_member_bytes} that a picture may have"
            return SampleStatus.TOO_LARGE, f"the file has {info.size} bytes, more than the {limit}"
        if info.size == 0:
            return SampleStatus.EMPTY, "the file has no bytes"
        return SampleStatus.OK, None

    def _content(self, info: TarInfo) -> bytes | None:
        """Return a member's content (nothing when only counting), or None if the archive ends inside it."""
        if self.keep_data:
            return self.tar.read(info)
        return b"" if self.tar.skip(info) else None


def _split(path: str) -> tuple[str, str]:
    """Return a path without its last extension, and the extension in lower case without its dot."""
    stem, extension = posixpath.splitext(path)
    return stem, extension[1:].lower()

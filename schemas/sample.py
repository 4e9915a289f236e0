"""A sample, and the short codes that say what became of samples and shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class SampleStatus(StrEnum):
    """What became of one image member. Everything but `OK` is a failure row with a reason."""

    OK = "ok"
    EMPTY = "empty"  # zero bytes
    UNSUPPORTED = "unsupported"  # not a picture in any format that can be read
    TRUNCATED = "truncated"  # the picture, or the tar around it, ends early
    DECODE_ERROR = "decode_error"  # damaged in some other way
    TOO_LARGE = "too_large"  # more pixels or bytes than the limits allow (decompression bombs)
    DUPLICATE_KEY = "duplicate_key"  # the shard already has a sample of this key; the first one counts
    NON_FINITE = "non_finite"  # the model gave NaN or infinity


class ShardStatus(StrEnum):
    """What became of one shard. `OK` and `TRUNCATED` have rows; the others have none and are tried again."""

    OK = "ok"
    TRUNCATED = "truncated"  # the members before the cut have rows
    MISSING = "missing"  # named by the request, not there
    CHANGED = "changed"  # not the bytes that the store knows
    NOT_A_TAR = "not_a_tar"
    UNREADABLE = "unreadable"  # permission, network, disk


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One image member of a shard with its side files, as read: bytes are not decoded yet.

    `status` is `OK` for a sample that is to be decoded. Otherwise reading already decided against it, `error` says
    why, and `data` is empty.
    """

    key: str  # the member's path without its extension, exactly as in the tar
    sample: int  # ordinal of the image member in the shard, from 0
    member: str  # the member's full path in the tar
    data: bytes
    num_bytes: int  # size the tar states for the member
    side: Mapping[str, bytes] = field(default_factory=dict)  # extension without its dot -> content
    status: SampleStatus = SampleStatus.OK
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRow:
    """One row of the `samples` table."""

    key: str
    shard: str
    sample: int
    status: SampleStatus
    error: str | None
    width: int | None  # pixels, as a person sees the picture (after EXIF rotation)
    height: int | None
    bytes: int
    sha256: str | None  # of the member's bytes, hexadecimal; absent where they could not be read


@dataclass(slots=True)
class MemberCounts:
    """Where every member of a tar went. `images` = rows; the sum of all = members."""

    images: int = 0
    side_files: int = 0  # attached to a sample
    orphan_side_files: int = 0  # a known side file whose sample is not beside it
    other_files: int = 0  # files that are neither an image nor a side file
    not_files: int = 0  # folders, links, devices

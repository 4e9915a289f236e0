"""Nasty tars and images, built in code: what the tests of every package throw at the product.

Images are small, deterministic and depend on `seed` alone. `nasty_shard()` is one tar of everything, with what must
become of each image member as data.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from schemas.sample import MemberCounts, SampleStatus

Member = tuple[str, bytes]  # path in the tar, content
END_MARKER = b"\0" * 1024
_ORIENTATION_TAG = 0x0112


# --- images ----------------------------------------------------------------------------------------------------------


def picture(seed: int = 0, width: int = 48, height: int = 32) -> Image.Image:
    """Return a smooth random RGB picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    """Return an image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(seed: int = 0, width: int = 48, height: int = 32, **options: Any) -> bytes:
    return encoded(picture(seed, width, height), "JPEG", **options)


def png(seed: int = 0, width: int = 48, height: int = 32) -> bytes:
    return encoded(picture(seed, width, height), "PNG")


def webp(seed: int = 0) -> bytes:
    return encoded(picture(seed), "WEBP")


def bmp(seed: int = 0) -> bytes:
    return encoded(picture(seed), "BMP")


def gif(seed: int = 0) -> bytes:
    """Two frames; the first one counts."""
    return encoded(picture(seed), "GIF", save_all=True, append_images=[picture(seed + 1)])


def tiff(seed: int = 0) -> bytes:
    return encoded(picture(seed), "TIFF")


def progressive_jpeg(seed: int = 0) -> bytes:
    return jpeg(seed, progressive=True)


def cmyk_jpeg(seed: int = 0) -> bytes:
    return encoded(picture(seed).convert("CMYK"), "JPEG")


def rotated_jpeg(seed: int = 0) -> bytes:
    """Stored 48 wide and 32 high, to be shown 32 wide and 48 high."""
    exif = Image.Exif()
    exif[_ORIENTATION_TAG] = 6
    return jpeg(seed, exif=exif)


def rgba_png(seed: int = 0) -> bytes:
    image = picture(seed)
    image.putalpha(picture(seed + 1).convert("L"))
    return encoded(image, "PNG")


def palette_png(seed: int = 0) -> bytes:
    """A palette whose first entry is transparent."""
    return encoded(picture(seed).quantize(16), "PNG", transparency=0)


def grey16_png(seed: int = 0) -> bytes:
    return encoded(_grey16(seed), "PNG")


def grey16_tiff(seed: int = 0) -> bytes:
    return encoded(_grey16(seed), "TIFF")


def _grey16(seed: int) -> Image.Image:
    return Image.fromarray(np.asarray(picture(seed).convert("L"), dtype=np.uint16) * 257)


def truncated_jpeg(seed: int = 0) -> bytes:
    whole = jpeg(seed, 200, 160)
    return whole[: len(whole) // 2]


def corrupt_jpeg(seed: int = 0) -> bytes:
    """Whole from start to end, with a Huffman table that says more codes than can be."""
    data = bytearray(jpeg(seed))
    table = data.index(b"\xff\xc4")
    data[table + 5 : table + 21] = b"\xff" * 16
    return bytes(data)


def corrupt_png(seed: int = 0) -> bytes:
    return png(seed).replace(b"IDAT", b"I\x01AT", 1)


def bomb_png(side: int = 60_000) -> bytes:
    """A few bytes that state `side` x `side` pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


TEXT_AS_JPEG = b"this is no picture\n" * 20


# --- tars ------------------------------------------------------------------------------------------------------------


def build_tar(members: Sequence[Member], *, format: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar of regular files in the given order; long and unicode names get pax or GNU headers."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for path, data in members:
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def build_special_tar(members: Sequence[tarfile.TarInfo | Member]) -> bytes:
    """Return a tar with members that are not files (folders, links, devices) among those that are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def special(path: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """Return a member without content, such as `special("a.jpg", tarfile.SYMTYPE, "/etc/passwd")`."""
    info = tarfile.TarInfo(path)
    info.type, info.linkname = kind, target
    return info


def data_start(tar: bytes, path: str) -> int:
    """Return where a member's content starts in a tar, for cutting and damaging it there."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return opened.getmember(path).offset_data


def cut_tar(tar: bytes, path: str, *, share: float = 0.5) -> bytes:
    """Return a tar that ends inside a member, after `share` of its content."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        member = opened.getmember(path)
        return tar[: member.offset_data + int(member.size * share)]


def without_end(tar: bytes) -> bytes:
    """Return a tar that ends after its last member, without the end marker."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        last = opened.getmembers()[-1]
    return tar[: last.offset_data + -(-last.size // 512) * 512]


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


# --- one tar of everything -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What must become of one image member."""

    key: str
    member: str
    status: SampleStatus
    side: tuple[str, ...] = ()  # extensions of its side files


@dataclass(frozen=True, kw_only=True)
class NastyShard:
    """A tar, its rows in order, and where every member goes."""

    data: bytes
    expected: tuple[Expected, ...]
    counts: MemberCounts
    good: tuple[Member, ...]  # the image members that can be scored, for a clean shard of the same pictures

    @property
    def statuses(self) -> dict[str, SampleStatus]:
        """Status by member path; a member's path is unique in this shard, its key is not."""
        return {row.member: row.status for row in self.expected}


_LONG = "long/" + "n" * 180

# Image members in tar order: path, content, status, side files that follow it.
_IMAGES: tuple[tuple[str, bytes, SampleStatus, tuple[str, ...]], ...] = (
    ("plain.jpg", jpeg(1), SampleStatus.OK, ("plain.json", "plain.txt", "plain.cls")),
    ("upper.JPG", jpeg(2), SampleStatus.OK, ("upper.JPG.json",)),
    ("progressive.jpeg", progressive_jpeg(3), SampleStatus.OK, ()),
    ("png.png", png(4), SampleStatus.OK, ()),
    ("webp.webp", webp(5), SampleStatus.OK, ()),
    ("bmp.bmp", bmp(6), SampleStatus.OK, ()),
    ("gif.gif", gif(7), SampleStatus.OK, ()),
    ("tif.tif", tiff(8), SampleStatus.OK, ()),
    ("tiff.tiff", tiff(9), SampleStatus.OK, ()),
    ("cmyk.jpg", cmyk_jpeg(10), SampleStatus.OK, ()),
    ("palette.png", palette_png(11), SampleStatus.OK, ()),
    ("rgba.png", rgba_png(12), SampleStatus.OK, ()),
    ("grey16.png", grey16_png(13), SampleStatus.OK, ()),
    ("grey16_tiff.tiff", grey16_tiff(14), SampleStatus.OK, ()),
    ("rotated.jpg", rotated_jpeg(15), SampleStatus.OK, ()),
    ("IMG.2024.01.jpg", jpeg(16), SampleStatus.OK, ("IMG.2024.01.txt",)),
    ("IMG.2024.02.jpg", jpeg(17), SampleStatus.OK, ()),
    ("with space/a b.jpg", jpeg(18), SampleStatus.OK, ()),
    ("unicode/дом-狗-é.jpg", jpeg(19), SampleStatus.OK, ()),
    ("../evil.jpg", jpeg(20), SampleStatus.OK, ()),
    ("./dot.jpg", jpeg(21), SampleStatus.OK, ()),
    ("/absolute.jpg", jpeg(22), SampleStatus.OK, ()),
    (f"{_LONG}.jpg", jpeg(23), SampleStatus.OK, ()),
    ("quote'\"%;--.jpg", jpeg(24), SampleStatus.OK, ()),
    ("corrupt.jpg", corrupt_jpeg(25), SampleStatus.DECODE_ERROR, ()),
    ("corrupt_png.png", corrupt_png(26), SampleStatus.DECODE_ERROR, ()),
    ("cut.jpg", truncated_jpeg(27), SampleStatus.TRUNCATED, ()),
    ("empty.jpg", b"", SampleStatus.EMPTY, ()),
    ("text.jpg", TEXT_AS_JPEG, SampleStatus.UNSUPPORTED, ()),
    ("future.jxl", b"\xff\x0a" + b"\0" * 40, SampleStatus.UNSUPPORTED, ()),
    ("bomb.png", bomb_png(), SampleStatus.TOO_LARGE, ()),
    ("twice.jpg", jpeg(28), SampleStatus.OK, ()),
    ("twice.png", png(29), SampleStatus.DUPLICATE_KEY, ()),
    ("last.jpg", jpeg(30), SampleStatus.OK, ("last.txt",)),
    ("plain.png", png(31), SampleStatus.DUPLICATE_KEY, ()),
)


def nasty_shard() -> NastyShard:
    """Return the tar of everything: whole as a tar, with images, names, side files and members of every kind."""
    members: list[tarfile.TarInfo | Member] = [special("folder", tarfile.DIRTYPE), ("orphan.json", b"{}")]
    for path, data, _, sides in _IMAGES:
        members.append((path, data))
        members.extend((side, b'{"labels": ["dog"]}' if side.endswith("json") else b"dog") for side in sides)
    members += [
        ("README.md", b"no image"),
        ("features.npy", b"\0" * 600),
        special("link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        special("hard.jpg", tarfile.LNKTYPE, "plain.jpg"),
        special("device.jpg", tarfile.CHRTYPE),
        ("twice.txt", b"not beside its image"),
    ]
    expected = tuple(
        Expected(
            key=path.rpartition(".")[0],
            member=path,
            status=status,
            side=tuple(side.rpartition(".")[2] for side in sides),
        )
        for path, _, status, sides in _IMAGES
    )
    sides = sum(len(row.side) for row in expected)
    return NastyShard(
        data=build_special_tar(members),
        expected=expected,
        counts=MemberCounts(images=len(_IMAGES), side_files=sides, orphan_side_files=2, other_files=2, not_files=4),
        good=tuple((path, data) for path, data, status, _ in _IMAGES if status is SampleStatus.OK),
    )

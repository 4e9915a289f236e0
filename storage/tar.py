"""Tar members in order, from a stream that is read once. A damaged or cut archive is an error, never an early end.

`tarfile` parses the headers (pax, GNU long names, sparse files); the loop is ours, because `TarFile.next` takes a cut
or damaged header for the end of the archive.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from tarfile import TarInfo
from typing import IO, Any, cast

from schemas.errors import ShardError
from schemas.sample import ShardStatus

MAX_HEADER_BYTES = 2**20  # of one pax or long-name record; its length is stated by the file, so it needs a bound
MAX_TAR_BYTES = 2**43  # file systems refuse to seek beyond 16 TiB; a member that states more is damage
_CHUNK_BYTES = 2**20


class _Archive:
    """What `TarInfo.fromtarfile` uses of an open `TarFile`, which is also its file object here."""

    encoding = "utf-8"
    errors = "backslashreplace"  # bytes that are not UTF-8 stay visible in the name, and the name stays valid text

    def __init__(self, stream: TarStream) -> None:
        self.fileobj = self
        self.pax_headers: dict[str, str] = {}
        self.offset = 0  # where the next header starts
        self.first_block = b""  # of the header, already taken from the stream
        self._stream = stream

    def tell(self) -> int:
        return self._stream.position

    def read(self, size: int) -> bytes:
        block, self.first_block = self.first_block, b""
        if block:  # the first thing that is asked for, in just this size
            return block
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.HeaderError(f"a header of {size} bytes")
        return self._stream.take(size)


class TarStream:
    """The members of one archive. Only forward: `members` gives headers, `read` or `skip` the content of the last.

    Args:
        file: binary file at its start; seeking is used where it works.
        url: for messages.
        compressed: `file` decompresses gzip while it reads, so seeking would save nothing.
    """

    def __init__(self, file: IO[bytes], url: str, *, compressed: bool = False) -> None:
        self.position = 0
        self._file = file
        self._url = url
        self.compressed = compressed
        self._seekable = not compressed
        self._archive = _Archive(self)
        self._gzip_error: Exception | None = None

    def members(self) -> Iterator[TarInfo]:
        """Yield every member's header, up to the end marker.

        Raises:
            ShardError: `not_a_tar`, or `truncated` with the place in the archive.
        """
        last = ""
        while (info := self._next(last)) is not None:
            last, end = info.name, self._archive.offset
            yield info
            if not self._forward(end):
                raise self._damaged(f"is cut in member {last!r}, which should end at byte {end}")
        self._check_tail()

    def read(self, info: TarInfo) -> bytes | None:
        """Return the content of the member that `members` yielded last, or None if the archive ends inside it."""
        if not info.issparse():
            content = self.take(info.size)
            return content if len(content) == info.size else None
        data = bytearray(info.size)
        for offset, size in _sparse_map(info):
            piece = self.take(size)
            data[offset : offset + size] = piece
            if len(piece) < size or len(data) != info.size:
                return None
        return bytes(data)

    def skip(self, info: TarInfo) -> bool:
        """Pass over the content of the member that `members` yielded last; return whether all of it is there."""
        stored = sum(size for _, size in _sparse_map(info)) if info.issparse() else info.size
        return self._forward(self.position + stored)

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end of the file or at damage in its compression."""
        pieces = []
        while size > 0 and (piece := self._read_some(size)):
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_some(self, size: int) -> bytes:
        if self._gzip_error is not None:
            return b""
        try:
            piece = self._file.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self._gzip_error = error
            return b""
        self.position += len(piece)
        return piece

    def _forward(self, end: int) -> bool:
        """Go to byte `end`; return whether the bytes before it are there."""
        if self._seekable and end > self.position:
            try:
                self._file.seek(end - 1)
                self.position = end - 1
            except ValueError:  # a web server that sends the file in one piece
                self._seekable = False
        while self.position < end:
            if not self.take(min(end - self.position, _CHUNK_BYTES)):
                return False
        return True

    def _next(self, last: str) -> TarInfo | None:
        """Return the next header, or None at the end marker."""
        start = self.position
        block = self.take(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            raise self._no_end(start, last)
        if not block.strip(b"\0"):
            return None
        self._archive.first_block = block
        try:
            info = TarInfo.fromtarfile(cast(tarfile.TarFile, self._archive))
            if info.size < 0 or not self.position <= self._archive.offset <= MAX_TAR_BYTES:
                raise tarfile.HeaderError(f"a member of {info.size} bytes")
        # All but the first: numbers and lengths in damaged pax and sparse records.
        except (tarfile.HeaderError, ValueError, IndexError, RecursionError) as error:
            if start == 0 and not _is_header(block):
                raise self._not_a_tar(str(error)) from None
            raise self._damaged(f"has a damaged header at byte {start}, after member {last!r}: {error}") from None
        return info

    def _no_end(self, start: int, last: str) -> ShardError:
        if start > 0:
            return self._damaged(f"ends at byte {self.position}, after member {last!r}, without an end marker")
        if self._gzip_error is not None and not isinstance(self._gzip_error, gzip.BadGzipFile):
            return self._damaged("ends within the first header")
        return self._not_a_tar(str(self._gzip_error or f"it has {self.position} bytes"))

    def _not_a_tar(self, reason: str) -> ShardError:
        return ShardError(ShardStatus.NOT_A_TAR, f"{self._url} is not a tar: {reason}; copy or make it anew")

    def _check_tail(self) -> None:
        """After the end marker there is padding only: anything else would be members that nobody reads."""
        marker = self.position
        while chunk := self.take(_CHUNK_BYTES):
            if chunk.strip(b"\0"):
                raise self._damaged(
                    f"goes on after its end marker at byte {marker}: a hole in the file, or tars joined with cat"
                )
        if self._gzip_error is not None:
            raise self._damaged("is damaged somewhere")

    def _damaged(self, how: str) -> ShardError:
        cause = f" ({self._gzip_error})" if self._gzip_error is not None else ""
        return ShardError(
            ShardStatus.TRUNCATED, f"{self._url} {how}{cause}; what stands before is read: copy or make it anew"
        )


def _is_header(block: bytes) -> bool:
    try:
        TarInfo.frombuf(block, _Archive.encoding, _Archive.errors)
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _sparse_map(info: TarInfo) -> list[tuple[int, int]]:
    """Return offset and size of the stored pieces of a sparse file, in order."""
    return cast(list[tuple[int, int]], cast(Any, info).sparse)

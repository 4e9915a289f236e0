"""Arrays on the disk while a command runs, one row per image: 100 KB each is more than memory at 100,000 of them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import RunError


@dataclass(frozen=True)
class Room:
    """A temporary folder."""

    folder: Path

    def pile(self, name: str, dtype: type[Any], shape: tuple[int, ...], expected: int) -> Pile:
        """Return an empty pile of rows of this shape.

        Args:
            name: of the file, and in errors.
            dtype: of the rows.
            shape: of one row.
            expected: how many rows there will be at least.

        Raises:
            RunError: the disk has no room for as many.
        """
        self._check(name, dtype, shape, expected)
        return Pile(self.folder / name, np.dtype(dtype), shape)

    def zeros(self, name: str, dtype: type[Any], shape: tuple[int, ...], rows: int) -> NDArray[Any]:
        """Return an array of zeros on the disk, to be filled in any order.

        Args:
            name: of the file, and in errors.
            dtype: of the rows.
            shape: of one row.
            rows: how many.

        Raises:
            RunError: the disk has no room for as many.
        """
        self._check(name, dtype, shape, rows)
        # Nothing cannot be mapped.
        return (
            np.memmap(self.folder / name, dtype, "w+", shape=(rows, *shape)) if rows else np.empty((0, *shape), dtype)
        )

    def _check(self, name: str, dtype: type[Any], shape: tuple[int, ...], rows: int) -> None:
        needed = rows * int(np.prod(shape)) * np.dtype(dtype).itemsize
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise RunError(
                f"{needed / 1e9:.1f} GB are needed for the {name} of {rows} images, and "
                f"{self.folder.parent} has {free / 1e9:.1f} GB; set TMPDIR to a larger disk"
            )


@dataclass
class Pile:
    """Rows that are written one after the other, and read as one array in the end."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows: int = field(default=0, init=False)

    def add(self, rows_N: NDArray[Any]) -> None:
        """Append rows.

        Raises:
            RunError: the disk is full.
        """
        try:
            with self.path.open("ab") as file:
                np.ascontiguousarray(rows_N, self.dtype).tofile(file)
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error}; set TMPDIR to a larger disk") from error
        self.rows += len(rows_N)

    def whole(self) -> NDArray[Any]:
        """Return all rows as a memory map."""
        shape = (self.rows, *self.shape)
        # Nothing cannot be mapped.
        return np.memmap(self.path, self.dtype, "r+", shape=shape) if self.rows else np.empty(shape, self.dtype)

    def clear(self) -> None:
        """Begin anew. An array that `whole` gave keeps its rows."""
        self.path.unlink(missing_ok=True)
        self.rows = 0

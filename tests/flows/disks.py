"""File systems for stores that fail on purpose: the local disk, with a hook at every step of every write."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

from fsspec.implementations.local import LocalFileSystem

NEVER = 10**9


class HookedDisk(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The local disk as `<protocol>://PATH`. Writes go in two halves, and `step` is called around them."""

    cachable = False
    steps = 0

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(path.removeprefix(f"{cls.protocol}://") if isinstance(path, str) else path)

    def step(self) -> None:
        """Count a step."""
        type(self).steps += 1

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        self.step()
        super().pipe_file(path, value[: len(value) // 2])
        self.step()
        super().pipe_file(path, value)
        self.step()

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        super().mv(path1, path2, **options)
        self.step()


class DyingDisk(HookedDisk):
    """The process is killed at step number `dies_at`."""

    protocol = "dying"
    dies_at = NEVER

    def step(self) -> None:
        super().step()
        if self.steps == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)


class FullDisk(HookedDisk):
    """The disk is full from step number `full_at` on."""

    protocol = "full"
    full_at = NEVER

    def step(self) -> None:
        super().step()
        if self.steps >= self.full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class CuttingDisk(HookedDisk):
    """Where `cuts` is set, a file that is opened is cut in half by somebody else before it is read."""

    protocol = "cutting"
    cuts = False

    def _open(self, path: str, *arguments: Any, **options: Any) -> Any:
        if self.cuts:
            os.truncate(path, os.path.getsize(path) // 2)
        return super()._open(path, *arguments, **options)

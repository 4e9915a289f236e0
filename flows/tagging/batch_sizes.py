"""The batch size of a run: as asked for, else as found for this encoder on this device, now or earlier."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from storage.batch_sizes import read_batch_size, remember_batch_size

if TYPE_CHECKING:
    from clipdecoder.encoders.encoder import ImageEncoder

_found: dict[str, int] = {}  # also where the file that remembers them cannot be written
_finding = threading.Lock()  # two that measure at once would take the device from each other


def choose_batch_size(asked: int, encoder: ImageEncoder) -> int:
    """Return the batch size for an encoder; `asked` is 0 where it is to be found."""
    from clipdecoder.encoders.batch_size import find_batch_size

    if asked:
        return asked
    if encoder.device.type == "cpu":
        return find_batch_size(encoder)
    key = f"{encoder.encoder_id} {encoder.device_name} {encoder.precision}"
    return known_or_found(key, lambda: find_batch_size(encoder))


def known_or_found(key: str, find: Callable[[], int]) -> int:
    """Return a batch size that is remembered, or find it: once, however many threads ask at the same time."""
    with _finding:
        if key not in _found:
            known = read_batch_size(key)
            _found[key] = find() if known is None else known
            if known is None:
                remember_batch_size(key, _found[key])
        return _found[key]

"""The batch size of a run: as asked for, else as found for this encoder on this device, now or earlier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.batch_sizes import read_batch_size, remember_batch_size

if TYPE_CHECKING:
    from clipdecoder.encoders.encoder import ImageEncoder


def choose_batch_size(asked: int, encoder: ImageEncoder) -> int:
    """Return the batch size for an encoder; `asked` is 0 where it is to be found."""
    from clipdecoder.encoders.batch_size import find_batch_size

    if asked:
        return asked
    if encoder.device.type == "cpu":
        return find_batch_size(encoder)
    key = f"{encoder.encoder_id} {encoder.device_name} {encoder.precision}"
    known = read_batch_size(key)
    if known is None:
        known = find_batch_size(encoder)
        remember_batch_size(key, known)
    return known

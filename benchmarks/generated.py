"""Made-up rows for stores that are too large to be tagged for a measurement."""

from __future__ import annotations

from schemas.sample import SampleRow, SampleStatus


def sample_row(shard: str, sample: int) -> SampleRow:
    """Return the row of a picture that was never made: of usual size, and with content of its own."""
    return SampleRow(
        key=f"pictures/{shard}-{sample:06d}",
        shard=shard,
        sample=sample,
        status=SampleStatus.OK,
        error=None,
        width=640,
        height=480,
        bytes=50_000 + sample,
        sha256=f"{int(shard):032x}{sample:032x}",
    )

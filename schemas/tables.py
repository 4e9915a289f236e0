"""Arrow schemas of everything that is stored as Parquet, declared once."""

from __future__ import annotations

import pyarrow as pa

# One row per image member of a shard, failures included.
SAMPLES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),  # ordinal in the shard
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string()),
    ]
)

_NAME = pa.dictionary(pa.int32(), pa.string())

# One row per sample and kept label, sorted by label, then by sample. `shard` is one value per file and costs nothing.
SCORES = pa.schema(
    [
        pa.field("shard", _NAME, nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("label_id", _NAME, nullable=False),
        pa.field("logit", pa.float32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
    ]
)

# Ground truth and review answers.
ANNOTATIONS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("label_id", pa.string(), nullable=False),
        pa.field("value", pa.int8(), nullable=False),  # 1 yes, 0 no
        pa.field("source", pa.string(), nullable=False),
        pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

# Thresholds of a model; other columns may stand beside these.
CALIBRATION = pa.schema([pa.field("label_id", pa.string(), nullable=False), pa.field("threshold", pa.float64())])


def features_schema(embedding_width: int) -> pa.Schema:
    """Return the schema of a feature part: the sample rows, each with its embedding.

    `embedding` is float16, L2-normalised before rounding; null for samples that failed. Failed samples are kept so
    that a later run can be written from the features alone, without touching the shard.
    """
    return SAMPLES.append(pa.field("embedding", pa.list_(pa.float16(), embedding_width)))

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

# One row per sample and kept label, sorted by label_id, then shard, then sample. `odds` are log odds on the grid of
# schemas.scores: score = sigmoid(odds / ODDS_STEPS), logit = (odds / ODDS_STEPS - intercept) / slope. All but
# `sample` and `odds` are one value for each shard or label, and cost next to nothing.
SCORES = pa.schema(
    [
        pa.field("shard", _NAME, nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("label_id", _NAME, nullable=False),
        pa.field("odds", pa.int32(), nullable=False),
        pa.field("slope", pa.float64(), nullable=False),
        pa.field("intercept", pa.float64(), nullable=False),
    ]
)

# Answers about single labels of single samples, by people or by imported files. Keys may repeat between shards and
# datasets: an answer that names neither is about every sample of its key.
ANNOTATIONS = pa.schema(
    [
        pa.field("dataset", pa.string()),  # null: any
        pa.field("shard", pa.string()),  # null: any
        pa.field("key", pa.string(), nullable=False),
        pa.field("label_id", pa.string(), nullable=False),
        pa.field("value", pa.int8()),  # 1 yes, 0 no, null: somebody looked and could not tell
        pa.field("source", pa.string(), nullable=False),
        pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

# What the side files of a shard say, in their own words: which label a word means is for the taxonomy to say, and
# that may change. An annotated sample that names no label has one row without a word.
SIDE_LABELS = pa.schema(
    [
        pa.field("sample", pa.int32(), nullable=False),  # ordinal in the shard
        pa.field("key", pa.string(), nullable=False),
        pa.field("word", pa.string()),
        pa.field("value", pa.int8()),  # 1 there, 0 absent
    ]
)

# Every other label, of which a model has no evidence of its own: the row that holds for novel labels.
ANY_LABEL = "*"

# How a checkpoint turns logits into scores and scores into tags, for each of its scorers and each label that it was
# trained on; the row of `ANY_LABEL` holds for all others. score = sigmoid(slope * logit + intercept).
CALIBRATION = pa.schema(
    [
        pa.field("scorer", pa.string(), nullable=False),
        pa.field("label_id", pa.string(), nullable=False),
        pa.field("slope", pa.float64(), nullable=False),
        pa.field("intercept", pa.float64(), nullable=False),
        pa.field("threshold", pa.float64(), nullable=False),
        pa.field("positives", pa.int64(), nullable=False),  # that the map was fitted on
    ]
)


def features_schema(embedding_width: int) -> pa.Schema:
    """Return the schema of a feature part: the sample rows, each with its embedding.

    `embedding` is float16, L2-normalised before rounding: the bytes of its numbers, little-endian, which numpy reads as
    `np.frombuffer(cell, "<f2")`. It is null for samples that failed. Failed samples are kept so that a later run can be
    written from the features alone, without touching the shard.
    """
    return SAMPLES.append(pa.field("embedding", pa.binary(2 * embedding_width)))


def tokens_schema(num_tokens: int, token_width: int) -> pa.Schema:
    """Return the schema of a token part: one row per `ok` sample, the bytes of its patch tokens.

    `tokens` is float16, little-endian, patch by patch: (num_tokens, token_width) flattened.
    """
    return pa.schema(
        [
            pa.field("sample", pa.int32(), nullable=False),
            pa.field("tokens", pa.binary(2 * num_tokens * token_width), nullable=False),
        ]
    )


# What was exported: one row per sample, in the order of its source. `dataset`, `shard` and `sample` say where it comes
# from. Beside exported shards, `key` comes first, as the sample is called there; `source_key` is the key it had.
EXPORTED_LABELS = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("source_key", pa.string(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.string()),
        pa.field("tags", pa.list_(pa.struct([("label_id", pa.string()), ("score", pa.float32())])), nullable=False),
    ]
)
EXPORT_INDEX = pa.schema([pa.field("key", pa.string(), nullable=False), *EXPORTED_LABELS])

# What a picture is like, by clipdecoder.curation.image_statistics. One row per sample that could be decoded.
IMAGE_STATISTICS = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("phash", pa.uint64()),  # null where the picture is flat
        pa.field("brightness", pa.float32(), nullable=False),
        pa.field("contrast", pa.float32(), nullable=False),
        pa.field("sharpness", pa.float32(), nullable=False),
    ]
)

# Samples that are nearly the same as others: one row per sample of a group of two or more.
DUPLICATES = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),  # of the bytes that were compared
        pa.field("group_id", pa.string(), nullable=False),  # the head of the representative's sha256
        pa.field("representative", pa.bool_(), nullable=False),  # true of one sample in each group
        pa.field("reason", pa.string()),  # same bytes, same picture or near; null of the representative
        pa.field("cosine", pa.float32()),  # to the representative; null where one of the two has no embedding
    ]
)

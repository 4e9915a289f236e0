"""What a head costs: operations and bytes per image, from its shape alone.

Shapes: B images, T patch tokens, K labels.
"""

from __future__ import annotations

from schemas.training import HeadConfig

FLOAT_BYTES = 4


def head_flops(config: HeadConfig, num_tokens: int, num_labels: int) -> int:
    """Return the floating point operations per image, a multiply-add counted as two.

    Queries are prepared once per vocabulary and are not counted, nor are norms and softmax. With groups, a group costs
    what a label costs otherwise, and each label is one small product more.
    """
    width = config.width
    tokens = 2 * num_tokens * config.token_width * width + 4 * num_tokens * width * width
    per_query = 4 * num_tokens * width + 2 * width * width + 4 * width * config.feedforward_width
    per_label = 2 * width * (2 if config.residual and not config.groups else 1)
    return tokens + (config.groups or num_labels) * per_query + num_labels * per_label


def query_bytes(config: HeadConfig) -> int:
    """Return the bytes of float32 activations of one query for one image at their peak, in the feed-forward part.

    They are its vector, the hidden layer, and what the layer adds.
    """
    return FLOAT_BYTES * (2 * config.width + config.feedforward_width)


def chunk_bytes(device_type: str) -> int:
    """Return how many bytes of activations at once are fastest on a kind of device.

    On a processor what fits in its caches: chunks of 16 MiB took 0.8 of the time of 256 MiB at the default width, and
    0.95 at width 768; of 2 MiB, 1.2 times. On a GPU a launch must be worth its while.
    """
    return 16 * 2**20 if device_type == "cpu" else 2**30


def chunk_size(config: HeadConfig, num_images: int, max_bytes: int) -> int:
    """Return how many queries at once keep the activations of a batch below `max_bytes`, at least 1."""
    return max(1, max_bytes // (num_images * query_bytes(config)))

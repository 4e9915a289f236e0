"""A small learnable world: an image's tokens hold the embeddings of its labels among noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipdecoder.training.batches import TrainData
from clipdecoder.training.model import TrainingModel
from clipdecoder.training.targets import Targets
from schemas.training import Missing, TrainConfig, train_config

NUM_IMAGES, NUM_TOKENS, NUM_LABELS, WIDTH = 96, 6, 12, 16


def recipe(**changes: object) -> TrainConfig:
    """Return a recipe that trains in a second."""
    small: dict[str, object] = {
        "distillation": 0.0,
        "width": 32,
        "num_heads": 4,
        "feedforward_width": 32,
        "projection_width": 16,
        "epochs": 4,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "sampled_labels": 8,
        "ema_decay": 0.9,
    }
    return train_config(**small | changes)


def make_data(*, missing: Missing = "negative", teacher: bool = False, seed: int = 0) -> TrainData:
    """Return annotated tokens: two labels an image; the first 80 images are to be trained on."""
    rng = np.random.default_rng(seed)
    queries_KQ = rng.standard_normal((NUM_LABELS, WIDTH)).astype(np.float32)
    queries_KQ /= np.linalg.norm(queries_KQ, axis=1, keepdims=True)
    tokens_NTC = 0.3 * rng.standard_normal((NUM_IMAGES, NUM_TOKENS, WIDTH)).astype(np.float32)
    labels = [rng.choice(NUM_LABELS, 2, replace=False) for _ in range(NUM_IMAGES)]
    for tokens_TC, pair in zip(tokens_NTC, labels, strict=True):
        tokens_TC[rng.choice(NUM_TOKENS, 2, replace=False)] += 2 * queries_KQ[pair]
    absents = [[int(label)] for label in rng.integers(NUM_LABELS, size=NUM_IMAGES)]
    similarities_NK = np.einsum("ntc,kc->nk", tokens_NTC, queries_KQ).astype(np.float32)
    return TrainData(
        inputs=tokens_NTC.astype(np.float16),
        rows_M=np.arange(80),
        targets=Targets.of([pair.tolist() for pair in labels], absents, num_labels=NUM_LABELS, missing=missing),
        queries_KQ=queries_KQ,
        teacher=(lambda rows, columns: similarities_NK[rows][:, columns]) if teacher else None,
    )


def weights_of(model: TrainingModel) -> dict[str, NDArray[np.float32]]:
    """Return all weights as arrays."""
    return {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}

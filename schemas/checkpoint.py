"""What a trained model says about itself, beside its weights: enough to load it, and to know where it comes from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from schemas.record import Record
from schemas.training import HeadConfig, TrainConfig

# How a logit is made. `clip`: cosine of image and text; `clip+local`: with the best patch's cosine; `decoder`: the
# trained head; `fused`: the standardised sum of all that the model has.
Scorer = Literal["clip", "clip+local", "decoder", "fused"]

Branch = Literal["clip", "local", "linear", "decoder"]
Group = Literal["seen", "novel"]


class TrainingSource(Record):
    """Shards of one dataset."""

    dataset: str
    root: str
    patterns: tuple[str, ...]


class TrainingData(Record):
    """What a checkpoint was trained on."""

    sources: tuple[TrainingSource, ...]
    digest: str  # of every sample's key, content and labels: the ground truth's state
    shards: int
    images: int  # annotated and readable
    held_out_images: int = 0  # of them, kept from training and validation to compare models on
    train_images: int  # that weights were fitted on
    validation_images: int  # that chose and calibrated
    positives: int  # annotated pairs of image and label
    unknown_labels: dict[str, int]  # words in side files that are no label of the taxonomy, the most frequent ones

    @property
    def datasets(self) -> str:
        """The names of the datasets."""
        return ", ".join(source.dataset for source in self.sources)

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, values: Any) -> Any:
        """Read a record of the time when a training had one dataset."""
        if not isinstance(values, dict) or "dataset" not in values:
            return values
        source = {name: values[name] for name in TrainingSource.model_fields if name in values}
        return {"sources": [source]} | {name: value for name, value in values.items() if name not in source}


class CheckpointRecord(Record):
    """How a checkpoint was made, and what its weights are."""

    base: str  # spec of the image backbone
    text: str | None  # spec of the text encoder; None: the base's own
    head: HeadConfig | None  # None: a zero-shot model that was calibrated
    train: TrainConfig | None  # None likewise
    branches: tuple[Branch, ...]
    # fused = sum over branches of weight * standardised logit: weights chosen on held-out images (seen labels) and on
    # held-out labels (novel)
    fusion: dict[Group, dict[Branch, float]]
    # Weights of single seen labels, by id, in place of their group's.
    own_fusion: dict[str, dict[Branch, float]] = Field(default_factory=dict)
    finetuned: bool  # whether the weights of the backbone are in the checkpoint
    epochs: int  # that the head was trained for, as chosen on held-out images and labels
    taxonomy: str
    taxonomy_digest: str
    novel_labels: tuple[str, ...]  # active labels of the taxonomy that were held out on request
    calibrated_from: str | None = None  # the model that `calibrate` started from
    data: TrainingData | None  # what it was trained on
    calibration_data: TrainingData | None = None  # where `calibrate` fitted, if it did
    training_id: str = ""  # digest of all that was asked of the training
    weights_sha256: str
    versions: dict[str, str]


class CalibrationRow(Record):
    """How one scorer's logit of one label becomes a score and a tag; one row of `calibration.parquet`."""

    scorer: str
    label_id: str  # or ANY_LABEL
    slope: float
    intercept: float
    threshold: float
    positives: int

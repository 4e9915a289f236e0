"""How a head is built and trained: every knob once, with its default, its range and its meaning."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, PositiveInt, ValidationError, model_validator

from schemas.errors import ConfigError, one_of
from schemas.record import Record

Missing = Literal["negative", "unknown"]


class HeadConfig(Record):
    """The shape of a head: enough to build it and load its weights."""

    token_width: int = Field(ge=1, description="width of the backbone's patch tokens")
    query_width: int = Field(ge=1, description="width of the text queries")
    width: int = Field(default=256, ge=1, description="width inside the head; a multiple of num_heads")
    num_heads: int = Field(default=8, ge=1)
    feedforward_width: int = Field(default=1024, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    residual: bool = Field(default=True, description="add the cosine of a label's final vector with its own query")
    groups: int = Field(default=0, ge=0, description="0: one query per label; else group decoding, seen labels only")
    num_labels: int = Field(default=0, ge=0, description="of a head with groups: how many labels it scores")

    @model_validator(mode="after")
    def _check(self) -> HeadConfig:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of num_heads {self.num_heads}")
        if bool(self.groups) != bool(self.num_labels):
            raise ValueError(f"groups ({self.groups}) and num_labels ({self.num_labels}) go together")
        return self


class TrainConfig(Record):
    """A recipe. What it leaves out has the default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # What is held out, and what an annotation means
    validation_share: float = Field(
        default=0.1, gt=0, lt=1, description="of the annotated images, never trained on; more of fewer than 2,000"
    )
    holdout_label_share: float = Field(
        default=0.2, ge=0, lt=1, description="of the seen labels, left out of a first training and scored as if novel"
    )
    missing: Missing = Field(default="negative", description="what it means that a sample does not name a label")
    min_positives: int = Field(default=1, ge=1, description="labels with fewer training images are not trained on")

    # Head
    width: int = Field(default=256, ge=1, description="a multiple of num_heads")
    num_heads: int = Field(default=8, ge=1)
    feedforward_width: int = Field(default=1024, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    residual: bool = Field(default=True, description="add the cosine of a label's final vector with its own query")
    groups: int = Field(
        default=0, ge=0, description="0: one query per label; else the group decoding of ML-Decoder: no novel labels"
    )

    # Loss: alpha * L_clip + beta * L_c + distillation * L_d
    alpha: float = Field(default=0.1, ge=0, description="weight of the contrastive loss; 0: off")
    beta: float = Field(default=1.0, ge=0, description="weight of the asymmetric loss; 0: off")
    gamma_neg: float = Field(default=4.0, ge=0, description="asymmetric loss: focus on hard negatives")
    gamma_pos: float = Field(default=0.0, ge=0, description="asymmetric loss: focus on hard positives")
    probability_clip: float = Field(
        default=0.05, ge=0, lt=1, description="asymmetric loss: negatives below it cost nothing"
    )
    distillation: float = Field(
        default=10.0, ge=0, description="weight of the loss towards the frozen model, which knows novel labels; 0: off"
    )
    projection_width: int = Field(default=256, ge=1, description="of the space of the contrastive loss")

    # Loop
    epochs: int = Field(default=8, ge=1)
    batch_size: int = Field(default=64, ge=1, description="images per step and process")
    learning_rate: float = Field(default=1e-3, gt=0, description="the peak of OneCycle")
    weight_decay: float = Field(default=0.02, ge=0, description="of matrices; norms and biases have none")
    warmup: float = Field(default=0.1, gt=0, lt=1, description="share of the steps in which the rate rises")
    max_grad_norm: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.998, ge=0, lt=1, description="of the average of the weights; 0: off")
    sampled_labels: int = Field(
        default=96, ge=0, description="labels per step: all positives of the batch, random others up to it; 0: all"
    )
    label_dropout: float = Field(default=0.0, ge=0, lt=1, description="share of a step's labels that sit it out")
    token_dropout: float = Field(default=0.0, ge=0, lt=1, description="share of an image's tokens that sit a step out")
    patience: int = Field(default=3, ge=1, description="epochs without gain on validation that end the training")
    amp: Literal["auto", "off", "bf16"] = Field(
        default="auto", description="auto: bf16 on CUDA and, for a head alone, on processors that multiply it"
    )
    seed: int = Field(default=0, ge=0)

    # Backbone
    finetune: Literal["none", "all"] | PositiveInt = Field(
        default="none", description="what of the backbone is trained: none, all, or a number of last blocks"
    )
    backbone_learning_rate: float = Field(default=1e-5, gt=0, description="the peak for the backbone's weights")

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of num_heads {self.num_heads}")
        if not (self.alpha or self.beta or self.distillation):
            raise ValueError("alpha, beta and distillation are all 0: nothing would be learned; set beta = 1")
        return self

    def head(self, *, token_width: int, query_width: int, num_labels: int) -> HeadConfig:
        """Return the shape of the head that this recipe trains, for `num_labels` labels where it has groups."""
        shared = {name: getattr(self, name) for name in HeadConfig.model_fields if name in TrainConfig.model_fields}
        labels = num_labels if self.groups else 0
        return HeadConfig(token_width=token_width, query_width=query_width, num_labels=labels, **shared)


def train_config(**values: Any) -> TrainConfig:
    """Return a checked recipe.

    Raises:
        ConfigError: naming the setting, the value and what would be right.
    """
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        raise ConfigError("; ".join(dict.fromkeys(_describe(problem) for problem in error.errors()))) from None


def _describe(problem: Any) -> str:
    # A union names its members after the field; the field is what was written.
    name = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "extra_forbidden":
        return one_of("training setting", name, TrainConfig.model_fields)
    if not name:
        return str(problem["msg"]).removeprefix("Value error, ")
    return f"training setting {name} = {problem['input']!r}: {problem['msg']}"

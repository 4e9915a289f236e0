"""Settings and requests: every knob once, with its default, its range and its meaning."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from schemas.decoding import Decode
from schemas.errors import ConfigError, one_of
from schemas.precision import PrecisionOption
from schemas.retraining import RetrainPolicy
from schemas.training import Missing, TrainConfig

SETTINGS_FILE = "clipdecoder.toml"
DEFAULT_MODEL = "bundled:scenes"


MAX_PIXELS = 89_478_485  # Pillow's own bound: 256 MiB as RGB
DEVICE = r"^(auto|(cpu|cuda(:\d+)?)(,(cpu|cuda(:\d+)?))*)$"
NAME = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"


# Of `auto` and of 0 one meaning: the word is for people, the number is what manifests hold.
BatchSize = Annotated[int, Field(ge=0), BeforeValidator(lambda value: 0 if value == "auto" else value)]


class EncodeOptions(BaseModel):
    """How images are turned into features. The first decides the results, the others how they are reached."""

    max_pixels: int = Field(default=MAX_PIXELS, gt=0, description="larger pictures are refused as too_large")
    batch_size: BatchSize = Field(
        default=0, description="images at once through the backbone; 0 or auto: found for the device"
    )
    device: str = Field(default="auto", pattern=DEVICE)
    decode_threads: int = Field(default=0, ge=0, description="0: one per core")


class TagOptions(EncodeOptions):
    """What a tagging request and the settings share. The first two decide the results."""

    floor: float = Field(default=0.01, ge=0, le=1, description="lowest score that is always stored")
    top_k: int = Field(default=20, ge=0, description="labels stored per sample whatever their score")
    model: str | None = Field(default=None, description="None: the promoted model, else the bundled one")
    decode: Decode | None = Field(default=None, description="exact or fast; None: as the model's name says")
    precision: PrecisionOption = Field(
        default="auto", description="of the backbone; auto: what is fast on the device, of a stored model its own"
    )
    shards_per_task: int = Field(default=16, ge=1, description="shards handed to one Prefect task")
    max_bad: float | None = Field(default=None, ge=0, le=1, description="share of failed samples that ends the run")


class TrainRequest(EncodeOptions):
    """What `train` is asked to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: tuple[str, ...] = Field(min_length=1)
    taxonomy: str
    store: str
    base: str = Field(description="image backbone: bundled:NAME, open_clip:..., timm:...")
    decode: Decode | None = Field(default=None, description="exact or fast; None: as the base's name says")
    precision: PrecisionOption = Field(default="auto", description="of the backbone; auto: what is fast on the device")
    text: str | None = Field(default=None, description="text encoder: open_clip:..., table:FILE; None: the base's own")
    novel: str | None = Field(default=None, description="file of label ids that are held out, one a line")
    name: str | None = Field(default=None, pattern=NAME)
    recipe: TrainConfig = TrainConfig()
    target_precision: float | None = Field(default=None, gt=0, le=1, description="of thresholds; None: best F1")
    held_out_share: float = Field(
        default=0, ge=0, lt=0.9, description="of the annotated images, never learned from: they compare models"
    )


class JudgeOptions(EncodeOptions):
    """What `evaluate` and `calibrate` share: a model, and annotated shards that it did not learn from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: tuple[str, ...] = Field(min_length=1)
    taxonomy: str
    store: str
    model: str | None = None
    missing: Missing | None = Field(default=None, description="what a missing annotation means; None: as in training")
    name: str | None = Field(default=None, pattern=NAME)


class EvaluateRequest(JudgeOptions):
    """What `evaluate` is asked to do."""

    novel: str | None = Field(default=None, description="file of the label ids that ZSL is computed on")
    scorer: Literal["clip", "decoder", "fused"] | None = None
    local: bool = False
    protocol: Literal["A", "F"] = Field(default="A", description="A: all images; F: those with a label of the group")


class CalibrateRequest(JudgeOptions):
    """What `calibrate` is asked to do."""

    target_precision: float | None = Field(default=None, gt=0, le=1, description="of thresholds; None: best F1")


class TagRequest(TagOptions):
    """What `tag` is asked to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: tuple[str, ...] = Field(min_length=1, description="fsspec URLs, globs or brace ranges of tar shards")
    taxonomy: str = Field(description="path or URL of the taxonomy file")
    store: str = Field(description="URL of the store")
    scorer: Literal["clip", "decoder", "fused"] | None = Field(default=None, description="None: the model's first")
    local: bool = Field(default=False, description="clip: with the best patch's cosine")
    name: str | None = Field(default=None, pattern=NAME, description="dataset name")
    labels: str = Field(default="all", description="all, new, or label ids joined by commas")
    retry_failed: bool = Field(default=False, description="visit again only shards with failed samples")
    store_tokens: bool = Field(default=False, description="keep patch tokens, so that no later run needs the images")


class BackfillRequest(EncodeOptions):
    """What `backfill` is asked to do: score what the shown model has not scored yet, on every tagged shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    model: str | None = Field(default=None, description="None: the promoted model")
    shards_per_task: int = Field(default=16, ge=1, description="shards handed to one Prefect task")


class ApplyRequest(EncodeOptions):
    """What `taxonomy apply` is asked to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    taxonomy: str = Field(description="path or URL of the taxonomy file")
    store: str
    policy: RetrainPolicy = RetrainPolicy()
    shards_per_task: int = Field(default=16, ge=1, description="shards handed to one Prefect task")


class RetrainRequest(EncodeOptions):
    """What `retrain` is asked to do: decide on the taxonomy in force; train, judge and promote if it is worth it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    taxonomy: str | None = Field(default=None, description="name of a taxonomy in force; None: the only one")
    policy: RetrainPolicy = RetrainPolicy()


class Settings(TagOptions, BaseSettings):
    """Defaults of the command line: from `clipdecoder.toml` in the working directory and CLIPDECODER_* variables."""

    model_config = SettingsConfigDict(
        env_prefix="CLIPDECODER_",
        env_nested_delimiter="__",
        toml_file=SETTINGS_FILE,
        extra="forbid",
        frozen=True,
        env_ignore_empty=True,
    )

    store: str = "store"
    orchestrate: bool = Field(default=True, description="run flows through Prefect; false: call the functions directly")
    retraining: RetrainPolicy = RetrainPolicy()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, the environment over the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings() -> Settings:
    """Return the settings that hold here.

    Raises:
        ConfigError: the file is not TOML, or a setting is unknown or out of range.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise ConfigError("; ".join(_describe(problem) for problem in error.errors())) from None
    except ValueError as error:  # tomllib
        raise ConfigError(f"{SETTINGS_FILE}: {error}") from None


def _describe(problem: Any) -> str:
    parts = [str(part) for part in problem["loc"]]
    name, variable = ".".join(parts), f"CLIPDECODER_{'__'.join(parts).upper()}"
    if problem["type"] == "extra_forbidden":
        nested = len(parts) > 1
        known = [f"{parts[0]}.{field}" for field in RetrainPolicy.model_fields] if nested else Settings.model_fields
        return f"{SETTINGS_FILE}: {one_of('setting', name, known)}"
    return f"setting {name} = {problem['input']!r}: {problem['msg']} ({SETTINGS_FILE} or {variable})"


def _said(problem: Any) -> str:
    """Return what is wrong with a value: of a name, which characters it may have."""
    if problem["type"] == "string_pattern_mismatch" and problem["ctx"]["pattern"] == NAME:
        return "a name is made of a-z, A-Z, 0-9, _, - and ., and does not begin with a ."
    return str(problem["msg"])


RequestT = TypeVar("RequestT", bound=BaseModel)


def make_request(kind: type[RequestT], **values: Any) -> RequestT:
    """Return a checked request.

    Raises:
        ConfigError: naming the option, the value and what would be right.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, p['loc']))} = {p['input']!r}: {_said(p)}" for p in error.errors())
        raise ConfigError("; ".join(problems)) from None


def tag_request(**values: Any) -> TagRequest:
    """Return a checked tagging request; see `make_request`."""
    return make_request(TagRequest, **values)

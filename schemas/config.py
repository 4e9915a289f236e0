"""Settings and requests: every knob once, with its default, its range and its meaning."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from schemas.errors import ConfigError, one_of

SETTINGS_FILE = "clipdecoder.toml"
DEFAULT_MODEL = "bundled:scenes"


MAX_PIXELS = 89_478_485  # Pillow's own bound: 256 MiB as RGB


class TagOptions(BaseModel):
    """What a request and the settings share. The first three decide the results, the others how they are reached."""

    floor: float = Field(default=0.01, ge=0, le=1, description="lowest score that is always stored")
    top_k: int = Field(default=20, ge=0, description="labels stored per sample whatever their score")
    max_pixels: int = Field(default=MAX_PIXELS, gt=0, description="larger pictures are refused as too_large")
    model: str | None = Field(default=None, description="None: the promoted model, else the bundled one")
    batch_size: int = Field(default=32, ge=1)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    decode_threads: int = Field(default=0, ge=0, description="0: one per core")
    shards_per_task: int = Field(default=16, ge=1, description="shards handed to one Prefect task")
    max_bad: float | None = Field(default=None, ge=0, le=1, description="share of failed samples that ends the run")


class TagRequest(TagOptions):
    """What `tag` is asked to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: tuple[str, ...] = Field(min_length=1, description="fsspec URLs, globs or brace ranges of tar shards")
    taxonomy: str = Field(description="path or URL of the taxonomy file")
    store: str = Field(description="URL of the store")
    scorer: Literal["clip"] = "clip"
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", description="dataset name")
    labels: str = Field(default="all", description="all, new, or label ids joined by commas")
    retry_failed: bool = Field(default=False, description="visit again only shards with failed samples")


class Settings(TagOptions, BaseSettings):
    """Defaults of the command line: from `clipdecoder.toml` in the working directory and CLIPDECODER_* variables."""

    model_config = SettingsConfigDict(
        env_prefix="CLIPDECODER_", toml_file=SETTINGS_FILE, extra="forbid", frozen=True, env_ignore_empty=True
    )

    store: str = "store"
    orchestrate: bool = Field(default=True, description="run flows through Prefect; false: call the functions directly")

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
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{SETTINGS_FILE}: {one_of('setting', name, Settings.model_fields)}"
    return f"setting {name} = {problem['input']!r}: {problem['msg']} ({SETTINGS_FILE} or CLIPDECODER_{name.upper()})"


def tag_request(**values: Any) -> TagRequest:
    """Return a checked request.

    Raises:
        ConfigError: naming the option, the value and what would be right.
    """
    try:
        return TagRequest(**values)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, p['loc']))} = {p['input']!r}: {p['msg']}" for p in error.errors())
        raise ConfigError("; ".join(problems)) from None

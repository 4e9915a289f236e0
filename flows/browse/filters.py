"""What addresses ask: of the grid, of a picture, of a label. Whatever cannot be read in one is refused.

The grid has two orders: by the score of one label, or, where no label is chosen, as samples stand in their shards. Its
pages follow each other by the last picture's place.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

from schemas.errors import ConfigError, one_of
from schemas.sample import SampleStatus
from storage.comparisons import Change

Place = tuple[str, str, int]  # dataset, shard and ordinal of a sample
Order = Literal["high", "low"]

PAGE = 60
_QUOTED = 80  # characters of what was given, in an error
FAILED = "failed"  # any status but `ok`

_Ordinal = Annotated[int, Field(ge=0, lt=2**31)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
# Where a page ended: the last picture, behind its score and logit where these are the order.
_IN_ORDER = TypeAdapter[tuple[Any, ...]](tuple[str, str, _Ordinal])
_BY_SCORE = TypeAdapter[tuple[Any, ...]](tuple[_Number, _Number, str, str, _Ordinal])


class Query(BaseModel):
    """The part of an address behind its `?`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        for name in values.keys() - cls.model_fields.keys():
            raise ValueError(one_of("parameter", name, cls.model_fields))
        return values


class SourceQuery(Query):
    """Whose scores are looked at."""

    source: str = Field(default="", max_length=300, description="model:ID, run:ID; empty: what the store shows")


class PlaceQuery(Query):
    """One picture."""

    dataset: str = Field(max_length=2000)
    shard: str = Field(max_length=2000)
    sample: _Ordinal

    @property
    def place(self) -> Place:
        """Where it stands."""
        return self.dataset, self.shard, self.sample


class PictureQuery(PlaceQuery, SourceQuery):
    """One picture with all its scores."""

    label: str = Field(default="", max_length=2000, description="that the page before was about")


class LabelQuery(SourceQuery):
    """One label."""

    label: str = Field(max_length=2000)


class EdgeQuery(LabelQuery):
    """A threshold of a label."""

    at: _Share


class FoundQuery(Query):
    """A page of an answer that is kept."""

    name: str = Field(max_length=2000)
    start: int = Field(default=0, ge=0, description="how many pictures stand on the pages before")


class SqlQuery(SourceQuery):
    """A query to be shown."""

    sql: str = Field(default="", max_length=20_000)


class Filter(SourceQuery):
    """Which pictures to show. An empty field of a form is one that was not filled in."""

    label: str = Field(default="", max_length=200, description="by whose score")
    low: _Share | None = Field(default=None, description="least score; None, with a label: its threshold")
    high: _Share | None = Field(default=None, description="greatest score")
    order: Order = "high"
    dataset: str = Field(default="", max_length=300)
    status: str = Field(default="", max_length=50, description="ok, failed, or one status")
    knowledge: Literal["", "seen", "novel"] = Field(
        default="", description="a tag of a label that was trained on, or not"
    )
    key: str = Field(default="", max_length=300, description="a part of the key")
    copies: Literal["", "hide"] = Field(default="", description="hide: not samples that another one stands for")
    after: str = Field(default="", max_length=2000, description="where the page before ended")

    @field_validator("low", "high", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("status")
    @classmethod
    def _known_status(cls, value: str) -> str:
        if value not in ("", FAILED, *SampleStatus):
            raise ValueError(one_of("status", value, (FAILED, *SampleStatus)))
        return value

    @model_validator(mode="after")
    def _has_a_range(self) -> Self:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"no score is at least {self.low:g} and at most {self.high:g}; exchange low and high")
        return self

    @property
    def place_after(self) -> tuple[Any, ...] | None:
        """Where the page before ended: score, logit, dataset, shard and sample, or the last three alone.

        Raises:
            ConfigError: it is none of what pages give.
        """
        if not self.after:
            return None
        try:
            read = _BY_SCORE if self.label else _IN_ORDER
            return read.validate_json(base64.urlsafe_b64decode(self.after.encode()))
        except ValueError:
            raise ConfigError(
                f"after {shortened(self.after)}: no page ended there; go back to the first page"
            ) from None

    def query(self, **changes: Any) -> str:
        """Return the address of the same view with some fields changed; back at its first page unless that is said."""
        return _query(self.model_dump(exclude_defaults=True) | {"after": ""} | changes)


class ComparisonFilter(SourceQuery):
    """Which differences of two sources to show."""

    other: str = Field(default="", max_length=300, description="the source that this one is compared with")
    label: str = Field(default="", max_length=200, description="of whose score; empty: of all tags")
    change: Change = ""
    start: int = Field(default=0, ge=0, description="how many pictures stand on the pages before")

    def query(self, **changes: Any) -> str:
        """Return the address of the same view with some fields changed; its first page unless that is said."""
        return _query(self.model_dump(exclude_defaults=True) | {"start": ""} | changes)


def _query(values: Mapping[str, Any]) -> str:
    return urlencode({name: value for name, value in values.items() if value not in (None, "")})


def shortened(value: object) -> str:
    """Return what was given, as a message quotes it."""
    text = repr(value)
    return text if len(text) <= _QUOTED else f"{text[: _QUOTED - 1]}…"


def mark_of(values: tuple[Any, ...]) -> str:
    """Return what `after` says of the last row of a page."""
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode()

"""What the grid is asked to show, and where in it a page begins. Pages follow each other by the last picture's place.

Two orders: by the score of one label, or, where no label is chosen, as samples stand in their shards.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field, field_validator

from schemas.errors import ConfigError
from storage.comparisons import Change

Place = tuple[str, str, int]  # dataset, shard and ordinal of a sample
Order = Literal["high", "low"]
Knowledge = Literal["seen", "novel"]

PAGE = 60


class Filter(BaseModel):
    """Which pictures to show. An empty field of a form is one that was not filled in."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    source: str = Field(default="", max_length=300, description="model:ID, run:ID; empty: what the store shows")
    label: str = Field(default="", max_length=200, description="by whose score")
    low: float | None = Field(default=None, ge=0, le=1, description="least score; None, with a label: its threshold")
    high: float | None = Field(default=None, ge=0, le=1, description="greatest score")
    order: Order = "high"
    dataset: str = Field(default="", max_length=300)
    status: str = Field(default="", max_length=50, description="ok, failed, or one status")
    knowledge: Knowledge | Literal[""] = Field(default="", description="a tag of a label that was trained on, or not")
    key: str = Field(default="", max_length=300, description="a part of the key")
    copies: Literal["", "hide"] = Field(default="", description="hide: not samples that another one stands for")
    after: str = Field(default="", max_length=2000, description="where the page before ended")

    @field_validator("low", "high", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

    @property
    def place_after(self) -> tuple[Any, ...] | None:
        """Where the page before ended: score, logit, dataset, shard and sample, or the last three alone.

        Raises:
            ConfigError: it is none of what pages give.
        """
        if not self.after:
            return None
        try:
            place = json.loads(base64.urlsafe_b64decode(self.after.encode()))
            kinds = (float, float, str, str, int) if self.label else (str, str, int)
            return tuple(kind(value) for kind, value in zip(kinds, place, strict=True))
        except (ValueError, TypeError):
            raise ConfigError("the address of this page is broken; go back to the first page") from None

    def query(self, **changes: Any) -> str:
        """Return the address of the same view with some fields changed; back at its first page unless that is said."""
        return _query(self.model_dump(exclude_defaults=True) | {"after": ""} | changes)


class ComparisonFilter(BaseModel):
    """Which differences of two sources to show."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    source: str = Field(default="", max_length=300, description="model:ID, run:ID; empty: what the store shows")
    other: str = Field(default="", max_length=300, description="the source that this one is compared with")
    label: str = Field(default="", max_length=200, description="of whose score; empty: of all tags")
    change: Change = ""
    start: int = Field(default=0, ge=0, description="how many pictures stand on the pages before")

    def query(self, **changes: Any) -> str:
        """Return the address of the same view with some fields changed; its first page unless that is said."""
        return _query(self.model_dump(exclude_defaults=True) | {"start": ""} | changes)


def _query(values: Mapping[str, Any]) -> str:
    return urlencode({name: value for name, value in values.items() if value not in (None, "")})


def mark_of(values: tuple[Any, ...]) -> str:
    """Return what `after` says of the last row of a page."""
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode()

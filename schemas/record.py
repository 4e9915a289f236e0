"""The base of what is stored as JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Immutable, and unknown fields are an error rather than lost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

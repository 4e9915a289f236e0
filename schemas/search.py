"""What `search` is asked, and what it finds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from schemas.commands import store_command
from schemas.config import NAME, EncodeOptions
from schemas.counts import counted

MAX_TOP = 10_000


class SearchRequest(EncodeOptions):
    """What to look for, in one of three ways: texts, a sample of the store, a picture file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    texts: tuple[str, ...] = Field(default=(), description="averaged, as a label's texts are")
    like: str | None = Field(default=None, description="key of a sample")
    shard: str | None = Field(default=None, description="shard of that sample, where several have its key")
    like_file: str | None = Field(default=None, description="path or URL of a picture")
    dataset: str | None = Field(default=None, pattern=NAME, description="look there only; None: in all datasets")
    model: str | None = Field(default=None, description="None: the model that the views show")
    top: int = Field(default=20, ge=1, le=MAX_TOP, description="samples to find")
    min_score: float = Field(default=-1.0, ge=-1, le=1, description="least cosine")


class FoundTag(BaseModel):
    """A tag of a sample that was found."""

    label_id: str
    score: float


class SearchHit(BaseModel):
    """One sample that was found."""

    rank: int
    dataset: str
    shard: str
    sample: int
    key: str
    cosine: float
    tags: tuple[FoundTag, ...]  # the surest first, a few


class SearchResult(BaseModel):
    """The nearest samples, the nearest first, and how much of the store they were looked for in."""

    query: str
    model_id: str
    encoder_id: str
    hits: tuple[SearchHit, ...]
    searched: int  # embeddings
    shards: int  # that were searched
    lacking: tuple[str, ...]  # dataset/shard of those without embeddings of this encoder and these bytes
    unreadable: tuple[str, ...]  # what went wrong with embeddings that are there

    @property
    def ok(self) -> bool:
        """Whether all embeddings that are there could be read."""
        return not self.unreadable

    def notes(self) -> list[str]:
        """Return what a person should know beside the hits: how much was searched, and what was not."""
        notes = [
            f"{len(self.hits)} of {counted(self.searched, 'embedding')} in "
            f"{counted(self.shards, 'shard')}, model {self.model_id}"
        ]
        if self.lacking:
            notes.append(
                f"not searched, as they have no embeddings by its encoder of their present bytes: {len(self.lacking)} "
                f"shards, e.g. {self.lacking[0]}; `{store_command('backfill', '--model', self.model_id)}` makes them"
            )
        return notes + [f"not searched: {problem}" for problem in self.unreadable]

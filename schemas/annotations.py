"""Bringing annotations into a store: what is asked for, and what came of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from schemas.config import NAME
from schemas.record import Record

Time = Annotated[datetime, AfterValidator(lambda time: time if time.tzinfo else time.replace(tzinfo=UTC))]
MAX_AHEAD = timedelta(
    days=1
)  # clocks and zones differ; an answer of a later time is a mistake, and would count for ever
AnnotationFormat = Literal["csv", "parquet", "coco", "labelstudio"]


class ImportRequest(BaseModel):
    """What `annotations import` is asked to do. What the file itself says counts before dataset, source and at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    file: str = Field(description="path or URL")
    format: AnnotationFormat | None = Field(default=None, description="None: by the file's suffix and content")
    taxonomy: str = Field(default="applied", description="a file, a digest, applied or applied:NAME")
    dataset: str | None = Field(default=None, pattern=NAME, description="None: any with such a key")
    source: str | None = Field(default=None, min_length=1, description="None: the file's name")
    at: Time | None = Field(default=None, description="when it was answered; None: now")
    complete: bool = Field(default=False, description="labels of the file that a picture does not name are absent")


class Named(Record):
    """How many of something there were, and the first few."""

    count: int
    examples: tuple[str, ...] = ()

    def line(self, what: str) -> str:
        """Return it as text."""
        examples = ", ".join(map(repr, self.examples)) + (", ..." if self.count > len(self.examples) else "")
        return f"{what}: {self.count} ({examples})"


def outdated_line(count: int) -> str:
    """Return what a person should know of answers that do not count."""
    return (
        f"answers that do not count: {count}; side files or answers of the store say something newer of the same "
        "picture and label"
    )


class ImportReport(Record):
    """What `annotations import` brought in, and what it could not."""

    file: str
    format: AnnotationFormat
    taxonomy: str
    path: str  # in the store
    new: bool  # False: the store had these answers already
    rows: int  # answers
    samples: int  # pictures with an answer
    labels: int
    unknown_words: Named  # different words that mean no label
    retired: Named  # labels that are retired; answers about them are kept
    contradictions: Named  # keys and labels with both a yes and a no of one time; the yes counts
    outdated: int  # answers that do not count, as something newer is known
    unknown_keys: Named  # pictures that no sample of the store is; their answers are kept
    misplaced: Named  # pictures that the store has in another dataset or shard than the file says; kept as well
    ambiguous: Named  # paths that several keys would fit; left out
    unanswered: int  # tasks that were skipped
    bad: Named  # rows that could not be read; left out

    @property
    def ok(self) -> bool:
        """Whether every row could be read."""
        return self.bad.count == 0

    def lines(self) -> list[str]:
        """Return what a person should know."""
        counts = f"answers: {self.rows}, labels: {self.labels}, pictures: {self.samples}"
        lines = [f"{counts}; written to {self.path}" if self.new else f"{counts}; all known already, nothing changed"]
        if self.unknown_words.count:
            lines.append(self.unknown_words.line(f"words that mean no label of {self.taxonomy!r}"))
        if self.retired.count:
            lines.append(
                self.retired.line("retired labels; their answers are kept, and count if the label is restored")
            )
        if self.contradictions.count:
            lines.append(self.contradictions.line("answers that contradict another of this file; the yes counts"))
        if self.outdated:
            lines.append(outdated_line(self.outdated))
        if self.unknown_keys.count:
            lines.append(self.unknown_keys.line("pictures that the store does not have (yet); their answers are kept"))
        if self.misplaced.count:
            lines.append(f"pictures that the store has elsewhere than the file says: {self.misplaced.count}; kept")
            lines += [f"  {place}" for place in self.misplaced.examples]
        if self.ambiguous.count:
            lines.append(self.ambiguous.line("paths that several keys would fit, left out; write keys or longer paths"))
        if self.unanswered:
            lines.append(f"tasks without an answer: {self.unanswered}")
        if self.bad.count:
            lines.append(f"rows left out: {self.bad.count}; mend them, and import the file again")
            lines += [f"  {problem}" for problem in self.bad.examples]
        return lines

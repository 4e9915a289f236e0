"""What people are asked about pictures, and what they answer: one picture and one label at a time."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.annotations import outdated_line
from schemas.commands import store_command
from schemas.config import MAX_PIXELS
from schemas.counts import counted
from schemas.record import Record

ANSWERS_FORMAT: Literal["clipdecoder-answers"] = "clipdecoder-answers"
ANSWERS_VERSION: Literal[1] = 1
MAX_TASKS = 5_000  # the page holds every picture: so many stay fluid, and a person needs hours for them

# Why a picture is asked about: the model is unsure of it; it scored highest of those that are not tagged; by lot.
Reason = Literal["near", "top", "random"]


class ReviewRequest(BaseModel):
    """What `review export` is asked to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    per_label: int = Field(default=16, ge=1, description="pictures asked about for each label")
    limit: int = Field(default=320, ge=1, le=MAX_TASKS, description="questions in all")
    labels: tuple[str, ...] | None = Field(default=None, min_length=1, description="label ids; None: all active ones")
    seed: int = Field(default=0, description="of the pictures that are drawn by lot")
    max_pixels: int = Field(default=MAX_PIXELS, gt=0, description="larger pictures are not shown")


class ReviewAnswer(Record):
    """One answer: whether a label is on a picture. `value` is 1 yes, 0 no, None: a person could not tell."""

    dataset: str
    shard: str
    key: str
    label_id: str
    value: Literal[0, 1] | None
    at: AwareDatetime


class AnswersFile(Record):
    """What the page saves and `review import` reads."""

    format: Literal["clipdecoder-answers"]
    version: Literal[1]
    model_id: str  # whose scores chose the questions
    answers: tuple[ReviewAnswer, ...]


class ReviewedLabel(Record):
    """How many questions an export has about one label, by reason."""

    label_id: str
    name: str
    seen: bool  # by the shown model
    near: int
    top: int
    random: int

    @property
    def tasks(self) -> int:
        """All questions about the label."""
        return self.near + self.top + self.random


class ReviewExport(Record):
    """What `review export` wrote, and what it left out."""

    model_id: str
    tasks: int
    novel: int  # questions about labels that the shown model was not trained on
    seen: int
    labels: tuple[ReviewedLabel, ...]  # with at least one question, in the order of the page
    labels_without: tuple[str, ...]  # labels of which nothing is left to ask, or that `limit` left out
    duplicates: int  # pictures whose content another picture of their dataset has: one of them is asked about
    answered_before: int  # picture and label pairs that side files or answers speak of already
    unreadable: int  # questions left out since their picture cannot be read any more, or is another one now
    page_bytes: int
    files: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return what a person should know."""
        if not self.tasks:
            return [f"nothing to ask: {self._left_out()}", "no page was written, and the folder is as it was"]
        page, *_ = self.files
        return [
            f"questions: {self.tasks}, of them {self.novel} about novel labels and {self.seen} about seen ones; "
            f"page: {self.page_bytes / 1e6:.1f} MB",
            *(
                f"  {label.name} ({label.label_id}, {'seen' if label.seen else 'novel'}): {label.near} near the "
                f"threshold, {label.top} of the highest below it, {label.random} by lot"
                for label in self.labels
            ),
            *([f"no question about: {', '.join(self.labels_without)}"] if self.labels_without else []),
            f"left out: {self._left_out()}",
            f"open {page} in a browser, answer, save, then: {store_command('review', 'import', 'FILE')}",
        ]

    def _left_out(self) -> str:
        return (
            f"{self.answered_before} that side files or answers speak of already, "
            f"{counted(self.duplicates, 'picture')} of the same content as another, {self.unreadable} unreadable"
        )


class ReviewImport(Record):
    """What `review import` brought in."""

    answers: int  # as the file has them
    yes: int
    no: int
    unsure: int
    labels: int
    unknown_pictures: int  # answers about samples that the store does not have; kept, as they may come
    unknown_labels: tuple[str, ...]  # ids that no taxonomy of the store has; their answers are kept too
    future: int  # answers of a time to come, by a wrong clock: taken as given when they came in
    outdated: int  # answers that do not count, as something newer is known
    path: str
    new: bool  # False: the store had these answers already

    def lines(self) -> list[str]:
        """Return what a person should know."""
        values = f"{self.yes} yes, {self.no} no, {self.unsure} unsure"
        counts = f"answers: {self.answers}, of them {values}; labels: {self.labels}"
        lines = [counts if self.new else f"{counts}; the store has them already, and nothing changed"]
        if self.unknown_pictures:
            lines.append(f"about pictures that the store does not have (yet): {self.unknown_pictures} of them")
        if self.unknown_labels:
            lines.append(f"labels that no taxonomy in force has: {', '.join(self.unknown_labels)}")
        if self.future:
            lines.append(
                f"dated in the future, by a wrong clock, and counting as of this import: {self.future} of them"
            )
        if self.outdated:
            lines.append(outdated_line(self.outdated))
        return lines

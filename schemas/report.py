"""What a report of one tagging run says: the figures of its page, its artifact and `report --json`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from schemas.config import MAX_PIXELS, NAME
from schemas.manifest import QueueFacts
from schemas.record import Record
from schemas.sample import SampleStatus, ShardStatus

MAX_CHOSEN = 24  # labels shown with a histogram and pictures
HISTOGRAM_BINS = 40


class ReportRequest(Record):
    """What `report` is asked to do."""

    store: str
    run: str | None = Field(default=None, description="id, start of an id, or dataset; None: the newest complete run")
    labels: tuple[str, ...] | None = Field(
        default=None, min_length=1, max_length=MAX_CHOSEN, description="shown in full; None: a few of every kind"
    )
    per_label: int = Field(default=5, ge=0, le=50, description="pictures of each kind and label")
    max_pixels: int = Field(default=MAX_PIXELS, gt=0, description="larger pictures are not shown")


class RunFacts(Record):
    """What ran on what."""

    run_id: str
    dataset: str = Field(pattern=NAME)
    root: str
    patterns: tuple[str, ...]
    partial: bool
    model_id: str
    model: str  # as the user named it
    architecture: str
    encoder_id: str
    shown: bool  # whether the views show this model's scores
    scorer: str
    calibration: Literal["none", "fitted"]
    seen_labels: int  # that the model was trained on
    taxonomy: str
    taxonomy_digest: str
    withdrawn: str | None  # that the taxonomy is out of force, so no label is shown, and how it comes back
    scored_labels: int
    floor: float
    top_k: int
    max_pixels: int
    created_at: datetime
    asked_at: datetime
    finished_at: datetime | None  # None: not complete
    versions: dict[str, str]

    @property
    def complete(self) -> bool:
        """Whether every shard has its rows."""
        return self.finished_at is not None


class ShardTime(Record):
    """One shard, and how long it took."""

    shard: str
    samples: int
    seconds: float


class ShardTroubleFact(Record):
    """A shard that ends early."""

    shard: str
    status: ShardStatus
    error: str | None


class ShardFigures(Record):
    """The run's shards."""

    count: int
    before: int  # done before the run was asked for last
    members: dict[str, int]  # where the members of all tars went
    troubles: int
    examples: tuple[ShardTroubleFact, ...]
    slowest: tuple[ShardTime, ...]


class TimeFigures(Record):
    """Where the time went."""

    stages: dict[str, float]  # seconds, over all shards; decoding is the sum over its threads
    limit: str | None  # the stage that had the least idle time, in words; None: the reports do not tell
    queues: dict[str, QueueFacts]  # between two stages
    busy_seconds: float  # in which at least one shard was worked on
    decoded: int  # images; none where all embeddings were stored
    images_per_second: float | None


class FailureError(Record):
    """One message, numbers aside, and the first sample that has it."""

    error: str | None
    count: int
    shard: str
    key: str


class FailureFigures(Record):
    """The samples that failed in one way."""

    status: SampleStatus
    count: int
    messages: int  # different ones
    examples: tuple[FailureError, ...]  # the most frequent messages


class LabelFigures(Record):
    """What became of one label, with thresholds and merges as they hold now."""

    label_id: str
    name: str
    seen: bool  # whether the model was trained on it
    threshold: float
    source: str  # of the threshold
    kept: int  # scores that are stored
    tags: int
    mean_score: float | None  # of the tags
    best_score: float | None  # of all that is stored


class ScoreHistogram(Record):
    """The stored scores of a label in equal bins; of unfitted models their logits, as the scores may be saturated."""

    axis: Literal["score", "logit"]
    low: float
    high: float
    counts: tuple[int, ...]
    threshold: float | None  # on the axis; None: outside of what is stored
    all_tagged: bool = False  # whether every score is a tag


class ReportPicture(Record):
    """A picture that is an example of something."""

    dataset: str
    shard: str
    sample: int
    key: str
    sha256: str  # of its bytes
    score: float
    likeness: float | None = None  # cosine of its embedding and the mean of the label's tagged pictures


class ChosenLabel(Record):
    """A label shown in full. Each list starts with the picture that it is about most."""

    label_id: str
    histogram: ScoreHistogram
    above: tuple[ReportPicture, ...]  # tagged, nearest to the threshold
    below: tuple[ReportPicture, ...]  # not tagged, nearest to the threshold
    surest: tuple[ReportPicture, ...]
    surprising: tuple[ReportPicture, ...]  # of the surer half of the tags, the least like the label's pictures
    likeness: float | None  # the median of the label's pictures; None: too few are tagged, or not embedded


class Together(Record):
    """How many pictures have two labels both; on the diagonal, one."""

    label_ids: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class RunReport(Record):
    """Everything that a report says of a run."""

    run: RunFacts
    shards: ShardFigures
    time: TimeFigures
    samples: int
    statuses: dict[SampleStatus, int]
    shared_keys: int | None  # that stand in more than one shard; None while the run is not complete
    failures: tuple[FailureFigures, ...]
    labels: tuple[LabelFigures, ...]  # the most frequent first
    tags_per_picture: dict[int, int]  # number of tags -> pictures that have so many
    together: Together
    chosen: tuple[ChosenLabel, ...]

    @property
    def scored(self) -> int:
        """Pictures that have scores."""
        return self.statuses.get(SampleStatus.OK, 0)

    @property
    def failed(self) -> int:
        """Samples that have none."""
        return self.samples - self.scored

    @property
    def tags(self) -> int:
        """Tags of all labels."""
        return sum(label.tags for label in self.labels)

    @property
    def untagged(self) -> int:
        """Pictures that have scores and no tag."""
        return self.tags_per_picture.get(0, 0)

    def of_group(self, *, seen: bool) -> list[LabelFigures]:
        """Return the labels that the model was trained on, or the others."""
        return [label for label in self.labels if label.seen == seen]

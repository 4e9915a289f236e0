"""What a run writes about itself: the run record first, a report per shard, the manifest last.

`runs/<run_id>/run.json`               RunRecord, before any work: what was asked
`runs/<run_id>/reports/<shard>.json`   ShardReport, after the shard's parts: its presence means the shard is done
`runs/<run_id>/manifest.json`          RunManifest, last of all: its presence means the run is complete
`models/<model_id>/config.json`        ModelRecord of every model that ever scored something
`models/current.json`                  Promotion: which model the views show, since when, why
`taxonomies/current/<name>.json`       TaxonomyInForce: which version of a taxonomy the views apply
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from schemas.checkpoint import CheckpointRecord, Scorer
from schemas.record import Record
from schemas.sample import SampleStatus, ShardStatus
from schemas.taxonomy import ScoredLabel

# Threshold of every label until calibration gives it one of its own. Applied at query time only.
DEFAULT_THRESHOLD = 0.5

# How score parts are laid out. Records of the first layout, logit and score as they were, do not name it.
SCORE_LAYOUT = 2


class Fingerprint(Record):
    """What tells whether a file's bytes changed, without reading them: size, and the store's tag or time of change."""

    size: int
    tag: str


class Part(Record):
    """One Parquet file of a shard, relative to the store."""

    path: str
    rows: int
    bytes: int
    sha256: str


class ModelRecord(Record):
    """A model that scores: encoder, text encoder, head, and the map from logit to score.

    A zero-shot model is found again by its `name`. A trained one is a checkpoint: its weights stand beside its record
    in `models/<model_id>/`, and `checkpoint` says what they are.
    """

    model_id: str
    encoder_id: str
    text_encoder_id: str
    kind: Literal["clip", "decoder"] = "clip"
    scorers: tuple[Scorer, ...] = ("clip",)  # the first is used where none is asked for
    name: str  # how the user named it, e.g. bundled:scenes; a checkpoint: that of its base
    architecture: str
    image_size: tuple[int, int]  # height, width in pixels
    embedding_width: int
    context_length: int | None = None  # text tokens, where the text encoder counts them
    # score = sigmoid(slope * logit + intercept); the model's own temperature and bias where it has them. A checkpoint
    # has a map for each scorer and label instead, in its calibration.parquet.
    slope: float | None = None
    intercept: float | None = None
    calibration: Literal["none", "fitted"] = "none"  # "none": scores are a zero-shot prior, not probabilities
    seen_labels: tuple[str, ...] = ()  # in the order of the checkpoint's columns
    checkpoint: CheckpointRecord | None = None


class Promotion(Record):
    """The model whose scores the views show."""

    model_id: str
    since: datetime
    reason: str
    previous: str | None = None
    # Models that were promoted before, the oldest first; `rollback` takes the last of them.
    history: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()  # gates that had failed and were overridden by hand


class TaxonomyInForce(Record):
    """The version of a taxonomy whose names, merges and retirements the views apply: the one asked with last.

    If it is `withdrawn`, they apply none of this name: it names the version that was in force until then.
    """

    name: str
    digest: str
    since: datetime
    withdrawn: bool = False


class RunRecord(Record):
    """What a run is: everything that decides its results, and where its shards are.

    Written before any work, and again whenever the run is asked for: only `asked_at` and `taxonomy_digest` change.
    """

    run_id: str
    dataset: str
    root: str  # the shards' common folder; a shard's id is its path below it
    patterns: tuple[str, ...]
    # Of the shards that the patterns name it is about those alone that lacked its labels; the others have theirs from
    # other runs.
    partial: bool = False
    model_id: str
    encoder_id: str
    scorer: Scorer
    taxonomy_digest: str
    vocabulary: tuple[ScoredLabel, ...]
    floor: float
    top_k: int
    max_pixels: int
    calibration: Literal["none", "fitted"]
    created_at: datetime
    asked_at: datetime  # the run that was asked for last counts where several scored the same label
    versions: dict[str, str]
    layout: int = SCORE_LAYOUT


class QueueFacts(Record):
    """How full a queue between two stages was while a shard went by, and how long threads waited for it."""

    seconds: float  # since the shard before was done
    mean: float
    most: int
    waited_to_put: float  # seconds that the stage before it waited for room, all its threads together
    waited_to_get: float  # seconds that the stage behind it waited for something to do
    threads: int  # of the stage behind it


class ShardReport(Record):
    """One shard's marker and summary, written after its parts."""

    run_id: str
    shard: str
    url: str
    fingerprint: Fingerprint
    status: ShardStatus
    error: str | None = None
    statuses: dict[SampleStatus, int]  # rows by status; the sum is the number of image members
    members: dict[str, int]  # where every member of the tar went
    decoded: int  # images decoded; 0 where stored features were used
    lenient: int = 0  # of these, JPEGs that the strict decoder refused and Pillow read
    parts: dict[str, Part]
    seconds: dict[str, float]  # by stage, spent on this shard; `decode` is the sum over its threads
    # What stood between reading and decoding (`files`, in handfuls of up to eight), between decoding and the device
    # (`pictures`), and between the device and writing (`writes`). Empty in reports of earlier versions.
    queues: dict[str, QueueFacts] = Field(default_factory=dict)
    started_at: datetime
    finished_at: datetime

    @property
    def num_samples(self) -> int:
        """Rows, failures included."""
        return sum(self.statuses.values())

    @property
    def num_ok(self) -> int:
        """Rows that are `ok`."""
        return self.statuses.get(SampleStatus.OK, 0)

    @property
    def num_failed(self) -> int:
        """Rows that are not `ok`."""
        return self.num_samples - self.num_ok


class ShardFacts(Record):
    """What reading a shard found, apart from its rows: kept beside stored features, so that they can stand for it."""

    fingerprint: Fingerprint
    status: ShardStatus
    error: str | None
    members: dict[str, int]
    max_pixels: int


class RunManifest(Record):
    """The run's marker, written last of all. Present means that every shard has its rows.

    It repeats every shard's report, so that a catalog reads one file and not one per shard.
    """

    run_id: str
    shards: tuple[ShardReport, ...]
    statuses: dict[SampleStatus, int]
    seconds: dict[str, float]
    shared_keys: int  # keys that stand in more than one shard
    finished_at: datetime

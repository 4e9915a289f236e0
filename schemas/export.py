"""What `export` is asked to do, and what it says about what it wrote.

`export.json`     ExportRecord, before any work: what was asked, and what it comes to
`00000.parquet`   one row per sample, beside each shard and after it: its presence means that the shard is whole
`manifest.json`   ExportManifest, last of all
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.counts import counted
from schemas.manifest import Fingerprint
from schemas.record import Record

Format = Literal["webdataset", "csv", "parquet", "coco", "labelstudio", "fiftyone"]

# Under this key the tags stand in a sample's `.json`.
TAGS_KEY = "clipdecoder"
_NAMED = 5  # of what is missing, by shard and reason; the manifest has all


class ExportRequest(BaseModel):
    """What `export` is asked to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    sql: str = Field(description="yields key, and shard and dataset where keys repeat")
    to: str = Field(description="shards: a pattern like out/{:05d}.tar; labels alone: a file")
    format: Format = "webdataset"
    model: str | None = Field(default=None, description="whose tags; None: the promoted model's")
    run: str | None = Field(default=None, description="this run's samples and tags alone, which has its own model")
    samples_per_shard: int = Field(default=1000, ge=1)
    pictures: bool = Field(default=False, description="copy the pictures beside a file of labels; shards have theirs")


class ExportLabel(Record):
    """An active label of the exported datasets, and from which score on it is a tag."""

    label_id: str
    name: str
    parent: str | None
    scorer: str
    threshold: float
    source: str  # of the threshold, as in the view `thresholds`


class SourceShard(Record):
    """A shard that samples are copied from."""

    dataset: str
    shard: str
    url: str
    fingerprint: Fingerprint
    samples: int  # chosen ones


class ExportRecord(Record):
    """What an export is: everything that decides its bytes."""

    query: str
    model_id: str | None  # None: the store shows no scores, and so no tags
    run_id: str | None = None  # the only run whose samples and tags it has, where one was asked for
    taxonomy_digests: dict[str, tuple[str, ...]]  # by dataset
    labels: tuple[ExportLabel, ...]
    samples_per_shard: int
    samples: int
    renamed: int  # samples whose key another chosen one has too, and that have a longer one here
    digest: str  # of the chosen samples, their keys and their tags
    sources: tuple[SourceShard, ...]


class ExportedShard(Record):
    """One shard as it was written."""

    name: str
    samples: int
    tags: int
    bytes: int
    untagged: tuple[str, ...]  # keys whose .json is no JSON object: it is as it was, and the index has the tags


class MissingSamples(Record):
    """Samples of one source shard that could not be copied, and why."""

    dataset: str
    shard: str
    reason: str
    keys: tuple[str, ...]  # as in the source


class ExportManifest(Record):
    """What was written, last of all."""

    record: ExportRecord
    shards: tuple[ExportedShard, ...]
    missing: tuple[MissingSamples, ...]


class ExportSummary(Record):
    """What an export came to."""

    format: Format
    to: str
    model_id: str | None
    samples: int  # written, or kept from before
    tags: int
    files: tuple[str, ...]  # shards, or the files of labels
    pictures: str | None = None  # URL of the folder with copied pictures
    manifest: str | None  # URL; labels alone have none
    kept: int  # shards that were whole already
    renamed: int
    untagged: int
    missing: tuple[MissingSamples, ...]

    @property
    def ok(self) -> bool:
        """Whether every chosen sample was exported."""
        return not self.missing

    def lines(self) -> list[str]:
        """Return what a person should know."""
        model = f"by model {self.model_id}" if self.model_id else "as the store shows no scores"
        last = f" to {self.files[-1]}" if len(self.files) > 1 else ""
        lines = [
            f"samples: {self.samples}, tags: {self.tags}, {model}",
            f"files: {len(self.files)}" + (f" ({self.files[0]}{last})" if self.files else ""),
            *([f"pictures: {self.pictures}"] if self.pictures else []),
            *([f"manifest: {self.manifest}"] if self.manifest else []),
        ]
        if self.kept:
            lines.append(f"whole already, and kept: {counted(self.kept, 'shard')}")
        if self.renamed:
            lines.append(
                f"{counted(self.renamed, 'sample', 'have')} a key that another one has too: here it begins with "
                "the shard"
            )
        if self.untagged:
            lines.append(
                f"{counted(self.untagged, 'sample', 'have')} a .json that is no object: it is as it was, the "
                "index has the tags"
            )
        return lines + self._missing_lines()

    def _missing_lines(self) -> list[str]:
        if self.ok:
            return []
        total = sum(len(each.keys) for each in self.missing)
        more = len(self.missing) - _NAMED
        return [
            f"samples not exported: {total}; mend what is wrong, and the same command writes them",
            *(
                f"  {each.dataset}/{each.shard}: {len(each.keys)}, such as {each.keys[0]}: {each.reason}"
                for each in self.missing[:_NAMED]
            ),
            *([f"  and of {more} more shards or reasons; the manifest has all keys"] if more > 0 else []),
        ]

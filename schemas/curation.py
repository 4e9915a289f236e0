"""What `quality` and `duplicates` are asked, and what they come to."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from schemas.commands import store_command
from schemas.config import MAX_PIXELS, NAME
from schemas.counts import counted
from schemas.record import Record

SAME_PICTURE = 4  # bits of 64 in which perceptual hashes of copies of a picture differ at most
BLURRED, DARK, BRIGHT = 100, 0.1, 0.9  # where to begin to look, by sharpness and brightness
_NAMED = 5  # shards that a summary names
_LOOK = "select dataset, shard, key, sharpness, brightness from quality order by sharpness"
_NO_COPIES = (
    "select dataset, shard, key from quality anti join (from duplicates where not representative) "
    "using (dataset, shard, sample)"
)


class QualityRequest(BaseModel):
    """What `quality` is asked to do: measure the pictures of all tagged shards, or of one dataset's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    dataset: str | None = Field(default=None, pattern=NAME, description="None: all datasets")
    max_pixels: int = Field(default=MAX_PIXELS, gt=0, description="larger pictures are not measured")
    decode_threads: int = Field(default=0, ge=0, description="0: one per core")


class DuplicatesRequest(BaseModel):
    """What `duplicates` is asked to do: find groups of samples that are nearly the same, over all datasets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    model: str | None = Field(default=None, description="whose embeddings; None: those of the model that is shown")
    min_cosine: float = Field(default=0.95, ge=0.5, le=1, description="of two embeddings that are near")
    max_phash: int | None = Field(
        default=None, ge=0, le=16, description="bits in which hashes of one picture differ; None: hashes join nothing"
    )


class ShardFailure(Record):
    """A shard that could not be measured."""

    dataset: str
    shard: str
    reason: str


class QualityOverview(Record):
    """What the view `quality` says of the pictures that were asked about."""

    pictures: int  # that are `ok`
    measured: int
    blurred: int
    dark: int
    bright: int
    flat: int  # of one colour: they have no perceptual hash


class QualitySummary(Record):
    """What measuring came to."""

    shards: int  # measured now
    kept: int  # shards that were measured before
    pictures: int  # measured now
    refused: int  # pictures that could not be measured
    damaged: int  # files of statistics that could not be read, of all datasets, and were removed
    failures: tuple[ShardFailure, ...]
    overview: QualityOverview

    @property
    def ok(self) -> bool:
        """Whether every shard could be read."""
        return not self.failures

    def lines(self) -> list[str]:
        """Return what a person should know."""
        seen = self.overview
        lines = [
            f"measured: {counted(self.pictures, 'picture')} in {counted(self.shards, 'shard')}"
            + (f"; {self.refused} could not be decoded" if self.refused else "")
            + (f"; {counted(self.kept, 'shard', 'were')} measured before" if self.kept else ""),
            f"of {counted(seen.measured, 'measured picture')} (of {seen.pictures:,} ok): perhaps blurred "
            f"{seen.blurred:,} (sharpness below {BLURRED}), dark {seen.dark:,} (brightness below {DARK}), "
            f"bright {seen.bright:,} (above {BRIGHT}), of one colour {seen.flat:,}",
            *([f"could not be read, and removed: {counted(self.damaged, 'file')} of statistics"] * bool(self.damaged)),
            f"look: {store_command('sql', _LOOK)}",
        ]
        for failure in self.failures[:_NAMED]:
            lines.append(f"not measured: {failure.dataset}/{failure.shard}: {failure.reason}")
        if len(self.failures) > _NAMED:
            lines.append(f"and {len(self.failures) - _NAMED} more shards; --json names all")
        return lines


class DuplicatesFacts(Record):
    """What groups are computed of: equal facts, equal groups."""

    encoder_id: str
    min_cosine: float
    max_phash: int | None
    samples: int
    digest: str  # of shards, their bytes, and which of them had embeddings and hashes


class DuplicatesRecord(Record):
    """What is kept beside groups."""

    facts: DuplicatesFacts
    embedded: int  # samples that have an embedding of the encoder
    hashed: int  # samples that have a perceptual hash
    unreadable: tuple[str, ...]  # what went wrong with embeddings that are there


class DuplicatesSummary(Record):
    """What looking for duplicates came to."""

    model_id: str
    record: DuplicatesRecord
    computed: bool  # False: what is there is of the same samples
    groups: int
    across_datasets: int  # groups with samples of several datasets
    members: dict[str, int]  # samples that are not their group's representative, by reason

    @property
    def ok(self) -> bool:
        """Whether all embeddings that are there could be read."""
        return not self.record.unreadable

    def lines(self) -> list[str]:
        """Return what a person should know."""
        facts, spare = self.record.facts, sum(self.members.values())
        by_reason = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.members.items()))
        phash = "" if facts.max_phash is None else f" or hashes at most {facts.max_phash} bits apart"
        lines = [
            f"copies of another one: {spare:,} of {counted(facts.samples, 'sample')}"
            + (
                f" ({by_reason}), in {counted(self.groups, 'group')}, {self.across_datasets:,} of them across datasets"
                * bool(spare)
            ),
            f"alike: same bytes, cosine of at least {facts.min_cosine:g} to the group's representative{phash}"
            + ("" if self.computed else "; nothing has changed since this was computed"),
        ]
        lacking = facts.samples - self.record.embedded
        if lacking:
            lines.append(
                f"{counted(lacking, 'sample', 'have')} no embedding by the encoder of model {self.model_id}; "
                f"`{store_command('backfill', '--model', self.model_id)}` makes them"
            )
        unhashed = facts.samples - self.record.hashed
        if facts.max_phash is not None and unhashed:
            lines.append(
                f"{counted(unhashed, 'sample', 'have')} no perceptual hash: `{store_command('quality')}` makes them, "
                "but for pictures of one colour"
            )
        lines += [f"left out: {reason}" for reason in self.record.unreadable]
        lines.append(f"without copies: {store_command('export', '--to', 'subset/{:05d}.tar', '--sql', _NO_COPIES)}")
        return lines

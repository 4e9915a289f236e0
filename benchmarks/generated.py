"""Made-up rows and runs for stores that are too large to be tagged for a measurement, and what a store would know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from schemas.manifest import Fingerprint, ModelRecord, Part, RunManifest, RunRecord, ShardReport
from schemas.sample import SampleRow, SampleStatus, ShardStatus
from schemas.taxonomy import Label, Taxonomy
from storage.files import Folder, checksum
from storage.guesses import Expected, expected_of
from storage.models import promote, write_model
from storage.runs import write_manifest, write_record, write_report
from storage.taxonomies import write_taxonomy

DATASET, RUN = "generated", "generated-0"


def begin_run(folder: Folder, model: ModelRecord, label_ids: Sequence[str], now: datetime, run_id: str = RUN) -> None:
    """Write all that stands before the shards of a run of shards that exist nowhere."""
    taxonomy = Taxonomy(name=DATASET, labels=tuple(Label(id=label, name=label) for label in label_ids))
    record = RunRecord(
        run_id=run_id,
        dataset=DATASET,
        root=f"file:///{DATASET}",
        patterns=(f"file:///{DATASET}/*.tar",),
        model_id=model.model_id,
        encoder_id=model.encoder_id,
        scorer="clip",
        taxonomy_digest=taxonomy.digest,
        vocabulary=tuple(label.scored() for label in taxonomy.vocabulary()),
        floor=0.01,
        top_k=20,
        max_pixels=1,
        calibration="none",
        created_at=now,
        asked_at=now,
        versions={},
    )
    write_model(folder, model)
    write_taxonomy(folder, taxonomy)
    write_record(folder, record)


def end_run(
    folder: Folder, model: ModelRecord, reports: Sequence[ShardReport], now: datetime, run_id: str = RUN
) -> None:
    """Write what makes the run complete, and show its model."""
    manifest = RunManifest(
        run_id=run_id, shards=tuple(reports), statuses={}, seconds={}, shared_keys=0, finished_at=now
    )
    write_manifest(folder, manifest)
    promote(folder, model.model_id, "the newest")


def end_shard(
    folder: Folder, shard: str, count: int, parts: Mapping[str, Part], now: datetime, run_id: str = RUN
) -> ShardReport:
    """Write and return the report of a shard whose pictures are all good."""
    report = ShardReport(
        run_id=run_id,
        shard=shard,
        url=f"file:///generated/{shard}.tar",
        fingerprint=Fingerprint(size=1, tag=shard),
        status=ShardStatus.OK,
        statuses={SampleStatus.OK: count},
        members={"images": count},
        decoded=count,
        parts=dict(parts),
        seconds={},
        started_at=now,
        finished_at=now,
    )
    write_report(folder, report)
    return report


def sample_row(shard: str, sample: int) -> SampleRow:
    """Return the row of a picture that was never made: of usual size, and with content of its own."""
    return SampleRow(
        key=f"pictures/{shard}-{sample:06d}",
        shard=shard,
        sample=sample,
        status=SampleStatus.OK,
        error=None,
        width=640,
        height=480,
        bytes=50_000 + sample,
        sha256=f"{int(shard):032x}{sample:032x}",
    )


def expected_picture(pictures: Sequence[bytes], sample: int) -> Expected:
    """Return what a store knows of one of a shard's pictures, without the store that is asked for it."""
    return expected_of([len(data) for data in pictures], [checksum(data) for data in pictures], [sample])[sample]

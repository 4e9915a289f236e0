"""Stores with exactly the rows that a test wants, written by the product's own writers, without any model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from schemas.manifest import Fingerprint, ModelRecord, RunManifest, RunRecord, ShardReport
from schemas.sample import SampleRow, SampleStatus, ShardStatus
from schemas.taxonomy import Label, Taxonomy
from storage.files import Folder
from storage.models import promote, write_model
from storage.parts import ShardFeatures, write_samples
from storage.runs import StoredRun, part_path, reopen_run, write_manifest, write_record, write_report
from storage.score_parts import ScoreColumns, write_scores
from storage.taxonomies import write_taxonomy
from storage.tokens import TokenChunk, TokenWriter

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
OK = SampleStatus.OK
FIRST = Fingerprint(size=1, tag="first")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What one run found in one shard."""

    scores: Mapping[str, Sequence[float | None]] = field(
        default_factory=dict
    )  # label -> score by sample; None: not kept
    statuses: Sequence[SampleStatus] = (OK, OK, OK)
    keys: Sequence[str] | None = None
    contents: Sequence[str] | None = None  # what stands for the checksum of each sample's bytes; None: all alike
    sizes: Sequence[int] | None = None  # bytes of each sample; None: 9
    fingerprint: Fingerprint = FIRST
    url: str = "file:///nowhere/{shard}.tar"
    status: ShardStatus = ShardStatus.OK


def make_taxonomy(*labels: Label | str, name: str = "street") -> Taxonomy:
    """Return a taxonomy of these labels; a text is a label whose name is its id, in capitals."""
    full = (Label(id=label, name=label.upper()) if isinstance(label, str) else label for label in labels)
    return Taxonomy(name=name, labels=tuple(full))


def make_model(folder: Folder, model_id: str = "m1", *, seen: Sequence[str] = (), promoted: bool = True) -> ModelRecord:
    """Write a model's record and promote it."""
    record = ModelRecord(
        model_id=model_id,
        encoder_id="e1",
        text_encoder_id="t1",
        name="bundled:scenes",
        architecture="tiny",
        image_size=(64, 64),
        embedding_width=8,
        context_length=16,
        slope=1.0,
        intercept=0.0,
        seen_labels=tuple(seen),
    )
    write_model(folder, record)
    if promoted:
        promote(folder, model_id, "test")
    return record


def make_run(
    folder: Folder,
    run_id: str,
    taxonomy: Taxonomy,
    shards: Mapping[str, Shard],
    *,
    hours: float = 0,
    labels: Sequence[str] | None = None,
    complete: bool = True,
    **record: object,
) -> StoredRun:
    """Write a whole run that ended `hours` after noon; `record` are fields of the run record."""
    at = NOON + timedelta(hours=hours)
    values = {
        "dataset": "street",
        "root": "file:///nowhere",
        "patterns": ("file:///nowhere/*.tar",),
        "model_id": "m1",
        "encoder_id": "e1",
        "scorer": "clip",
        "taxonomy_digest": taxonomy.digest,
        "vocabulary": tuple(label.scored() for label in taxonomy.vocabulary(labels)),
        "floor": 0.01,
        "top_k": 0,
        "max_pixels": 1000,
        "calibration": "none",
        "created_at": at,
        "asked_at": at,
        "versions": {},
    }
    run = RunRecord.model_validate({"run_id": run_id} | values | record)
    write_taxonomy(folder, taxonomy)
    write_record(folder, run)
    reopen_run(folder, run_id)  # as it is before any work is done for a run that was complete
    reports = tuple(_write_shard(folder, run, name, shard, at) for name, shard in shards.items())
    manifest = RunManifest(run_id=run_id, shards=reports, statuses={}, seconds={}, shared_keys=0, finished_at=at)
    if complete:
        write_manifest(folder, manifest)
    return StoredRun(record=run, reports=reports, manifest=manifest if complete else None)


def _write_shard(folder: Folder, run: RunRecord, name: str, shard: Shard, at: datetime) -> ShardReport:
    contents = shard.contents or ["ab"] * len(shard.statuses)
    keys = shard.keys or [f"{name}/{sample}.é x" for sample in range(len(shard.statuses))]
    sizes = shard.sizes or [9] * len(shard.statuses)
    rows = [
        SampleRow(
            key=key, shard=name, sample=sample, status=status, error=None, width=4, height=3, bytes=size, sha256=content
        )
        for sample, (key, status, content, size) in enumerate(zip(keys, shard.statuses, contents, sizes, strict=True))
    ]
    parts = {
        "samples": write_samples(folder, part_path(run.run_id, "samples", name), rows),
        "scores": write_scores(folder, part_path(run.run_id, "scores", name), name, _columns(shard)),
    }
    report = ShardReport(
        run_id=run.run_id,
        shard=name,
        url=shard.url.format(shard=name),
        fingerprint=shard.fingerprint,
        status=shard.status,
        statuses=dict(Counter(shard.statuses)),
        members={"images": len(rows)},
        decoded=len(rows),
        parts=parts,
        seconds={},
        started_at=at,
        finished_at=at,
    )
    write_report(folder, report)
    return report


def _columns(shard: Shard) -> ScoreColumns:
    label_ids = sorted(shard.scores)
    cells = [
        (label, sample, score)
        for label, label_id in enumerate(label_ids)
        for sample, score in enumerate(shard.scores[label_id])
        if score is not None
    ]
    scores = [score for _, _, score in cells]
    return ScoreColumns(
        sample=np.array([sample for _, sample, _ in cells], np.int32),
        label=np.array([label for label, _, _ in cells], np.int32),
        logit=np.array([math.log(score / (1 - score)) for score in scores], np.float32),
        label_ids=label_ids,
        slope=np.ones(len(label_ids)),
        intercept=np.zeros(len(label_ids)),
    )


def keep_tokens(folder: Folder, path: str, features: ShardFeatures) -> int:
    """Write the patch tokens that features hold; return the size of the file."""
    assert features.tokens_NTC is not None
    _, num_tokens, token_width = features.tokens_NTC.shape
    writer = TokenWriter(folder, path, num_tokens, token_width)
    writer.add(TokenChunk(features.ok_samples, features.tokens_NTC))
    return writer.finish(features.facts)

"""The store that `benchmarks.browse` looks at: two runs of two models over shards that exist nowhere."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context

import numpy as np

from benchmarks.generated import begin_run, end_run, end_shard, sample_row
from schemas.manifest import ModelRecord, ShardReport
from storage.files import Folder
from storage.parts import write_samples
from storage.runs import part_path
from storage.score_parts import ScoreColumns, write_scores

RUNS = ("generated-0", "generated-1")
LABELS = tuple(f"label-{number:03d}" for number in range(100))
KEPT = 20  # scores of each sample
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make_store(folder: Folder, shards: int, rows: int) -> None:
    """Write samples and scores of shards that exist nowhere: a run of all, and one of another model."""
    for place, run_id in reversed(tuple(enumerate(RUNS))):  # the last to end is the one shown
        model = _model(f"model-{place}")
        begin_run(folder, model, LABELS, NOW, run_id)
        # Spawned: a fork of a process that has threads (of Arrow, DuckDB, a server) crashes now and then.
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            work = [(folder.url, run_id, f"{number:05d}", rows, number + 1000 * place) for number in range(shards)]
            reports = tuple(pool.map(_make_shard, work))
        end_run(folder, model, reports, NOW, run_id)


def _model(model_id: str) -> ModelRecord:
    return ModelRecord(
        model_id=model_id,
        encoder_id="generated",
        text_encoder_id="generated",
        name=f"bundled:{model_id}",
        architecture="none",
        image_size=(224, 224),
        embedding_width=8,
        slope=10.0,
        intercept=0.0,
        seen_labels=LABELS[:50],
    )


def _make_shard(work: tuple[str, str, str, int, int]) -> ShardReport:
    url, run_id, shard, count, seed = work
    folder = Folder(url)
    rows = tuple(sample_row(shard, sample) for sample in range(count))
    parts = {
        "samples": write_samples(folder, part_path(run_id, "samples", shard), rows),
        "scores": write_scores(folder, part_path(run_id, "scores", shard), shard, _scores(count, seed)),
    }
    return end_shard(folder, shard, count, parts, NOW, run_id)


def _scores(count: int, seed: int) -> ScoreColumns:
    """Return `KEPT` scores for each sample, of labels that are drawn by lot, most of them low."""
    random = np.random.default_rng(seed)
    labels = random.permuted(np.tile(np.arange(len(LABELS), dtype=np.int32), (count, 1)), axis=1)[:, :KEPT].ravel()
    samples = np.repeat(np.arange(count, dtype=np.int32), KEPT)
    order = np.lexsort((samples, labels))
    scores = random.beta(0.6, 2.5, size=count * KEPT).astype(np.float32).clip(0.01, 0.999)
    return ScoreColumns(
        sample=samples[order],
        label=labels[order],
        logit=np.log(scores / (1 - scores)),
        label_ids=LABELS,
        slope=np.ones(len(LABELS)),
        intercept=np.zeros(len(LABELS)),
    )

"""The parts of a tagging run, each to be run alone, and the whole, over the same shards.

Shapes: B batch, N samples, D embedding width, H W pixels, C channels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.generated import sample_row
from clipdecoder.encoders.feeding import Feeder
from clipdecoder.encoders.transforms import ImageTransform
from clipdecoder.pipes import Crew
from clipdecoder.scoring.tagger import BatchTagger
from examples.scenes.render import LABELS, taxonomy_yaml
from flows.tagging.outcomes import RunOutcome
from flows.tagging.plan import plan_tag
from flows.tagging.run import run_tag_here
from schemas.config import MAX_PIXELS, TagRequest, tag_request
from schemas.manifest import Fingerprint, ShardFacts
from schemas.sample import MemberCounts, SampleRow, ShardStatus
from storage.files import Folder
from storage.parts import ShardFeatures, write_features, write_samples
from storage.score_parts import ScoreColumns, write_scores
from storage.shards import iter_samples
from storage.vectors import vectors_of

LABEL_IDS = [label.id for label in LABELS[:32]]
LABELS_KEPT = 20  # of each image: what a run keeps by default where few are above the floor


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is tagged: shards, for some labels of the scenes, with a model on a device."""

    shards: Sequence[Path]
    model: str
    batch_size: int | None = None  # None: the product's default
    device: str = "cpu"
    decode_threads: int = 0  # one per core

    def request(self, store: Path) -> TagRequest:
        """Return the request, with its taxonomy beside the store."""
        taxonomy = store.with_name("taxonomy.yaml")
        taxonomy.write_text(taxonomy_yaml(LABEL_IDS))
        given = {} if self.batch_size is None else {"batch_size": self.batch_size}
        return tag_request(
            shards=tuple(str(shard) for shard in self.shards),
            taxonomy=str(taxonomy),
            store=str(store),
            model=self.model,
            device=self.device,
            decode_threads=self.decode_threads,
            name="photos",
            **given,
        )


def tag(request: TagRequest) -> RunOutcome:
    """Run the whole thing, without an orchestrator."""
    outcome = run_tag_here(plan_tag(request))
    assert outcome.whole
    return outcome


def read(shards: Sequence[Path]) -> Iterator[bytes]:
    """Yield every picture's bytes."""
    for shard in shards:
        for sample in iter_samples(str(shard), MemberCounts()):
            yield sample.data


def decode(pictures: Sequence[bytes], transform: ImageTransform) -> NDArray[np.uint8]:
    """Return pixels_NHWC of pictures in memory, made in threads."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = pool.map(lambda data: transform.read(data, max_pixels=MAX_PIXELS).pixels_HWC, pictures)
        return np.stack(list(found))


def feed(shards: Sequence[Path], transform: ImageTransform, batch_size: int, *, threads: int = 0) -> int:
    """Read, hash, decode and batch everything, for nobody; return how many pictures came through."""
    source = ((None, data) for data in read(shards))
    with Crew() as crew:
        feeder: Feeder[None, None] = Feeder(
            crew, source, transform, batch_size=batch_size, threads=threads, max_pixels=MAX_PIXELS
        )
        fed = 0
        for batch in feeder.batches():
            fed += batch.count
            feeder.free(batch)
    return fed


def stored_embeddings(store: Path) -> dict[str, NDArray[np.float16]]:
    """Return the embeddings of a store by key, shard after shard."""
    found: dict[str, NDArray[np.float16]] = {}
    for path in sorted((store / "features").rglob("*.parquet")):
        table = pq.read_table(path, columns=["key", "embedding"])
        found |= zip(table["key"].to_pylist(), vectors_of(table["embedding"].combine_chunks())[0], strict=True)
    return found


def compute(pixels_NHWC: NDArray[np.uint8], tagger: BatchTagger, batch_size: int) -> None:
    """Run model and head over pixels in memory, two batches started, as a run does."""
    started = []
    for start in range(0, len(pixels_NHWC), batch_size):
        pixels_BHWC = pixels_NHWC[start : start + batch_size]
        started.append(tagger.start(pixels_BHWC, len(pixels_BHWC)))
        if len(started) > 1:
            started.pop(0).finish()
    for batch in started:
        batch.finish()


@dataclass(frozen=True)
class MadeUp:
    """What a run would write of one shard, made up."""

    features: ShardFeatures
    scores: ScoreColumns

    @classmethod
    def of(cls, num_samples: int, width: int, label_ids: Sequence[str]) -> MadeUp:
        """Return random unit vectors, and random scores of some labels of each sample, sorted by label."""
        random = np.random.default_rng(0)
        embeddings_ND = random.normal(size=(num_samples, width)).astype(np.float32)
        embeddings_ND /= np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
        facts = ShardFacts(
            fingerprint=Fingerprint(size=1, tag="made-up"),
            status=ShardStatus.OK,
            error=None,
            members={"images": num_samples},
            max_pixels=MAX_PIXELS,
        )
        rows: tuple[SampleRow, ...] = tuple(sample_row("0", sample) for sample in range(num_samples))
        features = ShardFeatures(facts=facts, rows=rows, embeddings_ND=embeddings_ND.astype(np.float16))
        label = random.random((num_samples, len(label_ids))).argsort(axis=1)[:, :LABELS_KEPT].reshape(-1)
        sample = np.arange(num_samples).repeat(LABELS_KEPT)
        order = np.lexsort((sample, label))
        logit = random.uniform(0.1, 0.4, len(label)).astype(np.float32)
        scores = ScoreColumns(
            sample=sample[order].astype(np.int32),
            label=label[order].astype(np.int32),
            logit=logit,
            label_ids=label_ids,
            slope=np.full(len(label_ids), 100.0),
            intercept=np.full(len(label_ids), -25.0),
        )
        return cls(features, scores)


def sink(store: Path, made_up: Sequence[MadeUp]) -> None:
    """Write what a run writes of shards whose results are made up."""
    folder = Folder(str(store))
    for number, shard in enumerate(made_up):
        write_samples(folder, f"samples/{number}.parquet", shard.features.rows)
        write_features(folder, f"features/{number}.parquet", shard.features)
        write_scores(folder, f"scores/{number}.parquet", str(number), shard.scores)

"""The store that `benchmarks.backfill` grows: tagged shards with random unit vectors for embeddings, and no tars."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.generated import sample_row
from clipdecoder.encoders.model import load_model
from flows.tagging.plan import TagPlan, run_record
from flows.tagging.run import run_tag_here
from schemas.config import TagRequest
from schemas.manifest import Fingerprint, ModelRecord, ShardFacts
from schemas.sample import ShardStatus
from schemas.taxonomy import Label, Taxonomy
from storage.files import Folder
from storage.models import promote
from storage.parts import ShardFeatures, features_path, write_features
from storage.patterns import ShardList, ShardRef

LABELS = 300
FLOOR = 1.0  # random vectors are near every label: keep the 20 best of each image, as of real ones about as many are
ROOT = "file:///generated"


@dataclass(frozen=True)
class Generated:
    """A store with tagged shards that exist nowhere else."""

    folder: Folder
    model: ModelRecord
    shards: int
    images_per_shard: int

    @property
    def images(self) -> int:
        """How many samples it has."""
        return self.shards * self.images_per_shard


def make_labels(first: int, count: int) -> tuple[Label, ...]:
    """Return labels of numbers that no other has."""
    return tuple(Label(id=f"label-{number}", name=f"label {number}") for number in range(first, first + count))


def make_store(place: Path, shards: int, images_per_shard: int, model: str) -> Generated:
    """Write features of all shards, and score them as tagging does."""
    generated = Generated(Folder(str(place)), load_model(model, device="cpu").record, shards, images_per_shard)
    random = np.random.default_rng(0)
    refs = tuple(_make_shard(generated, number, random) for number in range(shards))
    taxonomy = Taxonomy(name="generated", labels=make_labels(0, LABELS))
    request = TagRequest(
        shards=(f"{ROOT}/*.tar",), taxonomy="generated", store=str(place), name="generated", floor=FLOOR
    )
    found = ShardList(root=ROOT, patterns=request.shards, shards=refs)
    record = run_record(request, "generated", found, generated.model, "clip", taxonomy, taxonomy.vocabulary())
    run_tag_here(
        TagPlan(
            request=request,
            record=record,
            taxonomy=taxonomy,
            vocabulary=taxonomy.vocabulary(),
            model=generated.model,
            shards=refs,
        )
    )
    promote(generated.folder, generated.model.model_id, "the only one")
    return generated


def _make_shard(generated: Generated, number: int, random: np.random.Generator) -> ShardRef:
    shard, width = f"{number:05d}", generated.model.embedding_width
    fingerprint = Fingerprint(size=1, tag=shard)
    embeddings = random.normal(size=(generated.images_per_shard, width))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    rows = tuple(sample_row(shard, sample) for sample in range(generated.images_per_shard))
    facts = ShardFacts(
        fingerprint=fingerprint,
        status=ShardStatus.OK,
        error=None,
        members={"images": generated.images_per_shard},
        max_pixels=TagRequest.model_fields["max_pixels"].default,
    )
    features = ShardFeatures(facts=facts, rows=rows, embeddings_ND=embeddings.astype(np.float16))
    write_features(generated.folder, features_path(generated.model.encoder_id, "generated", shard), features)
    return ShardRef(shard=shard, url=f"{ROOT}/{shard}.tar", fingerprint=fingerprint)

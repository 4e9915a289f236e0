"""What a change of the taxonomy costs: views over 100,000 stored samples, and new labels from stored embeddings.

    python -m benchmarks.backfill [--shards 100] [--write benchmarks/results/NAME.md]

The store is generated: shards of 1,000 samples with random unit vectors for embeddings, and no tar behind them, so
whatever touches a shard fails. Tagging from pixels is measured on rendered pictures in the same rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.generated import sample_row
from benchmarks.machine import describe
from benchmarks.rounds import Times, alternate, seconds
from clipdecoder.encoders.model import load_model
from examples.scenes.render import iter_scenes
from flows.apply import ApplySteps, plan_apply, run_apply
from flows.backfill import plan_backfill, run_backfill
from flows.plan import TagPlan, plan_tag, run_record
from flows.run import run_tag_here
from schemas.config import ApplyRequest, BackfillRequest, TagRequest
from schemas.manifest import Fingerprint, ModelRecord, ShardFacts
from schemas.sample import ShardStatus
from schemas.taxonomy import Label, Taxonomy
from storage.catalog import open_catalog
from storage.files import Folder
from storage.models import promote
from storage.pack import pack
from storage.parts import ShardFeatures, features_path, write_features
from storage.patterns import ShardList, ShardRef
from storage.query import run_query
from storage.taxonomies import put_in_force, write_taxonomy

ROUNDS = 5
IMAGES_PER_SHARD = 1000
LABELS = 300
CHANGED = 100
NEW = 10
PICTURES = 2000
FLOOR = 1.0  # random vectors are near every label: keep the 20 best of each image, as of real ones about as many are
ROOT = "file:///generated"


@dataclass(frozen=True)
class Generated:
    """A store with tagged shards that exist nowhere else."""

    folder: Folder
    model: ModelRecord
    shards: int

    @property
    def images(self) -> int:
        return self.shards * IMAGES_PER_SHARD


def make_labels(first: int, count: int) -> tuple[Label, ...]:
    """Return labels of numbers that no other has."""
    return tuple(Label(id=f"label-{number}", name=f"label {number}") for number in range(first, first + count))


def make_store(place: Path, shards: int) -> Generated:
    """Write features of all shards, and score them as tagging does."""
    generated = Generated(Folder(str(place)), load_model("bundled:scenes", device="cpu").record, shards)
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
    embeddings = random.normal(size=(IMAGES_PER_SHARD, width))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    rows = tuple(sample_row(shard, sample) for sample in range(IMAGES_PER_SHARD))
    facts = ShardFacts(
        fingerprint=fingerprint,
        status=ShardStatus.OK,
        error=None,
        members={"images": IMAGES_PER_SHARD},
        max_pixels=TagRequest.model_fields["max_pixels"].default,
    )
    features = ShardFeatures(facts=facts, rows=rows, embeddings_ND=embeddings.astype(np.float16))
    write_features(generated.folder, features_path(generated.model.encoder_id, "generated", shard), features)
    return ShardRef(shard=shard, url=f"{ROOT}/{shard}.tar", fingerprint=fingerprint)


class Versions:
    """The taxonomy of the generated store, growing by ten labels a round."""

    def __init__(self, generated: Generated) -> None:
        self.generated = generated
        self.labels = make_labels(0, LABELS)

    def grow(self) -> None:
        """Put a version with more labels in force; not timed."""
        self.labels += make_labels(len(self.labels), NEW)
        taxonomy = Taxonomy(name="generated", labels=self.labels)
        write_taxonomy(self.generated.folder, taxonomy)
        put_in_force(self.generated.folder, taxonomy)

    def backfill(self) -> float:
        """Score the labels that were just added, from the plan to the manifest."""
        self.grow()
        request = BackfillRequest(store=self.generated.folder.url)
        return seconds(lambda: _assert_filled(request, self.generated.images))


def _assert_filled(request: BackfillRequest, images: int) -> None:
    outcome = run_backfill(plan_backfill(request))
    (run,) = outcome.runs
    assert outcome.complete and run.statuses.total() == images and len(run.plan.vocabulary) == NEW


class Pixels:
    """Rendered pictures, tagged from their tars into a new store each round."""

    def __init__(self, place: Path) -> None:
        self.place, self.rounds = place, 0
        (place / "pictures").mkdir()
        for key, data, _ in iter_scenes(PICTURES, seed=7):
            (place / "pictures" / f"{key}.jpg").write_bytes(data)
        pack(str(place / "pictures"), str(place / "shards" / "{:05d}.tar"), samples_per_shard=IMAGES_PER_SHARD)
        taxonomy = Taxonomy(name="pixels", labels=make_labels(0, NEW))
        (place / "taxonomy.yaml").write_text(taxonomy.model_dump_json())

    def tag(self) -> float:
        """Tag everything for as many labels as a backfill adds."""
        self.rounds += 1
        request = TagRequest(
            shards=(str(self.place / "shards" / "*.tar"),),
            taxonomy=str(self.place / "taxonomy.yaml"),
            store=str(self.place / f"store-{self.rounds}"),
        )
        return seconds(lambda: run_tag_here(plan_tag(request)))


@dataclass(frozen=True)
class Changed:
    """Seconds of a change of views alone, one after the other, and whether it left the runs' files as they were."""

    applied: float
    shown: float
    counted: float
    untouched: bool


def change_views(generated: Generated, labels: Sequence[Label], place: Path) -> Changed:
    """Rename and merge labels by `taxonomy apply`, and ask the views."""
    half, before = CHANGED // 2, _run_files(generated.folder)
    renamed = tuple(
        label.model_copy(update={"name": f"renamed {label.id}", "query_names": (label.name,)})
        for label in labels[:half]
    )
    merged = tuple(label.model_copy(update={"merged_into": labels[0].id}) for label in labels[half:CHANGED])
    taxonomy = Taxonomy(name="generated", labels=(*renamed, *merged, *labels[CHANGED:]))
    (place / "changed.yaml").write_text(taxonomy.model_dump_json())
    request = ApplyRequest(taxonomy=str(place / "changed.yaml"), store=generated.folder.url)
    return Changed(
        applied=seconds(lambda: run_apply(plan_apply(request), ApplySteps(retrain=None))),
        shown=seconds(lambda: _look(generated.folder)),
        counted=seconds(lambda: _count_tags(generated.folder)),
        untouched=_run_files(generated.folder) == before,
    )


def _look(folder: Folder) -> None:
    changed = {"renamed": "name LIKE 'renamed%'", "merged": "merged_into IS NOT NULL"}
    counts = ", ".join(f"count(*) FILTER ({condition}) AS {name}" for name, condition in changed.items())
    with open_catalog(folder) as connection:
        found = run_query(connection, f"SELECT {counts} FROM labels").to_pylist()
    assert found == [{"renamed": CHANGED // 2, "merged": CHANGED - CHANGED // 2}]


def _count_tags(folder: Folder) -> None:
    with open_catalog(folder) as connection:
        run_query(connection, "SELECT label_id, label, count(*) FROM tags GROUP BY ALL")


def _run_files(folder: Folder) -> dict[str, tuple[int, float]]:
    files = folder.fs.find(folder.path("runs"), detail=True)
    return {path: (info["size"], info["mtime"]) for path, info in files.items()}


def report(generated: Generated, times: Times, views: Changed, rows: int) -> str:
    """Return the result as Markdown."""
    images = generated.images
    rates = {
        "tagging from pixels": PICTURES / statistics.median(times["pixels"]),
        f"{NEW} new labels from stored embeddings": images / statistics.median(times["backfill"]),
    }
    ratios = sorted(
        (images / backfill) / (PICTURES / pixels)
        for backfill, pixels in zip(times["backfill"], times["pixels"], strict=True)
    )
    lines = [
        "# When the taxonomy changes: what it costs",
        "",
        f"`python -m benchmarks.backfill --shards {generated.shards}`",
        "",
        *describe(),
        f"- a generated store: {images:,} samples in {generated.shards} shards, {LABELS} labels, {rows:,} scores; "
        f"{PICTURES:,} JPEGs of 320x240 for the pixels; model bundled:scenes (64x64 pixels); one process; medians of "
        f"{ROUNDS} rounds that alternate; load after the run: {os.getloadavg()[0]:.1f}",
        "",
        "## New labels",
        "",
        f"| {NEW} labels | images per second | seconds for {images:,} |",
        "|---|---:|---:|",
        *(f"| {name} | {rate:,.0f} | {images / rate:,.1f} |" for name, rate in rates.items()),
        "",
        f"From stored embeddings it is {statistics.median(ratios):.0f} times as fast (rounds: "
        f"{ratios[0]:.0f} to {ratios[-1]:.0f}), from the plan to the manifest, and no image is read. The model is "
        "tiny; with a real one the ratio grows with its cost.",
        "",
        f"## {CHANGED // 2} labels renamed, {CHANGED - CHANGED // 2} merged into one",
        "",
        f"- `taxonomy apply`, from the file to the version in force: {views.applied:.2f} s",
        f"- a new catalog, and its view of the labels: {views.shown:.2f} s",
        f"- a new catalog, and its count of each label's tags: {views.counted:.2f} s",
        f"- files of runs written or changed: {'none' if views.untouched else 'SOME'}",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--write", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        generated = make_store(Path(place, "store"), arguments.shards)
        with open_catalog(generated.folder) as connection:
            rows = run_query(connection, "SELECT count(*) AS rows FROM scores").to_pylist()[0]["rows"]
        Path(place, "pixels").mkdir()
        versions, pixels = Versions(generated), Pixels(Path(place, "pixels"))
        times = alternate({"pixels": pixels.tag, "backfill": versions.backfill}, ROUNDS)
        views = change_views(generated, versions.labels, Path(place))
    text = report(generated, times, views, rows)
    sys.stdout.write(text)
    if arguments.write:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()

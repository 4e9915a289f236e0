"""What a change of the taxonomy costs: views over 100,000 stored samples, and new labels from stored embeddings.

    python -m benchmarks.backfill [--shards 100] [--images-per-shard 1000] [--small] [--write FILE.md]

The store is generated: shards of samples with random unit vectors for embeddings, and no tar behind them, so
whatever touches a shard fails. Tagging from pixels is measured on rendered pictures in the same rounds, and so is the
default decoder over stored patch tokens. The model is ViT-B/32 with random weights: what it costs is what a trained one
costs. Ratios are of CPU time.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.backfill_store import LABELS, Generated, make_labels, make_store
from benchmarks.figures import Figure, Result, arguments, publish
from benchmarks.generated import sample_row
from benchmarks.machine import describe
from benchmarks.rounds import Times, alternate, cost, ratio, seconds
from benchmarks.towers import save_random
from clipdecoder.encoders.model import load_model
from clipdecoder.heads.text_query_head import TextQueryHead
from clipdecoder.scoring.branches import Branches, Queries
from examples.scenes.render import iter_scenes
from flows.apply import ApplySteps, plan_apply, run_apply
from flows.backfill import plan_backfill, run_backfill
from flows.tagging.plan import plan_tag
from flows.tagging.run import run_tag_here
from schemas.config import ApplyRequest, BackfillRequest, TagRequest
from schemas.manifest import Fingerprint, ShardFacts
from schemas.sample import ShardStatus
from schemas.taxonomy import Label, Taxonomy
from schemas.training import HeadConfig
from storage.catalog import open_catalog
from storage.files import Folder
from storage.pack import pack
from storage.parts import ShardFeatures
from storage.query import run_query
from storage.taxonomies import put_in_force, write_taxonomy
from storage.tokens import TokenChunk, TokenWriter, find_tokens, tokens_path

ROUNDS, FEW_ROUNDS = 5, 2
SHARDS, FEW_SHARDS = 100, 10
IMAGES_PER_SHARD = 1000
CHANGED = 100
NEW = 10
PICTURES, FEW_PICTURES = 64, 16
TOKEN_IMAGES, TOKEN_LABELS = 128, 100

PerImage = Times  # CPU seconds an image of each stage, one entry per round


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
        return cost(lambda: _assert_filled(request, self.generated.images)).cpu


def _assert_filled(request: BackfillRequest, images: int) -> None:
    outcome = run_backfill(plan_backfill(request))
    (run,) = outcome.runs
    assert outcome.complete and run.statuses.total() == images and len(run.plan.vocabulary) == NEW


class Pixels:
    """Rendered pictures, tagged from their tars into a new store each round."""

    def __init__(self, place: Path, model: str, pictures: int) -> None:
        self.place, self.model, self.pictures, self.rounds = place, model, pictures, 0
        (place / "pictures").mkdir()
        for key, data, _ in iter_scenes(pictures, seed=7):
            (place / "pictures" / f"{key}.jpg").write_bytes(data)
        pack(str(place / "pictures"), str(place / "shards" / "{:05d}.tar"), samples_per_shard=1000)
        taxonomy = Taxonomy(name="pixels", labels=make_labels(0, NEW))
        (place / "taxonomy.yaml").write_text(taxonomy.model_dump_json())

    def tag(self) -> float:
        """Tag everything for as many labels as a backfill adds."""
        self.rounds += 1
        request = TagRequest(
            shards=(str(self.place / "shards" / "*.tar"),),
            taxonomy=str(self.place / "taxonomy.yaml"),
            store=str(self.place / f"store-{self.rounds}"),
            model=self.model,
        )
        return cost(lambda: run_tag_here(plan_tag(request))).cpu


class Tokens:
    """Stored patch tokens of one shard, and the default decoder over them for labels that are new to it."""

    def __init__(self, generated: Generated, model: str) -> None:
        encoder, self.folder = load_model(model, device="cpu").image, generated.folder
        random, width = np.random.default_rng(1), encoder.embedding_width
        num_tokens, token_width = encoder.token_shape
        facts = ShardFacts(
            fingerprint=Fingerprint(size=1, tag="tokens"), status=ShardStatus.OK, error=None, members={}, max_pixels=1
        )
        rows = tuple(sample_row("0", sample) for sample in range(TOKEN_IMAGES))
        self.features = ShardFeatures(facts=facts, rows=rows, embeddings_ND=np.zeros((TOKEN_IMAGES, width), np.float16))
        self.path = tokens_path(encoder.encoder_id, "generated", "tokens")
        writer = TokenWriter(self.folder, self.path, num_tokens, token_width)
        tokens_NTC = random.normal(size=(TOKEN_IMAGES, num_tokens, token_width)).astype(np.float16)
        writer.add(TokenChunk(self.features.ok_samples, tokens_NTC))
        writer.finish(facts)
        head = TextQueryHead(HeadConfig(token_width=token_width, query_width=width))
        self.branches = Branches(("decoder",), linear=None, head=head, device=encoder.device)
        queries_KQ = random.normal(size=(TOKEN_LABELS, width)).astype(np.float32)
        self.queries = Queries(queries_KQ=queries_KQ, seen_K=np.full(TOKEN_LABELS, -1))

    def decode(self) -> float:
        """Read the tokens and score them."""
        return cost(self._decode).cpu

    def _decode(self) -> None:
        stored = find_tokens(self.folder, self.path, self.features)
        assert stored is not None
        for chunk in stored.chunks():
            self.branches.decode(self.queries, chunk.tokens_RTC)


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


def report(generated: Generated, times: PerImage, views: Changed, rows: int, pictures: int) -> list[str]:
    """Return the result as lines of Markdown."""
    names = {
        "pixels": f"{NEW} labels, tagging from pixels",
        "backfill": f"{NEW} new labels from stored embeddings",
        "tokens": f"{TOKEN_LABELS} new labels from stored patch tokens, the default decoder",
    }
    return [
        "# When the taxonomy changes: what it costs",
        "",
        f"`python -m benchmarks.backfill --shards {generated.shards} --images-per-shard {generated.images_per_shard}`",
        "",
        *describe(),
        f"- a generated store: {generated.images:,} samples in {generated.shards} shards, {LABELS} labels, {rows:,} "
        f"scores; {pictures:,} JPEGs of 320x240 for the pixels, tokens of {TOKEN_IMAGES}; ViT-B/32, random weights; "
        f"medians of {len(times['pixels'])} rounds that alternate; load after the run: {os.getloadavg()[0]:.1f}",
        "",
        "## New labels",
        "",
        "| | CPU microseconds an image | times cheaper than pixels |",
        "|---|---:|---:|",
        *(
            f"| {name} | {1e6 * statistics.median(times[stage]):,.1f} | {ratio(times, 'pixels', stage):,.0f} |"
            for stage, name in names.items()
        ),
        "",
        "From the plan to the manifest, and no image is read; tokens from the file to the logits.",
        "",
        f"## {CHANGED // 2} labels renamed, {CHANGED - CHANGED // 2} merged into one",
        "",
        f"- `taxonomy apply`, from the file to the version in force: {views.applied:.2f} s",
        f"- a new catalog, and its view of the labels: {views.shown:.2f} s",
        f"- a new catalog, and its count of each label's tags: {views.counted:.2f} s",
        f"- files of runs written or changed: {'none' if views.untouched else 'SOME'}",
    ]


def figures(times: PerImage) -> list[Figure]:
    """Return what an image costs from pixels, over what it costs from what is stored."""
    basis = "CPU time an image, in turns"
    return [
        Figure(
            name=f"{NEW} new labels from embeddings over pixels, ViT-B/32",
            value=ratio(times, "pixels", "backfill"),
            unit="times",
            target=10_000,
            basis=f"{basis}, from the plan to the manifest",
        ),
        Figure(
            name=f"{TOKEN_LABELS} new labels from tokens by the decoder over pixels, ViT-B/32",
            value=ratio(times, "pixels", "tokens"),
            unit="times",
            target=5,
            basis=basis,
        ),
    ]


def main() -> None:
    """Measure, print, and write if asked."""
    parser = arguments("benchmarks.backfill", __doc__)
    parser.add_argument("--shards", type=int, help=f"how many; {SHARDS}, or {FEW_SHARDS} if small")
    parser.add_argument("--images-per-shard", type=int, default=IMAGES_PER_SHARD, help="%(default)s")
    given = parser.parse_args()
    rounds, count = (FEW_ROUNDS, FEW_PICTURES) if given.small else (ROUNDS, PICTURES)
    with tempfile.TemporaryDirectory() as place:
        model = save_random("ViT-B-32", Path(place, "model"))
        shards = given.shards or (FEW_SHARDS if given.small else SHARDS)
        generated = make_store(Path(place, "store"), shards, given.images_per_shard, model)
        with open_catalog(generated.folder) as connection:
            rows = run_query(connection, "SELECT count(*) AS rows FROM scores").to_pylist()[0]["rows"]
        Path(place, "pixels").mkdir()
        versions, pixels = Versions(generated), Pixels(Path(place, "pixels"), model, count)
        tokens = Tokens(generated, model)
        stages = {"pixels": pixels.tag, "backfill": versions.backfill, "tokens": tokens.decode}
        alternate(stages, 1)  # warm up
        images = {"pixels": count, "backfill": generated.images, "tokens": TOKEN_IMAGES}
        times = {
            stage: [seconds / images[stage] for seconds in own] for stage, own in alternate(stages, rounds).items()
        }
        views = change_views(generated, versions.labels, Path(place))
    publish(Result(lines=report(generated, times, views, rows, count), figures=figures(times)), given)


if __name__ == "__main__":
    main()

"""What it would cost to score a taxonomy: queries to embed, scores to compute, and whether images must be read for it.

It depends on what the store lacks and not on what changed: a restored label may have its scores still, and after a
promotion every label lacks them. From listings and records alone: no model is loaded and no shard is touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from flows.backfill import BackfillPlan, plan_backfill
from flows.tagging.lacking import Vocabulary
from flows.tagging.plan import TagPlan
from schemas.checkpoint import Branch, Group, Scorer
from schemas.config import BackfillRequest
from schemas.manifest import ModelRecord, ShardReport
from schemas.record import Record
from schemas.taxonomy import Taxonomy, VocabularyLabel
from storage.files import Folder
from storage.labels import current_taxonomies
from storage.parts import features_path
from storage.runs import read_runs
from storage.tokens import tokens_path
from storage.visibility import current_reports

_TOKEN_BRANCHES: frozenset[Branch] = frozenset(("local", "decoder"))


class LabelCost(Record):
    """One label of one dataset that lacks scores."""

    label_id: str
    texts: int  # to embed for its query
    images: int  # to score
    images_to_read: int  # those of them whose features are not stored


class DatasetCost(Record):
    """What scoring a dataset's tagged shards would take, with the model whose scores the views show."""

    dataset: str
    model_id: str
    scorer: Scorer | None  # None: it lacks nothing
    images: int  # tagged and good, whether they lack anything or not
    scores: int  # image by label
    tokens: bool  # whether patch tokens are needed beside embeddings
    shards_to_read: int  # a shard is read once, for all labels that it lacks
    images_to_read: int
    bytes_to_read: int
    labels: tuple[LabelCost, ...]  # that lack scores somewhere


class TaxonomyCost(Record):
    """What the store lacks for a taxonomy. No dataset: none was tagged with a taxonomy of this name."""

    taxonomy: str
    taxonomy_digest: str
    datasets: tuple[DatasetCost, ...]
    known: tuple[str, ...]  # taxonomies that datasets were tagged with, this one and others, by name

    @property
    def queries(self) -> int:
        """Labels whose texts are to be embedded."""
        return len(self.lacking)

    @property
    def lacking(self) -> frozenset[str]:
        """Labels that lack scores in any dataset."""
        return frozenset(label.label_id for dataset in self.datasets for label in dataset.labels)

    @property
    def scores(self) -> int:
        """Scores to compute, image by label, over all datasets."""
        return sum(dataset.scores for dataset in self.datasets)

    @property
    def images_to_read(self) -> int:
        """Images whose features are not stored, over all datasets."""
        return sum(dataset.images_to_read for dataset in self.datasets)

    @property
    def bytes_to_read(self) -> int:
        """Bytes of the shards that these images are in."""
        return sum(dataset.bytes_to_read for dataset in self.datasets)

    def by_label(self) -> dict[str, list[tuple[DatasetCost, LabelCost]]]:
        """Return what each label lacks, dataset by dataset."""
        found: dict[str, list[tuple[DatasetCost, LabelCost]]] = {}
        for dataset in self.datasets:
            for label in dataset.labels:
                found.setdefault(label.label_id, []).append((dataset, label))
        return found


def cost_of(folder: Folder, taxonomy: Taxonomy, model_id: str | None = None) -> TaxonomyCost:
    """Return what a backfill of a taxonomy would take, on every shard that was tagged of every dataset of its name.

    Features count as stored where their file is listed.

    Args:
        folder: the store.
        taxonomy: one version of it, in force or not.
        model_id: whose scores are wanted; None: of the model that the views show.

    Raises:
        StoreError: there is no store, or it cannot be read.
        ModelError: the model is not in it.
    """
    plan = plan_backfill(BackfillRequest(store=folder.url, model=model_id), taxonomy)
    runs = read_runs(folder)
    current = current_taxonomies(folder, runs, taxonomy)
    names = {dataset: {known.name for known in taxonomies} for dataset, taxonomies in current.items()}
    datasets = [dataset for dataset in sorted(names) if plan.model is not None and taxonomy.name in names[dataset]]
    reports = current_reports(runs)
    costs = (_dataset_cost(folder, plan, dataset, reports) for dataset in datasets)
    return TaxonomyCost(
        taxonomy=taxonomy.name,
        taxonomy_digest=taxonomy.digest,
        datasets=tuple(costs),
        known=tuple(sorted(set[str]().union(*names.values()))),
    )


def _dataset_cost(
    folder: Folder, plan: BackfillPlan, dataset: str, reports: dict[tuple[str, str], ShardReport]
) -> DatasetCost:
    assert plan.model is not None, "only a store without runs has none"
    runs = [run for run in plan.runs if run.record.dataset == dataset]
    counts = _Counts()
    for run in runs:
        stored = _stored_features(folder, run)
        lacking = {ref.shard: reports[dataset, ref.shard] for ref in run.shards}
        counts.add(run.vocabulary, lacking.values(), [lacking[shard] for shard in lacking if shard not in stored])
    tokens = any(_needs_tokens(run.model, run.record.scorer, run.vocabulary) for run in runs)
    return DatasetCost(
        dataset=dataset,
        model_id=plan.model.model_id,
        scorer=runs[0].record.scorer if runs else None,
        images=sum(report.num_ok for (name, _), report in reports.items() if name == dataset),
        scores=counts.images.total(),
        tokens=tokens,
        shards_to_read=len(counts.read),
        images_to_read=sum(report.num_samples for report in counts.read),
        bytes_to_read=sum(report.fingerprint.size for report in counts.read),
        labels=tuple(counts.labels()),
    )


@dataclass(kw_only=True)
class _Counts:
    """What the shards of a dataset lack, counted by label."""

    vocabulary: dict[str, VocabularyLabel] = field(default_factory=dict)
    images: Counter[str] = field(default_factory=Counter)
    images_to_read: Counter[str] = field(default_factory=Counter)
    read: list[ShardReport] = field(default_factory=list)

    def add(self, lacking: Vocabulary, reports: Collection[ShardReport], to_read: Collection[ShardReport]) -> None:
        """Count shards that lack the same labels; those `to_read` have no stored features."""
        images, images_to_read = (sum(report.num_ok for report in counted) for counted in (reports, to_read))
        for label in lacking:
            self.vocabulary[label.label_id] = label
            self.images[label.label_id] += images
            self.images_to_read[label.label_id] += images_to_read
        self.read += to_read

    def labels(self) -> Iterator[LabelCost]:
        """Yield what each label lacks."""
        for label_id, label in self.vocabulary.items():
            yield LabelCost(
                label_id=label_id,
                texts=len(label.texts),
                images=self.images[label_id],
                images_to_read=self.images_to_read[label_id],
            )


def _stored_features(folder: Folder, run: TagPlan) -> frozenset[str]:
    """Return the run's shards whose features are stored, with patch tokens where its labels need them."""
    encoder_id, dataset = run.record.encoder_id, run.record.dataset
    features = set(folder.list(f"features/{encoder_id}/{dataset}", ".parquet"))
    shards = {ref.shard for ref in run.shards if features_path(encoder_id, dataset, ref.shard) in features}
    if _needs_tokens(run.model, run.record.scorer, run.vocabulary):
        tokens = set(folder.list(f"tokens/{encoder_id}/{dataset}", ".parquet"))
        shards = {shard for shard in shards if tokens_path(encoder_id, dataset, shard) in tokens}
    return frozenset(shards)


def _needs_tokens(model: ModelRecord, scorer: Scorer, vocabulary: Vocabulary) -> bool:
    """Whether scoring these labels looks at patch tokens: `fused` may have given all such branches no weight."""
    if scorer != "fused" or model.checkpoint is None:
        return scorer != "clip"
    seen, checkpoint = frozenset(model.seen_labels), model.checkpoint
    groups: set[Group] = {"seen" if label.label_id in seen else "novel" for label in vocabulary}
    weights = [checkpoint.fusion.get(group, {}) for group in groups]
    weights += [checkpoint.own_fusion.get(label.label_id, {}) for label in vocabulary]
    return any(own.get(branch) for own in weights for branch in _TOKEN_BRANCHES)

"""Backfill: score what the shown model has not scored, on every shard that was tagged, from stored features.

Which labels those are follows from the store alone: labels that came to a taxonomy or were reworded, and all of them
after a promotion. A run of backfill is a partial run of tagging: the shards that lack the same labels, as the store
remembers them. Shards are not listed, and none is touched whose features are stored; it may even be gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flows.tagging.lacking import ShownLabels, Vocabulary, lacking_groups
from flows.tagging.outcomes import RunOutcome
from flows.tagging.plan import TagPlan, run_record, unfinished_runs
from flows.tagging.run import Execute, Progress, close_runs, execute_here, run_tag
from flows.tagging.shard_job import ShardTrouble
from schemas.checkpoint import Scorer
from schemas.config import BackfillRequest, TagRequest
from schemas.manifest import ModelRecord, RunRecord, ShardReport
from schemas.taxonomy import Taxonomy
from storage.catalog import check_store, shown_model
from storage.files import Folder
from storage.keys import known_keys
from storage.labels import current_taxonomies
from storage.models import read_model, read_promotion
from storage.patterns import ShardList, ShardRef
from storage.runs import StoredRun, last_asked, read_runs, without_lost_parts
from storage.visibility import current_reports, visible_labels


@dataclass(frozen=True, kw_only=True)
class BackfillPlan:
    """What is to be scored: one run for each dataset, taxonomy and set of labels that some shards lack. Plain data."""

    request: BackfillRequest
    model: ModelRecord | None  # None: nothing was ever tagged
    runs: tuple[TagPlan, ...]
    unfinished: tuple[str, ...]  # runs that only want their manifest: they were killed, or the taxonomy changed
    withdrawn: bool = False  # whether no taxonomy that images were tagged with is in force


@dataclass(kw_only=True)
class BackfillOutcome:
    """What became of a backfill."""

    plan: BackfillPlan
    runs: list[RunOutcome] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every tagged shard has the scores it lacked."""
        return len(self.runs) == len(self.plan.runs) and all(run.finished for run in self.runs)

    @property
    def troubles(self) -> list[ShardTrouble]:
        """Shards that could not be scored: their features are missing, and the shard is gone or has changed."""
        return [trouble for run in self.runs for trouble in run.failures]


def plan_backfill(request: BackfillRequest, taxonomy: Taxonomy | None = None) -> BackfillPlan:
    """Return what a backfill would do. Touches nothing, and loads no model.

    Args:
        request: which store and model.
        taxonomy: plan for this version in place of the one in force of its name, and for no other taxonomy.

    Raises:
        StoreError: there is no store, or it cannot be read.
        ModelError: the model is unknown.
    """
    folder = Folder(request.store)
    check_store(folder)
    runs = read_runs(folder)
    model = _model(folder, request, runs)
    if model is None:
        return BackfillPlan(request=request, model=None, runs=(), unfinished=())
    shown = _shown(folder, runs, model.model_id)
    plans: list[TagPlan] = []
    unfinished: list[str] = []
    current = current_taxonomies(folder, runs, taxonomy)
    for dataset, taxonomies in sorted(current.items()):
        filling = _Filling(request, model, dataset, tuple(run for run in runs if run.record.dataset == dataset))
        own = [filling.plan(*group) for group in filling.groups(taxonomies, shown, taxonomy)]
        plans += own
        unfinished += unfinished_runs(runs, dataset, {plan.record.run_id for plan in own})
    return BackfillPlan(
        request=request,
        model=model,
        runs=tuple(plans),
        unfinished=tuple(unfinished),
        withdrawn=bool(current) and not any(current.values()),
    )


def run_backfill(
    plan: BackfillPlan, execute: Execute = execute_here, progress: Progress = lambda outcome: None
) -> BackfillOutcome:
    """Carry out a backfill. A shard that cannot be scored is a trouble in the outcome; the others go on.

    Raises:
        StoreError: the store cannot be written; nothing was done.
        RunError: it could be, and then no longer.
    """
    outcome = BackfillOutcome(plan=plan)
    for run in plan.runs:
        outcome.runs.append(run_tag(run, execute, progress))
    close_runs(Folder(plan.request.store), plan.unfinished)
    return outcome


def _model(folder: Folder, request: BackfillRequest, runs: Sequence[StoredRun]) -> ModelRecord | None:
    named = request.model not in (None, "current")
    model_id = request.model if named else shown_model(runs, read_promotion(folder))
    return read_model(folder, model_id) if model_id is not None else None


def _shown(folder: Folder, runs: Sequence[StoredRun], model_id: str) -> Mapping[str, ShownLabels]:
    """Return by dataset and shard the labels that the views show of a model, and whose rows are there.

    Rows of a run that was asked for by name come back when it is asked for again; those of a partial run nobody asks
    for but a backfill.
    """
    shown: dict[str, ShownLabels] = {}
    for (dataset, shard), labels in visible_labels(without_lost_parts(folder, runs), model_id).items():
        shown.setdefault(dataset, {})[shard] = labels
    return shown


@dataclass(frozen=True)
class _Filling:
    """One dataset, and the model that scores it."""

    request: BackfillRequest
    model: ModelRecord
    dataset: str
    runs: tuple[StoredRun, ...]

    def groups(
        self, taxonomies: Sequence[Taxonomy], shown: Mapping[str, ShownLabels], only: Taxonomy | None
    ) -> Iterator[tuple[Taxonomy, Vocabulary, tuple[ShardRef, ...]]]:
        """Yield the shards that lack the same labels of a taxonomy. A label that stands in two is the first one's."""
        refs = [
            ShardRef(shard=report.shard, url=report.url, fingerprint=report.fingerprint) for report in self._reports()
        ]
        taken: set[str] = set()
        for taxonomy in taxonomies:
            vocabulary = tuple(label for label in taxonomy.vocabulary() if label.label_id not in taken)
            taken |= {label.id for label in taxonomy.labels}
            if only is None or taxonomy is only:
                for lacking, group in lacking_groups(vocabulary, shown.get(self.dataset, {}), refs):
                    yield taxonomy, lacking, group

    def plan(self, taxonomy: Taxonomy, vocabulary: Vocabulary, refs: tuple[ShardRef, ...]) -> TagPlan:
        """Return the run that gives some shards the labels that they lack."""
        newest = self._newest()
        found = ShardList(root=newest.root, patterns=self._patterns(), shards=refs)
        request = TagRequest(
            shards=found.patterns,
            taxonomy=taxonomy.digest,
            store=self.request.store,
            model=self.model.model_id,
            name=self.dataset,
            labels="new",
            floor=newest.floor,
            top_k=newest.top_k,
            max_pixels=newest.max_pixels,
            batch_size=self.request.batch_size,
            decode_threads=self.request.decode_threads,
            device=self.request.device,
            shards_per_task=self.request.shards_per_task,
        )
        return TagPlan(
            request=request,
            record=run_record(request, self.dataset, found, self.model, self._scorer(), taxonomy, vocabulary),
            taxonomy=taxonomy,
            vocabulary=vocabulary,
            model=self.model,
            shards=refs,
            remembered=True,
            known_keys=known_keys(self.runs, refs),
        )

    def _reports(self) -> list[ShardReport]:
        """Return each shard's newest report that has rows."""
        return [report for _, report in sorted(current_reports(self.runs).items())]

    def _newest(self) -> RunRecord:
        """Return the run whose options hold: the newest of the model, else of any."""
        return max(self._of_model() or self.runs, key=last_asked).record

    def _scorer(self) -> Scorer:
        return self._newest().scorer if self._of_model() else self.model.scorers[0]

    def _of_model(self) -> list[StoredRun]:
        return [run for run in self.runs if run.record.model_id == self.model.model_id]

    def _patterns(self) -> tuple[str, ...]:
        """Return patterns that name the dataset's shards: those of the newest run about all of them, or of all runs."""
        shards = {report.shard for report in self._reports()}
        for run in sorted(self.runs, key=last_asked, reverse=True):
            if shards <= {report.shard for report in run.reports}:
                return run.record.patterns
        return tuple(sorted({pattern for run in self.runs for pattern in run.record.patterns}))

"""From a request to a plan: everything that can be wrong with a request is found here, before any work."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flows.models import choose_scorer, load_model, load_recorded, stored_model
from flows.tagging.features import FeatureRequest
from flows.tagging.lacking import Vocabulary, lacking_groups, shown_labels
from flows.tagging.pending import pending_shards
from flows.taxonomies.removals import removed_labels
from flows.versions import versions
from schemas.checkpoint import Scorer
from schemas.config import TagRequest
from schemas.digests import digest_of
from schemas.errors import ConfigError, StoreError
from schemas.manifest import ModelRecord, RunRecord
from schemas.taxonomy import Taxonomy
from storage.files import Folder
from storage.keys import KnownKeys, known_keys
from storage.models import promote, read_promotion, write_model
from storage.patterns import ShardList, ShardRef, list_shards
from storage.runs import StoredRun, read_runs, without_lost_parts, write_record
from storage.taxonomies import find_taxonomy, put_in_force, write_taxonomy

if TYPE_CHECKING:
    from flows.models import Model


@dataclass(frozen=True, kw_only=True)
class TagPlan:
    """A checked request: what the run is, which shards it covers, and the model that scores them. Plain data."""

    request: TagRequest
    record: RunRecord
    taxonomy: Taxonomy
    vocabulary: Vocabulary  # empty if labels were to be `new`, and none is
    model: ModelRecord
    shards: tuple[ShardRef, ...]
    more: tuple[TagPlan, ...] = ()  # further runs of the request: where labels are to be `new`, shards lack other ones
    # The shards are as the store remembers them and not as they were just listed, and which taxonomy is in force is
    # somebody else's to say.
    remembered: bool = False
    removed: tuple[str, ...] = ()  # labels that have scores, and that the taxonomy does not name any more
    unfinished: tuple[str, ...] = ()  # partial runs that were begun, are not complete and are not asked for now
    done: bool = False  # when it was planned nothing was left to do
    known_keys: KnownKeys | None = None  # of a complete run about the same shards

    def features(self, *, tokens: bool) -> FeatureRequest:
        """Return which features the run needs."""
        return FeatureRequest(
            store=self.request.store,
            dataset=self.record.dataset,
            encoder_id=self.record.encoder_id,
            batch_size=self.request.batch_size,
            decode_threads=self.request.decode_threads,
            max_pixels=self.request.max_pixels,
            tokens=tokens,
            store_tokens=self.request.store_tokens,
            retry_failed=self.request.retry_failed,
            remembered=self.remembered,
        )


def load_planned_model(plan: TagPlan) -> Model:
    """Return the model that was planned with, whichever is promoted meanwhile.

    Raises:
        ModelError: its weights are no longer what they were.
    """
    return load_recorded(Folder(plan.request.store), plan.model, plan.request.device)


def plan_tag(request: TagRequest) -> TagPlan:
    """Return the plan of a tagging request. Touches nothing, and loads no model where nothing is left to do.

    Raises:
        RequestError: the taxonomy, a pattern, the model or the store is wrong.
    """
    folder = Folder(request.store)
    taxonomy = find_taxonomy(folder, request.taxonomy)
    planning = _Planning(request, folder, taxonomy, list_shards(request.shards), read_runs(folder))
    planning.check()
    if (done := planning.done()) is not None:
        return done
    model = load_model(folder, request.model, request.device, request.decode, request.precision)
    model.check_texts(taxonomy)
    return planning.plan(model.record)


@dataclass(frozen=True)
class _Planning:
    """A request, and what it is about."""

    request: TagRequest
    folder: Folder
    taxonomy: Taxonomy
    found: ShardList
    runs: Sequence[StoredRun]

    @property
    def dataset(self) -> str:
        return self.request.name or default_name(self.found.root)

    def check(self) -> None:
        """Refuse a dataset that another folder has."""
        check_dataset_root(self.dataset, self.found.root, self.runs)

    def done(self) -> TagPlan | None:
        """Return the plan if a model that the store knows has done all of it, texts checked then; else None."""
        if self.request.labels not in ("all", "new"):
            return None
        request = self.request
        model = stored_model(self.folder, request.model, request.decode, request.precision)
        plan = self.plan(model) if model is not None else None
        return replace(plan, done=True) if plan is not None and self._is_done(plan) else None

    def _is_done(self, plan: TagPlan) -> bool:
        if not plan.vocabulary:
            return bool(plan.taxonomy.vocabulary())
        complete = {run.record.run_id for run in self.runs if run.manifest is not None}
        return not plan.more and plan.record.run_id in complete and not pending_shards(plan)[1]

    def plan(self, model: ModelRecord) -> TagPlan:
        """Return the plan for a model."""
        request, taxonomy, found = self.request, self.taxonomy, self.found
        scorer = choose_scorer(model, request.scorer, local=request.local)
        groups: list[tuple[Vocabulary, tuple[ShardRef, ...]]]
        if request.labels == "new":
            asked = scorer if request.scorer is not None or request.local else None
            there = without_lost_parts(self.folder, self.runs)
            shown = shown_labels(there, self.dataset, model.model_id, asked, found.shards)
            groups = list(lacking_groups(taxonomy.vocabulary(), shown, found.shards)) or [((), ())]
        else:
            groups = [(choose_labels(request.labels, taxonomy), found.shards)]
        runs = [run for run in self.runs if run.record.dataset == self.dataset]
        first, *more = (
            TagPlan(
                request=request,
                record=run_record(request, self.dataset, found, model, scorer, taxonomy, vocabulary),
                taxonomy=taxonomy,
                vocabulary=vocabulary,
                model=model,
                shards=shards,
                known_keys=known_keys(runs, shards),
            )
            for vocabulary, shards in groups
        )
        run_ids = {plan.record.run_id for plan in (first, *more)}
        unfinished = unfinished_runs(self.runs, self.dataset, run_ids) if first.record.partial else ()
        removed = removed_labels(self.folder, taxonomy, self.runs)
        return replace(first, more=tuple(more), removed=removed, unfinished=unfinished)


def unfinished_runs(runs: Iterable[StoredRun], dataset: str, asked: Container[str]) -> tuple[str, ...]:
    """Return the partial runs of a dataset that are neither complete nor asked for now."""
    ours = (run.record.run_id for run in runs if run.record.dataset == dataset and _is_unfinished(run))
    return tuple(run_id for run_id in ours if run_id not in asked)


def _is_unfinished(run: StoredRun) -> bool:
    return run.record.partial and run.manifest is None


def begin_run(plan: TagPlan) -> None:
    """Write what the run is: taxonomy, model, run record. The first model of a store is promoted.

    The taxonomy is put in force even if it has no label to score: its names, merges and retirements are views.

    Raises:
        StoreError: the store cannot be written.
    """
    folder = Folder(plan.request.store)
    write_taxonomy(folder, plan.taxonomy)
    if not plan.remembered:
        put_in_force(folder, plan.taxonomy)
    if not plan.vocabulary:
        return
    write_model(folder, plan.model)
    if read_promotion(folder) is None:
        promote(folder, plan.model.model_id, "the first model of this store")
    write_record(folder, plan.record)


def default_name(root: str) -> str:
    """Return a dataset's name when none is given: the last part of the folder its shards lie in."""
    last = root.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "dataset"


def choose_labels(labels: str, taxonomy: Taxonomy) -> Vocabulary:
    """Return the labels to score: `all` active ones, or those named.

    Raises:
        ConfigError: no label is named.
        TaxonomyError: a named label is not an active label of the taxonomy.
    """
    if labels == "all":
        return taxonomy.vocabulary()
    named = [label.strip() for label in labels.split(",") if label.strip()]
    if not named:
        raise ConfigError(f"--labels {labels!r} names no label; give all, new, or ids such as dog,cat")
    return taxonomy.vocabulary(named)


def check_dataset_root(dataset: str, root: str, runs: Iterable[StoredRun]) -> None:
    """Refuse two datasets of one name: their shards' ids, and so their rows, would be taken for each other's."""
    for run in runs:
        if run.record.dataset == dataset and run.record.root != root:
            raise StoreError(
                f"the store already has a dataset {dataset!r}, from {run.record.root}, and these shards are in {root}; "
                "give this one a name of its own with --name"
            )


def run_record(
    request: TagRequest,
    dataset: str,
    found: ShardList,
    model: ModelRecord,
    scorer: Scorer,
    taxonomy: Taxonomy,
    vocabulary: Vocabulary,
) -> RunRecord:
    """Return the run's record. Its id is a digest of what decides the results, so the same request is the same run.

    A request for labels that are `new` is a partial run, and another one than that of all labels: whoever resumes the
    latter means every shard.
    """
    partial = request.labels == "new"
    identity = {
        "root": found.root,
        "patterns": found.patterns,
        "model_id": model.model_id,
        "scorer": scorer,
        "vocabulary": sorted((label.label_id, label.query_digest) for label in vocabulary),
        "floor": request.floor,
        "top_k": request.top_k,
        "max_pixels": request.max_pixels,
    } | ({"partial": True} if partial else {})
    now = datetime.now(UTC)
    return RunRecord(
        run_id=f"{dataset}-{digest_of(identity)}",
        dataset=dataset,
        root=found.root,
        patterns=found.patterns,
        partial=partial,
        model_id=model.model_id,
        encoder_id=model.encoder_id,
        scorer=scorer,
        taxonomy_digest=taxonomy.digest,
        vocabulary=tuple(label.scored() for label in vocabulary),
        floor=request.floor,
        top_k=request.top_k,
        max_pixels=request.max_pixels,
        calibration=model.calibration,
        created_at=now,
        asked_at=now,
        versions=versions(),
    )

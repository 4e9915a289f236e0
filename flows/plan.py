"""From a request to a plan: everything that can be wrong with a request is found here, before any work."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flows.features import FeatureRequest
from flows.models import choose_scorer, load_model, load_recorded
from flows.removals import removed_labels
from flows.versions import versions
from schemas.checkpoint import Scorer
from schemas.config import TagRequest
from schemas.digests import digest_of
from schemas.errors import ConfigError, StoreError
from schemas.manifest import ModelRecord, RunRecord
from schemas.taxonomy import ScoredLabel, Taxonomy, VocabularyLabel
from storage.files import Folder
from storage.models import promote, read_promotion, write_model
from storage.patterns import ShardList, ShardRef, list_shards
from storage.runs import StoredRun, read_runs, write_record
from storage.taxonomies import find_taxonomy, put_in_force, write_taxonomy
from storage.visibility import visible_labels

if TYPE_CHECKING:
    from flows.models import Model

ShownLabels = dict[str, dict[str, ScoredLabel]]  # by shard, by label id
Vocabulary = tuple[VocabularyLabel, ...]


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
    """Return the plan of a tagging request. Touches nothing.

    Raises:
        RequestError: the taxonomy, a pattern, the model or the store is wrong.
    """
    folder = Folder(request.store)
    taxonomy = find_taxonomy(folder, request.taxonomy)
    found = list_shards(request.shards)
    runs = read_runs(folder)
    dataset = request.name or default_name(found.root)
    check_dataset_root(dataset, found.root, runs)
    model = load_model(folder, request.model, request.device, request.decode, request.precision)
    model.check_texts(taxonomy)
    scorer = choose_scorer(model.record, request.scorer, local=request.local)
    groups: list[tuple[Vocabulary, tuple[ShardRef, ...]]]
    if request.labels == "new":
        shown = shown_labels(runs, dataset, model.record.model_id, found.shards)
        groups = list(lacking_groups(taxonomy.vocabulary(), shown, found.shards)) or [((), ())]
    else:
        groups = [(choose_labels(request.labels, taxonomy), found.shards)]
    first, *more = (
        TagPlan(
            request=request,
            record=run_record(request, dataset, found, model.record, scorer, taxonomy, vocabulary),
            taxonomy=taxonomy,
            vocabulary=vocabulary,
            model=model.record,
            shards=shards,
        )
        for vocabulary, shards in groups
    )
    asked = {plan.record.run_id for plan in (first, *more)}
    unfinished = unfinished_runs(runs, dataset, asked) if first.record.partial else ()
    removed = removed_labels(folder, taxonomy, runs)
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


def lacking_groups(
    vocabulary: Vocabulary, shown: ShownLabels, shards: Iterable[ShardRef]
) -> Iterator[tuple[Vocabulary, tuple[ShardRef, ...]]]:
    """Yield the shards that lack some labels, together with those that lack the same; the most labels come first.

    A shard lacks a label if the views show no scores of it, or scores for other texts than it has now. So one that was
    never tagged lacks all of them, and so does one that is not there: a run says so.
    """
    groups: dict[Vocabulary, list[ShardRef]] = {}
    for ref in shards:
        scored = shown.get(ref.shard, {}) if ref.fingerprint is not None else {}
        lacking = tuple(label for label in vocabulary if _is_new(label, scored))
        if lacking:
            groups.setdefault(lacking, []).append(ref)
    for lacking, refs in sorted(groups.items(), key=lambda group: -len(group[0])):
        yield lacking, tuple(refs)


def shown_labels(runs: Iterable[StoredRun], dataset: str, model_id: str, shards: Iterable[ShardRef]) -> ShownLabels:
    """Return by shard the labels that the views show of a model, for shards whose bytes are still those scored."""
    fingerprints = {ref.shard: ref.fingerprint for ref in shards}
    current = [
        replace(run, reports=tuple(r for r in run.reports if r.fingerprint == fingerprints.get(r.shard)))
        for run in runs
        if run.record.dataset == dataset
    ]
    return {shard: labels for (_, shard), labels in visible_labels(current, model_id).items()}


def _is_new(label: VocabularyLabel, scored: dict[str, ScoredLabel]) -> bool:
    return label.label_id not in scored or scored[label.label_id].query_digest != label.query_digest


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

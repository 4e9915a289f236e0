"""`taxonomy apply`: from a file to a version in force, with its labels scored and retraining decided.

Every step looks at the state of the store and not at what changed, so a command that was killed anywhere is finished by
the same command. The order is: keep the version, score what it lacks, put it in force, decide, retrain, score again.
Scores come before the version is in force because that is one small file: new labels appear together with their scores,
and names, merges and retirements change in the same moment. The other way round a new label would stand in the views
for as long as the backfill takes, as one that no picture has. A reworded label's new scores do appear earlier, shard
by shard, each shard's as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from flows.backfill import BackfillOutcome, BackfillPlan, plan_backfill, run_backfill
from flows.models import load_recorded
from flows.retraining.decide import decide
from flows.retraining.run import run_retrain
from flows.taxonomies.cost import TaxonomyCost, cost_of
from flows.taxonomies.removals import removed_labels
from schemas.config import ApplyRequest, BackfillRequest, EncodeOptions, RetrainRequest
from schemas.errors import RequestError, RunError, TaxonomyError
from schemas.manifest import ModelRecord
from schemas.retraining import RetrainDecision, RetrainOutcome
from schemas.taxonomy import Taxonomy
from schemas.taxonomy_diff import TaxonomyDiff, diff_taxonomies
from storage.catalog import check_store
from storage.files import Folder
from storage.runs import read_runs
from storage.taxonomies import (
    digest_in_force,
    find_record,
    find_taxonomy,
    put_in_force,
    read_taxonomy,
    write_taxonomy,
)
from storage.visibility import current_reports

_TOKEN_BYTES = 2  # float16


@dataclass(frozen=True, kw_only=True)
class ApplyPlan:
    """What applying a taxonomy would do. Plain data; nothing was touched."""

    request: ApplyRequest
    taxonomy: Taxonomy
    diff: TaxonomyDiff  # from the version in force, or the last one that was
    withdrawn: bool  # whether no version is in force now, and one was
    cost: TaxonomyCost
    token_bytes: int | None  # to store per image; None: no image must be read for lack of patch tokens
    images: int  # tagged and good, in all datasets
    backfill: BackfillPlan
    decision: RetrainDecision  # as it would be made now


@dataclass(kw_only=True)
class ApplyOutcome:
    """What became of it."""

    plan: ApplyPlan
    put_in_force: bool  # by this call: False if the version was in force before
    backfills: list[BackfillOutcome]
    decision: RetrainDecision
    retraining: RetrainOutcome | None  # None: not decided for, or left to others

    @property
    def complete(self) -> bool:
        """Whether nothing failed on the way."""
        return all(backfill.complete for backfill in self.backfills)


@dataclass(frozen=True, kw_only=True)
class ApplySteps:
    """Who carries out the long steps: these functions here, or subflows of an orchestrator."""

    backfill: Callable[[BackfillPlan], BackfillOutcome] = run_backfill
    retrain: Callable[[RetrainRequest], RetrainOutcome] | None = run_retrain  # None: decide only


def plan_apply(request: ApplyRequest) -> ApplyPlan:
    """Return what applying a taxonomy file would do. Touches nothing.

    A model is loaded only if there is something to score: texts of which there are scores were checked before.

    Raises:
        TaxonomyError: the file breaks a rule, a text is too long for the model, or a label with scores was removed.
        RequestError: the file cannot be read, or there is no store.
    """
    folder = Folder(request.store)
    check_store(folder)
    taxonomy = find_taxonomy(folder, request.taxonomy)
    last = find_record(folder, taxonomy.name)
    diff = diff_taxonomies(read_taxonomy(folder, last.digest) if last is not None else None, taxonomy)
    _refuse_removals(folder, taxonomy, diff.labels("removed"))
    backfill = plan_backfill(_backfill_request(request), taxonomy)
    cost = cost_of(folder, taxonomy)
    token_bytes = None
    if backfill.model is not None and (backfill.runs or not cost.datasets):
        token_bytes = _check_model(folder, backfill.model, request, taxonomy, cost)
    return ApplyPlan(
        request=request,
        taxonomy=taxonomy,
        diff=diff,
        withdrawn=last is not None and last.withdrawn,
        cost=cost,
        token_bytes=token_bytes,
        images=sum(report.num_ok for report in current_reports(read_runs(folder)).values()),
        backfill=backfill,
        decision=decide(folder, taxonomy, request.policy, keep=False),
    )


def nothing_to_do(plan: ApplyPlan) -> bool:
    """Whether applying would change nothing but the record of a decision, for the other taxonomies of the store too."""
    return (
        plan.diff.same
        and not plan.withdrawn
        and not (plan.backfill.runs or plan.backfill.unfinished or plan.decision.retrain)
        and not plan_backfill(_backfill_request(plan.request)).runs
    )


def run_apply(plan: ApplyPlan, steps: ApplySteps | None = None) -> ApplyOutcome:
    """Carry out a plan; see the module for the order. Shards that cannot be scored do not keep a version from force.

    Raises:
        StoreError: the store cannot be written; nothing was done.
        RunError: a later step failed; the same command goes on.
    """
    steps = steps or ApplySteps()
    folder = Folder(plan.request.store)
    write_taxonomy(folder, plan.taxonomy)
    try:
        return _carry_out(plan, steps, folder)
    except RequestError as error:
        raise RunError(f"what is done stays done, and the same command goes on: {error}") from error


def _carry_out(plan: ApplyPlan, steps: ApplySteps, folder: Folder) -> ApplyOutcome:
    backfills = list(_backfilled(plan.backfill, steps))
    changed = digest_in_force(folder, plan.taxonomy.name) != plan.taxonomy.digest
    put_in_force(folder, plan.taxonomy)
    outcome = ApplyOutcome(
        plan=plan,
        put_in_force=changed,
        backfills=backfills,
        decision=decide(folder, plan.taxonomy, plan.request.policy),
        retraining=None,
    )
    if steps.retrain is None:
        return outcome
    if outcome.decision.retrain:
        outcome.retraining = steps.retrain(_retrain_request(plan.request, plan.taxonomy))
    rest = plan_backfill(_backfill_request(plan.request))
    # Another taxonomy lacks scores also where an earlier call was killed after the promotion. What this one lacks was
    # tried above, unless the model is another now.
    others = any(run.taxonomy.name != plan.taxonomy.name for run in rest.runs)
    if others or outcome.decision.retrain:
        outcome.backfills += _backfilled(rest, steps)
    return outcome


def _backfilled(plan: BackfillPlan, steps: ApplySteps) -> Iterator[BackfillOutcome]:
    if plan.runs or plan.unfinished:
        yield steps.backfill(plan)


def _refuse_removals(folder: Folder, taxonomy: Taxonomy, removed: Sequence[str]) -> None:
    """Refuse to lose the meaning of scores: a label that has some is retired or merged, and keeps its id.

    Raises:
        TaxonomyError: naming each, and what to write.
    """
    scored = frozenset(removed_labels(folder, taxonomy, read_runs(folder)) if removed else ())
    problems = [
        f"label {label_id!r} was removed, and the store has scores of it; write {{id: {label_id}, name: ..., "
        "retired: true}, or merged_into another label"
        for label_id in removed
        if label_id in scored
    ]
    if problems:
        raise TaxonomyError(problems)


def _check_model(
    folder: Folder, record: ModelRecord, request: ApplyRequest, taxonomy: Taxonomy, cost: TaxonomyCost
) -> int | None:
    """Check every text against the model, and return the bytes of an image's patch tokens if they are wanting.

    Raises:
        TaxonomyError: a text is too long for the model.
        ModelError: its weights are not what they were.
    """
    model = load_recorded(folder, record, request.device)
    model.check_texts(taxonomy)
    if not any(dataset.tokens and dataset.shards_to_read for dataset in cost.datasets):
        return None
    num_tokens, token_width = model.encoders.image.token_shape
    return num_tokens * token_width * _TOKEN_BYTES


def _backfill_request(request: ApplyRequest) -> BackfillRequest:
    return BackfillRequest(store=request.store, shards_per_task=request.shards_per_task, **_encoding(request))


def _retrain_request(request: ApplyRequest, taxonomy: Taxonomy) -> RetrainRequest:
    return RetrainRequest(store=request.store, taxonomy=taxonomy.name, policy=request.policy, **_encoding(request))


def _encoding(request: ApplyRequest) -> dict[str, int | str]:
    return request.model_dump(include=set(EncodeOptions.model_fields))

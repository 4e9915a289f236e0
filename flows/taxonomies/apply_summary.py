"""What applying a taxonomy would do, and what it came to: the numbers a person, a program and Prefect are told."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from flows.apply import ApplyOutcome, ApplyPlan
from flows.retraining.summary import decision_lines, outcome_lines
from flows.tagging.backfill_summary import BackfillSummary, summarise_backfill
from flows.taxonomies.cost import TaxonomyCost
from flows.taxonomies.summary import change_lines, cost_lines
from schemas.commands import store_command
from schemas.retraining import RetrainDecision, RetrainOutcome
from schemas.taxonomy_diff import TaxonomyDiff


class PlannedApply(BaseModel):
    """What `taxonomy apply --plan --json` prints."""

    store: str
    diff: TaxonomyDiff
    withdrawn: bool  # whether it was taken out of force, and would be put in force again
    cost: TaxonomyCost
    token_bytes_per_image: int | None  # that keeping them would take; None: no image is read for lack of patch tokens
    decision: RetrainDecision
    images: int  # tagged and good in all datasets: a new model, if it is promoted, scores them anew

    def head(self) -> list[str]:
        """Return what is said before the table of changes."""
        again = f"taxonomy {self.diff.new_name} was taken out of force; applying it puts it in force again"
        return [*([again] if self.withdrawn else []), *change_lines(self.diff)]

    def lines(self) -> list[str]:
        """Return what is said after the table of changes."""
        return [*self._costs(), *decision_lines(self.decision), *self._on_top()]

    def _on_top(self) -> Iterator[str]:
        if self.decision.retrain:
            yield (
                "- the training comes on top of the cost above and, if the new model is promoted, scoring every label "
                f"of {self.images:,} images anew (`--no-retrain` leaves both to "
                f"`{store_command('retrain', store=self.store)}` and `{store_command('backfill', store=self.store)}`)"
            )

    def _costs(self) -> Iterator[str]:
        yield from cost_lines(self.diff, self.cost)
        if self.token_bytes_per_image is not None:
            images = sum(dataset.images for dataset in self.cost.datasets if dataset.tokens)
            yield (
                f"- patch tokens would take {self.token_bytes_per_image:,} bytes for each image, "
                f"{images * self.token_bytes_per_image / 1e9:,.3f} GB for these datasets"
            )


class ApplySummary(BaseModel):
    """What `taxonomy apply --json` prints."""

    store: str
    taxonomy: str
    taxonomy_digest: str
    put_in_force: bool  # by this command
    diff: TaxonomyDiff
    cost: TaxonomyCost  # as it was expected
    backfills: list[BackfillSummary]
    decision: RetrainDecision
    retraining: RetrainOutcome | None
    ok: bool  # exit code 0

    @property
    def unchanged(self) -> bool:
        """Whether there was nothing to do."""
        return not self.put_in_force and not self.backfills and self.retraining is None

    def lines(self) -> list[str]:
        """Return the summary as Markdown lines, readable as plain text."""
        return list(self._lines())

    def _lines(self) -> Iterator[str]:
        named = f"taxonomy {self.taxonomy}, version {self.taxonomy_digest}"
        if self.unchanged:
            scored = ", and every label is scored" if self.cost.datasets else ""
            yield f"{named}: in force already{scored}; nothing was done"
        else:
            yield f"{named}: {'in force now' if self.put_in_force else 'was in force before'}"
        if not self.cost.datasets:
            yield from (f"- {line}" for line in cost_lines(self.diff, self.cost))
        learned = self.retraining.model_id if self.retraining is not None else None
        for backfill in self.backfills:
            if backfill.model_id != learned:
                yield from backfill.lines()
        yield from decision_lines(self.decision)
        if self.retraining is not None:
            yield from outcome_lines(self.retraining)
        elif self.decision.retrain:
            yield f"- next: `{store_command('retrain', store=self.store)}` carries it out"
        for backfill in self.backfills:
            if learned is not None and backfill.model_id == learned:
                yield from backfill.lines()


def describe_plan(plan: ApplyPlan) -> PlannedApply:
    """Return what a plan says."""
    return PlannedApply(
        store=plan.request.store,
        diff=plan.diff,
        withdrawn=plan.withdrawn,
        cost=plan.cost,
        token_bytes_per_image=plan.token_bytes,
        decision=plan.decision,
        images=plan.images,
    )


def summarise_apply(outcome: ApplyOutcome) -> ApplySummary:
    """Return the summary of an application that has ended, well or not."""
    plan = outcome.plan
    return ApplySummary(
        store=plan.request.store,
        taxonomy=plan.taxonomy.name,
        taxonomy_digest=plan.taxonomy.digest,
        put_in_force=outcome.put_in_force,
        diff=plan.diff,
        cost=plan.cost,
        backfills=[summarise_backfill(backfill) for backfill in outcome.backfills],
        decision=outcome.decision,
        retraining=outcome.retraining,
        ok=outcome.complete,
    )

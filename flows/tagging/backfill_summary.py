"""What a backfill came to: the numbers a person, a program and Prefect are told."""

from __future__ import annotations

from pydantic import BaseModel

from flows.backfill import BackfillOutcome, BackfillPlan
from flows.tagging.outcomes import RunOutcome
from flows.tagging.shard_job import ShardTrouble
from flows.taxonomies.cost import TaxonomyCost, cost_of
from flows.taxonomies.summary import dataset_line
from schemas.commands import store_command
from schemas.counts import counted
from schemas.sample import SampleStatus
from storage.files import Folder
from storage.taxonomies import read_taxonomy, taxonomies_in_force

_NAMED = 10
_NOTHING_TAGGED = "nothing to backfill: nothing was tagged yet"
_ALL_SCORED = "nothing to backfill: model {} has scored every label on every tagged shard"


class FilledRun(BaseModel):
    """Shards of one dataset that lacked the same labels, and got their scores."""

    run_id: str
    dataset: str
    taxonomy: str
    labels: list[str]
    shards: int
    images: int  # scored, in the shards that are done
    decoded: int  # images that had to be read, as their features were not stored
    troubles: list[ShardTrouble]
    wall_seconds: float

    def lines(self) -> list[str]:
        """Return the run as Markdown lines."""
        more = f" and {len(self.labels) - _NAMED} more" if len(self.labels) > _NAMED else ""
        source = f"{counted(self.decoded, 'image', 'were')} read" if self.decoded else "no image was read"
        return [
            f"- dataset {self.dataset}: {counted(len(self.labels), 'label')} scored on "
            f"{counted(self.images, 'image')} in {counted(self.shards, 'shard')} "
            f"({', '.join(self.labels[:_NAMED])}{more}); {source}; {self.wall_seconds:.1f} s",
            *(f"- shard {t.shard}: {t.status}: {t.error}" for t in self.troubles[:_NAMED]),
        ]


class BackfillSummary(BaseModel):
    """A backfill's result, as `backfill --json` prints it."""

    store: str
    model_id: str | None
    withdrawn: bool  # whether no taxonomy that images were tagged with is in force
    runs: list[FilledRun]
    decoded: int
    ok: bool  # exit code 0
    next_steps: list[str]

    def lines(self) -> list[str]:
        """Return the summary as Markdown lines, readable as plain text."""
        if self.model_id is None:
            return [_NOTHING_TAGGED]
        if not self.runs:
            return [_nothing_lacks(self.store, self.model_id, withdrawn=self.withdrawn)]
        state = "complete" if self.ok else "NOT complete"
        lines = [f"backfill by model {self.model_id}: {state}", *(line for run in self.runs for line in run.lines())]
        return lines + [f"- next: {step}" for step in self.next_steps]


class PlannedBackfill(BaseModel):
    """What `backfill --plan --json` prints."""

    store: str
    model_id: str | None
    withdrawn: bool  # whether no taxonomy that images were tagged with is in force
    taxonomies: list[TaxonomyCost]

    def lines(self) -> list[str]:
        """Return the plan as text."""
        if self.model_id is None:
            return [_NOTHING_TAGGED]
        costs = [cost for taxonomy in self.taxonomies for cost in taxonomy.datasets if cost.labels]
        nothing = _nothing_lacks(self.store, self.model_id, withdrawn=self.withdrawn)
        return [dataset_line(cost) for cost in costs] or [nothing]


def describe_backfill(plan: BackfillPlan) -> PlannedBackfill:
    """Return what a backfill would take, for the taxonomies in force."""
    folder, model_id = Folder(plan.request.store), plan.model.model_id if plan.model is not None else None
    taxonomies = [read_taxonomy(folder, record.digest) for record in taxonomies_in_force(folder)]
    costs = [cost_of(folder, taxonomy, model_id) for taxonomy in taxonomies]
    return PlannedBackfill(store=plan.request.store, model_id=model_id, withdrawn=plan.withdrawn, taxonomies=costs)


def _nothing_lacks(store: str, model_id: str | None, *, withdrawn: bool) -> str:
    if not withdrawn:
        return _ALL_SCORED.format(model_id)
    status = store_command("taxonomy", "status", store=store)
    return f"nothing to backfill: every taxonomy was taken out of force; `{status}` says how each comes back"


def summarise_backfill(outcome: BackfillOutcome) -> BackfillSummary:
    """Return the summary of a backfill that has ended, well or not."""
    steps = ["tag the shards above again (`clipdecoder tag --labels new`), and nothing is lacking"]
    return BackfillSummary(
        store=outcome.plan.request.store,
        model_id=outcome.plan.model.model_id if outcome.plan.model is not None else None,
        withdrawn=outcome.plan.withdrawn,
        runs=[_filled(run) for run in outcome.runs],
        decoded=sum(report.decoded for run in outcome.runs for report in run.reports.values()),
        ok=outcome.complete,
        next_steps=[] if outcome.complete else steps,
    )


def _filled(run: RunOutcome) -> FilledRun:
    return FilledRun(
        run_id=run.plan.record.run_id,
        dataset=run.plan.record.dataset,
        taxonomy=run.plan.taxonomy.name,
        labels=[label.label_id for label in run.plan.vocabulary],
        shards=len(run.all_reports),
        images=run.statuses[SampleStatus.OK],
        decoded=sum(report.decoded for report in run.reports.values()),
        troubles=run.failures,
        wall_seconds=round(run.wall_seconds, 3),
    )

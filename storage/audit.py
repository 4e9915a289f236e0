"""Proof that nothing was lost: images in = ok + failed, for every shard of every run that the views show.

The shards are counted again and the parts read again; nothing is taken from the report but what is to be proven.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor

from schemas.commands import store_command
from schemas.errors import ShardPatternError, StoreError
from schemas.manifest import Promotion
from storage.catalog import check_store, shown_model
from storage.compacted import iter_unsound_compacted
from storage.files import Folder, iter_leftovers, transport_errors
from storage.findings import AuditReport, Finding, FindingCode, RunCounts
from storage.inventory import iter_missing, iter_unsound_curation, iter_unsound_ground_truth, read_sound_runs
from storage.keys import count_shared_keys
from storage.models import read_promotion
from storage.patterns import list_shards
from storage.runs import RUNS, StoredRun, chosen_run, last_asked, run_path
from storage.shard_audit import Counted, audit_shard
from storage.visibility import visible_samples, visible_scores

_READERS = 8  # shards are read at once; most of the time goes to waiting for the store


def audit_run(folder: Folder, name: str | None = None) -> AuditReport:
    """Return what does not hold of one run, named as `chosen_run` takes it, or with None of all runs that count now.

    Those are the runs of which the views show rows, and the newest of each dataset, which should be shown. Reads every
    part of these runs, and the tar headers of every shard once.

    Raises:
        StoreError: there is no store, it has no such run, or it cannot be read.
    """
    try:
        check_store(folder)
        runs, unreadable = read_sound_runs(folder)
        chosen = _chosen(folder, runs, name)
        prefix = RUNS if name is None else run_path(chosen[0].record.run_id, "")
        counted: Counted = {}
        audited = [_audit(folder, run, counted, _tagged(runs, run)) for run in chosen]
        found = [*unreadable, *iter_missing(folder, chosen)] if runs or unreadable else [_no_run()]
        found += iter_unsound_ground_truth(folder)
        found += iter_unsound_curation(folder, runs, shown_model(runs, _promotion(folder)))
        found += iter_unsound_compacted(folder, chosen)
        for _, findings in audited:
            found += findings
        return AuditReport(runs=tuple(counts for counts, _ in audited), findings=(*found, *_leftovers(folder, prefix)))
    except transport_errors() as error:
        raise StoreError(f"the store {folder.url!r} cannot be read: {error}") from error


def _chosen(folder: Folder, runs: Sequence[StoredRun], name: str | None) -> list[StoredRun]:
    if name is not None:
        return [chosen_run(runs, name)]
    model_id = shown_model(runs, _promotion(folder))
    shown = [*visible_samples(runs), *(visible_scores(runs, model_id) if model_id else ())]
    newest = {run.record.dataset: run.record.run_id for run in sorted(runs, key=last_asked)}
    current = {part.run_id for part in shown} | set(newest.values())
    return [run for run in runs if run.record.run_id in current]


def _promotion(folder: Folder) -> Promotion | None:
    """Return which model is promoted; a damaged record is a finding already, and then the newest run's is shown."""
    try:
        return read_promotion(folder)
    except StoreError:
        return None


def _tagged(runs: Sequence[StoredRun], run: StoredRun) -> set[str]:
    """Return the shards that need no rows in the run: they have them, or another run of the dataset stands for it.

    A partial run leaves shards out that have their labels from others, and others leave shards out that it did.
    """
    return {
        report.shard
        for other in runs
        if other is run or (other.record.dataset == run.record.dataset and (run.record.partial or other.record.partial))
        for report in other.reports
    }


def _audit(folder: Folder, run: StoredRun, counted: Counted, tagged: Set[str]) -> tuple[RunCounts, list[Finding]]:
    with ThreadPoolExecutor(_READERS) as pool:
        audits = list(pool.map(lambda report: audit_shard(folder, run.record, report, counted), run.reports))
    sound = [audit.report.parts["samples"] for audit in audits if audit.statuses is not None]
    counts = RunCounts(
        run_id=run.record.run_id,
        shards=len(audits),
        images=sum(audit.images for audit in audits),
        samples=sum(audit.num_samples for audit in audits),
        ok=sum(audit.num_ok for audit in audits),
        failed=sum(audit.num_samples - audit.num_ok for audit in audits),
        scores=sum(audit.scores for audit in audits),
        shared_keys=count_shared_keys(folder, sound),
    )
    return counts, [*_unfinished(run, tagged), *(finding for audit in audits for finding in audit.findings)]


def _no_run() -> Finding:
    return Finding(code=FindingCode.NO_RUN, run_id=None, message="the store has no run; `clipdecoder tag` makes one")


def _unfinished(run: StoredRun, tagged: Set[str]) -> Iterator[Finding]:
    """Yield what the run has not done: its manifest, and shards that its patterns name today and nobody tagged."""
    run_id, again = run.record.run_id, "the same `clipdecoder tag` command"
    if run.manifest is None and run.record.partial:
        message = f"the run did not end; `{store_command('backfill')}` goes on with it"
        yield Finding(code=FindingCode.INCOMPLETE, run_id=run_id, message=message)
    elif run.manifest is None:
        message = f"the run did not end; {again} goes on with it"
        yield Finding(code=FindingCode.INCOMPLETE, run_id=run_id, message=message)
    try:
        found = list_shards(run.record.patterns)
    except ShardPatternError as error:
        yield Finding(code=FindingCode.UNLISTABLE, run_id=run_id, message=str(error))
        return
    if found.root != run.record.root:  # relative patterns, and another working directory
        message = f"the patterns lead to {found.root} from here, and to {run.record.root} when the run was made"
        yield Finding(code=FindingCode.UNLISTABLE, run_id=run_id, message=message)
        return
    for ref in found.shards:
        if ref.shard not in tagged:
            message = f"{ref.url} has no rows{' in this run' * (not run.record.partial)}; {again} makes them"
            yield Finding(code=FindingCode.NO_REPORT, run_id=run_id, shard=ref.shard, message=message)


def _leftovers(folder: Folder, prefix: str) -> Iterator[Finding]:
    """Yield the temporary files of runs that were killed. (Those of a run that goes on now look the same.)"""
    for path in iter_leftovers(folder, prefix):
        run_id = path.split("/")[1]
        message = f"{path} was left by a process that was killed; it is in nobody's way and may be removed"
        yield Finding(code=FindingCode.LEFTOVER, run_id=run_id, message=message)

"""Which shards of a run are still to be visited."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from schemas.manifest import ShardReport
from schemas.sample import ShardStatus
from storage.files import Folder
from storage.patterns import ShardRef
from storage.runs import finished_reports
from storage.tokens import has_tokens, tokens_path

if TYPE_CHECKING:
    from flows.tagging.plan import TagPlan

_READERS = 16  # looking at a file of an object store is a round trip


def pending_shards(plan: TagPlan) -> tuple[dict[str, ShardReport], list[ShardRef]]:
    """Return the reports of the shards that are done, by shard, and the shards that are to be visited."""
    done = finished_reports(Folder(plan.request.store), plan.record.run_id, plan.shards)
    again: set[str] = set()
    if plan.request.retry_failed or plan.request.store_tokens:
        with ThreadPoolExecutor(_READERS) as pool:
            visits = pool.map(lambda report: needs_visit(plan, report), done.values())
            again = {shard for shard, visit in zip(done, visits, strict=True) if visit}
    return done, [ref for ref in plan.shards if ref.shard not in done or ref.shard in again]


def needs_visit(plan: TagPlan, report: ShardReport) -> bool:
    """Whether a shard that is done is visited again: to retry what failed, or for patch tokens that are to be kept."""
    if plan.request.retry_failed and (report.num_failed > 0 or report.status is not ShardStatus.OK):
        return True
    if not plan.request.store_tokens:
        return False
    record, folder = plan.record, Folder(plan.request.store)
    path = tokens_path(record.encoder_id, record.dataset, report.shard)
    return not has_tokens(folder, path, report, record.max_pixels)

"""Where statistics of pictures and groups of duplicates stand, and which of them are of what there is now.

`quality/<dataset>/<shard>-<digest of its fingerprint>.parquet`: the name says of which bytes a file is, so that a
listing tells what is there and what is out of date. `duplicates/<encoder_id>.parquet`: one file for a whole store.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from schemas.digests import digest_of
from schemas.manifest import Fingerprint
from storage.files import Folder, part_name
from storage.visibility import current_reports

if TYPE_CHECKING:
    from storage.runs import StoredRun

QUALITY, DUPLICATES = "quality", "duplicates"


def statistics_path(dataset: str, shard: str, fingerprint: Fingerprint) -> str:
    """Return where the statistics of these bytes of a shard stand."""
    digest = digest_of([fingerprint.size, fingerprint.tag])
    return f"{QUALITY}/{dataset}/{part_name(shard)}-{digest}.parquet"


def current_statistics(folder: Folder, runs: Iterable[StoredRun]) -> dict[str, int]:
    """Return the files with statistics of the newest bytes of each shard, with their sizes in bytes."""
    sizes = folder.sizes(QUALITY, ".parquet")
    if not sizes:
        return {}
    reports = current_reports(runs)
    wanted = (statistics_path(dataset, shard, report.fingerprint) for (dataset, shard), report in reports.items())
    return {path: sizes[path] for path in sorted(wanted) if path in sizes}


def statistics_by_shard(folder: Folder) -> dict[str, list[str]]:
    """Return all files of statistics, of present bytes and of others, by `shard_of`."""
    found: dict[str, list[str]] = {}
    for path in folder.list(QUALITY, ".parquet"):
        found.setdefault(shard_of(path), []).append(path)
    return found


def shard_of(path: str) -> str:
    """Return what the files of all versions of a shard begin with."""
    return path.rpartition("-")[0]


def by_dataset(statistics: Iterable[str]) -> dict[str, list[str]]:
    """Return files of statistics by the dataset that they are of."""
    found: dict[str, list[str]] = {}
    for path in statistics:
        found.setdefault(path.split("/")[1], []).append(path)
    return found


def duplicates_path(encoder_id: str) -> str:
    """Return where the groups by an encoder stand."""
    return f"{DUPLICATES}/{encoder_id}.parquet"

"""Labels that a taxonomy does not name any more although images were scored for them: nothing says what those mean."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.taxonomy import Taxonomy
from storage.files import Folder
from storage.runs import StoredRun
from storage.taxonomies import read_taxonomy, taxonomy_path


def removed_labels(folder: Folder, taxonomy: Taxonomy, runs: Iterable[StoredRun]) -> tuple[str, ...]:
    """Return the labels that have scores from a version of this taxonomy, and that are not in this one."""
    known = {label.id for label in taxonomy.labels}
    removed: dict[str, set[str]] = {}  # by the version that they were scored with
    for run in runs:
        if run.reports:
            scored = {label.label_id for label in run.record.vocabulary}
            removed.setdefault(run.record.taxonomy_digest, set()).update(scored - known)
    found = (labels for digest, labels in removed.items() if labels and _name_of(folder, digest) == taxonomy.name)
    return tuple(sorted(set[str]().union(*found)))


def _name_of(folder: Folder, digest: str) -> str | None:
    """Return a version's name; None if it is lost, which `audit` tells and tagging with it mends."""
    return read_taxonomy(folder, digest).name if folder.exists(taxonomy_path(digest)) else None

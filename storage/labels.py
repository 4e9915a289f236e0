"""What each label means now: its newest definition in each dataset, and the label that answers for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import duckdb

from schemas.taxonomy import Label, Taxonomy
from storage.files import Folder
from storage.query import run_query
from storage.runs import StoredRun, chosen_run, last_asked, read_runs
from storage.taxonomies import find_record, read_taxonomy, withdrawn_line


@dataclass(frozen=True, kw_only=True)
class CurrentLabel:
    """A label of a dataset as its newest taxonomy has it."""

    dataset: str
    label: Label
    target: str  # the label that answers for it: the end of its chain of merges, or itself; if retired, itself


def labels_of(current: Mapping[str, Sequence[Taxonomy]]) -> list[CurrentLabel]:
    """Return the labels of every dataset, given its taxonomies as `current_taxonomies` does, in their order.

    Where a dataset was scored with taxonomies of different names, each counts, so that the objects and the scenes of
    one dataset can be asked for together; a label that stands in two is the one that was asked for last.
    """
    found: dict[tuple[str, str], CurrentLabel] = {}
    for dataset, taxonomies in current.items():
        for taxonomy in taxonomies:
            for label in taxonomy.labels:
                # Retired and merged is retired: nothing new is scored for its target, so nothing old counts either.
                target = label.id if label.retired else taxonomy.resolve(label.id)
                meaning = CurrentLabel(dataset=dataset, label=label, target=target)
                found.setdefault((dataset, label.id), meaning)
    return list(found.values())


def current_taxonomies(
    folder: Folder, runs: Sequence[StoredRun], coming: Taxonomy | None = None
) -> dict[str, list[Taxonomy]]:
    """Return by dataset the version in force of each taxonomy that it was scored with, the one asked for last first.

    A dataset whose taxonomies were all withdrawn has none.

    Args:
        folder: the store.
        runs: of it.
        coming: a version to take for the one in force of its name.

    Raises:
        StoreError: a taxonomy that a run names is not in the store.
    """
    scored = {digest: read_taxonomy(folder, digest) for digest in {run.record.taxonomy_digest for run in runs}}
    in_force = _in_force(folder, {taxonomy.name for taxonomy in scored.values()})
    if coming is not None:
        in_force[coming.name] = coming
    found: dict[str, dict[str, Taxonomy | None]] = {}
    for run in sorted(runs, key=last_asked, reverse=True):
        taxonomy, known = scored[run.record.taxonomy_digest], found.setdefault(run.record.dataset, {})
        known.setdefault(taxonomy.name, in_force.get(taxonomy.name, taxonomy))
    return {
        dataset: [taxonomy for taxonomy in known.values() if taxonomy is not None] for dataset, known in found.items()
    }


def _in_force(folder: Folder, names: Iterable[str]) -> dict[str, Taxonomy | None]:
    """Return the versions in force of the taxonomies that have been, by name; None for one that was withdrawn."""
    records = (find_record(folder, name) for name in names)
    return {
        record.name: None if record.withdrawn else read_taxonomy(folder, record.digest)
        for record in records
        if record is not None
    }


def why_unlabelled(connection: duckdb.DuckDBPyConnection, folder: Folder, run_id: str | None = None) -> list[str]:
    """Return why a catalog has no label, and so no tag, where its taxonomies were withdrawn; nothing if it has some.

    Args:
        connection: the open catalog.
        folder: its store.
        run_id: of the run that it shows alone.
    """
    if run_query(connection, "SELECT label_id FROM internal.labels LIMIT 1").num_rows:
        return []
    runs = read_runs(folder)
    shown = runs if run_id is None else [chosen_run(runs, run_id)]
    names = {read_taxonomy(folder, digest).name for digest in {run.record.taxonomy_digest for run in shown}}
    return [line for name in sorted(names) if (line := said_if_withdrawn(folder, name)) is not None]


def said_if_withdrawn(folder: Folder, name: str) -> str | None:
    """Say that a taxonomy is out of force, and how it comes back; None of one that is in force."""
    record = find_record(folder, name)
    return withdrawn_line(record, folder.url) if record is not None and record.withdrawn else None

"""What each label means now: its newest definition in each dataset, and the label that answers for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.errors import StoreError
from schemas.taxonomy import Label, Taxonomy
from storage.files import Folder
from storage.runs import StoredRun, last_asked
from storage.taxonomies import digest_in_force, read_taxonomy, taxonomy_path


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


def current_taxonomies(folder: Folder, runs: Sequence[StoredRun]) -> dict[str, list[Taxonomy]]:
    """Return by dataset the version in force of each taxonomy that it was scored with, the one asked for last first.

    Raises:
        StoreError: a taxonomy that a run names is not in the store.
    """
    scored = {digest: _taxonomy(folder, digest) for digest in {run.record.taxonomy_digest for run in runs}}
    found: dict[str, dict[str, Taxonomy]] = {}
    for run in sorted(runs, key=last_asked, reverse=True):
        taxonomy, known = scored[run.record.taxonomy_digest], found.setdefault(run.record.dataset, {})
        if taxonomy.name not in known:
            known[taxonomy.name] = _in_force(folder, taxonomy.name) or taxonomy
    return {dataset: list(taxonomies.values()) for dataset, taxonomies in found.items()}


def _in_force(folder: Folder, name: str) -> Taxonomy | None:
    digest = digest_in_force(folder, name)
    return _taxonomy(folder, digest) if digest is not None else None


def _taxonomy(folder: Folder, digest: str) -> Taxonomy:
    try:
        return read_taxonomy(folder, digest)
    except FileNotFoundError:
        raise StoreError(
            f"{taxonomy_path(digest)} is missing from the store {folder.url!r}, and a run was made with it; "
            "run `clipdecoder tag` with that taxonomy again, and it is written anew"
        ) from None

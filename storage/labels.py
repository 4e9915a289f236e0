"""What each label means now: its newest definition in each dataset, and the label that answers for it."""

from __future__ import annotations

from collections.abc import Sequence
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
    target: str  # the label that answers for it: the end of its chain of merges, or itself


def current_labels(folder: Folder, runs: Sequence[StoredRun]) -> list[CurrentLabel]:
    """Return the labels of every dataset, in the order of their taxonomies.

    The version in force of the taxonomy decides. Where a dataset was scored with taxonomies of different names, each
    counts, so that the objects and the scenes of one dataset can be asked for together; a label that stands in two is
    the one that was asked for last.

    Raises:
        StoreError: a taxonomy that a run names is not in the store.
    """
    taxonomies = {digest: _taxonomy(folder, digest) for digest in {run.record.taxonomy_digest for run in runs}}
    found: dict[tuple[str, str], CurrentLabel] = {}
    decided: set[tuple[str, str]] = set()
    for run in sorted(runs, key=last_asked, reverse=True):
        name = taxonomies[run.record.taxonomy_digest].name
        if (run.record.dataset, name) in decided:
            continue
        decided.add((run.record.dataset, name))
        taxonomy = _in_force(folder, name) or taxonomies[run.record.taxonomy_digest]
        for label in taxonomy.labels:
            current = CurrentLabel(dataset=run.record.dataset, label=label, target=taxonomy.resolve(label.id))
            found.setdefault((run.record.dataset, label.id), current)
    return list(found.values())


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

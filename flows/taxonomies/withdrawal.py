"""Taking a taxonomy out of force: the views show none of its labels, and all that was ever made with it stays.

It is one small file that changes, so a command that was killed has done it or has not, and the same command does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pydantic import BaseModel

from schemas.commands import store_command
from schemas.counts import counted
from storage.catalog import check_store
from storage.files import Folder
from storage.labels import current_taxonomies
from storage.runs import read_runs
from storage.taxonomies import read_record, read_taxonomy, withdraw

_NAMED = 5  # datasets in a sentence


class Withdrawal(BaseModel):
    """What taking a taxonomy out of force does, or did: what `taxonomy withdraw --json` prints."""

    store: str
    taxonomy: str
    taxonomy_digest: str  # the version that is, or was, in force
    in_force: bool  # before
    since: datetime  # of what was before
    datasets: tuple[str, ...]  # that were tagged with it
    labels: tuple[str, ...]  # active ones that are shown no more, in some of these datasets or in all
    shared: tuple[str, ...]  # active ones that another taxonomy in force goes on showing in all of them
    planned: bool  # whether it is only said what would happen
    ok: bool = True  # exit code 0

    def lines(self) -> list[str]:
        """Return the summary as Markdown lines, readable as plain text."""
        return list(self._lines())

    def _lines(self) -> Iterator[str]:
        named = f"taxonomy {self.taxonomy}, version {self.taxonomy_digest}"
        if not self.in_force:
            yield f"{named}: out of force since {self.since:%Y-%m-%d %H:%M} UTC; nothing was done"
        elif self.planned:
            yield f"{named}: in force, and would be taken out of force"
        else:
            yield f"{named}: out of force now"
        more = f" and {len(self.datasets) - _NAMED} more" * (len(self.datasets) > _NAMED)
        tagged = ", ".join(self.datasets[:_NAMED]) + more or "none"
        yield f"- without tags: {counted(len(self.labels), 'label')}; datasets: {tagged}"
        if self.shared:
            yield f"- {counted(len(self.shared), 'label')} shown as before, by another taxonomy in force"
        yield (
            "- scores, answers, models and versions stay; "
            f"`{store_command('taxonomy', 'apply', self.taxonomy_digest, store=self.store)}` brings it back"
        )
        yield (
            "- `clipdecoder tag` and `clipdecoder taxonomy apply` with its file do so too: stop what is scheduled to "
            "run them"
        )


def plan_withdrawal(folder: Folder, name: str) -> Withdrawal:
    """Return what taking a taxonomy out of force would do. Touches nothing.

    Raises:
        StoreError: there is no store, or no taxonomy of this name was ever in force.
    """
    check_store(folder)
    record = read_record(folder, name)
    taxonomy, runs = read_taxonomy(folder, record.digest), read_runs(folder)
    tagged = current_taxonomies(folder, runs, coming=taxonomy)
    others = {
        dataset: {label.id for other in known if other.name != name for label in other.active_labels()}
        for dataset, known in sorted(tagged.items())
        if any(each.name == name for each in known)
    }
    active = [label.id for label in taxonomy.active_labels()]
    shared = [label_id for label_id in active if all(label_id in other for other in others.values())]
    return Withdrawal(
        store=folder.url,
        taxonomy=name,
        taxonomy_digest=record.digest,
        in_force=not record.withdrawn,
        since=record.since,
        datasets=tuple(others),
        labels=tuple(label_id for label_id in active if label_id not in shared),
        shared=tuple(shared),
        planned=True,
    )


def run_withdrawal(folder: Folder, name: str) -> Withdrawal:
    """Take a taxonomy out of force; one that is out already stays so.

    Raises:
        StoreError: there is no store or no such taxonomy, and nothing was done; or the store cannot be written.
    """
    planned = plan_withdrawal(folder, name)
    withdraw(folder, name)
    return planned.model_copy(update={"planned": False})

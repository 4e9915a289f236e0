"""What changed between two versions of a taxonomy, label by label. Pure: what it costs is for the store to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal

from schemas.record import Record
from schemas.taxonomy import Label, Taxonomy

# reworded: the texts that make the label's query are others, so it is scored anew. renamed: what people see is another
# (the name, or synonyms that are no part of the query). merged: into another label than before. All but added, reworded
# and some restored labels are views alone.
ChangeKind = Literal[
    "added", "removed", "retired", "restored", "renamed", "reworded", "reparented", "merged", "unmerged"
]


class LabelChange(Record):
    """One change of one label, in short texts; a label may have several."""

    label_id: str
    kind: ChangeKind
    before: str | None
    after: str | None
    texts_gone: tuple[str, ...] = ()  # reworded: texts of the query that are no longer in it
    texts_new: tuple[str, ...] = ()  # reworded: texts that were not
    by_templates: bool = False  # reworded: because the taxonomy's templates changed, and for no reason of its own


class TemplatesChange(Record):
    """The templates of all labels that have none of their own."""

    before: tuple[str, ...]
    after: tuple[str, ...]


class TaxonomyDiff(Record):
    """What is different in the new version. Order of labels and layout of the file make no difference."""

    old_name: str | None  # None: there was no version before
    old_digest: str | None
    new_name: str
    new_digest: str
    templates: TemplatesChange | None
    changes: tuple[LabelChange, ...]  # by label, in the order of the new file; labels that are gone come last
    # Labels that images are scored for now and were not, or with another query. The store knows which of them it has
    # scores of all the same: a restored label's may still be there.
    to_score: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether the two are one version."""
        return self.old_digest == self.new_digest

    def labels(self, *kinds: ChangeKind) -> tuple[str, ...]:
        """Return the labels with a change of one of these kinds."""
        return tuple(dict.fromkeys(change.label_id for change in self.changes if change.kind in kinds))


def diff_taxonomies(old: Taxonomy | None, new: Taxonomy) -> TaxonomyDiff:
    """Return every change from one version to the next; without an old one every label is added."""
    before = {label.id: label for label in old.labels} if old is not None else {}
    after = {label.id for label in new.labels}
    changes = [change for label in new.labels for change in _changes(old, before.get(label.id), new, label)]
    changes += [
        LabelChange(label_id=label.id, kind="removed", before=_described(label), after=None)
        for label in before.values()
        if label.id not in after
    ]
    known = {(label.label_id, label.query_digest) for label in old.vocabulary()} if old is not None else set()
    return TaxonomyDiff(
        old_name=old.name if old is not None else None,
        old_digest=old.digest if old is not None else None,
        new_name=new.name,
        new_digest=new.digest,
        templates=_templates(old, new),
        changes=tuple(changes),
        to_score=tuple(
            label.label_id for label in new.vocabulary() if (label.label_id, label.query_digest) not in known
        ),
    )


def _templates(old: Taxonomy | None, new: Taxonomy) -> TemplatesChange | None:
    if old is None or sorted(old.templates) == sorted(new.templates):
        return None
    return TemplatesChange(before=old.templates, after=new.templates)


def _changes(old: Taxonomy | None, before: Label | None, new: Taxonomy, after: Label) -> Iterator[LabelChange]:
    """Yield what is different about one label."""
    if old is None or before is None:
        yield LabelChange(label_id=after.id, kind="added", before=None, after=_described(after))
        return
    if before.retired != after.retired:
        kind: ChangeKind = "retired" if after.retired else "restored"
        yield LabelChange(label_id=after.id, kind=kind, before=_state(before), after=_state(after))
    if before.merged_into != after.merged_into:
        kind = "merged" if after.merged_into else "unmerged"
        yield LabelChange(label_id=after.id, kind=kind, before=before.merged_into, after=after.merged_into)
    reworded = _reworded(old, before, new, after)
    if before.name != after.name or (reworded is None and set(before.synonyms) != set(after.synonyms)):
        yield LabelChange(label_id=after.id, kind="renamed", before=_seen(before), after=_seen(after))
    if before.parent != after.parent:
        yield LabelChange(label_id=after.id, kind="reparented", before=before.parent, after=after.parent)
    if reworded is not None:
        yield reworded


def _reworded(old: Taxonomy, before: Label, new: Taxonomy, after: Label) -> LabelChange | None:
    """Return how the texts of a label's query changed; a mean does not know their order, so neither does this."""
    texts_before, texts_after = Counter(old.texts_of(before)), Counter(new.texts_of(after))
    if texts_before == texts_after:
        return None
    gone, added = tuple((texts_before - texts_after).elements()), tuple((texts_after - texts_before).elements())
    old_words_in_new_templates = old.model_copy(update={"templates": new.templates}).texts_of(before)
    return LabelChange(
        label_id=after.id,
        kind="reworded",
        before=_short(gone),
        after=_short(added),
        texts_gone=gone,
        texts_new=added,
        by_templates=Counter(old_words_in_new_templates) == texts_after,
    )


def _described(label: Label) -> str:
    state = _state(label)
    return label.name if state == "active" else f"{label.name} ({state})"


def _state(label: Label) -> str:
    if label.retired:
        return "retired"
    return f"merged into {label.merged_into}" if label.merged_into else "active"


def _seen(label: Label) -> str:
    """Return what people see of a label, and may call it."""
    return f"{label.name} ({', '.join(label.synonyms)})" if label.synonyms else label.name


def _short(texts: tuple[str, ...]) -> str | None:
    """Return the first text, and how many more there are."""
    if not texts:
        return None
    return texts[0] if len(texts) == 1 else f"{texts[0]} (+{len(texts) - 1})"

"""A taxonomy diff with its costs, as a person reads it: rows of a table, and sentences beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from flows.taxonomies.cost import DatasetCost, LabelCost, TaxonomyCost
from flows.taxonomies.untagged import untagged_line
from schemas.counts import counted
from schemas.taxonomy_diff import ChangeKind, LabelChange, TaxonomyDiff

CHANGE_COLUMNS = ("label", "change", "before", "after", "cost")
VIEWS_ONLY = "views only"
REFUSED = "refused: it has scores; retire or merge it"
_Lacking = dict[str, list[tuple[DatasetCost, LabelCost]]]

# After other changes a label is scored as before: if it lacks scores, they are not the reason.
_MAY_NEED_SCORES: frozenset[ChangeKind] = frozenset(("added", "restored", "reworded", "merged", "unmerged"))


def change_rows(
    diff: TaxonomyDiff, cost: TaxonomyCost | None, scored: Collection[str] = ()
) -> list[dict[str, str | None]]:
    """Return a row for each change of a label.

    What changed templates alone did is one of the `change_lines`, and so are the labels of a taxonomy without an
    earlier version, which are all added.

    Args:
        diff: what changed.
        cost: what the store lacks for the new version; None: that is not known.
        scored: removed labels that the store has scores of: `taxonomy apply` refuses to.
    """
    if diff.old_digest is None:
        return []
    lacking = cost.by_label() if cost is not None and cost.datasets else None
    return [
        {
            "label": change.label_id,
            "change": change.kind,
            "before": change.before,
            "after": change.after,
            "cost": REFUSED if change.kind == "removed" and change.label_id in scored else _cost_of(change, lacking),
        }
        for change in diff.changes
        if not change.by_templates
    ]


def change_lines(diff: TaxonomyDiff) -> Iterator[str]:
    """Yield which versions are compared, and what holds for many labels at once."""
    if diff.same:
        yield f"taxonomy {diff.new_name}: both are version {diff.new_digest}"
        return
    before = f"{diff.old_name} {diff.old_digest}" if diff.old_digest is not None else "nothing"
    yield f"taxonomy {before} -> {diff.new_name} {diff.new_digest}"
    if diff.old_digest is None:
        yield f"- all labels are new, {len(diff.changes):,} of them: no taxonomy of this name was in force before"
        return
    if diff.old_name not in (None, diff.new_name):
        yield f"- another name is another taxonomy: {diff.old_name!r} stays in force beside {diff.new_name!r}"
    if diff.templates is not None:
        reworded = sum(change.by_templates for change in diff.changes)
        before, after = (" | ".join(texts) for texts in (diff.templates.before, diff.templates.after))
        yield f"- templates changed: {reworded} labels reworded ({before} -> {after})"
    if not diff.changes and diff.templates is None:
        yield "- no label is different: only the order of texts, or what is written out, changed"


def cost_lines(diff: TaxonomyDiff, cost: TaxonomyCost) -> Iterator[str]:
    """Yield what scoring the new version would take, dataset by dataset."""
    if not cost.datasets:
        yield f"cost: unknown; {untagged_line(cost.taxonomy, cost.known)}"
        return
    if not cost.lacking:
        yield "cost: views only; no query is embedded, no score computed, no image read"
        return
    for dataset in cost.datasets:
        yield f"cost: {dataset_line(dataset)}"
    others = cost.lacking - set(diff.to_score) - set(diff.labels(*_MAY_NEED_SCORES))
    if others:
        yield (
            f"- {len(others)} of these labels did not change, and lack scores all the same: a model was promoted, or "
            "a run has not ended"
        )


def dataset_line(cost: DatasetCost) -> str:
    """Say what scoring a dataset would take."""
    if not cost.labels:
        return f"dataset {cost.dataset}: nothing; every label is scored"
    texts = sum(label.texts for label in cost.labels)
    return (
        f"dataset {cost.dataset}, model {cost.model_id}, scorer {cost.scorer}: {counted(len(cost.labels), 'query')} of "
        f"{counted(texts, 'text')}, {counted(cost.scores, 'score')} {_origin(cost)}"
    )


def _origin(cost: DatasetCost) -> str:
    """Say what the scores are computed from, and what must be read for that."""
    from rich.filesize import decimal

    if not cost.shards_to_read:
        return f"from stored {_features(cost)}; no image is read"
    kept = "; `clipdecoder tag --store-tokens` keeps what is needed" if cost.tokens else ""
    return (
        f"for which {counted(cost.images_to_read, 'image')} in {counted(cost.shards_to_read, 'shard')} "
        f"({decimal(cost.bytes_to_read)}) must be read, as the {_features(cost)} are not stored{kept}"
    )


def _features(cost: DatasetCost) -> str:
    return "patch tokens" if cost.tokens else "embeddings"


def _cost_of(change: LabelChange, lacking: _Lacking | None) -> str | None:
    """Say in a few words what a change costs; None where that is not known."""
    if change.kind not in _MAY_NEED_SCORES:
        return VIEWS_ONLY
    if lacking is None:
        return None
    found = lacking.get(change.label_id)
    return _scores(found) if found else VIEWS_ONLY


def _scores(found: list[tuple[DatasetCost, LabelCost]]) -> str:
    images, to_read = (sum(getattr(label, name) for _, label in found) for name in ("images", "images_to_read"))
    texts = max(label.texts for _, label in found)
    origin = f"{to_read:,} of them read" if to_read else f"from {_features(found[0][0])}"
    return f"{counted(texts, 'text')}, {counted(images, 'image')}, {origin}"

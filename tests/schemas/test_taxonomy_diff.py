"""The diff of two taxonomies: every kind of change, and that nothing which the views or the scores see escapes it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given

from schemas.taxonomy import Label, Taxonomy
from schemas.taxonomy_diff import LabelChange, TaxonomyDiff, diff_taxonomies
from tests.taxonomy_edits import TEMPLATES, first_taxonomy, taxonomies

OPPOSITE = {"added": "removed", "retired": "restored"}
OPPOSITE |= {after: before for before, after in OPPOSITE.items()}


def changed(label_id: str, **fields: Any) -> Taxonomy:
    """Return the first taxonomy with one label changed."""
    old = first_taxonomy()
    labels = (label.model_copy(update=fields) if label.id == label_id else label for label in old.labels)
    return old.model_copy(update={"labels": tuple(labels)})


def short(diff: TaxonomyDiff) -> list[tuple[str, str, str | None, str | None]]:
    return [(change.label_id, change.kind, change.before, change.after) for change in diff.changes]


@pytest.mark.parametrize(
    ("fields", "expected", "to_score"),
    [
        ({"retired": True}, [("bee", "retired", "active", "retired")], ()),
        ({"merged_into": "cat"}, [("bee", "merged", None, "cat")], ()),
        ({"parent": "ant"}, [("bee", "reparented", None, "ant")], ()),
        (
            {"name": "crimson disc", "query_names": ("red circle",)},
            [("bee", "renamed", "red circle", "crimson disc")],
            (),
        ),
        (
            {"synonyms": ("crimson disc",), "query_names": ("red circle",)},
            [("bee", "renamed", "red circle", "red circle (crimson disc)")],
            (),
        ),
        (
            {"name": "crimson disc"},
            [
                ("bee", "renamed", "red circle", "crimson disc"),
                ("bee", "reworded", "a photo of a red circle. (+1)", "a photo of a crimson disc. (+1)"),
            ],
            ("bee",),
        ),
        ({"description": "five points"}, [("bee", "reworded", None, "five points")], ("bee",)),
        ({"query_names": ("red circle",)}, [], ()),
        ({"name": "red circle"}, [], ()),
    ],
)
def test_each_kind_of_change(
    fields: dict[str, Any], expected: list[tuple[str, str, str | None, str | None]], to_score: tuple[str, ...]
) -> None:
    diff = diff_taxonomies(first_taxonomy(), changed("bee", **fields))
    assert (short(diff), diff.to_score) == (expected, to_score)


def test_a_name_and_a_synonym_that_change_places_are_views_alone() -> None:
    before, after = changed("bee", synonyms=("crimson",)), changed("bee", name="crimson", synonyms=("red circle",))
    diff = diff_taxonomies(before, after)
    assert short(diff) == [("bee", "renamed", "red circle (crimson)", "crimson (red circle)")] and diff.to_score == ()


def test_a_merge_moves_on_and_back() -> None:
    to_cat, to_ant = changed("bee", merged_into="cat"), changed("bee", merged_into="ant")
    assert short(diff_taxonomies(to_cat, to_ant)) == [("bee", "merged", "cat", "ant")]
    assert short(diff_taxonomies(to_cat, first_taxonomy())) == [("bee", "unmerged", "cat", None)]


def test_labels_come_and_go() -> None:
    old = first_taxonomy()
    labels = (*old.labels[1:], Label(id="elk", name="elk", retired=True), Label(id="fox", name="fox"))
    diff = diff_taxonomies(old, old.model_copy(update={"labels": labels}))
    assert short(diff) == [
        ("elk", "added", None, "elk (retired)"),
        ("fox", "added", None, "fox"),
        ("ant", "removed", "white circle", None),
    ]
    assert diff.to_score == ("fox",)
    assert diff.labels("added", "removed") == ("elk", "fox", "ant")


def test_without_an_old_version_every_label_is_added() -> None:
    diff = diff_taxonomies(None, first_taxonomy())
    assert diff.labels("added") == diff.to_score == ("ant", "bee", "cat")
    assert (diff.old_digest, diff.templates, diff.same) == (None, None, False)


def test_what_is_restored_or_merged_into_it_is_scored_again() -> None:
    """A label that was merged into a retired one has no change of its own, and is scored again all the same."""
    merged = changed("ant", merged_into="bee")
    labels = (label.model_copy(update={"retired": label.id == "bee"}) for label in merged.labels)
    retired = merged.model_copy(update={"labels": tuple(labels)})
    diff = diff_taxonomies(retired, merged)
    assert diff.labels("restored") == ("bee",) and diff.to_score == ("ant", "bee")


def test_templates_reword_every_label_without_its_own() -> None:
    old = changed("cat", templates=("{}",))
    diff = diff_taxonomies(old, old.model_copy(update={"templates": TEMPLATES[1]}))
    assert diff.templates is not None and diff.templates.after == ("{}",)
    assert [(change.label_id, change.by_templates) for change in diff.changes] == [("ant", True), ("bee", True)]
    assert diff.changes[0].texts_gone == ("a photo of a white circle.", "a white circle.")
    assert diff.changes[0].texts_new == ("white circle",)
    renamed = changed("bee", name="crimson disc").model_copy(update={"templates": TEMPLATES[1]})
    both = {change.label_id: change for change in diff_taxonomies(first_taxonomy(), renamed).changes}
    assert both["ant"].by_templates and not both["bee"].by_templates


@given(taxonomies(), taxonomies())
def test_nothing_that_the_views_or_the_scores_see_escapes(old: Taxonomy, new: Taxonomy) -> None:
    diff = diff_taxonomies(old, new)
    names = {change.label_id for change in diff.changes}
    for label_id in {label.id for label in (*old.labels, *new.labels)}:
        assert (label_id not in names) == (seen(old, label_id) == seen(new, label_id))
    known = {(label.label_id, label.query_digest) for label in old.vocabulary()}
    asked = [label.label_id for label in new.vocabulary() if (label.label_id, label.query_digest) not in known]
    assert list(diff.to_score) == asked
    assert diff_taxonomies(new, new).changes == () and diff_taxonomies(new, new).same


@given(taxonomies(), taxonomies())
def test_there_and_back_is_the_same_diff_turned_round(old: Taxonomy, new: Taxonomy) -> None:
    there, back = diff_taxonomies(old, new), diff_taxonomies(new, old)
    assert Counter(turned(change) for change in there.changes) == Counter(plain(change) for change in back.changes)


def seen(taxonomy: Taxonomy, label_id: str) -> object:
    """Return all of a label that anything but the file itself depends on."""
    for label in taxonomy.labels:
        if label.id == label_id:
            state = label.name, frozenset(label.synonyms), label.parent, label.merged_into, label.retired
            return state, tuple(sorted(taxonomy.texts_of(label)))
    return None


def plain(change: LabelChange) -> tuple[object, ...]:
    kind = "merged" if change.kind == "unmerged" else change.kind
    return change.label_id, kind, change.before, change.after, change.texts_gone, change.texts_new


def turned(change: LabelChange) -> tuple[object, ...]:
    label_id, kind, before, after, gone, new = plain(change)
    return label_id, OPPOSITE.get(str(kind), kind), after, before, new, gone

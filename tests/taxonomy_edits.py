"""What taxonomy owners do to a taxonomy, as values to be drawn: any list of edits gives a valid taxonomy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from hypothesis import strategies as st

from schemas.errors import TaxonomyError
from schemas.taxonomy import Label, Taxonomy, parse_taxonomy

IDS = ("ant", "bee", "cat", "dog", "elk", "fox")
WORDS = ("white circle", "red circle", "black star", "red square", "yellow star")
TEMPLATES = (("a photo of a {}.", "a {}."), ("{}",))

Kind = Literal[
    "rename", "rename the view", "synonym", "describe", "merge", "unmerge", "retire", "restore", "parent", "templates"
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Edit:
    """One edit of one label; `other` is what it is merged into or put under, `word` what it says then.

    A label that is not there yet is added, whatever the kind.
    """

    kind: Kind
    label_id: str
    other: str
    word: str

    def of(self, taxonomy: Taxonomy) -> Taxonomy:
        """Return the edited taxonomy; the same one where the edit makes no sense in it."""
        try:
            return parse_taxonomy(self._edited(taxonomy).model_dump_json())
        except TaxonomyError:
            return taxonomy

    def _edited(self, taxonomy: Taxonomy) -> Taxonomy:
        if self.kind == "templates":
            return taxonomy.model_copy(update={"templates": TEMPLATES[WORDS.index(self.word) % len(TEMPLATES)]})
        labels = [self._edited_label(label) if label.id == self.label_id else label for label in taxonomy.labels]
        if self.label_id not in {label.id for label in labels}:
            labels.append(Label(id=self.label_id, name=self.word))
        return taxonomy.model_copy(update={"labels": tuple(labels)})

    def _edited_label(self, label: Label) -> Label:
        change: dict[str, object] = {
            "rename": {"name": self.word},
            "rename the view": {"name": self.word, "query_names": label.query_names or (label.name, *label.synonyms)},
            "synonym": {"synonyms": (self.word,)},
            "describe": {"description": self.word},
            "merge": {"merged_into": self.other},
            "unmerge": {"merged_into": None},
            "retire": {"retired": True},
            "restore": {"retired": False},
            "parent": {"parent": self.other},
        }[self.kind]
        return label.model_copy(update=change)


def edits() -> st.SearchStrategy[Edit]:
    """Draw one edit."""
    some_id, some_word = st.sampled_from(IDS), st.sampled_from(WORDS)
    return st.builds(Edit, st.sampled_from(KINDS), some_id, some_id, some_word)


def first_taxonomy() -> Taxonomy:
    """Return the taxonomy that the edits begin with: three labels."""
    labels = tuple(Label(id=label_id, name=word) for label_id, word in zip(IDS[:3], WORDS[:3], strict=True))
    return Taxonomy(name="t", templates=TEMPLATES[0], labels=labels)


def edited(taxonomy: Taxonomy, changes: Iterable[Edit]) -> Taxonomy:
    """Return the taxonomy after all edits."""
    for edit in changes:
        taxonomy = edit.of(taxonomy)
    return taxonomy


def taxonomies() -> st.SearchStrategy[Taxonomy]:
    """Draw a taxonomy that edits lead to."""
    return st.lists(edits(), max_size=8).map(lambda changes: edited(first_taxonomy(), changes))

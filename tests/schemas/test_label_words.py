"""Which label an annotator's word means."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.label_words import LabelWords, normal_word
from schemas.taxonomy import Label, Taxonomy


def taxonomy(*labels: Label) -> Taxonomy:
    return Taxonomy(name="t", labels=labels)


STREET = taxonomy(
    Label(id="dog", name="Dog", synonyms=("Hound", "great  dane")),
    Label(id="cat", name="Straße Cat"),
    Label(id="puppy", name="puppy", merged_into="dog"),
    Label(id="pup", name="pup", merged_into="puppy"),
    Label(id="gone", name="gone", retired=True),
    Label(id="into-gone", name="vanished", merged_into="gone"),
)


def find(words: LabelWords, *asked: str) -> list[str]:
    return list(words.find(asked))


def test_ids_names_and_synonyms_whatever_their_case() -> None:
    words = LabelWords(STREET)
    assert find(words, "dog", "DOG", "Dog ", " hOUND", "great  dane", "STRASSE cat") == ["dog"] * 5 + ["cat"]
    assert not words.unknown


def test_merged_labels_are_found_as_those_that_answer_for_them() -> None:
    assert find(LabelWords(STREET), "puppy", "Pup") == ["dog", "dog"]


def test_merged_labels_can_be_had_as_themselves() -> None:
    words = LabelWords(STREET)
    assert list(words.named(("puppy", "Pup", "hound", "gone"))) == ["puppy", "pup", "dog"]
    assert words.unknown == {"gone": 1}
    shared = LabelWords(
        taxonomy(
            Label(id="b", name="sofa", merged_into="c"),
            Label(id="c", name="couch", synonyms=("Settee",)),
            Label(id="a", name="Sofa", synonyms=("settee",), merged_into="c"),
        )
    )
    assert list(shared.named(("sofa", "settee", "a"))) == ["a", "c", "a"]


def test_retired_labels_are_kept_where_no_other_has_the_word() -> None:
    words = LabelWords(STREET)
    assert list(words.kept(("gone", "Vanished", "dog", "horse"))) == ["gone", "into-gone", "dog"]
    assert [words.is_retired(label_id) for label_id in ("gone", "into-gone", "dog", "puppy")] == [
        True,
        True,
        False,
        False,
    ]
    assert words.unknown == {"horse": 1} and not {"gone", "vanished"} & words.meanings.keys()
    shared = LabelWords(
        taxonomy(
            Label(id="a", name="sofa", synonyms=("seat",)),
            Label(id="b", name="bench", synonyms=("seat",)),
            Label(id="old", name="Sofa", synonyms=("seat", "couch"), retired=True),
        )
    )
    assert list(shared.kept(("sofa", "seat", "couch", "old"))) == ["a", "old", "old"]


def test_words_without_a_label_are_counted_as_they_are_written() -> None:
    words = LabelWords(STREET)
    assert find(words, "horse", "dog", "gone", "Horse", "horse", "vanished", "") == ["dog"]
    assert words.unknown == {"horse": 2, "Horse": 1, "gone": 1, "vanished": 1, "": 1}


def test_a_word_that_two_labels_share_means_neither() -> None:
    words = LabelWords(
        taxonomy(
            Label(id="crane-bird", name="crane", synonyms=("wader",)),
            Label(id="crane-machine", name="Crane"),
        )
    )
    assert find(words, "crane", "CRANE", "wader", "crane-machine") == ["crane-bird", "crane-machine"]
    assert words.unknown == {"crane": 1, "CRANE": 1}


def test_an_id_counts_for_more_than_anothers_name() -> None:
    words = LabelWords(taxonomy(Label(id="bat", name="club"), Label(id="animal", name="bat", synonyms=("club",))))
    assert find(words, "bat", "Bat", "club", "animal") == ["bat", "bat", "animal"]
    assert words.unknown == {"club": 1}


def test_a_word_that_a_label_shares_with_its_merged_one_is_clear() -> None:
    words = LabelWords(taxonomy(Label(id="a", name="sofa"), Label(id="b", name="Sofa", merged_into="a")))
    assert find(words, "sofa", "b") == ["a", "a"]


@given(
    names=st.lists(st.sampled_from(("a", "A", "b", "c", "straße", "STRASSE")), min_size=1, max_size=6),
    merges=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_every_word_means_an_active_label_or_none(names: list[str], merges: list[bool]) -> None:
    labels = [
        Label(id=f"l{n}", name=name, merged_into="l0" if n and merged else None)
        for n, (name, merged) in enumerate(zip(names, merges, strict=False))
    ]
    words = LabelWords(taxonomy(*labels))
    active = {label.id for label in labels if label.active}
    assert set(find(words, *names)) <= active
    assert find(words, *(label.id for label in labels)) == [label.merged_into or label.id for label in labels]
    assert all(list(words.named((word,))) == [label_id] for word, label_id in words.meanings.items())
    assert all(normal_word(word) == word for word in words.meanings)

"""The taxonomy's rules: every violation is an error that names the label and the line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import TaxonomyError
from schemas.taxonomy import Label, Taxonomy, parse_taxonomy

GOOD = """\
name: street
templates: ["a photo of a {}.", "there is a {} in the scene."]
labels:
  - id: dog
    name: dog
    synonyms: [puppy]
    description: a domestic dog
    parent: animal
  - {id: animal, name: animal}
  - {id: hound, name: hound, merged_into: dog}
  - {id: basset, name: basset, merged_into: hound}
  - {id: pager, name: pager, retired: true}
"""


def problems_of(text: str) -> list[str]:
    with pytest.raises(TaxonomyError) as caught:
        parse_taxonomy(text, source="t.yaml")
    return list(caught.value.problems)


def test_good_file() -> None:
    taxonomy = parse_taxonomy(GOOD)
    assert [label.id for label in taxonomy.active_labels()] == ["dog", "animal"]
    assert taxonomy.resolve("basset") == "dog"
    assert taxonomy.texts_of(taxonomy.labels[0]) == (
        "a photo of a dog.",
        "there is a dog in the scene.",
        "a photo of a puppy.",
        "there is a puppy in the scene.",
        "a domestic dog",
    )


def test_own_templates_replace_the_shared_ones() -> None:
    text = "name: t\nlabels:\n  - {id: a, name: '{x}', templates: ['one {}', 'two {}']}\n"
    taxonomy = parse_taxonomy(text)
    assert taxonomy.texts_of(taxonomy.labels[0]) == ("one {x}", "two {x}")


def test_digest_ignores_layout_and_order_and_sees_everything_else() -> None:
    taxonomy = parse_taxonomy(GOOD)
    shuffled = Taxonomy(name="street", templates=taxonomy.templates, labels=tuple(reversed(taxonomy.labels)))
    assert shuffled.digest == taxonomy.digest
    for change in ({"name": "dawg"}, {"parent": None}, {"retired": True}, {"synonyms": ()}):
        label = taxonomy.labels[0].model_copy(update=change)
        changed = taxonomy.model_copy(update={"labels": (label, *taxonomy.labels[1:])})
        assert changed.digest != taxonomy.digest, change


@pytest.mark.parametrize(
    ("labels", "line", "words"),
    [
        ("- {id: a, name: x}\n- {id: a, name: y}", 4, "label 'a': id already used at t.yaml:3"),
        ("- {id: a, name: x, parent: nobody}", 3, "parent 'nobody' is not a label"),
        ("- {id: a, name: x, merged_into: nobody}", 3, "merged_into 'nobody' is not a label"),
        (
            "- {id: a, name: x, merged_into: b}\n- {id: b, name: y, merged_into: a}",
            3,
            "merged_into leads back to itself",
        ),
        ("- {id: a, name: x, parent: a}", 3, "parent leads back to itself"),
        ("- {id: A b, name: x}", 3, "'A b' must be made of a-z"),
        ("- {id: a, name: no}", 3, "name: must be text, got False; put it in quotes"),
        ("- {id: a, name: ''}", 3, "label 'a': name:"),
        ("- {id: a, name: x, colour: red}", 3, "unknown field 'colour'; known: description, id"),
        ("- {id: a}", 3, "name: required, and not given"),
        ("- {id: a, name: x, templates: [a photo]}", 3, "template 'a photo' has no {}"),
        ("- {id: a, name: x, templates: []}", 3, "label 'a': templates:"),
        ("- {id: all, name: x}", 3, "label 'all': this id is a word of"),
        ("- dog", 3, "label 1: must be a mapping such as {id: dog, name: dog}, got 'dog'"),
        ("- {id: a, name: x}\n- null", 4, "label 2: must be a mapping such as {id: dog, name: dog}, got null"),
    ],
)
def test_violations_name_label_and_line(labels: str, line: int, words: str) -> None:
    problems = problems_of(f"name: t\nlabels:\n{labels}\n")
    assert any(problem.startswith(f"t.yaml:{line}:") and words in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "t.yaml:1: not valid YAML"),
        (
            "name: t\ntemplates: [a {}.]\nlabels: []",
            "t.yaml:2: not valid YAML: expected ',' or ']', but got '{'; a template",
        ),
        ("name: t\nname: u\nlabels: [{id: a, name: a}]", "t.yaml:2: not valid YAML: key 'name' stands twice"),
        ("name: t\nlabels:\n- {id: a, name: a, name: b}", "t.yaml:3: not valid YAML: key 'name' stands twice"),
        ("- a\n- b", "expected a mapping"),
        ("", "expected a mapping"),
        ("name: t\nlabels: []", "labels: must name one label at least"),
        ("name: t", "labels: required"),
        ("name: t\nlabels: 5", "labels: must be a list, got 5"),
        ("name: t\nlabels: null", "labels: must be a list, got null"),
        ("nam: t\nlabels: [{id: a, name: a}]", "unknown field 'nam'; known: labels, name, templates"),
        ("name: !!python/object/apply:os.system [ls]\nlabels: []", "not valid YAML"),
    ],
)
def test_violations_of_the_file(text: str, words: str) -> None:
    assert any(words in problem for problem in problems_of(text))


def test_all_violations_are_told_at_once() -> None:
    assert len(problems_of("name: t\nlabels:\n- {id: a, name: x, parent: q}\n- {id: b, name: x, parent: q}\n")) == 2


def test_unknown_label_in_vocabulary_names_the_known() -> None:
    taxonomy = parse_taxonomy(GOOD)
    with pytest.raises(TaxonomyError, match=r"'cat'; known: animal, basset, dog, hound"):
        taxonomy.vocabulary(["cat"])
    with pytest.raises(TaxonomyError, match="retired label 'pager'"):
        taxonomy.vocabulary(["pager"])


@given(st.text(max_size=200))
def test_no_text_is_a_traceback(text: str) -> None:
    try:
        parse_taxonomy(text)
    except TaxonomyError as error:
        assert error.problems


def test_json_round_trip() -> None:
    taxonomy = parse_taxonomy(GOOD)
    assert Taxonomy.model_validate_json(taxonomy.model_dump_json()).digest == taxonomy.digest
    assert isinstance(taxonomy.labels[0], Label)

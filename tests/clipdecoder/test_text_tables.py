"""Queries from a table are what a text tower with those embeddings would give."""

from __future__ import annotations

import numpy as np
import pytest

from clipdecoder.encoders.text_tables import TableText
from schemas.errors import ModelError, TaxonomyError
from schemas.taxonomy import VocabularyLabel, parse_taxonomy

TEXTS = ["a dog", "a puppy", "a cat"]
VECTORS = np.array([[3, 0, 0, 0], [0, 0.5, 0, 0], [1, 1, 1, 1]], np.float32)


def label_of(label_id: str, *texts: str) -> VocabularyLabel:
    return VocabularyLabel(label_id=label_id, name=label_id, texts=texts)


def test_a_query_is_the_normalised_mean_of_normalised_vectors() -> None:
    table = TableText(TEXTS, VECTORS, "table:t")
    queries_KD = table.encode_vocabulary([label_of("cat", "a cat"), label_of("dog", "a dog", "a puppy")])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(queries_KD, [[0.5] * 4, [half, half, 0, 0]], atol=1e-6)
    assert queries_KD.dtype == np.float32 and table.width == 4
    assert table.encode_vocabulary([]).shape == (0, 4)


def test_the_id_is_of_texts_and_vectors_not_of_their_order_or_type() -> None:
    table = TableText(TEXTS, VECTORS, "table:t")
    shuffled = TableText([TEXTS[i] for i in (2, 0, 1, 0)], VECTORS[[2, 0, 1, 0]].astype(np.float64), "table:other")
    assert shuffled.text_encoder_id == table.text_encoder_id
    changed = VECTORS + np.float32(1e-6)
    assert TableText(TEXTS, changed, "table:t").text_encoder_id != table.text_encoder_id
    assert TableText([*TEXTS[:2], "a Cat"], VECTORS, "table:t").text_encoder_id != table.text_encoder_id


def test_each_missing_text_is_a_problem_with_its_line() -> None:
    taxonomy = parse_taxonomy(
        """
name: t
templates: ["a {}"]
labels:
  - {id: dog, name: dog, synonyms: [puppy]}
  - {id: cow, name: cow, description: an animal}
  - {id: gone, name: gone, retired: true}
""",
        source="labels.yaml",
    )
    with pytest.raises(TaxonomyError) as caught:
        TableText(TEXTS, VECTORS, "table:t").check_texts(taxonomy)
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].startswith("labels.yaml:6: label 'cow': no embedding of 'a cow'")
    assert "3 texts of table:t; add it" in caught.value.problems[1] and "'an animal'" in caught.value.problems[1]
    TableText([*TEXTS, "a cow", "an animal"], np.ones((5, 2)), "table:t").check_texts(taxonomy)


@pytest.mark.parametrize(
    ("texts", "vectors", "words"),
    [
        (["a"], [[0.0, 0.0]], "vector of 'a' is all zeros"),
        (["a", "b"], [[1.0], [np.nan]], "vector of 'b' is not finite"),
        (["a"], [[np.inf]], "not finite"),
        (["a"], [[1e300]], "not finite"),
        (["a", "a"], [[1.0], [2.0]], "'a' stands twice"),
        (["a", "b"], [[1.0]], r"2 texts and vectors of shape \(1, 1\)"),
        ([], np.zeros((0, 3)), "0 texts"),
        (["a"], np.zeros((1, 0)), "1 texts"),
    ],
)
def test_vectors_that_point_nowhere_are_refused(texts: list[str], vectors: list[list[float]], words: str) -> None:
    with pytest.raises(ModelError, match=f"table:bad: .*{words}"):
        TableText(texts, np.array(vectors), "table:bad")


def test_vectors_of_extreme_length_keep_their_direction() -> None:
    table = TableText(["a", "b"], np.array([[1e-30, 1e-30], [3e38, 3e38]]), "t")
    np.testing.assert_allclose(table.encode_vocabulary([label_of("x", "a"), label_of("y", "b")]), np.sqrt(0.5))

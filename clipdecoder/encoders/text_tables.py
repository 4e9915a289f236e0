"""Label queries from a table of precomputed text embeddings, for backbones that have no text tower.

Shapes: M texts, K labels, D embedding width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdecoder.encoders.text import average_texts
from schemas.digests import digest_of
from schemas.errors import ModelError, TaxonomyError
from schemas.taxonomy import Taxonomy, VocabularyLabel


class TableText:
    """A text encoder that looks texts up, each exactly as it is written.

    `text_encoder_id` hashes the texts, sorted, and their vectors: the order of the rows decides nothing.
    """

    def __init__(self, texts: Sequence[str], vectors_MD: NDArray[np.floating], name: str) -> None:
        """Take one vector per text; equal texts may stand twice if their vectors are equal.

        Args:
            texts: what is looked up, templates filled in.
            vectors_MD: of any length but zero; they are L2-normalised here.
            name: of the file, for errors and records.

        Raises:
            ModelError: no text, a vector that is not finite or has no direction, one text with different vectors.
        """
        self.name = name
        with np.errstate(over="ignore"):  # infinite, and refused below
            vectors_MD = np.asarray(vectors_MD, np.float32)
        _check_vectors(texts, vectors_MD, name)
        self.width = int(vectors_MD.shape[1])
        self._rows = {text: row for row, text in enumerate(texts)}
        in_order = sorted(self._rows)
        ordered_MD = np.ascontiguousarray(vectors_MD[[self._rows[text] for text in in_order]], "<f4")
        self.text_encoder_id = digest_of(
            {"texts": in_order, "width": self.width, "vectors": hashlib.sha256(ordered_MD.data).hexdigest()}
        )
        exact_MD = vectors_MD.astype(np.float64)
        unit_MD = exact_MD / np.linalg.norm(exact_MD, axis=1, keepdims=True)
        self._unit_MD = torch.from_numpy(unit_MD.astype(np.float32))

    def encode_vocabulary(self, vocabulary: Sequence[VocabularyLabel]) -> NDArray[np.float32]:
        """Return queries_KD, float32, L2-normalised: the mean of each label's normalised vectors, normalised.

        A text that the table lacks is a KeyError: `check_texts` refuses it beforehand.
        """
        if not vocabulary:
            return np.empty((0, self.width), np.float32)
        return average_texts(vocabulary, self._look_up)

    def check_texts(self, taxonomy: Taxonomy) -> None:
        """Refuse a taxonomy with texts that the table lacks.

        Raises:
            TaxonomyError: with one problem per missing text, naming line, label, text and table.
        """
        problems = list(self._missing(taxonomy))
        if problems:
            raise TaxonomyError(problems)

    def _look_up(self, texts: Sequence[str]) -> Tensor:
        return self._unit_MD[[self._rows[text] for text in texts]]

    def _missing(self, taxonomy: Taxonomy) -> Iterator[str]:
        for label in taxonomy.scored_labels():
            for text in taxonomy.texts_of(label):
                if text not in self._rows:
                    yield (
                        f"{taxonomy.locate(label.id)}: label {label.id!r}: no embedding of {text!r} among the "
                        f"{len(self._rows)} texts of {self.name}; add it to the table"
                    )


def _check_vectors(texts: Sequence[str], vectors_MD: NDArray[np.float32], name: str) -> None:
    if vectors_MD.ndim != 2 or len(texts) != len(vectors_MD) or not vectors_MD.size:
        raise ModelError(f"{name}: {len(texts)} texts and vectors of shape {vectors_MD.shape}; one per text is needed")
    norms_M = np.linalg.norm(vectors_MD.astype(np.float64), axis=1)
    for text, norm in zip(texts, norms_M, strict=True):
        if not (np.isfinite(norm) and norm > 0):
            what = "is all zeros" if norm == 0 else "is not finite"
            raise ModelError(f"{name}: the vector of {text!r} {what}; embed that text again")
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        if not np.array_equal(vectors_MD[first.setdefault(text, row)], vectors_MD[row]):
            raise ModelError(f"{name}: {text!r} stands twice, with different vectors; keep one of the rows")

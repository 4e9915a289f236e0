"""What a model with a vocabulary is, and the scores that are kept of what it says.

Shapes: N samples, K labels, D embedding width, T patch tokens, C token width, R rows of one chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdecoder.scoring.label_maps import CHUNK_CELLS, LabelMaps
from clipdecoder.scoring.selection import Cells, kept_cells


@dataclass(frozen=True)
class KeptScores:
    """The kept cells of the sample x label table, sorted by label, then sample. All arrays have one length."""

    sample: NDArray[np.int32]  # row of the embeddings
    label: NDArray[np.int32]  # row of the queries
    logit: NDArray[np.float32]  # as the scorer gives it; of `clip` the cosine, -1 to 1
    score: NDArray[np.float32]  # sigmoid(slope * logit + intercept), 0 to 1

    def __len__(self) -> int:
        return len(self.sample)


class VocabularyScorer(Protocol):
    """A model with a vocabulary: what gives every image a logit for every label."""

    @property
    def maps(self) -> LabelMaps:
        """What makes scores of the logits."""

    @property
    def needs_tokens(self) -> bool:
        """Whether patch tokens are looked at."""

    @property
    def cells_per_image(self) -> int:
        """Numbers held per image while scoring, which is what memory is shared out by."""

    @property
    def device(self) -> torch.device:
        """Where logits are computed."""

    def logits(self, embeddings_RD: NDArray[np.float16], tokens_RTC: NDArray[np.float16] | None) -> NDArray[np.float32]:
        """Return logits_RK of arrays: see `device_logits`."""

    def device_logits(self, embeddings_RD: Tensor, tokens_RTC: Tensor | None) -> Tensor:
        """Return logits_RK, float32, of float16 features on the device.

        An image's logits depend on no other image, on a processor to the bit, and a label's on no other label.
        """


def keep_scores(
    embeddings_ND: NDArray[np.float16],
    tokens_NTC: NDArray[np.float16] | None,
    scorer: VocabularyScorer,
    *,
    floor: float,
    top_k: int,
    chunk_rows: int | None = None,
) -> KeptScores:
    """Score every sample for every label; keep `score >= floor` and the `top_k` best labels of each sample.

    Equal labels rank by their order. Embeddings are taken as stored (float16), so scores from stored features and
    from fresh ones are the same numbers.

    Args:
        embeddings_ND: L2-normalised and finite: samples that failed never get here.
        tokens_NTC: patch tokens of the same samples; needed where `scorer.needs_tokens`.
        scorer: gives logits and their maps to scores.
        floor: lowest score kept for any sample.
        top_k: labels kept per sample whatever their score.
        chunk_rows: samples at once; by default as many as keep memory near `CHUNK_CELLS` whatever K is.
    """
    assert _all_finite(embeddings_ND), "a sample without a finite embedding has a failure row, not scores"
    rows = chunk_rows or max(1, CHUNK_CELLS // max(1, scorer.cells_per_image))
    chunks: list[Cells] = []
    for start in range(0, len(embeddings_ND), rows):
        logits_RK = _logits(scorer, embeddings_ND, tokens_NTC, slice(start, start + rows))
        cells = kept_cells(logits_RK, scorer.maps, floor, top_k)
        chunks.append(cells._replace(sample=cells.sample + start))
    return sorted_by_label(chunks)


def _all_finite(numbers: NDArray[np.float16]) -> bool:
    """Return whether no number is infinite or NaN: by its exponent, as asking NumPy costs as much as the scores do."""
    return bool((numbers.view(np.uint16) & 0x7C00).max(initial=0) < 0x7C00)


def all_logits(
    embeddings_ND: NDArray[np.float16], tokens_NTC: NDArray[np.float16] | None, scorer: VocabularyScorer
) -> NDArray[np.float32]:
    """Return logits_NK of all samples, computed some at a time."""
    rows = max(1, CHUNK_CELLS // max(1, scorer.cells_per_image))
    logits_NK = np.empty((len(embeddings_ND), len(scorer.maps.slope_K)), np.float32)
    for start in range(0, len(embeddings_ND), rows):
        chunk = slice(start, start + rows)
        logits_NK[chunk] = _logits(scorer, embeddings_ND, tokens_NTC, chunk).cpu().numpy()
    return logits_NK


def array_logits(
    scorer: VocabularyScorer, embeddings_RD: NDArray[np.float16], tokens_RTC: NDArray[np.float16] | None
) -> NDArray[np.float32]:
    """Return a scorer's logits_RK of arrays."""
    return np.asarray(_logits(scorer, embeddings_RD, tokens_RTC, slice(None)).cpu().numpy())


def tensor_of(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array on a device; a copy where it is read-only, which PyTorch cannot wrap."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)


def sorted_by_label(chunks: Sequence[Cells]) -> KeptScores:
    """Return kept cells in the order in which they are stored: by label, then by sample."""
    none = Cells(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float32))
    sample, label, logit, score = (np.concatenate(column) for column in zip(none, *chunks, strict=True))
    # Cells come in the order of samples, which a stable sort keeps. Numbers of 16 bits it sorts by their digits.
    narrow = label.max(initial=0) <= np.iinfo(np.uint16).max
    order = np.argsort(label.astype(np.uint16) if narrow else label, kind="stable")
    return KeptScores(
        sample=sample[order].astype(np.int32),
        label=label[order].astype(np.int32),
        logit=logit[order],
        score=score[order],
    )


def _logits(
    scorer: VocabularyScorer,
    embeddings_ND: NDArray[np.float16],
    tokens_NTC: NDArray[np.float16] | None,
    rows: slice,
) -> Tensor:
    tokens = None
    if scorer.needs_tokens:
        assert tokens_NTC is not None, "this scorer looks at patch tokens"
        tokens = tensor_of(tokens_NTC[rows], scorer.device)
    with torch.inference_mode():
        return scorer.device_logits(tensor_of(embeddings_ND[rows], scorer.device), tokens)

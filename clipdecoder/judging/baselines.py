"""What a scorer must beat: closed-form regressions on pooled embeddings, and a constant.

All are fitted on the training images. The ridge to text can score any label, the ridge per label only those it saw.

Shapes: N images, K labels, D embedding width, E text width, M outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.metrics import Floats, Targets8, mean_average_precision
from clipdecoder.scoring.label_maps import CHUNK_CELLS

Doubles = NDArray[np.float64]

# Weights of the penalty that are tried, relative to the mean square of an embedding's component summed over images.
PENALTIES = tuple(10.0**power for power in np.arange(-4, 2.1, 0.5))


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Pooled embeddings of images, L2-normalised, and their ground truth for the seen labels."""

    embeddings_ND: Floats
    targets_NK: Targets8


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """A linear map with intercept, from embeddings to M outputs."""

    weights_DM: NDArray[np.float32]
    offset_M: NDArray[np.float32]
    penalty: float

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> Ridge:
        """Return the ridge that `arrays` took apart."""
        return cls(weights_DM=arrays["weights"], offset_M=arrays["offset"], penalty=float(arrays["penalty"][0]))

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the ridge as arrays by name, to be stored."""
        return {"weights": self.weights_DM, "offset": self.offset_M, "penalty": np.array([self.penalty], np.float32)}

    def outputs(self, embeddings_ND: Floats) -> NDArray[np.float32]:
        """Return outputs_NM."""
        return embeddings_ND.astype(np.float32) @ self.weights_DM + self.offset_M

    def cosines(self, embeddings_ND: Floats, queries_KM: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits_NK, the cosine of output and (L2-normalised) query, of a ridge to text."""
        outputs_NM = self.outputs(embeddings_ND)
        outputs_NM /= np.maximum(np.linalg.norm(outputs_NM, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return outputs_NM @ queries_KM.T


def ridge_to_text(
    train: Examples, validation: Examples, queries_KE: NDArray[np.float32], penalties: Sequence[float] = PENALTIES
) -> Ridge:
    """Regress embeddings onto the mean query of an image's labels; a label's logit is the cosine of output and query.

    Images without a positive have no such mean and are left out; at least one image has one. The penalty of the best
    mAP on the validation images is taken. The usual first baseline of zero-shot work: a linear map into the space of
    the labels' texts. With cosines it is at its strongest: plain products of output and query rank worse.
    """
    labelled = np.flatnonzero((train.targets_NK == 1).any(axis=1))

    def mean_queries(rows: slice) -> Doubles:
        positive_RK = (train.targets_NK[labelled[rows]] == 1).astype(np.float64)
        return np.asarray(positive_RK @ queries_KE / positive_RK.sum(axis=1, keepdims=True))

    return _best(_ridges(train.embeddings_ND[labelled], mean_queries, penalties), validation, queries_KE)


def label_ridge(train: Examples, validation: Examples, penalties: Sequence[float] = PENALTIES) -> Ridge:
    """Regress embeddings onto the targets of each label: outputs are the logits of the seen labels.

    An unknown cell counts as the label's mean. The penalty of the best mAP on the validation images is taken.
    """
    rate_K = label_frequencies(train.targets_NK)

    def filled(rows: slice) -> Doubles:
        targets_RK = train.targets_NK[rows]
        return np.where(targets_RK >= 0, targets_RK, rate_K)

    return _best(_ridges(train.embeddings_ND, filled, penalties), validation, None)


def label_frequencies(targets_NK: Targets8) -> Doubles:
    """Return the share of positives of each label among its annotated images; 0 where nobody said anything."""
    return np.asarray((targets_NK == 1).sum(axis=0) / np.maximum((targets_NK >= 0).sum(axis=0), 1), np.float64)


def constant_scores(frequency_K: Floats, targets_NK: Targets8) -> Doubles:
    """Return scores_K of the predictor that never looks at an image: each label's frequency.

    For seen labels, the frequency in the training images. Novel labels have none there; they get their frequency in
    the evaluated images, which no honest predictor knows: what beats this constant beats any.

    Args:
        frequency_K: in the training images; NaN for labels that are not known there.
        targets_NK: of the evaluated images.
    """
    return np.where(np.isnan(frequency_K), label_frequencies(targets_NK), frequency_K).astype(np.float64)


def _ridges(embeddings_ND: Floats, wanted: Callable[[slice], Doubles], penalties: Sequence[float]) -> Iterator[Ridge]:
    """Yield the solution for each penalty; the costly part, one eigendecomposition, is done once.

    `wanted` gives the outputs of a block of images (R, M), so that the whole table of targets never stands in memory.
    """
    mean_D = embeddings_ND.mean(axis=0, dtype=np.float64)
    width, num_outputs = len(mean_D), wanted(slice(0, 1)).shape[1]
    gram_DD, cross_DM, sum_M = np.zeros((width, width)), np.zeros((width, num_outputs)), np.zeros(num_outputs)
    for rows in _blocks(len(embeddings_ND), max(width, num_outputs)):
        x_RD, wanted_RM = embeddings_ND[rows].astype(np.float64) - mean_D, wanted(rows)
        gram_DD += x_RD.T @ x_RD
        # Embeddings are centred, so outputs need not be: their mean meets a sum of zero.
        cross_DM += x_RD.T @ wanted_RM
        sum_M += wanted_RM.sum(axis=0)
    values_D, vectors_DD = np.linalg.eigh(gram_DD)
    projected_DM = vectors_DD.T @ cross_DM
    scale = max(float(values_D.mean()), np.finfo(np.float64).tiny)
    for penalty in penalties:
        weights_DM = vectors_DD @ (projected_DM / (np.maximum(values_D, 0) + penalty * scale)[:, None])
        offset_M = sum_M / len(embeddings_ND) - mean_D @ weights_DM
        yield Ridge(
            weights_DM=weights_DM.astype(np.float32), offset_M=offset_M.astype(np.float32), penalty=float(penalty)
        )


def _best(ridges: Iterator[Ridge], validation: Examples, queries_KE: NDArray[np.float32] | None) -> Ridge:
    """Return the ridge of the best mAP on the validation images; the first one where they can judge no label."""
    best, best_precision = None, -np.inf
    for ridge in ridges:
        inputs_ND = validation.embeddings_ND
        logits_NK = ridge.outputs(inputs_ND) if queries_KE is None else ridge.cosines(inputs_ND, queries_KE)
        precision, _, _ = mean_average_precision(logits_NK, validation.targets_NK)
        if best is None or precision > best_precision:
            best, best_precision = ridge, np.nan_to_num(precision, nan=-np.inf)
    assert best is not None, "at least one penalty"
    return best


def _blocks(count: int, width: int) -> Iterator[slice]:
    rows = max(1, CHUNK_CELLS // max(1, width))
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))

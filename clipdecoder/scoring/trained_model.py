"""A checkpoint, loaded: a scorer of any vocabulary.

Shapes: K labels, R images, D embedding width, T patch tokens, C token width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdecoder.encoders.encoder import EncoderPair
from clipdecoder.scoring.branches import TOKEN_BRANCHES, Branches, Queries
from clipdecoder.scoring.label_maps import LabelMaps
from clipdecoder.scoring.parts import Parts
from clipdecoder.scoring.standardised import Fusion, StandardisedScorer
from schemas.checkpoint import CalibrationRow, Scorer
from schemas.errors import ModelError, one_of
from schemas.manifest import ModelRecord
from schemas.tables import ANY_LABEL
from schemas.taxonomy import Taxonomy, VocabularyLabel


class TrainedModel:
    """A checkpoint, loaded."""

    def __init__(
        self, record: ModelRecord, encoders: EncoderPair, parts: Parts, calibration: Sequence[CalibrationRow]
    ) -> None:
        assert record.checkpoint is not None
        self.record = record
        self.encoders = encoders
        self.parts = parts
        self.calibration = tuple(calibration)
        self.fusion: Fusion = record.checkpoint.fusion
        self.branches = Branches(
            record.checkpoint.branches, linear=parts.linear, head=parts.head, device=encoders.image.device
        )
        self._columns = {label_id: column for column, label_id in enumerate(record.seen_labels)}
        self.own = {self._columns[label_id]: own for label_id, own in record.checkpoint.own_fusion.items()}

    @property
    def learned_from(self) -> NDArray[np.uint64]:
        """The pictures that trained, chose or calibrated it: the head of each one's SHA-256."""
        return self.parts.learned_from

    @property
    def uses_tokens(self) -> bool:
        """Whether any of its scorers looks at patch tokens."""
        return not TOKEN_BRANCHES.isdisjoint(self.branches.kinds)

    def check_texts(self, taxonomy: Taxonomy) -> None:
        """Refuse a taxonomy whose texts the text encoder cannot take.

        Raises:
            TaxonomyError: naming each text.
        """
        self.encoders.text.check_texts(taxonomy)

    def thresholds(self, label_ids: Sequence[str], scorer: Scorer) -> NDArray[np.float64]:
        """Return each label's threshold on its score."""
        rows = {row.label_id: row.threshold for row in self.calibration if row.scorer == scorer}
        return np.array([rows.get(label_id, rows[ANY_LABEL]) for label_id in label_ids])

    def queries(self, vocabulary: Sequence[VocabularyLabel]) -> Queries:
        """Return the labels' text queries, each marked as seen or novel."""
        seen = [self._columns.get(label.label_id, -1) for label in vocabulary]
        return Queries(queries_KQ=self.encoders.text.encode_vocabulary(vocabulary), seen_K=np.array(seen, np.int64))

    def scorer(self, vocabulary: Sequence[VocabularyLabel], scorer: Scorer) -> CalibratedScorer:
        """Return what scores images for these labels.

        Raises:
            ModelError: the model has no such scorer, or it cannot score a label.
        """
        raw = self.standardised(vocabulary, scorer)
        return CalibratedScorer(raw, calibrated_maps(raw, self.calibration, [label.label_id for label in vocabulary]))

    def standardised(self, vocabulary: Sequence[VocabularyLabel], scorer: Scorer) -> StandardisedScorer:
        """Return a scorer for these labels before calibration.

        Raises:
            ModelError: the model has no such scorer, or it cannot score a label.
        """
        if scorer not in self.record.scorers:
            raise ModelError(f"model {self.record.model_id}: {one_of('scorer', scorer, self.record.scorers)}")
        queries = self.queries(vocabulary)
        unknown = [label.label_id for label in vocabulary if not self.can_score(label.label_id, scorer)]
        if unknown:
            raise ModelError(
                "this model's decoder has label groups and scores only labels it was trained on, not "
                f"{', '.join(unknown[:5])}{' and others' * (len(unknown) > 5)}; use --scorer fused, or train without "
                "groups"
            )
        return StandardisedScorer(
            self.branches, queries, scorer, fusion=self.fusion, own=self.own, reference=self.parts.reference
        )

    def can_score(self, label_id: str, scorer: Scorer) -> bool:
        """Whether a scorer knows a label: a decoder with label groups knows none but those it was trained on."""
        return scorer != "decoder" or self.branches.knows_novel or label_id in self._columns

    def as_checkpoint(self, embeddings_ND: NDArray[np.float16], tokens_NTC: NDArray[np.float16] | None) -> TrainedModel:
        """Return the model itself: it has reference images of its own."""
        return self


@dataclass(frozen=True)
class CalibratedScorer:
    """A trained model's scorer for one vocabulary: a `VocabularyScorer`."""

    raw: StandardisedScorer
    maps: LabelMaps

    @property
    def needs_tokens(self) -> bool:
        """Whether patch tokens are looked at."""
        return self.raw.needs_tokens

    @property
    def cells_per_image(self) -> int:
        """Numbers held per image while scoring: a logit per branch and label."""
        return len(self.raw.queries) * len(self.raw.kinds)

    @property
    def device(self) -> torch.device:
        """Where logits are computed."""
        return self.raw.device

    def logits(self, embeddings_RD: NDArray[np.float16], tokens_RTC: NDArray[np.float16] | None) -> NDArray[np.float32]:
        """Return logits_RK of arrays."""
        return self.raw.logits(embeddings_RD, tokens_RTC)

    def device_logits(self, embeddings_RD: Tensor, tokens_RTC: Tensor | None) -> Tensor:
        """Return logits_RK of features on the device."""
        return self.raw.device_logits(embeddings_RD, tokens_RTC)


def calibrated_maps(
    raw: StandardisedScorer, calibration: Sequence[CalibrationRow], label_ids: Sequence[str]
) -> LabelMaps:
    """Return each label's map from its logit to its score.

    The stored maps take standardised logits; a label without one of its own has that of any label.

    Raises:
        ModelError: the calibration has no row for any label.
    """
    rows = {row.label_id: row for row in calibration if row.scorer == raw.scorer}
    if ANY_LABEL not in rows:
        raise ModelError(f"the checkpoint's calibration has no row {ANY_LABEL!r} for scorer {raw.scorer!r}")
    own = [rows.get(label_id, rows[ANY_LABEL]) for label_id in label_ids]
    slope_K = np.array([row.slope for row in own]) / raw.spread.deviation_K
    intercept_K = np.array([row.intercept for row in own]) - slope_K * raw.spread.mean_K
    return LabelMaps(slope_K, intercept_K)

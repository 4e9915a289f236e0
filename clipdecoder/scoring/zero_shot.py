"""Plain CLIP as a model: cosine of image and text, with the prior that makes a score of it.

Shapes: N images, K labels, D embedding width, T patch tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clipdecoder.encoders.encoder import EncoderPair
from clipdecoder.encoders.model import ClipModel
from clipdecoder.scoring.cosine import CosineScorer
from clipdecoder.scoring.label_maps import LabelMaps
from clipdecoder.scoring.parts import Parts
from clipdecoder.scoring.standardised import Reference
from clipdecoder.scoring.trained_model import TrainedModel
from schemas.checkpoint import Branch, CheckpointRecord, Scorer
from schemas.errors import ModelError, one_of
from schemas.manifest import DEFAULT_THRESHOLD, ModelRecord
from schemas.taxonomy import Taxonomy, VocabularyLabel

REFERENCE_IMAGES = 512


class ZeroShotModel:
    """An open_clip model that scores as it is. It was trained on none of our labels, so each is novel to it."""

    def __init__(self, clip: ClipModel) -> None:
        self.encoders = EncoderPair(image=clip.image, text=clip.text)
        scorers: tuple[Scorer, ...] = (
            ("clip", "clip+local") if self.encoders.joint and self.encoders.image.local else ("clip",)
        )
        self.record: ModelRecord = clip.record.model_copy(update={"scorers": scorers})
        self.learned_from: NDArray[np.uint64] = np.empty(0, np.uint64)

    @property
    def uses_tokens(self) -> bool:
        """Whether any of its scorers looks at patch tokens."""
        return "clip+local" in self.record.scorers

    def check_texts(self, taxonomy: Taxonomy) -> None:
        """Refuse a taxonomy whose texts the text encoder cannot take whole, with a TaxonomyError."""
        self.encoders.text.check_texts(taxonomy)

    def thresholds(self, label_ids: Sequence[str], scorer: Scorer) -> NDArray[np.float64]:
        """Return the default threshold for each label: nothing is known of any."""
        return np.full(len(label_ids), DEFAULT_THRESHOLD)

    def scorer(self, vocabulary: Sequence[VocabularyLabel], scorer: Scorer) -> CosineScorer:
        """Return what scores images for these labels.

        Raises:
            ModelError: the model has no such scorer.
        """
        if scorer not in self.record.scorers:
            raise ModelError(f"model {self.record.name}: {one_of('scorer', scorer, self.record.scorers)}")
        slope, intercept = self.record.slope, self.record.intercept
        assert slope is not None and intercept is not None
        return CosineScorer(
            queries_KD=self.encoders.text.encode_vocabulary(vocabulary),
            maps=LabelMaps.shared(slope, intercept, len(vocabulary)),
            local=scorer == "clip+local",
            device=self.encoders.image.device,
        )

    def can_score(self, label_id: str, scorer: Scorer) -> bool:
        """Whether a scorer knows a label: each knows every one."""
        return True

    def as_checkpoint(self, embeddings_ND: NDArray[np.float16], tokens_NTC: NDArray[np.float16] | None) -> TrainedModel:
        """Return the model as a checkpoint without head, still to be calibrated; these images are its reference."""
        rows = np.random.default_rng(0).permutation(len(embeddings_ND))[:REFERENCE_IMAGES]
        reference = Reference(
            embeddings_SD=embeddings_ND[rows], tokens_STC=None if tokens_NTC is None else np.asarray(tokens_NTC[rows])
        )
        branches: tuple[Branch, ...] = ("clip", "local") if self.uses_tokens else ("clip",)
        parts = Parts(head=None, linear=None, reference=reference, learned_from=self.learned_from)
        alone: dict[Branch, float] = {"clip": 1.0}
        checkpoint = CheckpointRecord(
            base=self.record.name,
            text=None,
            head=None,
            train=None,
            branches=branches,
            fusion={"seen": alone, "novel": alone},
            finetuned=False,
            epochs=0,
            taxonomy="",
            taxonomy_digest="",
            novel_labels=(),
            data=None,
            weights_sha256="",
            versions={},
        )
        record = self.record.model_copy(update={"checkpoint": checkpoint, "slope": None, "intercept": None})
        return TrainedModel(record, self.encoders, parts, ())

"""A new model beside the current one: on the same held-out images, and on the same canary shard.

Shapes: N held-out images, C canary images, K active labels, S scored labels: the active ones and those that were merged
into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipdecoder.clock import StageClock
from flows.models import load_recorded
from flows.retraining.gate_case import GateCase, HeldOut, Tagged
from flows.retraining.gates import judge
from flows.retraining.merges import Merges
from flows.retraining.sources import Canary, Needs, annotated_reports, datasets_of, sources_of, usable
from flows.tagging.features import feature_tagger, shard_features
from flows.training.annotated_images import AnnotatedImages
from flows.training.ground_truth import Watch, gather
from flows.training.lesson import held_out
from schemas.config import RetrainRequest
from schemas.errors import RequestError, RunError, ShardError, StoreError
from schemas.manifest import ModelRecord
from schemas.retraining import GateReport
from schemas.sample import ShardStatus
from schemas.taxonomy import Taxonomy
from schemas.training import Missing
from storage.annotations import read_answers
from storage.files import Folder
from storage.runs import StoredRun

if TYPE_CHECKING:
    from clipdecoder.scoring.scores import VocabularyScorer
    from flows.models import Model

Key = tuple[str, str, int]  # dataset, shard, sample


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared, and on what."""

    request: RetrainRequest
    decision_id: str
    asking: frozenset[str]  # labels for which the new model was trained
    taxonomy: Taxonomy
    runs: Sequence[StoredRun]
    canary: Canary | None
    current: ModelRecord
    new: ModelRecord

    @property
    def missing(self) -> Missing:
        """What it means that a side file does not name a label: as in the new model's training."""
        checkpoint = self.new.checkpoint
        return checkpoint.train.missing if checkpoint is not None and checkpoint.train is not None else "negative"


def compare(case: Comparison, watch: Watch = lambda stage, done, total: None) -> GateReport:
    """Return how the new model compares. Nothing is written but features that had to be made.

    Raises:
        ModelError: one of the models cannot be loaded.
        TaxonomyError: the current model cannot take a text of the taxonomy.
        RunError: a shard cannot be read.
        StoreError: the store cannot be written.
    """
    label_ids = tuple(label.id for label in case.taxonomy.active_labels())
    current, new = (_Judged.load(case, record) for record in (case.current, case.new))
    held = _held_out(case, current, new, watch)
    tagged = _tagged(case, current, new)
    gates = GateCase(
        policy=case.request.policy,
        label_ids=label_ids,
        current=case.current,
        new=case.new,
        held=held,
        learned_from=current.model.learned_from,
        tagged=tagged,
        asking=case.asking,
    )
    found = judge(gates)
    return GateReport(
        decision_id=case.decision_id,
        current_model_id=case.current.model_id,
        new_model_id=case.new.model_id,
        held_out_images=found.images,
        learned_by_current=found.left_aside,
        canary=case.canary.name if case.canary is not None and isinstance(tagged, Tagged) else None,
        canary_images=len(tagged.current_CK) if isinstance(tagged, Tagged) else 0,
        gates=found.gates,
        labels=found.labels,
        gained=found.gained,
        passed=found.passed,
        at=datetime.now(UTC),
    )


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """One of the two models, with all labels that are scored as its vocabulary: also those that were merged."""

    model: Model
    scorer: VocabularyScorer
    merges: Merges
    thresholds_K: NDArray[np.float64]  # of the active labels

    @classmethod
    def load(cls, case: Comparison, record: ModelRecord) -> _Judged:
        """Load a model with its first scorer."""
        model = load_recorded(Folder(case.request.store), record, case.request.device)
        model.check_texts(case.taxonomy)
        name, active = record.scorers[0], [label.id for label in case.taxonomy.active_labels()]
        return cls(
            model=model,
            scorer=model.scorer(case.taxonomy.vocabulary(), name),
            merges=Merges.of(case.taxonomy),
            thresholds_K=model.thresholds(active, name),
        )

    def rank(self, images: AnnotatedImages) -> NDArray[np.float32]:
        """Return for each active label what orders the images by it."""
        from clipdecoder.scoring.scores import all_logits

        logits_NS = all_logits(images.embeddings_ND, images.tokens_NTC, self.scorer)
        return self.merges.ranks(logits_NS, self.scorer.maps)

    def needs(self, *, tokens: bool = False) -> Needs:
        """Return what of a shard it needs."""
        return Needs(encoder_id=self.model.record.encoder_id, tokens=tokens or self.scorer.needs_tokens)


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """Held-out images as one encoder sees them."""

    keys: list[Key]
    targets_NK: NDArray[np.int8]
    fingerprints_N: NDArray[np.uint64]
    ranks_NK: list[NDArray[np.float32]]  # of each model


def _held_out(case: Comparison, current: _Judged, new: _Judged, watch: Watch) -> HeldOut | None:
    """Return how both models rank the held-out images; None if there is none that says anything."""
    needs = current.needs(), new.needs()
    if needs[0].encoder_id == needs[1].encoder_id:
        both = current.needs(tokens=needs[1].tokens)
        scored = [_score(case, both, [current, new], watch)]
    else:
        scored = [_score(case, own, [judged], watch) for own, judged in zip(needs, (current, new), strict=True)]
    found = [each for each in scored if each is not None]
    if len(found) < len(scored):
        return None
    first, last = found[0], found[-1]
    # Two encoders may fail on different images.
    places, others = _common(first.keys, last.keys)
    return HeldOut(
        targets_NK=first.targets_NK[places],
        fingerprints_N=first.fingerprints_N[places],
        current_NK=first.ranks_NK[0][places],
        new_NK=last.ranks_NK[-1][others],
    ).once()


def _score(case: Comparison, needs: Needs, models: Sequence[_Judged], watch: Watch) -> _Scored | None:
    """Return what one encoder's models say of the held-out images; None if there are none, or none that has a label."""
    folder, share = Folder(case.request.store), case.request.policy.held_out_share
    answers = read_answers(folder)
    reports, _ = usable(folder, annotated_reports(folder, case.runs, answers), needs)
    sources = sources_of(datasets_of(case.runs, reports), case.request.store, case.request, needs)
    try:
        with gather(
            sources,
            models[-1].model.encoders.image,
            case.taxonomy,
            answers,
            watch,
            only=lambda row: held_out(row, share),
        ) as images:
            return _Scored(
                keys=_keys(images),
                targets_NK=images.targets([label.id for label in case.taxonomy.active_labels()], case.missing).dense(),
                fingerprints_N=images.fingerprints,
                ranks_NK=[judged.rank(images) for judged in models],
            )
    except StoreError:
        raise
    except RequestError:  # the training found annotated images, so that it is the held-out ones which are wanting
        return None


def _keys(images: AnnotatedImages) -> list[Key]:
    return [(dataset, row.shard, row.sample) for dataset, row in zip(images.datasets, images.rows, strict=True)]


def _common(first: Sequence[Key], last: Sequence[Key]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of the images that both have, in one order."""
    place = {key: number for number, key in enumerate(last)}
    pairs = [(number, place[key]) for number, key in enumerate(first) if key in place]
    found = np.array(pairs, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _tagged(case: Comparison, current: _Judged, new: _Judged) -> Tagged | str:
    """Return the tags of both models on the canary, or why there are none."""
    if case.current.calibration == "none":
        return "the current model is not calibrated, so its tags are no yardstick"
    if case.canary is None:
        return "no shard with images is tagged"
    try:
        (samples, current_CK), (others, new_CK) = (_tags(case, case.canary, judged) for judged in (current, new))
    except ShardError as error:
        if error.status is ShardStatus.UNREADABLE:  # it is there: gates that wait for it are not passed by
            raise RunError(f"{error}; run the same command again when it can be read") from error
        return f"the canary shard cannot be read: {error}"
    _, places, others_places = np.intersect1d(samples, others, assume_unique=True, return_indices=True)
    return Tagged(current_CK=current_CK[places], new_CK=new_CK[others_places])


def _tags(case: Comparison, canary: Canary, judged: _Judged) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return the canary's images by their ordinal, and the tags that a model gives them.

    Raises:
        ShardError: its features are not stored, and the shard is gone or has changed.
    """
    from clipdecoder.judging.tag_changes import tags_of
    from clipdecoder.scoring.scores import all_logits

    wanted = canary.wanted(case.request.store, case.request, judged.needs())
    tagger = feature_tagger(judged.model.encoders.image, tokens=wanted.wants_tokens)
    features = shard_features(wanted, canary.ref, tagger, StageClock())[0]
    scores_CS = judged.scorer.maps.scores(all_logits(features.embeddings_ND, features.tokens_NTC, judged.scorer))
    return features.ok_samples, tags_of(judged.merges.best(scores_CS), judged.thresholds_K)

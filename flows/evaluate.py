"""Evaluation as a plain function: annotated shards that the model never learned from, held against the truth.

Shapes: N images, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flows.evaluation.judging import JudgePlan, plan_judging, scorer_for, truth_of, unlearned_images
from flows.models import choose_scorer
from flows.training.annotated_images import AnnotatedImages
from flows.training.ground_truth import Watch
from flows.training.plan import read_novel
from flows.versions import versions
from schemas.checkpoint import Scorer
from schemas.config import EvaluateRequest
from schemas.digests import digest_of
from schemas.errors import RequestError
from schemas.evaluation import Evaluation
from storage.files import Folder
from storage.records import write_json

if TYPE_CHECKING:
    from clipdecoder.judging.evaluation import GroundTruth, ScorerOutput
    from clipdecoder.scoring.scores import VocabularyScorer


METRICS, REPORT = "metrics.json", "report.html"


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """A checked request: which labels count, as what, and which scorers are compared."""

    request: EvaluateRequest
    judge: JudgePlan
    scorer: Scorer
    others: tuple[Scorer, ...]
    label_ids: tuple[str, ...]
    seen_K: NDArray[np.bool_]

    @property
    def path(self) -> str:
        """Where in the store the results go: one place per model, shards, taxonomy and options."""
        identity = self.request.model_dump(mode="json", include={"protocol", "missing"}) | {
            "root": self.judge.found.root,
            "patterns": self.judge.found.patterns,
            "taxonomy": self.judge.taxonomy.digest,
            "labels": self.label_ids,
            "scorer": self.scorer,
        }
        return f"models/{self.judge.model.record.model_id}/evaluations/{self.judge.dataset}-{digest_of(identity)}"


@dataclass(frozen=True, kw_only=True)
class EvaluationOutcome:
    """An evaluation, and where it stands in the store."""

    evaluation: Evaluation
    left_out: int  # annotated images that the model learned from
    passed_over: int  # active labels that are neither seen nor named as novel
    folder: Folder  # the store
    path: str

    @property
    def report(self) -> str:
        """Where the page stands."""
        return f"{self.folder.url}/{self.path}/{REPORT}"

    def copy_to(self, output: Path) -> None:
        """Write `metrics.json` and the page to a folder as well.

        Raises:
            RequestError: it cannot be written; the results stand in the store.
        """
        try:
            output.mkdir(parents=True, exist_ok=True)
            for name in (METRICS, REPORT):
                (output / name).write_bytes(self.folder.read_bytes(f"{self.path}/{name}"))
        except OSError as error:
            raise RequestError(f"cannot write in {str(output)!r}: {error}; the results are in {self.report}") from None


def plan_evaluation(request: EvaluateRequest) -> EvaluationPlan:
    """Return the plan of an evaluation. Touches nothing.

    Seen labels are those that the model was trained on. Of a model that was trained on none, as plain CLIP, they are
    the ones that the list of novel labels leaves over, so that it can stand beside a trained one.

    Raises:
        RequestError: something named is wrong, or a label is called novel that the model was trained on.
    """
    judge = plan_judging(request)
    record = judge.model.record
    scorer = choose_scorer(record, request.scorer, local=request.local)
    active = [label.id for label in judge.taxonomy.active_labels()]
    listed = read_novel(request.novel, judge.taxonomy)
    learned = set(listed) & set(record.seen_labels)
    if learned:
        raise RequestError(
            f"{request.novel} calls {len(learned)} labels novel that model {record.model_id} was trained on, such as "
            f"{min(learned)!r}: leave them out, or evaluate a model that was trained with the same --novel"
        )
    seen = set(record.seen_labels) or (set(active) - set(listed) if listed else set())
    novel = set(listed) or set(active) - seen
    label_ids = tuple(label_id for label_id in active if label_id in seen | novel)
    return EvaluationPlan(
        request=request,
        judge=judge,
        scorer=scorer,
        others=tuple(other for other in record.scorers if other != scorer and _knows(judge, label_ids, other)),
        label_ids=label_ids,
        seen_K=np.array([label_id in seen for label_id in label_ids]),
    )


def _knows(judge: JudgePlan, label_ids: Sequence[str], scorer: Scorer) -> bool:
    return all(judge.model.can_score(label_id, scorer) for label_id in label_ids)


def run_evaluation(plan: EvaluationPlan, watch: Watch = lambda stage, done, total: None) -> EvaluationOutcome:
    """Evaluate, and write `metrics.json` and the page to the store.

    Raises:
        RequestError: no image is annotated, or the model learned from all that are.
        RunError: a shard cannot be read.
        StoreError: the store cannot be written.
    """
    from clipdecoder.judging.evaluation import Facts, GroundTruth, evaluate_scores

    judge = plan.judge
    scorers = {name: scorer_for(judge, plan.label_ids, name) for name in (plan.scorer, *plan.others)}
    tokens = any(scorer.needs_tokens for scorer in scorers.values())
    with unlearned_images(judge, watch, tokens=tokens) as (images, left_out):
        truth = GroundTruth(
            targets_NK=truth_of(judge, images, plan.label_ids),
            images=images.rows,
            label_ids=plan.label_ids,
            names=[label.name for label in judge.taxonomy.vocabulary(plan.label_ids)],
            seen_K=plan.seen_K,
        )
        watch("score", 0, 1)
        evaluation = evaluate_scores(
            Facts(
                model_id=judge.model.record.model_id,
                protocol=plan.request.protocol,
                taxonomy_digest=judge.taxonomy.digest,
                dataset=judge.dataset,
                patterns=judge.found.patterns,
                num_failed=images.num_failed,
                calibrated=judge.model.record.calibration == "fitted",
                created_at=datetime.now(UTC),
                versions=versions(),
            ),
            truth,
            _outputs(plan, scorers, images, truth),
            judge.model.thresholds(plan.label_ids, plan.scorer),
        )
        watch("score", 1, 1)
    _write(plan, evaluation)
    return EvaluationOutcome(
        evaluation=evaluation,
        left_out=left_out,
        passed_over=len(judge.taxonomy.active_labels()) - len(plan.label_ids),
        folder=Folder(plan.request.store),
        path=plan.path,
    )


def _outputs(
    plan: EvaluationPlan,
    scorers: dict[Scorer, VocabularyScorer],
    images: AnnotatedImages,
    truth: GroundTruth,
) -> list[ScorerOutput]:
    """Return what the scorers say, the one under test first, and what it has to beat."""
    from clipdecoder.judging.comparison import baseline_outputs, constant_output, scorer_outputs
    from clipdecoder.scoring.trained_model import TrainedModel

    model, features = plan.judge.model, (images.embeddings_ND, images.tokens_NTC)
    outputs = scorer_outputs(scorers, features, joint=model.encoders.joint)
    if isinstance(model, TrainedModel):
        vocabulary = plan.judge.taxonomy.vocabulary(plan.label_ids)
        return [*outputs, *baseline_outputs(model, vocabulary, features, truth)]
    return [*outputs, constant_output(np.full(len(plan.label_ids), np.nan), truth)]


def _write(plan: EvaluationPlan, evaluation: Evaluation) -> None:
    from flows.evaluation.page import evaluation_page, wanted_pictures
    from flows.evaluation.pictures import read_thumbnails

    folder, urls = Folder(plan.request.store), {ref.shard: ref.url for ref in plan.judge.found.shards}
    pictures = read_thumbnails(wanted_pictures(evaluation), urls, max_pixels=plan.request.max_pixels)
    write_json(folder, f"{plan.path}/{METRICS}", evaluation)
    folder.write_bytes(f"{plan.path}/{REPORT}", evaluation_page(evaluation, pictures).encode())

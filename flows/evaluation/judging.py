"""What `evaluate` and `calibrate` share: a model, annotated images that it never learned from, and their ground truth.

Shapes: N images, K labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flows.models import load_model
from flows.tagging.features import FeatureRequest
from flows.tagging.plan import check_dataset_root, default_name
from flows.training.annotated_images import AnnotatedImages
from flows.training.ground_truth import Source, Watch, gather
from flows.training.lesson import no_negatives
from schemas.checkpoint import Scorer
from schemas.config import JudgeOptions
from schemas.errors import RequestError
from schemas.taxonomy import Taxonomy
from schemas.training import Missing
from storage.annotations import read_answers
from storage.files import Folder
from storage.patterns import ShardList, list_shards
from storage.runs import read_runs
from storage.taxonomies import find_taxonomy

if TYPE_CHECKING:
    from clipdecoder.scoring.scores import VocabularyScorer
    from flows.models import Model


@dataclass(frozen=True, kw_only=True)
class JudgePlan:
    """A checked request, with the model loaded."""

    request: JudgeOptions
    taxonomy: Taxonomy
    dataset: str
    found: ShardList
    model: Model

    @property
    def missing(self) -> Missing:
        """What it means that a sample does not name a label: as asked, else as in training."""
        checkpoint = self.model.record.checkpoint
        recipe = checkpoint.train if checkpoint is not None else None
        return self.request.missing or (recipe.missing if recipe is not None else "negative")


def plan_judging(request: JudgeOptions) -> JudgePlan:
    """Return the plan of an evaluation or a calibration. Touches nothing.

    Raises:
        RequestError: the taxonomy, a pattern, the model or the store is wrong.
    """
    folder = Folder(request.store)
    taxonomy = find_taxonomy(folder, request.taxonomy)
    found = list_shards(request.shards)
    dataset = request.name or default_name(found.root)
    check_dataset_root(dataset, found.root, read_runs(folder))
    model = load_model(folder, request.model, request.device)
    model.check_texts(taxonomy)
    return JudgePlan(request=request, taxonomy=taxonomy, dataset=dataset, found=found, model=model)


@contextmanager
def unlearned_images(plan: JudgePlan, watch: Watch, *, tokens: bool) -> Iterator[tuple[AnnotatedImages, int]]:
    """Yield the annotated images that the model did not learn from, and how many others were left out.

    Raises:
        RequestError: none is annotated, or the model learned from all that are.
        RunError: a shard cannot be read.
    """
    wanted = FeatureRequest(
        store=plan.request.store,
        dataset=plan.dataset,
        encoder_id=plan.model.record.encoder_id,
        batch_size=plan.request.batch_size,
        decode_threads=plan.request.decode_threads,
        max_pixels=plan.request.max_pixels,
        tokens=tokens,
    )
    sources = (Source(wanted=wanted, shards=plan.found.shards),)
    answers = read_answers(Folder(plan.request.store))
    with gather(sources, plan.model.encoders.image, plan.taxonomy, answers, watch) as images:
        rows = np.flatnonzero(~np.isin(images.fingerprints, plan.model.learned_from))
        if not len(rows):
            raise RequestError(
                f"the model learned from every one of the {len(images)} annotated images in these shards, so they say "
                "nothing about new ones; name other shards"
            )
        if not any(images.absent) and (plan.missing == "unknown" or not any(images.described)):
            raise RequestError(no_negatives("--missing, or the recipe of the model"))
        yield images.subset(rows), len(images) - len(rows)


def truth_of(plan: JudgePlan, images: AnnotatedImages, label_ids: Sequence[str]) -> NDArray[np.int8]:
    """Return targets_NK of these labels: 1, 0, or -1 where nobody said."""
    return images.targets(label_ids, plan.missing).dense()


def scorer_for(plan: JudgePlan, label_ids: Sequence[str], scorer: Scorer) -> VocabularyScorer:
    """Return the model with these labels as its vocabulary."""
    return plan.model.scorer(plan.taxonomy.vocabulary(label_ids), scorer)

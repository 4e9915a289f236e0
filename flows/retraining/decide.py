"""Whether to retrain: asked and answered once for each state of taxonomy and ground truth.

A decision is named by what it rests on, and not by the current model: a promotion changes the model and not the state,
so that what a decision made cannot ask for the next one.
"""

from __future__ import annotations

from datetime import UTC, datetime

from flows.retraining.asking import Case
from flows.retraining.current import current_model, has_news, precisions_of, recipe_of
from flows.retraining.evidence import Evidence, read_evidence
from flows.retraining.forgotten import forgotten_labels
from flows.retraining.reasons import OFF, iter_reasons
from flows.training.plan import read_recipe
from schemas.digests import digest_of
from schemas.retraining import RetrainDecision, RetrainOutcome, RetrainPolicy
from schemas.taxonomy import Taxonomy
from storage.catalog import check_store
from storage.files import Folder
from storage.labels import current_taxonomies
from storage.retraining import find_decision, find_outcome, remove_outcome, write_decision
from storage.runs import read_runs


def decide(folder: Folder, taxonomy: Taxonomy, policy: RetrainPolicy, *, keep: bool = True) -> RetrainDecision:
    """Return whether to retrain, and keep it in the store.

    A yes that was carried out is a no from then on. One that was not stays a yes, whichever model is promoted
    meanwhile, so that a retraining that was killed is found again.

    Args:
        folder: the store.
        taxonomy: the version to decide for; it need not be in force yet.
        policy: when it is worth it.
        keep: whether anything is written: the decision, and side files that nobody had kept.

    Raises:
        RequestError: the policy's recipe cannot be read.
        RunError: a shard cannot be read now.
        StoreError: there is no store, or it cannot be read or written.
    """
    check_store(folder)
    model = current_model(folder)
    recipe = recipe_of(policy, model)
    runs = read_runs(folder)
    evidence = read_evidence(
        folder,
        runs,
        taxonomy,
        missing=recipe.missing,
        held_out_share=policy.held_out_share,
        keep=keep,
    )
    decision_id = _decision_id(taxonomy, evidence, policy)
    stored, outcome = find_decision(folder, decision_id), find_outcome(folder, decision_id)
    if stored is not None and stored.retrain:
        return _settled(stored, outcome, policy)
    current = current_taxonomies(folder, runs, taxonomy)
    case = Case(
        taxonomy=taxonomy,
        policy=policy,
        evidence=evidence,
        model=model,
        precisions=precisions_of(folder, model),
        news=has_news(folder, model, evidence),
        forgotten=forgotten_labels(folder, taxonomy, model),
        tagged=frozenset(known.name for taxonomies in current.values() for known in taxonomies),
    )
    made = _decision(decision_id, case)
    if stored is not None and made.model_copy(update={"decided_at": stored.decided_at}) == stored:
        return stored
    if keep:
        if made.retrain and outcome is not None:
            remove_outcome(folder, decision_id)  # of the no that was there before; first, or it would answer the yes
        write_decision(folder, made)
    return made


def _decision_id(taxonomy: Taxonomy, evidence: Evidence, policy: RetrainPolicy) -> str:
    """Return the name of a state. Another recipe or another limit is another question; switching it off is none.

    What came to the policy later counts where it is set, so that what was decided before stays decided.
    """
    recipe = read_recipe(policy.recipe, {}).model_dump(mode="json") if policy.recipe is not None else None
    asked = policy.model_dump(mode="json", exclude={"enabled", "recipe", *_unset(policy)}) | {"recipe": recipe}
    return digest_of({"taxonomy": taxonomy.digest, "ground_truth": evidence.digest, "policy": asked})


def _unset(policy: RetrainPolicy) -> tuple[str, ...]:
    return () if policy.require_gain else ("require_gain",)


def _settled(stored: RetrainDecision, outcome: RetrainOutcome | None, policy: RetrainPolicy) -> RetrainDecision:
    """Return a yes of before as it stands now."""
    if outcome is not None:
        model = f" model {outcome.model_id}" if outcome.model_id is not None else ""
        why = (
            f"this state of taxonomy and ground truth was retrained on before, on {outcome.finished_at:%Y-%m-%d %H:%M} "
            f"UTC: {outcome.state}{model}"
        )
        return stored.model_copy(update={"retrain": False, "reasons": (why,)})
    if not policy.enabled:
        return stored.model_copy(update={"retrain": False, "reasons": (OFF, *stored.reasons)})
    return stored


def _decision(decision_id: str, case: Case) -> RetrainDecision:
    labels = case.labels()
    asking = any(label.retrain for label in labels)
    return RetrainDecision(
        decision_id=decision_id,
        taxonomy=case.taxonomy.name,
        taxonomy_digest=case.taxonomy.digest,
        ground_truth_digest=case.evidence.digest,
        model_id=case.model.model_id if case.model is not None else None,
        retrain=asking and case.policy.enabled and not case.forgotten and case.is_tagged,
        reasons=tuple(iter_reasons(case, labels)),
        labels=labels,
        policy=case.policy,
        decided_at=datetime.now(UTC),
    )

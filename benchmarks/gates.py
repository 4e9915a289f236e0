"""What gates of a retraining do with models of known worth: how many they refuse, by the images that were held out.

    python -m benchmarks.gates --worlds 100

Two models rank the same simulated images: what is hard is hard for both, and each errs by itself on top. The new one's
mAP falls by as much as is said, measured on many images. A world is one draw of held-out images. `plain` is a limit
alone, as gates were; `now` is the gate: over the limit, and beyond two standard errors. Then, of two equal models and
one label that few images have: how often the draws alone say that the models differ.

Shapes: N images, K labels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe
from clipdecoder.judging.chance import DRAWS, LEAST_POSITIVES, draw_counts, drawn_precisions, mean_change
from clipdecoder.judging.metrics import average_precisions, mean_or_nan
from flows.retraining.gate_case import GateCase, HeldOut
from flows.retraining.gates import judge
from schemas.manifest import ModelRecord
from schemas.retraining import RetrainPolicy

NUM_LABELS = 20
RAREST, COMMONEST = 0.02, 0.2  # share of the images that have a label
SKILL, OWN_ERROR = 2.0, 0.5  # by how much a label raises a logit; errors of one model, where those of both are 1
FALLS = (0.0, 0.03, 0.06, 0.12)
IMAGES = (50, 100, 400, 1600)
POSITIVES, RARE_WORLDS, RARE_IMAGES = (1, 2, 3, 5, 10), 300, 100  # of one label
MANY = 50_000  # images that a model's true worth is measured on

LABEL_IDS = tuple(f"l{number}" for number in range(NUM_LABELS))


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Shares of the worlds in which a new model is refused, and how far what is measured differs between worlds."""

    fall: float
    images: int
    plain: float
    now: float
    spread: float  # standard deviation of the measured fall


def draw_world(random: np.random.Generator, images: int, skill: float) -> HeldOut:
    """Return images under a model and a new one of that skill."""
    rates_K = np.linspace(RAREST, COMMONEST, NUM_LABELS)
    return rank(random, (random.random((images, NUM_LABELS)) < rates_K).astype(np.int8), skill)


def rank(random: np.random.Generator, targets_NK: NDArray[np.int8], skill: float) -> HeldOut:
    """Return these images under a model and a new one of that skill."""
    hard_NK = random.normal(size=targets_NK.shape)

    def logits(skill: float) -> NDArray[np.float32]:
        return (skill * targets_NK + hard_NK + OWN_ERROR * random.normal(size=targets_NK.shape)).astype(np.float32)

    return HeldOut(
        targets_NK=targets_NK,
        fingerprints_N=np.arange(len(targets_NK), dtype=np.uint64),
        current_NK=logits(SKILL),
        new_NK=logits(skill),
    )


def true_fall(skill: float) -> float:
    """Return by how much the mAP of a model of that skill is lower, on so many images that chance has no part."""
    world = draw_world(np.random.default_rng(0), MANY, skill)
    before, after = (
        mean_or_nan(average_precisions(each, world.targets_NK)) for each in (world.current_NK, world.new_NK)
    )
    return before - after


def skill_of(fall: float) -> float:
    """Return the skill of a model whose mAP is lower by so much."""
    low, high = 0.0, SKILL
    while high - low > 0.002:
        middle = (low + high) / 2
        low, high = (low, middle) if true_fall(middle) < fall else (middle, high)
    return high


def judge_worlds(fall: float, skill: float, images: int, worlds: int) -> Refused:
    """Return how often the gate on what the old model saw refuses a model of that skill."""
    gates = []
    old, new = (_model(name) for name in ("old", "new"))
    for seed in range(worlds):
        case = GateCase(
            policy=RetrainPolicy(),
            label_ids=LABEL_IDS,
            current=old,
            new=new,
            held=draw_world(np.random.default_rng([images, seed]), images, skill),
            learned_from=np.array([], np.uint64),
            tagged="no canary",
        )
        gates.append(judge(case).gates[0])
    return Refused(
        fall=fall,
        images=images,
        plain=float(np.mean([gate.within_noise or gate.passed is False for gate in gates])),
        now=float(np.mean([gate.passed is False for gate in gates])),
        spread=float(np.std([gate.after - (gate.before or 0) for gate in gates if gate.after is not None])),
    )


def called_different(positives: int) -> float:
    """Return in which share of worlds the draws tell two equal models apart, by one label that so many images have."""
    targets_N1 = (np.arange(RARE_IMAGES) < positives).astype(np.int8)[:, None]
    counts_RN = draw_counts(RARE_IMAGES, DRAWS, 0)
    sure = []
    for seed in range(RARE_WORLDS):
        world = rank(np.random.default_rng([positives, seed]), targets_N1, SKILL)
        both = world.new_NK, world.current_NK
        new_1, current_1 = (average_precisions(logits_N1, targets_N1) for logits_N1 in both)
        new_R1, current_R1 = (drawn_precisions(logits_N1, targets_N1, counts_RN) for logits_N1 in both)
        # As if they were enough, which is what is asked here.
        sure.append(mean_change(new_1 - current_1, new_R1 - current_R1, max(positives, LEAST_POSITIVES)).is_sure())
    return float(np.mean(sure))


def _model(model_id: str) -> ModelRecord:
    return ModelRecord(
        model_id=model_id,
        encoder_id="simulated",
        text_encoder_id="simulated",
        name="simulated",
        architecture="simulated",
        image_size=(1, 1),
        embedding_width=1,
        seen_labels=LABEL_IDS,
    )


def table(found: Sequence[Refused]) -> list[str]:
    """Return a row for each fall, with both shares for each number of images."""
    images = sorted({one.images for one in found})
    equal = ", ".join(f"{one.spread:.3f} on {one.images:,}" for one in found if not one.fall)
    lines = [
        f"mAP of two equal models, standard deviation of the difference by pictures: {equal}",
        "",
        f"| true fall of mAP | {' | '.join(f'{number:,} pictures' for number in images)} |",
        "|---" * (len(images) + 1) + "|",
    ]
    for fall in sorted({one.fall for one in found}):
        row = {one.images: one for one in found if one.fall == fall}
        lines.append(f"| {fall:g} | {' | '.join(f'{row[n].plain:.2f}, {row[n].now:.2f}' for n in images)} |")
    return lines


def rare_line() -> str:
    """Say how often equal models are told apart, by how many images have the label."""
    shares = ", ".join(f"{called_different(positives):.2f} of {positives}" for positives in POSITIVES)
    return (
        f"One label, {RARE_IMAGES} pictures, {RARE_WORLDS} worlds: share in which two equal models are told apart, by "
        f"pictures that have it: {shares}"
    )


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=100)
    given = parser.parse_args()
    skills = {fall: skill_of(fall) if fall else SKILL for fall in FALLS}
    found = [judge_worlds(fall, skill, images, given.worlds) for fall, skill in skills.items() for images in IMAGES]
    lines = [
        *describe(),
        f"- {NUM_LABELS} labels that {RAREST:.0%} to {COMMONEST:.0%} of the pictures have; {given.worlds} worlds each; "
        f"limit {RetrainPolicy().max_seen_drop}; shares refused by the limit alone, and now",
        "",
        *table(found),
        "",
        rare_line(),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

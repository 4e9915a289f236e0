"""Captions for pretraining, and when each is true of a picture.

A caption names one or two concepts and is true of a picture when every concept it names is in it. A concept is a
caption-allowed label ("red circle"), a colour alone ("red shape") or a shape alone ("circle"). A label in
`NEVER_IN_CAPTIONS` is never named: what the model knows of it, it put together from its colour and its shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from examples.scenes.pictures import CONCEPT_INDEX, CONCEPTS
from examples.scenes.render import COLOURS, LABELS, NEVER_IN_CAPTIONS, SHAPES

ALLOWED_LABELS: tuple[str, ...] = tuple(label.id for label in LABELS if label.id not in NEVER_IN_CAPTIONS)
ALLOWED_CONCEPTS: tuple[str, ...] = (*ALLOWED_LABELS, *COLOURS, *SHAPES)

SINGLE_TEMPLATES: tuple[str, ...] = (
    "a photo of {}.",
    "{}.",
    "{}",
    "there is {} in the picture.",
    "there is {} in the scene.",
    "a picture of {}.",
    "an image with {}.",
    "this picture shows {}.",
    "one can see {} here.",
    "a drawing of {} on a plain background.",
)
DOUBLE_TEMPLATES: tuple[str, ...] = (
    "a photo of {} and {}.",
    "{} and {}.",
    "{}, {}",
    "there is {} and {} in the picture.",
    "a picture of {} with {}.",
    "an image with {} next to {}.",
    "this picture shows {} and also {}.",
)
COLOUR_NOUNS: tuple[str, ...] = ("shape", "object", "thing")

# Row per never-captioned label: the concepts (labels, not bare colours and shapes) that share its colour or its shape.
NEVER_COLUMNS = [CONCEPT_INDEX[label.id] for label in LABELS if label.id in NEVER_IN_CAPTIONS]
NEVER_TOUCHES: npt.NDArray[np.float32] = np.array(
    [
        [other.colour == label.colour or other.shape == label.shape for other in LABELS] + [False] * 16
        for label in LABELS
        if label.id in NEVER_IN_CAPTIONS
    ],
    dtype=np.float32,
)
_NAMES = {label.id: label.name for label in LABELS}


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A text and the indices (into `CONCEPTS`) of the concepts that it says are in the picture."""

    text: str
    concepts: tuple[int, ...]


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _noun_phrase(concept: str, rng: np.random.Generator) -> str:
    """The concept, mostly with an article; before a vowel "an", or the "a" that templates write."""
    name = f"{concept} {_pick(COLOUR_NOUNS, rng)}" if concept in COLOURS else _NAMES.get(concept, concept)
    choice = rng.integers(6)
    if choice == 0:
        return name
    article = "an" if name[0] in "aeiou" and choice > 2 else "a"
    return f"{article} {name}"


def caption_of(concepts: Sequence[str], rng: np.random.Generator) -> Caption:
    """A caption in a random template that names these one or two concepts."""
    if forbidden := sorted(NEVER_IN_CAPTIONS.intersection(concepts)):
        raise ValueError(f"never captioned: {', '.join(forbidden)}")
    template = _pick(SINGLE_TEMPLATES if len(concepts) == 1 else DOUBLE_TEMPLATES, rng)
    text = template.format(*(_noun_phrase(concept, rng) for concept in concepts))
    return Caption(text=text, concepts=tuple(CONCEPT_INDEX[concept] for concept in concepts))


def pair_captions(truth_BM: npt.NDArray[np.bool_], count: int, rng: np.random.Generator) -> list[Caption]:
    """`count` captions of two allowed concepts, each pair taken from one picture of the batch.

    Half of them exchange one concept for a random one, so that a caption that is half true is a common negative.
    """
    allowed = np.array([CONCEPT_INDEX[concept] for concept in ALLOWED_CONCEPTS])
    captions: list[Caption] = []
    while len(captions) < count:
        present = allowed[truth_BM[rng.integers(len(truth_BM)), allowed]]
        if len(present) < 2:
            continue
        first, second = rng.choice(present, size=2, replace=False)
        if rng.random() < 0.5:
            second = rng.choice(allowed)
        captions.append(caption_of((CONCEPTS[int(first)], CONCEPTS[int(second)]), rng))
    return captions


def batch_captions(truth_BM: npt.NDArray[np.bool_], pairs: int, rng: np.random.Generator) -> list[Caption]:
    """Every allowed single concept once, each in a random template, then `pairs` captions of two concepts."""
    return [caption_of((concept,), rng) for concept in ALLOWED_CONCEPTS] + pair_captions(truth_BM, pairs, rng)


def caption_truth(
    captions: Sequence[Caption], truth_BM: npt.NDArray[np.bool_], *, any_concept: bool = False
) -> npt.NDArray[np.bool_]:
    """Truth_BN of N captions over B pictures: all the concepts that a caption names (or any of them)."""
    first = np.array([caption.concepts[0] for caption in captions])
    last = np.array([caption.concepts[-1] for caption in captions])
    combine = np.logical_or if any_concept else np.logical_and
    result: npt.NDArray[np.bool_] = combine(truth_BM[:, first], truth_BM[:, last])
    return result


def touched_concepts(present: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """For presence of all concepts (...M): the labels (...M) that look like a never-captioned object that is there.

    "Red square" may be false of a picture with a red circle, but if red circles are never captioned, being told so at
    every red circle would teach that they are nothing at all. Such pairs are left out of the loss.
    """
    touched: npt.NDArray[np.bool_] = present[..., NEVER_COLUMNS].astype(np.float32) @ NEVER_TOUCHES > 0
    return touched

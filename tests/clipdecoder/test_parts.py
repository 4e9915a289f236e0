"""What training made survives its file bit for bit, and what is no such file is refused in a sentence."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from clipdecoder.scoring.parts import Parts
from clipdecoder.scoring.standardised import Reference
from schemas.checkpoint import CheckpointRecord
from schemas.errors import ModelError
from tests.clipdecoder.fitted_world import EVERYTHING, checkpoint_of, fitted, model, model_of, world

BACKBONE = {
    "proj": torch.tensor([[1.5, -0.1], [2.0, 1e-30]]),
    "scale": torch.tensor(0.1),  # a number, not a list of one
    "half": torch.tensor([[0.1, 7.0, 3.0]], dtype=torch.float16).repeat(2, 1).T,  # not contiguous
}


def reload(parts: Parts, record: CheckpointRecord) -> Parts:
    return Parts.from_bytes(parts.to_bytes(), record)


def assert_same(one: np.ndarray | torch.Tensor, other: np.ndarray | torch.Tensor) -> None:
    ours, theirs = np.asarray(one), np.asarray(other)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("kind", [{}, {"groups": 4}, {"joint": False}])
def test_every_part_comes_back_bit_for_bit(kind: dict[str, int]) -> None:
    parts = replace(fitted(**kind).parts, backbone=BACKBONE)
    again = reload(parts, checkpoint_of(fitted(**kind)))
    assert parts.head is not None and again.head is not None and again.head.config == parts.head.config
    assert again.head.state_dict().keys() == parts.head.state_dict().keys()
    for name, value in parts.head.state_dict().items():
        assert_same(again.head.state_dict()[name], value)
    assert parts.linear is not None and again.linear is not None
    for name, array in parts.linear.arrays().items():
        assert_same(again.linear.arrays()[name], array)
    assert_same(again.reference.embeddings_SD, parts.reference.embeddings_SD)
    assert parts.reference.tokens_STC is not None and again.reference.tokens_STC is not None
    assert_same(again.reference.tokens_STC, parts.reference.tokens_STC)
    assert_same(again.learned_from, parts.learned_from)
    assert again.baselines.keys() == parts.baselines.keys() > {"frequency", "ridge.weights", "label_ridge.offset"}
    for name, array in parts.baselines.items():
        assert_same(again.baselines[name], array)
    assert again.backbone.keys() == BACKBONE.keys()
    for name, value in BACKBONE.items():
        assert_same(again.backbone[name], value)
    assert again.to_bytes() == parts.to_bytes()


def test_one_baseline_by_its_name() -> None:
    parts = fitted().parts
    assert parts.part("ridge").keys() == {"weights", "offset", "penalty"}
    assert_same(parts.part("label_ridge")["weights"], parts.baselines["label_ridge.weights"])


@pytest.mark.parametrize("kind", [{}, {"groups": 4}, {"joint": False}])
def test_a_reloaded_model_gives_the_same_logits_and_maps_to_the_bit(kind: dict[str, int]) -> None:
    joint = kind.get("joint", True) is True
    one = model(**kind)
    other = model_of(fitted(**kind), joint=joint, parts=reload(one.parts, checkpoint_of(fitted(**kind))))
    for name in one.record.scorers:
        labels = tuple(label for label in EVERYTHING if one.can_score(label.label_id, name))
        ours, theirs = one.scorer(labels, name), other.scorer(labels, name)
        images = world(joint=joint).judged
        assert_same(ours.logits(*images), theirs.logits(*images))
        assert_same(ours.maps.slope_K, theirs.maps.slope_K)
        assert_same(ours.maps.intercept_K, theirs.maps.intercept_K)
        assert (
            one.thresholds(["label-01", "new"], name).tolist() == other.thresholds(["label-01", "new"], name).tolist()
        )


def test_a_zero_shot_model_has_reference_images_alone() -> None:
    reference = Reference(embeddings_SD=world().embeddings_ND[:4], tokens_STC=None)
    parts = Parts(head=None, linear=None, reference=reference, learned_from=np.empty(0, np.uint64))
    record = checkpoint_of(fitted()).model_copy(update={"head": None, "branches": ("clip",)})
    again = reload(parts, record)
    assert again.head is None and again.linear is None and again.reference.tokens_STC is None
    assert not again.baselines and not again.backbone and again.learned_from.dtype == np.uint64
    assert_same(again.reference.embeddings_SD, reference.embeddings_SD)


def refusal(data: bytes, record: CheckpointRecord) -> str:
    with pytest.raises(ModelError) as caught:
        Parts.from_bytes(data, record)
    message = str(caught.value)
    assert message.startswith("the checkpoint's weights ") and message.endswith("or train again")
    assert "\n" not in message
    return message


def test_what_is_no_safetensors_file_is_refused_and_never_unpickled() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[type, tuple[str]]:
            return pytest.fail, ("a pickle was run",)  # type: ignore[return-value]

    whole, record = fitted().parts.to_bytes(), checkpoint_of(fitted())
    for data in (
        b"",
        b"PK\x03\x04",
        pickle.dumps(Bomb()),
        whole[:7],
        whole[: len(whole) // 2],
        whole[:-1],
        whole + b"x",
    ):
        assert "do not fit its config.json" in refusal(data, record)


@pytest.mark.parametrize("changed", [{"width": 32}, {"token_width": 17}, {"feedforward_width": 8}, {"residual": False}])
def test_a_head_of_another_shape_is_refused_in_one_line(changed: dict[str, int]) -> None:
    record = checkpoint_of(fitted())
    assert record.head is not None
    other = record.model_copy(update={"head": record.head.model_copy(update=changed)})
    assert "TextQueryHead" in refusal(fitted().parts.to_bytes(), other)


def test_a_part_that_the_record_names_and_the_file_lacks_is_named() -> None:
    parts = fitted().parts
    record = checkpoint_of(fitted())
    assert "lack 'numbers'" in refusal(replace(parts, linear=None).to_bytes(), record)
    assert "Missing key(s)" in refusal(replace(parts, head=None).to_bytes(), record)

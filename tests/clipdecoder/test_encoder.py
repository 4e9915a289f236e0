"""Both sides of a model by themselves: tokens as arrays, replaced weights, texts of another model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clipdecoder.encoders.backbone import Backbone, Features
from clipdecoder.encoders.batch_size import LARGEST, SMALLEST, find_batch_size, largest_that_pays
from clipdecoder.encoders.encoder import EncoderFacts, ImageEncoder
from clipdecoder.encoders.model import ClipModel, load_encoders, load_image_encoder, load_model, load_text_encoder
from clipdecoder.encoders.open_clip_models import load_open_clip
from clipdecoder.encoders.text_tables import TableText
from schemas.errors import ModelError
from schemas.precision import Precision, precision_name, split_precision
from schemas.taxonomy import VocabularyLabel

CPU = torch.device("cpu")


@pytest.fixture
def spec(model_folders: dict[str, Path]) -> str:
    return f"open_clip:{model_folders['plain']}"


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def bits(array: np.ndarray | None) -> np.ndarray:
    assert array is not None and array.dtype == np.float16
    return array.view(np.uint16)


def test_one_pass_gives_the_embeddings_of_none_to_the_bit(spec: str, pixels: np.ndarray) -> None:
    model = load_model(spec, device="cpu")
    encoded = model.encode(pixels, tokens=True)
    assert np.array_equal(bits(encoded.embeddings_BD), bits(model.encode_pixels(pixels)))
    assert np.array_equal(bits(model.image.encode(pixels, tokens=True).tokens_BTC), bits(encoded.tokens_BTC))
    assert model.encode(pixels).tokens_BTC is None
    assert encoded.tokens_BTC is not None and encoded.tokens_BTC.shape == (5, 16, 64)


def test_facts_say_what_tokens_take(spec: str) -> None:
    encoder = load_image_encoder(spec, device="cpu")
    assert (encoder.num_tokens, encoder.token_width, encoder.embedding_width) == (16, 64, 64)
    assert encoder.token_bytes == 16 * 64 * 2 and encoder.local
    assert encoder.encoder_id == load_model(spec, device="cpu").record.encoder_id
    assert encoder is load_image_encoder(spec, device="cpu")


def test_tokens_of_the_bundled_model_find_what_the_pooled_embedding_misses() -> None:
    encoder = load_image_encoder("bundled:scenes", device="cpu")
    assert (encoder.num_tokens, encoder.token_width, encoder.local) == (64, 96, True)


def test_tokens_beyond_float16_cost_the_row(spec: str, pixels: np.ndarray) -> None:
    class Overflowing(Backbone):
        def forward(self, x_BCHW: torch.Tensor, *, tokens: bool = True) -> Features:
            tokens_BTC = torch.ones(len(x_BCHW), 3, 4)
            tokens_BTC[1, 2, 3] = 1e6
            tokens_BTC[3, 0, 0] = math.nan
            return Features(torch.ones(len(x_BCHW), 8), tokens_BTC if tokens else None)

    facts = EncoderFacts(name="x", architecture="x", embedding_width=8, joint_text_id=None, identity={})
    encoder = ImageEncoder(
        Overflowing(nn.Identity().eval()), load_image_encoder(spec, device="cpu").transform, facts, CPU
    )
    encoded = encoder.encode(pixels, tokens=True)
    assert encoded.tokens_BTC is not None
    for row in range(5):
        for array in (encoded.embeddings_BD, encoded.tokens_BTC):
            assert np.isnan(array[row]).all() if row in (1, 3) else np.isfinite(array[row]).all()
    assert np.isfinite(encoder.encode_pixels(pixels)).all()


def test_an_embedding_without_direction_costs_the_tokens_too(spec: str, pixels: np.ndarray) -> None:
    loaded = load_open_clip(spec)
    loaded.network.state_dict()["visual.proj"].zero_()
    encoded = ClipModel(loaded, CPU).encode(pixels, tokens=True)
    assert encoded.tokens_BTC is not None and np.isnan(encoded.tokens_BTC).all()


def test_a_single_patch_is_refused(write_model: Callable[..., Path], variants: dict[str, Any], tmp_path: Path) -> None:
    config = variants["plain"][0]
    folder = write_model(tmp_path, config | {"vision_cfg": config["vision_cfg"] | {"patch_size": 32}})
    encoder = load_image_encoder(f"open_clip:{folder}", device="cpu")
    with pytest.raises(ModelError, match=r"1 patch token at \(32, 32\), and a decoder needs two"):
        _ = encoder.token_bytes


def test_replaced_weights_have_their_own_id_and_leave_the_base_alone(spec: str, pixels: np.ndarray) -> None:
    base = load_image_encoder(spec, device="cpu")
    before = base.encode(pixels, tokens=True)
    state = base.backbone.tower.state_dict()
    name = "transformer.resblocks.1.mlp.c_fc.weight"
    tuned = base.with_weights({name: state[name] * 1.5})
    after = tuned.encode(pixels, tokens=True)
    assert not np.array_equal(before.tokens_BTC, after.tokens_BTC)  # type: ignore[arg-type]
    assert np.array_equal(bits(base.encode(pixels, tokens=True).tokens_BTC), bits(before.tokens_BTC))
    assert tuned.encoder_id != base.encoder_id and (tuned.name, tuned.token_shape) == (base.name, base.token_shape)
    assert base.with_weights({}).encoder_id == base.encoder_id == base.with_weights(state).encoder_id
    again = base.with_weights({key: value for key, value in tuned.backbone.tower.state_dict().items() if key == name})
    assert again.encoder_id == tuned.encoder_id
    assert np.array_equal(bits(again.encode_pixels(pixels)), bits(after.embeddings_BD))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"nothing": torch.zeros(1)}, "no weight 'nothing'"),
        ({"proj": torch.zeros(2, 2)}, r"'proj' has shape \(48, 64\), and \(2, 2\)"),
    ],
)
def test_weights_of_another_backbone_are_refused(spec: str, weights: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        load_image_encoder(spec, device="cpu").with_weights(weights)


def test_towers_are_joint_only_where_they_were_trained_together(spec: str, model_folders: dict[str, Path]) -> None:
    own = load_encoders(spec, device="cpu")
    assert own.joint and own.text is load_text_encoder(spec, device="cpu")
    other = load_encoders(spec, f"open_clip:{model_folders['custom_text']}", device="cpu")
    assert other.image is own.image and other.text.width == 64 and not other.joint
    table = TableText(["a dog"], np.ones((1, 3)), "table:x")
    combined = load_encoders(spec, table, device="cpu")
    assert combined.text is table and not combined.joint
    tuned = own.image.with_weights({"proj": torch.ones(48, 64)})
    assert type(own)(image=tuned, text=own.text).joint


def test_a_text_encoder_says_what_its_model_says(spec: str) -> None:
    model, text = load_model(spec, device="cpu"), load_text_encoder(spec, device="cpu")
    label = VocabularyLabel(label_id="dog", name="dog", texts=("a dog", "a puppy"))
    assert np.array_equal(model.encode_vocabulary([label]), text.encode_vocabulary([label]))
    assert text.text_encoder_id == model.record.text_encoder_id
    assert (text.name, text.width, text.context_length) == (spec, 64, 20)


def test_a_backbone_without_texts_scores_nothing_by_itself() -> None:
    with pytest.raises(ModelError, match=r"knows pictures and no texts.*open_clip:NAME/TAG"):
        load_model("timm:test_resnet", device="cpu")
    with pytest.raises(ModelError, match="no text tower: name a text encoder"):
        load_encoders("timm:test_resnet", device="cpu")


def test_a_reduced_precision_is_part_of_name_and_id_and_a_processor_is_exact(spec: str, pixels: np.ndarray) -> None:
    exact, rounded = (load_image_encoder(name, device="cpu") for name in (spec, f"{spec}+bf16"))
    assert (exact.precision, rounded.precision) == ("float32", "bfloat16")
    assert rounded.name == f"{exact.name}+bf16" and load_image_encoder(rounded.name, device="cpu") is rounded
    assert rounded.encoder_id != exact.encoder_id
    assert np.array_equal(bits(rounded.encode_pixels(pixels)), bits(exact.encode_pixels(pixels)))
    assert rounded.with_weights({}).encoder_id == rounded.encoder_id


@pytest.mark.parametrize(
    ("name", "bare", "precision"),
    [
        ("m", "m", "float32"),
        ("m+bf16", "m", "bfloat16"),
        ("m+fp16+fast", "m+fast", "float16"),
        ("m+fast", "m+fast", "float32"),
    ],
)
def test_names_say_the_precision(name: str, bare: str, precision: Precision) -> None:
    assert split_precision(name) == (bare, precision)
    assert split_precision(precision_name(bare, precision)) == (bare, precision)
    assert precision_name(name, precision) == name


def test_two_precisions_at_once_are_refused() -> None:
    with pytest.raises(ModelError, match="'m\\+bf16' computes in bfloat16, and --precision float16 was asked for"):
        precision_name("m+bf16", "float16")


def test_the_batch_size_of_a_processor_follows_from_the_models_size(spec: str) -> None:
    assert find_batch_size(load_image_encoder(spec, device="cpu")) == 64  # of 32 x 32 pixels


@pytest.mark.parametrize(
    ("rates", "size"),
    [
        ({32: 100.0, 64: 190.0, 128: 300.0, 256: 305.0}, 128),  # the last doubling gains too little
        ({32: 100.0, 64: 190.0, 128: 0.0}, 64),  # no memory for more
        ({32: 0.0, 64: 0.0}, SMALLEST),  # nor for the smallest: the encoder takes it in parts
        ({2**power: 2.0**power for power in range(5, 12)}, LARGEST),
    ],
)
def test_batch_sizes_are_doubled_as_long_as_that_pays(rates: dict[int, float], size: int) -> None:
    assert largest_that_pays(rates.__getitem__) == size

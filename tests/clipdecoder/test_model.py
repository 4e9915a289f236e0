"""Embeddings, queries and texts of tiny random models, held against open_clip itself."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from clipdecoder.clock import StageClock
from clipdecoder.encoders.model import MAX_SLOPE, ClipModel, load_model
from clipdecoder.encoders.open_clip_models import load_open_clip
from clipdecoder.encoders.predict import embed_images
from clipdecoder.encoders.text import count_tokens
from clipdecoder.scoring.cosine import CosineScorer
from clipdecoder.scoring.label_maps import LabelMaps
from clipdecoder.scoring.scores import keep_scores
from schemas.errors import ModelError, TaxonomyError
from schemas.taxonomy import VocabularyLabel, parse_taxonomy

SIZES = [(320, 240), (240, 320), (33, 31), (500, 90), (16, 64), (32, 32)]
TEXTS = ["a photo of a dog.", "a red circle", "there is a Café in the scene."]


@pytest.fixture(params=["plain", "quick_gelu", "siglip", "custom_text"])
def folder(request: pytest.FixtureRequest, model_folders: dict[str, Path]) -> Path:
    return model_folders[request.param]


@pytest.fixture
def plain(model_folders: dict[str, Path]) -> ClipModel:
    return load_model(f"open_clip:{model_folders['plain']}", device="cpu")


def label_of(label_id: str, *texts: str) -> VocabularyLabel:
    return VocabularyLabel(label_id=label_id, name=label_id, texts=texts)


def reference_cosines(folder: Path, files: list[bytes], texts: list[str]) -> np.ndarray:
    """open_clip's own transform, towers and tokenizer, nothing of ours."""
    network, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    network.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.no_grad():
        images = torch.stack([preprocess(Image.open(io.BytesIO(data))) for data in files])
        cosines = network.encode_image(images, normalize=True) @ network.encode_text(tokenizer(texts), normalize=True).T
    return np.asarray(cosines.numpy())


def test_cosines_equal_open_clips_own(folder: Path, encode_picture: Callable[..., bytes]) -> None:
    files = [encode_picture(*size, format, seed=i) for i, size in enumerate(SIZES) for format in ("JPEG", "PNG")]
    model = load_model(f"open_clip:{folder}", device="cpu")
    embedded = list(embed_images(files, model, batch_size=5, threads=2, max_pixels=10**6, clock=StageClock()))
    embeddings_ND = np.stack([image.embedding for image in embedded if image.embedding is not None])
    queries_KD = model.encode_vocabulary([label_of(str(i), text) for i, text in enumerate(TEXTS)])
    maps = LabelMaps.shared(model.record.slope, model.record.intercept, len(queries_KD))
    kept = keep_scores(embeddings_ND, None, CosineScorer(queries_KD=queries_KD, maps=maps), floor=0.0, top_k=0)
    logits_NK = np.zeros((len(files), len(TEXTS)), np.float32)
    logits_NK[kept.sample, kept.label] = kept.logit
    assert len(kept) == logits_NK.size
    np.testing.assert_allclose(logits_NK, reference_cosines(folder, files, TEXTS), atol=1e-4)


def test_embeddings_are_unit_float16(plain: ClipModel) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    pixels.flags.writeable = False
    embeddings = plain.encode_pixels(pixels)
    assert embeddings.dtype == np.float16 and embeddings.shape == (3, plain.record.embedding_width)
    np.testing.assert_allclose(np.linalg.norm(embeddings.astype(np.float32), axis=1), 1, atol=1e-3)


def test_batch_size_moves_embeddings_by_rounding_only(plain: ClipModel) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    together = plain.encode_pixels(pixels).astype(np.float32)
    alone = np.concatenate([plain.encode_pixels(pixels[i : i + 1]) for i in range(9)]).astype(np.float32)
    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_a_network_that_gives_nan_gives_nan_rows(plain: ClipModel, model_folders: dict[str, Path]) -> None:
    loaded = load_open_clip(f"open_clip:{model_folders['plain']}")
    loaded.network.state_dict()["visual.proj"][0, 0] = math.nan
    broken = ClipModel(loaded, torch.device("cpu"))
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    assert np.isnan(broken.encode_pixels(pixels)).all()
    loaded.network.state_dict()["visual.proj"].zero_()
    assert np.isnan(ClipModel(loaded, torch.device("cpu")).encode_pixels(pixels)).all()


def test_a_query_is_the_normalised_mean_of_normalised_texts(plain: ClipModel, model_folders: dict[str, Path]) -> None:
    texts = ["a dog", "a photo of a puppy in the park", "animal"]
    network = load_open_clip(f"open_clip:{model_folders['plain']}").network
    # Texts of very different length as vectors, so that leaving out the first normalisation shows.
    with torch.no_grad():
        raw_MD = network.encode_text(open_clip.SimpleTokenizer(context_length=20)(texts))  # type: ignore[operator]
    unit_MD = F.normalize(raw_MD, dim=-1)
    expected = F.normalize(unit_MD.mean(dim=0), dim=-1).numpy()
    mistakes = {
        "not normalised first": F.normalize(raw_MD.mean(dim=0), dim=-1).numpy(),
        "not normalised last": unit_MD.mean(dim=0).numpy(),
        "first text only": unit_MD[0].numpy(),
        "texts counted twice": F.normalize(unit_MD[[0, 0, 1, 2]].mean(dim=0), dim=-1).numpy(),
    }
    query = plain.encode_vocabulary([label_of("dog", *texts)])[0]
    assert query.dtype == np.float32
    np.testing.assert_allclose(query, expected, atol=1e-6)
    for mistake, value in mistakes.items():
        assert np.abs(value - expected).max() > 1e-4, mistake


def test_queries_equal_open_clips_zero_shot_recipe(plain: ClipModel, model_folders: dict[str, Path]) -> None:
    names, templates = ["dog", "hot air balloon"], ["a photo of a {}.", "there is a {} in the scene."]
    classifier_DK = open_clip.build_zero_shot_classifier(
        load_open_clip(f"open_clip:{model_folders['plain']}").network,
        open_clip.SimpleTokenizer(context_length=20),
        names,
        templates,
    )
    labels = [label_of(name, *(template.format(name) for template in templates)) for name in names]
    np.testing.assert_allclose(plain.encode_vocabulary(labels), classifier_DK.T.numpy(), atol=1e-6)


def test_queries_do_not_depend_on_other_labels_or_chunks(plain: ClipModel) -> None:
    labels = [label_of(str(i), f"a photo of number {i}", "shared") for i in range(300)]
    all_KD = plain.encode_vocabulary(labels)
    some_KD = plain.encode_vocabulary(labels[250:260][::-1])
    np.testing.assert_allclose(some_KD, all_KD[250:260][::-1], atol=1e-6)
    assert plain.encode_vocabulary([]).shape == (0, plain.record.embedding_width)


def test_overlong_texts_are_each_a_problem_with_their_line(plain: ClipModel) -> None:
    long = " ".join(["word"] * 30)
    taxonomy = parse_taxonomy(
        f"""
name: test
templates: ["a {{}}.", "the {{}}"]
labels:
  - {{id: short, name: cat}}
  - {{id: long, name: {long}, description: {long}}}
  - {{id: gone, name: {long}, retired: true}}
""",
        source="labels.yaml",
    )
    with pytest.raises(TaxonomyError) as caught:
        plain.check_texts(taxonomy)
    assert len(caught.value.problems) == 3
    assert all(problem.startswith("labels.yaml:6: label 'long'") for problem in caught.value.problems)
    # a, 30 words, the full stop, start and end.
    assert "34 tokens" in caught.value.problems[0]
    assert "reads 20" in caught.value.problems[0] and repr(f"a {long}.") in caught.value.problems[0]


@pytest.mark.parametrize(("num_words", "fits"), [(18, True), (19, False)])
def test_the_limit_is_where_the_tokenizer_cuts(plain: ClipModel, num_words: int, fits: bool) -> None:
    text = " ".join(["dog"] * num_words)
    tokenizer = open_clip.SimpleTokenizer(context_length=20)
    uncut = open_clip.SimpleTokenizer(context_length=100)([text])[0].count_nonzero()
    assert count_tokens(tokenizer, text) == uncut
    taxonomy = parse_taxonomy(f'name: t\ntemplates: ["{{}}"]\nlabels: [{{id: a, name: {text}}}]')
    if fits:
        plain.check_texts(taxonomy)
    else:
        with pytest.raises(TaxonomyError):
            plain.check_texts(taxonomy)


def test_the_prior_takes_scale_and_bias_from_the_model(model_folders: dict[str, Path]) -> None:
    plain = load_model(f"open_clip:{model_folders['plain']}", device="cpu").record
    scale = float(load_file(model_folders["plain"] / "model.safetensors")["logit_scale"])
    assert plain.slope == pytest.approx(math.exp(scale))
    assert plain.intercept == pytest.approx(-0.25 * plain.slope)
    siglip = load_model(f"open_clip:{model_folders['siglip']}", device="cpu").record
    # Above CLIP's bound of 100: a model with a bias was not trained under it.
    assert siglip.slope == pytest.approx(math.exp(4.8), rel=1e-2) and siglip.intercept == -10.0


@pytest.mark.parametrize(("logit_scale", "slope"), [(2.0, math.exp(2.0)), (6.0, MAX_SLOPE)])
def test_the_slope_is_bounded_as_in_clip(
    logit_scale: float, slope: float, write_model: Callable[..., Path], variants: dict[str, Any], tmp_path: Path
) -> None:
    folder = write_model(tmp_path, variants["plain"][0])
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"logit_scale": torch.tensor(logit_scale)}, folder / "model.safetensors")
    assert load_model(f"open_clip:{folder}", device="cpu").record.slope == pytest.approx(slope)


@pytest.mark.parametrize(("variant", "logit_scale"), [("plain", math.nan), ("siglip", 1e9)])
def test_a_scale_that_is_not_finite_is_refused(
    variant: str, logit_scale: float, model_folders: dict[str, Path]
) -> None:
    loaded = load_open_clip(f"open_clip:{model_folders[variant]}")
    loaded.network.state_dict()["logit_scale"].fill_(logit_scale)
    with pytest.raises(ModelError, match="not finite"):
        ClipModel(loaded, torch.device("cpu"))


def test_the_record_says_what_the_model_is(folder: Path) -> None:
    record = load_model(f"open_clip:{folder}", device="cpu").record
    assert record.name == f"open_clip:{folder}" and record.architecture == "custom"
    assert record.image_size == ((24, 40) if folder.name == "custom_text" else (32, 32))
    assert (record.embedding_width, record.context_length) == (64, 20)
    assert record.calibration == "none" and record.seen_labels == ()


@pytest.mark.gpu
def test_a_gpu_embeds_as_the_processor_does() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    there = load_model("bundled:scenes", device="cuda").encode_pixels(pixels).astype(np.float32)
    here = load_model("bundled:scenes", device="cpu").encode_pixels(pixels).astype(np.float32)
    assert float((there * here).sum(axis=1).min()) > 0.9999

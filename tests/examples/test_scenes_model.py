"""The tiny CLIP: the bundle that ships, and the recipe that made it."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file

from examples.scenes.batches import make_batch
from examples.scenes.captions import ALLOWED_CONCEPTS, ALLOWED_LABELS, batch_captions
from examples.scenes.evaluate import average_precision, evaluate
from examples.scenes.model import (
    CONFIG_FILE,
    MODEL_CFG,
    PREPROCESS_CFG,
    WEIGHTS_FILE,
    build_model,
    encode_captions,
    load_bundle,
    make_tokenizer,
    normalise_pixels,
    save_bundle,
    tokenise,
)
from examples.scenes.muon import orthogonalise
from examples.scenes.pictures import CONCEPTS, Pictures, model_pixels, render_pictures
from examples.scenes.pretrain import Options, Trainer, main
from examples.scenes.render import scene_jpeg

BUNDLE = Path(__file__).parents[2] / "clipdecoder" / "bundled" / "scenes"


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return render_pictures(0, 200, seed=99)


@pytest.fixture
def few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_bundle_is_small_and_loads_into_open_clip_strictly() -> None:
    assert sum(path.stat().st_size for path in BUNDLE.iterdir()) < 10_000_000
    config = json.loads((BUNDLE / CONFIG_FILE).read_text(encoding="utf-8"))
    assert config == {"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG}
    weights = load_file(BUNDLE / WEIGHTS_FILE)
    assert all(value.dtype == torch.float16 and value.isfinite().all() for value in weights.values())
    result = CLIP(**config["model_cfg"]).load_state_dict(weights, strict=True)
    assert not result.missing_keys and not result.unexpected_keys


def test_our_preprocessing_is_open_clips() -> None:
    preprocess = image_transform_v2(PreprocessCfg(**PREPROCESS_CFG), is_train=False)
    jpeg, _ = scene_jpeg(0, seed=0)
    theirs = preprocess(Image.open(io.BytesIO(jpeg)))
    ours = normalise_pixels(torch.from_numpy(model_pixels(jpeg)[None].copy()))[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_captions_encode_as_open_clip_does() -> None:
    torch.manual_seed(0)
    model = build_model().eval()
    tokens = make_tokenizer()(["red circle", "there is a blue moon and an orange star in the picture."])
    with torch.inference_mode():
        theirs = model.encode_text(tokens, normalize=True)
        torch.testing.assert_close(encode_captions(model, tokens), theirs, atol=1e-5, rtol=1e-5)


def test_cached_tokens_are_the_tokenizers() -> None:
    truth = np.ones((4, len(CONCEPTS)), dtype=np.bool_)
    texts = [caption.text for caption in batch_captions(truth, 100, np.random.default_rng(0))]
    assert torch.equal(tokenise(texts), make_tokenizer()(texts))


def test_average_precision_of_known_rankings() -> None:
    scores, truth = np.array([0.9, 0.8, 0.1], np.float32), np.array([True, False, True])
    assert average_precision(scores, truth) == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(average_precision(scores, np.zeros(3, np.bool_)))


def test_bundle_knows_its_world(pictures: Pictures) -> None:
    result = evaluate(load_bundle(BUNDLE), pictures)
    assert result.captioned_map > 65 and result.captioned_chance < 8
    assert result.never_map > 50 and result.never_chance < 8
    patches = evaluate(load_bundle(BUNDLE), pictures, patches=True)
    assert patches.captioned_map > 80 and patches.never_map > 80


def test_orthogonalise_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(48, 16)))
    assert 0.5 < values.min() and values.max() < 1.3


def test_batch_masks_keep_every_true_answer_and_all_attributes(pictures: Pictures) -> None:
    batch = make_batch(pictures, np.arange(32), 16, np.random.default_rng(0))
    assert batch.mask[batch.truth].all() and batch.region_mask[batch.regions].all()
    assert batch.mask[:, len(ALLOWED_LABELS) : len(ALLOWED_CONCEPTS)].all()
    assert 0.7 < batch.mask.float().mean() < 1
    present = batch.truth[:, : len(ALLOWED_CONCEPTS)]
    assert not (batch.regions.any(dim=1) & ~present).any()  # a patch shows only what the picture holds


def test_training_lowers_the_loss_and_resumes(pictures: Pictures, tmp_path: Path, few_threads: None) -> None:
    options = Options(pictures=len(pictures.pixels), minutes=1, batch=8, pairs=8, warmup=1e-3)
    trainer = Trainer(pictures, pictures, tmp_path, options)
    batches = trainer.batches()
    losses = [trainer.train_step(next(batches))[0] for _ in range(8)]
    assert np.mean(losses[-3:]) < 0.9 * losses[0]
    trainer.save()
    other = Trainer(pictures, pictures, tmp_path, options)
    other.resume()
    assert other.step == 8
    again = next(iter(trainer.batches()))
    assert (again == next(iter(other.batches()))).all()  # the random state came along
    assert trainer.train_step(again) == pytest.approx(other.train_step(again), rel=1e-4)


def test_bundle_round_trip_keeps_rounded_weights(tmp_path: Path) -> None:
    model = build_model()
    save_bundle(model, tmp_path, {"step": "0"})
    loaded = load_bundle(tmp_path).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name], value.half().float()), name


def test_command_line_wants_one_of_out_and_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "--evaluate" in capsys.readouterr().err

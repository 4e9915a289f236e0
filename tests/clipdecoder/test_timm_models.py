"""timm backbones from a tag, a file and a folder: the same numbers as timm's own, and every way to ask wrongly."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config

from clipdecoder.clock import StageClock
from clipdecoder.encoders.encoder import ImageEncoder
from clipdecoder.encoders.model import load_image_encoder
from clipdecoder.encoders.predict import embed_images
from clipdecoder.encoders.timm_models import load_timm
from schemas.errors import ModelError

NAME = "test_efficientnet"


def save(network: Any, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.to(dtype).contiguous() for name, value in network.state_dict().items()}, path)
    return path


def load(spec: str) -> ImageEncoder:
    return load_image_encoder(spec, device="cpu")


@pytest.fixture(scope="module")
def network() -> Any:
    """A random model whose classifier has a shape that timm does not know it by, in halves of numbers."""
    torch.manual_seed(0)
    return timm.create_model(NAME, num_classes=7).half().float().eval()


@pytest.fixture(scope="module")
def file(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(network, tmp_path_factory.mktemp("timm") / "weights.safetensors", torch.float16)


def test_embeddings_and_tokens_are_timms_own(network: Any, file: Path, encode_picture: Callable[..., bytes]) -> None:
    files = [encode_picture(*size, seed=i) for i, size in enumerate([(320, 240), (90, 300), (160, 160), (31, 33)])]
    encoder = load(f"timm:{NAME}/{file}")
    embedded = list(
        embed_images(files, encoder, batch_size=3, threads=2, max_pixels=10**6, clock=StageClock(), tokens=True)
    )
    transform = create_transform(**resolve_model_data_config(network))
    with torch.no_grad():
        map_BCHW = network.forward_features(torch.stack([transform(Image.open(io.BytesIO(data))) for data in files]))
    mean_BC = torch.nn.functional.normalize(map_BCHW.mean(dim=(2, 3)), dim=-1)
    np.testing.assert_allclose(np.stack([image.embedding for image in embedded]), mean_BC, atol=1e-3)  # type: ignore[misc]
    tokens_BTC = np.stack([image.tokens for image in embedded])  # type: ignore[misc]
    np.testing.assert_allclose(tokens_BTC, map_BCHW.flatten(2).transpose(1, 2), atol=1e-3, rtol=1e-3)
    assert (encoder.embedding_width, encoder.token_shape) == (256, (25, 256))
    assert encoder.token_bytes == 25 * 256 * 2 and not encoder.local


def test_file_and_folder_of_the_same_weights_have_the_same_id(network: Any, file: Path, tmp_path: Path) -> None:
    by_file = load(f"timm:{NAME}/{file}")
    save(network, tmp_path / "model.safetensors")
    config = {"architecture": NAME, "num_classes": 7, "pretrained_cfg": dict(network.pretrained_cfg)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    by_folder = load(f"timm:{tmp_path}")
    assert by_folder.name == f"timm:{tmp_path}" and by_folder.encoder_id == by_file.encoder_id
    config["pretrained_cfg"] |= {"mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 0.5}  # type: ignore[operator]
    (tmp_path / "config.json").write_text(json.dumps(config))
    # Not through the cache.
    loaded = load_timm(f"timm:{NAME}/{tmp_path / 'model.safetensors'}")
    assert (loaded.preprocess.mean, loaded.preprocess.std) == ((0.5,) * 3, (0.25,) * 3)
    assert loaded.preprocess.crop_pct == 0.5
    override = load_timm(f"timm:{NAME}[mean=0.1:0.2:0.3]/{tmp_path / 'model.safetensors'}").preprocess
    assert (override.mean, override.std) == ((0.1, 0.2, 0.3), (0.25,) * 3)


def test_arguments_of_a_folder_make_its_architecture(tmp_path: Path) -> None:
    save(timm.create_model("test_vit", embed_dim=32, num_heads=2, num_classes=9), tmp_path / "model.safetensors")
    config = {"architecture": "test_vit", "model_args": {"embed_dim": 32, "num_heads": 2, "num_classes": 9}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = load(f"timm:{tmp_path}")
    assert (encoder.embedding_width, encoder.token_shape) == (32, (100, 32))


def test_options_reach_architecture_and_preprocessing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load(f"timm:{NAME}/{file}")
    monkeypatch.chdir(file.parent)
    encoder = load(f"timm:{NAME}[pad_type=same,mean=0.5,std=0.1:0.2:0.3,size=64:96,interpolation=bilinear]/{file.name}")
    assert encoder.name.endswith(f"interpolation=bilinear]/{file}")
    assert load(encoder.name) is encoder
    assert encoder.transform.describe() == {
        "size": [64, 96],
        "mean": [0.5] * 3,
        "std": [0.1, 0.2, 0.3],
        "interpolation": "bilinear",
        "crop_pct": plain.transform.describe()["crop_pct"],
        "crop_mode": "center",
    }
    assert encoder.token_shape == (6, 256)
    assert type(encoder.backbone.tower.conv_stem).__name__ == "Conv2dSame"
    only_padding = load(f"timm:{NAME}[pad_type=same]/{file}")
    assert len({plain.encoder_id, encoder.encoder_id, only_padding.encoder_id}) == 3


def test_another_size_resamples_positions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = save(timm.create_model("test_vit", num_classes=3), tmp_path / "vit.safetensors")
    encoder = load(f"timm:test_vit[size=96]/{path}")
    assert encoder.token_shape == (36, 64) and encoder.transform.size == (96, 96)
    assert load(f"timm:test_vit/{path}").token_shape == (100, 64)


def test_weights_that_do_not_fit_are_named(network: Any, file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"do not fit: \d+ missing \(.*, \.\.\.\); \d+ unexpected \(.*is it this"):
        load(f"timm:test_resnet/{file}")
    state = network.state_dict()
    del state["conv_head.weight"]
    state["extra"] = torch.zeros(2)
    state["conv_stem.weight"] = torch.zeros(1)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError) as caught:
        load(f"timm:{NAME}/{tmp_path / 'w.safetensors'}")
    for words in ("1 missing (conv_head.weight)", "1 unexpected (extra)", "1 of another shape (conv_stem.weight)"):
        assert words in str(caught.value)
    (tmp_path / "w.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(ModelError, match="cannot load"):
        load(f"timm:{NAME}/{tmp_path / 'w.safetensors'}")


@pytest.mark.parametrize("suffix", ["pth", "bin", "npz"])
def test_a_pickle_is_refused_and_the_error_says_how_to_convert(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    torch.save({}, path)
    with pytest.raises(ModelError, match="save_file"):
        load(f"timm:{NAME}/{path}")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("timm:tresnetm", "unknown architecture 'tresnetm' in 'timm:tresnetm'; nearest: tresnet_"),
        (
            "timm:tresnet_m.miil_in22k",
            "unknown tag 'miil_in22k' of tresnet_m in 'timm:tresnet_m.miil_in22k'; nearest: m",
        ),
        ("timm:test_mambaout", "timm has no weights for test_mambaout; name a file"),
        ("timm:", "cannot read 'timm:'; known: timm:NAME.TAG"),
        ("timm:hf-hub:timm/test_vit.r160_in1k", "cannot read"),
        ("timm:/no/such/folder", "a folder holds config.json"),
        (f"timm:{NAME}/none.safetensors", "there is no file 'none.safetensors'"),
        (f"timm:{NAME}[oops]/FILE", "'oops' is no option"),
        (f"timm:{NAME}[mean=0.5,mean=0.4]/FILE", "'mean=0.4' is no option, or stands twice"),
        (f"timm:{NAME}[num_classes=3]/FILE", "'num_classes' is not yours to set"),
        (f"timm:{NAME}[checkpoint_path=evil.pth]/FILE", "'checkpoint_path' is not yours to set"),
        (f"timm:{NAME}[depth=3]/FILE", "unexpected keyword argument 'depth'"),
        (f"timm:{NAME}[crop_mode=middle]/FILE", "unknown crop_mode 'middle'; known: border, center, squash"),
        (f"timm:{NAME}[interpolation=cubic]/FILE", "unknown interpolation 'cubic'; known: bicubic"),
        (f"timm:{NAME}[mean=0.5:0.5]/FILE", "mean cannot be (0.5, 0.5); write mean=0.5 or"),
        (f"timm:{NAME}[size=0]/FILE", "size and std are above 0"),
        (f"timm:{NAME}[std=0]/FILE", "std are above 0"),
        (f"timm:{NAME}[size=big]/FILE", "size cannot be 'big'; write size=224 or 224:320"),
        (f"timm:{NAME}[size=224:224:3]/FILE", "size cannot be (224, 224, 3)"),
        (f"timm:{NAME}[global_pool=]/FILE", "does not pool"),
    ],
)
def test_what_is_asked_wrongly_says_what_is_known(spec: str, words: str, file: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load(spec.replace("FILE", str(file)))
    assert words in str(caught.value)


@pytest.mark.parametrize("config", ["{", "[]", '{"architecture": "test_vit", "pretrained_cfg": 1}', "{}"])
def test_a_broken_configuration_is_a_model_error(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match="is no configuration of timm|cannot be read|unknown architecture ''"):
        load(f"timm:{tmp_path}")


def test_weights_that_cannot_be_fetched_name_the_local_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"cannot fetch .*timm/test_vit\.r160_in1k on another machine.*timm:FOLDER"):
        load("timm:test_vit.r160_in1k")


def test_one_load_per_process_under_every_name(file: Path) -> None:
    encoder = load(f"timm:{NAME}/{file}")
    assert load(f"timm:{NAME}/{file}") is encoder and load(encoder.name) is encoder

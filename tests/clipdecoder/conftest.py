"""Tiny open_clip models with random weights, on disk, and pictures in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

PLAIN: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 48, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": (PLAIN, {}),
    "quick_gelu": (PLAIN | {"quick_gelu": True}, {"resize_mode": "longest", "fill_color": 77}),
    "siglip": (
        PLAIN | {"init_logit_scale": 4.8, "init_logit_bias": -10.0},
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize_mode": "squash"},
    ),
    "custom_text": (
        PLAIN | {"custom_text": True, "vision_cfg": PLAIN["vision_cfg"] | {"image_size": [24, 40]}},
        {"interpolation": "bilinear"},
    ),
}

WriteModel = Callable[..., Path]
Encode = Callable[..., bytes]


def build_network(model_cfg: dict[str, Any], seed: int = 0) -> torch.nn.Module:
    """A random model whose weights are float16 values, so that saving them halved loses nothing."""
    config = dict(model_cfg)
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    torch.manual_seed(seed)
    network: torch.nn.Module = kind(**config)
    return network.half().float()


def write_model(
    folder: Path,
    model_cfg: dict[str, Any],
    preprocess_cfg: dict[str, Any] | None = None,
    *,
    network: torch.nn.Module | None = None,
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write the folder form of a model and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    network = network or build_network(model_cfg)
    save_file({k: v.to(dtype).contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
    return folder


def encode_picture(width: int, height: int, format: str = "JPEG", *, seed: int = 0, **options: Any) -> bytes:
    """A smooth random picture as a file."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session", name="write_model")
def write_model_fixture() -> WriteModel:
    return write_model


@pytest.fixture(scope="session", name="build_network")
def build_network_fixture() -> Callable[..., torch.nn.Module]:
    return build_network


@pytest.fixture(scope="session", name="encode_picture")
def encode_picture_fixture() -> Encode:
    return encode_picture


@pytest.fixture(scope="session")
def variants() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    return VARIANTS


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder per variant."""
    root = tmp_path_factory.mktemp("models")
    return {name: write_model(root / name, *configs) for name, configs in VARIANTS.items()}

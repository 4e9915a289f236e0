"""Towers of usual size with random weights, as local open_clip folders: what they cost is what trained ones cost."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import open_clip
import torch
from open_clip.transform import PreprocessCfg
from safetensors.torch import save_file

from clipdecoder.encoders.open_clip_models import CONFIG_FILE


def save_random(name: str, folder: Path) -> str:
    """Write a model of an architecture of open_clip, drawn from seed 0, and return the spec that loads it."""
    folder.mkdir(parents=True)
    config = open_clip.get_model_config(name)
    torch.manual_seed(0)
    weights = open_clip.create_model(name, pretrained=None).state_dict()
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / "open_clip_model.safetensors")
    preprocess = asdict(PreprocessCfg(size=config["vision_cfg"]["image_size"]))
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return f"open_clip:{folder}"

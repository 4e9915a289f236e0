"""Loading timm models as image backbones: a tag of the hub, a weights file, or a folder (see `timm_specs`).

Where neither options nor a `config.json` beside the file say how pictures are prepared, it is as for the tag in the
name, or for the architecture's first tag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.data.config import resolve_data_config
from torch import nn

from clipdecoder.encoders.backbone import TimmBackbone
from clipdecoder.encoders.encoder import EncoderFacts, ImageEncoder, blank_features
from clipdecoder.encoders.open_clip_models import LOAD_ERRORS
from clipdecoder.encoders.timm_specs import CONFIG_FILE, WEIGHTS_FILE, TimmRequest, parse_timm
from clipdecoder.encoders.transforms import ImageTransform, TimmPreprocess
from schemas.decoding import Decode, decoding_name
from schemas.errors import ModelError
from schemas.precision import Precision, precision_name


@dataclass(frozen=True, kw_only=True)
class TimmModel:
    """A loaded model without its classifier, float32 on the CPU, in evaluation mode, and frozen."""

    name: str  # the spec that finds it again from any working directory
    network: nn.Module
    architecture: str
    arguments: dict[str, Any]  # of the architecture, beyond its defaults
    preprocess: TimmPreprocess


def load_timm(spec: str) -> TimmModel:
    """Load what `spec` names.

    Raises:
        ModelError: unknown architecture, tag, option or file; weights that cannot be fetched, or do not fit.
    """
    request = parse_timm(spec)
    try:
        network = _fetch(request) if request.file is None else _load_file(request)
    except ModelError:
        raise
    except LOAD_ERRORS as error:
        raise ModelError(f"cannot load {spec!r}: {type(error).__name__}: {str(error)[:600]}") from error
    return TimmModel(
        name=_full_name(request, network),
        network=network.eval().requires_grad_(False),
        architecture=request.architecture,
        arguments=request.arguments,
        preprocess=_preprocess_of(request, network),
    )


def timm_encoder(
    loaded: TimmModel, device: torch.device, decode: Decode = "exact", precision: Precision = "float32"
) -> ImageEncoder:
    """Return the model as an image encoder, after one blank picture went through it.

    Raises:
        ModelError: the network does not give a map and a pooled embedding of pictures of this size.
    """
    backbone = TimmBackbone(loaded.network)
    try:
        features = blank_features(backbone, loaded.preprocess.size, torch.device("cpu"))
    except ModelError as error:
        raise ModelError(f"{loaded.name}: {error}") from None
    except LOAD_ERRORS as error:
        raise ModelError(
            f"{loaded.name} cannot take pictures of {loaded.preprocess.size}: {type(error).__name__}: {error}"
        ) from error
    if features.embeddings_BD.ndim != 2:
        raise ModelError(f"{loaded.name} does not pool: it gives {tuple(features.embeddings_BD.shape)} for one picture")
    transform = ImageTransform(loaded.preprocess, device, decode)
    facts = EncoderFacts(
        name=precision_name(decoding_name(loaded.name, decode), precision),
        architecture=loaded.architecture,
        embedding_width=features.embeddings_BD.shape[1],
        joint_text_id=None,
        identity={
            "library": "timm",
            "architecture": loaded.architecture,
            "arguments": loaded.arguments,
            "preprocess": transform.describe(),
            "decode": transform.decode_policy,
        },
    )
    return ImageEncoder(backbone, transform, facts, device, precision)


def _fetch(request: TimmRequest) -> nn.Module:
    try:
        network: nn.Module = timm.create_model(
            request.model_name, pretrained=True, num_classes=0, **_arguments(request)
        )
    except OSError as error:
        raise ModelError(
            f"cannot fetch the weights of {request.spec!r}: {error} Where the hub cannot be reached, fetch "
            f"{WEIGHTS_FILE} and {CONFIG_FILE} of timm/{request.model_name} on another machine and name their folder, "
            "timm:FOLDER"
        ) from error
    return network


def _load_file(request: TimmRequest) -> nn.Module:
    """Load weights as timm loads its own, which converts older names, but refuse whatever does not fit."""
    assert request.file is not None
    weights = load_file(request.file)
    bare: Any = timm.create_model(request.architecture, num_classes=0, **_arguments(request))
    for classifier in _names(bare.pretrained_cfg.get("classifier")):
        weights.pop(f"{classifier}.weight", None)
        weights.pop(f"{classifier}.bias", None)
    # With no classes on either side timm loads strictly.
    source = {"state_dict": dict(weights), "num_classes": 0, "label_offset": 0}
    try:
        network: Any = timm.create_model(
            request.model_name, pretrained=True, num_classes=0, pretrained_cfg_overlay=source, **_arguments(request)
        )
    except RuntimeError as error:
        raise _misfit(request.spec, weights, bare.state_dict(), error) from error
    del network.pretrained_cfg["state_dict"]
    return network  # type: ignore[no-any-return]


def _misfit(spec: str, weights: Mapping[str, Any], expected: Mapping[str, Any], error: Exception) -> ModelError:
    missing = [name for name in expected if name not in weights and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in expected]
    reshaped = [name for name in weights if name in expected and weights[name].shape != expected[name].shape]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    parts = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in found.items()
        if names
    ]
    detail = "; ".join(parts) or str(error)[:300]
    return ModelError(f"{spec!r}: the weights do not fit: {detail}; is it this architecture, with these options?")


def _arguments(request: TimmRequest) -> dict[str, Any]:
    """Return the architecture's arguments; a size goes to those whose positions are made for one."""
    known = timm.models.get_pretrained_cfg(request.architecture)
    if "size" in request.preprocess and known is not None and known.fixed_input_size:
        return request.arguments | {"img_size": request.preprocess["size"]}
    return request.arguments


def _preprocess_of(request: TimmRequest, network: Any) -> TimmPreprocess:
    """Join what the options, the configuration beside the file and timm's own registry say, in this order."""
    options = {key: value for key, value in request.preprocess.items() if key != "size"}
    if "size" in request.preprocess:
        options["input_size"] = (3, *request.preprocess["size"])
    try:
        data = resolve_data_config(options, network.pretrained_cfg | request.config)  # type: ignore[no-untyped-call]
        return TimmPreprocess(
            size=tuple(data["input_size"][1:]),
            mean=tuple(map(float, data["mean"])),
            std=tuple(map(float, data["std"])),
            interpolation=data["interpolation"],
            crop_pct=float(data["crop_pct"]),
            crop_mode=data["crop_mode"],
        )
    except (AssertionError, TypeError, ValueError) as error:
        raise ModelError(f"{request.spec!r}: preprocessing {request.preprocess}: {error or 'wrong'}") from error


def _names(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _full_name(request: TimmRequest, network: Any) -> str:
    """Return a spec that does not depend on the working directory, nor on which tag is the first."""
    if request.file is None:
        _, bracket, options = request.spec.partition("[")
        return f"timm:{request.architecture}.{network.pretrained_cfg['tag']}{bracket}{options}"
    if request.from_folder:
        return f"timm:{request.file.parent.resolve()}"
    return f"{request.spec.removesuffix(str(request.spec.partition('/')[2]))}{request.file.resolve()}"

"""Names of timm models: architecture, tag or file, and the options in between.

    timm:tresnet_m.miil_in21k
    timm:mobilenetv2_100[pad_type=same,mean=0.5,std=0.5]/weights.safetensors
    timm:FOLDER

In brackets stand arguments of the architecture and of its preprocessing. Several numbers are joined by colons:
`mean=0.485:0.456:0.406`, `size=224:320` (height, width).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

from clipdecoder.encoders.open_clip_models import HOW_TO_CONVERT, nearest
from schemas.errors import ModelError

TIMM_SCHEMES = ("timm:NAME.TAG", "timm:NAME[OPTIONS]/FILE.safetensors", "timm:FOLDER")
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"

_SPEC = re.compile(r"(?P<name>[\w.-]+)(?:\[(?P<options>[^\]]*)\])?(?:/(?P<file>.+))?")
_PREPROCESS_OPTIONS = ("size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
# They would bring weights from elsewhere, or make something else than a backbone.
_REFUSED_OPTIONS = frozenset(
    (
        *(
            "pretrained",
            "pretrained_cfg",
            "pretrained_cfg_overlay",
            "pretrained_strict",
            "checkpoint_path",
            "cache_dir",
        ),
        *("features_only", "num_classes", "in_chans", "scriptable", "exportable", "no_jit"),
    )
)
_WORDS = {"true": True, "false": False, "none": None}


@dataclass(frozen=True, kw_only=True)
class TimmRequest:
    """What a name asks for."""

    spec: str
    architecture: str
    tag: str  # "" where none is named
    arguments: dict[str, Any]  # of the architecture, beyond its defaults
    preprocess: dict[str, Any]  # options about it; size is (height, width), mean and std are tuples
    file: Path | None  # None: the hub's
    config: dict[str, Any]  # `pretrained_cfg` of the configuration beside the file
    from_folder: bool

    @property
    def model_name(self) -> str:
        """The architecture with its tag, as timm writes it."""
        return f"{self.architecture}.{self.tag}" if self.tag else self.architecture


def is_timm(spec: str) -> bool:
    """Whether a model's name is one for this module."""
    return spec.startswith("timm:")


def parse_timm(spec: str) -> TimmRequest:
    """Read a name (see `TIMM_SCHEMES`) and the configuration beside its weights, if there is one.

    Raises:
        ModelError: unknown architecture or tag, unreadable options, a file that is not there or no safetensors.
    """
    reference = spec.removeprefix("timm:")
    folder = Path(reference).expanduser()
    if (folder / CONFIG_FILE).is_file():
        return _request(spec, str(_config(folder).get("architecture", "")), {}, folder / WEIGHTS_FILE, folder=True)
    match = _SPEC.fullmatch(reference)
    if match is None:
        raise ModelError(
            f"cannot read {spec!r}; known: {', '.join(TIMM_SCHEMES)}; a folder holds {CONFIG_FILE} and {WEIGHTS_FILE}"
        )
    file = None if match["file"] is None else Path(match["file"]).expanduser()
    return _request(spec, match["name"], _options(match["options"] or "", spec), file, folder=False)


def _request(spec: str, name: str, options: dict[str, Any], file: Path | None, *, folder: bool) -> TimmRequest:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise ModelError(
            f"unknown architecture {architecture!r} in {spec!r}; {nearest(architecture, timm.list_models())}; "
            "to list all: timm.list_models()"
        )
    _check_weights_named(architecture, tag, file, spec)
    config = {} if file is None else _config(file.parent)
    preprocess = {key: _preprocess_value(key, options.pop(key), spec) for key in _PREPROCESS_OPTIONS if key in options}
    arguments = {key: value for key, value in config.get("model_args", {}).items() if key not in _REFUSED_OPTIONS}
    return TimmRequest(
        spec=spec,
        architecture=architecture,
        tag=tag,
        arguments=arguments | options,
        preprocess=preprocess,
        file=file,
        config=config.get("pretrained_cfg", {}),
        from_folder=folder,
    )


def _check_weights_named(architecture: str, tag: str, file: Path | None, spec: str) -> None:
    """Refuse a tag that timm does not know, weights that nobody trained, and files that are not safetensors."""
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ModelError(f"unknown tag {tag!r} of {architecture} in {spec!r}; {nearest(tag, tags)}")
    if file is None and not tags:
        raise ModelError(f"timm has no weights for {architecture}; name a file: timm:{architecture}/FILE.safetensors")
    if file is not None and not file.is_file():
        raise ModelError(f"{spec!r}: there is no file {str(file)!r}")
    if file is not None and file.suffix != ".safetensors":
        raise ModelError(f"{spec!r}: cannot read weights from {file.name!r}: {HOW_TO_CONVERT}")


def _options(text: str, spec: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = entry.partition("=")
        if not (equals and key.isidentifier()) or key in options:
            raise ModelError(f"{spec!r}: {entry!r} is no option, or stands twice; write [pad_type=same,mean=0.5]")
        if key in _REFUSED_OPTIONS:
            raise ModelError(f"{spec!r}: {key!r} is not yours to set: it follows from the weights")
        options[key] = tuple(map(_value, value.split(":"))) if ":" in value else _value(value)
    return options


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _preprocess_value(key: str, value: Any, spec: str) -> Any:
    """Return sizes as two whole numbers, mean and std as one or three numbers."""
    if key not in ("size", "mean", "std"):
        return value
    numbers = value if isinstance(value, tuple) else (value,) * (2 if key == "size" else 1)
    kinds, lengths, form = (
        ((int,), (2,), "224 or 224:320") if key == "size" else ((int, float), (1, 3), "0.5 or 0.5:0.4:0.3")
    )
    if len(numbers) not in lengths or not all(type(number) in kinds for number in numbers):
        raise ModelError(f"{spec!r}: {key} cannot be {value!r}; write {key}={form}")
    return numbers


def _config(folder: Path) -> dict[str, Any]:
    """Return the `config.json` of a folder as timm writes it, or nothing where there is none."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("pretrained_cfg", {}), dict):
        raise ModelError(f"{path}: is no configuration of timm: no mapping with `architecture` and `pretrained_cfg`")
    return config

"""Finding and loading open_clip models: a tag of the hub, a weights file, or a folder.

Weights files are safetensors: a pickle can run code when it is read, so a local one is refused. Tags are fetched and
read by open_clip itself, which prefers safetensors and reads older files with `weights_only`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg
from safetensors import SafetensorError
from torch import nn

from schemas.errors import ModelError, one_of

CONFIG_FILE = "open_clip_config.json"
BUNDLED = Path(__file__).parents[1] / "bundled"
SCHEMES = ("bundled:NAME", "open_clip:NAME/TAG", "open_clip:NAME/FILE.safetensors", "open_clip:FOLDER")

# Where open_clip looks first in a folder; with one of these there, it never reaches for a pickle beside it.
_PREFERRED_WEIGHTS = {"open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"}
_PICKLES = (".bin", ".pth")
_PREPROCESS_FIELDS = ("mean", "std", "interpolation", "resize_mode")
# What open_clip and safetensors raise on a configuration that makes no model, or weights that are not its own.
LOAD_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ImportError,
    SafetensorError,
)
HOW_TO_CONVERT = (
    "only safetensors files are read, since reading a pickle can run code. If you trust it, convert it once: "
    "state = torch.load(FILE, weights_only=True); state = state.get('state_dict', state); "
    "safetensors.torch.save_file({k.removeprefix('module.'): v.clone() for k, v in state.items()}, "
    "'FILE.safetensors')"
)


@dataclass(frozen=True, kw_only=True)
class OpenClipModel:
    """A loaded model, float32 on the CPU, in evaluation mode."""

    name: str  # the spec that finds it again from any working directory
    network: nn.Module
    config: dict[str, Any]  # open_clip's model_cfg: embed_dim, vision_cfg, text_cfg, quick_gelu, ...
    preprocess: PreprocessCfg
    tokenizer: Any
    architecture: str


def load_open_clip(spec: str) -> OpenClipModel:
    """Load what `spec` names (see `SCHEMES`).

    Raises:
        ModelError: unknown scheme, architecture, tag or folder; weights that cannot be fetched, or do not fit.
    """
    scheme, _, reference = spec.partition(":")
    if scheme == "bundled":
        return replace(_load_folder(_bundled_folder(reference), spec), name=spec)
    if scheme != "open_clip" or not reference:
        raise ModelError(one_of("kind of model", spec, SCHEMES))
    name, _, pretrained = reference.partition("/")
    if open_clip.is_pretrained_cfg(name, pretrained):
        return _load_tag(name, pretrained, spec)
    folder = Path(reference).expanduser()
    if (folder / CONFIG_FILE).is_file():
        return _load_folder(folder, spec)
    return _load_file(name, pretrained, spec)


def _bundled_folder(name: str) -> Path:
    known = sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG_FILE}"))
    if name not in known:
        raise ModelError(one_of("bundled model", name, known))
    return BUNDLED / name


def _load_tag(name: str, tag: str, spec: str) -> OpenClipModel:
    """Load weights by tag, with the preprocessing and the activation that the tag was trained with."""
    pretrained = open_clip.get_pretrained_cfg(name, tag)
    try:
        weights = open_clip.download_pretrained(pretrained)
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"cannot fetch the weights of {spec!r}: {error}. Where the hub cannot be reached, fetch them on another "
            f"machine and name the file, open_clip:{name}/FILE.safetensors, or a folder that also holds {CONFIG_FILE}"
        ) from error
    # One architecture serves tags trained with QuickGELU and without; open_clip only warns of a mismatch.
    quick_gelu = bool(pretrained.get("quick_gelu", False))
    return _load(name, spec, weights=weights, preprocess=_preprocess_of(pretrained), quick_gelu=quick_gelu)


def _load_file(name: str, pretrained: str, spec: str) -> OpenClipModel:
    """Load a local weights file into a known architecture, with the preprocessing that all its tags share."""
    if name not in open_clip.list_models():
        raise _unknown_architecture(name, spec)
    path = Path(pretrained).expanduser()
    if path.suffix == ".safetensors" and path.is_file():
        found = _load(name, spec, weights=str(path), preprocess=_shared_preprocess(name))
        return replace(found, name=f"open_clip:{name}/{path.resolve()}")
    if path.is_file():
        raise ModelError(f"{spec!r}: cannot read weights from {path.name!r}: {HOW_TO_CONVERT}")
    if path.suffix == ".safetensors":
        raise ModelError(f"{spec!r}: there is no file {pretrained!r}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    raise ModelError(
        f"unknown tag {pretrained!r} of {name}; {nearest(pretrained, tags)}; "
        f"to list all: open_clip.list_pretrained_tags_by_model({name!r}); "
        f"or name a file: open_clip:{name}/FILE.safetensors"
    )


def _load_folder(folder: Path, spec: str) -> OpenClipModel:
    """Load a folder with a configuration and safetensors weights, as `local-dir:` of open_clip does."""
    weights = {path.name for path in folder.glob("*.safetensors")}
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if not weights:
        hint = f"; {pickles[0]!r} is there: {HOW_TO_CONVERT}" if pickles else ""
        raise ModelError(f"{spec!r}: no safetensors file beside {CONFIG_FILE}{hint}")
    if pickles and not weights & _PREFERRED_WEIGHTS:
        raise ModelError(
            f"{spec!r}: open_clip would read the pickle {pickles[0]!r} there; remove it, or name the safetensors file "
            f"{min(_PREFERRED_WEIGHTS)!r}"
        )
    return replace(_load(f"local-dir:{folder}", spec), name=f"open_clip:{folder.resolve()}")


def _load(
    name: str,
    spec: str,
    *,
    weights: str | None = None,
    preprocess: dict[str, Any] | None = None,
    quick_gelu: bool | None = None,
) -> OpenClipModel:
    overrides = {} if quick_gelu is None else {"quick_gelu": quick_gelu}
    try:
        tokenizer = open_clip.get_tokenizer(name)  # first: cheap, and what fails where a package is missing
        network = open_clip.create_model(
            name, weights, force_preprocess_cfg=preprocess, require_pretrained=True, **overrides
        )
    except LOAD_ERRORS as error:
        raise ModelError(f"cannot load {spec!r}: {_explain(error)}") from error
    return OpenClipModel(
        name=spec,
        network=network.eval().requires_grad_(False),
        config=open_clip.get_model_config(name) | overrides,
        preprocess=PreprocessCfg(**open_clip.get_model_preprocess_cfg(network)),
        tokenizer=tokenizer,
        architecture="custom" if name.startswith("local-dir:") else name,
    )


def _preprocess_of(pretrained: dict[str, Any]) -> dict[str, Any]:
    return {field: pretrained[field] for field in _PREPROCESS_FIELDS if field in pretrained}


def _shared_preprocess(name: str) -> dict[str, Any] | None:
    """Return what all tags of an architecture agree on: a bare weights file says nothing about its preprocessing.

    Without it, SigLIP weights in a file would silently get CLIP's mean, deviation and crop. Where tags disagree, or
    there are none, it is open_clip's default; a folder with a configuration states it exactly.
    """
    tags = open_clip.list_pretrained_tags_by_model(name)
    known = [_preprocess_of(open_clip.get_pretrained_cfg(name, tag)) for tag in tags]
    return known[0] if known and all(preprocess == known[0] for preprocess in known) else None


def _unknown_architecture(name: str, spec: str) -> ModelError:
    if Path(spec.partition(":")[2]).expanduser().is_dir():
        return ModelError(f"{spec!r} is a folder without {CONFIG_FILE}; it needs that and safetensors weights")
    return ModelError(
        f"unknown architecture {name!r} in {spec!r}; {nearest(name, open_clip.list_models())}; "
        f"to list all: open_clip.list_models()"
    )


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the part of an "unknown name" error that offers the names most like `word`, of a long list."""
    names = sorted(known)
    folded = {name.lower(): name for name in names}
    near = [folded[match] for match in difflib.get_close_matches(word.lower(), folded, n=5, cutoff=0.5)]
    return f"nearest: {', '.join(near)}" if near else f"known: {', '.join(names[:8]) or 'none'}"


def _explain(error: Exception) -> str:
    if isinstance(error, ImportError) and "transformers" in str(error):
        return "its tokenizer or text encoder needs the package transformers: pip install transformers"
    return f"{type(error).__name__}: {json.dumps(str(error)[:600], ensure_ascii=False)}"

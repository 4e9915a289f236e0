"""Every way to name a model, and every way to name it wrongly."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.pretrained import _PRETRAINED
from safetensors.torch import load_file, save_file

from clipdecoder.encoders.model import ClipModel, find_device, load_model
from clipdecoder.encoders.open_clip_models import CONFIG_FILE, load_open_clip
from schemas.errors import ModelError

WriteModel = Callable[..., Path]
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


def load_anew(spec: str) -> ClipModel:
    """Load without the cache."""
    return ClipModel(load_open_clip(spec), torch.device("cpu"))


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    edit(config)
    (folder / CONFIG_FILE).write_text(json.dumps(config))


@pytest.fixture
def tiny_tag(
    tmp_path: Path, model_folders: dict[str, Path], variants: dict[str, tuple[dict[str, Any], dict[str, Any]]]
) -> Iterator[str]:
    """An architecture and a tag in open_clip's registries: the tag trained with QuickGELU, its architecture not."""
    name = "tiny-for-tests"
    (tmp_path / f"{name}.json").write_text(json.dumps(variants["plain"][0]))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    weights = str(model_folders["plain"] / "model.safetensors")
    _PRETRAINED[name] = {"openai_style": {"file": weights, "mean": MEAN, "std": STD, "quick_gelu": True}}
    yield f"{name}/openai_style"
    del _PRETRAINED[name]


def test_tag_file_and_folder_of_the_same_weights_have_the_same_ids(
    tiny_tag: str, write_model: WriteModel, variants: dict[str, Any], build_network: Any, tmp_path: Path
) -> None:
    config = variants["plain"][0] | {"quick_gelu": True}
    # Defaults spelt out, float32 instead of float16, and the other class for the text tower.
    config["vision_cfg"] = config["vision_cfg"] | {"mlp_ratio": 4.0, "pool_type": "tok"}
    network = build_network(variants["plain"][0])
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic"}
    folder = write_model(tmp_path / "folder", config, preprocess, network=network, dtype=torch.float32)
    custom = open_clip.CustomTextCLIP(**config)
    text_names = ("visual.", "logit_scale")
    state = {k if k.startswith(text_names) else f"text.{k}": v for k, v in network.state_dict().items()}
    custom.load_state_dict(state)
    custom_folder = write_model(tmp_path / "custom", config | {"custom_text": True}, preprocess, network=custom)

    by_tag, by_folder, by_custom = (
        load_anew(spec).record
        for spec in (f"open_clip:{tiny_tag}", f"open_clip:{folder}", f"open_clip:{custom_folder}")
    )
    assert by_tag.model_id == by_folder.model_id == by_custom.model_id
    assert by_tag.encoder_id == by_folder.encoder_id and by_tag.text_encoder_id == by_folder.text_encoder_id
    # A bare file says nothing about the activation, so it is the architecture's; the preprocessing is the tags'.
    by_file = load_anew(f"open_clip:tiny-for-tests/{folder / 'model.safetensors'}")
    assert by_file.transform.config.mean == MEAN
    edit_config(folder, lambda config: config["model_cfg"].pop("quick_gelu"))
    assert by_file.record.model_id == load_anew(f"open_clip:{folder}").record.model_id
    assert by_file.record.model_id != by_tag.model_id


def test_quick_gelu_survives_every_way_of_loading(tiny_tag: str, model_folders: dict[str, Path]) -> None:
    def activations(spec: str) -> set[str]:
        modules = load_open_clip(spec).network.modules()
        return {type(module).__name__ for module in modules if "GELU" in type(module).__name__}

    assert activations(f"open_clip:{tiny_tag}") == {"QuickGELU"}
    assert activations(f"open_clip:{model_folders['quick_gelu']}") == {"QuickGELU"}
    assert activations(f"open_clip:{model_folders['plain']}") == {"GELU"}


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("visual.conv1.weight", {"encoder_id", "model_id"}),
        ("token_embedding.weight", {"text_encoder_id", "model_id"}),
        ("logit_scale", {"model_id"}),
        ("mean", {"encoder_id", "model_id"}),
        ("interpolation", {"encoder_id", "model_id"}),
        ("quick_gelu", {"encoder_id", "text_encoder_id", "model_id"}),
        ("clean", {"text_encoder_id", "model_id"}),
    ],
)
def test_one_change_changes_the_ids_it_should(
    part: str, changed: set[str], write_model: WriteModel, variants: dict[str, Any], tmp_path: Path
) -> None:
    folder = write_model(tmp_path, variants["plain"][0], {"mean": [0.5, 0.5, 0.5]})
    before = load_anew(f"open_clip:{folder}").record
    if part == "mean":
        edit_config(folder, lambda config: config["preprocess_cfg"].update(mean=[0.5, 0.5, 0.51]))
    elif part == "interpolation":
        edit_config(folder, lambda config: config["preprocess_cfg"].update(interpolation="bilinear"))
    elif part == "quick_gelu":
        edit_config(folder, lambda config: config["model_cfg"].update(quick_gelu=True))
    elif part == "clean":
        edit_config(
            folder, lambda config: config["model_cfg"]["text_cfg"].update(tokenizer_kwargs={"clean": "canonicalize"})
        )
    else:
        weights = load_file(folder / "model.safetensors")
        weights[part].view(-1)[0] += 0.25
        save_file(weights, folder / "model.safetensors")
    after = load_anew(f"open_clip:{folder}").record
    ids = ("encoder_id", "text_encoder_id", "model_id")
    assert {name for name in ids if getattr(before, name) != getattr(after, name)} == changed


def test_a_real_architecture_loads_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    network = open_clip.create_model("RN50", precision="fp32")
    save_file({name: value.half() for name, value in network.state_dict().items()}, weights)
    record = load_anew(f"open_clip:RN50/{weights}").record
    assert (record.image_size, record.embedding_width, record.context_length) == ((224, 224), 1024, 77)
    assert record.architecture == "RN50"


@pytest.mark.skipif(find_spec("transformers") is not None, reason="transformers is installed")
def test_a_missing_package_is_named_before_weights_are_read(model_folders: dict[str, Path]) -> None:
    weights = model_folders["plain"] / "model.safetensors"
    with pytest.raises(ModelError, match="pip install transformers"):
        load_open_clip(f"open_clip:ViT-B-16-SigLIP/{weights}")


def test_the_bundled_model_loads_by_name() -> None:
    record = load_model("bundled:scenes", device="cpu").record
    assert record.name == "bundled:scenes" and record.calibration == "none"


def test_threads_that_race_share_one_load(model_folders: dict[str, Path]) -> None:
    barrier, models = threading.Barrier(4), []

    def load() -> None:
        barrier.wait()
        models.append(load_model(f"open_clip:{model_folders['plain']}", device="cpu"))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(models) == 4 and len({id(model) for model in models}) == 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("timm:resnet50", ("unknown kind of model 'timm:resnet50'", "bundled:NAME", "open_clip:FOLDER")),
        ("scenes", ("unknown kind of model 'scenes'",)),
        ("open_clip:", ("unknown kind of model",)),
        ("bundled:nothing", ("unknown bundled model 'nothing'", "scenes")),
        ("bundled:../scenes", ("unknown bundled model '../scenes'",)),
        ("open_clip:ViT-B32/openai", ("unknown architecture 'ViT-B32'", "nearest: ", "ViT-B-32", "list_models()")),
        ("open_clip:ViT-B-32/laion2b_e17", ("unknown tag 'laion2b_e17'", "laion2b_e16", "list_pretrained_tags")),
        ("open_clip:ViT-B-32", ("unknown tag ''", "known: ")),
        ("open_clip:ViT-B-32/none.safetensors", ("there is no file 'none.safetensors'",)),
    ],
)
def test_unknown_names_list_what_is_near(spec: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        load_open_clip(spec)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("suffix", ["pt", "bin", "ckpt", "pth"])
def test_a_pickle_is_refused_and_the_error_says_how_to_convert(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ModelError, match="save_file"):
        load_open_clip(f"open_clip:ViT-B-32/{path}")


def test_folders_that_hold_no_model(
    write_model: WriteModel, variants: dict[str, Any], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    def message(folder: Path) -> str:
        with pytest.raises(ModelError) as caught:
            load_open_clip(f"open_clip:{folder}")
        return str(caught.value)

    assert "without open_clip_config.json" in message(tmp_path)
    folder = write_model(tmp_path / "model", variants["plain"][0])
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"pickle")
    assert "open_clip would read the pickle" in message(folder)
    (folder / "model.safetensors").rename(folder / "open_clip_model.safetensors")
    assert load_anew(f"open_clip:{folder}").record == load_anew(
        f"open_clip:{model_folders['plain']}"
    ).record.model_copy(update={"name": f"open_clip:{folder}"})
    (folder / "open_clip_model.safetensors").write_bytes(b"no safetensors")
    assert "cannot load" in message(folder)
    (folder / "open_clip_model.safetensors").unlink()
    assert "no safetensors file" in message(folder) and "save_file" in message(folder)


@pytest.mark.parametrize(
    "config", ["", "[]", "{}", '{"model_cfg": {}}', '{"model_cfg": {"vision_cfg": 1, "text_cfg": 2}}']
)
def test_a_broken_configuration_is_a_model_error(
    config: str, write_model: WriteModel, variants: Any, tmp_path: Path
) -> None:
    folder = write_model(tmp_path, variants["plain"][0])
    (folder / CONFIG_FILE).write_text(config)
    with pytest.raises(ModelError, match="cannot load"):
        load_open_clip(f"open_clip:{folder}")


def test_weights_of_another_architecture_are_refused(model_folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="cannot load"):
        load_open_clip(f"open_clip:ViT-S-32-alt/{model_folders['plain'] / 'model.safetensors'}")


@pytest.mark.usefixtures("tiny_tag")
def test_weights_that_cannot_be_fetched_name_the_local_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # open_clip's download cache is below it
    _PRETRAINED["tiny-for-tests"]["far_away"] = {"url": "http://127.0.0.1:9/weights.pt"}  # a closed port
    with pytest.raises(ModelError, match="cannot fetch .* open_clip:tiny-for-tests/FILE.safetensors"):
        load_open_clip("open_clip:tiny-for-tests/far_away")


def test_devices() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type in ("cpu", "cuda")
    for word in ("tpu", "cuda:x", "cpu:1", ""):
        with pytest.raises(ModelError, match="unknown device"):
            find_device(word)
    with pytest.raises(ModelError, match="PyTorch finds"):
        find_device("cuda:99")

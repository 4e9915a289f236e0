"""clip-retrieval's own reader, mapper and writer, on request: run by the Python of its environment, not by ours.

Started by `benchmarks.clip_retrieval` with the folder of an open_clip model. Each line of the standard input asks for
one run (`{"stage": "all" or "reader", "tars": [...], "to": FOLDER}`), each line of the standard output answers with
its seconds, the processor seconds of all its processes, and how many images it was; the first answer has the loading
of the model in it. The two processes that clip-retrieval starts for its statistics are left out, in its favour.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any


def load_folder(folder: str, use_jit: bool, device: str, cache_path: str | None) -> tuple[Any, Any, Any]:
    """Return model, preprocessing and tokenizer of an open_clip folder, as all_clip's loaders do of its names."""
    import open_clip
    from all_clip.open_clip import OpenClipWrapper
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from safetensors.torch import load_file

    config = json.loads(Path(folder, "open_clip_config.json").read_text())
    name = f"local-{Path(folder).name}"
    model_file = Path(os.environ["CONFIGS"], f"{name}.json")
    model_file.write_text(json.dumps(config["model_cfg"]))
    open_clip.add_model_config(model_file)
    model = open_clip.create_model(name, device=device)
    (weights,) = Path(folder).glob("*.safetensors")
    model.load_state_dict(load_file(weights))
    preprocess = image_transform_v2(PreprocessCfg(**config["preprocess_cfg"]), is_train=False)
    return OpenClipWrapper(inner_model=model.eval(), device=device), preprocess, open_clip.get_tokenizer(name)


class NoStatistics:
    """In the place of its LoggerWriter."""

    def __init__(self, **options: Any) -> None:
        pass

    def start(self) -> None:
        pass

    def __call__(self, stats: dict[str, Any]) -> None:
        pass

    def end(self) -> None:
        pass


def infer(tars: list[str], to: str, options: dict[str, Any]) -> int:
    """Embed the tars as `clip-retrieval inference` does, and return how many images it was."""
    import numpy as np
    from clip_retrieval.clip_inference import worker

    worker.LoggerWriter = NoStatistics
    worker.worker(
        tasks=[0],
        input_dataset=tars,
        output_folder=to,
        output_partition_count=1,
        input_format="webdataset",
        batch_size=options["batch_size"],
        num_prepro_workers=options["workers"],
        enable_text=False,
        use_jit=False,
        clip_model="folder:" + options["model"],
    )
    return len(np.load(f"{to}/img_emb/img_emb_0.npy", mmap_mode="r"))


def read(tars: list[str], to: str, options: dict[str, Any]) -> int:
    """Run its reader alone, preprocessing included, and return how many images came of it."""
    from all_clip import load_clip
    from clip_retrieval.clip_inference.reader import WebdatasetReader

    _, preprocess, tokenizer = load_clip(
        clip_model="folder:" + options["model"],
        use_jit=False,
        warmup_batch_size=options["batch_size"],
        clip_cache_path=None,
    )
    reader = WebdatasetReader(
        lambda urls: urls,
        preprocess,
        tokenizer,
        tars,
        options["batch_size"],
        options["workers"],
        enable_text=False,
    )
    return sum(len(batch["image_tensor"]) for batch in reader)


STAGES = {"all": infer, "reader": read}


def processor_seconds() -> float:
    """Return the processor seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def serve(options: dict[str, Any]) -> None:
    """Answer requests until the standard input ends."""
    from all_clip import main as registry

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print goes elsewhere
    # Before the empty prefix, which takes everything.
    registry._CLIP_REGISTRY = {"folder:": load_folder, **registry._CLIP_REGISTRY}
    for line in sys.stdin:
        request = json.loads(line)
        started, used = time.perf_counter(), processor_seconds()
        images = STAGES[request["stage"]](request["tars"], request["to"], options)
        answer = {"wall": time.perf_counter() - started, "cpu": processor_seconds() - used, "images": images}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))

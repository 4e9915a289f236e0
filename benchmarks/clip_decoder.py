"""What training is worth, on seen and on novel labels: the scenes, and real photographs where they are at hand.

    python -m benchmarks.clip_decoder run --world scenes --seed 0 [--variant no-ema]
    python -m benchmarks.clip_decoder run --world corel5k --data FOLDER --seed 0
    python -m benchmarks.clip_decoder table [--write benchmarks/results/NAME.md]

Each run trains one model through the product's own commands, evaluates it on pictures that no part of it has seen, and
adds a line to `.bench/clip_decoder.jsonl`; `table` draws them all. A seed draws the novel labels, the pictures of the
scenes and everything that training draws. Corel5k is split by content: 4,000 pictures to train on (500 of them to
validate), 500 to test on.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import statistics
import sys
import tarfile
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.machine import describe
from examples.scenes.render import LABELS, iter_scenes, taxonomy_yaml
from flows.evaluate import plan_evaluation, run_evaluation
from flows.train import run_train
from flows.training.plan import plan_train
from schemas.config import EvaluateRequest, TrainRequest
from schemas.label_words import LabelWords
from schemas.sample import MemberCounts
from schemas.taxonomy import parse_taxonomy
from schemas.training import train_config
from storage.pack import pack
from storage.shards import iter_samples

RESULTS = Path(".bench/clip_decoder.jsonl")
SCENES_TRAIN, SCENES_TEST, SCENES_NOVEL = 3000, 2000, 16
COREL_TEST, COREL_NOVEL = 500, 40

# The recipe of each world, and what is changed in it to see what a part is worth.
RECIPES: dict[str, dict[str, Any]] = {
    "scenes": {},
    "corel5k": {
        "validation_share": 0.125,
        "epochs": 6,
        "sampled_labels": 64,
        "feedforward_width": 512,
    },
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "alpha=0": {"alpha": 0.0},
    "no EMA": {"ema_decay": 0.0},
    "all labels each step": {"sampled_labels": 0},
    "16 labels each step": {"sampled_labels": 16},
    "no distillation": {"distillation": 0.0},
    "no residual": {"residual": False},
}


def make_scenes(folder: Path, seed: int) -> None:
    """Render training and test pictures, and draw the novel labels."""
    for name, count, offset in (("train", SCENES_TRAIN, 0), ("test", SCENES_TEST, 1)):
        (folder / name).mkdir()
        table = folder / name / "labels.csv"
        with table.open("w") as file:
            file.write("path,labels\n")
            for key, data, label_ids in iter_scenes(count, seed=1000 + 2 * seed + offset):
                (folder / name / f"{key}.jpg").write_bytes(data)
                file.write(f"{key}.jpg,{';'.join(label_ids)}\n")
        pack(str(table), str(folder / "shards" / name / "{:05d}.tar"), samples_per_shard=500)
    label_ids = [label.id for label in LABELS]
    (folder / "taxonomy.yaml").write_text(taxonomy_yaml(label_ids))
    write_novel(folder, random.Random(seed).sample(label_ids, SCENES_NOVEL))


def make_corel(folder: Path, data: Path, seed: int) -> None:
    """Split the photographs by content into shards, and draw the novel labels among those frequent enough."""
    (folder / "taxonomy.yaml").write_text((data / "corel5k" / "taxonomy.yaml").read_text())
    samples = sorted(read_corel(data), key=lambda sample: hashlib.sha256(sample[1]).hexdigest())
    splits = {"test": samples[:COREL_TEST], "train": samples[COREL_TEST:]}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for name, chosen in splits.items():
        (folder / "shards" / name).mkdir(parents=True)
        for start in range(0, len(chosen), 500):
            write_tar(folder / "shards" / name / f"{start // 500:05d}.tar", chosen[start : start + 500])
        for _, _, side in chosen:
            counts[name].update(json.loads(side)["labels"])
    eligible = sorted(n for n in counts["test"] if counts["test"][n] >= 2 and sum(c[n] for c in counts.values()) >= 10)
    names = random.Random(seed).sample(eligible, COREL_NOVEL)
    words = LabelWords(parse_taxonomy((folder / "taxonomy.yaml").read_text()))
    write_novel(folder, list(words.find(names)))


def read_corel(data: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield key, picture and side file of every photograph."""
    for shard in sorted((data / "corel5k").glob("train-*.tar")):
        for sample in iter_samples(str(shard), MemberCounts()):
            yield sample.key, sample.data, sample.side["json"]


def write_tar(path: Path, samples: list[tuple[str, bytes, bytes]]) -> None:
    """Write samples with their side files as a shard."""
    with tarfile.open(path, "w") as tar:
        for key, data, side in samples:
            for name, content in ((f"{key}.jpg", data), (f"{key}.json", side)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def write_novel(folder: Path, label_ids: list[str]) -> None:
    """Write the list of novel labels."""
    (folder / "novel.txt").write_text("\n".join(sorted(label_ids)) + "\n")


def models_of(world: str, data: Path | None) -> dict[str, str | None]:
    """Return the encoders of a world."""
    if world == "scenes":
        return {"base": "bundled:scenes", "text": None}
    weights = f"{data}/weights/mobilenetv2_100_same_imagenet.safetensors"
    base = f"timm:mobilenetv2_100[pad_type=same,mean=0.5,std=0.5]/{weights}"
    return {"base": base, "text": f"table:{data}/corel5k/text_embeddings.parquet"}


def run(world: str, seed: int, variants: list[str], data: Path | None) -> None:
    """Train and evaluate each variant on one draw, and add a line for each to the results."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if world == "scenes":
            make_scenes(folder, seed)
        else:
            assert data is not None, "the photographs lie in --data"
            make_corel(folder, data, seed)
        shared = {"taxonomy": f"{folder}/taxonomy.yaml", "store": f"{folder}/store", "novel": f"{folder}/novel.txt"}
        for variant in variants:
            recipe = train_config(**RECIPES[world] | {"seed": seed} | VARIANTS[variant])
            started = time.perf_counter()
            request = TrainRequest(
                shards=(f"{folder}/shards/train/*.tar",),
                name="train",
                recipe=recipe,
                **models_of(world, data),
                **shared,
            )
            summary = run_train(plan_train(request))
            assert summary is not None
            seconds = time.perf_counter() - started
            test = EvaluateRequest(
                shards=(f"{folder}/shards/test/*.tar",), name="test", model=summary.model_id, **shared
            )
            evaluation = run_evaluation(plan_evaluation(test)).evaluation
            line = {
                "world": world,
                "seed": seed,
                "variant": variant,
                "recipe": recipe.model_dump(mode="json"),
                "epochs": summary.epochs,
                "seconds": round(seconds, 1),
                "branches": [branch.model_dump(mode="json") for branch in summary.branches],
                "images": evaluation.num_images,
                "scorers": {
                    row.scorer: {
                        group: None if metrics is None else metrics.model_dump(mode="json")
                        for group, metrics in (("seen", row.seen), ("novel", row.novel), ("all", row.all))
                    }
                    for row in evaluation.scorers
                },
            }
            RESULTS.parent.mkdir(exist_ok=True)
            with RESULTS.open("a") as file:
                file.write(json.dumps(line) + "\n")
            found = {scorer: precisions(line, scorer) for scorer in line["scorers"]}
            sys.stdout.write(f"{world} {seed} {variant} {seconds:.0f} s {found}\n")


def precisions(line: dict[str, Any], scorer: str) -> tuple[float | None, float | None]:
    """Return mAP of seen and novel labels in per cent."""
    found = [line["scorers"].get(scorer, {}).get(group) for group in ("seen", "novel")]
    values = [None if each is None else each["mean_average_precision"] for each in found]
    return tuple(None if value is None else round(100 * value, 1) for value in values)  # type: ignore[return-value]


def table() -> list[str]:
    """Return all results as Markdown: a table per world, a row per variant and scorer, the mean over seeds."""
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    page = [
        "# CLIP-Decoder: seen and novel labels",
        "",
        *describe(),
        "- command: `python -m benchmarks.clip_decoder`",
        "",
    ]
    for world in sorted({line["world"] for line in lines}):
        page += _world([line for line in lines if line["world"] == world])
    return page


def _world(lines: list[dict[str, Any]]) -> Iterator[str]:
    first = next(line for line in lines if line["variant"] == "default")
    metrics = {group: first["scorers"]["fused"][group] for group in ("seen", "novel")}
    yield f"## {first['world']}"
    yield ""
    counted = {group: each["num_labels"] - each["num_skipped"] for group, each in metrics.items()}
    yield (
        f"{first['images']} test pictures, {counted['seen']} seen and {counted['novel']} novel labels with positives "
        f"(of seed {first['seed']}). Recipe: `{json.dumps(RECIPES[first['world']])}`, all else as by default."
    )
    yield ""
    yield "| variant | scorer | seen mAP | by seed | novel mAP | by seed | ECE seen | ECE novel | seconds |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for variant in VARIANTS:
        of_variant = sorted((line for line in lines if line["variant"] == variant), key=lambda line: line["seed"])
        if not of_variant:
            continue
        scorers = of_variant[0]["scorers"] if variant == "default" else ("fused", "decoder")
        for scorer in scorers:
            yield _row(variant, scorer, of_variant)
    yield ""


def _row(variant: str, scorer: str, lines: list[dict[str, Any]]) -> str:
    cells = [variant, scorer]
    for position in (0, 1):
        values = [precisions(line, scorer)[position] for line in lines]
        known = [value for value in values if value is not None]
        cells += [f"{statistics.mean(known):.1f}" if known else "-", " ".join(map(str, values)) if known else "-"]
    for group in ("seen", "novel"):
        errors = [(line["scorers"][scorer].get(group) or {}).get("ece") for line in lines]
        known = [error for error in errors if error is not None]
        cells.append(f"{statistics.mean(known):.3f}" if known else "-")
    cells.append(f"{statistics.mean(line['seconds'] for line in lines):.0f}" if scorer == "fused" else "")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Read the command line; run or draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clip_decoder", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--world", choices=sorted(RECIPES), required=True)
    running.add_argument("--seed", type=int, default=0)
    running.add_argument("--variant", action="append", choices=list(VARIANTS))
    running.add_argument("--data", type=Path)
    drawing = commands.add_parser("table")
    drawing.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.world, arguments.seed, arguments.variant or ["default"], arguments.data)
        return
    page = "\n".join(table()) + "\n"
    sys.stdout.write(page)
    if arguments.write:
        arguments.write.write_text(page)


if __name__ == "__main__":
    main()

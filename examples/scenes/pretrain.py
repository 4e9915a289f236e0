"""Pretrain the tiny CLIP of the demo world, or measure a bundle of it.

    python -m examples.scenes.pretrain --out DIR --minutes 45      train, checkpoint, write the best bundle to DIR
    python -m examples.scenes.pretrain --evaluate DIR              print the test mAP of a bundle

The loss is the sigmoid loss of SigLIP (Zhai et al. 2023, arXiv:2303.15343) with one change: a scene's contents are
known, so every (picture, caption) pair of a batch has its true answer instead of "its own caption only"; and so has
every (patch, caption) pair, for captions that name one concept. A batch's captions are each encoded once.

The learning rate follows the clock, so a run ends when its minutes do and a slower machine takes fewer steps; the same
command resumes from `checkpoint.pt`. The weights kept are an exponential moving average, the best on the validation
pictures by the mean of both mAPs (captioned and never-captioned labels).

Shapes: B pictures, N captions, P patches, D embedding width.
"""

import argparse
import copy
import logging
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional as F

from examples.scenes.batches import Batch, Indices, make_batch
from examples.scenes.captions import Caption
from examples.scenes.evaluate import Evaluation, evaluate
from examples.scenes.model import (
    build_model,
    encode_captions,
    load_bundle,
    save_bundle,
    tokenise,
)
from examples.scenes.muon import Muon
from examples.scenes.pictures import Pictures, load_pictures
from examples.scenes.render import LABELS

logger = logging.getLogger(__name__)

TRAIN_SEED, VALIDATION_SEED, TEST_SEED = 1, 2, 3
HELD_OUT_PICTURES = 2000
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that a training run depends on, next to the code."""

    pictures: int = 60_000
    minutes: float = 45.0
    seed: int = 0
    batch: int = 64
    pairs: int = 48  # two-concept captions per step, beside the 64 single ones
    learning_rate: float = 1e-3
    warmup: float = 0.03  # share of the minutes
    block_rate: float = 0.02  # of Muon
    weight_decay: float = 0.02  # of Muon's matrices
    region_weight: float = 3.0
    attribute_weight: float = 3.0  # of captions that name only a colour or only a shape
    ema: float = 0.998
    check_seconds: float = 90.0  # between validations


def _pair_losses(logits: Tensor, truth: Tensor, weight_N: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, truth.float(), weight_N, reduction="none")


def _caption_weights(captions: list[Caption], attribute_weight: float) -> Tensor:
    """Weight_N: captions that name only a colour or only a shape count more, for they teach what novel pairs share."""
    alone_N = [len(caption.concepts) == 1 and caption.concepts[0] >= len(LABELS) for caption in captions]
    return 1 + (attribute_weight - 1) * torch.tensor(alone_N, dtype=torch.float32)


def caption_losses(model: CLIP, batch: Batch, attribute_weight: float) -> tuple[Tensor, Tensor]:
    """Sigmoid losses of all picture-caption and all patch-caption pairs: sums over captions, means over the others."""
    visual: Any = model.visual
    pooled_BD, patches_BPD = visual._pool(visual.transformer(visual._embeds(batch.pixels)))
    text_ND = encode_captions(model, tokenise([caption.text for caption in batch.captions]))
    scaled_ND = model.logit_scale.exp() * text_ND
    logits_BN = F.normalize(pooled_BD @ visual.proj, dim=-1) @ scaled_ND.T + model.logit_bias
    singles = batch.regions.shape[-1]
    logits_BPN = F.normalize(patches_BPD @ visual.proj, dim=-1) @ scaled_ND[:singles].T + model.logit_bias
    weight_N = _caption_weights(batch.captions, attribute_weight)
    whole = _pair_losses(logits_BN, batch.truth, weight_N) * batch.mask
    regions = _pair_losses(logits_BPN, batch.regions, weight_N[:singles]) * batch.region_mask
    return whole.sum(dim=1).mean(), regions.sum(dim=-1).mean()


def make_optimizers(model: CLIP, options: Options) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside transformer blocks, AdamW for everything else; each group keeps its full rate."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    blocks = [p for name, p in trained if "resblocks" in name and p.ndim == 2]
    others = [p for name, p in trained if not ("resblocks" in name and p.ndim == 2)]
    optimizers = [
        Muon(blocks, lr=options.block_rate, weight_decay=options.weight_decay),
        torch.optim.AdamW(others, lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
    return optimizers


class Trainer:
    """A model in training, its moving average, and what is needed to go on after an interruption."""

    def __init__(self, pictures: Pictures, validation: Pictures, out: Path, options: Options) -> None:
        torch.manual_seed(options.seed)
        self.pictures, self.validation, self.out, self.options = pictures, validation, out, options
        self.model = build_model()
        # Copied, so that the average can be evaluated and bundled as a model of its own.
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizers = make_optimizers(self.model, options)
        self.rng = np.random.default_rng([options.seed, 0])
        self.step, self.seconds, self.best = 0, 0.0, 0.0

    def batches(self) -> Iterator[Indices]:
        """Endless picture numbers in shuffled epochs."""
        while True:
            order = self.rng.permutation(len(self.pictures.pixels))
            for start in range(0, len(order) - self.options.batch + 1, self.options.batch):
                yield order[start : start + self.options.batch]

    @property
    def progress(self) -> float:
        """Share of the minutes used, 0 to 1."""
        return min(1.0, self.seconds / (60 * self.options.minutes))

    def _set_rate(self) -> None:
        """Linear warm-up, then a cosine down to 1 % of the rate, over the share of the minutes used."""
        warm = min(1.0, (self.progress + 1e-3) / self.options.warmup)
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.progress))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["full_lr"] * warm * cosine

    @torch.no_grad()
    def _update_average(self) -> None:
        """Move the average towards the weights, faster while the run is young."""
        share = 1 - min(self.options.ema, self.step / (self.step + 10))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), share)

    def train_step(self, indices: Indices) -> tuple[float, float]:
        """One update on these pictures and freshly drawn captions; returns both losses."""
        self.model.train()
        self._set_rate()
        batch = make_batch(self.pictures, indices, self.options.pairs, self.rng)
        whole, regions = caption_losses(self.model, batch, self.options.attribute_weight)
        loss = whole + self.options.region_weight * regions
        self.model.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self._update_average()
        self.step += 1
        return whole.item(), regions.item()

    def check(self, losses: list[tuple[float, float]]) -> Evaluation:
        """Validate the moving average, keep it as the bundle when it is the best so far, and save a checkpoint."""
        result = evaluate(self.average, self.validation)
        score = (result.captioned_map + result.never_map) / 2
        whole, regions = np.mean(losses, axis=0)
        message = "step %d, %.0f s, loss %.2f, region loss %.3f, validation %s"
        logger.info(message, self.step, self.seconds, whole, regions, result)
        if score > self.best:
            self.best = score
            save_bundle(self.average, self.out, {"step": str(self.step), "validation": str(result)})
        self.save()
        return result

    def save(self) -> None:
        """Write `checkpoint.pt`: raw and averaged weights, optimiser, clock, random state."""
        state = {
            "options": asdict(self.options),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rng": self.rng.bit_generator.state,
            "counters": (self.step, self.seconds, self.best),
        }
        partial = self.out / f"{CHECKPOINT}.partial"
        torch.save(state, partial)
        partial.replace(self.out / CHECKPOINT)

    def resume(self) -> None:
        """Go on from `checkpoint.pt` in the output folder, if there is one; the epoch in progress starts anew."""
        path = self.out / CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.rng.bit_generator.state = state["rng"]
        self.step, self.seconds, self.best = state["counters"]
        logger.info("resumed at step %d, %.0f s", self.step, self.seconds)

    def run(self) -> None:
        """Train until the minutes are used, validating every `check_seconds`."""
        losses: list[tuple[float, float]] = []
        next_check = self.seconds + self.options.check_seconds
        before = time.monotonic()
        for indices in self.batches():
            losses.append(self.train_step(indices))
            now = time.monotonic()
            self.seconds, before = self.seconds + now - before, now
            finished = self.seconds >= 60 * self.options.minutes
            if finished or self.seconds >= next_check:
                self.check(losses)
                losses.clear()
                before, next_check = time.monotonic(), self.seconds + self.options.check_seconds
            if finished:
                return


def pretrain(out: Path, options: Options, *, cache: Path | None = None) -> dict[str, Evaluation]:
    """Render, train, and return the test results of the bundle now in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    logger.info("rendering %d pictures", options.pictures)
    pictures = load_pictures(options.pictures, TRAIN_SEED, cache=cache)
    validation = load_pictures(HELD_OUT_PICTURES, VALIDATION_SEED, cache=cache)
    trainer = Trainer(pictures, validation, out, options)
    trainer.resume()
    trainer.run()
    return evaluate_bundle(out, cache=cache)


def evaluate_bundle(folder: Path, *, cache: Path | None = None) -> dict[str, Evaluation]:
    """Test results of a bundle: its rounded weights on 2,000 pictures of a seed that nothing else uses."""
    model, pictures = load_bundle(folder), load_pictures(HELD_OUT_PICTURES, TEST_SEED, cache=cache)
    return {"whole picture": evaluate(model, pictures), "best patch": evaluate(model, pictures, patches=True)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.scenes.pretrain", description="Pretrain the tiny CLIP.")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, help="folder for the bundle and the checkpoint; resumes when it has one")
    target.add_argument("--evaluate", type=Path, metavar="DIR", help="print the test mAP of the bundle in DIR")
    parser.add_argument("--cache", type=Path, help="folder that keeps the rendered pictures between runs")
    parser.add_argument("--threads", type=int, default=2)
    for name, default in asdict(Options()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Command line entry."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    if args.evaluate:
        results = evaluate_bundle(args.evaluate, cache=args.cache)
    else:
        options = Options(**{name: getattr(args, name) for name in asdict(Options())})
        results = pretrain(args.out, options, cache=args.cache)
    for scorer, result in results.items():
        sys.stdout.write(f"test, {scorer}, {result}\n")


if __name__ == "__main__":
    main()

"""What one step of training sees: which images, which labels, and their ground truth.

Everything that is drawn derives from (seed, epoch, step), so that a resumed training draws the same.

Shapes: N samples, M of them trained on, S steps, B images of a step (of all processes), T patch tokens, H W pixels, C
token width, K trained labels or those of a step, Q query width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdecoder.training.targets import Targets
from schemas.errors import RunError
from schemas.training import TrainConfig

Teacher = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class TrainData:
    """Annotated images and the labels to train on. No novel label has a column here, or a query, or a target."""

    inputs: NDArray[Any]  # patch tokens (N, T, C) float16, or pixels (N, H, W, 3) uint8; a memory map will do
    rows_M: NDArray[np.int64]  # the samples to train on
    targets: Targets  # of all N samples and the K trained labels
    queries_KQ: NDArray[np.float32]  # L2-normalised
    teacher: Teacher | None = None  # (rows, columns) -> logits of a frozen model, for distillation

    def __post_init__(self) -> None:
        assert len(self.inputs) == len(self.targets), f"{len(self.inputs)} inputs, {len(self.targets)} targets"
        assert len(self.queries_KQ) == self.targets.num_labels, "one query per label of the targets"
        assert self.inputs.ndim in (3, 4), f"inputs are tokens or pixels, got shape {self.inputs.shape}"


@dataclass(frozen=True)
class Batch:
    """One step. `inputs` are this process's images; ground truth and teacher are those of all processes' images."""

    inputs: Tensor
    columns_K: Tensor
    targets_BK: Tensor
    teacher_BK: Tensor | None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        if device.type == "cpu":
            return self
        moved = [
            None if x is None else x.pin_memory().to(device, non_blocking=True)
            for x in (self.inputs, self.columns_K, self.targets_BK, self.teacher_BK)
        ]
        return Batch(*moved)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Process:
    """Which of how many processes this one is."""

    rank: int = 0
    world_size: int = 1


def epoch_rows(data: TrainData, config: TrainConfig, epoch: int, world_size: int) -> NDArray[np.int64]:
    """Return rows_SB, the samples of each step of an epoch, in an order of its own.

    The last few that fill no batch wait for another epoch; where there are less than a batch, they are the batch.

    Raises:
        RunError: there are fewer images than processes.
    """
    size = min(config.batch_size * world_size, len(data.rows_M) // world_size * world_size)
    if not size:
        raise RunError(f"{len(data.rows_M)} images to train on, and {world_size} processes: use fewer processes")
    order_M = np.random.default_rng([config.seed, epoch]).permutation(data.rows_M)
    return order_M[: len(order_M) // size * size].reshape(-1, size)


def sample_labels(
    targets: Targets, rows_B: NDArray[np.int64], config: TrainConfig, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the labels of one step, ascending: all that its images have, and others by chance up to the limit.

    A label of which silence says nothing has only what is listed to learn from, and a teacher: those that images are
    said not to have come in, and others only with distillation.
    """
    columns = np.arange(targets.num_labels)
    if 0 < config.sampled_labels < targets.num_labels:
        named = targets.named_columns(rows_B, absent=False)
        absent = targets.named_columns(rows_B, absent=True)
        named = np.union1d(named, absent[targets.explicit_K[absent]])
        others = np.setdiff1d(columns, named)
        if not config.distillation:
            others = others[~targets.explicit_K[others]]
        room = max(0, config.sampled_labels - len(named))
        columns = np.sort(np.concatenate([named, rng.permutation(others)[:room]]))
    kept = columns[rng.random(len(columns)) >= config.label_dropout] if config.label_dropout else columns
    return kept if len(kept) else columns


def load_batch(
    data: TrainData, config: TrainConfig, rows_B: NDArray[np.int64], *, draw: tuple[int, int], process: Process
) -> Batch:
    """Return one step's batch.

    Args:
        data: annotated images and labels.
        config: the recipe.
        rows_B: the samples of the step, of all processes.
        draw: epoch and step, which decide what is drawn.
        process: whose share of the images to read.
    """
    rng = np.random.default_rng([config.seed, *draw])
    columns_K = sample_labels(data.targets, rows_B, config, rng)
    flipped_B = rng.random(len(rows_B)) < 0.5
    share = np.array_split(np.arange(len(rows_B)), process.world_size)[process.rank]
    inputs = np.asarray(data.inputs[rows_B[share]])
    if inputs.ndim == 4:
        flipped = flipped_B[share]
        inputs[flipped] = inputs[flipped, :, ::-1]
    teacher_BK = None
    if config.distillation and data.teacher is not None:
        teacher_BK = torch.from_numpy(np.asarray(data.teacher(rows_B, columns_K), np.float32))
    targets_BK = torch.from_numpy(data.targets.dense(rows_B, columns_K))
    return Batch(torch.from_numpy(inputs), torch.from_numpy(columns_K), targets_BK, teacher_BK)


def iter_batches(data: TrainData, config: TrainConfig, epoch: int, process: Process) -> Iterator[Batch]:
    """Yield an epoch's batches; while one is trained on, a thread reads the next."""
    rows_SB = epoch_rows(data, config, epoch, process.world_size)

    def load(step: int) -> Batch:
        return load_batch(data, config, rows_SB[step], draw=(epoch, step), process=process)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        upcoming = pool.submit(load, 0)
        for step in range(len(rows_SB)):
            batch = upcoming.result()
            if step + 1 < len(rows_SB):
                upcoming = pool.submit(load, step + 1)
            yield batch

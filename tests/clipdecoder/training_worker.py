"""One process of a group that trains together: `python -m tests.clipdecoder.training_worker OUT [JSON]`.

The environment is torchrun's. Weights and what the hooks were told go to OUT/RANK.npz.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from clipdecoder.training.distributed import barrier, init_from_environment, is_main, rank, shutdown, world_size
from clipdecoder.training.loop import Hooks, train_head
from tests.clipdecoder.training_world import make_data, recipe, weights_of


def main() -> None:
    """Train, and write what came of it."""
    torch.set_num_threads(1)
    out, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
    assert init_from_environment("cpu") and world_size() == 2
    calls: list[str] = []

    def evaluate(_model: object) -> float:
        calls.append("evaluate")
        return float(len(calls))

    hooks = Hooks(
        evaluate=evaluate,
        on_epoch=lambda _report: calls.append("epoch"),
        on_step=lambda _step, _steps: calls.append("step"),
        save=lambda _state: calls.append("save"),
    )
    trained = train_head(recipe(**changes), make_data(teacher=True), hooks)
    assert bool(calls) == is_main()
    losses = {f"losses.{name}": np.array(value) for name, value in trained.reports[-1].losses.items()}
    best = np.array([trained.best_epoch, trained.best_value])
    np.savez(out / f"{rank()}.npz", **weights_of(trained.model), **losses, best=best)
    barrier()
    shutdown()


if __name__ == "__main__":
    main()

"""Train, and be killed with SIGKILL at a step of the second stage.

Run as a program by test_train.py: `python -m tests.flows.dying_training FOLDER STEPS`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from flows.train import TrainWatch, run_train
from flows.training.plan import plan_train
from tests.flows.annotated import AnnotatedWorld


def main(folder: Path, steps: int) -> None:
    """Train until so many steps of the second stage are done."""
    done_steps = 0

    def on_progress(stage: str, done: int, total: int) -> None:
        nonlocal done_steps
        done_steps += stage == "final"
        if done_steps == steps:
            os.kill(os.getpid(), signal.SIGKILL)

    run_train(plan_train(AnnotatedWorld(folder).train_request()), TrainWatch(on_progress=on_progress))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

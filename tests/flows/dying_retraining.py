"""Kill a retraining with SIGKILL, in its training and in the writes after it, finish it, and compare.

Run as a program by test_retrain.py: `python -m tests.flows.dying_retraining STORE FINISHED FOLDER`, with a store to
begin with, and the same store when it was retrained on and left alone. Each run is a fork of this process, which has
loaded the model but computed nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import fsspec
import torch

from clipdecoder.encoders.model import load_model
from flows.retraining.run import run_retrain
from flows.train import TrainWatch
from schemas.config import RetrainRequest
from storage.files import Folder
from storage.models import read_promotion
from storage.retraining import find_gates, read_decisions
from tests.flows.disks import NEVER, DyingDisk
from tests.flows.dying import half_written
from tests.flows.forks import KILLED, asked, in_fork
from tests.flows.grown import POLICY


def retrain(store: Path, dies_at: int = NEVER) -> tuple[int, dict[str, Any]]:
    """Retrain, dying at a step of a write; return the steps and what came of it if alive."""
    DyingDisk.dies_at, DyingDisk.steps = dies_at, 0
    outcome = run_retrain(RetrainRequest(store=f"dying://{store}", policy=POLICY))
    return DyingDisk.steps, outcome.model_dump(mode="json")


def retrain_and_die(store: Path) -> None:
    """Retrain until two steps of the last stage are done."""
    done_steps = 0

    def on_progress(stage: str, done: int, total: int) -> None:
        nonlocal done_steps
        done_steps += stage == "final"
        if done_steps == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    run_retrain(RetrainRequest(store=str(store), policy=POLICY), TrainWatch(on_progress=on_progress))


def state(store: Path) -> dict[str, Any]:
    """Return what a retraining leaves, without times."""
    folder = Folder(str(store))
    promotion = read_promotion(folder)
    assert promotion is not None
    gates = find_gates(folder, promotion.model_id)
    files = sorted(str(path.relative_to(store)) for path in store.rglob("*") if not path.name.startswith(".tmp-"))
    return {
        "promotion": promotion.model_dump(mode="json", exclude={"since"}),
        "gates": gates.model_dump(mode="json", exclude={"at"}) if gates is not None else None,
        "decisions": len(read_decisions(folder)),
        "files": files,
    }


def unfinish(store: Path) -> None:
    """Make it as if the retraining had been killed when the new model was written, and no later."""
    folder = Folder(str(store))
    (decision,) = read_decisions(folder)
    promotion = read_promotion(folder)
    assert promotion is not None and decision.model_id is not None
    folder.remove(f"models/{promotion.model_id}/gates.json")
    folder.remove(f"retraining/{decision.decision_id}/outcome.json")
    old = promotion.model_copy(update={"model_id": decision.model_id, "previous": None, "history": ()})
    folder.write_bytes("models/current.json", old.model_dump_json().encode())


def main(begun: Path, reference: Path, place: Path) -> dict[str, Any]:
    """Return the steps of the writes after training, and whatever went wrong when it was killed."""
    torch.set_num_threads(1)  # no pool of threads, which a fork would not have
    fsspec.register_implementation("dying", DyingDisk)
    load_model("bundled:scenes", device="cpu")
    wanted = state(reference)
    in_training = shutil.copytree(begun, place / "in-training")
    killed, _ = in_fork(lambda: retrain_and_die(in_training))
    finished, _ = in_fork(lambda: retrain(in_training))
    found = state(in_training)
    wrong: list[Any] = []
    if killed != KILLED or _nameless(found) != _nameless(wanted):
        wrong.append({"killed": killed, "finished": finished, "state": found})
    trained = shutil.copytree(reference, place / "trained")
    unfinish(trained)
    copy = shutil.copytree(trained, place / "copy")
    end, answer = in_fork(lambda: retrain(copy))
    assert answer is not None, end
    steps = answer[0]
    for step in range(2, steps + 1, 2):  # when a file is half written, and when it has just got its name
        store = shutil.copytree(trained, place / f"killed-{step}")
        killed, _ = in_fork(lambda store=store, step=step: retrain(store, step))
        broken = asked(lambda store=store: half_written(store))
        broken = [name for name in broken if not name.startswith(("model.safetensors", "README.md"))]
        shown = state(store)["promotion"]
        end, answer = in_fork(lambda store=store: retrain(store))
        finished = answer is not None and answer[1]["state"] == "promoted" and state(store) == wanted
        if killed != KILLED or broken or not finished or shown["model_id"] not in _shown(wanted):
            ends = {"killed": killed, "finished": end}
            wrong.append({"step": step, **ends, "broken": broken, "shown": shown, "state": state(store)})
    return {"steps": steps, "wrong": wrong}


def _nameless(found: dict[str, Any]) -> dict[str, Any]:
    """Return a state without numbers and names: another number of threads rounds otherwise, and the model differs."""
    text = json.dumps({name: value for name, value in found.items() if name != "gates"})
    named: dict[str, Any] = json.loads(text.replace(found["promotion"]["model_id"], "new"))
    return {**named, "files": sorted(named["files"])}


def _shown(wanted: dict[str, Any]) -> tuple[str, ...]:
    """Return the models that may be shown: the old one or the new one."""
    promotion = wanted["promotion"]
    return promotion["model_id"], promotion["previous"]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*map(Path, sys.argv[1:]))))

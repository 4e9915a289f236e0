"""Two processes over loopback end with the weights of one that has their batches together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clipdecoder.training import distributed
from clipdecoder.training.loop import Hooks, train_head
from schemas.errors import ConfigError
from tests.clipdecoder.training_world import make_data, recipe, weights_of


def train_in_two(out: Path, changes: dict[str, object]) -> list[dict[str, NDArray[np.float32]]]:
    """Return what each process wrote."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.clipdecoder.training_worker", str(out), json.dumps(changes)]
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return [dict(np.load(out / f"{rank}.npz")) for rank in range(2)]


def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path: Path) -> None:
    # Exactly: in bfloat16 a sum over two processes would round otherwise than one over all images.
    changes: dict[str, object] = {"dropout": 0.0, "epochs": 2, "alpha": 0.5, "distillation": 0.5, "amp": "off"}
    first, second = train_in_two(tmp_path, changes | {"batch_size": 8})
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    values = iter([1.0, 2.0])
    hooks = Hooks(evaluate=lambda _model: next(values))
    alone = train_head(recipe(**changes, batch_size=16), make_data(teacher=True), hooks)
    torch.set_num_threads(threads)
    for name, value in weights_of(alone.model).items():
        np.testing.assert_allclose(first[name], value, rtol=0, atol=1e-4, err_msg=name)
    for name, loss in alone.reports[-1].losses.items():
        assert first[f"losses.{name}"] == pytest.approx(loss, rel=1e-4)
    assert first["best"][0] == 2


def test_each_process_of_a_machine_has_a_gpu_of_its_own() -> None:
    assert [distributed.own_gpu(device, rank, 2) for device in ("auto", "cuda") for rank in (0, 1)] == [0, 1, 0, 1]
    with pytest.raises(ConfigError, match="process 3 of this machine has no GPU, as .* finds 2.*--nproc-per-node 2"):
        distributed.own_gpu("auto", 2, 2)
    with pytest.raises(ConfigError, match="'cuda:1' asked for.*CUDA_VISIBLE_DEVICES"):
        distributed.own_gpu("cuda:1", 0, 2)


def test_one_process_is_a_group_of_one() -> None:
    assert not distributed.init_from_environment()
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    distributed.barrier()
    assert distributed.from_main(0.3, torch.device("cpu")) == 0.3
    x_BD = torch.randn(3, 2)
    assert distributed.gather_rows(x_BD) is x_BD
    distributed.shutdown()

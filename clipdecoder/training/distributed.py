"""Several processes that train one model, as `torchrun` starts them; one process is the case of one.

Shapes: B images of one process, W processes.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from schemas.errors import ConfigError

# The others wait while the main process makes the features of all images, which may take hours, and PyTorch's own limit
# is 10 minutes on GPUs. A process that died is `torchrun`'s to see: it ends the others at once.
PATIENCE = timedelta(days=7)


def init_from_environment(device: str = "auto") -> bool:
    """Join the group that `torchrun` describes in the environment; return whether there is one.

    NCCL where there are GPUs, each process on its own, which is then what `cuda` means in it; else gloo.

    Args:
        device: what was asked for: with `cpu` GPUs are left alone.

    Raises:
        ConfigError: there are fewer GPUs than processes on this machine, or all processes were to share one.
    """
    if "RANK" not in os.environ or dist.is_initialized():
        return dist.is_initialized()
    if device == "cpu" or not torch.cuda.is_available():
        dist.init_process_group("gloo", timeout=PATIENCE)
        return True
    index = own_gpu(device, int(os.environ["LOCAL_RANK"]), torch.cuda.device_count())
    torch.cuda.set_device(index)
    dist.init_process_group("nccl", timeout=PATIENCE, device_id=torch.device("cuda", index))
    return True


def own_gpu(device: str, local_rank: int, num_gpus: int) -> int:
    """Return the GPU of one of several processes of a machine.

    Raises:
        ConfigError: there is none for it.
    """
    if device not in ("auto", "cuda"):
        raise ConfigError(
            f"device {device!r} asked for, and of several processes each takes a GPU of its own; leave it out, and say "
            "which GPUs there are by CUDA_VISIBLE_DEVICES"
        )
    if local_rank >= num_gpus:
        raise ConfigError(
            f"process {local_rank + 1} of this machine has no GPU, as PyTorch finds {num_gpus} here; give torchrun "
            f"--nproc-per-node {num_gpus}, or train with --device cpu"
        )
    return local_rank


def shutdown() -> None:
    """Leave the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that validates, saves and reports."""
    return rank() == 0


def barrier() -> None:
    """Wait until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def from_main(value: float, device: torch.device) -> float:
    """Return the main process's number in all of them."""
    if world_size() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(shared, src=0)
    return float(shared)


def gather_rows(x_BD: Tensor) -> Tensor:
    """Return the rows of all processes, in order of rank; gradients flow back to the process they belong to.

    With it a loss over the whole batch is computed in every process. The gradient that DistributedDataParallel then
    averages is that of one process with all the images: every process counts the whole loss once, and the mean over
    processes takes the factor out again.
    """
    gathered: Tensor = _GatherRows.apply(x_BD) if world_size() > 1 else x_BD
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BD: Tensor) -> Tensor:
        parts = [torch.empty_like(x_BD) for _ in range(world_size())]
        dist.all_gather(parts, x_BD.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad.chunk(world_size())[rank()]

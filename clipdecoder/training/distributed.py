"""Several processes that train one model, as `torchrun` starts them; one process is the case of one.

Shapes: B images of one process, W processes.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def init_from_environment() -> bool:
    """Join the group that `torchrun` describes in the environment; return whether there is one.

    NCCL where there are GPUs, each process on its own, else gloo.
    """
    if "RANK" not in os.environ or dist.is_initialized():
        return dist.is_initialized()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl")
    else:
        dist.init_process_group("gloo")
    return True


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

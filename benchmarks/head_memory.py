"""What scoring many labels takes of memory, each number of them in a process of its own; part of `head_cost`.

    python -m benchmarks.head_memory LABELS BYTES SHAPE

prints what prepared labels take and what a batch adds at its peak, in KiB; `BYTES` bounds a chunk of labels, `SHAPE` is
a `HeadConfig` as JSON.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch.nn import functional as F

from benchmarks.figures import Figure
from clipdecoder.heads.cost import chunk_bytes
from clipdecoder.heads.text_query_head import TextQueryHead
from clipdecoder.onednn import use_onednn
from schemas.training import HeadConfig

NUM_TOKENS, WIDTH = 49, 512  # patch tokens of ViT-B/32
BATCH = 16
SHAPE = HeadConfig(token_width=WIDTH, query_width=WIDTH)
MAX_BYTES = chunk_bytes("cpu")
FLAT = 1.25  # memory of a batch with the most labels over that with the fewest, at most


def random_queries(num_labels: int, width: int = WIDTH) -> torch.Tensor:
    """Return L2-normalised queries_KC."""
    return F.normalize(torch.randn(num_labels, width), dim=-1)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """MiB that labels take in a process of their own."""

    num_labels: int
    vocabulary: float  # the labels, prepared: kept as long as they are scored
    batch: float  # at the peak of a batch, in chunks of labels as by default
    at_once: float | None  # the same with all labels at once; None where that was left out


def peak_memory(num_labels: int, max_bytes: int, shape: HeadConfig) -> None:
    """Print what a vocabulary takes of this process's memory, and what a batch adds at its peak, in KiB."""
    head, x_BTC = TextQueryHead(shape).eval(), torch.randn(BATCH, NUM_TOKENS, shape.token_width)
    use_onednn(head)
    with torch.inference_mode():
        head(x_BTC, random_queries(64, shape.query_width))  # what is made once
        before = _resident()
        prepared = head.prepare(random_queries(num_labels, shape.query_width))
        vocabulary = _resident()
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        head(x_BTC, prepared, max_bytes=max_bytes)
        sys.stdout.write(f"{vocabulary - before} {_status('VmHWM') - vocabulary}")


def _resident() -> int:
    """Return this process's memory in KiB, without what it has freed and not given back."""
    ctypes.CDLL(None).malloc_trim(0)
    return _status("VmRSS")


def _status(field: str) -> int:
    # Not `getrusage`: there a process starts with the peak of the one that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def measure_memory(labels: Sequence[int], shape: HeadConfig = SHAPE, *, at_once: bool = True) -> list[Memory]:
    """Return what scoring takes for some numbers of labels; `at_once`: also without chunks, which takes gigabytes."""

    def run(num_labels: int, max_bytes: int) -> list[float]:
        words = (sys.executable, "-m", "benchmarks.head_memory", str(num_labels), str(max_bytes))
        # Every array is given back as it is freed: what counts is what is held, not what the allocator keeps of it.
        env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run((*words, shape.model_dump_json()), capture_output=True, text=True, check=True, env=env)
        return [int(word) / 1024 for word in done.stdout.split()]

    found = []
    for count in labels:
        vocabulary, batch = run(count, MAX_BYTES)
        whole = run(count, 2**62)[1] if at_once else None
        found.append(Memory(num_labels=count, vocabulary=vocabulary, batch=batch, at_once=whole))
    return found


def memory_table(found: Sequence[Memory], shape: HeadConfig = SHAPE) -> Iterator[str]:
    """Yield the table of memory."""
    yield "## Memory"
    yield ""
    yield (
        f"A head of width {shape.width} in a process of its own: what the prepared labels take, and what a batch of "
        f"{BATCH} adds to that at its peak, with chunks of at most {MAX_BYTES >> 20} MiB as by default, and all labels "
        "at once."
    )
    yield ""
    yield "| labels | prepared, MiB | a batch in chunks, MiB | a batch at once, MiB |"
    yield "|---:|---:|---:|---:|"
    for one in found:
        whole = "not measured" if one.at_once is None else f"{one.at_once:,.0f}"
        yield f"| {one.num_labels:,} | {one.vocabulary:,.0f} | {one.batch:,.0f} | {whole} |"


def memory_figure(found: Sequence[Memory]) -> Figure:
    """Return whether memory is flat: what a batch takes with the most labels over what it takes with the fewest."""
    first, last = found[0], found[-1]
    return Figure(
        name=f"memory of a batch, {last.num_labels:,} labels over {first.num_labels:,}",
        value=last.batch / first.batch,
        target=FLAT,
        at_most=True,
        basis="peak of a process of its own beyond what it holds with the labels prepared",
    )


if __name__ == "__main__":
    peak_memory(int(sys.argv[1]), int(sys.argv[2]), HeadConfig.model_validate_json(sys.argv[3]))

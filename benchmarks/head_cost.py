"""What the head costs beside its backbone, in time and in memory; `training_cost` reports it.

Peak memory is that of a process of its own for each number of labels: `python -m benchmarks.head_cost LABELS BYTES`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rounds import Times, alternate, ratio, seconds
from clipdecoder.heads.cost import head_flops
from clipdecoder.heads.group_head import build_head
from clipdecoder.heads.text_query_head import MAX_BYTES, TextQueryHead
from schemas.training import HeadConfig

TOWER = "ViT-B-32"
NUM_TOKENS, WIDTH = 49, 512  # its patch tokens
BATCH = 16
GROUPS, GROUPED_LABELS = 100, 1000
SHAPE = HeadConfig(token_width=WIDTH, query_width=WIDTH)


def random_queries(num_labels: int, width: int = WIDTH) -> torch.Tensor:
    """Return L2-normalised queries_KC."""
    return F.normalize(torch.randn(num_labels, width), dim=-1)


def make_backbone() -> torch.nn.Module:
    """Return the tower with random weights."""
    import open_clip

    from clipdecoder.encoders.backbone import open_clip_backbone

    return open_clip_backbone(open_clip.create_model(TOWER, pretrained=None).eval().visual)


def count_flops(backbone: torch.nn.Module) -> int:
    """Return the tower's floating point operations per image."""
    # With gradients, since the fused attention without them is not counted.
    with FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(1, 3, 224, 224))
    return int(counter.get_total_flops())


def measure_head(backbone: torch.nn.Module, labels: Sequence[int], rounds: int) -> list[str]:
    """Return a table of the head's time per image beside the backbone's."""
    pictures_BCHW = torch.randn(BATCH, 3, 224, 224)
    with torch.inference_mode():
        x_BTC = backbone(pictures_BCHW).tokens_BTC
    head = TextQueryHead(SHAPE).eval()
    grouped_shape = SHAPE.model_copy(update={"groups": GROUPS, "num_labels": GROUPED_LABELS})
    grouped = build_head(grouped_shape).eval()
    queries = {num_labels: random_queries(num_labels) for num_labels in labels}
    prepared = {num_labels: head.prepare(queries_KC) for num_labels, queries_KC in queries.items()}
    stages: dict[str, Callable[[], float]] = {TOWER: partial(seconds, partial(backbone, pictures_BCHW))}
    for count in labels:
        stages[f"{count:,}"] = partial(seconds, partial(head, x_BTC, prepared[count]))
        stages[f"prepare {count:,}"] = partial(seconds, partial(head.prepare, queries[count]))
    by_groups = f"{GROUPED_LABELS:,} in {GROUPS} groups"
    stages[by_groups] = partial(seconds, partial(grouped, x_BTC))
    with torch.inference_mode():
        alternate(stages, 1)  # warm up
        times = alternate(stages, rounds)
    flops = {f"{count:,}": head_flops(SHAPE, NUM_TOKENS, count) for count in labels}
    flops = {TOWER: count_flops(backbone)} | flops | {by_groups: head_flops(grouped_shape, NUM_TOKENS, GROUPED_LABELS)}
    return list(_head_table(times, flops))


def _head_table(times: Times, flops: Mapping[str, int]) -> Iterator[str]:
    first = next(stage for stage in flops if stage != TOWER)
    yield "## Head beside backbone"
    yield ""
    yield (
        f"{TOWER}, float32, 224 x 224, batches of {BATCH}, {NUM_TOKENS} tokens of {WIDTH}; the head as by default "
        "(width 256, feed-forward 1,024), queries prepared once."
    )
    yield ""
    yield "| labels | of the backbone's time | of its operations | growth | ms an image | GFLOP an image | prepare ms |"
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    for stage, operations in flops.items():
        once = times.get(f"prepare {stage}")
        cells = [
            "the backbone" if stage == TOWER else stage,
            f"{ratio(times, stage, TOWER):.3f}",
            f"{operations / flops[TOWER]:.3f}",
            "" if stage == TOWER else f"{ratio(times, stage, first):.1f}",
            f"{1000 * statistics.median(times[stage]) / BATCH:.2f}",
            f"{operations / 1e9:.2f}",
            f"{1000 * statistics.median(once):.1f}" if once else "",
        ]
        yield "| " + " | ".join(cells) + " |"
    yield ""
    yield f"Growth is time over that of {first} labels. Preparing is paid once per vocabulary, not per image."


def peak_memory(num_labels: int, max_bytes: int) -> None:
    """Score one batch and print the peak of this process's memory in KiB."""
    head, x_BTC = TextQueryHead(SHAPE).eval(), torch.randn(BATCH, NUM_TOKENS, WIDTH)
    with torch.inference_mode():
        head(x_BTC, random_queries(num_labels), max_bytes=max_bytes)
    # Not `getrusage`: there a process starts with the peak of the one that started it.
    status = Path("/proc/self/status").read_text().splitlines()
    sys.stdout.write(next(line.split()[1] for line in status if line.startswith("VmHWM:")))


def measure_memory(labels: Sequence[int]) -> Iterator[str]:
    """Return a table of what scoring adds to the peak of a process's memory, in chunks of labels and all at once."""

    def peak(num_labels: int, max_bytes: int) -> float:
        words = (sys.executable, "-m", "benchmarks.head_cost", str(num_labels), str(max_bytes))
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout) / 1024

    alone = peak(1, MAX_BYTES)
    yield "## Memory"
    yield ""
    yield (
        f"What a batch of {BATCH} adds to the peak of a process that scores one label ({alone:,.0f} MiB, libraries and "
        f"weights), with chunks of at most {MAX_BYTES >> 20} MiB as by default, and all labels at once."
    )
    yield ""
    yield "| labels | in chunks, MiB | at once, MiB |"
    yield "|---:|---:|---:|"
    for count in labels:
        yield f"| {count:,} | {peak(count, MAX_BYTES) - alone:,.0f} | {peak(count, 2**62) - alone:,.0f} |"


if __name__ == "__main__":
    peak_memory(int(sys.argv[1]), int(sys.argv[2]))

"""What the head costs beside its backbone, in time and in memory, and beside the published form of it.

    python -m benchmarks.head_cost [--small] [--write benchmarks/results/NAME.md]

`training_cost` reports the default head beside ViT-B/32. Here the head is as wide as a ViT (768), beside ViT-B/16 and
ViT-L/14 with random weights, and beside a plain reference: the published layer, whose queries are projected anew in
every batch, and whose attention keeps its weights. Stages alternate; ratios are medians over rounds of two CPU times of
the same round. Peak memory is that of a process of its own for each number of labels:
`python -m benchmarks.head_cost peak LABELS BYTES`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.figures import Figure, Result, arguments, publish
from benchmarks.machine import describe
from benchmarks.rounds import Times, alternate, cost, ratio, seconds
from clipdecoder.heads.cost import chunk_bytes, head_flops
from clipdecoder.heads.group_head import build_head
from clipdecoder.heads.text_query_head import TextQueryHead
from schemas.training import HeadConfig

TOWER = "ViT-B-32"
NUM_TOKENS, WIDTH = 49, 512  # its patch tokens
BATCH = 16
GROUPS, GROUPED_LABELS = 100, 1000
SHAPE = HeadConfig(token_width=WIDTH, query_width=WIDTH)
MAX_BYTES = chunk_bytes("cpu")

WIDE_LABELS, WIDE_BATCH = 1000, 4
WIDE_TOWERS = {"ViT-B-16": 0.30, "ViT-L-14": 0.08}  # and the share of their time that the head may take at most
OVER_OPERATIONS = 1.2  # of the share of operations, at most
FASTER = 1.10  # than the plain reference, at least
SAME = 1e-4  # logits, at most apart


def random_queries(num_labels: int, width: int = WIDTH) -> torch.Tensor:
    """Return L2-normalised queries_KC."""
    return F.normalize(torch.randn(num_labels, width), dim=-1)


def make_backbone(tower: str = TOWER) -> torch.nn.Module:
    """Return a tower with random weights."""
    import open_clip

    from clipdecoder.encoders.backbone import open_clip_backbone

    return open_clip_backbone(open_clip.create_model(tower, pretrained=None).eval().visual)


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
        words = (sys.executable, "-m", "benchmarks.head_cost", "peak", str(num_labels), str(max_bytes))
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


class PublishedHead(nn.Module):
    """The layer as published (ML-Decoder, `transformer_decoder`), with a head's weights and without its residual."""

    def __init__(self, head: TextQueryHead) -> None:
        super().__init__()
        self.inputs, self.layer, self.output = head.inputs, head.layer, head.output
        self.attention = nn.MultiheadAttention(head.config.width, head.config.num_heads)
        with torch.no_grad():
            weights = [head.layer.query.weight, head.layer.key.weight, head.layer.value.weight]
            self.attention.in_proj_weight.copy_(torch.cat(weights))
            biases = [head.layer.query.bias, torch.zeros(head.config.width), head.layer.value.bias]
            self.attention.in_proj_bias.copy_(torch.cat(biases))
            self.attention.out_proj.load_state_dict(head.layer.out.state_dict())

    def forward(self, x_BTC: Tensor, queries_KC: Tensor) -> Tensor:
        """Return logits_BK."""
        layer = self.layer
        memory_TBD = self.inputs.project_tokens(x_BTC).transpose(0, 1)
        h_KBD = self.inputs.project_queries(queries_KC)[:, None].expand(-1, len(x_BTC), -1)
        h_KBD = layer.norm1(h_KBD + h_KBD)
        h_KBD = layer.norm2(h_KBD + self.attention(h_KBD, memory_TBD, memory_TBD)[0])
        h_KBD = layer.norm3(h_KBD + layer.linear2(F.relu(layer.linear1(h_KBD))))
        logits_KB: Tensor = self.output(h_KBD).squeeze(-1)
        return logits_KB.T


@dataclass(frozen=True, kw_only=True)
class Wide:
    """The head of width 768 beside one tower."""

    tower: str
    share: float  # of the tower's time
    operations: float  # as a share of the tower's
    faster: float  # than the published form
    apart: float  # logits from the published form's

    def row(self) -> str:
        """Return it as a line of a table."""
        cells = (f"{self.share:.3f}", f"{self.operations:.3f}", f"{self.share / self.operations:.2f}")
        return f"| {self.tower} | {' | '.join(cells)} | {self.faster:.2f} | {self.apart:.0e} |"

    def figures(self, num_labels: int) -> list[Figure]:
        """Return what is to be reached, as the suite shows it."""
        basis = f"CPU time, {num_labels:,} labels, width 768, in turns"
        most = WIDE_TOWERS[self.tower] if num_labels == WIDE_LABELS else None
        over, published = self.share / self.operations, f"published form over head, {self.tower}"
        return [
            Figure(name=f"head over {self.tower}", value=self.share, target=most, at_most=True, basis=basis),
            Figure(
                name=f"head over its share of operations, {self.tower}",
                value=over,
                target=OVER_OPERATIONS,
                at_most=True,
                basis=basis,
            ),
            Figure(name=published, value=self.faster, unit="times", target=FASTER, basis=basis),
            Figure(
                name=f"logits apart from the published form, {self.tower}",
                value=self.apart,
                target=SAME,
                at_most=True,
                basis="greatest difference",
            ),
        ]


@torch.inference_mode()
def measure_wide(tower: str, rounds: int, num_labels: int, batch: int) -> Wide:
    """Measure the head beside a tower and beside the published form."""
    backbone, pictures_BCHW = make_backbone(tower), torch.randn(batch, 3, 224, 224)
    x_BTC = backbone(pictures_BCHW).tokens_BTC
    shape = HeadConfig(token_width=x_BTC.shape[2], query_width=512, width=768, feedforward_width=2048, residual=False)
    head = TextQueryHead(shape).eval()
    published, queries_KC = PublishedHead(head).eval(), random_queries(num_labels, 512)
    prepared = head.prepare(queries_KC)
    stages: dict[str, Callable[[], float]] = {
        "backbone": partial(_cpu_seconds, partial(backbone, pictures_BCHW)),
        "head": partial(_cpu_seconds, partial(head, x_BTC, prepared)),
        "published": partial(_cpu_seconds, partial(published, x_BTC, queries_KC)),
    }
    alternate({"head": stages["head"], "published": stages["published"]}, 1)  # warm up
    times = alternate(stages, rounds)
    apart = float((head(x_BTC, prepared) - published(x_BTC, queries_KC)).abs().max())
    with torch.inference_mode(False):
        operations = head_flops(shape, x_BTC.shape[1], num_labels) / count_flops(make_backbone(tower))
    return Wide(
        tower=tower,
        share=ratio(times, "head", "backbone"),
        operations=operations,
        faster=ratio(times, "published", "head"),
        apart=apart,
    )


def wide_table(found: Sequence[Wide], num_labels: int, batch: int) -> Iterator[str]:
    """Return the table of the wide head."""
    yield "## A head of width 768"
    yield ""
    yield (
        f"Float32, 224 x 224, batches of {batch}, {num_labels:,} labels, feed-forward 2,048, no residual. CPU time; "
        "shares and ratios are medians over rounds."
    )
    yield ""
    yield "| backbone | of its time | of its operations | time over operations | faster than published | logits apart |"
    yield "|---|---:|---:|---:|---:|---:|"
    yield from (wide.row() for wide in found)


def _cpu_seconds(work: Callable[[], object]) -> float:
    return cost(work).cpu


def main() -> None:
    """Measure, print, and write if asked."""
    given = arguments("benchmarks.head_cost", __doc__).parse_args()
    towers, labels_of_memory = (("ViT-B-16",), (1000,)) if given.small else (tuple(WIDE_TOWERS), (1000, 5000, 20000))
    rounds, num_labels, batch = (2, 200, 2) if given.small else (3, WIDE_LABELS, WIDE_BATCH)
    found = [measure_wide(tower, rounds, num_labels, batch) for tower in towers]
    lines = [
        "# The head: what it costs",
        "",
        f"`python -m benchmarks.head_cost{' --small' * given.small}`",
        "",
        *describe(),
        "",
        *wide_table(found, num_labels, batch),
        "",
        *measure_memory(labels_of_memory),
    ]
    publish(Result(lines=lines, figures=[figure for wide in found for figure in wide.figures(num_labels)]), given)


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        peak_memory(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()

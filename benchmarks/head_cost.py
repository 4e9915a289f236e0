"""What the head costs beside its backbone, in time and in memory, and beside the published form of it.

    python -m benchmarks.head_cost [--small] [--write benchmarks/results/NAME.md]

`training_cost` reports the default head beside ViT-B/32. Here the head is as wide as a ViT (768), beside ViT-B/16 and
ViT-L/14 with random weights, and beside a plain reference: the published layer, whose queries are projected anew in
every batch, and whose attention keeps its weights. Stages alternate; ratios are medians over rounds of two CPU times of
the same round. Backbone and head are as the product runs them; the plain reference is compared with a head that also
keeps PyTorch's own products. Memory is `head_memory`'s.
"""

from __future__ import annotations

import copy
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.figures import Figure, Result, arguments, publish
from benchmarks.head_memory import (
    BATCH,
    NUM_TOKENS,
    SHAPE,
    WIDTH,
    measure_memory,
    memory_figure,
    memory_table,
    random_queries,
)
from benchmarks.machine import describe
from benchmarks.rounds import Times, alternate, cost, ratio, seconds
from clipdecoder.heads.cost import head_flops
from clipdecoder.heads.group_head import build_head
from clipdecoder.heads.text_query_head import TextQueryHead
from clipdecoder.onednn import use_onednn
from schemas.training import HeadConfig

TOWER = "ViT-B-32"
GROUPS, GROUPED_LABELS = 100, 1000

WIDE = HeadConfig(token_width=768, query_width=512, width=768, feedforward_width=2048, residual=False)
WIDE_LABELS, WIDE_BATCH = 1000, 4
WIDE_TOWERS = {"ViT-B-16": 0.30, "ViT-L-14": 0.08}  # and the share of their time that the head may take at most
OVER_OPERATIONS = 1.2  # of the share of operations, at most
FASTER = 1.10  # than the plain reference, at least
SAME = 1e-4  # logits, at most apart


def make_backbone(tower: str = TOWER) -> torch.nn.Module:
    """Return a tower with random weights, as the product runs it."""
    import open_clip

    from clipdecoder.encoders.backbone import open_clip_backbone

    backbone = open_clip_backbone(open_clip.create_model(tower, pretrained=None).eval().visual)
    use_onednn(backbone)
    return backbone


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
    use_onednn(head)
    use_onednn(grouped)
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


def measure_wide(tower: str, rounds: int, num_labels: int, batch: int) -> Wide:
    """Measure the head beside a tower and beside the published form."""
    backbone, pictures_BCHW = make_backbone(tower), torch.randn(batch, 3, 224, 224)
    operations = count_flops(backbone)
    with torch.inference_mode():
        x_BTC = backbone(pictures_BCHW).tokens_BTC
        shape = WIDE.model_copy(update={"token_width": x_BTC.shape[2]})
        plain = TextQueryHead(shape).eval()
        published, queries_KC = PublishedHead(plain).eval(), random_queries(num_labels, WIDE.query_width)
        head = copy.deepcopy(plain)
        use_onednn(head)
        prepared = plain.prepare(queries_KC)
        stages: dict[str, Callable[[], float]] = {
            "backbone": partial(_cpu_seconds, partial(backbone, pictures_BCHW)),
            "head": partial(_cpu_seconds, partial(head, x_BTC, prepared)),
            "plain": partial(_cpu_seconds, partial(plain, x_BTC, prepared)),
            "published": partial(_cpu_seconds, partial(published, x_BTC, queries_KC)),
        }
        alternate({stage: stages[stage] for stage in ("head", "plain", "published")}, 1)  # warm up
        times = alternate(stages, rounds)
        apart = float((head(x_BTC, prepared) - published(x_BTC, queries_KC)).abs().max())
    return Wide(
        tower=tower,
        share=ratio(times, "head", "backbone"),
        operations=head_flops(shape, x_BTC.shape[1], num_labels) / operations,
        faster=ratio(times, "published", "plain"),
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
    towers, labels_of_memory = (
        (("ViT-B-16",), (500, 2000)) if given.small else (tuple(WIDE_TOWERS), (1000, 5000, 20000))
    )
    rounds, num_labels, batch = (2, 200, 2) if given.small else (3, WIDE_LABELS, WIDE_BATCH)
    found = [measure_wide(tower, rounds, num_labels, batch) for tower in towers]
    memory = measure_memory(labels_of_memory, WIDE, at_once=False)
    lines = [
        "# The head: what it costs",
        "",
        f"`python -m benchmarks.head_cost{' --small' * given.small}`",
        "",
        *describe(),
        "",
        *wide_table(found, num_labels, batch),
        "",
        *memory_table(memory, WIDE),
    ]
    figures = [figure for wide in found for figure in wide.figures(num_labels)]
    publish(Result(lines=lines, figures=[*figures, memory_figure(memory)]), given)


if __name__ == "__main__":
    main()

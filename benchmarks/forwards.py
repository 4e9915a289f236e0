"""One tower's forward pass as it is, compiled, and as a CUDA graph: what each makes of it, and what it costs to begin.

    python -m benchmarks.forwards [--device cpu] [--small] [--towers ViT-B-32] [--write benchmarks/results/NAME.md]

Random weights, one batch that stays on the device; bfloat16 on a GPU, float32 on a processor. The ways alternate.
Compiling needs a C++ compiler on a processor. `benchmarks.gpu` shows the same table of its towers.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn

from benchmarks.figures import Figure, Result, arguments, publish
from benchmarks.machine import describe
from benchmarks.rounds import Cost, alternate_costs, cost, median_of, seconds
from benchmarks.towers import save_random
from clipdecoder.encoders.open_clip_models import load_open_clip
from clipdecoder.onednn import use_onednn

BATCH, CPU_BATCH = 256, 16
ROUNDS, SMALL_ROUNDS = 7, 2
ENOUGH_SECONDS = 0.3  # of one measurement
EAGER, ONEDNN, COMPILED, GRAPH = "as it is", "by oneDNN", "compiled", "as a CUDA graph"

Forward = Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to run a tower."""

    name: str
    begin: float = 0.0  # seconds of the first call beyond a later one: compiling, capturing
    spent: Cost | None = None  # per image; None where it is not to be had
    apart: float = 0.0  # 1 - the least cosine to the embeddings of the tower as it is
    problem: str = ""

    def rate(self, device: torch.device) -> float:
        """Return images per second: by the clock, and on a processor by its own time, which others do not disturb."""
        if self.spent is None:
            return 0.0
        return 1 / (self.spent.wall if device.type == "cuda" else self.spent.cpu)


def run_ways(spec: str, device: torch.device, rounds: int, *, compiled: bool = True) -> list[Way]:
    """Return what each way comes to; the first is the tower as open_clip made it. Compiling takes a minute or more."""
    cuda = device.type == "cuda"
    kind, batch = (torch.bfloat16, BATCH) if cuda else (torch.float32, CPU_BATCH)
    loaded = load_open_clip(spec)
    tower: Any = loaded.network.visual.to(device, kind)
    size = loaded.preprocess.size
    x_BCHW = torch.randn(batch, 3, *((size, size) if isinstance(size, int) else size), device=device, dtype=kind)
    made: dict[str, Forward] = {}
    ways: list[Way] = []
    with torch.inference_mode():
        for name, make in _makers(tower, x_BCHW, spec).items():
            if name == COMPILED and not compiled:
                continue
            try:
                begin = seconds(lambda make=make, name=name: _begin(make, name, made, device))  # type: ignore[misc]
            except (RuntimeError, OSError) as error:  # no compiler, no memory, a network that cannot be captured
                ways.append(Way(name=name, problem=f"{type(error).__name__}: {error}".splitlines()[0][:200]))
                continue
            ways.append(Way(name=name, begin=begin))
        stages = {name: partial(_measure, forward, device, batch) for name, forward in made.items()}
        costs = alternate_costs(stages, rounds)
        reference_BD = _unit(made[EAGER]())
        apart = {name: 1 - float((_unit(made[name]()) * reference_BD).sum(dim=1).min()) for name in made}
    return [
        way
        if way.problem
        else Way(
            name=way.name,
            begin=max(0.0, way.begin - batch * median_of(costs[way.name]).wall),
            spent=median_of(costs[way.name]),
            apart=apart[way.name],
        )
        for way in ways
    ]


def _makers(tower: nn.Module, x_BCHW: Tensor, spec: str) -> dict[str, Callable[[], Forward]]:
    """Return what makes each way ready, but for its first call."""
    makers: dict[str, Callable[[], Forward]] = {
        EAGER: lambda: partial(tower, x_BCHW),
        COMPILED: lambda: partial(torch.compile(tower), x_BCHW),
    }
    if x_BCHW.device.type == "cuda":
        return makers | {GRAPH: lambda: _captured(tower, x_BCHW)}

    def by_onednn() -> Forward:
        other: Any = load_open_clip(spec).network.visual
        use_onednn(other)
        return partial(other, x_BCHW)

    return makers | {ONEDNN: by_onednn}


def _captured(tower: nn.Module, x_BCHW: Tensor) -> Forward:
    """Return a forward pass that launches all kernels at once, on the same input every time."""
    side = torch.cuda.Stream(x_BCHW.device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(x_BCHW.device))
    with torch.cuda.stream(side):
        for _ in range(3):  # what is chosen and allocated once must not be captured
            tower(x_BCHW)
    torch.cuda.current_stream(x_BCHW.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result_BD: Tensor = tower(x_BCHW)

    def replay() -> Tensor:
        graph.replay()
        return result_BD

    return replay


def _begin(make: Callable[[], Forward], name: str, made: dict[str, Forward], device: torch.device) -> None:
    forward = make()
    forward()
    _wait(device)
    made[name] = forward


def _measure(forward: Forward, device: torch.device, batch: int) -> Cost:
    """Return what one image costs, in as many calls as a short while takes."""

    def call(times: int) -> None:
        for _ in range(times):
            forward()
        _wait(device)

    times = max(1, int(ENOUGH_SECONDS / seconds(partial(call, 1))))
    spent = cost(partial(call, times))
    return Cost(spent.wall / (times * batch), spent.cpu / (times * batch))


def _unit(embeddings_BD: Tensor) -> Tensor:
    return nn.functional.normalize(embeddings_BD.double(), dim=-1)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ways_table(found: Mapping[str, Sequence[Way]], device: torch.device) -> Iterator[str]:
    """Yield the table of all towers."""
    rate = "images per second" if device.type == "cuda" else "images per second of processor time"
    yield f"| tower | forward pass | {rate} | over {EAGER} | seconds to begin | 1 - least cosine |"
    yield "|---|---|---:|---:|---:|---:|"
    for tower, ways in found.items():
        plain = ways[0].rate(device)
        for way in ways:
            if way.problem:
                yield f"| {tower} | {way.name} | not to be had: {way.problem} | | | |"
                continue
            cells = f"{way.rate(device):,.1f} | {way.rate(device) / plain:.2f} | {way.begin:.1f} | {way.apart:.0e}"
            yield f"| {tower} | {way.name} | {cells} |"


def way_figures(tower: str, ways: Sequence[Way], device: torch.device) -> Iterator[Figure]:
    """Yield how much faster each way is than the tower as it is."""
    for way in ways[1:]:
        if way.spent is not None:
            yield Figure(
                name=f"forward pass {way.name}, {tower}",
                value=way.rate(device) / ways[0].rate(device),
                unit="times",
                basis=f"as open_clip made it; {way.begin:.1f} s to begin",
            )


def main() -> None:
    """Measure, print, and write if asked."""
    parser = arguments("benchmarks.forwards", __doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--towers", default="bundled:scenes,ViT-B-32", help="of open_clip, or bundled:scenes")
    given = parser.parse_args()
    device = torch.device(given.device)
    found: dict[str, list[Way]] = {}
    towers = given.towers.split(",")[: 1 if given.small else None]
    for tower in towers:
        with tempfile.TemporaryDirectory() as folder:
            spec = tower if ":" in tower else save_random(tower, Path(folder) / "model")
            found[tower] = run_ways(spec, device, SMALL_ROUNDS if given.small else ROUNDS)
    lines = ["# The forward pass, in other ways", "", "`python -m benchmarks.forwards`", "", *describe()]
    lines += [f"- {torch.get_num_threads()} threads; load after the run: {os.getloadavg()[0]:.1f}", ""]
    lines += ways_table(found, device)
    publish(
        Result(lines=lines, figures=[one for name, ways in found.items() for one in way_figures(name, ways, device)]),
        given,
    )


if __name__ == "__main__":
    main()

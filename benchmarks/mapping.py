"""Mapping quality: what published mappings reach, what memcompile reaches, and what is proven.

Run ``python benchmarks/mapping.py`` for a table, ``--json FILE`` for the same as JSON, ``--only WORD``
for the rows whose name contains a word, ``--markdown FILE`` for the table of docs/mapping.md. The
networks are generated here from their published shapes, ``--models`` adds ONNX files; every row is
deterministic except its seconds, which are those of a processor.

Published figures: P. Yao et al., Nature 577, 641 (2020) (own mapping of the five-layer network);
J. Rhe et al., VW-SDK, DATE 2022 (steps in one 512 x 512 array, one cell per weight); X. Sun et al.,
PIMCOMP, DAC 2023 (ResNet-18 on 9,216 arrays of 128 x 128, windows of the slowest layer). Where one
cell holds a weight, pairs are at one crossing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.target import Target, load_target
from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import Graph, PairedLayer, Placement, TensorType
from memcompile.ir.pass_contract import Effort
from memcompile.ir.pass_manager import PassContext
from memcompile.ir.quantizers import InputQuantizer
from memcompile.passes.packing.tiling import tile_limits
from memcompile.passes.place import Place
from memcompile.passes.replicate import Replicate
from memcompile.passes.schedule import Schedule
from memcompile.passes.search.explore_windows import WindowTable, useful_windows
from memcompile.passes.tile_matrices import TileMatrices
from memcompile.pipelines import compile_model

QUANTITIES = {"initiation_interval": "interval", "arrays": "arrays", "crossing_values": "values across chips"}


@dataclass(frozen=True)
class Row:
    """One line of the table; ``known`` and ``wanted`` are words, ``reached`` and ``bound`` numbers."""

    instance: str
    quantity: str
    known: str
    wanted: str
    reached: int
    bound: int
    seconds: float
    peak_mb: int

    @property
    def gap(self) -> float:
        """Relative distance from the bound."""
        return (self.reached - self.bound) / self.reached if self.reached else 0.0


def conv(size: int, kernel: int, channels: int, kernels: int, stride: int = 1, pad: int = 0) -> Geometry:
    """A square convolution."""
    square = (1, 1)
    return Geometry(
        channels, kernels, (kernel, kernel), (size, size), 1, (stride, stride), square, (pad, pad), (pad, pad)
    )


def dense(inputs: int, outputs: int) -> Geometry:
    """A matrix product."""
    return Geometry(inputs, outputs, layout="channels_last")


def five_layers() -> list[Geometry]:
    """The network of P. Yao et al."""
    return [conv(28, 3, 1, 8), conv(9, 3, 8, 12), dense(192, 10)]


def basic_resnet(sizes: Sequence[tuple[int, int, int]], first: Geometry, size: int, classes: int) -> list[Geometry]:
    """ResNet of two-layer blocks; ``sizes`` are (channels, blocks, stride)."""
    layers, channels = [first], sizes[0][0]
    for width, blocks, stride in sizes:
        for block in range(blocks):
            step = stride if block == 0 else 1
            layers.append(conv(size, 3, channels, width, step, 1))
            if step > 1 and classes == 1000:
                layers.append(conv(size, 1, channels, width, step))
            size = -(-size // step)
            layers.append(conv(size, 3, width, width, 1, 1))
            channels = width
    return [*layers, dense(channels, classes)]


def resnet18() -> list[Geometry]:
    """ResNet-18 at 224 x 224."""
    sizes = [(64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2)]
    return basic_resnet(sizes, conv(224, 7, 3, 64, 2, 3), 56, 1000)


def cifar_resnet(blocks: int) -> list[Geometry]:
    """CIFAR ResNet of 6 * blocks + 2 layers, with shortcuts that have no weights."""
    return basic_resnet([(16, blocks, 1), (32, blocks, 2), (64, blocks, 2)], conv(32, 3, 3, 16, 1, 1), 32, 10)


def resnet50() -> list[Geometry]:
    """ResNet-50 at 224 x 224."""
    layers, size, channels = [conv(224, 7, 3, 64, 2, 3)], 56, 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            layers += [conv(size, 1, channels, width), conv(size, 3, width, width, step, 1)]
            if block == 0:
                layers.append(conv(size, 1, channels, 4 * width, step))
            size //= step
            layers.append(conv(size, 1, width, 4 * width))
            channels = 4 * width
    return [*layers, dense(2048, 1000)]


def vgg16() -> list[Geometry]:
    """VGG-16 at 224 x 224."""
    layers, size, channels = list[Geometry](), 224, 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers.append(conv(size, 3, channels, width, 1, 1))
            channels = width
        size //= 2
    return [*layers, dense(512 * 7 * 7, 4096), dense(4096, 4096), dense(4096, 1000)]


RESNET18_SHAPES = [(112, 7, 3, 64), (56, 3, 64, 64), (28, 3, 128, 128), (14, 3, 256, 256), (7, 3, 512, 512)]
VGG13_SHAPES = [
    (224, 3, 3, 64),
    (224, 3, 64, 64),
    (112, 3, 64, 128),
    (112, 3, 128, 128),
    (56, 3, 128, 256),
    (56, 3, 256, 256),
    (28, 3, 256, 512),
    (28, 3, 512, 512),
    (14, 3, 512, 512),
    (14, 3, 512, 512),
]


WindowPart = tuple[tuple[int, ...], int, int]
"""Window, number of windows, tiles."""


@dataclass(frozen=True)
class StepPlan:
    """Fewest steps of a layer in one array whose content may change between steps.

    ``parts`` are (window, number of windows, tiles); ``bound`` is proven for any mixture of
    rectangular windows.
    """

    steps: int
    bound: int
    parts: tuple[WindowPart, ...]


def fewest_steps(geometry: Geometry, rows: int, columns: int) -> StepPlan:
    """Fewest steps of one image when all tiles of a layer take turns in one array.

    Windows that lie inside the output may be joined by smaller ones along the far edges: the
    output is then cut into a core and two strips, each with its own window. The bound is the
    least number of tiles per output position over all rectangular windows, times the positions.
    """
    table = useful_windows(geometry, rows, columns)
    rate = table.tiles / table.outputs
    least = int(np.argmin(rate))
    tiles, outputs = int(table.tiles[least]), int(table.outputs[least])
    bound = -(-geometry.positions * tiles // outputs)
    best = int(np.argmin(table.work))
    steps = int(table.work[best])
    window = tuple(map(int, table.window[best]))
    parts: tuple[WindowPart, ...] = ((window, int(table.windows[best]), int(table.tiles[best])),)
    if geometry.rank == 2:
        steps, parts = min((steps, parts), _with_strips(geometry, table), key=lambda plan: plan[0])
    return StepPlan(steps, bound, parts)


def _with_strips(geometry: Geometry, table: WindowTable) -> tuple[int, tuple[WindowPart, ...]]:
    """Core windows, plus smaller windows on the strips along the far edges."""
    height, width = geometry.output_size
    grid = np.full((height + 1, width + 1), np.iinfo(np.int64).max // 4, np.int64)
    for shape, tiles in zip(table.window.tolist(), table.tiles.tolist(), strict=True):
        grid[shape[0], shape[1]] = min(grid[shape[0], shape[1]], tiles)
    strip = _StripCosts(grid)
    best: tuple[int, tuple[WindowPart, ...]] | None = None
    for ph, pw in itertools.product(range(1, height + 1), range(1, width + 1)):
        tiles = int(grid[ph, pw])
        if tiles >= np.iinfo(np.int64).max // 4:
            continue
        rows, columns = height // ph, width // pw
        parts: list[WindowPart] = [((ph, pw), rows * columns, tiles)]
        parts += strip.region(height - rows * ph, width) + strip.region(rows * ph, width - columns * pw)
        steps = sum(count * each for _, count, each in parts)
        if best is None or steps < best[0]:
            best = (steps, tuple(parts))
    assert best is not None
    return best


class _StripCosts:
    """Best uniform window for a rectangle of output positions."""

    def __init__(self, grid: NDArray[np.int64]) -> None:
        self.grid = grid
        self.known: dict[tuple[int, int], list[WindowPart]] = {}

    def region(self, height: int, width: int) -> list[WindowPart]:
        """Windows that cover a rectangle; none for an empty one."""
        if height == 0 or width == 0:
            return []
        if (height, width) not in self.known:
            part = self.grid[1 : height + 1, 1 : width + 1]
            counts = np.outer(-(-height // np.arange(1, height + 1)), -(-width // np.arange(1, width + 1)))
            cost = counts * part
            y, x = np.unravel_index(int(np.argmin(cost)), cost.shape)
            window = (int(y) + 1, int(x) + 1)
            self.known[height, width] = [(window, int(counts[y, x]), int(part[y, x]))]
        return self.known[height, width]


def graph_of(layers: Sequence[Geometry], target: Target, slices: int = 1) -> Graph:
    """A chain of crossbar layers with zero weights."""
    nodes = []
    for number, geometry in enumerate(layers):
        shape = (2, slices, geometry.groups, geometry.group_rows, geometry.group_columns)
        nodes.append(
            PairedLayer(
                name=f"layer{number}",
                inputs=(f"v{number}",),
                outputs=(f"v{number + 1}",),
                geometry=geometry,
                quantizer=InputQuantizer(1.0, target.input.bits, False),
                scale=np.ones(geometry.out_channels, np.float32),
                bias=np.zeros(geometry.out_channels, np.float32),
                base=target.slice_base(),
                cells=np.broadcast_to(np.uint8(0), shape),
            )
        )
    return Graph(
        name="benchmark",
        inputs=("v0",),
        outputs=(f"v{len(layers)}",),
        nodes=tuple(nodes),
        constants={},
        types={"v0": TensorType("float32", (None, 1))},
        observed_shapes={},
        opsets=(("", 13),),
    )


def weight_a_crossing(rows: int, columns: int, arrays: int) -> Target:
    """The reference chip with other arrays, which hold a weight where two lines cross."""
    target = load_target("yao2020")
    array = target.array.model_copy(update={"input_lines": rows, "output_lines": columns, "pairs": "crossings"})
    return target.model_copy(update={"array": array, "chip": target.chip.model_copy(update={"arrays": arrays})})


@dataclass(frozen=True)
class Network:
    """A network to be mapped, with the published interval and the one that is wanted."""

    layers: tuple[Geometry, ...]
    target: Target
    known: str = ""
    wanted: str = "gap <= 5 %"
    chips: int | None = None
    slices: int = 1
    parallel_windows: bool = True
    effort: Effort = "normal"

    @property
    def replicate(self) -> Replicate:
        """The search with this row's options."""
        return Replicate(effort=self.effort, parallel_windows=self.parallel_windows)

    def tiled(self) -> tuple[Graph, PassContext]:
        """Return the graph before the search, and its context."""
        context = PassContext(
            target=self.target, calibration={}, slices=self.slices, chips=self.chips, effort=self.effort
        )
        return TileMatrices().run(graph_of(self.layers, self.target, self.slices), context), context

    def rows(self, name: str) -> Iterator[Row]:
        """Map the network and report arrays and interval."""
        began = time.process_time()
        graph, context = self.tiled()
        for item in (self.replicate, Place(), Schedule()):
            graph = item.run(graph, context)
        assert graph.placement is not None
        yield from certificate_rows(name, graph.placement, self.known, self.wanted, time.process_time() - began)


def certificate_rows(name: str, placement: Placement, known: str, wanted: str, seconds: float) -> Iterator[Row]:
    """Rows of the values and bounds of a mapping; traffic only where there are several chips."""
    wishes = {"initiation_interval": wanted, "arrays": "gap <= 5 %", "crossing_values": ""}
    for item in placement.certificates:
        first = item.quantity == "initiation_interval"
        if item.quantity == "crossing_values" and placement.chips == 1:
            continue
        quantity = QUANTITIES[item.quantity]
        wish = wishes[item.quantity]
        yield Row(name, quantity, known if first else "", wish, item.value, item.bound, seconds, peak_mb())


def model_rows(path: Path, target: str) -> Iterator[Row]:
    """Compile an ONNX file for as many chips as it needs; seconds are those of the whole compilation."""
    began = time.process_time()
    placement = compile_model(path, target, check=False).program.placement
    name = f"{path.stem}, {target}"
    yield from certificate_rows(name, placement, "", "gap <= 5 %", time.process_time() - began)


def step_rows(name: str, shapes: Sequence[tuple[int, int, int, int]], known: str, wanted: str) -> Iterator[Row]:
    """Sum of steps in one array of 512 x 512 weights."""
    began = time.process_time()
    rows, columns = tile_limits(load_target("vwsdk"), slices=1)
    plans = [fewest_steps(conv(*shape), rows, columns) for shape in shapes]
    steps, bound = sum(plan.steps for plan in plans), sum(plan.bound for plan in plans)
    yield Row(name, "sum of steps", known, wanted, steps, bound, time.process_time() - began, peak_mb())


def peak_mb() -> int:
    """Peak memory of this process so far, in megabytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1_000_000 if sys.platform == "darwin" else 1_000)


def sharing_converters(lines: int) -> Target:
    """Arrays of 128 x 128 in which so many output lines share a converter, one conversion a phase: 128 as in ISAAC."""
    target = load_target("pimcomp")
    return target.with_(name=f"pimcomp-{lines}", adc__lines_per_converter=lines)


def networks() -> dict[str, Network]:
    """Networks made from their published shapes, by the name of their row."""
    yao, many, single_cell = load_target("yao2020"), load_target("pimcomp"), weight_a_crossing(128, 128, 9216)
    five, res18, res50 = tuple(five_layers()), tuple(resnet18()), tuple(resnet50())
    res20, res56 = tuple(cifar_resnet(3)), tuple(cifar_resnet(9))
    pimcomp, pimcomp_time = "PIMCOMP 33, GA 21", "PIMCOMP 4.2 s"
    return {
        "five-layer CNN, eight arrays": Network(five, yao, "226", "<= 44", 1),
        "ResNet-18, 9216 arrays 128x128, im2col": Network(res18, single_cell, pimcomp, "19", 1, parallel_windows=False),
        "ResNet-18, 9216 arrays 128x128, windows": Network(res18, single_cell, pimcomp, "< 19", 1),
        "ResNet-20, yao2020 chips": Network(res20, yao),
        "ResNet-20, yao2020 chips, 2 slices": Network(res20, yao, slices=2),
        "ResNet-56, yao2020 chips": Network(res56, yao),
        "ResNet-18, yao2020 chips": Network(res18, yao),
        "ResNet-50, yao2020 chips, fast": Network(res50, yao, pimcomp_time, "< 60 s", effort="fast"),
        "ResNet-20, 9216 arrays 128x128": Network(res20, many, chips=1),
        "ResNet-56, 9216 arrays 128x128": Network(res56, many, chips=1),
        "ResNet-18, 9216 arrays 128x128, pairs": Network(res18, many, chips=1),
        **{
            f"{title}, {target}": Network(layers, load_target(target))
            for title, layers in (("ResNet-20", res20), ("ResNet-18", res18))
            for target in ("vwsdk", "hermes", "neurram")
        },
        "ResNet-50, 9216 arrays 128x128, fast": Network(res50, many, pimcomp_time, "< 10 s, 1 GB", 1, effort="fast"),
        **{
            f"{title}, {chips * 9216} arrays, {lines} lines a converter": Network(
                layers, sharing_converters(lines), chips=chips
            )
            for title, layers, chips, shares in (
                ("ResNet-18", res18, 1, (8, 128)),
                ("VGG-16", tuple(vgg16()), 3, (8, 128)),
            )
            for lines in shares
        },
    }


def instances() -> dict[str, Callable[[str], Iterator[Row]]]:
    """Every row's name with what computes it."""
    mapped = {name: network.rows for name, network in networks().items()}
    return {
        "ResNet-18 layers, one 512x512 array": lambda name: step_rows(
            name, RESNET18_SHAPES, "im2col 20041, VW-SDK 4294", "<= 3898"
        ),
        "VGG-13 layers, one 512x512 array": lambda name: step_rows(
            name, VGG13_SHAPES, "im2col 243736, VW-SDK 77102", "<= 68192"
        ),
        **mapped,
    }


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| network | quantity | published | reached | proven bound | gap | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        facts = (row.instance, row.quantity, row.known, f"{row.reached:,}", f"{row.bound:,}", f"{row.gap:.1%}")
        lines.append(f"| {' | '.join(facts)} | {row.seconds:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON ('-' for standard output)")
    parser.add_argument("--only", default="", metavar="WORD", help="rows whose name contains this word")
    parser.add_argument("--models", type=Path, nargs="*", default=[], metavar="ONNX", help="further networks")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as Markdown")
    options = parser.parse_args()
    jobs = instances()
    for path, target in itertools.product(options.models, ("yao2020", "pimcomp")):
        jobs[f"{path.stem}, {target}"] = lambda _, path=path, target=target: model_rows(path, target)
    rows = []
    table = sys.stderr if str(options.json) == "-" else sys.stdout
    heads = ("instance", "quantity", "known", "reach", "reached", "bound", "gap", "seconds", "MB")
    layout = "{:50}{:20}{:29}{:14}{:>12}{:>12}{:>8}{:>9}{:>7}"
    print(layout.format(*heads), file=table)
    for name, compute in jobs.items():
        if options.only not in name:
            continue
        for row in compute(name):
            rows.append(row)
            facts = (row.reached, row.bound, f"{row.gap:.1%}", f"{row.seconds:.2f}", row.peak_mb)
            print(layout.format(name, row.quantity, row.known, row.wanted, *facts), file=table, flush=True)
    if options.markdown is not None:
        options.markdown.write_text(markdown(rows), encoding="utf-8")
    if options.json is not None:
        text = json.dumps([{**asdict(row), "gap": row.gap} for row in rows], indent=2) + "\n"
        if str(options.json) == "-":
            sys.stdout.write(text)
        else:
            options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

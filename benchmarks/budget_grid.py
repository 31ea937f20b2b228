"""Mappings that an accuracy budget chooses, beside a grid of mappings made by hand.

    python -m benchmarks.budget_grid --data MNIST_DIR --points 0.5 1 --json grid.json
    python -m benchmarks.budget_grid --model cifar_resnet20.onnx --data cifar10_train10k.npz --test cifar10_test1k.npz \
        --cifar --target hermes --brief

The grid has slices, bases, slices that share weights, what the mapping makes best (without parallel windows for
accuracy), and the worst pairs written again or not; networks of up to three layers also get every mix of one and two
slices by layer. Each mapping is measured on the same calibrated chips and samples, and its loss counts from the float
network.

All of the grid is mapped first and measured from the cheapest mapping on, by chips and steps. With ``--brief`` a
setting that clearly loses more than every budget on ``FEW_CHIPS`` chips is left at that, and what is no cheaper than
one that holds every budget on all chips is not measured: it could not be the cheapest one. Settings that come to the
same cells in the same places are measured once. Every figure goes to the JSON file at once; what is there is not
measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from memcompile.atomic import write_atomically
from memcompile.data.loader import Dataset, load_dataset
from memcompile.errors import MemcompileError
from memcompile.hardware.target import load_target
from memcompile.pipelines import Compilation, compile_model
from memcompile.program.program import Program
from memcompile.report.evaluation import evaluate

CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FIVE_LAYER = Path(__file__).parent.parent / "examples" / "five_layer_cnn.onnx"
MOST_MIXED_LAYERS = 3
FEW_CHIPS = 4
CLEAR_ERRORS = 3.0
"""Standard errors beyond a budget at which a few chips tell that it is not held."""
MEASURED = ("float", "ideal", "losses", "images")
"""Figures of a mapping that its chips tell."""
Setting = dict[str, Any]


def grid(target: str, layers: Sequence[str]) -> Iterator[tuple[str, Setting]]:
    """Settings of :func:`~memcompile.pipelines.compile_model` by their names."""
    hardware = load_target(target)
    largest = hardware.slice_base()
    bases = sorted({largest, (3 * largest + 2) // 4, (largest + 1) // 2, hardware.default_slice_base()})
    sliced: list[tuple[str, Setting]] = [("1 slice", {"slices": 1})]
    for slices, base in itertools.product((2, 3), bases):
        sliced.append((f"{slices} slices, base {base}", {"slices": slices, "slice_base": base}))
    sliced += [(f"{slices} slices that share weights", {"slices": f"{slices}:equal"}) for slices in (2, 3, 4)]
    if len(layers) <= MOST_MIXED_LAYERS:
        for counts in itertools.product((1, 2), repeat=len(layers)):
            if len(set(counts)) > 1:
                own = dict(zip(layers, counts, strict=True))
                words = ", ".join(f"{name} {count}" for name, count in own.items())
                sliced.append((f"slices {words}", {"slices": own}))
    for name, setting in sliced:
        for objective in ("throughput", "latency", "accuracy"):
            made = f"replicate.objective={objective}"
            yield f"{name}, {objective}", {**setting, "settings": (made,)}
            if hardware.can_write_again:
                again = (made, "programming.write_again_share=1")
                yield f"{name}, {objective}, written again", {**setting, "settings": again}


def digest_of(program: Program) -> str:
    """Digest of all that the loss of emulated chips depends on: cells, where they are, and how they are written."""
    found = hashlib.sha256(repr(program.target.programming.write_again_share).encode())
    for layer in program.layers:
        found.update(layer.cells.tobytes() + layer.scale.tobytes() + layer.bias.tobytes())
        found.update(repr((layer.base, layer.quantizer, layer.range_share)).encode())
        found.update(b"".join(replica.windows.tobytes() for replica in layer.replicas))
    for name in ("replica", "row_begin", "column_begin", "array", "input_line", "output_line"):
        found.update(getattr(program.placement.tiles, name).tobytes())
    return found.hexdigest()


def cost_of(compilation: Compilation) -> dict[str, Any]:
    """Cost of a mapping."""
    program = compilation.program
    return {
        "digest": digest_of(program),
        "slices": program.slices.tolist(),
        "written_again": program.target.programming.write_again_share,
        "chips": program.placement.chips,
        "arrays": program.arrays_used,
        "steps": program.placement.initiation_interval_steps,
    }


def measured(compilation: Compilation, test: Dataset | None, images: int, chips: int) -> dict[str, Any]:
    """Losses of calibrated chips against the float network, in points."""
    program, dataset = compilation.program, compilation.dataset
    if test is not None:
        dataset = replace(dataset, inputs=test.inputs, labels=test.labels)
    found = evaluate(
        program,
        compilation.model,
        dataset.head(images),
        seeds=chips,
        emulated_images=images,
        budget=False,
    ).accuracy
    assert found is not None
    return {
        "float": found.reference,
        "ideal": found.ideal,
        "losses": (100 * (found.reference - found.emulated)).tolist(),
        "images": found.emulated_images,
    }


def mean_and_error(figure: dict[str, Any]) -> tuple[float, float]:
    """Mean loss over chips in points, and its standard error."""
    losses = np.array(figure["losses"])
    error = losses.std(ddof=1) / np.sqrt(len(losses)) if len(losses) > 1 else 0.0
    return float(losses.mean()), float(error)


def row(name: str, figure: dict[str, Any]) -> str:
    """A line of the table."""
    mean, error = mean_and_error(figure)
    rounding = 100 * (figure["float"] - figure["ideal"])
    chips = (figure["chips"], figure["steps"], f"{rounding:.2f}", f"{mean:.2f} +- {error:.2f}", len(figure["losses"]))
    return "| " + " | ".join(map(str, (name, *chips))) + " |"


class Grid:
    """Figures by the name of a setting, in a file that is rewritten after each."""

    def __init__(self, options: argparse.Namespace, common: Setting) -> None:
        self.options, self.common, self.path = options, common, options.json
        self.test: Dataset | None = None
        self.figures: dict[str, dict[str, Any]] = {}
        if self.path and self.path.exists():
            self.figures = json.loads(self.path.read_text())

    def compiled(self, setting: Setting) -> Compilation:
        """The mapping of a setting."""
        return compile_model(self.options.model, self.options.target, **self.common, **setting)

    def map(self, name: str, setting: Setting) -> Compilation | None:
        """Map a setting unless that was done; None then, and where it does not fit the chips."""
        if name in self.figures:
            return None
        try:
            compilation = self.compiled(setting)
        except MemcompileError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            return None
        self.add(name, cost_of(compilation))
        return compilation

    def measure(self, name: str, setting: Setting, compilation: Compilation | None, chips: int) -> None:
        """Measure a setting on some chips, unless as many were."""
        figure = self.figures[name]
        if len(figure.get("losses", ())) >= chips:
            return
        for other in self.figures.values():
            if other["digest"] == figure["digest"] and len(other.get("losses", ())) >= chips:
                self.add(name, figure | {key: other[key] for key in MEASURED})
                return
        compilation = compilation or self.compiled(setting)
        self.add(name, figure | measured(compilation, self.test, self.options.images, chips))

    def add(self, name: str, figure: dict[str, Any]) -> None:
        """Keep a figure."""
        self.figures[name] = figure
        if self.path:
            write_atomically(self.path, (json.dumps(self.figures, indent=1) + "\n").encode())

    def clearly_loses(self, name: str) -> bool:
        """Return True if few chips tell that no budget is held."""
        mean, error = mean_and_error(self.figures[name])
        return bool(mean - CLEAR_ERRORS * error > max(self.options.points))

    def holds(self, name: str) -> bool:
        """Return True if all budgets are held."""
        return bool(mean_and_error(self.figures[name])[0] <= min(self.options.points))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FIVE_LAYER)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--test", type=Path, help="samples to score on, where --data has one part")
    parser.add_argument("--cifar", action="store_true", help="images are normalised as CIFAR-10 networks take them")
    parser.add_argument("--target", default="yao2020")
    parser.add_argument("--number-of-chips", type=int, help="hard budget of chips of the mapping")
    parser.add_argument("--points", type=float, nargs="*", default=(0.5,), help="budgets")
    parser.add_argument("--chips", type=int, default=20, help="emulated chips")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--brief", action="store_true", help="leave out what cannot be the cheapest within a budget")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    common: Setting = {"data": options.data, "chips": options.number_of_chips}
    if options.cifar:
        common.update(mean=CIFAR_MEAN, std=CIFAR_STD)
    found = Grid(options, common)
    first = found.compiled({}).program
    layers = [layer.name for layer in first.layers]
    if options.test is not None:
        normalised = {key: common[key] for key in ("mean", "std") if key in common}
        found.test = load_dataset(options.test, first.inputs, **normalised)
    print("| mapping | chips | steps | lost to rounding | lost by chips | measured |\n|---|---|---|---|---|---|")
    for points in options.points:
        name, setting = f"--max-loss {points:g}", {"max_loss": points}
        found.measure(name, setting, found.map(name, setting), options.chips)
        print(row(name, found.figures[name]), flush=True)
    settings = dict(grid(options.target, layers))
    for name, setting in settings.items():
        found.map(name, setting)
    by_cost = {
        name: (found.figures[name]["chips"], found.figures[name]["steps"]) for name in settings if name in found.figures
    }
    enough: tuple[int, int] | None = None
    for name in sorted(by_cost, key=lambda name: by_cost[name]):
        if options.brief and enough is not None and by_cost[name] >= enough:
            print(f"| {name} | {by_cost[name][0]} | {by_cost[name][1]} | | | 0 |", flush=True)
            continue
        if options.brief:
            found.measure(name, settings[name], None, min(FEW_CHIPS, options.chips))
        if not (options.brief and found.clearly_loses(name)):
            found.measure(name, settings[name], None, options.chips)
            enough = by_cost[name] if enough is None and found.holds(name) else enough
        print(row(name, found.figures[name]), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

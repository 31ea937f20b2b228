"""Mappings that an accuracy budget chooses, beside a grid of mappings made by hand.

    python -m benchmarks.budget_grid --data MNIST_DIR --points 0.5 1 --json grid.json
    python -m benchmarks.budget_grid --model cifar_resnet20.onnx --data cifar10_test1k.npz --cifar --target hermes

The grid has slices, bases, parallel windows and what the mapping makes best; networks of up to three layers also get
every mix of one and two slices by layer. Each mapping is measured on the same calibrated chips and samples, and its
loss counts from the float network. Every figure goes to the JSON file at once; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memcompile.atomic import write_atomically
from memcompile.errors import MemcompileError
from memcompile.hardware.target import load_target
from memcompile.pipelines import Compilation, compile_model
from memcompile.report.evaluation import evaluate

CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FIVE_LAYER = Path(__file__).parent.parent / "examples" / "five_layer_cnn.onnx"
MOST_MIXED_LAYERS = 3
Setting = dict[str, Any]


def grid(target: str, layers: Sequence[str]) -> Iterator[tuple[str, Setting]]:
    """Settings of :func:`~memcompile.pipelines.compile_model` by their names."""
    largest = load_target(target).slice_base()
    sliced: list[tuple[str, Setting]] = [("1 slice", {"slices": 1})]
    for slices, base in itertools.product((2, 3), (largest, (largest + 1) // 2)):
        sliced.append((f"{slices} slices, base {base}", {"slices": slices, "slice_base": base}))
    if len(layers) <= MOST_MIXED_LAYERS:
        for counts in itertools.product((1, 2), repeat=len(layers)):
            if len(set(counts)) > 1:
                own = dict(zip(layers, counts, strict=True))
                words = ", ".join(f"{name} {count}" for name, count in own.items())
                sliced.append((f"slices {words}", {"slices": own}))
    for name, setting in sliced:
        for objective in ("throughput", "latency", "accuracy"):
            yield f"{name}, {objective}", {**setting, "settings": (f"replicate.objective={objective}",)}


def measured(compilation: Compilation, images: int, chips: int) -> dict[str, Any]:
    """Losses of calibrated chips against the float network in points, and what the mapping costs."""
    program = compilation.program
    found = evaluate(
        program,
        compilation.model,
        compilation.dataset.head(images),
        seeds=chips,
        emulated_images=images,
        budget=False,
    ).accuracy
    assert found is not None
    return {
        "slices": program.slices.tolist(),
        "chips": program.placement.chips,
        "arrays": program.arrays_used,
        "steps": program.placement.initiation_interval_steps,
        "float": found.reference,
        "ideal": found.ideal,
        "losses": (100 * (found.reference - found.emulated)).tolist(),
        "images": found.emulated_images,
    }


def row(name: str, figure: dict[str, Any]) -> str:
    """A line of the table."""
    losses = np.array(figure["losses"])
    error = losses.std(ddof=1) / np.sqrt(len(losses)) if len(losses) > 1 else 0.0
    rounding = 100 * (figure["float"] - figure["ideal"])
    cells = (name, figure["chips"], figure["steps"], f"{rounding:.2f}", f"{losses.mean():.2f} +- {error:.2f}")
    return "| " + " | ".join(map(str, cells)) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FIVE_LAYER)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cifar", action="store_true", help="images are normalised as CIFAR-10 networks take them")
    parser.add_argument("--target", default="yao2020")
    parser.add_argument("--number-of-chips", type=int, help="hard budget of chips of the mapping")
    parser.add_argument("--points", type=float, nargs="*", default=(0.5,), help="budgets")
    parser.add_argument("--chips", type=int, default=20, help="emulated chips")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    figures = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    common: Setting = {"data": options.data, "chips": options.number_of_chips}
    if options.cifar:
        common.update(mean=CIFAR_MEAN, std=CIFAR_STD)
    layers = [layer.name for layer in compile_model(options.model, options.target, **common).program.layers]
    cases = [
        *((f"--max-loss {points:g}", {"max_loss": points}) for points in options.points),
        *grid(options.target, layers),
    ]
    print("| mapping | chips | steps | lost to rounding | lost by chips |\n|---|---|---|---|---|")
    for name, setting in cases:
        if name not in figures:
            try:
                compilation = compile_model(options.model, options.target, **common, **setting)
            except MemcompileError as error:
                print(f"{name}: {error}", file=sys.stderr, flush=True)
                continue
            figures[name] = measured(compilation, options.images, options.chips)
        print(row(name, figures[name]), flush=True)
        if options.json:
            write_atomically(options.json, (json.dumps(figures, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

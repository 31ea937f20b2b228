"""Slices that are filled to the most, and slices that share weights: noise of a network's outputs and its accuracy.

    python -m benchmarks.slice_fill cifar_resnet20.onnx --data cifar10_train10k.npz --test cifar10_test1k.npz \
        --targets hermes --json fill.json

Each mapping is calibrated on the same emulated chips, which score the same test images. The noise-to-signal ratio of
the outputs, against those of the float network, tells mappings apart that a thousand answers do not. Every figure goes
to the JSON file at once; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memcompile.accuracy.chip_calibration import Calibrator
from memcompile.accuracy.scoring import class_names, score_samples
from memcompile.atomic import write_atomically
from memcompile.data.loader import load_dataset
from memcompile.noise.output_noise import output_noise
from memcompile.pipelines import compile_model
from memcompile.report.evaluation import run_float

NORMALISATION = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SLICES = ("1", "2", "2:equal", "3", "3:equal", "4", "4:equal")


def measured(options: argparse.Namespace, target: str, slices: str) -> dict[str, Any]:
    """Noise and accuracy of the chips of one mapping."""
    compilation = compile_model(options.model, target, data=options.data, slices=slices, **NORMALISATION)
    program = compilation.program
    test = load_dataset(options.test, program.inputs, **NORMALISATION).head(options.images)
    wanted, names = run_float(compilation.model, test.inputs), class_names(program)
    calibrator = Calibrator(program, compilation.dataset.calibration)
    outputs = [calibrator.chip(seed).emulator.run(test.inputs) for seed in range(options.chips)]
    return {
        "steps": program.placement.initiation_interval_steps,
        "arrays": program.arrays_used,
        "bases": sorted({layer.base for layer in program.layers}),
        "float": score_samples(wanted, test, names),
        "noise": [output_noise(program, wanted, found, classes=True) for found in outputs],
        "accuracy": [score_samples(found, test, names) for found in outputs],
        "images": test.count,
    }


def row(target: str, slices: str, figure: dict[str, Any]) -> str:
    """A line of the table."""
    noise, accuracy = np.array(figure["noise"]), 100 * np.array(figure["accuracy"])
    error = noise.std(ddof=1) / np.sqrt(len(noise))
    bases = " and ".join(map(str, figure["bases"]))
    cells = (target, slices, bases, f"{figure['steps']:,}", figure["arrays"], f"{noise.mean():.4f} +- {error:.4f}")
    return "| " + " | ".join(map(str, (*cells, f"{accuracy.mean():.2f} +- {accuracy.std(ddof=1):.2f} %"))) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="samples that calibrate")
    parser.add_argument("--test", type=Path, required=True, help="samples that score")
    parser.add_argument("--targets", nargs="+", default=["hermes"])
    parser.add_argument("--slices", nargs="+", default=list(SLICES))
    parser.add_argument("--chips", type=int, default=8, help="emulated chips")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    figures: dict[str, Any] = {}
    if options.json and options.json.exists():
        figures = json.loads(options.json.read_text())
    print(
        "| target | slices | base | steps | arrays | noise of the outputs | accuracy |\n|---|---|---|---|---|---|---|"
    )
    for target in options.targets:
        for slices in options.slices:
            name = f"{target} {slices}"
            if name not in figures:
                figures[name] = measured(options, target, slices)
                if options.json:
                    write_atomically(options.json, (json.dumps(figures, indent=1) + "\n").encode())
            print(row(target, slices, figures[name]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

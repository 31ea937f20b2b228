"""Noise injected into a network on ideal devices, beside that of emulated chips.

    python -m benchmarks.injected_noise --data MNIST_DIR

For the five-layer CNN on some targets, as transferred and calibrated: noise-to-signal ratio of the scores, and points
lost, once counted in answers and once smoothed over margins. Both kinds of chips see the same images.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memcompile.accuracy.chip_calibration import Calibrator
from memcompile.accuracy.noise_injection import NoisyNetwork
from memcompile.accuracy.scoring import lost_share, score_samples
from memcompile.data.loader import Dataset
from memcompile.noise.output_noise import output_noise
from memcompile.pipelines import compile_model
from memcompile.program.program import Program
from memcompile.runtime.emulator import Emulator

FIVE_LAYER = Path(__file__).parent.parent / "examples" / "five_layer_cnn.onnx"
CASES: Sequence[tuple[str, tuple[str, ...]]] = (
    ("yao2020", ()),
    ("yao2020", ("replicate.objective=accuracy",)),
    ("neurram", ()),
    ("hermes", ()),
)
Outputs = Mapping[str, Any]


def figures(program: Program, clean: Outputs, chips: Sequence[Outputs], dataset: Dataset) -> list[str]:
    """Ratio, counted and smoothed loss: means over chips with their standard errors."""
    names = program.outputs
    ideal = {name: clean[name] for name in names}
    right = score_samples(ideal, dataset)
    rows = []
    for chip in chips:
        found = {name: chip[name] for name in names}
        counted, smoothed = right - score_samples(found, dataset), lost_share(ideal, found, dataset)[0]
        rows.append((output_noise(program, ideal, found, classes=True), 100 * counted, 100 * smoothed))
    mean, error = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1) / np.sqrt(len(rows))
    digits = (3, 2, 2)
    return [f"{m:.{d}f} +- {e:.{d}f}" for m, e, d in zip(mean, error, digits, strict=True)]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--chips", type=int, default=10)
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args(argv)
    print("| mapping | chips | ratio | points, counted | points, smoothed |\n|---|---|---|---|---|")
    for target, settings in CASES:
        compiled = compile_model(FIVE_LAYER, target, data=options.data, settings=settings, max_loss=None)
        program, dataset = compiled.program, compiled.dataset.head(options.images)
        network, calibrator = NoisyNetwork(program, dataset.calibration), Calibrator(program, dataset.calibration)
        clean = network.run(dataset.inputs, {}, 0)
        everywhere = dict.fromkeys((layer.name for layer in program.layers), 1.0)
        seeds = range(options.chips)
        for calibrated in (False, True):
            emulated = [
                Emulator(calibrator.chip(seed).program if calibrated else program, seed).run(dataset.inputs)
                for seed in seeds
            ]
            injected = [
                network.run(dataset.inputs, everywhere, seed, fitted_to=clean if calibrated else None) for seed in seeds
            ]
            name = ", ".join((target, *settings, *(("calibrated",) if calibrated else ())))
            for kind, chips in (("emulated", emulated), ("injected", injected)):
                print("| " + " | ".join((name, kind, *figures(program, clean, chips, dataset))) + " |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Fit the unpublished programming error and drift of `yao2020` to published losses.

    python benchmarks/calibrate_devices.py programming --data MNIST_DIR
    python benchmarks/calibrate_devices.py drift --data MNIST_DIR

P. Yao et al. (2020) report 97.99 % in software and 95.07 % after transfer: a loss of 2.92 points.
The five-layer example is mapped as theirs was, every layer unrolled without parallel windows and
one copy each, its weights rounded to the nearest levels (SETTINGS below), and programming.sigma_us
is found by bisection such that the mean loss over the chips (the same seeds at every step) is the
published one. Nothing is tuned: the fit uses the transfer alone.

They also report that the accuracy has not fallen 10 minutes after tuning and is about 1.9 points
lower after 2 hours. So drift begins at 10 minutes, and one number is left to fit: the exponent nu of
g * (t / 10 min)^-nu. How it varies from cell to cell is not known; its standard deviation is
assumed to equal its mean. The chips are those above with the last layer tuned, each against itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from memcompile.accuracy.scoring import score
from memcompile.data.loader import Dataset, load_dataset
from memcompile.hardware.target import Target
from memcompile.pipelines import compile_model
from memcompile.program.program import Program
from memcompile.report.evaluation import run_float
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.hybrid_training import TuningOptions
from memcompile.runtime.training.transfer import transfer
from memcompile.tuning import TuningPlan, tune

PUBLISHED_LOSS = 0.9799 - 0.9507
PUBLISHED_DRIFT_LOSS = 0.019
DRIFT_BEGINS_S, DRIFT_MEASURED_S = 600.0, 7200.0
# One copy of each layer without parallel windows; weights at their nearest levels, as plain transfer has them.
SETTINGS = ("replicate.objective=arrays", "quantize_weights.compensate=false")
FIVE_LAYER = Path(__file__).parent.parent / "examples" / "five_layer_cnn.onnx"


def with_sigma(program: Program, sigma_us: float) -> Program:
    """The program on a target with another programming error."""
    values = program.target.model_dump()
    values["programming"]["sigma_us"] = sigma_us
    return replace(program, target=Target.model_validate(values))


def losses(program: Program, test: Dataset, reference: float, seeds: int) -> np.ndarray:
    """Lost accuracy of each chip, [seeds]."""
    assert test.labels is not None
    lost = []
    for seed in range(seeds):
        chip, _ = transfer(program, seed)
        lost.append(reference - score(Emulator(chip, seed).run(test.inputs), test.labels))
    return np.array(lost)


def with_drift(program: Program, exponent: float) -> Program:
    """The program on a target whose cells drift."""
    values = program.target.model_dump()
    values["drift"] = {"exponent_mean": exponent, "exponent_sigma": exponent, "reference_s": DRIFT_BEGINS_S}
    return replace(program, target=Target.model_validate(values))


def drift_losses(chips: list[Program], fresh: list[float], test: Dataset, exponent: float) -> np.ndarray:
    """Accuracy that each chip has lost after two hours, [chips]."""
    assert test.labels is not None
    lost = []
    for seed, chip in enumerate(chips):
        emulator = Emulator(with_drift(chip, exponent), seed, time_s=DRIFT_MEASURED_S)
        lost.append(fresh[seed] - score(emulator.run(test.inputs), test.labels))
    return np.array(lost)


def bisect(
    losses_at: Callable[[float], np.ndarray], published: float, limits: tuple[float, float], steps: int
) -> list[dict[str, float]]:
    """All values tried, with the mean and standard deviation of the loss; the loss rises with the value."""
    low, high = limits
    tried = []
    for _ in range(steps):
        value = (low + high) / 2
        loss = losses_at(value)
        tried.append({"value": value, "loss": float(loss.mean()), "std": float(loss.std(ddof=1))})
        print(f"{value:.4f}: loss {loss.mean():.2%} +- {loss.std(ddof=1):.2%}", flush=True)
        low, high = (low, value) if loss.mean() > published else (value, high)
    return tried


def main(argv: Sequence[str] | None = None) -> int:
    """Run the fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["programming", "drift"])
    parser.add_argument("--data", type=Path, required=True, help="folder with the MNIST files")
    parser.add_argument("--seeds", type=int, help="chips [20, for drift 10]")
    parser.add_argument("--images", type=int, help="test images [all]")
    parser.add_argument("--train-images", type=int, default=6000, help="images to tune with, for drift")
    parser.add_argument("--steps", type=int, default=6, help="bisection steps")
    parser.add_argument("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="[0.4 1.6, for drift 0 0.3]")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    compilation = compile_model(FIVE_LAYER, data=arguments.data, settings=SETTINGS)
    test = compilation.dataset.head(arguments.images or compilation.dataset.count)
    assert test.labels is not None
    program = compilation.program
    if arguments.what == "programming":
        reference = score(run_float(compilation.model, test.inputs), test.labels)
        published, limits, name = PUBLISHED_LOSS, (0.4, 1.6), "programming.sigma_us"

        def losses_at(value: float) -> np.ndarray:
            return losses(with_sigma(program, value), test, reference, arguments.seeds or 20)
    else:
        train = load_dataset(arguments.data, program.inputs, part="train")
        plan = TuningPlan(0, options=TuningOptions(epochs=10))
        chips = [
            tune(program, train.inputs, train.labels, replace(plan, seed=seed), images=arguments.train_images).program
            for seed in range(arguments.seeds or 10)
        ]
        fresh = [score(Emulator(chip, seed).run(test.inputs), test.labels) for seed, chip in enumerate(chips)]
        published, limits, name = PUBLISHED_DRIFT_LOSS, (0.0, 0.3), "drift.exponent_mean"

        def losses_at(value: float) -> np.ndarray:
            return drift_losses(chips, fresh, test, value)

    print(f"{test.count:,} images; looking for a loss of {published:.2%}", flush=True)
    tried = bisect(losses_at, published, tuple(arguments.range or limits), arguments.steps)
    best = min(tried, key=lambda item: abs(item["loss"] - published))
    print(f"{name} = {best['value']:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"tried": tried, "best": best}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

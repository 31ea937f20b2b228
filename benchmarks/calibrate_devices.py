"""Fit the unpublished programming error of `yao2020` to the published loss on transfer.

    python benchmarks/calibrate_devices.py --data MNIST_DIR

P. Yao et al. (2020) report 97.99 % in software and 95.07 % after transfer: a loss of 2.92 points.
The five-layer example is mapped as theirs was, every layer unrolled without parallel windows and
one copy each, and programming.sigma_us is found by bisection such that the mean loss over the
chips (the same seeds at every step) is the published one. Nothing is tuned: the fit uses the
transfer alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import memcompile
from memcompile.data import Dataset
from memcompile.evaluation import run_float, score
from memcompile.program import Program
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.transfer import transfer
from memcompile.target import Target

PUBLISHED_LOSS = 0.9799 - 0.9507
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the MNIST files")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--images", type=int, help="test images [all]")
    parser.add_argument("--steps", type=int, default=6, help="bisection steps")
    parser.add_argument("--range", type=float, nargs=2, default=(0.4, 1.6), metavar=("LOW", "HIGH"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    settings = ("replicate.objective=arrays",)
    compilation = memcompile.compile_model(FIVE_LAYER, data=arguments.data, settings=settings)
    test = compilation.dataset.head(arguments.images or compilation.dataset.count)
    assert test.labels is not None
    reference = score(run_float(compilation.model, test.inputs), test.labels)
    print(f"float {reference:.2%} on {test.count:,} images; looking for a loss of {PUBLISHED_LOSS:.2%}", flush=True)
    low, high = arguments.range
    tried = []
    for _ in range(arguments.steps):
        sigma_us = (low + high) / 2
        loss = losses(with_sigma(compilation.program, sigma_us), test, reference, arguments.seeds)
        tried.append({"sigma_us": sigma_us, "loss": float(loss.mean()), "std": float(loss.std(ddof=1))})
        print(f"sigma {sigma_us:.4f} uS: loss {loss.mean():.2%} +- {loss.std(ddof=1):.2%}", flush=True)
        low, high = (low, sigma_us) if loss.mean() > PUBLISHED_LOSS else (sigma_us, high)
    best = min(tried, key=lambda item: abs(item["loss"] - PUBLISHED_LOSS))
    print(f"programming.sigma_us = {best['sigma_us']:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"tried": tried, "best": best}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

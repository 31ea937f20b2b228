"""Compile a CIFAR-10 ResNet for the eight-array chip and compare numbers of slices.

    python examples/resnet_cifar.py resnet20.onnx --data cifar10 --slices 1 2

The model reads N x 3 x 32 x 32 float images, normalised per channel; --mean and --std say how.
The data is CIFAR-10's folder in its published form, or an npz with `images` (uint8) and `labels`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from memcompile.errors import MemcompileError
from memcompile.pipelines import compile_model
from memcompile.report.evaluation import evaluate
from memcompile.report.facts import program_facts

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="ONNX file")
    parser.add_argument("--data", type=Path, required=True, metavar="NPZ|DIR", help="CIFAR-10 test images with labels")
    parser.add_argument("--target", default="yao2020", help="name or TOML file (default: %(default)s)")
    parser.add_argument("--slices", type=int, nargs="+", default=[1, 2], help="pairs per weight (default: 1 2)")
    parser.add_argument("--images", type=int, default=1000, help="test images (default: %(default)s)")
    parser.add_argument("--emulated-images", type=int, default=100, help="of them, emulated (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="emulated chips (default: %(default)s)")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="PASS.OPTION=VALUE", help="option of a pass"
    )
    parser.add_argument("--mean", type=float, nargs="+", default=MEAN, help="default: %(default)s")
    parser.add_argument("--std", type=float, nargs="+", default=STD, help="default: %(default)s")
    return parser.parse_args(arguments)


def report(options: argparse.Namespace, slices: int) -> str:
    """Compile with some number of slices; returns a row of the table."""
    begin = time.monotonic()
    compilation = compile_model(
        options.model,
        options.target,
        data=options.data,
        mean=options.mean,
        std=options.std,
        slices=slices,
        settings=options.settings,
    )
    seconds = time.monotonic() - begin
    evaluation = evaluate(
        compilation.program,
        compilation.model,
        compilation.dataset,
        images=options.images,
        emulated_images=options.emulated_images,
        seeds=options.seeds,
        budget=False,
    )
    facts = program_facts(compilation.program, evaluation)
    row = (
        f"{slices:6}{facts['arrays_used']:8,}{facts['arrays_bound']:8,}{facts['chips']:7,}"
        f"{facts['initiation_interval_steps']:8,}{facts['initiation_interval_bound']:8,}{seconds:8.1f} s"
    )
    accuracy = facts["accuracy"]
    if accuracy is None:
        return row + "  no labels, so no accuracy"
    spread = f"{accuracy['emulated_mean']:.2%} +- {accuracy['emulated_std']:.2%}"
    return row + f"{accuracy['float']:9.2%}{accuracy['ideal']:9.2%}{spread:>18}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each number of slices."""
    options = parse(arguments)
    print("slices  arrays   bound  chips   steps   bound   compile    float    ideal          emulated", flush=True)
    try:
        for slices in options.slices:
            print(report(options, slices), flush=True)
    except MemcompileError as error:
        print(f"resnet_cifar.py: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

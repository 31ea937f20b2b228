"""Write a network that is larger than its chips onto them segment by segment, for batches of several sizes.

    python benchmarks/reprogramming.py cifar_resnet20.onnx --chips 1 --batches 1 100 10000
    python benchmarks/reprogramming.py cifar_resnet20.onnx --chips 1 --batches 100 --data cifar10 --images 300

Prints a row for each batch: seconds to compile, segments, the time per image with the share of it
that writing takes, and the proven lower bound. With data, which the CIFAR-10 means and deviations of
examples/resnet_cifar.py normalise unless told otherwise, also the accuracy of the float network, of
ideal devices, and of emulated chips that are written anew for every batch.
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
    parser.add_argument("--target", default="yao2020", help="name or TOML file (default: %(default)s)")
    parser.add_argument("--chips", type=int, default=1, help="chips (default: %(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 100, 10_000], help="default: %(default)s")
    parser.add_argument("--no-windows", action="store_true", help="one output position a step")
    parser.add_argument("--data", type=Path, metavar="NPZ|DIR", help="test images with labels")
    parser.add_argument("--images", type=int, default=300, help="test images (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="emulated chips (default: %(default)s)")
    parser.add_argument("--mean", type=float, nargs="+", default=MEAN, help="default: %(default)s")
    parser.add_argument("--std", type=float, nargs="+", default=STD, help="default: %(default)s")
    return parser.parse_args(arguments)


def report(options: argparse.Namespace, batch: int) -> str:
    """Compile for batches of some size; returns a row of the table."""
    normalised = {"data": options.data, "mean": options.mean, "std": options.std} if options.data else {}
    begin = time.monotonic()
    settings = ["cut_segments.parallel_windows=false"] if options.no_windows else []
    compilation = compile_model(
        options.model, options.target, chips=options.chips, batch=batch, settings=settings, **normalised
    )
    seconds = time.monotonic() - begin
    evaluation = None
    if options.data:
        evaluation = evaluate(
            compilation.program,
            compilation.model,
            compilation.dataset,
            images=options.images,
            emulated_images=options.images,
            seeds=options.seeds,
            budget=False,
        )
    facts = program_facts(compilation.program, evaluation)
    each_us, a_pass = facts["cost"]["interval_us"], facts["cost"]["pass"]
    if a_pass is None:
        return f"{batch:7,}  fits {facts['chips']} chips, so nothing is written twice: {each_us:,.1f} us an image"
    bound = facts["pass_time_bound_ns"] / facts["pass_time_ns"]
    row = (
        f"{batch:7,}{seconds:8.1f} s{facts['segments']:10,}{each_us:14,.0f} us"
        f"{a_pass['writing_us'] / a_pass['time_us']:9.1%}{each_us * bound:14,.0f} us{1 - bound:8.2%}"
    )
    accuracy = facts["accuracy"]
    if accuracy:
        row += f"{accuracy['float']:9.2%}{accuracy['ideal']:9.2%}{accuracy['emulated_mean']:10.2%}"
        row += f" +- {accuracy['emulated_std']:.2%}"
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = parse(arguments)
    scores = "    float    ideal  emulated" if options.data else ""
    print(f"  batch   compile  segments   time an image  writing proven bound     gap{scores}", flush=True)
    try:
        for batch in options.batches:
            print(report(options, batch), flush=True)
    except MemcompileError as error:
        print(f"memcompile: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

"""Accuracy on noisy devices, before and after each remedy, over several emulated chips.

    python benchmarks/accuracy.py mnist --data MNIST_DIR
    python benchmarks/accuracy.py cifar --model cifar_resnet20.onnx --train cifar10_train10k.npz \
        --test cifar10_test1k.npz

Each row is a mean and standard deviation over chips (seeds); training images tune, test images
score. `--json FILE` keeps every single figure.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import memcompile
from memcompile.data import Dataset, load_dataset
from memcompile.evaluation import run_float, score
from memcompile.pipelines import Compilation
from memcompile.program import Program
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.hybrid_training import TuningOptions
from memcompile.tuning import TuningPlan, tune

CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FIVE_LAYER = Path(__file__).parent.parent / "examples" / "five_layer_cnn.onnx"

Remedy = tuple[str, dict[str, Any], TuningPlan]


def remedies(epochs: int, recalibration_images: int) -> list[Remedy]:
    """Name, compile options and tuning plan of each row."""
    off = TuningOptions(epochs=0)
    last = TuningOptions(epochs=epochs)
    plain = {"correct_slices": False}
    one: dict[str, Any] = {"slices": 1}
    two: dict[str, Any] = {"slices": 2, "slice_base": 5}
    return [
        ("one slice, transfer alone", one, TuningPlan(0, options=off)),
        ("one slice, last layer tuned", one, TuningPlan(0, options=last)),
        ("one slice, scales recalibrated", one, TuningPlan(recalibration_images, options=off)),
        ("one slice, recalibrated and last layer tuned", one, TuningPlan(recalibration_images, options=last)),
        ("two slices of base 15, transfer alone", {"slices": 2}, TuningPlan(0, **plain, options=off)),
        ("second slice holds the first one's error", two, TuningPlan(0, options=off)),
        ("the same, recalibrated and last layer tuned", two, TuningPlan(recalibration_images, options=last)),
    ]


def measure(
    arguments: argparse.Namespace, model: Path, options: dict[str, Any], train: Dataset, rows: Sequence[Remedy]
) -> Iterator[dict[str, Any]]:
    """One row a remedy."""
    compiled: dict[str, Compilation] = {}
    for name, compile_options, plan in rows:
        key = json.dumps(compile_options)
        if key not in compiled:
            settings = arguments.set or ()
            compiled[key] = memcompile.compile_model(
                model, arguments.target, settings=settings, **options, **compile_options
            )
        compilation = compiled[key]
        test = compilation.dataset.head(arguments.images or compilation.dataset.count)
        assert test.labels is not None
        begin = time.monotonic()
        scores, writes = [], []
        for seed in range(arguments.seeds):
            seeded = TuningPlan(plan.recalibration_images, plan.correct_slices, plan.options, seed)
            result = tune(compilation.program, train.inputs, train.labels, seeded)
            scores.append(score(Emulator(result.program, seed).run(test.inputs), test.labels))
            writes.append(result.tuning.writes)
        yield {
            "row": name,
            "float": score(run_float(compilation.model, test.inputs), test.labels),
            "ideal": _ideal(compilation.program, test),
            "mean": float(np.mean(scores)),
            "std": float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0,
            "scores": scores,
            "tuning_cell_writes": float(np.mean(writes)),
            "arrays": compilation.program.arrays_used,
            "seconds_per_chip": (time.monotonic() - begin) / arguments.seeds,
        }


def _ideal(program: Program, test: Dataset) -> float:
    assert test.labels is not None
    return score(Emulator.ideal(program).run(test.inputs), test.labels)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["mnist", "cifar"])
    parser.add_argument("--data", type=Path, help="folder with the MNIST files")
    parser.add_argument("--model", type=Path, help="a CIFAR-10 network; MNIST takes the five-layer example")
    parser.add_argument("--train", type=Path, help="npz with CIFAR-10 training images and labels")
    parser.add_argument("--test", type=Path, help="npz with CIFAR-10 test images and labels")
    parser.add_argument("--train-images", type=int, help="images to tune with [6000 of MNIST, 1500 of CIFAR-10]")
    parser.add_argument("--images", type=int, help="test images to score on [all]")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--recalibration-images", type=int, default=300)
    parser.add_argument("--rows", type=int, nargs="*", help="numbers of the rows to measure [all]")
    parser.add_argument("--target", default="yao2020", help="target name or file")
    parser.add_argument("--set", action="append", help="pass setting, as for memcompile --set")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    if arguments.task == "mnist":
        model, options = arguments.model or FIVE_LAYER, {"data": arguments.data}
        images = arguments.train_images or 6000
        source = arguments.data
    else:
        model, source = arguments.model, arguments.train
        options = {"data": arguments.test, "mean": CIFAR_MEAN, "std": CIFAR_STD}
        images = arguments.train_images or 1500
    inputs = memcompile.compile_model(model, **options).program.inputs
    normalisation = {key: options[key] for key in ("mean", "std") if key in options}
    train = load_dataset(source, inputs, part="train", **normalisation).head(images)
    rows = remedies(arguments.epochs, arguments.recalibration_images)
    chosen = [rows[number] for number in arguments.rows] if arguments.rows else rows
    print(f"{model.name}: {train.count} images of {train.name} tune, {arguments.seeds} chips", flush=True)
    print("| what was done | accuracy | ideal devices | float | cells rewritten | s a chip |")
    print("|---|---|---|---|---|---|")
    results = []
    for row in measure(arguments, model, options, train, chosen):
        results.append(row)
        print(
            f"| {row['row']} | {row['mean']:.2%} +- {row['std']:.2%} | {row['ideal']:.2%} | {row['float']:.2%} "
            f"| {row['tuning_cell_writes']:.0f} | {row['seconds_per_chip']:.0f} |",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Accuracy of classifiers as other people exported them: float, quantised on ideal devices, and on noisy chips.

    python -m benchmarks.wild_accuracy FOLDER --mnist MNIST_DIR --train cifar10_train10k.npz \
        --test cifar10_test1k.npz [--slices 2] [--only PART]

One line a file of FOLDER whose data set is known: the accuracy of onnxruntime and of the ideal executor on all
test images, the difference in points, and on how many images the two say the same. Training images calibrate.

With ``--chips N --target NAME ...`` each is compiled as without options, under a budget of one point, and the line says
what N calibrated chips lose against onnxruntime on a thousand test images.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.chip_calibration import Calibrator
from memcompile.accuracy.scoring import score
from memcompile.data.loader import load_dataset
from memcompile.pipelines import AUTO, compile_model
from memcompile.report.evaluation import run_float, whole_batches
from memcompile.runtime.emulator import Emulator


@dataclass(frozen=True)
class Trained:
    """Training data of a file, and the form of its inputs: (pixel / 255 - mean) / std, or pixel - zero as int8."""

    data: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    zero: int | None = None


IMAGES = 1000
"""Test images that chips are scored on."""
PIXELS = 1 / 255
"""Dividing by this gives back 0..255."""
TRAINED = {
    "burn_mnist_a": Trained("mnist", (0.1307,), (0.3081,)),
    "cnn_mnist_pytorch_ortjava": Trained("mnist", (0.0,), (PIXELS,)),
    "mlperftiny_keras_pretrainedResnet": Trained("cifar10", (0.0,) * 3, (PIXELS,) * 3),
    "mlperftiny_pretrainedResnet_large_float": Trained("cifar10", (0.0,) * 3, (PIXELS,) * 3),
    "mlperftiny_pretrainedResnet_large_int8": Trained("cifar10", zero=128),
    "mnist_cntk_8": Trained("mnist", (0.0,), (PIXELS,)),
    "mnist_original_ortpy": Trained("mnist"),
    "qonnx_TFC_1W1A": Trained("mnist"),
    "qonnx_TFC_1W2A": Trained("mnist"),
    "wonnx_opt-mnist": Trained("mnist", (0.0,), (PIXELS,)),
}


def classes(outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
    """The class that each image is given: where the first output is largest."""
    first = next(iter(outputs.values()))
    return first.reshape(len(first), -1).argmax(axis=1)


def less_zero(archive: Path, zero: int, folder: Path) -> Path:
    """A copy of an archive whose images are int8, less a zero point."""
    with np.load(archive) as stored:
        images, labels = stored["images"], stored["labels"]
    path = folder / archive.name
    np.savez(path, images=(images.astype(np.int16) - zero).astype(np.int8), labels=labels)
    return path


Measure = Callable[[Path, Path, Path, Trained], str]
"""Function from a model, its training and test data, and their form to what is said of it."""


def in_its_form(measure: Measure, path: Path, calibration: Path, test: Path, trained: Trained) -> str:
    """Words of a measure on data in the form that a file takes."""
    if trained.zero is None:
        return measure(path, calibration, test, trained)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        calibration, test = (
            less_zero(archive, trained.zero, Path(folder)) for archive, folder in ((calibration, first), (test, second))
        )
        return measure(path, calibration, test, trained)


def on_chips(path: Path, calibration: Path, test: Path, trained: Trained, *, target: str, chips: int) -> str:
    """Points that calibrated chips lose with the mapping under the usual budget."""
    options = {"mean": trained.mean, "std": trained.std}
    found = compile_model(path, target, data=calibration, max_loss=AUTO, **options)
    program, data = found.program, load_dataset(test, found.model.inputs, **options)
    data = whole_batches(data, min(data.count, IMAGES), found.model)
    assert data.labels is not None
    before = score(run_float(found.model, data.inputs), data.labels)
    calibrator = Calibrator(program, found.dataset.calibration)
    right = [score(calibrator.chip(seed).emulator.run(data.inputs), data.labels) for seed in range(chips)]
    lost, steps = 100 * (before - np.array(right)), program.placement.initiation_interval_steps
    mapping = f"{steps:,} steps, slices {program.slices.min()}..{program.slices.max()}"
    again = program.target.programming.write_again_share
    mapping += f", {again:g} corrections a pair" if again else ""
    if found.budget is None:
        words = "no budget"
    else:
        held = "held" if found.budget.held else "not held"
        words = f"{found.budget.predicted:.2f} predicted, {found.budget.measured.mean():.2f} measured ({held})"
    error = lost.std(ddof=1) / np.sqrt(chips) if chips > 1 else 0.0
    return f"{target}: float {before:.2%}, {mapping}, {words}; lost {lost.mean():.2f} +- {error:.2f} points"


def measured(path: Path, calibration: Path, test: Path, trained: Trained, *, slices: int) -> str:
    """Both accuracies, on data as the model takes it."""
    options = {"mean": trained.mean, "std": trained.std}
    settings = ("replicate.objective=arrays", "replicate.effort=fast")
    compilation = compile_model(path, "yao2020", data=calibration, slices=slices, settings=settings, **options)
    model = compilation.model
    data = load_dataset(test, model.inputs, **options)
    data = whole_batches(data, data.count, model)
    assert data.labels is not None
    reference = run_float(model, data.inputs)
    ideal = Emulator.ideal(compilation.program).run(data.inputs)
    before, after = score(reference, data.labels), score(ideal, data.labels)
    same = float((classes(reference) == classes(ideal)).mean())
    points = 100 * (after - before)
    return f"float {before:.2%}, ideal {after:.2%} ({points:+.2f} points), same class {same:.2%}, {data.count:,} images"


def main() -> None:
    """Print one line a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mnist", type=Path, required=True, help="folder with MNIST's four files")
    parser.add_argument("--train", type=Path, required=True, help="npz of CIFAR-10 training images")
    parser.add_argument("--test", type=Path, required=True, help="npz of CIFAR-10 test images")
    parser.add_argument("--slices", type=int, default=2, help="on ideal devices")
    parser.add_argument("--chips", type=int, default=0, help="noisy chips to measure instead")
    parser.add_argument("--target", nargs="*", default=["yao2020"], help="targets of noisy chips")
    parser.add_argument("--only", default="", help="part of the file names")
    options = parser.parse_args()
    parts = {"mnist": (options.mnist, options.mnist), "cifar10": (options.train, options.test)}
    for name, trained in TRAINED.items():
        path = options.folder / f"{name}.onnx"
        if options.only in name and path.exists():
            measures: list[Measure] = [partial(measured, slices=options.slices)]
            if options.chips:
                measures = [partial(on_chips, target=target, chips=options.chips) for target in options.target]
            for measure in measures:
                print(f"{name:42} {in_its_form(measure, path, *parts[trained.data], trained)}", flush=True)


if __name__ == "__main__":
    main()

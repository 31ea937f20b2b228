"""Accuracy on noisy devices, before and after each remedy, over several emulated chips.

    python benchmarks/accuracy.py mnist --data MNIST_DIR --json mnist.json
    python benchmarks/accuracy.py cifar --model cifar_resnet20.onnx --train cifar10_train10k.npz \
        --test cifar10_test1k.npz --seeds 5 --json resnet20.json

Each row of the table is a mean and standard deviation over chips (seeds); training images tune, test
images score. Every figure goes to the JSON file at once; what is there already is not measured
again, so that a run that was stopped goes on, and further seeds or rows are added.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.held_back import MOST_IMAGES
from memcompile.accuracy.scoring import score
from memcompile.atomic import write_atomically
from memcompile.data.loader import Dataset, load_dataset
from memcompile.hardware.target import Target, load_target, parse_target
from memcompile.pipelines import Compilation, compile_model
from memcompile.program.program import Program
from memcompile.report.evaluation import run_float
from memcompile.runtime.emulator import Emulator, values_before
from memcompile.runtime.training.hybrid_training import ALL, TuningOptions
from memcompile.tuning import TuningPlan, refresh, tune

CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PARTS = ("transfer", "tuning")
TWO_HOURS_S = 7200.0
FIVE_LAYER = Path(__file__).parent.parent / "examples" / "five_layer_cnn.onnx"
SLICES: dict[str, dict[str, Any]] = {
    "one slice": {"slices": 1},
    "two slices, base 15": {"slices": 2, "slice_base": 15},
    "two slices, base 5": {"slices": 2, "slice_base": 5},
}


@dataclass(frozen=True)
class Remedy:
    """One row: what is done to a chip, and how old it is when it is scored."""

    plan: TuningPlan
    age_s: float = 0.0
    refreshed: bool = False


def remedies(epochs: int, recalibration_images: int) -> dict[str, Remedy]:
    """Remedy of each row."""
    off, last = TuningOptions(epochs=0), TuningOptions(epochs=epochs)
    deep = replace(last, layers=(ALL,), digital_scales=True, learning_rate=0.002)
    transferred, tuned = TuningPlan(0, options=off), TuningPlan(0, options=last)
    both = TuningPlan(recalibration_images, options=last)
    everything = replace(both, write_again_share=1.0, write_again_by="error")
    return {
        "transfer alone": Remedy(transferred),
        "transfer alone, slices apart": Remedy(replace(transferred, correct_slices=False)),
        "last layer tuned": Remedy(tuned),
        "scales recalibrated": Remedy(TuningPlan(recalibration_images, options=off)),
        "recalibrated, last layer tuned": Remedy(both),
        "all layers tuned": Remedy(TuningPlan(0, options=deep)),
        "worst half written again, by error": Remedy(
            replace(transferred, write_again_share=0.5, write_again_by="error")
        ),
        "worst half written again, by effect": Remedy(replace(transferred, write_again_share=0.5)),
        "written again, recalibrated": Remedy(replace(everything, options=off)),
        "everything": Remedy(everything),
        "everything, written again twice": Remedy(replace(everything, write_again_share=2.0)),
        "everything, all layers tuned": Remedy(replace(everything, options=replace(deep, epochs=min(3, epochs)))),
        "last layer tuned, 2 h later": Remedy(tuned, TWO_HOURS_S),
        "last layer tuned, 2 h later, refreshed": Remedy(tuned, TWO_HOURS_S, refreshed=True),
        "everything, 2 h later": Remedy(everything, TWO_HOURS_S),
        "everything, 2 h later, refreshed": Remedy(everything, TWO_HOURS_S, refreshed=True),
    }


class Scorer:
    """Scores chips on test images; what chips that differ in the last layer alone share is measured once."""

    def __init__(self, test: Dataset) -> None:
        self.test = test
        self._shared: dict[str, dict[str, NDArray[Any]]] = {}

    def __call__(self, program: Program, seed: int, age_s: float) -> float:
        """Share of right answers of one chip of some age."""
        assert self.test.labels is not None
        last = program.stages.index(program.layers[-1])
        key = f"{digest_before_last(program)} {age_s}"
        emulator = Emulator(program, seed, time_s=age_s)
        if key not in self._shared:
            self._shared = {key: self._measure(emulator, last)}
        return score(emulator.run_from(last, self._shared[key]), self.test.labels)

    def _measure(self, emulator: Emulator, last: int) -> dict[str, NDArray[Any]]:
        names = values_before(emulator.program, last)
        values = emulator.run(self.test.inputs, also=names)
        return {name: values[name] for name in names}


def digest_before_last(program: Program) -> str:
    """Names all that decides what the last crossbar layer gets."""
    assert program.chip is not None
    digest = hashlib.sha256()
    for layer in program.layers[:-1]:
        digest.update(layer.scale.tobytes() + layer.bias.tobytes())
    for lines in () if program.calibration is None else program.calibration.layers[:-1]:
        digest.update(lines.gain.tobytes() + lines.offset.tobytes())
    pairs, cells = program.cell_map.pairs(), program.chip.conductances_us.reshape(-1)
    earlier = pairs.layer < len(program.layers) - 1
    digest.update(cells[pairs.plus[earlier]].tobytes() + cells[pairs.minus[earlier]].tobytes())
    return digest.hexdigest()


class Results:
    """All figures measured so far, in a file that is rewritten after each."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.figures: list[dict[str, Any]] = json.loads(path.read_text()) if path and path.exists() else []

    def find(self, **facts: Any) -> list[dict[str, Any]]:
        """Figures with these facts."""
        return [figure for figure in self.figures if all(figure.get(key) == facts[key] for key in facts)]

    def add(self, **figure: Any) -> None:
        """Keep a figure."""
        self.figures.append(figure)
        if self._path:
            write_atomically(self._path, (json.dumps(self.figures, indent=1) + "\n").encode())


def measure(
    arguments: argparse.Namespace,
    model: Path,
    options: dict[str, Any],
    train: Dataset,
    images: int,
    test: Dataset,
    results: Results,
) -> None:
    """Measure what is missing, chip by chip, so that all rows of a chip come together.

    The first ``images`` of the training samples tune; those that follow judge each step.
    """
    plan_of = remedies(arguments.epochs, arguments.recalibration_images)
    for slices in arguments.slices:
        compilation = compile_model(
            model,
            changed_target(arguments.target, arguments.value or ()),
            settings=arguments.set or (),
            **options,
            **SLICES[slices],
        )
        measure_references(compilation, test, slices, results)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            scorer = Scorer(test)
            for row in arguments.rows or plan_of:
                if results.find(slices=slices, row=row, seed=seed):
                    continue
                begin = time.monotonic()
                remedy = plan_of[row]
                plan = replace(remedy.plan, seed=seed)
                tuned = tune(compilation.program, train.inputs, train.labels, plan, images=images)
                chip = tuned.program
                if remedy.refreshed:
                    chip, _ = refresh(chip, train.inputs, remedy.age_s, images=arguments.recalibration_images)
                middle = time.monotonic()
                accuracy = scorer(chip, seed, remedy.age_s)
                results.add(
                    slices=slices,
                    row=row,
                    seed=seed,
                    accuracy=accuracy,
                    transfer_cell_writes=tuned.transfer.writes,
                    tuning_cell_writes=tuned.tuning.writes,
                    tuning_seconds=round(middle - begin, 1),
                    scoring_seconds=round(time.monotonic() - middle, 1),
                )
                print(f"{slices}, {row}, chip {seed}: {accuracy:.2%}", file=sys.stderr, flush=True)


def changed_target(name: str, changes: Sequence[str]) -> Target:
    """A target with some of its values replaced."""
    values = load_target(name).model_dump()
    for change in changes:
        path, _, text = change.partition("=")
        section, _, key = path.partition(".")
        values[section] = {**(values[section] or {}), key: tomllib.loads(f"value = {text}")["value"]}
    return parse_target(values, "--value")


def measure_references(compilation: Compilation, test: Dataset, slices: str, results: Results) -> None:
    """The float network, and the quantised one on ideal devices."""
    assert test.labels is not None
    if not results.find(row="float"):
        results.add(row="float", accuracy=score(run_float(compilation.model, test.inputs), test.labels))
    if not results.find(row="ideal devices", slices=slices):
        ideal = score(Emulator.ideal(compilation.program).run(test.inputs), test.labels)
        results.add(row="ideal devices", slices=slices, accuracy=ideal)


def table(results: Results) -> str:
    """All figures as a table: means and standard deviations over chips."""
    lines = [
        "| slices | what was done | accuracy | points lost | won back | cells written | rewritten | chips |",
        "|---|---|---|---|---|---|---|---|",
    ]
    reference = results.find(row="float")[0]["accuracy"]
    for slices in dict.fromkeys(figure["slices"] for figure in results.figures if "slices" in figure):
        before = [figure["accuracy"] for figure in results.find(slices=slices, row="transfer alone")]
        for row in dict.fromkeys(figure["row"] for figure in results.find(slices=slices)):
            figures = results.find(slices=slices, row=row)
            scores = np.array([figure["accuracy"] for figure in figures])
            spread = f" +- {scores.std(ddof=1):.2%}" if len(scores) > 1 else ""
            writes = [np.mean([figure.get(f"{part}_cell_writes", 0) for figure in figures]) for part in PARTS]
            lost = reference - scores.mean()
            share = f"{1 - lost / (reference - np.mean(before)):.0%}" if before else ""
            lines.append(
                f"| {slices} | {row} | {scores.mean():.2%}{spread} | {100 * lost:.2f} | {share} | {writes[0]:,.0f} "
                f"| {writes[1]:,.0f} | {len(scores) if spread else ''} |"
            )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["mnist", "cifar"])
    parser.add_argument("--data", type=Path, help="folder with the MNIST files")
    parser.add_argument("--model", type=Path, help="a CIFAR-10 network; MNIST takes the five-layer example")
    parser.add_argument("--train", type=Path, help="npz with CIFAR-10 training images and labels")
    parser.add_argument("--test", type=Path, help="npz with CIFAR-10 test images and labels")
    parser.add_argument("--train-images", type=int, help="images to tune with [6000 of MNIST, 500 of CIFAR-10]")
    parser.add_argument("--images", type=int, help="test images to score on [all]")
    parser.add_argument("--seeds", type=int, default=10, help="chips")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--recalibration-images", type=int, default=300)
    parser.add_argument("--slices", nargs="*", choices=list(SLICES), default=["one slice", "two slices, base 5"])
    parser.add_argument("--rows", nargs="*", choices=list(remedies(0, 0)), help="what to measure [all]")
    parser.add_argument("--target", default="yao2020", help="target name or file")
    parser.add_argument(
        "--value", action="append", metavar="SECTION.KEY=TOML", help="change the target, such as adc.bits=6"
    )
    parser.add_argument("--set", action="append", help="pass setting, as for memcompile --set")
    parser.add_argument("--json", type=Path, help="file with all figures; what it holds is not measured again")
    arguments = parser.parse_args(argv)
    if arguments.task == "mnist":
        model, options = arguments.model or FIVE_LAYER, {"data": arguments.data}
        images, source = arguments.train_images or 6000, arguments.data
    else:
        model, source = arguments.model, arguments.train
        # An archive's first images calibrate; those must not be the ones that score.
        options = {"data": arguments.train, "mean": CIFAR_MEAN, "std": CIFAR_STD}
        images = arguments.train_images or 500
    inputs = compile_model(model, **options).program.inputs
    normalisation = {key: options[key] for key in ("mean", "std") if key in options}
    train = load_dataset(source, inputs, part="train", **normalisation).head(images + MOST_IMAGES)
    test = load_dataset(arguments.test or source, inputs, **normalisation)
    results = Results(arguments.json)
    measure(arguments, model, options, train, images, test.head(arguments.images or test.count), results)
    print(f"{model.name}: {images} images of {train.name} tune, {arguments.recalibration_images} recalibrate")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Losses that the noise model predicts against those of emulated chips, in random settings.

    python -m benchmarks.noise_model --data MNIST_DIR --cifar cifar10_test1k.npz --resnet cifar_resnet20.onnx \
        --json noise_model.json --plot docs/images/noise_model.png

Each setting is a network, a target with some fields changed, slices with a base, and what the mapping makes best. A
chip is as transferred, or with ``--calibrated`` has its lines calibrated without labels. Every figure goes to the JSON
file at once, and what is there already is not measured again; with ``--predict-again`` predictions are, beside the
losses of chips that are there. Networks whose data are not given are left out. ``--network NAME=FILE`` names further
ones for MNIST, which are then the only ones; ``benchmarks/train_networks.py`` trains some.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from memcompile.accuracy.chip_calibration import Calibrator
from memcompile.accuracy.error_budget import error_budget
from memcompile.accuracy.scoring import score_samples
from memcompile.atomic import write_atomically
from memcompile.data.loader import Dataset
from memcompile.errors import MemcompileError
from memcompile.hardware.target import Target, load_target
from memcompile.pipelines import compile_model
from memcompile.program.program import Program
from memcompile.runtime.emulator import Emulator

CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FIVE_LAYER = Path(__file__).parent.parent / "examples" / "five_layer_cnn.onnx"
TARGETS = ("yao2020", "neurram", "hermes", "pimcomp")
LARGEST_LOSS = 10.0
EMULATED = ("emulated", "ideal", "images")


@dataclass(frozen=True)
class Setting:
    """One case to predict."""

    network: str
    target: str
    changes: tuple[tuple[str, Any], ...]
    slices: int
    slice_base: int | None
    objective: str

    @property
    def key(self) -> str:
        """Name of the case."""
        fields = " ".join(f"{name}={value}" for name, value in self.changes)
        base = f" base {self.slice_base}" if self.slice_base else ""
        return f"{self.network} {self.target} {self.slices} slices{base} {self.objective} {fields}".strip()

    def hardware(self) -> Target:
        """The target with its changes."""
        return load_target(self.target).with_(**{name.replace(".", "__"): value for name, value in self.changes})


def random_settings(networks: list[str], count: int, seed: int) -> Iterator[Setting]:
    """Settings in turn over networks and targets."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        name = TARGETS[number % len(TARGETS)]
        target = load_target(name)
        changes: dict[str, Any] = {}
        spec = target.programming
        factor = float(np.round(rng.uniform(0.4, 1.3), 2))
        if spec.sigma_polynomial_us:
            changes["programming.sigma_polynomial_us"] = [round(factor * c, 4) for c in spec.sigma_polynomial_us]
        else:
            changes["programming.sigma_us"] = round(factor * spec.sigma_us, 3)
        if rng.random() < 0.5:
            changes["read_noise.sigma_us"] = float(np.round(target.read_noise.sigma_us * rng.uniform(1, 4), 3))
        if rng.random() < 0.5:
            changes["programming.blank_share"] = float(np.round(rng.uniform(0, 1), 2))
        if rng.random() < 0.5 or name == "hermes":
            changes["adc.range"] = "calibrated"
            changes["adc.bits"] = int(rng.integers(6, 9))
        slices = int(rng.choice([1, 1, 2]))
        base = int(rng.integers(3, target.slice_base() + 1)) if slices > 1 and rng.random() < 0.5 else None
        objective = str(rng.choice(["throughput", "accuracy"]))
        network = networks[number // len(TARGETS) % len(networks)]
        yield Setting(network, name, tuple(changes.items()), slices, base, objective)


def digits_model(folder: Path) -> tuple[Path, Path]:
    """Model and data of a perceptron with two hidden layers, trained on half of scikit-learn's digits."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    trained = MLPClassifier((48, 32), max_iter=300, random_state=0).fit(images[::2], labels[::2])
    nodes, values, value = [], [], "image"
    for number, (weight, bias) in enumerate(zip(trained.coefs_, trained.intercepts_, strict=True)):
        values += [
            onnx.numpy_helper.from_array(weight.astype(np.float32), f"w{number}"),
            onnx.numpy_helper.from_array(bias.astype(np.float32), f"b{number}"),
        ]
        last = number == len(trained.coefs_) - 1
        made = "scores" if last else f"h{number}"
        nodes.append(onnx.helper.make_node("Gemm", [value, f"w{number}", f"b{number}"], [made]))
        if not last:
            nodes.append(onnx.helper.make_node("Relu", [made], [f"r{number}"]))
        value = f"r{number}"
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "digits",
        [onnx.helper.make_tensor_value_info("image", kind, ["N", 64])],
        [onnx.helper.make_tensor_value_info("scores", kind, ["N", 10])],
        values,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    path, data = folder / "digits.onnx", folder / "digits.npz"
    path.write_bytes(model.SerializeToString())
    np.savez(data, image=images[1::2], labels=labels[1::2])
    return path, data


def measure(
    setting: Setting,
    source: dict[str, Any],
    images: int,
    chips: int,
    calibrated: bool = False,
    known: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Predicted and emulated losses of a setting, in points; the emulated ones are those of ``known`` if given."""
    compilation = compile_model(
        source["model"],
        setting.hardware(),
        data=source["data"],
        mean=source.get("mean"),
        std=source.get("std"),
        slices=setting.slices,
        slice_base=setting.slice_base,
        settings=(f"replicate.objective={setting.objective}", "replicate.effort=fast"),
        chips=source.get("chips"),
    )
    program = compilation.program
    dataset = compilation.dataset.head(min(images, compilation.dataset.count))
    begin = time.process_time()
    budget = error_budget(program, dataset, calibrated=calibrated)
    seconds = time.process_time() - begin
    assert budget is not None
    return {
        "setting": setting.key,
        "network": setting.network,
        "target": setting.target,
        "predicted": budget.loss,
        "uncertainty": budget.uncertainty,
        "noise": budget.noise,
        "seconds": seconds,
        **(emulated(program, dataset, chips, calibrated) if known is None else {key: known[key] for key in EMULATED}),
    }


def emulated(program: Program, dataset: Dataset, chips: int, calibrated: bool) -> dict[str, Any]:
    """Losses of emulated chips against ideal devices, in points."""
    ideal = score_samples(Emulator.ideal(program).run(dataset.inputs), dataset)
    calibrator = Calibrator(program, dataset.calibration) if calibrated else None
    losses = []
    for seed in range(chips):
        chip = program if calibrator is None else calibrator.chip(seed).program
        losses.append(100 * (ideal - score_samples(Emulator(chip, seed).run(dataset.inputs), dataset)))
    return {"emulated": losses, "ideal": ideal, "images": dataset.count}


def summary(figures: list[dict[str, Any]]) -> str:
    """Table of all settings, and the share of them within max(0.5 points, a quarter of the loss)."""
    lines = ["| setting | predicted | emulated | within |", "|---|---|---|---|"]
    for figure in figures:
        mean, error = _mean(figure)
        within = "yes" if _within(figure) else "no"
        predicted = f"{figure['predicted']:.2f} +- {figure['uncertainty']:.2f}"
        lines.append(f"| {figure['setting']} | {predicted} | {mean:.2f} +- {error:.2f} | {within} |")
    counted = [figure for figure in figures if _mean(figure)[0] < LARGEST_LOSS]
    hits = sum(map(_within, counted))
    lines.append(f"\nwithin max(0.5 points, a quarter): {hits} of {len(counted)} with losses below {LARGEST_LOSS:g}")
    fair = sum(abs(f["predicted"] - _mean(f)[0]) <= 2 * np.hypot(f["uncertainty"], _mean(f)[1]) for f in counted)
    lines.append(f"within two standard errors of prediction and measurement: {fair} of {len(counted)}")
    return "\n".join(lines)


def _mean(figure: dict[str, Any]) -> tuple[float, float]:
    losses = np.array(figure["emulated"])
    return float(losses.mean()), float(losses.std(ddof=1) / np.sqrt(len(losses)))


def _within(figure: dict[str, Any]) -> bool:
    mean, _ = _mean(figure)
    return abs(figure["predicted"] - mean) <= max(0.5, abs(mean) / 4)


def plot(figures: list[dict[str, Any]], path: Path) -> None:
    """Scatter plot of predicted against emulated losses."""
    from matplotlib import pyplot  # noqa: PLC0415 - only for the plot

    figure, axes = pyplot.subplots(figsize=(5, 5))
    for target in TARGETS:
        own = [item for item in figures if item["target"] == target]
        means = np.array([_mean(item) for item in own]).reshape(-1, 2)
        predicted, error = ([item[key] for item in own] for key in ("predicted", "uncertainty"))
        axes.errorbar(means[:, 0], predicted, error, means[:, 1], fmt="o", ms=4, lw=0.8, label=target)
    line = np.linspace(0, 15, 50)
    axes.plot(line, line, color="black", lw=0.8)
    axes.fill_between(line, line - np.maximum(0.5, line / 4), line + np.maximum(0.5, line / 4), alpha=0.12, lw=0)
    axes.set(xlabel="emulated loss, points", ylabel="predicted loss, points", xlim=(-0.5, 15), ylim=(-0.5, 15))
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="directory with MNIST")
    parser.add_argument("--cifar", type=Path, help="archive with CIFAR-10 test images")
    parser.add_argument("--resnet", type=Path, help="ResNet-20 for CIFAR-10")
    parser.add_argument(
        "--network", action="append", default=[], metavar="NAME=FILE", help="for MNIST; others are left out"
    )
    parser.add_argument("--settings", type=int, default=36)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--chips", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calibrated", action="store_true", help="chips with calibrated lines")
    parser.add_argument("--predict-again", action="store_true", help="keep the losses of chips in the JSON file only")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    figures = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    known = {figure["setting"]: figure for figure in figures} if options.predict_again else {}
    figures = [] if options.predict_again else figures
    with tempfile.TemporaryDirectory() as folder:
        model, data = digits_model(Path(folder))
        sources: dict[str, dict[str, Any]] = {"digits": {"model": model, "data": data, "chips": 1}}
        if options.data:
            sources = {"five-layer": {"model": FIVE_LAYER, "data": options.data, "chips": 1}, **sources}
        if options.resnet and options.cifar:
            sources["resnet-20"] = {
                "model": options.resnet,
                "data": options.cifar,
                "mean": CIFAR_MEAN,
                "std": CIFAR_STD,
            }
        if options.network:
            files = dict(item.split("=", 1) for item in options.network)
            sources = {name: {"model": Path(file), "data": options.data} for name, file in files.items()}
        for setting in random_settings(list(sources), options.settings, options.seed):
            if any(figure["setting"] == setting.key for figure in figures):
                continue
            try:
                figures.append(
                    measure(
                        setting,
                        sources[setting.network],
                        options.images,
                        options.chips,
                        options.calibrated,
                        known.get(setting.key),
                    )
                )
            except MemcompileError as error:
                print(f"{setting.key}: {error}", flush=True)
                continue
            print(summary(figures[-1:]).splitlines()[2], flush=True)
            if options.json:
                write_atomically(options.json, (json.dumps(figures, indent=1) + "\n").encode())
    print(summary(figures))
    if options.plot:
        plot(figures, options.plot)


if __name__ == "__main__":
    main()

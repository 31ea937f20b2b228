"""Error budget: injected noise against emulated chips, and the report made of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kept import Kept

from memcompile.accuracy.error_budget import error_budget
from memcompile.accuracy.loss_model import can_predict
from memcompile.accuracy.noise_injection import NoisyNetwork
from memcompile.hardware.target import load_target
from memcompile.ir.geometry import Unrolling
from memcompile.noise.cause import Cause
from memcompile.noise.output_noise import noise_to_signal
from memcompile.pipelines import Compilation
from memcompile.report.budget_report import budget_facts
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.recalibrate import recalibrate

MODEL = Path(__file__).parents[2] / "examples" / "five_layer_cnn.onnx"
CHIPS = 8
IMAGES = 40


@pytest.fixture(scope="module")
def compilation(kept: Kept) -> Compilation:
    return kept.compilation(MODEL, settings=("replicate.effort=fast",))


def test_injected_noise_is_that_of_emulated_chips(compilation: Compilation) -> None:
    """Mean noise-to-signal ratio of each layer's output, noise of earlier layers included, within five errors."""
    program, dataset = compilation.program, compilation.dataset
    images = {name: array[:IMAGES] for name, array in dataset.inputs.items()}
    network = NoisyNetwork(program, dataset.calibration)
    names = [layer.outputs[0] for layer in program.layers]
    axes = [1 if layer.geometry.layout == "channels_first" else -1 for layer in program.layers]
    ideal = network.run(images, {}, 0)
    all_layers = dict.fromkeys((layer.name for layer in program.layers), 1.0)

    def ratios(values: dict[str, np.ndarray]) -> list[float]:
        return [noise_to_signal(ideal[name], values[name], axis) for name, axis in zip(names, axes, strict=True)]

    injected = np.array([ratios(network.run(images, all_layers, chip)) for chip in range(CHIPS)])
    emulated = np.array([ratios(Emulator(program, chip).run(images, also=names)) for chip in range(CHIPS)])
    error = np.sqrt((injected.var(axis=0, ddof=1) + emulated.var(axis=0, ddof=1)) / CHIPS)
    assert (np.abs(injected.mean(axis=0) - emulated.mean(axis=0)) <= 5 * error).all()
    calibrated = np.array([ratios(network.run(images, all_layers, chip, fitted_to=ideal)) for chip in range(CHIPS)])
    assert (calibrated.mean(axis=0) < 0.8 * injected.mean(axis=0)).all()


def test_injected_noise_of_calibrated_chips_is_that_of_emulated_ones(compilation: Compilation) -> None:
    """The same of chips with a scale and an offset of each line, fitted to outputs behind noisy layers."""
    program, dataset = compilation.program, compilation.dataset
    images = {name: array[:IMAGES] for name, array in dataset.inputs.items()}
    network, names = NoisyNetwork(program, dataset.calibration), [layer.outputs[0] for layer in program.layers]
    clean = network.run(images, {}, 0)
    factors = dict.fromkeys((layer.name for layer in program.layers), 1.0)

    def ratios(values: dict[str, np.ndarray]) -> list[float]:
        return [
            noise_to_signal(clean[name], values[name], 1 if layer.geometry.layout == "channels_first" else -1)
            for name, layer in zip(names, program.layers, strict=True)
        ]

    injected = np.array([ratios(network.run(images, factors, chip, fitted_to=clean)) for chip in range(CHIPS)])
    chips = [recalibrate(Emulator(program, seed), dataset.calibration) for seed in range(CHIPS)]
    emulated = np.array([ratios(chip.run(images, also=names)) for chip in chips])
    error = np.sqrt((injected.var(axis=0, ddof=1) + emulated.var(axis=0, ddof=1)) / CHIPS)
    # The lines of an emulated chip are fitted to other images than these.
    assert (np.abs(injected.mean(axis=0) / emulated.mean(axis=0) - 1) <= 0.15 + 4 * error / emulated.mean(axis=0)).all()


def test_reads_have_their_noise_where_cells_are_driven(compilation: Compilation) -> None:
    """Mean square of the noise of C1 in the half of the windows with the most input, by that in the other half."""
    dataset, target = compilation.dataset, compilation.program.target
    program = replace(compilation.program, target=target.with_(programming__sigma_us=0.0, read_noise__sigma_us=2.0))
    images = {name: array[:IMAGES] for name, array in dataset.inputs.items()}
    layer = program.layers[0]
    name = layer.outputs[0]
    driven = Unrolling.im2col(layer.geometry).combined(images[layer.inputs[0]], np.add)[:, 0]
    most = driven > np.median(driven)
    network, ideal = NoisyNetwork(program, dataset.calibration), Emulator.ideal(program).run(images, also=[name])[name]

    def by_half(values: np.ndarray) -> np.ndarray:
        power = np.square(values - ideal).reshape(len(values), layer.geometry.out_channels, -1).mean(axis=1)
        return np.array([power[most].mean(), power[~most].mean()])

    injected = np.mean([by_half(network.run(images, {layer.name: 1.0}, chip)[name]) for chip in range(CHIPS)], axis=0)
    emulated = np.mean(
        [by_half(Emulator(program, chip).run(images, also=[name])[name]) for chip in range(CHIPS)], axis=0
    )
    np.testing.assert_allclose(injected, emulated, rtol=0.2)
    assert emulated[0] > 2 * emulated[1]


def test_run_without_noise_is_the_ideal_network(compilation: Compilation) -> None:
    images = {name: array[:8] for name, array in compilation.dataset.inputs.items()}
    network = NoisyNetwork(compilation.program, compilation.dataset.calibration)
    almost = network.run(images, dict.fromkeys(("C1", "C3", "FC"), 1e-18), 0)
    wanted = Emulator.ideal(compilation.program).run(images)
    for name, value in wanted.items():
        np.testing.assert_allclose(almost[name], value, atol=1e-3)


def test_without_rounding_the_bits_of_inputs_count_nothing(compilation: Compilation) -> None:
    program, dataset = compilation.program, compilation.dataset
    images = {name: array[:8] for name, array in dataset.inputs.items()}
    assert all(layer.quantizer.bits == 8 and not layer.quantizer.signed for layer in program.layers)
    coarse = {
        layer.name: replace(
            layer,
            quantizer=replace(layer.quantizer, bits=4, scale=layer.quantizer.scale * 17),
            scale=layer.scale * np.float32(17),
        )
        for layer in program.layers
    }
    stages = tuple(coarse.get(stage.name, stage) for stage in program.stages)
    fine, same = (NoisyNetwork(one, dataset.calibration) for one in (program, replace(program, stages=stages)))
    exact = fine.run(images, {}, 0, rounded=False)["logits"]
    np.testing.assert_allclose(same.run(images, {}, 0, rounded=False)["logits"], exact, atol=1e-3)
    apart = [np.abs(network.run(images, {}, 0)["logits"] - exact).max() for network in (fine, same)]
    assert 0.001 < 5 * apart[0] < apart[1]


@pytest.mark.parametrize("rounded", [False, True])
def test_noise_is_in_proportion_where_inputs_are_not_rounded(compilation: Compilation, rounded: bool) -> None:
    """And is not where they are: the least noise draws all rounding anew."""
    program, dataset = compilation.program, compilation.dataset
    images = {name: array[:IMAGES] for name, array in dataset.inputs.items()}
    network = NoisyNetwork(program, dataset.calibration)
    clean = network.run(images, {}, 0, rounded=rounded)["logits"]

    def ratio(factor: float) -> float:
        noisy = [network.run(images, {"C1": factor}, chip, rounded=rounded)["logits"] for chip in range(3)]
        return sum(noise_to_signal(clean, one, 1) for one in noisy) / factor

    if rounded:
        assert ratio(1e-5) > 3 * ratio(1e-2)
    else:
        assert ratio(1e-5) == pytest.approx(ratio(1e-2), rel=0.1)


def test_budget_predicts_the_loss_of_chips(compilation: Compilation) -> None:
    dataset = compilation.dataset.head(400)
    budget = error_budget(compilation.program, dataset)
    assert budget is not None
    assert {item.cause for item in budget.causes} >= {Cause.PROGRAMMING, Cause.READ_NOISE, Cause.ROUNDING}
    of_causes = {item.cause: item.alone for item in budget.causes}
    assert max(of_causes, key=lambda cause: of_causes[cause]) == Cause.PROGRAMMING
    assert all(0 <= item.alone <= budget.loss + 1e-9 for item in budget.layers)
    ideal = Emulator.ideal(compilation.program).run(dataset.inputs)["logits"].argmax(axis=1)
    losses = [
        100 * np.mean(ideal == dataset.labels)
        - 100
        * np.mean(Emulator(compilation.program, seed).run(dataset.inputs)["logits"].argmax(axis=1) == dataset.labels)
        for seed in range(CHIPS)
    ]
    error = math.hypot(budget.uncertainty, float(np.std(losses, ddof=1)) / math.sqrt(CHIPS))
    assert abs(budget.loss - np.mean(losses)) <= 4 * error
    assert list(budget_facts(budget)["layers"][0]) == ["name", "noise_ratio", "sensitivity", "alone", "main_cause"]


def test_budget_without_labels_is_a_noise_ratio(compilation: Compilation) -> None:
    unlabelled = replace(compilation.dataset, labels=None)
    budget = error_budget(compilation.program, unlabelled)
    assert budget is not None
    assert budget.measure == "sqnr"
    assert budget.loss == pytest.approx(100 * budget.noise)
    assert budget == error_budget(compilation.program, unlabelled)


def test_targets_beyond_the_model_have_no_budget(compilation: Compilation) -> None:
    program, dataset = compilation.program, compilation.dataset
    curved = load_target("yao2020").with_(cell__nonlinearity_per_v=2.0, input__bits_per_phase=4)
    assert not can_predict(replace(program, target=curved), dataset)
    assert not can_predict(replace(program, target=load_target("ideal")), dataset)
    assert not can_predict(program, replace(dataset, generated=True))
    assert error_budget(program, replace(dataset, generated=True)) is None

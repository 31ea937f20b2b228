"""Runs of a network with noise: on any number of threads, and with no more values than are wanted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kept import Kept

from memcompile.accuracy import network_study
from memcompile.accuracy.loss_model import loss_model
from memcompile.accuracy.network_study import NetworkStudy
from memcompile.accuracy.noise_injection import NoisyNetwork
from memcompile.noise.program_noise import layer_ratios
from memcompile.pipelines import Compilation

MODEL = Path(__file__).parents[2] / "examples" / "five_layer_cnn.onnx"


@pytest.fixture(scope="module")
def compilation(kept: Kept) -> Compilation:
    return kept.compilation(MODEL, settings=("replicate.effort=fast",))


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_no_bit(threads: int, compilation: Compilation, monkeypatch: pytest.MonkeyPatch) -> None:
    program, dataset = compilation.program, compilation.dataset
    found = []
    for count in (1, threads):
        monkeypatch.setattr("memcompile.runtime.emulator.available_threads", lambda count=count: count)
        found.append(loss_model(program, dataset, factors=(0.5, 1.0, 1.0, 2.0, 1.0, 1.0, 2.0))[0])
    one, many = found
    np.testing.assert_array_equal(one.sensitivities, many.sensitivities)
    assert (one.curve, one.share, one.runs, one.rounding) == (many.curve, many.share, many.runs, many.rounding)


def test_wanted_values_are_those_of_a_run_that_keeps_all(compilation: Compilation) -> None:
    program, dataset = compilation.program, compilation.dataset
    network = NoisyNetwork(program, dataset.calibration)
    images = {name: array[:5] for name, array in dataset.inputs.items()}
    whole = network.run(images, {"C3": 1.0}, 0)
    wanted = (program.layers[1].outputs[0], *program.outputs)
    some = network.run(images, {"C3": 1.0}, 0, wanted=wanted)
    assert tuple(some) == wanted
    for name in wanted:
        np.testing.assert_array_equal(some[name], whole[name])


def test_answers_that_rounding_takes_are_counted(kept: Kept) -> None:
    """Inputs of four bits take some; chips lose the others."""
    compiled = kept.compilation(MODEL, target="neurram", settings=("replicate.effort=fast",))
    program, dataset = compiled.program, compiled.dataset
    network = NoisyNetwork(program, dataset.calibration)
    study = NetworkStudy(network, dataset, [], calibrated=True)
    found = study.rounding_loss()
    assert found is not None
    assert dataset.labels is not None
    ideal, exact = network.ideal.run(dataset.inputs), network.run(dataset.inputs, {}, 0, rounded=False)
    right = [float((outputs["logits"].argmax(axis=1) == dataset.labels).mean()) for outputs in (exact, ideal)]
    assert found == (pytest.approx(right[0] - right[1]), dataset.count)
    unlabelled = NetworkStudy(network, replace(dataset, labels=None), [], calibrated=True)
    assert unlabelled.rounding_loss() is None


def test_a_run_that_fails_ends_the_study(compilation: Compilation) -> None:
    program, dataset = compilation.program, compilation.dataset
    network = NoisyNetwork(program, dataset.calibration)
    ratios = [layer_ratios(program, number, own, stand_in=True) for number, own in enumerate(network.inputs)]
    study = NetworkStudy(network, dataset, ratios, calibrated=True)

    def work(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    results = study.each(work, range(6))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


@pytest.mark.parametrize("products", [10**6, 10**8, 5 * 10**9, 10**12])
def test_large_networks_take_fewer_images(
    products: int, monkeypatch: pytest.MonkeyPatch, compilation: Compilation
) -> None:
    program, dataset = compilation.program, compilation.dataset
    monkeypatch.setattr(network_study, "expanded_products", lambda program: products)
    study = NetworkStudy(NoisyNetwork(program, dataset.calibration), dataset, [], calibrated=True)
    assert study.sensitivity_images >= network_study.FEWEST_IMAGES
    assert study.curve_images >= network_study.FEWEST_IMAGES
    usual = products < 10**9
    assert (study.curve_images >= network_study.CURVE_IMAGES[0]) == usual
    of_curve = 2 * study.curve_images * study.runs * products
    assert of_curve <= network_study.STUDY_PRODUCTS or study.curve_images == network_study.FEWEST_IMAGES

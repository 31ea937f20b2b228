"""Choosing input quantisers from calibration data."""

from __future__ import annotations

from typing import Any

import models
import numpy as np
import onnx
import pytest
import stages
from factories import make_target
from hypothesis import given, settings
from hypothesis import strategies as st
from models import dyadic, float_model, node

from memcompile.errors import DataError
from memcompile.ir.graph import CalibratedLayer
from memcompile.ir.quantizers import InputQuantizer
from memcompile.passes import calibrate_activations
from memcompile.passes.calibrate_activations import CalibrateActivations
from memcompile.passes.quantization import calibration_batches
from memcompile.verify.interpreter import Interpreter

RNG = np.random.default_rng(41)
WEIGHTS = {"w": dyadic(RNG, (6, 4)), "v": dyadic(RNG, (4, 2))}
ONE_LAYER = float_model([node("Gemm", "x w", "y")], ("N", 6), WEIGHTS)
TWO_LAYERS = float_model(
    [node("Gemm", "x w", "a"), node("Relu", "a", "r"), node("Gemm", "r v", "y")], ("N", 6), WEIGHTS
)


def calibrated(data: np.ndarray, model: object = ONE_LAYER, bits: int = 8, **options: float) -> list[CalibratedLayer]:
    """The layers of a model calibrated on ``x``."""
    feeds = {"x": data.astype(np.float32)}
    before = stages.after("unroll_convolutions", model, feeds)  # type: ignore[arg-type]
    context = stages.context_for(feeds, make_target(input={"bits": bits}))
    graph = stages.run_verified(before, (CalibrateActivations(**options),), context)  # type: ignore[arg-type]
    return [item for item in graph.nodes if isinstance(item, CalibratedLayer)]


def squared_error(quantizer: InputQuantizer, values: np.ndarray) -> float:
    back = quantizer.quantize(values).astype(np.float64) * quantizer.scale
    return float(np.square(back - values).sum())


def test_inputs_that_are_never_negative_are_unsigned() -> None:
    first, second = calibrated(RNG.uniform(-1, 1, (50, 6)), TWO_LAYERS)
    assert first.quantizer.signed
    assert not second.quantizer.signed, "a Relu stands before it"
    assert (first.quantizer.lowest, first.quantizer.highest) == (-128, 127)
    assert (second.quantizer.lowest, second.quantizer.highest) == (0, 255)


def test_one_negative_value_makes_an_input_signed() -> None:
    data = RNG.uniform(0, 1, (50, 6))
    assert not calibrated(data)[0].quantizer.signed
    data[33, 3] = -0.001
    assert calibrated(data)[0].quantizer.signed


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_bits_come_from_the_target(bits: int) -> None:
    quantizer = calibrated(RNG.uniform(0, 1, (50, 6)), bits=bits)[0].quantizer
    assert quantizer.bits == bits
    assert quantizer.highest == 2**bits - 1


def test_values_on_a_grid_of_all_levels_are_exact() -> None:
    data = np.arange(256).repeat(6).reshape(256, 6) / 16
    (layer,) = calibrated(data)
    assert layer.quantizer.scale == 1 / 16
    assert squared_error(layer.quantizer, data) == 0


def test_an_outlier_is_clipped_and_an_even_spread_is_not() -> None:
    even = RNG.uniform(0, 1, (200, 6))
    assert calibrated(even, bits=4)[0].quantizer.scale == pytest.approx(even.max() / 15, rel=0.05)
    even[7, 3] = 2.0
    assert calibrated(even, bits=4)[0].quantizer.scale < 0.85 * 2.0 / 15


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(2, 8), st.booleans())
def test_the_step_is_nearly_the_best_of_a_fine_grid(seed: int, bits: int, signed: bool) -> None:
    """48 clipping points against 1,000 are at most 5 % behind: the error is flat around its least value."""
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(60, 6)) if signed else np.abs(rng.normal(size=(60, 6)))
    (layer,) = calibrated(data, bits=bits)
    values = np.append(data.ravel(), [data.min(), data.max()]).astype(np.float32)
    steps = np.linspace(0.3, 1.0, 1000) * np.abs(values).max() / layer.quantizer.highest
    least = min(squared_error(InputQuantizer(float(step), bits, signed), values) for step in steps)
    assert squared_error(layer.quantizer, values) <= 1.05 * least + 1e-9


def test_zeros_only_still_give_a_step() -> None:
    quantizer = calibrated(np.zeros((5, 6)))[0].quantizer
    assert (quantizer.scale, quantizer.signed) == (1.0, False)


@pytest.mark.parametrize("size", [1e-43, 1e-34, 1e34, 3e38])
def test_values_at_the_ends_of_float32_give_a_positive_step(size: float) -> None:
    quantizer = calibrated(RNG.uniform(-1, 1, (5, 6)) * size)[0].quantizer
    assert 0 < quantizer.scale < np.inf
    if size > 1e-40:
        assert 0.2 * size / 127 < quantizer.scale < 1.1 * size / 127


def test_layers_that_read_one_value_share_its_quantiser() -> None:
    nodes = [node("Gemm", "x w", "a"), node("Gemm", "x u", "b"), node("Concat", "a b", "y", axis=1)]
    model = float_model(nodes, ("N", 6), {**WEIGHTS, "u": dyadic(RNG, (6, 3))})
    first, second = calibrated(RNG.normal(size=(30, 6)), model)
    assert first.quantizer == second.quantizer


def test_only_so_many_images_are_used() -> None:
    data = np.concatenate([RNG.uniform(0, 1, (40, 6)), RNG.uniform(0, 100, (40, 6))])
    few, many = calibrated(data, images=40)[0].quantizer, calibrated(data)[0].quantizer
    assert few.scale < many.scale / 20


def test_extremes_are_seen_even_where_few_values_are_kept() -> None:
    data = RNG.uniform(0, 1, (100, 6))
    data[77, 5] = -50.0
    quantizer = calibrated(data, values=10, shortest=1.0)[0].quantizer
    assert quantizer.signed
    assert quantizer.scale == pytest.approx(50 / 127)


def test_error_of_one_layer_is_below_half_a_step_per_input() -> None:
    """|y - onnxruntime| <= step / 2 * sum |w| for inputs within range, plus rounding."""
    data = RNG.uniform(0, 1, (40, 6)).astype(np.float32)
    graph = stages.after("calibrate_activations", ONE_LAYER, {"x": data})
    layer = graph.nodes[0]
    assert isinstance(layer, CalibratedLayer)
    inside = data[data.max(axis=1) <= layer.quantizer.scale * layer.quantizer.highest]
    assert len(inside) > 10
    got = Interpreter(graph).run({"x": inside})["y"]
    want = stages.reference(ONE_LAYER, {"x": inside})["y"]
    bound = layer.quantizer.scale / 2 * np.abs(WEIGHTS["w"]).sum(axis=0)
    assert (np.abs(got - want) <= bound * 1.0001).all()
    assert np.abs(got - want).max() > 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_name_the_data(value: float) -> None:
    data = RNG.uniform(0, 1, (10, 6))
    data[3, 3] = value
    with pytest.raises(DataError, match="value 'x' becomes NaN or infinite"):
        calibrated(data)


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_a_fixed_batch_takes_any_number_of_samples(count: int) -> None:
    """The model wants four images at once; what is missing is filled up, what is left over is left out."""
    model = float_model([node("Relu", "x", "r"), node("Gemm", "r w", "y")], (4, 6), WEIGHTS)
    data = RNG.uniform(0.5, 1, (4, 6)).astype(np.float32)
    before = stages.after("unroll_convolutions", model, {"x": data})
    samples = {"x": np.resize(data, (count, 6))}
    graph = stages.run_verified(before, (CalibrateActivations(),), stages.context_for(samples))
    layer = graph.nodes[-1]
    assert isinstance(layer, CalibratedLayer)
    assert layer.quantizer.scale == pytest.approx(samples["x"][: max(count // 4 * 4, 4)].max() / 255, rel=0.05)


def test_a_graph_without_layers_stays_as_it_is() -> None:
    model = float_model([node("Relu", "x", "y")], ("N", 6), {})
    feeds = {"x": models.images((2, 6))}
    graph = stages.after("unroll_convolutions", model, feeds)
    assert CalibrateActivations().run(graph, stages.context_for(feeds)) is graph


@pytest.mark.parametrize(
    ("quantizer", "values", "levels"),
    [
        (InputQuantizer(0.5, 3, False), [-1, 0, 0.24, 0.26, 0.75, 3.4, 99], [0, 0, 0, 1, 2, 7, 7]),
        (InputQuantizer(0.5, 3, True), [-99, -2.2, -0.75, 0, 0.25, 1.4, 99], [-4, -4, -2, 0, 0, 3, 3]),
    ],
)
def test_quantiser_rounds_to_even_and_clips(quantizer: InputQuantizer, values: list[float], levels: list[int]) -> None:
    assert quantizer.quantize(np.array(values, np.float32)).tolist() == levels


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_phase_weights_write_every_level_in_bits(bits: int, signed: bool) -> None:
    quantizer = InputQuantizer(1.0, bits, signed)
    for level in range(quantizer.lowest, quantizer.highest + 1):
        ones = [(level >> phase) & 1 for phase in range(bits)]
        assert sum(one * weight for one, weight in zip(ones, quantizer.phase_weights, strict=True)) == level


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("bits", "bits_per_phase"), [(2, 1), (2, 2), (5, 2), (8, 1), (8, 3), (8, 4), (8, 8)])
def test_phases_write_every_level_in_digits(bits: int, bits_per_phase: int, signed: bool) -> None:
    quantizer = InputQuantizer(1.0, bits, signed, bits_per_phase)
    levels = np.arange(quantizer.lowest, quantizer.highest + 1, dtype=np.int16)
    total = np.zeros(len(levels), np.int64)
    for phase, weight in enumerate(quantizer.phase_weights):
        digits = quantizer.digits(levels, phase)
        assert digits.max() <= quantizer.highest_digit == 2**bits_per_phase - 1
        total += weight * digits.astype(np.int64)
    assert np.array_equal(total, levels)
    assert len(quantizer.phase_weights) == -(-bits // bits_per_phase) * (2 if signed and bits_per_phase > 1 else 1)


ROWS = float_model(
    [node("Reshape", "x shape", "rows"), node("Gemm", "rows w", "y")],
    ("N", 3, 6),
    {**WEIGHTS, "shape": np.array([-1, 6], np.int64)},
)


@pytest.mark.parametrize("at_once", [1, 7])
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (TWO_LAYERS, (70, 6)),
        (ROWS, (70, 3, 6)),
        (models.conv_bn(), (70, 2, 6, 6)),
        (models.skip_connection(), (40, 3, 4, 4)),
    ],
    ids=["two layers", "rows", "conv_bn", "skip_connection"],
)
def test_batches_that_run_in_parts_give_the_same_quantizers(
    model: onnx.ModelProto, shape: tuple[int, ...], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, counts = models.images(shape), []

    def runs_of_batch(*arguments: Any) -> Any:
        runs = calibration_batches.runs_of_batch(*arguments)
        counts.append(len(runs))
        return runs

    whole = calibrated(data, model, values=333)
    monkeypatch.setattr(calibration_batches, "RUN_VALUES", at_once)
    monkeypatch.setattr(calibration_batches, "_values_of_image", lambda graph: 1)
    monkeypatch.setattr(calibrate_activations, "runs_of_batch", runs_of_batch)
    assert [layer.quantizer for layer in calibrated(data, model, values=333)] == [layer.quantizer for layer in whole]
    assert max(counts) == -(-32 // at_once)


def test_a_batch_is_cut_only_where_images_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [node("Transpose", "x", "t", perm=[1, 0, 2]), node("MatMul", "t w", "y")]
    feeds = {"x": models.images((40, 3, 6))}
    graph = stages.after("unroll_convolutions", float_model(nodes, ("N", 3, 6), WEIGHTS), feeds)
    monkeypatch.setattr(calibration_batches, "RUN_VALUES", 36 * 7)
    runs = calibration_batches.runs_of_batch(graph, feeds, ["x"])
    assert [run.images for run in runs] == [len(run.feeds["x"]) for run in runs] == [7, 7, 7, 7, 7, 5]
    assert len(calibration_batches.runs_of_batch(graph, feeds, ["t"])) == 1


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), limit=st.integers(1, 20))
@settings(max_examples=40)
def test_samples_of_parts_are_those_of_the_whole(sizes: list[int], limit: int) -> None:
    numbers = RNG.normal(size=sum(sizes)).astype(np.float32)
    sample = calibrate_activations._EvenSample(len(numbers), limit)
    for part in np.split(numbers, np.cumsum(sizes)[:-1]):
        sample.add(part)
    stride = max(-(-len(numbers) // limit), 1)
    extremes = [numbers.min(), numbers.max()] if len(numbers) else []
    assert sample.numbers().tolist() == [*numbers[::stride].tolist(), *extremes]

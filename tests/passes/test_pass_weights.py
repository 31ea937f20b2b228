"""Unrolling, quantising, slicing and splitting weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import models
import numpy as np
import pytest
import stages
from factories import make_target
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from models import dyadic, float_model, make, node
from onnx import TensorProto

from memcompile.ir.graph import Graph, IntegerLayer, PairedLayer, QuantizedLayer, SlicedLayer, UnrolledLayer
from memcompile.ir.pass_manager import PassContext
from memcompile.ir.slicing import FILLS, Fill, Slicing, lower_limit, weight_limit
from memcompile.passes.quantize_weights import QuantizeWeights
from memcompile.passes.slice_weights import balanced_digits, equal_digits
from memcompile.verify.interpreter import Interpreter

RNG = np.random.default_rng(51)
UINT8, INT32 = TensorProto.UINT8, TensorProto.INT32
IMAGES = {"x": models.images((3, 4, 5, 5))}
DATA = {"x": models.images((6, 9))}


def conv_model(weight: np.ndarray, **attributes: Any) -> Any:
    return float_model([node("Conv", "x w", "y", **attributes)], ("N", 4, 5, 5), {"w": weight})


def dense(weight: np.ndarray) -> Any:
    """One Gemm with weights [9, columns]."""
    return float_model([node("Gemm", "x w", "y")], ("N", 9), {"w": weight.astype(np.float32)})


def only(graph: Graph, kind: type) -> Any:
    (layer,) = graph.nodes
    assert isinstance(layer, kind)
    return layer


# --- unroll_convolutions -----------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_column_of_the_matrix_is_the_flattened_kernel_of_a_channel(groups: int) -> None:
    weight = dyadic(RNG, (8, 4 // groups, 3, 2))
    layer = only(stages.after("unroll_convolutions", conv_model(weight, group=groups), IMAGES), UnrolledLayer)
    assert layer.matrix.shape == (groups, 4 // groups * 6, 8 // groups)
    for channel in range(8):
        group, column = divmod(channel, 8 // groups)
        assert np.array_equal(layer.matrix[group, :, column], weight[channel].ravel())


# --- quantize_weights --------------------------------------------------------------------------


def quantized(model: Any, feeds: stages.Feeds, slices: int = 1, **options: Any) -> QuantizedLayer:
    before = stages.after("calibrate_activations", model, feeds, slices=slices)
    context = stages.context_for(feeds, slices=slices)
    return only(stages.run_verified(before, (QuantizeWeights(**options),), context), QuantizedLayer)


def restored(layer: IntegerLayer) -> np.ndarray:
    """The weights that the integers stand for, [groups, rows, columns]."""
    return layer.integer_matrix() * (layer.scale.astype(np.float64) / layer.quantizer.scale)


@pytest.mark.parametrize("levels", range(1, 8))
def test_weights_of_up_to_fifteen_levels_are_recovered(levels: int) -> None:
    """Also those that use fewer levels than a pair has, 2 * 7 + 1."""
    weight = dyadic(RNG, (20, 9), levels, step=0.3).T
    layer = quantized(dense(weight), DATA)
    assert np.allclose(restored(layer)[0], weight, rtol=1e-6, atol=1e-7)


def test_channels_of_different_size_have_their_own_steps() -> None:
    weight = dyadic(RNG, (9, 4), step=1.0) * np.array([1, 1e-3, 100, 7], np.float32)
    weight[0] = np.array([7, 7e-3, 700, 49])
    layer = quantized(dense(weight), DATA)
    assert np.allclose(restored(layer)[0], weight, rtol=1e-6)
    assert np.ptp(layer.scale) > 0


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = dyadic(RNG, (9, 3))
    weight[:, 1] = 0
    layer = quantized(dense(weight), DATA)
    assert not layer.levels[0, :, 1].any()
    assert np.isfinite(layer.scale).all()


def test_grouped_layers_keep_channels_apart() -> None:
    weight = dyadic(RNG, (8, 2, 2, 2)) * np.arange(1, 9, dtype=np.float32).reshape(8, 1, 1, 1)
    layer = quantized(conv_model(weight, group=2), IMAGES)
    assert np.allclose(layer.scale / layer.quantizer.scale, np.arange(1, 9) / 8, rtol=1e-6)


def error_of(weights: np.ndarray, step: np.ndarray, limit: int) -> np.ndarray:
    levels = np.clip(np.rint(weights / step[:, None]), -limit, limit)
    return np.square(levels * step[:, None] - weights).sum(axis=1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    arrays.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=st.floats(-1, 1, width=32)),
    st.sampled_from([1, 3, 7, 112]),
)
def test_no_step_of_a_fine_grid_is_much_better(weights: np.ndarray, limit: int) -> None:
    """Never worse than the step that keeps the largest weight, and within 5 % of 2,000 steps' best."""
    step = QuantizeWeights().steps(weights, limit)
    error = error_of(weights, step, limit)
    largest = np.where(np.abs(weights).max(axis=1) == 0, 1.0, np.abs(weights).max(axis=1))
    assert (error <= error_of(weights, largest / limit, limit) * (1 + 1e-12)).all()
    grid = np.linspace(0.4, 1.0 if limit > 7 else 2.0, 2000)
    best = np.min([error_of(weights, largest * share / limit, limit) for share in grid], axis=0)
    power = np.square(weights).sum(axis=1)
    assert (error <= 1.05 * best + 1e-3 * power / limit**2).all()


def test_clipping_an_outlier_can_beat_keeping_it() -> None:
    weights = np.append(RNG.uniform(-0.3, 0.3, (1, 400)), [[1.0]], axis=1)
    step = QuantizeWeights().steps(weights, 7)
    assert step[0] < 0.8 / 7
    assert error_of(weights, step, 7) < 0.8 * error_of(weights, np.array([1 / 7]), 7)


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_levels_use_the_range_of_the_slices(slices: int) -> None:
    limit = (5**slices - 1) // 2 + (7 - 2) * 5 ** (slices - 1)  # base 5: digits -2..2, the last one -7..7
    layer = quantized(dense(RNG.uniform(-1, 1, (9, 5))), DATA, slices)
    assert limit * 0.4 <= np.abs(layer.levels).max() <= limit


def test_more_slices_cost_less_accuracy() -> None:
    weight = RNG.normal(size=(9, 5))
    errors = [np.abs(restored(quantized(dense(weight), DATA, slices))[0] - weight).max() for slices in (1, 2, 3)]
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3


@pytest.mark.parametrize("slices", [1, 2])
def test_error_of_one_layer_is_below_what_its_steps_allow(slices: int) -> None:
    """Against onnxruntime: half an input step times |w|, and each weight's own error times |x|."""
    weight = RNG.normal(size=(9, 5)).astype(np.float32)
    graph = stages.after("quantize_weights", dense(weight), DATA, slices=slices)
    layer = only(graph, QuantizedLayer)
    x = DATA["x"]
    # The quantiser may clip; its error on this very input is what counts.
    wrong_input = np.abs(layer.quantizer.quantize(x) * layer.quantizer.scale - x)
    bound = wrong_input @ np.abs(restored(layer)[0]) + np.abs(x) @ np.abs(restored(layer)[0] - weight)
    got = Interpreter(graph).run(DATA)["y"]
    error = np.abs(got - stages.reference(dense(weight), DATA)["y"])
    assert (error <= bound * 1.0001 + 1e-6).all()
    assert error.max() > 0


def test_four_slices_take_no_longer_than_a_moment() -> None:
    """The integers reach 25,312: steps must not be tried one integer at a time."""
    layer = quantized(dense(RNG.normal(size=(9, 200))), DATA, slices=4)
    assert np.abs(restored(layer)[0]).max() > 0


def test_levels_are_kept_while_slices_are_tried() -> None:
    """Layers that had the same slices before keep their levels; what is kept gives the same as what is not."""
    graph = stages.after("calibrate_activations", dense(RNG.normal(size=(9, 6))), DATA)
    context, quantize = replace(stages.context_for(DATA), representative=True), QuantizeWeights()
    tries = [replace(context, slices=slices, fill=fill, kept={}) for slices, fill in ((2, "max"), (2, "equal"))]
    fresh = [only(quantize.run(graph, item), QuantizedLayer) for item in tries]
    assert fresh[0].levels.max() != fresh[1].levels.max()
    sharing = [replace(item, kept=tries[0].kept) for item in (*tries, *tries)]
    kept = [only(quantize.run(graph, item), QuantizedLayer) for item in sharing]
    for one, other in zip(kept, (*fresh, *fresh), strict=True):
        np.testing.assert_array_equal(one.levels, other.levels)
        np.testing.assert_array_equal(one.bias, other.bias)
    assert kept[0] is kept[2]
    assert kept[1] is kept[3]


# --- slice_weights and split_differential ------------------------------------------------------


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(2, 128), st.integers(1, 4), st.data())
def test_digits_give_the_number_back(levels: int, count: int, data: st.DataObject) -> None:
    """For any base a pair allows; a base below 2 L + 1 leaves room in the lower slices."""
    target = make_target(cell={"levels": levels})
    base = data.draw(st.integers(2, target.slice_base()))
    limit = PassContext(target, {}, slices=count, slice_base=base).slicing.weight_limit
    numbers = np.array(data.draw(st.lists(st.integers(-limit, limit), min_size=1, max_size=20)), np.int32)
    digits = balanced_digits(numbers, base, count).astype(np.int64)
    assert digits.shape == (count, len(numbers))
    assert np.abs(digits).max() <= target.signed_levels
    assert np.abs(digits[:-1]).max(initial=0) <= base // 2
    assert np.array_equal((digits.T * base ** np.arange(count)).sum(axis=1), numbers)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(2, 128), st.integers(2, 4), st.floats(0, 2), st.data())
def test_digits_that_share_numbers_give_them_back(
    levels: int, count: int, sigma_us: float, data: st.DataObject
) -> None:
    """For any base a pair allows, and errors of any size that lower slices keep room for."""
    target = make_target(cell={"levels": levels}, programming={"sigma_us": sigma_us})
    base = data.draw(st.integers(2, target.slice_base()))
    lower, limit = lower_limit(target, base, "equal"), weight_limit(target, count, base, "equal")
    numbers = np.array(data.draw(st.lists(st.integers(-limit, limit), min_size=1, max_size=20)), np.int32)
    digits = equal_digits(numbers, base, count, lower).astype(np.int64)
    assert np.abs(digits[-1]).max() <= target.signed_levels
    assert np.abs(digits[:-1]).max() <= lower <= target.signed_levels
    assert np.array_equal((digits.T * base ** np.arange(count)).sum(axis=1), numbers)
    assert np.array_equal(equal_digits(-numbers, base, count, lower), -digits)


@pytest.mark.parametrize(("base", "lower"), [(2, 1), (2, 4), (3, 4), (4, 5), (5, 2)])
def test_two_slices_share_each_number_as_evenly_as_any_digits_do(base: int, lower: int) -> None:
    """Brute force: no other digits have a smaller sum of squares of what each slice stands for."""
    highest = 7
    for number in range(-(highest * base + lower), highest * base + lower + 1):
        low, high = (int(digit) for digit in equal_digits(np.array([number]), base, 2, lower)[:, 0])
        splits = [(number - base * top, top) for top in range(-highest, highest + 1)]
        best = min(own**2 + (base * top) ** 2 for own, top in splits if abs(own) <= lower)
        assert low**2 + (base * high) ** 2 == best


def test_slices_share_numbers_by_hand() -> None:
    """Base 2, lower digits up to 5: a third of 42 for each slice is 14, but the lower two reach 15 together."""
    digits = equal_digits(np.array([42, 43, 9, 1, 0]), 2, 3, 5)
    assert digits.T.tolist() == [[4, 5, 7], [5, 5, 7], [3, 1, 1], [1, 0, 0], [0, 0, 0]]


def test_base_of_slices_that_share_weights() -> None:
    """Errors of 0.98 levels leave 7.5 - 3 * 0.98 of a lower digit at base 3; larger errors ask for a smaller base."""
    target = make_target(programming={"sigma_us": 1.02})
    two, three = (Slicing(target, slices, fill="equal") for slices in (2, 3))
    assert (two.base, three.base) == (3, 2)
    assert (two.weight_limit, three.weight_limit) == (7 * 3 + 4, 7 * 4 + 5 * 3)
    assert Slicing(make_target(programming={"sigma_us": 3.0}), 2, fill="equal").base == 2


def test_every_number_has_its_own_digits() -> None:
    numbers = np.arange(-112, 113, dtype=np.int32)
    assert len({tuple(column) for column in balanced_digits(numbers, 15, 2).T.tolist()}) == 225


def test_the_integers_fill_the_range_of_the_slices() -> None:
    assert PassContext(make_target(), {}, slices=2, slice_base=15).slicing.weight_limit == (15**2 - 1) // 2
    assert PassContext(make_target(), {}, slices=2, slice_base=4).slicing.weight_limit == 7 * 4 + 1


@pytest.mark.parametrize("slices", [1, 2, 3])
@pytest.mark.parametrize("levels", [2, 8, 128])
def test_slices_and_pairs_hold_the_same_integers(slices: int, levels: int) -> None:
    target = make_target(cell={"levels": levels})
    model = dense(RNG.normal(size=(9, 6)))
    weights = only(stages.after("quantize_weights", model, DATA, slices=slices, target=target), QuantizedLayer)
    sliced = only(stages.after("slice_weights", model, DATA, slices=slices, target=target), SlicedLayer)
    paired = only(stages.after("split_differential", model, DATA, slices=slices, target=target), PairedLayer)
    assert sliced.slices == paired.slices == slices
    assert sliced.base == paired.base <= 2 * levels - 1
    assert np.array_equal(sliced.integer_matrix(), weights.levels)
    assert np.array_equal(paired.integer_matrix(), weights.levels)


def test_default_base_leaves_room_for_the_mean_error_of_a_pair() -> None:
    """A mean of one level at the upper end: 7.5 / (0.5 + 1 + 1.75 * 0.3 * sqrt(2) / 2.57) is 4.2."""
    mean_us = [[2.0, 0.0], [20.0, 18 / 7]]
    assert make_target(programming={"sigma_us": 0.3, "mean_table_us": mean_us}).default_slice_base() == 4


@pytest.mark.parametrize(("sigma_us", "base"), [(0.0, 15), (0.3, 9), (1.02, 5), (3.0, 2), (1e9, 2)])
def test_default_base_leaves_room_for_the_error_of_a_pair(sigma_us: float, base: int) -> None:
    """7.5 levels hold half a base and 1.75 standard deviations of a pair, sigma * sqrt(2) / 2.57 uS, base times."""
    target = make_target(programming={"sigma_us": sigma_us})
    assert target.default_slice_base() == base
    assert Slicing(target, slices=2).base == base
    assert Slicing(target, slices=1).base == 15


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(2, 32), st.integers(1, 4), st.sampled_from(FILLS), st.integers(0, 1 << 20))
def test_a_layer_gets_the_smallest_base_that_holds_its_weights(
    levels: int, slices: int, fill: Fill, number: int
) -> None:
    slicing = Slicing(make_target(cell={"levels": levels}), slices, fill=fill)
    largest = number % (slicing.whole_weight_limit + 1)
    base = slicing.base_of(largest)
    assert slicing.limit_of(base) >= largest
    if slices > 1 and base > 2:
        assert slicing.limit_of(base - 1) < largest


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("slices", [2, 3, 4])
@pytest.mark.parametrize("largest", [3, 50, 97, 127])
def test_whole_weights_use_the_slices_as_far_as_they_go(slices: int, largest: int, fill: Fill) -> None:
    """The scale takes the multiple of a channel back, so that sums are still those of the model."""
    weight = RNG.integers(-largest, largest + 1, (9, 6)).astype(np.int8)
    weight[0] = largest
    weight[:, 2] //= 2
    weight[:, 3] = 0
    model = make([node("MatMulInteger", "x w", "y")], {"x": (UINT8, ("N", 9))}, {"y": (INT32, None)}, {"w": weight})
    feeds = {"x": RNG.integers(0, 256, (6, 9)).astype(np.uint8)}
    context = stages.context_for(feeds, slices=slices, fill=fill)
    graph = stages.after("slice_weights", model, feeds, slices=slices, fill=fill)
    (layer,) = (item for item in graph.nodes if isinstance(item, SlicedLayer))
    if largest > context.slicing.whole_weight_limit:
        assert largest == 127  # two slices reach 112
        return
    want = feeds["x"].astype(np.int64) @ weight  # onnxruntime saturates on some processors
    assert np.array_equal(Interpreter(graph).run(feeds)["y"], want)
    used = np.abs(layer.integer_matrix()).max(axis=1).reshape(-1) / context.slicing.limit_of(layer.base)
    # Slices that share weights have fewer bases to choose from.
    assert used[[0, 1, 4, 5]].min() > (0.7 if fill == "max" else 0.5)
    assert used[2] > 0.3
    assert used[3] == 0


def test_one_cell_of_each_pair_is_at_level_zero() -> None:
    model = dense(RNG.normal(size=(9, 6)))
    sliced = only(stages.after("slice_weights", model, DATA, slices=2), SlicedLayer)
    paired = only(stages.after("split_differential", model, DATA, slices=2), PairedLayer)
    adding, subtracted = paired.cells.astype(int)
    assert np.array_equal(adding - subtracted, sliced.digits)
    assert not (adding * subtracted).any()
    assert adding.max() <= 7
    assert subtracted.max() <= 7
    assert adding.any()
    assert subtracted.any()

"""Rounding that lets the errors of a channel's weights cancel on calibration data."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
import stages
from hypothesis import given, settings
from hypothesis import strategies as st
from models import float_model, node

from memcompile.ir.geometry import Unrolling
from memcompile.ir.graph import CalibratedLayer, Graph, QuantizedLayer
from memcompile.passes.quantization import input_moments
from memcompile.passes.quantization.compensated_rounding import output_variance, rounded
from memcompile.passes.quantization.input_moments import measure_moments
from memcompile.passes.quantize_weights import QuantizeWeights
from memcompile.pipelines import compile_model
from memcompile.program.file import encode_program
from memcompile.verify.interpreter import Interpreter


def correlated(rng: np.random.Generator, samples: int, rows: int) -> np.ndarray:
    """Inputs that share two sources and have a mean, float32."""
    sources = rng.normal(size=(samples, 2)) @ rng.normal(size=(2, rows))
    return (sources + 0.3 * rng.normal(size=(samples, rows)) + rng.normal(size=rows)).astype(np.float32)


def dense(weight: np.ndarray) -> onnx.ModelProto:
    return float_model([node("Gemm", "x w", "y")], ("N", len(weight)), {"w": weight.astype(np.float32)})


def only(graph: Graph, kind: type) -> Any:
    (layer,) = graph.nodes
    assert isinstance(layer, kind)
    return layer


def quantized(model: onnx.ModelProto, feeds: stages.Feeds, **options: Any) -> tuple[Graph, Graph]:
    """The calibrated graph, and the one with weights rounded on these samples."""
    before = stages.after("calibrate_activations", model, feeds)
    context = replace(stages.context_for(feeds), representative=True)
    return before, stages.run_verified(before, (QuantizeWeights(**options),), context)


def covariance_of(x: np.ndarray) -> np.ndarray:
    return np.cov(x.T.astype(np.float64), ddof=0).reshape(1, x.shape[1], x.shape[1])


# --- the method --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 4), st.sampled_from([1, 3, 7]))
def test_weights_are_rounded_up_or_down_within_the_levels(seed: int, rows: int, columns: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, limit / 2, (1, rows, columns))
    levels = rounded(weights, covariance_of(correlated(rng, 50, rows)), limit, 0.01)
    assert np.array_equal(levels, np.rint(levels))
    assert np.abs(levels).max() <= limit
    inside = np.abs(weights) <= limit
    assert (np.abs(levels - weights)[inside] < 1).all()
    assert (levels == np.sign(weights) * limit)[~inside].all()


def test_inputs_that_vary_apart_give_the_nearest_levels() -> None:
    rng = np.random.default_rng(2)
    weights = rng.normal(0, 3, (3, 6, 5))
    covariance = np.stack([np.diag(rng.uniform(0.1, 9, 6)) for _ in range(3)])
    assert np.array_equal(rounded(weights, covariance, 7, 0.01), np.clip(np.rint(weights), -7, 7))


def test_inputs_that_never_vary_give_the_nearest_levels() -> None:
    weights = np.random.default_rng(3).normal(0, 3, (2, 6, 5))
    assert np.array_equal(rounded(weights, np.zeros((2, 6, 6)), 7, 0.01), np.clip(np.rint(weights), -7, 7))


def test_next_to_the_best_of_all_ways_to_round_up_or_down() -> None:
    rng = np.random.default_rng(4)
    found_sum, best_sum, nearest_sum = 0.0, 0.0, 0.0
    for _ in range(60):
        weights = rng.normal(0, 2, (1, 6, 1))
        covariance = covariance_of(correlated(rng, 40, 6))
        damped = covariance + np.eye(6) * 0.01 * np.trace(covariance[0]) / 6

        def cost(levels: np.ndarray, weights: np.ndarray = weights, damped: np.ndarray = damped) -> float:
            return float(output_variance(levels - weights, [damped], [slice(0, 6)])[0, 0])

        corners = itertools.product(*zip(np.floor(weights.ravel()), np.ceil(weights.ravel()), strict=True))
        best = min(cost(np.array(corner).reshape(1, 6, 1)) for corner in corners)
        found = cost(rounded(weights, covariance, 100, 0.01))
        assert found >= best * (1 - 1e-9)
        found_sum, best_sum, nearest_sum = found_sum + found, best_sum + best, nearest_sum + cost(np.rint(weights))
    assert found_sum < 1.35 * best_sum
    assert nearest_sum > 4 * best_sum


def test_groups_are_rounded_one_by_one() -> None:
    rng = np.random.default_rng(5)
    weights = rng.normal(0, 3, (3, 7, 4))
    covariances = np.concatenate([covariance_of(correlated(rng, 60, 7)) for _ in range(3)])
    together = rounded(weights, covariances, 7, 0.01)
    for group in range(3):
        alone = rounded(weights[group : group + 1], covariances[group : group + 1], 7, 0.01)
        assert np.array_equal(together[group], alone[0])


# --- what inputs do ----------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2])
def test_moments_are_those_of_all_patches(groups: int) -> None:
    model = float_model(
        [node("Conv", "x w", "y", group=groups, pads=[1, 1, 1, 1])],
        ("N", 4, 5, 5),
        {"w": models.images((6, 4 // groups, 3, 3))},
    )
    feeds = {"x": models.images((40, 4, 5, 5))}
    graph = stages.after("calibrate_activations", model, feeds)
    layer = only(graph, CalibratedLayer)
    context = replace(stages.context_for(feeds), representative=True)
    moments = measure_moments(graph, [layer], context, images=40, vectors=40 * 25)[layer.name]
    patches = Unrolling.im2col(layer.geometry).patches(layer.quantizer.quantize(feeds["x"])).astype(np.float64)
    vectors = patches.reshape(-1, *patches.shape[2:])
    assert moments.count == len(vectors)
    assert np.array_equal(moments.sums, vectors.sum(axis=0))
    for group in range(groups):
        wanted = np.cov(vectors[:, group].T, ddof=0)
        assert np.allclose(moments.covariances[0][group], wanted, rtol=1e-9, atol=1e-6)


def test_networks_with_many_products_give_fewer_images_with_more_vectors_each(monkeypatch: pytest.MonkeyPatch) -> None:
    model = float_model([node("Conv", "x w", "y")], ("N", 2, 5, 5), {"w": models.images((6, 2, 3, 3))})
    feeds = {"x": models.images((40, 2, 5, 5))}
    graph = stages.after("calibrate_activations", model, feeds)
    layer, context = only(graph, CalibratedLayer), replace(stages.context_for(feeds), representative=True)
    seen = list[int]()
    monkeypatch.setattr(input_moments, "_take_in", lambda moments, value, positions, rng: seen.append(positions))
    monkeypatch.setattr(input_moments, "FEWEST_IMAGES", 4)
    for products, images in ((40, 40), (10, 10), (1, 4)):
        monkeypatch.setattr(input_moments, "MOST_PRODUCTS", products * layer.geometry.macs)
        measure_moments(graph, [layer], context, images=40, vectors=120)
        assert seen.pop() == 120 // images


# --- the pass ----------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(2, 12))
def test_no_channel_gets_worse_on_the_samples(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    feeds = {"x": correlated(rng, 64, rows)}
    weight = rng.normal(size=(rows, 5))
    before, after = quantized(dense(weight), feeds)
    _, nearest = quantized(dense(weight), feeds, compensate=False)
    exact, found, plain = (Interpreter(graph).run(feeds)["y"].astype(np.float64) for graph in (before, after, nearest))
    assert (np.var(found - exact, axis=0) <= np.var(plain - exact, axis=0) * (1 + 1e-4) + 1e-9).all()  # float32 outputs
    # The offset takes the mean of the error.
    assert np.abs((found - exact).mean(axis=0)).max() <= 1e-5 * np.abs(exact).max()


def test_errors_cancel_where_inputs_go_together() -> None:
    rng = np.random.default_rng(6)
    x, weight = correlated(rng, 400, 40), rng.normal(size=(40, 8))
    feeds, unseen = {"x": x[:200]}, {"x": x[200:]}
    before, after = quantized(dense(weight), feeds)
    _, nearest = quantized(dense(weight), feeds, compensate=False)
    exact, found, plain = (Interpreter(graph).run(unseen)["y"] for graph in (before, after, nearest))
    assert stages.signal_to_noise_db(exact, found) > 6 + stages.signal_to_noise_db(exact, plain)


def test_long_matrices_are_rounded_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    feeds, weight = {"x": correlated(rng, 100, 20)}, rng.normal(size=(20, 6))
    _, whole = quantized(dense(weight), feeds)
    monkeypatch.setattr(input_moments, "BLOCK_ROWS", 8)
    before, blocks = quantized(dense(weight), feeds)
    _, nearest = quantized(dense(weight), feeds, compensate=False)
    assert not np.array_equal(only(whole, QuantizedLayer).levels, only(blocks, QuantizedLayer).levels)
    exact, found, plain = (Interpreter(graph).run(feeds)["y"] for graph in (before, blocks, nearest))
    assert stages.signal_to_noise_db(exact, found) > stages.signal_to_noise_db(exact, plain)


def test_made_up_samples_round_to_the_nearest_level() -> None:
    rng = np.random.default_rng(8)
    feeds, model = {"x": correlated(rng, 64, 12)}, dense(rng.normal(size=(12, 5)))
    graph = stages.after("calibrate_activations", model, feeds)
    made_up = QuantizeWeights().run(graph, stages.context_for(feeds))
    _, nearest = quantized(model, feeds, compensate=False)
    assert np.array_equal(only(made_up, QuantizedLayer).levels, only(nearest, QuantizedLayer).levels)
    assert np.array_equal(only(made_up, QuantizedLayer).bias, only(nearest, QuantizedLayer).bias)


def test_weights_that_fit_the_levels_stay_what_they_are() -> None:
    rng = np.random.default_rng(9)
    weight = rng.integers(-7, 8, (12, 5)) * 0.25
    weight[0] = 1.75
    _, after = quantized(dense(weight), {"x": correlated(rng, 64, 12)})
    assert np.array_equal(only(after, QuantizedLayer).levels[0], np.rint(weight / 0.25))


def test_compiling_twice_gives_the_same_program(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    onnx.save(dense(rng.normal(size=(30, 7))), tmp_path / "net.onnx")
    np.savez(tmp_path / "samples.npz", x=correlated(rng, 100, 30))
    first, second = (
        encode_program(compile_model(tmp_path / "net.onnx", data=tmp_path / "samples.npz").program) for _ in range(2)
    )
    assert first == second

"""Every pass of the default pipeline: golden text, and its result against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import models
import numpy as np
import pytest
import stages
from places import GOLDEN as GOLDEN_TEXTS

from memcompile.ir.graph import Graph
from memcompile.ir.pass_manager import run_passes
from memcompile.ir.printer import print_graph
from memcompile.pipelines import default_passes
from memcompile.verify.interpreter import Interpreter
from memcompile.verify.verifier import Verifier

PASSES = [item.pass_name() for item in default_passes()]
# 1e-5 covers another order of summation and one rounding of folded weights.
LOSSLESS = [item.pass_name() for item in default_passes() if item.fidelity == "lossless"]
# After these the network is the quantised one: the integers of quantize_weights, only written differently.
EXACT = [item.pass_name() for item in default_passes() if item.fidelity == "exact"]
# Each of these has a test of its own below.
LOSSY = ["calibrate_activations", "quantize_weights"]
# Every pass has a text, of the model that shows best what it does.
GOLDEN = [("conv_bn", name) for name in PASSES if name not in ("fold_constants", "remove_dead_nodes")] + [
    ("constant_chain", "fold_constants"),
    ("constant_chain", "remove_dead_nodes"),
    ("scale_shift", "fold_batchnorm"),
    ("matmul_add", "fold_batchnorm"),
    ("skip_connection", "group_digital"),
    ("grouped_conv", "unroll_convolutions"),
    ("grouped_conv", "tile_matrices"),
]


def feeds(model: str, count: int = 6) -> dict[str, np.ndarray]:
    return {"x": models.images((count, *models.SMALL[model][1]), seed=7)}


@cache
def graphs(model: str) -> dict[str, Graph]:
    """The graph after each pass."""
    data = feeds(model)
    graph = stages.import_model(models.SMALL[model][0](), data, f"{model}.onnx")
    found = {"import": graph}
    for item in default_passes():
        graph = run_passes(graph, (item,), stages.context_for(data), (Verifier(),))
        found[item.pass_name()] = graph
    return found


@pytest.mark.parametrize(("model", "name"), GOLDEN, ids=lambda value: value)
def test_graph_prints_as_reviewed(model: str, name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"{model}_{name}", print_graph(graphs(model)[name]))


def test_every_pass_has_a_differential_test() -> None:
    assert sorted([*LOSSLESS, *LOSSY, *EXACT]) == sorted(PASSES)


def test_every_pass_has_a_golden_text_and_no_text_is_left_over() -> None:
    assert {name for _, name in GOLDEN} == set(PASSES)
    kept = {path.stem for path in GOLDEN_TEXTS.glob("*.txt")}
    assert {f"{model}_{name}" for model, name in GOLDEN} == kept


@pytest.mark.parametrize("model", models.SMALL)
@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_passes_keep_what_onnxruntime_computes(model: str, name: str) -> None:
    stages.assert_matches(graphs(model)[name], models.SMALL[model][0](), feeds(model))


@pytest.mark.parametrize("model", models.SMALL)
def test_input_quantisers_cost_little(model: str) -> None:
    """Eight bits have an error of half a step; 256 steps over the range give about 40 dB a layer, 3 layers at most."""
    want = stages.reference(models.SMALL[model][0](), feeds(model))["y"]
    got = Interpreter(graphs(model)["calibrate_activations"]).run(feeds(model))["y"]
    assert stages.signal_to_noise_db(want, got) > 30
    assert not np.array_equal(want, got), "nothing was quantised"


@pytest.mark.parametrize("model", models.SMALL)
def test_weights_of_fifteen_levels_stay_what_they_are(model: str) -> None:
    """The small models have 15-level weights, so that quantising them is exact up to float32 rounding."""
    before = Interpreter(graphs(model)["calibrate_activations"]).run(feeds(model))["y"]
    after = Interpreter(graphs(model)["quantize_weights"]).run(feeds(model))["y"]
    assert np.abs(before - after).max() <= 1e-5 * np.abs(before).max()


@pytest.mark.parametrize("model", models.SMALL)
@pytest.mark.parametrize("name", EXACT)
def test_mapping_passes_keep_every_bit(model: str, name: str) -> None:
    quantized = Interpreter(graphs(model)["quantize_weights"]).run(feeds(model))["y"]
    assert np.array_equal(Interpreter(graphs(model)[name]).run(feeds(model))["y"], quantized)


@pytest.mark.parametrize("model", models.SMALL)
def test_passes_leave_the_graph_they_are_given_as_it_is(model: str) -> None:
    data = feeds(model)
    graph = stages.import_model(models.SMALL[model][0](), data, f"{model}.onnx")
    for item in default_passes():
        before = print_graph(graph)
        result = item.run(graph, stages.context_for(data))
        assert print_graph(graph) == before, item.pass_name()
        graph = result


def test_compiling_twice_prints_the_same() -> None:
    first = {name: print_graph(graph) for name, graph in graphs("conv_bn").items()}
    graphs.cache_clear()
    assert {name: print_graph(graph) for name, graph in graphs("conv_bn").items()} == first

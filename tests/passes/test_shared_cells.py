"""Layers with the same weights share cells: mapping, results, costs, training and budgets."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any, Literal

import models
import numpy as np
import onnx
import program_members
import pytest
import stages
from hypothesis import given, settings
from hypothesis import strategies as st
from models import dyadic, make, node
from numpy.typing import NDArray
from onnx import TensorProto

import memcompile
from memcompile.data.digits import digits8
from memcompile.errors import ProgramError
from memcompile.ir.sharing import first_layers, holders, own_replicas
from memcompile.program.file import encode_program
from memcompile.program.program import Program
from memcompile.report.cost import transfer_cost
from memcompile.runtime.effects.switches import Effects
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.hybrid_training import TuningOptions, tuned_layers
from memcompile.runtime.training.transfer import transfer
from memcompile.runtime.training.writer import held_levels
from memcompile.tuning import TuningPlan, tune

FLOAT = TensorProto.FLOAT
SIZE = 6
FAST = ("replicate.effort=fast",)
ALONE = (*FAST, "replicate.share_cells=false")
EXECUTORS: tuple[Literal["fast"], Literal["literal"]] = ("fast", "literal")
EXACT_READS = Effects(read_noise=False)


def loop(times: int, vectors: int = 1) -> onnx.ModelProto:
    """A layer whose output is its next input, as often as ``times`` says, and one behind it."""
    rng = np.random.default_rng(5)
    weights = {"w": dyadic(rng, (SIZE, SIZE)).T, "v": dyadic(rng, (3, SIZE)).T}
    nodes = []
    for turn in range(times):
        nodes += [node("MatMul", f"h{turn} w", f"m{turn}"), node("Relu", f"m{turn}", f"h{turn + 1}")]
    nodes.append(node("MatMul", f"h{times} v", "y"))
    shape = ("N", vectors, SIZE) if vectors > 1 else ("N", SIZE)
    return make(nodes, {"h0": (FLOAT, shape)}, {"y": (FLOAT, None)}, weights)


def heads() -> onnx.ModelProto:
    """One kernel on images of two sizes."""
    rng = np.random.default_rng(6)
    weights = {"w": dyadic(rng, (4, 2, 3, 3))}
    nodes = [
        node("MaxPool", "x", "half", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "x w", "large", pads=[1, 1, 1, 1]),
        node("Conv", "half w", "small", pads=[1, 1, 1, 1]),
    ]
    outputs = {"large": (FLOAT, None), "small": (FLOAT, None)}
    return make(nodes, {"x": (FLOAT, ("N", 2, 8, 8))}, outputs, weights)


def compiled(model: onnx.ModelProto, target: str = "yao2020", **options: Any) -> Program:
    return memcompile.compile(model, target, **{"settings": FAST, **options})


@cache
def looped() -> Program:
    return compiled(loop(4), objective="arrays")


@cache
def readout() -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """A recurrent network that reads digits row by row, with fixed weights but those of its last layer."""
    images, labels = digits8()
    x = (images / 255).astype(np.float32)
    rng = np.random.default_rng(8)
    hidden = 24
    weights = {
        "w": rng.normal(size=(1, hidden, 8)).astype(np.float32) * 0.6,
        "r": rng.normal(size=(1, hidden, hidden)).astype(np.float32) * 0.18,
    }
    state = np.zeros((len(x), hidden))
    for row in range(8):
        state = np.tanh(x[:, row] @ weights["w"][0].T + state @ weights["r"][0].T)
    wanted = 2.0 * np.eye(10)[labels] - 1
    seen = np.concatenate([state, np.ones((len(x), 1))], axis=1)
    found = np.linalg.solve(seen.T @ seen + 0.1 * np.eye(hidden + 1), seen.T @ wanted).astype(np.float32)
    weights |= {"v": found[:-1], "b": found[-1]}
    nodes = [
        node("Transpose", "x", "rows", perm=[1, 0, 2]),
        onnx.helper.make_node("RNN", ["rows", "w", "r"], ["", "last"], name="cell", hidden_size=hidden),
        onnx.helper.make_node("Squeeze", ["last", "axis"], ["state"]),
        node("Gemm", "state v b", "y"),
    ]
    weights["axis"] = np.array([0], np.int64)
    model = make(nodes, {"x": (FLOAT, ("N", 8, 8))}, {"y": (FLOAT, ("N", 10))}, weights)
    return model, {"x": x, "labels": labels}


def test_weights_used_several_times_take_cells_once() -> None:
    several, once = looped(), compiled(loop(1), objective="arrays")
    assert first_layers(several.layers).tolist() == [0, 0, 0, 0, 4]
    assert several.cells_used == once.cells_used
    pairs = several.cell_map.pairs()
    assert len(np.unique(np.concatenate([pairs.plus, pairs.minus]))) == 2 * len(pairs.plus)
    assert set(pairs.layer) == {0, 4}
    cost, alone = (transfer_cost(program.layers, program.target) for program in (several, once))
    assert cost is not None
    assert alone is not None
    assert cost.report.writes == alone.report.writes


def test_each_layer_has_cells_of_its_own_on_request() -> None:
    apart = compiled(loop(4), settings=ALONE, objective="arrays")
    assert not any(layer.shares_with for layer in apart.layers)
    assert (holders(apart.layers, apart.placement.tiles) == np.arange(len(apart.placement.tiles))).all()
    assert apart.cells_used > looped().cells_used


@settings(max_examples=8, deadline=None)
@given(times=st.integers(1, 5), vectors=st.integers(1, 4), chips=st.integers(1, 2))
def test_windows_of_all_layers_are_dealt_round_the_replicas(times: int, vectors: int, chips: int) -> None:
    model = loop(times, vectors)
    del model.graph.node[-1]
    model.graph.output[0].name = f"h{times}"
    program = compiled(model, chips=chips, settings=(*FAST, "replicate.parallel_windows=false"))
    # An array works on a window a step, so that a second replica on it would be of no use.
    assert program.placement.initiation_interval_steps == math.ceil(times * vectors / (8 * chips))
    for layer, own in own_replicas(program.layers):
        assert set(own) <= set(layer.replicas)
        assert sum(len(replica.windows) for replica in layer.replicas) == vectors


def test_layers_of_two_sizes_share_windows_too() -> None:
    shared, apart = (compiled(heads(), chips=2, settings=settings) for settings in (FAST, ALONE))
    assert shared.placement.initiation_interval_steps <= apart.placement.initiation_interval_steps
    assert any(copy.unrolling.window_outputs > 1 for layer in shared.layers for copy in layer.replicas)


@pytest.mark.parametrize("model", [loop(3), loop(2, 3), heads()], ids=["loop", "vectors", "heads"])
def test_results_are_those_of_onnxruntime(model: onnx.ModelProto) -> None:
    shape = [size.dim_value or 5 for size in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = {model.graph.input[0].name: models.images(shape)}
    program = compiled(model, "ideal", data=feeds)
    assert any(layer.shares_with for layer in program.layers)
    got, want = Emulator(program).run(feeds), stages.reference(model, feeds)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", ["yao2020", "hermes"])
def test_both_executors_read_the_same_cells(target: str) -> None:
    for model, value, shape in ((loop(3, 2), "h0", (2, 2, SIZE)), (heads(), "x", (1, 2, 8, 8))):
        x, program = {value: models.images(shape, seed=1)}, compiled(model, target)
        fast, literal = (Emulator(program, 3, executor=name, effects=EXACT_READS).run(x) for name in EXECUTORS)
        for output, array in fast.items():
            np.testing.assert_array_equal(array, literal[output])


def test_the_literal_executor_runs_images_that_lie_time_first() -> None:
    model, data = readout()
    x, program = {"x": data["x"][:3]}, compiled(model, data=data, max_loss=None, objective="arrays")
    effects = Effects(read_noise=False, programming_error=False, stuck_cells=False)
    fast, literal = (Emulator(program, executor=executor, effects=effects).run(x)["y"] for executor in EXECUTORS)
    np.testing.assert_array_equal(fast, literal)


def test_layers_that_share_cells_have_the_same_errors() -> None:
    """A step that hands on what it reads shows each cell twice."""
    program = compiled(loop(2), objective="arrays")
    emulator = Emulator(program, 4, effects=EXACT_READS)
    tiles = program.placement.tiles
    shared = np.flatnonzero(~program.cell_map.own)
    assert len(shared)
    for tile in shared.tolist():
        holder = int(holders(program.layers, tiles)[tile])
        np.testing.assert_array_equal(
            emulator.machine.devices.tile(tile), emulator.machine.devices.tile(holder), strict=True
        )


def test_a_program_keeps_what_it_shares(tmp_path: Path) -> None:
    program = looped()
    program.save(tmp_path / "loop.mcp")
    read = memcompile.load(tmp_path / "loop.mcp")
    assert [layer.shares_with for layer in read.layers] == [layer.shares_with for layer in program.layers]
    numbers = [[replica.number for replica in layer.replicas] for layer in read.layers]
    assert numbers == [[replica.number for replica in layer.replicas] for layer in program.layers]
    assert encode_program(read) == encode_program(program)


def test_a_layer_without_numbers_of_its_replicas_is_refused(tmp_path: Path) -> None:
    document, members = program_members.unpack(encode_program(looped()))
    first = next(stage for stage in document["stages"] if stage["kind"] == "crossbar")
    first["shared_replicas"] = []
    (tmp_path / "loop.mcp").write_bytes(program_members.pack(document, members))
    with pytest.raises(ProgramError, match="a layer that shares cells has a number for each replica"):
        memcompile.load(tmp_path / "loop.mcp")


def test_a_recurrent_network_takes_the_cells_of_one_step() -> None:
    model, data = readout()
    options: dict[str, Any] = {"data": data, "max_loss": None, "objective": "arrays"}
    shared, apart = (compiled(model, **options, settings=settings) for settings in (FAST, ALONE))
    steps = [layer for layer in shared.layers if layer.shares_with]
    # The first step has no state to multiply with.
    assert len(steps) == 7
    assert apart.cells_used - shared.cells_used == 6 * 2 * steps[0].geometry.weights
    losses = [1 - program.accuracy(data, ideal=True).mean() for program in (shared, apart)]
    assert losses[0] == pytest.approx(losses[1], abs=0.01)


def test_tuning_writes_shared_cells_for_all_layers_that_use_them() -> None:
    model, data = readout()
    program = compiled(model, data=data, max_loss=None)
    names = [layer.name for layer in program.layers if layer.shares_with]
    numbers = [number for number, layer in enumerate(program.layers) if layer.shares_with]
    assert tuned_layers(program, names[-1:]) == tuple(numbers)
    options = TuningOptions(epochs=4, layers=(names[-1],), threshold_us=0.3, learning_rate=0.5)
    plan = TuningPlan(recalibration_images=0, options=options, undo=False)
    chip, writer = transfer(program, plan.seed)
    levels = held_levels(chip, writer, chip.cell_map.pairs())
    assert all(levels[number] is levels[numbers[0]] for number in numbers)
    some = {"x": data["x"][:400]}
    result = tune(program, some, data["labels"][:400], plan)
    assert result.records[-1].loss < 0.9 * result.records[0].loss
    assert chip.chip is not None
    assert result.program.chip is not None
    pairs = program.cell_map.pairs()
    moved = (chip.chip.conductances_us != result.program.chip.conductances_us).reshape(-1)
    assert set(pairs.layer[moved[pairs.plus] | moved[pairs.minus]]) == {numbers[0]}


def test_layers_that_share_cells_get_the_same_slices_under_a_budget() -> None:
    model, data = readout()
    program = compiled(model, data={name: array[:500] for name, array in data.items()}, max_loss=2.0)
    slices = {layer.slices for layer in program.layers if layer.name.startswith("cell/")}
    assert len(slices) == 1
    assert len({layer.shares_with for layer in program.layers if layer.name.startswith("cell/")}) == 1

"""Gradients through digital operators and through measured forward passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import memcompile
from memcompile.errors import UsageError
from memcompile.program.program import DigitalStage, Program
from memcompile.runtime.emulator import Emulator, values_before
from memcompile.runtime.training.adjoints import ADJOINTS, StageAdjoint
from memcompile.runtime.training.gradients import Backward
from memcompile.runtime.training.hybrid_training import probabilities
from memcompile.runtime.training.transfer import transfer
from memcompile.runtime.training.writer import held_levels

# Operator, attributes, shapes of the inputs, constant inputs by place, operator set.
Case = tuple[str, dict[str, Any], list[tuple[int, ...]], dict[int, NDArray[Any]], int]
IMAGE = (2, 3, 7, 6)
CASES: list[Case] = [
    ("Relu", {}, [IMAGE], {}, 17),
    ("LeakyRelu", {"alpha": 0.2}, [IMAGE], {}, 17),
    ("Sigmoid", {}, [IMAGE], {}, 17),
    ("Tanh", {}, [IMAGE], {}, 17),
    ("Identity", {}, [IMAGE], {}, 17),
    ("Dropout", {}, [IMAGE], {}, 17),
    ("Clip", {}, [IMAGE], {1: np.float32(-0.5), 2: np.float32(0.7)}, 17),
    ("Clip", {"min": -0.5, "max": 0.7}, [IMAGE], {}, 6),
    ("Add", {}, [IMAGE, IMAGE], {}, 17),
    ("Add", {}, [IMAGE, (3, 1, 1)], {}, 17),
    ("Sum", {}, [IMAGE, IMAGE, IMAGE], {}, 17),
    ("Sub", {}, [(3, 1, 6), IMAGE], {}, 17),
    ("Mul", {}, [IMAGE, (1, 3, 1, 1)], {}, 17),
    ("Div", {}, [IMAGE, (3, 1, 1)], {}, 17),
    ("BatchNormalization", {"epsilon": 1e-3}, [IMAGE],
     {1: np.array([1, 2, 0.5], np.float32), 2: np.ones(3, np.float32), 3: np.ones(3, np.float32),
      4: np.array([0.5, 1, 2], np.float32)}, 15),
    ("Flatten", {}, [IMAGE], {}, 17),
    ("Reshape", {}, [IMAGE], {1: np.array([2, -1])}, 17),
    ("Squeeze", {}, [(2, 3, 1, 1)], {1: np.array([2, 3])}, 17),
    ("Unsqueeze", {}, [(2, 3)], {1: np.array([1])}, 17),
    ("Transpose", {"perm": [0, 2, 3, 1]}, [IMAGE], {}, 17),
    ("Transpose", {}, [IMAGE], {}, 17),
    ("Concat", {"axis": 1}, [IMAGE, (2, 2, 7, 6)], {}, 17),
    ("Slice", {}, [IMAGE], {1: np.array([0, 1]), 2: np.array([99, 6]), 3: np.array([3, 2]), 4: np.array([2, 3])}, 17),
    ("Slice", {}, [IMAGE], {1: np.array([-1]), 2: np.array([-99]), 3: np.array([2]), 4: np.array([-2])}, 17),
    ("Slice", {"starts": [1, 0], "ends": [5, 4]}, [IMAGE], {}, 9),
    ("Pad", {}, [IMAGE], {1: np.array([0, 1, 0, 2, 0, 0, 3, 0])}, 17),
    ("Pad", {"pads": [0, 1, 0, 2, 0, 0, 3, 0]}, [IMAGE], {}, 9),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, [IMAGE], {}, 17),
    ("MaxPool", {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "dilations": [1, 2]}, [IMAGE], {}, 17),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, [IMAGE], {}, 17),
    ("AveragePool", {"kernel_shape": [2, 3], "pads": [1, 0, 0, 1], "count_include_pad": 1}, [IMAGE], {}, 17),
    ("AveragePool", {"kernel_shape": [7, 6]}, [IMAGE], {}, 17),
    ("GlobalAveragePool", {}, [IMAGE], {}, 17),
    ("ReduceMean", {"axes": [2, 3], "keepdims": 0}, [IMAGE], {}, 13),
    ("ReduceMean", {}, [IMAGE], {1: np.array([-1])}, 18),
]  # fmt: skip


def stage_of(
    operator: str, attributes: dict[str, Any], inputs: int, constants: Mapping[int, Any], opset: int
) -> DigitalStage:
    """A digital stage of one operator, x0, x1, .. to y."""
    names = [f"c{place}" if place in constants else f"x{place}" for place in range(inputs + len(constants))]
    free = [name for name in names if name.startswith("x")]
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"], name="it", **attributes)],
        "stage",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in free],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(array), f"c{place}") for place, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return DigitalStage("stage", tuple(free), ("y",), model.SerializeToString())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[4]}")
def test_adjoint_is_the_derivative(case: Case) -> None:
    """Along a random direction, the change of a random sum of outputs is what the gradient says."""
    from memcompile.runtime.executors.digital import DigitalRunner  # noqa: PLC0415

    operator, attributes, shapes, constants, opset = case
    rng = np.random.default_rng(7)
    stage = stage_of(operator, attributes, len(shapes), constants, opset)
    values = {
        name: rng.uniform(0.2, 1.5, shape).astype(np.float32) for name, shape in zip(stage.inputs, shapes, strict=True)
    }
    # Signs: not for a divisor near zero.
    values["x0"] *= rng.choice(np.float32([-1, 1]), shapes[0])
    runner = DigitalRunner()
    y = runner.run(stage, values)["y"]
    weights = rng.normal(size=y.shape).astype(np.float32)
    found = StageAdjoint(stage).pull(values, {"y": weights})
    assert set(found) == set(stage.inputs)
    direction = {name: rng.normal(size=x.shape).astype(np.float32) for name, x in values.items()}
    step = np.float32(1e-3)
    ends = [
        runner.run(stage, {name: x + sign * step * direction[name] for name, x in values.items()})["y"]
        for sign in (np.float32(1), np.float32(-1))
    ]
    slope = float((weights * (ends[0].astype(np.float64) - ends[1])).sum() / (2 * step))
    said = sum(float((found[name] * direction[name]).sum()) for name in found)
    # float32 outputs near 1 and a step of 1e-3 leave about 1e-4 an element; a wrong element costs about 1.
    assert abs(slope - said) < 5e-3 * np.sqrt(y.size) + 2e-3 * abs(said)


def test_every_adjoint_is_tested() -> None:
    assert {case[0] for case in CASES} == set(ADJOINTS)


def test_unknown_operators_are_named() -> None:
    stage = stage_of("Erf", {}, 1, {}, 17)
    x = np.ones((2, 3), np.float32)
    with pytest.raises(UsageError, match=r"operator Erf \(it\); known are Add, .*tune only layers after it"):
        StageAdjoint(stage).pull({"x0": x}, {"y": x})


def test_pads_that_are_not_constant_and_automatic_pads_are_refused() -> None:
    x = np.ones(IMAGE, np.float32)
    stage = stage_of("Pad", {"mode": "reflect"}, 1, {1: np.array([0, 0, 1, 0, 0, 0, 1, 0])}, 17)
    with pytest.raises(UsageError, match=r"Pad .it. of mode reflect"):
        StageAdjoint(stage).pull({"x0": x}, {"y": np.ones((2, 3, 9, 6), np.float32)})
    stage = stage_of("MaxPool", {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}, 1, {}, 17)
    with pytest.raises(UsageError, match=r"MaxPool .it. with auto_pad"):
        StageAdjoint(stage).pull({"x0": x}, {"y": x})


def loss_of(program: Program, seed: int, values: dict[str, Any], labels: NDArray[np.int64]) -> float:
    backward = Backward(program, 0)
    after = backward.forward(Emulator(program, seed), values, np.arange(len(labels)))
    share = probabilities(after[program.layers[-1].outputs[0]])
    return float(-np.log(share[np.arange(len(labels)), labels]).sum())


SEEDS_OF_READS = (1, 2, 3, 4)
IMAGES = 500
FORETOLD = 16.0
"""Change of the summed loss that a step is made for: long enough to cross many stairs, short enough to be straight."""


def test_gradient_predicts_the_measured_loss(program: Program) -> None:
    """A small step against the gradient of all digital scales and offsets lowers the measured loss as foretold."""
    chip, writer = transfer(program, seed=1)
    data = memcompile.data.loader.load_dataset(None, program.inputs, part="train").head(IMAGES)
    assert data.labels is not None
    inputs, labels = dict(data.inputs), data.labels

    def measured(read_seed: int) -> float:
        backward = Backward(chip, 0)
        values = backward.forward(Emulator(chip, read_seed), inputs, np.arange(IMAGES))
        error = probabilities(values[chip.layers[-1].outputs[0]])
        error[np.arange(IMAGES), labels] -= 1.0
        gradients = backward.back(chip, values, error, held_levels(chip, writer, chip.cell_map.pairs()))
        assert sorted(gradients) == [0, 1, 2]
        length = sum(float((part**2).sum()) for each in gradients.values() for part in (each.scale, each.bias))
        step = FORETOLD / 2 / length
        ahead, back = (moved(chip, gradients, sign * step) for sign in (1, -1))
        return loss_of(ahead, read_seed, inputs, labels) - loss_of(back, read_seed, inputs, labels)

    # Quantisers and converters make the loss a staircase, and maxima switch: one seed is off by a tenth or more.
    assert np.mean([measured(seed) for seed in SEEDS_OF_READS]) == pytest.approx(FORETOLD, rel=0.15)


def moved(chip: Program, gradients: dict[int, Any], step: float) -> Program:
    """Digital scales and offsets of all layers, a step along their gradients."""
    stages = list(chip.stages)
    for number, each in gradients.items():
        layer = chip.layers[number]
        rows = {"scale": layer.scale * np.exp(step * each.scale), "bias": layer.bias + step * each.bias}
        stages[stages.index(layer)] = replace(layer, **{name: row.astype(np.float32) for name, row in rows.items()})
    return replace(chip, stages=tuple(stages))


def test_the_rest_of_a_run_gives_the_same_bits(program: Program) -> None:
    chip, _ = transfer(program, seed=1)
    some = memcompile.data.loader.load_dataset(None, program.inputs).head(30)
    emulator = Emulator(chip, 1)
    whole = emulator.run(some.inputs, first_image=7)
    for first_stage in range(len(program.stages)):
        names = values_before(program, first_stage)
        values = emulator.measure(names, some.inputs, first_image=7)
        rest = emulator.run_from(first_stage, values, first_image=7)
        np.testing.assert_array_equal(rest["logits"], whole["logits"])

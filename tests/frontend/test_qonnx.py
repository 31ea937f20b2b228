"""Operators of QONNX: what the standard operators in their place compute, and what is left as it is."""

from __future__ import annotations

from typing import Any

import models
import numpy as np
import onnx
import pytest
import stages
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models import dyadic, node
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from memcompile.errors import ModelError
from memcompile.frontend.importer import read_proto
from memcompile.frontend.qonnx import DOMAINS
from memcompile.frontend.sessions import open_session
from memcompile.ir.graph import LinearLayer, QuantizedLayer

DOMAIN = "qonnx.custom_op.general"
ROUNDED = {"ROUND": np.rint, "CEIL": np.ceil, "FLOOR": np.floor}
SHAPE = (2, 3, 4)
# Halves and quarters, so that many values lie between two whole numbers.
X = (np.random.default_rng(4).integers(-80, 80, SHAPE) / 8).astype(np.float32)


def model_of(
    op_type: str, constants: dict[str, Any], opset: int = 17, domain: str = DOMAIN, **attributes: Any
) -> onnx.ModelProto:
    """One operator of QONNX on x [2, 3, 4]."""
    graph = helper.make_graph(
        [helper.make_node(op_type, ["x", *constants], ["y"], name="q", domain=domain, **attributes)],
        "qonnx",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(domain, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def computed(model: onnx.ModelProto) -> NDArray[Any]:
    """Its output by onnxruntime, after import."""
    file = read_proto(model, "qonnx")
    assert not any(item.domain in DOMAINS for item in file.model.graph.node)
    session = open_session(file.model.SerializeToString(), optimise=False)
    result: NDArray[Any] = session.run(["y"], {"x": X})[0]
    return result


def quantized(
    scale: NDArray[Any], zero: NDArray[Any], bits: int, signed: bool, narrow: bool, rounding: str
) -> NDArray[np.float32]:
    """Definition of Quant."""
    least, largest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    least, largest = (least + narrow, largest) if signed else (least, largest - narrow)
    whole = ROUNDED[rounding](np.clip(X / scale + zero, least, largest))
    return ((whole - zero) * scale).astype(np.float32)


SCALES = [np.float32(0.5), np.float32(0.25), np.array([0.5, 1, 2], np.float32).reshape(1, 3, 1)]


@settings(deadline=None, max_examples=60)
@given(
    scale=st.sampled_from(SCALES),
    zero=st.sampled_from([0.0, 1.0, 3.0, 0.5]),
    bits=st.integers(1, 12),
    signed=st.booleans(),
    narrow=st.booleans(),
    rounding=st.sampled_from(list(ROUNDED)),
    opset=st.sampled_from([9, 11, 13, 17]),
    name=st.sampled_from(["Quant", "IntQuant"]),
)
def test_quant(
    scale: Any, zero: float, bits: int, signed: bool, narrow: bool, rounding: str, opset: int, name: str
) -> None:
    assume(bits > 1 or not signed)
    constants = {"s": scale, "z": np.float32(zero), "b": np.float32(bits)}
    got = computed(model_of(name, constants, opset, signed=int(signed), narrow=int(narrow), rounding_mode=rounding))
    between = (X / scale) % 1 == 0.5
    other_way = between if zero % 2 == 1 and rounding == "ROUND" else np.zeros_like(between)
    want = quantized(scale, np.float32(zero), bits, signed, narrow, rounding)
    np.testing.assert_array_equal(np.where(other_way, 0, got), np.where(other_way, 0, want))
    assert (np.abs(got - want) <= scale * other_way).all()


@pytest.mark.parametrize("bits", [24, 32, 64])
def test_whole_numbers_of_a_bias(bits: int) -> None:
    constants = {"s": np.float32(0.25), "z": np.float32(0), "b": np.float32(bits)}
    np.testing.assert_array_equal(computed(model_of("Quant", constants)), np.rint(X / np.float32(0.25)) / 4)


@pytest.mark.parametrize("domain", sorted(DOMAINS))
@pytest.mark.parametrize("opset", [9, 17])
def test_bipolar_quant(opset: int, domain: str) -> None:
    want = np.where(X >= 0, np.float32(0.75), np.float32(-0.75))
    np.testing.assert_array_equal(computed(model_of("BipolarQuant", {"s": np.float32(0.75)}, opset, domain)), want)


@pytest.mark.parametrize("rounding", [*ROUNDED, "floor"])
@pytest.mark.parametrize("opset", [9, 17])
def test_trunc(opset: int, rounding: str) -> None:
    constants = {"s": np.float32(0.5), "z": np.float32(1), "i": np.int64(8), "o": np.int64(5)}
    whole = ROUNDED[rounding.upper()](np.rint(X / np.float32(0.5) + 1) / 8)
    want = ((whole - 1) * np.float32(0.5)).astype(np.float32)
    np.testing.assert_array_equal(computed(model_of("Trunc", constants, opset, rounding_mode=rounding)), want)


@pytest.mark.parametrize(
    ("channels", "layout", "axis"), [(3, "NCHW", 1), (4, "NHWC", 2), (1, "NCHW", 1)], ids=["first", "last", "one"]
)
@pytest.mark.parametrize("opset", [12, 17])
def test_multi_threshold(opset: int, channels: int, layout: str, axis: int) -> None:
    limits = np.sort(np.random.default_rng(1).integers(-8, 8, (channels, 5)), axis=1).astype(np.float32)
    along = [1, 1, 1]
    along[axis] = channels
    want = sum((limits[:, place].reshape(along) <= X) for place in range(5)) * np.float32(2) - np.float32(3)
    got = computed(model_of("MultiThreshold", {"t": limits}, opset, out_scale=2.0, out_bias=-3.0, data_layout=layout))
    np.testing.assert_array_equal(got, want.astype(np.float32))


def network(opset: int) -> onnx.ModelProto:
    """A dense layer of weights of three bits between quantisers of values of four."""
    rng = np.random.default_rng(12)
    constants = {"w": dyadic(rng, (6, 5), 3, 0.25).T, "s": np.float32(0.25), "z": np.float32(0), "three": np.float32(3)}
    constants |= {"four": np.float32(4), "t": np.float32(0.5)}
    nodes = [
        helper.make_node("Quant", ["x", "t", "z", "four"], ["a"], domain=DOMAIN, name="qa"),
        helper.make_node("Quant", ["w", "s", "z", "three"], ["v"], domain=DOMAIN, name="qw", narrow=1),
        node("MatMul", "a v", "h"),
        helper.make_node("Quant", ["h", "t", "z", "four"], ["y"], domain=DOMAIN, name="qh"),
    ]
    return models.make(
        nodes,
        {"x": (TensorProto.FLOAT, ("N", 5))},
        {"y": (TensorProto.FLOAT, None)},
        constants,
        opset=opset,
        extra_opsets=[(DOMAIN, 1)],
    )


@pytest.mark.parametrize("opset", [9, 17])
def test_a_network_keeps_its_whole_weights(opset: int) -> None:
    model, feeds = network(opset), {"x": models.images((4, 5))}
    standard = read_proto(model, "qonnx").model
    graph = stages.after("select_crossbar_operators", model, feeds)
    stages.assert_matches(graph, standard, feeds)
    (layer,) = (item for item in graph.nodes if isinstance(item, LinearLayer))
    assert layer.integer == (opset == 17)
    last = stages.after("quantize_weights", model, feeds)
    (held,) = (item for item in last.nodes if isinstance(item, QuantizedLayer))
    whole, levels = numpy_helper.to_array(model.graph.initializer[0]) / 0.25, held.levels[0].astype(np.float64)
    np.testing.assert_array_equal(levels * whole.max(axis=0), whole * levels.max(axis=0))


LEFT = {
    "bits that are no constant": model_of("Quant", {"s": np.float32(1), "z": np.float32(0)}),
    "half a bit": model_of("Quant", {"s": np.float32(1), "z": np.float32(0), "b": np.float32(2.5)}),
    "more bits than are rounded without Round": model_of(
        "Quant", {"s": np.float32(1), "z": np.float32(0), "b": np.float32(30)}, 9),
    "more bits than numbers have": model_of("Quant", {"s": np.float32(1), "z": np.float32(0), "b": np.float32(65)}),
    "another way to round": model_of("Quant", {"s": np.float32(1), "z": np.float32(0), "b": np.float32(4)},
                                     rounding_mode="HALF_UP"),
    "an old operator set": model_of("BipolarQuant", {"s": np.float32(1)}, 8),
    "another operator": model_of("FloatQuant", {"s": np.float32(1)}),
    "a later version": model_of("Trunc", {name: np.float32(4) for name in "szioab"}),
}  # fmt: skip


@pytest.mark.parametrize("reason", LEFT)
def test_what_has_no_standard_form_is_refused_by_its_name(reason: str) -> None:
    with pytest.raises(ModelError, match=DOMAIN):
        read_proto(LEFT[reason], "qonnx")

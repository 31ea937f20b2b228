"""Composite products: their static weights go to arrays, and the parts compute what the whole computes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import stages
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from memcompile.ir.graph import Graph, LinearLayer, OnnxNode
from memcompile.passes.lowering import (
    decompose_attention,
    decompose_contractions,
    decompose_fused,
    decompose_quantized,
)
from memcompile.passes.select_crossbar_operators import COMPOSITES, reason_to_stay_digital

RNG = np.random.default_rng(131)
CONTRIB = "com.microsoft"
Case = tuple[onnx.ModelProto, tuple[int, ...]]


def floats(*shape: int) -> NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float32)


def signed(*shape: int) -> NDArray[np.int8]:
    return RNG.integers(-128, 128, shape).astype(np.int8)


def step(*shape: int) -> NDArray[np.float32]:
    return RNG.uniform(0.01, 0.1, shape).astype(np.float32)


def op(op_type: str, inputs: str, output: str, domain: str = CONTRIB, **attributes: Any) -> onnx.NodeProto:
    """An operator; a dash among its inputs is one left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op_type, names, output.split(), name=f"{op_type}_{output}", domain=domain, **attributes)


def network(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[Any], weights: dict[str, Any], opset: int = 17, kind: int = 1
) -> Case:
    """A model of these nodes, and the shape of four samples (``N`` is 4)."""
    graph = helper.make_graph(
        list(nodes),
        "composite",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(np.array(value, order="C"), name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), tuple(4 if s == "N" else s for s in shape)


def feeds_of(case: Case) -> stages.Feeds:
    return {"x": floats(*case[1])}


def selected(case: Case, layers: int = 1, relative: float = 1e-5) -> Graph:
    """The graph after selection, with so many layers, checked against onnxruntime with the exact byte products."""
    model, feeds = case[0], feeds_of(case)
    graph = stages.after("remove_dead_nodes", model, feeds)
    stages.assert_matches(graph, stages.exact(model), feeds, relative)
    assert sum(isinstance(node, LinearLayer) for node in graph.nodes) == layers
    return graph


# --- Einsum --------------------------------------------------------------------------------------

EINSUMS: dict[str, tuple[tuple[Any, ...], tuple[int, ...]]] = {
    "bi,io->bo": (("N", 8), (8, 3)),
    "bi,oi->ob": (("N", 8), (3, 8)),
    " b i , i o ": (("N", 8), (8, 3)),
    "Bi,io->oB": (("N", 8), (8, 3)),
    "...i,io->...o": (("N", 3, 8), (8, 3)),
    "...i,io": (("N", 3, 8), (8, 3)),
    "b...i,...oi->b...o": (("N", 3, 8), (3, 4, 8)),
    "b...i,io->bo...": (("N", 3, 2, 8), (8, 4)),
    "bthd,hde->bte": (("N", 5, 2, 4), (2, 4, 6)),
    "btd,dhe->bhte": (("N", 5, 6), (6, 2, 3)),
    "bthd,hde->bthe": (("N", 5, 2, 4), (2, 4, 6)),
    "bhtd,hde->bhte": (("N", 2, 5, 4), (2, 4, 6)),
    "bchw,oc->bohw": (("N", 3, 4, 5), (6, 3)),
    "bci,ci->bc": (("N", 3, 4), (3, 4)),
    "bi,i->b": (("N", 8), (8,)),
    "i,io->o": ((8,), (8, 4)),
    "bi,ikk->bk": (("N", 8), (8, 4, 4)),
    "bij,jo->bo": (("N", 3, 8), (8, 4)),
    "bi,iok->bo": (("N", 8), (8, 4, 3)),
    "tbi,io->tbo": ((5, "N", 8), (8, 4)),
    "bij,ij->b": (("N", 3, 4), (3, 4)),
}


@pytest.mark.parametrize(
    ("equation", "opset"), [*((equation, 17) for equation in EINSUMS), ("bij,jo->bo", 12), ("bthd,hde->bte", 12)]
)
def test_einsum(equation: str, opset: int) -> None:
    shape, weights = EINSUMS[equation]
    selected(network([op("Einsum", "x w", "y", "", equation=equation)], shape, {"w": floats(*weights)}, opset))


def test_einsum_with_weights_on_the_left() -> None:
    selected(network([op("Einsum", "w x", "y", "", equation="oi,bi->bo")], ("N", 8), {"w": floats(3, 8)}))


@st.composite
def einsums(draw: st.DrawFn) -> Case:
    """Letters of data and weights, at least one of them summed over both, and a result of any order."""
    letters = "abcdef"
    sizes = {letter: draw(st.integers(1, 3)) for letter in letters}
    data = "b" + "".join(draw(st.permutations("acd"))[: draw(st.integers(1, 3))])
    weights = "".join(draw(st.permutations("acdef"))[: draw(st.integers(1, 4))])
    either = sorted(set(data + weights) - {"b"})
    kept = [letter for letter in either if draw(st.booleans())]
    assume(set(data) & set(weights) - set(kept))
    result = "".join(draw(st.permutations(["b", *kept])))
    equation = f"{data},{weights}->{result}"
    shape = ["N" if letter == "b" else sizes[letter] for letter in data]
    w = floats(*(sizes[letter] for letter in weights))
    return network([op("Einsum", "x w", "y", "", equation=equation)], shape, {"w": w})


@settings(max_examples=40, deadline=None, derandomize=True)
@given(einsums())
def test_any_einsum_computes_what_onnxruntime_computes(case: Case) -> None:
    model, feeds = case[0], feeds_of(case)
    stages.assert_matches(stages.after("remove_dead_nodes", model, feeds), model, feeds, 1e-5)


# --- products written by hand --------------------------------------------------------------------

SUMS: dict[str, tuple[tuple[Any, ...], tuple[int, ...], list[int]]] = {
    "vector of a sample times a matrix": (("N", 8, 1), (1, 8, 4), [1]),
    "the same, an axis from the end": (("N", 8, 1), (8, 4), [-2]),
    "dot product": (("N", 8), (8,), [1]),
    "to each its own": (("N", 3, 8), (3, 8), [2]),
    "all at once": (("N", 3, 8), (3, 8), [1, 2]),
    "one row for all": (("N", 3, 8), (1, 8), [2]),
    "stack, broadcast": (("N", 2, 1, 4), (3, 4), [3]),
    "two axes of columns": (("N", 8, 1, 1), (8, 2, 3), [1]),
}


def mul_sum(
    shape: tuple[Any, ...], weights: tuple[int, ...], axes: list[int], keepdims: int = 0, opset: int = 17
) -> Case:
    constants: dict[str, Any] = {"w": floats(*weights)}
    if opset < 13:
        total = op("ReduceSum", "p", "y", "", keepdims=keepdims, axes=axes)
    else:
        constants["axes"], total = np.array(axes, np.int64), op("ReduceSum", "p axes", "y", "", keepdims=keepdims)
    return network([op("Mul", "w x", "p", ""), total], shape, constants, opset)


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("name", SUMS)
def test_multiplied_and_summed(name: str, keepdims: int, opset: int) -> None:
    graph = selected(mul_sum(*SUMS[name], keepdims, opset))
    assert {"Mul", "ReduceSum"}.isdisjoint(stages.kinds(graph))


VECTORS: dict[str, tuple[tuple[Any, ...], tuple[int, ...], str]] = {
    "vector times matrix": ((8,), (8, 4), "x w"),
    "vectors times vector": (("N", 8), (8,), "x w"),
    "stack times vector": (("N", 3, 8), (8,), "x w"),
    "vector times vector": ((8,), (8,), "x w"),
    "matrix times vector": ((8,), (4, 8), "w x"),
    "vector times matrices": (("N", 8, 3), (8,), "w x"),
    "vector times stack of matrices": ((8,), (2, 8, 4), "x w"),
    "stack of matrices times vector": ((8,), (2, 4, 8), "w x"),
}


@pytest.mark.parametrize("name", VECTORS)
def test_product_with_vectors(name: str) -> None:
    shape, weights, inputs = VECTORS[name]
    selected(network([op("MatMul", inputs, "y", "")], shape, {"w": floats(*weights)}))


# --- operators of onnxruntime's graph rewrites ---------------------------------------------------

FUSED_MATMULS: dict[str, tuple[tuple[Any, ...], tuple[int, ...], str, dict[str, Any]]] = {
    "factor": (("N", 8), (8, 3), "x w", {"alpha": 0.5}),
    "transposed weights": (("N", 8), (3, 8), "x w", {"transB": 1}),
    "transposed data": ((8, "N"), (8, 3), "x w", {"transA": 1, "alpha": 2.0}),
    "transposed matrices of the data": (("N", 8, 5), (8, 3), "x w", {"transA": 1}),
    "stack of the data last": ((5, 3, 8), (3, 8, 4), "x w", {"transBatchA": 1}),
    "stacks of the data last": ((5, 2, 3, 8), (2, 3, 8, 4), "x w", {"transBatchA": 1}),
    "stack of the data last, transposed": ((8, 3, 5), (3, 8, 4), "x w", {"transA": 1, "transBatchA": 1}),
    "stack of the weights last": ((3, 5, 8), (8, 3, 4), "x w", {"transBatchB": 1}),
    "stack of the weights last, transposed": ((3, 5, 8), (4, 3, 8), "x w", {"transB": 1, "transBatchB": 1}),
    "weights on the left": (("N", 8, 3), (8, 4), "w x", {"transA": 1, "alpha": -1.5}),
    "vector": ((8,), (8, 3), "x w", {"alpha": 0.5}),
}


@pytest.mark.parametrize("name", FUSED_MATMULS)
def test_fused_matmul(name: str) -> None:
    shape, weights, inputs, attributes = FUSED_MATMULS[name]
    selected(network([op("FusedMatMul", inputs, "y", **attributes)], shape, {"w": floats(*weights)}))


def fused_conv(opset: int = 17, added: bool = False, **attributes: Any) -> Case:
    weights = {"w": floats(4, 3, 3, 3), "b": floats(4)}
    nodes = [op("FusedConv", "x w b z" if added else "x w b", "y", pads=[1, 1, 1, 1], **attributes)]
    if added:
        nodes.insert(0, op("Conv", "x v", "z", ""))
        weights["v"] = floats(4, 3, 1, 1)
    return network(nodes, ("N", 3, 5, 5), weights, opset)


ACTIVATIONS: dict[str, list[float]] = {
    "Relu": [], "Tanh": [], "Sigmoid": [], "LeakyRelu": [0.1], "HardSigmoid": [0.3, 0.4], "Clip": [-0.5, 0.5],
}  # fmt: skip


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_conv(activation: str, opset: int) -> None:
    parameters = ACTIVATIONS[activation]
    given_parameters = {"activation_params": parameters} if parameters else {}
    graph = selected(fused_conv(opset, activation=activation, **given_parameters), relative=1e-5)
    assert stages.kinds(graph) == ["LinearLayer", activation]


def test_fused_conv_adds_before_its_activation() -> None:
    assert stages.kinds(selected(fused_conv(added=True, activation="Relu"), 2))[-2:] == ["Add", "Relu"]
    selected(fused_conv(added=True), 2)


@pytest.mark.parametrize(
    ("activation", "parameters"), [("Relu", {}), ("LeakyRelu", {"activation_alpha": 0.2}), ("Sigmoid", {})]
)
def test_fused_gemm(activation: str, parameters: dict[str, float]) -> None:
    operator = op("FusedGemm", "x w b", "y", activation=activation, transB=1, alpha=0.5, beta=2.0, **parameters)
    selected(network([operator], ("N", 8), {"w": floats(4, 8), "b": floats(4)}))


def attention(op_type: str, mask: Any, **attributes: Any) -> Case:
    weights: dict[str, Any] = {"b": floats(24), "w": floats(8, 24)}
    names = "x w b"
    nodes = []
    if op_type == "QAttention":
        weights |= {"w": signed(8, 24), "ws": step(1), "wz": np.array(3, np.int8)}
        nodes, names = [op("DynamicQuantizeLinear", "x", "q s z", "")], "q w b s ws"
    if mask is not None:
        weights["m"] = np.array(mask, np.int32)
    names += " m" if mask is not None else " -" * (op_type == "QAttention")
    names += " z wz" * (op_type == "QAttention")
    shape = ("N" if mask is None else 4, 5, 8)
    return network([*nodes, op(op_type, names, "y", num_heads=2, **attributes)], shape, weights)


@pytest.mark.parametrize("attributes", [{}, {"unidirectional": 1}, {"scale": 0.2}], ids=str)
@pytest.mark.parametrize("mask", [None, [[1, 1, 1, 1, 0]] * 4, [5, 4, 3, 2]], ids=["none", "places", "lengths"])
def test_attention(mask: Any, attributes: dict[str, Any]) -> None:
    selected(attention("Attention", mask, **attributes))


def test_attention_with_values_of_another_size() -> None:
    weights = {"w": floats(8, 16), "b": floats(16)}
    operator = op("Attention", "x w b", "y", num_heads=2, qkv_hidden_sizes=[6, 6, 4])
    selected(network([operator], ("N", 5, 8), weights))


@pytest.mark.parametrize("mask", [None, [[1, 1, 1, 1, 0]] * 4], ids=["none", "places"])
def test_quantized_attention(mask: Any) -> None:
    selected(attention("QAttention", mask))


# --- quantised weights ---------------------------------------------------------------------------


def few_bits(
    bits: int, inputs: int = 48, block: int = 16, zeros: str = "", groups: bool = False, bias: bool = False
) -> Case:
    outputs, blocks = 5, -(-inputs // block)
    weights: dict[str, Any] = {
        "w": RNG.integers(0, 256, (outputs, blocks, block * bits // 8)).astype(np.uint8),
        "s": step(outputs * blocks),
    }
    names = ["x", "w", "s", "-", "-", "-"]
    if zeros == "packed":
        weights["z"], names[3] = RNG.integers(0, 256, outputs * -(-blocks * bits // 8)).astype(np.uint8), "z"
    elif zeros:
        weights["z"], names[3] = RNG.uniform(0, 15, (outputs, blocks)).astype(np.float32), "z"
    if groups:
        weights["g"], names[4] = (RNG.permutation(inputs) % blocks).astype(np.int32), "g"
    if bias:
        weights["b"], names[5] = floats(outputs), "b"
    operator = op("MatMulNBits", " ".join(names), "y", K=inputs, N=outputs, bits=bits, block_size=block)
    return network([operator], ("N", inputs), weights)


NBITS: dict[str, dict[str, Any]] = {
    "four bits": {"bits": 4},
    "packed zero points, an odd number": {"bits": 4, "zeros": "packed"},
    "packed zero points, an even number": {"bits": 4, "inputs": 64, "zeros": "packed"},
    "inputs that fill no block": {"bits": 4, "inputs": 40, "zeros": "packed"},
    "zero points of their own": {"bits": 4, "zeros": "float"},
    "groups": {"bits": 4, "groups": True},
    "groups with zero points": {"bits": 4, "groups": True, "zeros": "float"},
    "bias": {"bits": 4, "bias": True},
    "eight bits": {"bits": 8, "zeros": "packed", "bias": True},
    "eight bits, large blocks": {"bits": 8, "inputs": 40, "block": 32},
    "two bits": {"bits": 2, "inputs": 80, "zeros": "packed"},
}


@pytest.mark.parametrize("name", NBITS)
def test_weights_of_few_bits(name: str) -> None:
    selected(few_bits(**NBITS[name]))


def dynamic(op_type: str, zero: bool = True, per_channel: bool = False, **attributes: Any) -> Case:
    """Model as onnxruntime's quantize_dynamic writes it."""
    convolution = op_type == "ConvInteger"
    columns = () if not per_channel else (4, 1, 1) if convolution else (4,)
    weights: dict[str, Any] = {"w": signed(4, 3, 3, 3) if convolution else signed(8, 4), "ws": step(*columns)}
    if zero:
        weights["wz"] = np.array(3, np.int8) if not per_channel or convolution else signed(4) // 8
    nodes = [
        op("DynamicQuantizeLinear", "x", "q s z", ""),
        op(op_type, "q w z wz" if zero else "q w z", "i", "", **attributes),
        op("Cast", "i", "f", "", to=1),
        op("Mul", "s ws", "m", ""),
        op("Mul", "f m", "y", ""),
    ]
    return network(nodes, ("N", 3, 6, 6) if convolution else ("N", 8), weights)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("zero", [False, True])
def test_dynamically_quantized_matmul(zero: bool, per_channel: bool) -> None:
    graph = selected(dynamic("MatMulInteger", zero, per_channel), relative=0)
    (layer,) = (node for node in graph.nodes if isinstance(node, LinearLayer))
    assert layer.integer


@pytest.mark.parametrize(
    "attributes", [{}, {"pads": [1, 1, 1, 1]}, {"pads": [1, 0, 2, 1], "strides": [2, 1]}, {"dilations": [2, 2]}],
    ids=str,
)  # fmt: skip
def test_dynamically_quantized_convolution_pads_with_the_zero_point_it_finds(attributes: dict[str, Any]) -> None:
    selected(dynamic("ConvInteger", **attributes), relative=0)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("zero", [False, True])
def test_dynamic_quantize_matmul(zero: bool, bias: bool, kind: type) -> None:
    weights: dict[str, Any] = {"w": signed(8, 4).astype(kind), "s": step(4), "b": floats(4), "z": np.full(4, 2, kind)}
    names = f"x w s {'z' if zero else '-'}{' b' if bias else ''}"
    used = {name: value for name, value in weights.items() if name in names.split()}
    selected(network([op("DynamicQuantizeMatMul", names, "y")], ("N", 8), used), relative=1e-6)


@pytest.mark.parametrize("names", ["q w s ws z wz b", "q w s ws z", "q w s ws z - b"])
def test_matmul_integer_to_float(names: str) -> None:
    weights: dict[str, Any] = {"w": signed(8, 4), "ws": step(4), "wz": np.full(4, 2, np.int8), "b": floats(4)}
    used = {name: value for name, value in weights.items() if name in names.split()}
    nodes = [op("DynamicQuantizeLinear", "x", "q s z", ""), op("MatMulIntegerToFloat", names, "y")]
    selected(network(nodes, ("N", 8), used), relative=1e-6)


def quantized_static(operator: onnx.NodeProto, weights: dict[str, Any], shape: Sequence[Any], rescaled: bool) -> Case:
    constants = {"xs": np.float32(0.02), "xz": np.uint8(120), "ys": np.float32(0.05), "yz": np.uint8(100)}
    nodes = [op("QuantizeLinear", "x xs xz", "q", ""), operator]
    nodes += [op("DequantizeLinear", "r ys yz", "y", "")] if rescaled else []
    return network(nodes, shape, {**constants, **weights})


@pytest.mark.parametrize("rescaled", [True, False])
def test_quantized_gemm(rescaled: bool) -> None:
    weights = {"w": signed(4, 8), "ws": step(4) / 10, "wz": np.zeros(4, np.int8), "c": signed(4).astype(np.int32)}
    names = "q xs xz w ws wz c" + (" ys yz" if rescaled else "")
    operator = op("QGemm", names, "r" if rescaled else "y", transB=1, alpha=0.5)
    selected(quantized_static(operator, weights, ("N", 8), rescaled), relative=1e-6)


def test_quantized_convolution_with_channels_last() -> None:
    """The form that onnxruntime's layout rewrite gives to QLinearConv."""
    weights = {"w": signed(4, 3, 3, 3), "ws": np.float32(0.01), "wz": np.int8(0)}
    operator = op("QLinearConv", "q xs xz w ws wz ys yz", "r", channels_last=1, pads=[1, 1, 1, 1])
    selected(quantized_static(operator, weights, ("N", 6, 6, 3), True), relative=1e-6)


# --- look-alikes ---------------------------------------------------------------------------------

W = {"w": floats(8, 4)}
MOVING = [op("ReduceMax", "x", "m", "", keepdims=0), op("Mul", "v m", "w", "")]
MOVING_BYTES = [
    op("ReduceMax", "x", "m", "", keepdims=0),
    op("Mul", "v m", "vm", ""),
    op("DynamicQuantizeLinear", "x", "q s z", ""),
    op("DynamicQuantizeLinear", "vm", "w ws wz", ""),
]
LOOK_ALIKES: dict[str, tuple[str, Case]] = {
    "einsum, elementwise": (
        "it sums over no product with its weights",
        network([op("Einsum", "x w", "y", "", equation="bi,i->bi")], ("N", 8), {"w": floats(8)}),
    ),
    "einsum, outer product": (
        "it sums over no product with its weights",
        network([op("Einsum", "x w", "y", "", equation="bi,o->bio")], ("N", 8), {"w": floats(3)}),
    ),
    "einsum, diagonal": (
        "an axis of its data occurs twice",
        network([op("Einsum", "x w", "y", "", equation="bii,io->bo")], ("N", 8, 8), W),
    ),
    "einsum, both dynamic": (
        "its weights are not static",
        network([op("Einsum", "x x", "y", "", equation="bi,bi->b")], ("N", 8), {}),
    ),
    "einsum, three operands": (
        "it has {} operands, not two",
        network([op("Einsum", "x w w", "y", "", equation="bi,io,io->bo")], ("N", 8), W),
    ),
    "einsum, both static": (
        "its data input is static",
        network([op("Einsum", "v w", "e", "", equation="bi,io->bo"), op("Add", "e x", "y", "")], (2, 4),
                {"w": floats(8, 4), "v": floats(2, 8)}),
    ),
    "einsum, whole numbers": (
        "it computes in {}",
        network([op("Cast", "x", "c", "", to=6), op("Einsum", "c w", "i", "", equation="bi,io->bo"),
                 op("Cast", "i", "y", "", to=1)], ("N", 8), {"w": np.ones((8, 4), np.int32)}),
    ),
    "sum over the free axis": (
        "sizes it multiplies are not static",
        network([op("Einsum", "x w", "y", "", equation="bi,bo->io")], ("N", 8), {"w": floats(4, 3)}),
    ),
    "scaled and summed": ("it sums over no product with its weights", mul_sum(("N", 8), (1,), [1])),
    "summed over the batch": ("it sums over no product with its weights", mul_sum(("N", 8), (8,), [0])),
    "products that others read": (
        "the products it sums are read by others, too",
        network([op("Mul", "x w", "p", ""), op("ReduceSum", "p axes", "s", "", keepdims=0),
                 op("ReduceMax", "p", "m", "", keepdims=0), op("Add", "s m", "y", "")],
                ("N", 8), {"w": floats(8), "axes": np.array([1])}),
    ),
    "sum along axes that are not static": (
        "its axes are not static",
        network([op("Mul", "x w", "p", ""), op("ReduceMax", "x", "m", "", keepdims=0), op("Mul", "m zero", "z", ""),
                 op("Add", "z one", "a", ""), op("Cast", "a", "axes", "", to=7),
                 op("ReduceSum", "p axes", "y", "", keepdims=0)],
                ("N", 8), {"w": floats(8), "zero": np.zeros(1, np.float32), "one": np.ones(1, np.float32)}),
    ),
    "fused matmul, both dynamic": (
        "its weights are not static", network([op("FusedMatMul", "x x", "y", transB=1)], ("N", 8), {}),
    ),
    "fused conv, dynamic weights": (
        "its weights are not static", network([*MOVING, op("FusedConv", "x w", "y", activation="Relu")],
                                              ("N", 3, 5, 5), {"v": floats(4, 3, 3, 3)}),
    ),
    "few bits, not static": (
        "its weights are not static",
        network([op("ReduceMax", "x", "m", "", keepdims=0), op("Mul", "v m", "s", ""),
                 op("MatMulNBits", "x w s", "y", K=16, N=4, bits=4, block_size=16)],
                ("N", 16), {"w": np.ones((4, 1, 8), np.uint8), "v": step(4)}),
    ),
    "groups with packed zero points": (
        "it has packed zero points and groups of inputs, which onnxruntime does not combine as documented",
        few_bits(4, zeros="packed", groups=True),
    ),
    "dynamic scale": (
        "its weights are not static",
        network([*MOVING_BYTES, op("MatMulIntegerToFloat", "q w s ws z wz", "y")], ("N", 8), {"v": floats(8, 4)}),
    ),
    "gemm of bytes with a scale found for each run": (
        "its weights, scales or zero points are not static",
        network([op("DynamicQuantizeLinear", "x", "q s z", ""), op("QGemm", "q s z w ws wz", "y")], ("N", 8),
                {"w": signed(8, 4), "ws": np.float32(0.01), "wz": np.int8(0)}),
    ),
    "scale a vector": (
        "its vectors have scales of their own",
        network([op("DynamicQuantizeLinear", "x", "q s z", ""), op("MatMulIntegerToFloat", "q w as ws z", "y")],
                (4, 8), {"w": signed(8, 4), "ws": step(4), "as": step(4)}),
    ),
    "attention, dynamic weights": (
        "its weights are not static",
        network([*MOVING, op("Attention", "x w b", "y", num_heads=2)], ("N", 5, 8),
                {"v": floats(8, 24), "b": floats(24)}),
    ),
    "quantised attention with a past": (
        "it has a past or rotary positions",
        network([op("DynamicQuantizeLinear", "x", "q s z", ""),
                 op("QAttention", "q w b s ws - z wz past", "y p", num_heads=2)], (4, 5, 8),
                {"w": signed(8, 24), "b": floats(24), "ws": step(1), "wz": np.int8(0), "past": floats(2, 4, 2, 3, 4)}),
    ),
    "attention with a past": (
        "it has a past, an additive bias or rotary positions",
        network([op("Attention", "x w b - past", "y p", num_heads=2)], (4, 5, 8),
                {"w": floats(8, 24), "b": floats(24), "past": floats(2, 4, 2, 3, 4)}),
    ),
}  # fmt: skip


def composite(graph: Graph) -> OnnxNode:
    found = [node for node in graph.nodes if isinstance(node, OnnxNode) and node.kind in COMPOSITES]
    return found[-1]


def plain(reason: str) -> str:
    """A reason without its numbers and types."""
    return re.sub(r"\b(\d+ (?=operands)|int32)", lambda found: "{} " if found[0] != "int32" else "{}", reason)


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_look_alike_stays_digital(name: str) -> None:
    reason, case = LOOK_ALIKES[name]
    graph = stages.import_model(case[0], feeds_of(case))
    given_reason = reason_to_stay_digital(composite(graph), graph)
    assert given_reason is not None
    assert plain(given_reason) == reason
    end = stages.after("remove_dead_nodes", case[0], feeds_of(case))
    stages.assert_matches(end, stages.exact(case[0]), feeds_of(case))
    assert reason == "its data input is static" or composite(end).kind == composite(graph).kind


# onnxruntime refuses such models today, so that only the graph can be made to look like one.
ATTRIBUTES: dict[str, tuple[Case, dict[str, Any]]] = {
    "its weights have 3 bits": (few_bits(4), {"bits": 3}),
    "its activation Softer is not known": (fused_conv(activation="Relu"), {"activation": "Softer"}),
}


@pytest.mark.parametrize("reason", ATTRIBUTES)
def test_reason_given_by_an_odd_attribute(reason: str) -> None:
    case, changed = ATTRIBUTES[reason]
    graph = stages.import_model(case[0], feeds_of(case))
    assert reason_to_stay_digital(composite(graph), graph) is None
    odd = stages.replaced(composite(graph), attributes={**composite(graph).attributes, **changed})
    assert reason_to_stay_digital(odd, graph) == reason


def test_every_reason_is_tested() -> None:
    modules = (decompose_attention, decompose_contractions, decompose_fused, decompose_quantized)
    source = "".join(map(inspect.getsource, modules))
    reasons = {re.sub(r"{[^}]*}", "{}", text) for text in re.findall(r'"((?:an|its?|the|sizes) [^"]+)"', source)}
    tested = {reason for reason, _ in LOOK_ALIKES.values()}
    tested |= {"its weights have {} bits", "its activation {} is not known"}
    assert reasons == tested


def test_weights_in_the_order_of_one_kind_of_processor_stay_digital() -> None:
    graph = stages.import_model(*fused(fused_conv(activation="Relu")))
    blocked = stages.replaced(composite(graph), domain="com.microsoft.nchwc", op_type="Conv")
    assert reason_to_stay_digital(blocked, graph) == "its weights are in an order for one kind of processor"


def fused(case: Case) -> tuple[onnx.ModelProto, stages.Feeds]:
    return case[0], feeds_of(case)

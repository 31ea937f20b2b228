"""Linear operators that become a layer and digital operators around it: each computes what onnxruntime computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
import stages
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models import dyadic, float_model, node

from memcompile.ir.graph import Graph, LinearLayer
from memcompile.pipelines import compile_model
from memcompile.runtime.emulator import Emulator

RNG = np.random.default_rng(37)


def select(model: onnx.ModelProto, feeds: stages.Feeds, relative: float = 1e-5) -> Graph:
    """The graph after selection, checked against onnxruntime."""
    graph = stages.after("select_crossbar_operators", model, feeds)
    stages.assert_matches(graph, model, feeds, relative)
    return graph


def the_layer(graph: Graph) -> LinearLayer:
    (layer,) = (item for item in graph.nodes if isinstance(item, LinearLayer))
    return layer


# --- transposed convolutions -------------------------------------------------------------------


@st.composite
def transposed_convolutions(draw: st.DrawFn) -> tuple[onnx.ModelProto, stages.Feeds]:
    """Any ConvTranspose with one to three spatial axes, and a batch for it."""
    rank, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    inputs, columns = groups * draw(st.integers(1, 2)), draw(st.integers(1, 2))
    axis = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    kernel, strides, dilations = draw(axis), draw(axis), draw(axis)
    size = draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilations, strict=True)]
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": groups}
    mode = draw(st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "output_shape", "VALID"]))
    full = [s * (i - 1) + d * (k - 1) + 1 for s, i, d, k in zip(strides, size, dilations, kernel, strict=True)]
    if mode == "pads":
        pads = [draw(st.integers(0, 2)) for _ in range(2 * rank)]
        assume(all(f + e - a - b > 0 for f, e, a, b in zip(full, extra, pads[:rank], pads[rank:], strict=True)))
        attributes |= {"pads": pads, "output_padding": extra}
    elif mode == "output_shape":
        attributes["output_shape"] = [draw(st.integers(max(1, f - 2), f)) for f in full]
    else:
        attributes["auto_pad"] = mode
        # onnxruntime and the specification part where the output is larger than the kernels reach.
        assume(mode == "VALID" or all(f >= s * i for f, s, i in zip(full, strides, size, strict=True)))
    weights = {"w": dyadic(RNG, (inputs, columns, *kernel))}
    if draw(st.booleans()):
        weights["b"] = dyadic(RNG, (columns * groups,))
    operator = node("ConvTranspose", "x w b" if "b" in weights else "x w", "y", **attributes)
    return float_model([operator], ("N", inputs, *size), weights), {"x": models.images((2, inputs, *size))}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(transposed_convolutions())
def test_any_transposed_convolution_matches_onnxruntime(case: tuple[onnx.ModelProto, stages.Feeds]) -> None:
    layer = the_layer(select(*case))
    assert layer.geometry.strides == (1,) * layer.geometry.rank


def test_no_inserted_zero_is_driven() -> None:
    """A 4x4 kernel of stride 2 has four phases of 2x2 taps: rows are 2*2*c_in, columns 4*c_out."""
    model = float_model(
        [node("ConvTranspose", "x w", "y", strides=[2, 2], pads=[1, 1, 1, 1])], ("N", 3, 5, 5),
        {"w": dyadic(RNG, (3, 2, 4, 4))},
    )  # fmt: skip
    graph = select(model, {"x": models.images((2, 3, 5, 5))})
    geometry = the_layer(graph).geometry
    assert (geometry.group_rows, geometry.group_columns) == (12, 8)
    assert the_layer(graph).name == "ConvTranspose_y"


# --- matrix products ---------------------------------------------------------------------------

PRODUCTS: dict[str, tuple[tuple[Any, ...], tuple[int, ...], str]] = {
    "stack of matrices, data shared, one axis of ones": (("N", 1, 5, 6), (3, 6, 4), "x w"),
    "stack of matrices, vectors of the batch": (("N", 6), (3, 6, 4), "x w"),
    "stack of one": (("N", 5, 6), (1, 6, 4), "x w"),
    "to each its own": (("N", 3, 5, 6), (3, 6, 4), "x w"),
    "to each its own, two axes": (("N", 2, 3, 5, 6), (2, 3, 6, 4), "x w"),
    "to each its own, without a batch": ((4, 5, 6), (4, 6, 3), "x w"),
    "weights on the left": (("N", 6, 5), (4, 6), "w x"),
    "weights on the left, two axes": ((6, 4), (3, 6), "w x"),
    "weights on the left, stack": (("N", 3, 6, 5), (3, 4, 6), "w x"),
    "weights on the left, data shared": (("N", 1, 6, 5), (3, 4, 6), "w x"),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_matrix_product(name: str) -> None:
    shape, weights, inputs = PRODUCTS[name]
    feeds = {"x": models.images(tuple(4 if size == "N" else size for size in shape))}
    the_layer(select(float_model([node("MatMul", inputs, "y")], shape, {"w": dyadic(RNG, weights)}), feeds))


@pytest.mark.parametrize("bias", [None, (3,), (5, 3), (5, 1), (1, 1), "dynamic"], ids=str)
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("side", ["x w", "w x"])
def test_gemm_with_all_attributes(side: str, trans_a: int, trans_b: int, bias: Any) -> None:
    a, b = (6, 5) if trans_a else (5, 6), (3, 6) if trans_b else (6, 3)
    shape, matrix = (a, b) if side == "x w" else (b, a)
    weights = {"w": dyadic(RNG, matrix)}
    nodes = [
        node("Gemm", side if bias is None else f"{side} c", "y", transA=trans_a, transB=trans_b, alpha=0.5, beta=0.25)
    ]
    if bias == "dynamic":
        nodes.insert(0, node("ReduceMax", "x", "c", axes=[0, 1], keepdims=0))
    elif bias is not None:
        weights["c"] = dyadic(RNG, bias)
    the_layer(select(float_model(nodes, shape, weights), {"x": models.images(shape)}))


# --- all the way -------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [1, 3])
def test_gemm_takes_a_vector_for_a_row(images: int) -> None:
    """Squeeze without axes drops a batch of one, too."""
    nodes = [node("GlobalAveragePool", "x", "p"), node("Squeeze", "p", "flat"), node("Gemm", "flat w b", "y", transB=1)]
    weights = {"w": dyadic(RNG, (4, 5)), "b": dyadic(RNG, (4,))}
    model = float_model(nodes, ("N", 5, 2, 2), weights)
    assert the_layer(select(model, {"x": models.images((images, 5, 2, 2))})).geometry.positions == 1


def test_they_run_on_the_ideal_target(save_model: Callable[..., Path]) -> None:
    nodes = [
        node("ConvTranspose", "x k", "u", strides=[2, 2], pads=[1, 0, 1, 0], group=2),
        node("Relu", "u", "r"),
        node("Reshape", "r s", "v"),
        node("MatMul", "v stack", "m"),
        node("MatMul", "left m", "y"),
    ]
    weights = {
        "k": dyadic(RNG, (4, 2, 3, 3)),
        "s": np.array([-1, 4, 9, 11], np.int64),
        "stack": dyadic(RNG, (4, 11, 3)),
        "left": dyadic(RNG, (2, 9)),
    }
    model = float_model(nodes, ("N", 4, 5, 5), weights)
    feeds = {"x": models.images((3, 4, 5, 5))}
    program = compile_model(save_model(model), "ideal").program
    assert [layer.name for layer in program.layers] == ["ConvTranspose_u", "MatMul_m", "MatMul_y"]
    want = stages.reference(model, feeds)["y"]
    for executor in ("fast", "literal"):
        got = Emulator(program, executor=executor).run(feeds)["y"]
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()

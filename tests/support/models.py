"""Small ONNX models, built in place with weights from seeded generators.

All weights, biases and batch-norm parameters but those of the digits' classifiers are multiples of powers of two, so
that float32 arithmetic on them is exact: texts and digests made from them are the same on every machine, whatever the
order of summation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from memcompile.data.digits import digits8, digits28

Shape = Sequence[int | str | None]
EPSILON = 2.0**-10


def dyadic(rng: np.random.Generator, shape: Sequence[int], limit: int = 7, step: float = 0.125) -> NDArray[np.float32]:
    """Whole multiples of ``step`` up to ``limit`` steps: weights of 2 * limit + 1 levels.

    Where an output channel has several weights, the first has the largest magnitude, so that
    every channel uses the whole range.
    """
    values = rng.integers(-limit, limit + 1, shape)
    if values.size > values.shape[0]:
        values.reshape(values.shape[0], -1)[:, 0] = limit
    return (values * step).astype(np.float32)


def images(shape: Sequence[int], seed: int = 0, lowest: int = -32, highest: int = 32) -> NDArray[np.float32]:
    """Whole multiples of 1/16."""
    rng = np.random.default_rng(seed)
    return (rng.integers(lowest, highest + 1, shape) / 16).astype(np.float32)


def make(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, Shape]],
    outputs: dict[str, tuple[int, Shape | None]],
    weights: dict[str, NDArray[Any]] | None = None,
    opset: int = 17,
    extra_opsets: Sequence[tuple[str, int]] = (),
    name: str = "small",
) -> onnx.ModelProto:
    """A model with these nodes and initializers."""
    graph = helper.make_graph(
        list(nodes),
        name,
        [helper.make_tensor_value_info(key, kind, shape) for key, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(key, kind, shape) for key, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(np.array(value, order="C"), key) for key, value in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*item) for item in extra_opsets)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    # onnx.checker wants a shape, at least an open one, for every output.
    return onnx.shape_inference.infer_shapes(model) if any(s is None for _, s in outputs.values()) else model


def float_model(
    nodes: Sequence[onnx.NodeProto],
    input_shape: Shape,
    weights: dict[str, NDArray[Any]],
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model with one float input ``x`` and outputs of open shape."""
    return make(nodes, {"x": (kind, input_shape)}, dict.fromkeys(outputs, (kind, None)), weights, opset)


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """A node: inputs as one string with spaces between them; named after its output."""
    return helper.make_node(op_type, inputs.split(" "), output.split(" "), name=f"{op_type}_{output}", **attributes)


def batchnorm_weights(rng: np.random.Generator, name: str, channels: int) -> dict[str, NDArray[np.float32]]:
    """Parameters whose scale gamma / sqrt(variance + EPSILON) is a power of two."""
    roots = 2.0 ** rng.integers(-1, 2, channels)
    return {
        f"{name}_gamma": (2.0 ** rng.integers(-1, 2, channels)).astype(np.float32),
        f"{name}_beta": (rng.integers(-8, 9, channels) / 8).astype(np.float32),
        f"{name}_mean": (rng.integers(-8, 9, channels) / 8).astype(np.float32),
        f"{name}_variance": (roots**2 - EPSILON).astype(np.float32),
    }


def batchnorm(value: str, name: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """A BatchNormalization that reads the parameters of `batchnorm_weights`."""
    parameters = f"{name}_gamma {name}_beta {name}_mean {name}_variance"
    return node("BatchNormalization", f"{value} {parameters}", output, epsilon=EPSILON, **attributes)


def conv_bn() -> onnx.ModelProto:
    """Conv-BN-Relu, Conv-BN, average pool, Gemm: ``x`` [N, 2, 6, 6] to ``y`` [N, 4]."""
    rng = np.random.default_rng(1)
    weights = {
        "w1": dyadic(rng, (3, 2, 3, 3)),
        "b1": dyadic(rng, (3,)),
        **batchnorm_weights(rng, "n1", 3),
        "w2": dyadic(rng, (4, 3, 3, 3)),
        **batchnorm_weights(rng, "n2", 4),
        "w3": dyadic(rng, (4, 4)),
        "b3": dyadic(rng, (4,)),
    }
    nodes = [
        node("Conv", "x w1 b1", "c1", pads=[1, 1, 1, 1]),
        batchnorm("c1", "n1", "s1"),
        node("Relu", "s1", "r1"),
        node("Conv", "r1 w2", "c2", strides=[2, 2]),
        batchnorm("c2", "n2", "s2"),
        node("GlobalAveragePool", "s2", "pooled"),
        node("Flatten", "pooled", "flat"),
        node("Gemm", "flat w3 b3", "y", transB=1),
    ]
    return float_model(nodes, ("N", 2, 6, 6), weights)


def scale_shift() -> onnx.ModelProto:
    """Conv followed by Mul and Add per channel, the batch norm of CNTK: ``x`` [N, 1, 5, 5] to ``y``."""
    rng = np.random.default_rng(2)
    weights = {
        "w": dyadic(rng, (3, 1, 2, 2)),
        "factor": (2.0 ** rng.integers(-2, 3, (1, 3, 1, 1))).astype(np.float32),
        "shift": dyadic(rng, (3, 1, 1)),
    }
    nodes = [
        node("Conv", "x w", "c"),
        node("Mul", "factor c", "m"),
        node("Add", "m shift", "a"),
        node("Relu", "a", "y"),
    ]
    return float_model(nodes, ("N", 1, 5, 5), weights)


def matmul_add() -> onnx.ModelProto:
    """Two dense layers as MatMul and Add: ``x`` [N, 3, 4] to ``y`` [N, 5]."""
    rng = np.random.default_rng(3)
    weights = {
        "w1": dyadic(rng, (6, 12)).T,
        "b1": dyadic(rng, (6,)),
        "w2": dyadic(rng, (5, 6)).T,
        "b2": dyadic(rng, (5,)),
    }
    nodes = [
        node("Flatten", "x", "flat"),
        node("MatMul", "flat w1", "m1"),
        node("Add", "m1 b1", "a1"),
        node("Relu", "a1", "r1"),
        node("MatMul", "r1 w2", "m2"),
        node("Add", "b2 m2", "y"),
    ]
    return float_model(nodes, ("N", 3, 4), weights)


def skip_connection() -> onnx.ModelProto:
    """A residual block: ``x`` [N, 3, 4, 4] to ``y`` of the same shape."""
    rng = np.random.default_rng(4)
    weights = {
        "w1": dyadic(rng, (3, 3, 3, 3)),
        **batchnorm_weights(rng, "n1", 3),
        "w2": dyadic(rng, (3, 3, 3, 3)),
        **batchnorm_weights(rng, "n2", 3),
    }
    nodes = [
        node("Relu", "x", "r0"),
        node("Conv", "r0 w1", "c1", pads=[1, 1, 1, 1]),
        batchnorm("c1", "n1", "s1"),
        node("Relu", "s1", "r1"),
        node("Conv", "r1 w2", "c2", pads=[1, 1, 1, 1]),
        batchnorm("c2", "n2", "s2"),
        node("Add", "s2 r0", "sum"),
        node("Relu", "sum", "y"),
    ]
    return float_model(nodes, ("N", 3, 4, 4), weights)


def grouped_conv() -> onnx.ModelProto:
    """Depthwise, pointwise and grouped convolutions: ``x`` [N, 4, 5, 5] to ``y``."""
    rng = np.random.default_rng(5)
    weights = {
        "w1": dyadic(rng, (4, 1, 3, 3)),
        "w2": dyadic(rng, (6, 4, 1, 1)),
        "b2": dyadic(rng, (6,)),
        "w3": dyadic(rng, (4, 3, 2, 2)),
    }
    nodes = [
        node("Conv", "x w1", "c1", group=4, pads=[1, 0, 1, 2]),
        node("Conv", "c1 w2 b2", "c2"),
        node("Relu", "c2", "r2"),
        node("Conv", "r2 w3", "y", group=2, dilations=[2, 1]),
    ]
    return float_model(nodes, ("N", 4, 5, 5), weights)


def constant_chain() -> onnx.ModelProto:
    """Weights through Constant, Cast, Transpose and DequantizeLinear, and a dead branch: ``x`` [N, 6] to ``y``."""
    rng = np.random.default_rng(6)
    weights = {
        "w1_double": dyadic(rng, (4, 6)).astype(np.float64),
        "w2_levels": rng.integers(-7, 8, (4, 5)).astype(np.int8),
        "w2_step": np.array(0.125, np.float32),
    }
    b1 = numpy_helper.from_array(dyadic(rng, (4,)), "b1")
    nodes = [
        node("Cast", "w1_double", "w1_float", to=TensorProto.FLOAT),
        node("Transpose", "w1_float", "w1", perm=[1, 0]),
        helper.make_node("Constant", [], ["b1"], name="Constant_b1", value=b1),
        node("Gemm", "x w1 b1", "g1"),
        node("Relu", "g1", "r1"),
        node("Neg", "r1", "unread"),
        node("Exp", "unread", "unread_too"),
        node("DequantizeLinear", "w2_levels w2_step", "w2"),
        node("MatMul", "r1 w2", "y"),
    ]
    return float_model(nodes, ("N", 6), weights)


def nearest_mean(side: int = 8, roll: int = 0) -> dict[str, NDArray[np.float32]]:
    """Weights of the classifier that takes the digit whose mean image is nearest."""
    images, labels = digits8() if side == 8 else digits28()
    means = np.array([images[labels == digit].mean(axis=0).ravel() / 255 for digit in range(10)])
    means = np.roll(means, roll, axis=0)
    return {"w": means.T.astype(np.float32), "b": (-np.square(means).sum(axis=1) / 2).astype(np.float32)}


def digits_classifier(side: int) -> onnx.ModelProto:
    """The nearest-mean classifier of grey images of 8x8 or 28x28: ``image`` to ``y``."""
    nodes = [node("Flatten", "image", "flat"), node("Gemm", "flat w b", "y")]
    inputs = {"image": (TensorProto.FLOAT, ("N", 1, side, side))}
    return make(nodes, inputs, {"y": (TensorProto.FLOAT, ("N", 10))}, nearest_mean(side))


@cache
def small_digits() -> onnx.ModelProto:
    """64 pixels to 24 random features to 10 scores, trained in closed form: about nine of ten digits are right."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to import

    digits = load_digits()
    x, labels = (digits.data / 16).astype(np.float32), digits.target
    rng = np.random.default_rng(5)
    hidden = rng.standard_normal((64, 24)).astype(np.float32) / 8
    features = np.maximum(x @ hidden, 0)
    goals = np.eye(10)[labels]
    with_bias = np.concatenate([features, np.ones((len(x), 1))], axis=1)
    solved = np.linalg.solve(with_bias.T @ with_bias + 0.1 * np.eye(25), with_bias.T @ goals)
    weights = {"W1": hidden, "W2": solved[:-1].astype(np.float32), "b2": solved[-1].astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "W1"], ["h"], name="hidden"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "W2", "b2"], ["y"], name="scores"),
    ]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "small_digits",
        [helper.make_tensor_value_info("x", floats, ["n", 64])],
        [helper.make_tensor_value_info("y", floats, ["n", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@cache
def digit_samples() -> dict[str, np.ndarray]:
    """Digits as the classifier takes them, with labels."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to import

    digits = load_digits()
    return {"x": (digits.data / 16).astype(np.float32), "labels": digits.target.astype(np.int64)}


SMALL: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[int, ...]]] = {
    "conv_bn": (conv_bn, (2, 6, 6)),
    "scale_shift": (scale_shift, (1, 5, 5)),
    "matmul_add": (matmul_add, (3, 4)),
    "skip_connection": (skip_connection, (3, 4, 4)),
    "grouped_conv": (grouped_conv, (4, 5, 5)),
    "constant_chain": (constant_chain, (6,)),
}
"""Name: builder, and shape of one sample of ``x``."""


def with_large(*nodes: onnx.NodeProto, **weights: Any) -> onnx.ModelProto:
    """A model that adds the sum of a large value ``l`` to its input."""
    tail = [node("ReduceSum", "l", "s", keepdims=0), node("Add", "x s", "y")]
    arrays = {name: np.asarray(value) for name, value in weights.items()}
    return make([*nodes, *tail], {"x": (TensorProto.FLOAT, ("N", 4))}, {"y": (TensorProto.FLOAT, ("N", 4))}, arrays)


def loop(steps: int, body: onnx.NodeProto) -> onnx.ModelProto:
    """``body`` makes ``vo`` of ``v``, again and again."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [body, node("Identity", "c", "co")],
        "body",
        [info("i", TensorProto.INT64, []), info("c", TensorProto.BOOL, []), info("v", TensorProto.FLOAT, [None, 4])],
        [info("co", TensorProto.BOOL, []), info("vo", TensorProto.FLOAT, [None, 4])],
    )
    return with_large(node("Loop", "n t x", "l", body=graph), n=np.int64(steps), t=np.array(True))

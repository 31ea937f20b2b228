"""Small classifiers of scikit-learn's digits, trained in closed form, for tests that need an accuracy."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from sklearn.datasets import load_digits


@cache
def small_digits() -> onnx.ModelProto:
    """64 pixels to 24 random features to 10 scores: about nine of ten digits are right."""
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
        onnx.helper.make_node("MatMul", ["x", "W1"], ["h"], name="hidden"),
        onnx.helper.make_node("Relu", ["h"], ["r"], name="relu"),
        onnx.helper.make_node("Gemm", ["r", "W2", "b2"], ["y"], name="scores"),
    ]
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "small_digits",
        [onnx.helper.make_tensor_value_info("x", floats, ["n", 64])],
        [onnx.helper.make_tensor_value_info("y", floats, ["n", 10])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)


@cache
def digit_samples() -> dict[str, np.ndarray]:
    """Digits as the classifier takes them, with labels."""
    digits = load_digits()
    return {"x": (digits.data / 16).astype(np.float32), "labels": digits.target.astype(np.int64)}

"""Models as onnxruntime's own graph rewrites and its quantiser write them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import stages
from models import float_model, node
from onnxruntime.quantization import QuantType, quantize_dynamic

from memcompile.frontend.importer import import_graph, read_model
from memcompile.ir.graph import LinearLayer
from memcompile.verify.interpreter import Interpreter

RNG = np.random.default_rng(163)
LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def floats(*shape: int) -> np.ndarray:
    return (RNG.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)


def block() -> onnx.ModelProto:
    """A transformer block with two heads: ``x`` [N, 5, 16] to ``y``."""
    weights = {f"w{name}": floats(16, 16) for name in "qkvo"} | {f"b{name}": floats(16) for name in "qkvo"}
    weights |= {
        "heads": np.array([0, 0, 2, 8], np.int64), "whole": np.array([0, 0, 16], np.int64), "scale": np.float32(0.125),
        "gamma": np.ones(16, np.float32), "beta": np.zeros(16, np.float32), "root": np.float32(2**0.5),
        "half": np.float32(0.5), "one": np.float32(1), "w1": floats(16, 32), "b1": floats(32), "w2": floats(32, 16),
    }  # fmt: skip
    nodes = []
    for name in "qkv":
        nodes += [node("MatMul", f"x w{name}", f"m{name}"), node("Add", f"b{name} m{name}", f"a{name}")]
        order = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes += [node("Reshape", f"a{name} heads", f"r{name}"), node("Transpose", f"r{name}", f"t{name}", perm=order)]
    nodes += [
        node("MatMul", "tq tk", "scores"), node("Mul", "scores scale", "scaled"),
        node("Softmax", "scaled", "weights", axis=-1), node("MatMul", "weights tv", "mixed"),
        node("Transpose", "mixed", "turned", perm=[0, 2, 1, 3]), node("Reshape", "turned whole", "joined"),
        node("MatMul", "joined wo", "mo"), node("Add", "bo mo", "ao"), node("Add", "ao x", "s1"),
        node("LayerNormalization", "s1 gamma beta", "l1", axis=-1),
        node("MatMul", "l1 w1", "f1"), node("Add", "b1 f1", "g"), node("Div", "g root", "d"), node("Erf", "d", "e"),
        node("Add", "e one", "e1"), node("Mul", "g e1", "ge"), node("Mul", "ge half", "gelu"),
        node("MatMul", "gelu w2", "f2"), node("Add", "f2 l1", "s2"),
        node("LayerNormalization", "s2 gamma beta", "y", axis=-1),
    ]  # fmt: skip
    return float_model(nodes, ("N", 5, 16), weights)


def small_cnn() -> onnx.ModelProto:
    """Convolutions with a skip and activations: ``x`` [N, 3, 8, 8] to ``y``."""
    weights = {"w1": floats(8, 3, 3, 3), "b1": floats(8), "w2": floats(8, 8, 3, 3), "w3": floats(8, 4), "b3": floats(4)}
    nodes = [
        node("Conv", "x w1 b1", "c1", pads=[1, 1, 1, 1]), node("Relu", "c1", "r1"),
        node("Conv", "r1 w2", "c2", pads=[1, 1, 1, 1]), node("Add", "c2 r1", "s"), node("Relu", "s", "r2"),
        node("GlobalAveragePool", "r2", "g"), node("Flatten", "g", "f"), node("Gemm", "f w3 b3", "h"),
        node("Sigmoid", "h", "y"),
    ]  # fmt: skip
    return float_model(nodes, ("N", 3, 8, 8), weights)


# Builder, shape of two samples, layers, and operators that extended rewrites are known to write.
NETWORKS: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[int, ...], int, set[str]]] = {
    "transformer block": (block, (2, 5, 16), 6, {"FusedMatMul", "SkipLayerNormalization", "BiasGelu"}),
    "convolutions": (small_cnn, (2, 3, 8, 8), 3, {"FusedConv"}),
}


def rewritten(path: Path, level: str) -> Path:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = LEVELS[level]
    options.optimized_model_filepath = str(path.with_suffix(f".{level}.onnx"))
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Path(options.optimized_model_filepath)


def check(path: Path, shape: tuple[int, ...], layers: int, relative: float) -> None:
    """All products with static weights become layers, and the graph computes what onnxruntime computes."""
    file, feeds = read_model(path), {"x": models.images(shape, seed=5)}
    graph = import_graph(file, {"x": feeds["x"][:1]})
    graph = stages.run_verified(graph, stages.passes_through("group_digital"), stages.context_for(feeds))
    assert sum(isinstance(item, LinearLayer) for item in graph.nodes) == layers
    want = stages.reference(file.serialized(), feeds)["y"]
    got = Interpreter(graph).run(feeds)["y"]
    assert np.abs(got - want).max() <= relative * np.abs(want).max()


@pytest.mark.parametrize("level", ["basic", "extended"])
@pytest.mark.parametrize("name", NETWORKS)
def test_rewritten(name: str, level: str, save_model: Callable[..., Path]) -> None:
    build, shape, layers, expected = NETWORKS[name]
    path = rewritten(save_model(build()), level)
    if level == "extended":
        assert expected <= {item.op_type for item in onnx.load(path).graph.node}
    check(path, shape, layers, 1e-5)


def test_layouts_of_this_processor_compile(save_model: Callable[..., Path]) -> None:
    """Convolutions that onnxruntime reorders for the processor stay digital; elsewhere nothing changes."""
    path = rewritten(save_model(small_cnn()), "all")
    blocked = sum(item.domain.endswith("nchwc") and item.op_type == "Conv" for item in onnx.load(path).graph.node)
    check(path, (2, 3, 8, 8), 3 - blocked, 1e-5)


@pytest.mark.parametrize("level", ["", "extended"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize("name", NETWORKS)
def test_dynamically_quantized(
    name: str, kind: QuantType, per_channel: bool, level: str, save_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Signed weights are quantize_dynamic's default; they overflow in onnxruntime on some processors, but not here."""
    build, shape, layers, _ = NETWORKS[name]
    logging.disable(logging.WARNING)  # it asks for shape inference first
    try:
        path = tmp_path / "quantized.onnx"
        quantize_dynamic(save_model(build()), path, per_channel=per_channel, weight_type=kind)
    finally:
        logging.disable(logging.NOTSET)
    check(rewritten(path, level) if level else path, shape, layers, 1e-5)

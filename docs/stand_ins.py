"""Stands in for what a reader has and the repository has not, so that all commands shown can run.

Data sets in their published formats with a few images, and networks that are hardly trained. They show that a
command works, never a figure.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from memcompile.data.digits import digits8, digits28

IMAGES = 64
RIDGE = 2.0
"""Regularisation of a fitted layer, as a share of the mean square of its inputs."""


def write_stand_ins(folder: Path) -> None:
    """Write everything the pages name into a folder."""
    _write_mnist(folder / "mnist")
    _write_cifar10(folder / "cifar10")
    onnx.save(_small_resnet(), folder / "cifar_resnet20.onnx")


def write_digits_cnn(path: Path) -> None:
    """Write the network that the tutorial trains, with random convolutions and a last layer of least squares.

    It names most digits, and noise changes few, so that it asks for no more accurate a mapping than a trained one.
    """
    rng = np.random.default_rng(0)
    weights = {
        "conv1.weight": _weights(rng, 8, 1, 3, 3),
        "conv2.weight": _weights(rng, 16, 8, 3, 3),
    }
    nodes = [
        helper.make_node("Conv", ["image", "conv1.weight"], ["a"], name="/conv1/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="/relu1/Relu"),
        helper.make_node("Conv", ["b", "conv2.weight"], ["c"], name="/conv2/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"], name="/relu2/Relu"),
        helper.make_node("MaxPool", ["d"], ["e"], name="/pool/MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["e"], ["f"], name="/flatten/Flatten"),
        helper.make_node("Gemm", ["f", "fc.weight"], ["logits"], name="/fc/Gemm", transB=1),
    ]
    images, labels = digits8()
    images = (images[:1000, None] / np.float32(255)).astype(np.float32)
    features = _model(nodes[:-1], ("image", ["N", 1, 8, 8]), weights, "f", 256)
    session = ort.InferenceSession(features.SerializeToString(), providers=["CPUExecutionProvider"])
    seen = session.run(None, {"image": images})[0].astype(np.float64)
    wanted = 10.0 * (labels[:1000, None] == np.arange(10)) - 1.0
    regularised = seen.T @ seen + RIDGE * np.trace(seen.T @ seen) / 256 * np.eye(256)
    weights["fc.weight"] = np.linalg.solve(regularised, seen.T @ wanted).T.astype(np.float32)
    onnx.save(_model(nodes, ("image", ["N", 1, 8, 8]), weights), path)


def _small_resnet() -> onnx.ModelProto:
    """One residual block over CIFAR-10 images."""
    rng = np.random.default_rng(0)
    weights = {"w1": _weights(rng, 4, 3, 3, 3), "w2": _weights(rng, 4, 4, 3, 3), "w3": _weights(rng, 10, 4)}
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["a"], name="conv1", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "w3"], ["logits"], name="fc", transB=1),
    ]
    return _model(nodes, ("input", ["N", 3, 32, 32]), weights)


def _weights(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def _model(
    nodes: list[onnx.NodeProto],
    source: tuple[str, list[str | int]],
    weights: dict[str, NDArray[np.float32]],
    output: str = "logits",
    size: int = 10,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "stand_in",
        [helper.make_tensor_value_info(source[0], TensorProto.FLOAT, source[1])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", size])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _write_mnist(folder: Path) -> None:
    folder.mkdir()
    images, labels = digits28()
    for part in ("train", "t10k"):
        sizes = struct.pack(">4I", 0x803, IMAGES, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(sizes + images[:IMAGES].tobytes())
        labels_bytes = labels[:IMAGES].astype(np.uint8).tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, IMAGES) + labels_bytes)


def _write_cifar10(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("data_batch_1.bin", "test_batch.bin"):
        records = rng.integers(0, 256, (IMAGES, 3073)).astype(np.uint8)
        records[:, 0] = np.arange(IMAGES) % 10
        (folder / name).write_bytes(records.tobytes())

"""Train the five-layer CNN of Yao et al. (Nature 577, 641, 2020) and write it as ONNX.

The network reads 28x28 grey images of handwritten digits, in 0..1:

    C1 8 kernels 3x3 -> ReLU -> max-pool 3x3 -> C3 12 kernels 3x3x8 -> ReLU -> max-pool 2x2 -> FC 192x10

It is trained on MNIST and on the training part of scikit-learn's digits, with the hardware's
resolution in the loop: every weight is one of the 15 levels -7..+7 that a differential pair of
8-level cells holds, times a scale per output channel, and every layer's input has 8 bits. The
ONNX file holds the quantised weights as floats and no quantisation nodes.

    python examples/train_five_layer_cnn.py --mnist DIR

DIR holds MNIST's four IDX files; it defaults to $MEMCOMPILE_DATA. PyTorch, onnx and onnxruntime
are needed, and five to ten minutes. The same seed gives the same file with the same versions on the
same kind of processor. The defaults gave the file beside this script: 98.88 % of MNIST's test images
and 98.75 % of the digits' are right, and 96.0 % of MNIST's if each cell is off by 0.4 level.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from memcompile.data import DIGITS_TRAINING_SAMPLES, digits28, read_mnist
from memcompile.errors import DataError

MAX_LEVEL = 7
"""A pair of cells with 8 levels each holds -7..+7."""

MAX_INPUT = 255
"""The largest 8-bit input."""

CELL_ERROR = 0.4
"""Standard deviation of a cell's programming error, in levels, for the figure printed at the end."""

BATCH = 128
DIGITS_REPEATS = 10
"""Repetitions of the 1,000 digits per epoch, next to 60,000 images of MNIST."""

Arrays = dict[str, NDArray[np.float32]]


def quantise_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round weights to levels.

    The largest weight of each output channel (first dimension) gets level +-7. The scale is
    rounded to float16, whose few digits make every level * scale exact in float32.

    Returns
    -------
    levels : whole numbers -7..7, in the shape of `weight`
    scale : [C, 1, ...], to be multiplied with the levels
    """
    peak = weight.abs().flatten(1).amax(1).clamp(min=1e-3)
    scale = (peak / MAX_LEVEL).half().float().reshape(-1, *[1] * (weight.dim() - 1))
    return (weight / scale).round().clamp(-MAX_LEVEL, MAX_LEVEL), scale


def straight_through(value: Tensor, quantised: Tensor) -> Tensor:
    """Take the quantised value, and pass gradients on as if it were `value`."""
    return value + (quantised - value).detach()


class InputQuantiser(nn.Module):
    """Rounds a layer's inputs, which are 0 or more, to 8 bits of a running maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("peak", torch.ones(()))

    def forward(self, value: Tensor) -> Tensor:
        if self.training:
            self.peak.lerp_(value.detach().amax(), 0.01)
        step = self.peak / MAX_INPUT
        # Values above the peak are clipped, and get no gradient.
        clipped = torch.minimum(value, self.peak)
        return straight_through(clipped, (clipped / step).round() * step)


class FiveLayerCnn(nn.Module):
    """The network with quantised weights and layer inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.C1 = nn.Conv2d(1, 8, 3)
        self.C3 = nn.Conv2d(8, 12, 3)
        self.FC = nn.Linear(192, 10)
        self.input3 = InputQuantiser()
        self.input5 = InputQuantiser()

    def forward(self, image: Tensor) -> Tensor:
        """Logits [N, 10] of images [N, 1, 28, 28] in 0..1."""
        image = (image * MAX_INPUT).round() / MAX_INPUT
        x = functional.conv2d(image, self._weight(self.C1), self.C1.bias)
        x = functional.max_pool2d(functional.relu(x), 3, 3, ceil_mode=True)
        x = functional.conv2d(self.input3(x), self._weight(self.C3), self.C3.bias)
        x = functional.max_pool2d(functional.relu(x), 2, 2, ceil_mode=True)
        return functional.linear(self.input5(x.flatten(1)), self._weight(self.FC), self.FC.bias)

    @staticmethod
    def _weight(layer: nn.Conv2d | nn.Linear) -> Tensor:
        levels, scale = quantise_weight(layer.weight.detach())
        return straight_through(layer.weight, levels * scale)

    def layers(self) -> dict[str, nn.Conv2d | nn.Linear]:
        """The layers with weights, by name."""
        return {"C1": self.C1, "C3": self.C3, "FC": self.FC}


def training_images(mnist: Path) -> tuple[Tensor, Tensor]:
    """MNIST's training part and, several times over, that of the digits: uint8 [N, 1, 28, 28] and labels."""
    images, labels = read_mnist(mnist, "train")
    digits, digit_labels = (part[:DIGITS_TRAINING_SAMPLES] for part in digits28())
    all_images = np.concatenate([images, *[digits] * DIGITS_REPEATS])
    all_labels = np.concatenate([labels, *[digit_labels] * DIGITS_REPEATS])
    return torch.from_numpy(all_images[:, None]), torch.from_numpy(all_labels)


def augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """Turn (up to 6 degrees), stretch (6 %), slant (0.06) and shift (1 pixel) each image at random."""
    count = len(images)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=rng) * 2 - 1) * limit

    angle, slant = uniform(np.pi / 30), uniform(0.06)
    cos, sin = angle.cos(), angle.sin()
    wide, high = 1 + uniform(0.06), 1 + uniform(0.06)
    # The image spans -1..1, so that 28 pixels are 2 units.
    across, down = uniform(1 / 14), uniform(1 / 14)
    top = torch.stack([cos * wide, slant - sin, across], 1)
    bottom = torch.stack([sin, cos * high, down], 1)
    grid = functional.affine_grid(torch.stack([top, bottom], 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(mnist: Path, epochs: int, learning_rate: float, seed: int) -> FiveLayerCnn:
    """Train by cross-entropy with Adam; the learning rate rises, then falls to zero."""
    torch.manual_seed(seed)
    # The steps are too small to share, and the result no longer depends on the number of cores.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    rng = torch.Generator().manual_seed(seed)
    images, labels = training_images(mnist)
    model = FiveLayerCnn()
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    steps = epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps)
    start = time.monotonic()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for chosen in torch.randperm(len(images), generator=rng).split(BATCH):
            logits = model(augment(images[chosen].float() / MAX_INPUT, rng))
            loss = functional.cross_entropy(logits, labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(chosen)
        print(f"epoch {epoch:3} of {epochs}: loss {total / len(images):.4f}, {time.monotonic() - start:.0f} s")
    return model


def export_arrays(model: FiveLayerCnn, cell_error: float = 0.0, seed: int = 0) -> Arrays:
    """Quantised weights and float biases by initializer name.

    With a `cell_error` in levels, each of a weight's two cells misses its level by a normal error.
    """
    rng = np.random.default_rng(seed)
    arrays: Arrays = {}
    for name, layer in model.layers().items():
        levels, scale = (tensor.numpy() for tensor in quantise_weight(layer.weight.detach()))
        assert (np.abs(levels).reshape(len(levels), -1).max(1) == MAX_LEVEL).all()
        error = cell_error * np.sqrt(2) * rng.standard_normal(levels.shape)
        arrays[f"{name}.weight"] = ((levels + error) * scale).astype(np.float32)
        arrays[f"{name}.bias"] = layer.bias.detach().numpy()
    return arrays


def onnx_model(arrays: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """The network as plain ONNX operators, for any batch size."""

    def convolution(name: str, source: str) -> onnx.NodeProto:
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        return helper.make_node("Conv", inputs, [f"{name}_out"], name=name, kernel_shape=[3, 3])

    def pool(name: str, source: str, size: int) -> onnx.NodeProto:
        window = {"kernel_shape": [size, size], "strides": [size, size], "ceil_mode": 1}
        return helper.make_node("MaxPool", [source], [f"{name}_out"], name=name, **window)

    nodes = [
        convolution("C1", "image"),
        helper.make_node("Relu", ["C1_out"], ["relu1_out"], name="relu1"),
        pool("pool2", "relu1_out", 3),
        convolution("C3", "pool2_out"),
        helper.make_node("Relu", ["C3_out"], ["relu3_out"], name="relu3"),
        pool("pool4", "relu3_out", 2),
        helper.make_node("Flatten", ["pool4_out"], ["flatten_out"], name="flatten"),
        helper.make_node("Gemm", ["flatten_out", "FC.weight", "FC.bias"], ["logits"], name="FC", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "five_layer_cnn",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="train_five_layer_cnn.py",
        doc_string="Five-layer CNN for 28x28 digits in 0..1; weights are levels -7..7 times a scale per channel.",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def accuracy(model: onnx.ModelProto, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    """Percentage of images [N, 28, 28] that onnxruntime classifies as labelled."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": images[:, None].astype(np.float32) / MAX_INPUT})
    return 100.0 * float(np.mean(np.argmax(logits, 1) == labels))


def report(model: FiveLayerCnn, mnist: Path, draws: int = 20) -> None:
    """Print the accuracies in onnxruntime: as trained, and with cells that miss their levels."""
    exact = onnx_model(export_arrays(model))
    images, labels = read_mnist(mnist, "t10k")
    digits, digit_labels = (part[DIGITS_TRAINING_SAMPLES:] for part in digits28())
    noisy = [accuracy(onnx_model(export_arrays(model, CELL_ERROR, seed)), images, labels) for seed in range(draws)]
    print(f"MNIST test ({len(images):,} images):       {accuracy(exact, images, labels):.2f} %")
    print(f"digits, from image {DIGITS_TRAINING_SAMPLES:,} on ({len(digits)}): ", end="")
    print(f"{accuracy(exact, digits, digit_labels):.2f} %")
    print(f"MNIST test, each cell off by {CELL_ERROR} level: {np.mean(noisy):.2f} +- {np.std(noisy):.2f} %")


def main() -> int:
    """Train, write the ONNX file and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = os.environ.get("MEMCOMPILE_DATA")
    parser.add_argument(
        "--mnist",
        type=Path,
        default=data,
        required=data is None,
        metavar="DIR",
        help="directory of MNIST's four IDX files (default: $MEMCOMPILE_DATA)",
    )
    parser.add_argument("--epochs", type=int, default=50, help="passes over the data (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=5e-3, help="its highest value (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of all randomness (default: %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).with_name("five_layer_cnn.onnx"),
        metavar="FILE",
        help="ONNX file to write (default: %(default)s)",
    )
    options = parser.parse_args()
    try:
        model = train(options.mnist, options.epochs, options.learning_rate, options.seed)
        onnx.save(onnx_model(export_arrays(model)), options.output)
        report(model, options.mnist)
    except DataError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

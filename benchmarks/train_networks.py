"""Train four small networks on MNIST that no constant of the noise model was chosen on, and write them as ONNX.

    python benchmarks/train_networks.py --data MNIST_DIR FOLDER

A perceptron, LeNet-5 with ReLU, a CNN with depthwise convolutions and batch normalisation, and a vision transformer
with two blocks. PyTorch is needed, and two minutes. ``benchmarks/noise_model.py --network NAME=FILE`` predicts them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from memcompile.data import read_mnist

BATCH = 128
TRAINED_ON = 20_000
"""Images of the training part that networks other than the perceptron see."""
PEAK_RATE, DECAY = 4e-3, 1e-3


class Separable(nn.Module):
    """Depthwise and pointwise convolution, each with batch normalisation and ReLU6."""

    def __init__(self, reads: int, makes: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(reads, reads, 3, stride, 1, groups=reads, bias=False),
            nn.BatchNorm2d(reads),
            nn.ReLU6(),
            nn.Conv2d(reads, makes, 1, bias=False),
            nn.BatchNorm2d(makes),
            nn.ReLU6(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features [N, makes, H / stride, W / stride]."""
        return self.layers(x)


class Block(nn.Module):
    """Self-attention and a perceptron, with normalisation in front of each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [N, T, width]."""
        count, tokens, width = x.shape
        parts = self.attend(self.first(x)).reshape(count, tokens, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(queries @ keys.transpose(-1, -2) * (width // self.heads) ** -0.5, -1)
        x = x + self.joined((weights @ values).transpose(1, 2).reshape(count, tokens, width))
        return x + self.perceptron(self.second(x))


class VisionTransformer(nn.Module):
    """Sixteen patches of 7 x 7, two blocks, the mean of all tokens."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, 7)
        self.places = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.blocks = nn.Sequential(Block(width, 4), Block(width, 4))
        self.last, self.scores = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores [N, 10] of images [N, 1, 28, 28]."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.scores(self.last(self.blocks(tokens)).mean(1))


def networks() -> dict[str, tuple[nn.Module, int]]:
    """Networks by name, and the epochs that each is trained for."""
    perceptron = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    lenet = nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )
    separable = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()),
        *(Separable(16, 32, 1), Separable(32, 64, 2), Separable(64, 64, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )
    return {
        "perceptron": (perceptron, 6),
        "lenet": (lenet, 4),
        "separable": (separable, 4),
        "transformer": (VisionTransformer(), 6),
    }


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train with AdamW and one cycle of the learning rate; leaves the network ready to score."""
    steps = epochs * (len(images) // BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), PEAK_RATE / 2, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, total_steps=steps)
    network.train()
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for first in range(0, len(images) - BATCH + 1, BATCH):
            some = order[first : first + BATCH]
            loss = functional.cross_entropy(network(images[some]), labels[some])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    network.eval()


def main(argv: Sequence[str] | None = None) -> int:
    """Train all networks and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory with MNIST")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(argv)
    options.folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    (images, labels), (others, wanted) = (
        (torch.from_numpy(x[:, None].astype(np.float32) / 255), torch.from_numpy(y.astype(np.int64)))
        for x, y in (read_mnist(options.data, "train"), read_mnist(options.data, "t10k"))
    )
    for name, (network, epochs) in networks().items():
        count = len(images) if name == "perceptron" else TRAINED_ON
        train(network, images[:count], labels[:count], epochs)
        with torch.no_grad():
            right = torch.cat([network(some).argmax(1) for some in others.split(500)]) == wanted
        axes = {"image": {0: "N"}, "scores": {0: "N"}}
        torch.onnx.export(
            network,
            (images[:1],),
            options.folder / f"{name}.onnx",
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes=axes,
            dynamo=False,
        )
        print(f"{name}: {100 * float(right.float().mean()):.2f} % of MNIST's test images", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

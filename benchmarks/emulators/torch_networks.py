"""ResNets with random weights in PyTorch, for emulators that convert PyTorch modules and for export to ONNX.

Values of weights do not change how long an emulator takes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn


class Block(nn.Module):
    """Two convolutions beside a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, 3, stride)
        self.second = convolution(outputs, outputs, 3, 1)
        plain = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if plain else convolution(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs of the block."""
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


def convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Module:
    """A convolution with batch normalisation."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs))


def resnet(stem: nn.Module, widths: tuple[int, ...], blocks: int, classes: int) -> nn.Module:
    """A residual network: so many blocks of each width."""
    layers, inputs = [stem, nn.ReLU()], widths[0]
    if widths[0] == 64:
        layers.append(nn.MaxPool2d(3, 2, 1))
    for width in widths:
        for number in range(blocks):
            layers.append(Block(inputs, width, 2 if number == 0 and width != widths[0] else 1))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)).eval()


def network(name: str) -> nn.Module:
    """ResNet-20 for CIFAR-10, or ResNet-18 for ImageNet."""
    torch.manual_seed(0)
    if name == "resnet20":
        return resnet(convolution(3, 16, 3, 1), (16, 32, 64), 3, 10)
    return resnet(convolution(3, 64, 7, 2), (64, 128, 256, 512), 2, 1000)


def write_onnx(name: str, size: int, path: Path) -> None:
    """Write a network for any number of images [3, size, size]."""
    axes = {"image": {0: "batch"}, "scores": {0: "batch"}}
    torch.onnx.export(
        network(name),
        (torch.zeros(1, 3, size, size),),
        str(path),
        dynamo=False,
        input_names=["image"],
        output_names=["scores"],
        dynamic_axes=axes,
    )

"""Gradients of a loss through a measured forward pass.

Going forward, every value was measured on the chip, with all its errors. Going back, a crossbar layer is the linear map
that its cells hold as read back (the mean over its replicas), its input quantiser passes gradients where it did not
clip (straight-through estimate, Bengio et al. 2013), and digital operators have their own adjoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.geometry import Unrolling
from memcompile.ir.graph import MappedLayer
from memcompile.ir.quantizers import ExactInput
from memcompile.program.line_corrections import LineCorrections, places_of
from memcompile.program.program import DigitalStage, Program
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.adjoints import StageAdjoint

IMAGES_AT_ONCE = 25
"""All values of so many images are kept until the gradient has come back to them."""


@dataclass(frozen=True, eq=False)
class LayerGradient:
    """Gradient for one layer, summed over images.

    ``levels`` is [groups, group_rows, group_columns], for weights in units of one level of the least
    significant slice; ``squares`` sums the squares of the single images' gradients the same way.
    ``scale`` (for its logarithm) and ``bias`` are [out_channels].
    """

    levels: NDArray[np.float64]
    squares: NDArray[np.float64]
    scale: NDArray[np.float64]
    bias: NDArray[np.float64]

    def __add__(self, other: LayerGradient) -> LayerGradient:
        return LayerGradient(
            self.levels + other.levels,
            self.squares + other.squares,
            self.scale + other.scale,
            self.bias + other.bias,
        )


class Backward:
    """Measures forward from one stage to the last crossbar layer, and goes back.

    Parameters
    ----------
    first_layer
        Number of the first crossbar layer that gradients are wanted for.
    """

    def __init__(self, program: Program, first_layer: int) -> None:
        self.first_layer = first_layer
        self.first_stage = program.stages.index(program.layers[first_layer])
        self.last_stage = program.stages.index(program.layers[-1])
        between = program.stages[self.first_stage : self.last_stage]
        walked = program.stages[self.first_stage : self.last_stage + 1]
        made = {value for stage in walked for value in stage.outputs} | set(program.constants)
        self.reads = tuple(
            dict.fromkeys(name for stage in walked for name in stage.inputs if name and name not in made)
        )
        """Values from before the first stage that :meth:`forward` needs."""
        self._adjoints = {stage.name: StageAdjoint(stage) for stage in between if isinstance(stage, DigitalStage)}

    def forward(
        self, emulator: Emulator, values: Mapping[str, NDArray[Any]], images: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """All values up to the last crossbar layer's output, measured."""
        known = {**emulator.program.constants, **values}
        for stage in emulator.program.stages[self.first_stage : self.last_stage + 1]:
            known.update(emulator.run_stage(stage, known, images))
        return known

    def back(
        self,
        program: Program,
        values: Mapping[str, NDArray[Any]],
        error: NDArray[np.float64],
        levels: Mapping[int, NDArray[np.float32]],
    ) -> dict[int, LayerGradient]:
        """Gradients for the layers from the first on, by layer number.

        Parameters
        ----------
        values
            Values that :meth:`forward` measured.
        error
            Gradient of the loss for the last layer's output, [images, classes].
        levels
            Levels that the cells of each layer hold, in the layout of :class:`LayerGradient`.
        """
        last = program.layers[-1].outputs[0]
        gradients: dict[str, NDArray[Any]] = {last: error.astype(np.float32).reshape(values[last].shape)}
        found: dict[int, LayerGradient] = {}
        number = len(program.layers)
        for stage in reversed(program.stages[self.first_stage : self.last_stage + 1]):
            if isinstance(stage, MappedLayer):
                number -= 1
                arriving = gradients.pop(stage.outputs[0], None)
                if arriving is None:
                    continue
                output = values[stage.outputs[0]]
                if program.calibration is not None:
                    arriving, output = _before_corrections(stage, program.calibration.layers[number], arriving, output)
                found[number] = _of_layer(stage, values, output, arriving)
                if number > self.first_layer:
                    self._add(gradients, {stage.inputs[0]: _of_input(stage, values, arriving, levels[number])})
                continue
            arriving_here = {name: gradients.pop(name) for name in stage.outputs if name in gradients}
            if arriving_here:
                self._add(gradients, self._adjoints[stage.name].pull(values, arriving_here))
        return found

    @staticmethod
    def _add(gradients: dict[str, NDArray[Any]], more: Mapping[str, NDArray[Any]]) -> None:
        for name, part in more.items():
            gradients[name] = gradients[name] + part if name in gradients else part


def _grouped(layer: MappedLayer, y: NDArray[Any]) -> NDArray[Any]:
    """A layer's output, or its gradient, as [batch, groups, group_columns, positions]."""
    geometry = layer.geometry
    if geometry.layout == "channels_last":
        y = y.reshape(-1, geometry.positions, geometry.out_channels).transpose(0, 2, 1)
    return y.reshape(-1, geometry.groups, geometry.group_columns, geometry.positions)


def _before_corrections(
    layer: MappedLayer, corrections: LineCorrections, arriving: NDArray[Any], y: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Gradient and output as they are before the gains and offsets of lines: y = gain before + offset."""
    place = places_of(layer)
    gain, offset = (array[place].T for array in (corrections.gain, corrections.offset))
    if layer.geometry.layout == "channels_last":
        gain, offset = gain.T, offset.T
    shape = (-1, *gain.shape)
    before = (y.reshape(shape) - offset) / gain
    return (arriving.reshape(shape) * gain).reshape(arriving.shape), before.reshape(y.shape)


def _of_layer(
    layer: MappedLayer, values: Mapping[str, NDArray[Any]], output: NDArray[Any], arriving: NDArray[Any]
) -> LayerGradient:
    geometry = layer.geometry
    inputs = layer.quantizer.quantize(geometry.to_channels_first(values[layer.inputs[0]])).astype(np.float32)
    vectors = Unrolling.im2col(geometry).vectors(inputs)
    grouped = _grouped(layer, arriving)
    scale, bias = (array.reshape(geometry.groups, -1, 1) for array in (layer.scale, layer.bias))
    # One product an image: [batch, groups, rows, columns].
    each = np.matmul(vectors, (grouped * scale).transpose(0, 1, 3, 2))
    swing = _grouped(layer, output) - bias
    return LayerGradient(
        levels=each.sum(axis=0, dtype=np.float64),
        squares=np.square(each).sum(axis=0, dtype=np.float64),
        scale=(grouped * swing).sum(axis=(0, 3), dtype=np.float64).ravel(),
        bias=grouped.sum(axis=(0, 3), dtype=np.float64).ravel(),
    )


def _of_input(
    layer: MappedLayer, values: Mapping[str, NDArray[Any]], arriving: NDArray[Any], levels: NDArray[np.float32]
) -> NDArray[Any]:
    geometry, quantizer = layer.geometry, layer.quantizer
    grouped = _grouped(layer, arriving) * layer.scale.reshape(geometry.groups, -1, 1)
    folded = Unrolling.im2col(geometry).fold(np.matmul(levels, grouped))
    x = values[layer.inputs[0]]
    if geometry.layout == "channels_last":
        folded = folded.reshape(len(folded), geometry.in_channels, -1).transpose(0, 2, 1)
    if isinstance(quantizer, ExactInput):
        return folded.reshape(x.shape)
    steps = np.rint(x / np.float32(quantizer.scale))
    passed = (steps >= quantizer.lowest) & (steps <= quantizer.highest)
    return np.where(passed, folded.reshape(x.shape) / np.float32(quantizer.scale), 0)

"""Loss of mappings against the float network, predicted from the noise of chips and the rounding of weights.

What rounding takes from a layer's output counts like noise of its power: it is as good as unrelated to the classes.
That of a mapping's weights is found against the finest slices. The rest of the difference between the float network and
ideal devices, such as that of quantised inputs, is the same for all mappings, and is measured once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.loss_model import LossModel
from memcompile.data.loader import Dataset
from memcompile.frontend.values import Value
from memcompile.ir.graph import PairedLayer, Replica, TiledLayer
from memcompile.noise.layer_inputs import LayerInputs
from memcompile.noise.layer_noise import LEAST_VECTORS, MappingChoice, layer_noise
from memcompile.noise.output_noise import output_noise
from memcompile.noise.program_noise import layer_ratios, line_weights
from memcompile.passes.replicate import all_windows
from memcompile.program.program import Program
from memcompile.runtime.emulator import Emulator

Reference = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, Value]]
"""Function from samples, [samples, ...] per input, to outputs of the float network."""

COMPARED = 200
"""Samples on which ideal devices are compared with the float network."""
MOST_SHARED = 0.5
"""Share of a budget that noise which no mapping changes may take; what is beyond is nothing that slices could mend."""


class LossPredictor:
    """Predicts what calibrated chips of a mapping lose against the float network.

    Parameters
    ----------
    first
        A mapping of the network.
    model
        What was measured of the network.
    inputs
        Quantised inputs of its layers.
    finest
        Its layers with the most slices, by name.
    samples, reference
        Samples to compare ``first`` on ideal devices with the float network, and that network.
    """

    def __init__(
        self,
        first: Program,
        model: LossModel,
        inputs: Sequence[LayerInputs],
        finest: Mapping[str, TiledLayer],
        samples: Dataset,
        reference: Reference,
    ) -> None:
        self.first, self.model, self.inputs = first, model, inputs
        self._sensitivities = model.sensitivities
        self._finest = [finest[layer.name] for layer in first.layers]
        self._rounding: dict[tuple[int, int, bytes], float] = {}
        some = samples.head(COMPARED).inputs
        apart = output_noise(first, reference(some), Emulator.ideal(first).run(some), classes=True)
        rounded = np.array([self._rounding_ratio(number, layer) for number, layer in enumerate(first.layers)])
        self.shared = max(0.0, apart / max(model.share, 1e-12) - float(self._sensitivities @ rounded))

    def loss(self, program: Program) -> float:
        """Points that a mapping is predicted to lose."""
        return self.model.loss_at(self.model.share * self._noise(program))

    def loss_of(self, noise: float) -> float:
        """Points that are lost where :meth:`option_noise` of all layers sums up to ``noise``."""
        return self.model.loss_at(self.model.share * (noise + self.shared))

    def uncertainty(self, program: Program) -> float:
        """Standard error of the predicted loss, in points."""
        return self.model.uncertainty(self.loss(program))

    @property
    def shared_loss(self) -> float:
        """Points that are lost with any mapping."""
        return self.model.loss_at(self.model.share * self.shared)

    def limit(self, points: float) -> float:
        """Largest sum over layers of :meth:`option_noise` at which no more points are lost."""
        return max(self.model.limit(points) - self.shared, 0.0)

    def on(self, first: Program) -> LossPredictor:
        """The same network with its first mapping on another target."""
        found = copy.copy(self)
        found.first = first
        return found

    def correct(self, factors: NDArray[np.float64]) -> None:
        """Multiply the sensitivity to each layer by what was learned of it, [layers]."""
        self._sensitivities = self._sensitivities * factors

    def option_noise(self, number: int, layer: TiledLayer, replica: Replica) -> float:
        """Noise at the outputs that a layer adds if it is laid out as a replica, with the digits of ``layer``."""
        ratio = self._chip_ratio(number, layer, replica) + self._rounding_ratio(number, layer)
        return float(self._sensitivities[number] * ratio)

    def _noise(self, program: Program) -> float:
        """Sum over layers of their noise at the outputs, and what all mappings share."""
        ratios = [
            layer_ratios(program, number, own).total.calibrated + self._rounding_ratio(number, program.layers[number])
            for number, own in enumerate(self.inputs)
        ]
        return float(self._sensitivities @ np.array(ratios)) + self.shared

    def _chip_ratio(self, number: int, layer: TiledLayer, replica: Replica) -> float:
        """Noise-to-signal ratio of a layer on calibrated chips."""
        mapped = self.first.layers[number]
        digits = layer.cells[0].astype(np.int16) - layer.cells[1]
        choice = MappingChoice(digits, layer.base, replica.unrolling, replica.cut, replica.windows, mapped.range_share)
        noise = layer_noise(self.inputs[number], self.first.target, choice)
        weights = line_weights(layer, replica)
        signal = float((weights * noise.signal).sum())
        return float((weights * np.maximum(noise.total.calibrated, 0.0)).sum()) / signal if signal > 0 else 0.0

    def _rounding_ratio(self, number: int, layer: PairedLayer) -> float:
        """Power that rounding takes from a layer's output, or adds to it, by the output's variance."""
        key = number, layer.base, layer.scale.tobytes()
        if key not in self._rounding:
            self._rounding[key] = rounding_ratio(self.inputs[number], layer, self._finest[number])
        return self._rounding[key]


def allowed_loss(points: float, shared: float) -> float:
    """Points to hold under a budget of ``points`` where ``shared`` ones are lost with any mapping.

    A mapping may always spend a share of the budget of its own, since no slices win back what others lose.
    """
    return max(points, shared + (1 - MOST_SHARED) * points)


def rounding_ratio(inputs: LayerInputs, layer: PairedLayer, finest: TiledLayer) -> float:
    """Variance of the difference of two roundings of a layer's output, by the variance of the finer one.

    Means are equal: they are taken up by the bias.
    """
    whole = all_windows(finest.unrolling, finest.cut)
    vectors = inputs.vectors(whole.unrolling, whole.windows, LEAST_VECTORS).transpose(1, 0, 2)
    coarse, fine = (
        np.matmul(vectors, whole.unrolling.expand(own.integer_matrix().astype(np.float32)))
        * _scales(own, whole)[:, None]
        for own in (layer, finest)
    )
    signal = float(fine.var(axis=1, dtype=np.float64).sum())
    return float((coarse - fine).var(axis=1, dtype=np.float64).sum()) / signal if signal > 0 else 0.0


def _scales(layer: PairedLayer, replica: Replica) -> NDArray[np.float32]:
    """Digital scale of each output line, [matrices, columns]; 0 of lines without an output."""
    unrolling, geometry = replica.unrolling, layer.geometry
    scales = np.zeros(unrolling.matrices * unrolling.bundle * geometry.group_columns, np.float32)
    scales[: geometry.out_channels] = layer.scale
    by_group = scales.reshape(unrolling.matrices, unrolling.bundle, 1, geometry.group_columns)
    return np.tile(by_group, (1, 1, unrolling.window_outputs, 1)).reshape(unrolling.matrices, unrolling.columns)

"""Noise of the layers of a compiled program, averaged over replicas and output lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from memcompile.hardware.conditions import NEW, Conditions
from memcompile.ir.graph import MappedLayer, Replica
from memcompile.noise.cause import Cause
from memcompile.noise.gaussians import Array
from memcompile.noise.layer_inputs import LayerInputs
from memcompile.noise.layer_noise import MappingChoice, layer_noise
from memcompile.program.program import Program

REPLICAS = 3
"""Replicas of a layer that stand for all of them, evenly spread."""


@dataclass(frozen=True)
class Ratio:
    """Noise-to-signal ratio of a layer's output: noise power over the variance of the ideal output."""

    plain: float
    calibrated: float


@dataclass(frozen=True, eq=False)
class LayerRatios:
    """Noise-to-signal ratios of a layer by cause."""

    causes: Mapping[Cause, Ratio]

    @property
    def total(self) -> Ratio:
        """Sum over causes."""
        of = self.causes.values()
        return Ratio(sum(item.plain for item in of), sum(item.calibrated for item in of))


def choice_of(program: Program, number: int, copy: int) -> MappingChoice:
    """The mapping choice that a replica of a compiled layer is, both given by their numbers."""
    layer, tiles = program.layers[number], program.placement.tiles
    replica = layer.replicas[copy]
    own = (tiles.layer == number) & (tiles.replica == copy)
    shape = (replica.unrolling.matrices, len(replica.cut.rows) - 1, len(replica.cut.columns) - 1, 2)
    return MappingChoice(
        layer.cells[0].astype(np.int16) - layer.cells[1],
        layer.base,
        replica.unrolling,
        replica.cut,
        replica.windows,
        layer.range_share,
        corners=np.stack([tiles.input_line[own], tiles.output_line[own]], axis=1).reshape(shape),
    )


def layer_ratios(program: Program, number: int, inputs: LayerInputs, age: Conditions = NEW) -> LayerRatios:
    """Ratios of a layer of a program, channels weighted by their digital scale."""
    layer = program.layers[number]
    count = len(layer.replicas)
    chosen = np.unique(np.linspace(0, count - 1, min(count, REPLICAS)).astype(int))
    power: dict[Cause, Array] = {}
    signal = 0.0
    for copy in chosen.tolist():
        replica = layer.replicas[copy]
        noise = layer_noise(inputs, program.target, choice_of(program, number, copy), age)
        weight = line_weights(layer, replica)
        signal += float((weight * noise.signal).sum())
        for cause, own in noise.powers.items():
            both = np.array([(weight * own.plain).sum(), (weight * own.calibrated).sum()])
            power[cause] = power.get(cause, np.zeros(2)) + both
    if signal == 0:
        return LayerRatios({})
    return LayerRatios({cause: Ratio(*(np.maximum(both, 0.0) / signal).tolist()) for cause, both in power.items()})


def line_weights(layer: MappedLayer, replica: Replica) -> Array:
    """Weight of each output line of a replica in the layer's power: its outputs times its scale squared.

    Lines of windows at the far edge have fewer outputs or none; those that fill up a bundle have none.

    Returns
    -------
    [matrices, columns].
    """
    unrolling, geometry = replica.unrolling, layer.geometry
    outputs = (unrolling.window_positions()[replica.windows] >= 0).sum(axis=0)
    scales = np.zeros(unrolling.matrices * unrolling.bundle * geometry.group_columns)
    scales[: geometry.out_channels] = np.square(layer.scale.astype(np.float64))
    by_group = scales.reshape(unrolling.matrices, unrolling.bundle, 1, geometry.group_columns)
    weights: Array = by_group * outputs[:, None]
    return weights.reshape(unrolling.matrices, unrolling.columns)

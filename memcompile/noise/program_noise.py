"""Noise of the layers of a compiled program, averaged over replicas and output lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from memcompile.hardware.conditions import NEW, Conditions
from memcompile.ir.graph import MappedLayer, PairedLayer, Replica
from memcompile.noise.cause import Cause
from memcompile.noise.gaussians import Array
from memcompile.noise.layer_inputs import LayerInputs
from memcompile.noise.layer_noise import MappingChoice, layer_noise
from memcompile.program.program import Program

REPLICAS = 3
"""Replicas that stand for all that are unrolled and cut alike, evenly spread: they lie at different places of wires."""


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

    def ratio(self, calibrated: bool, cause: Cause | None = None) -> float:
        """Ratio of one cause, or of all, on chips with or without a scale and an offset for each output line."""
        causes = self.causes
        found = causes.values() if cause is None else [causes[cause]] if cause in causes else []
        return sum(item.calibrated if calibrated else item.plain for item in found)


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


def layer_ratios(
    program: Program, number: int, inputs: LayerInputs, age: Conditions = NEW, *, stand_in: bool = False
) -> LayerRatios:
    """Ratios of a layer of a program, channels weighted by their digital scale.

    ``stand_in`` is as in :func:`~memcompile.noise.layer_noise.layer_noise`.
    """
    layer = program.layers[number]
    power: dict[Cause, Array] = {}
    signal = 0.0
    for copies in _alike(layer):
        # A window at the edge may see nothing at all, so that no single replica stands for the others.
        windows = np.concatenate([layer.replicas[copy].windows for copy in copies])
        chosen = np.unique(np.linspace(0, len(copies) - 1, min(len(copies), REPLICAS)).astype(int)).tolist()
        for copy in (copies[place] for place in chosen):
            choice = replace(choice_of(program, number, copy), windows=windows)
            noise = layer_noise(inputs, program.target, choice, age, stand_in=stand_in)
            weight = line_weights(layer, replace(layer.replicas[copy], windows=windows)) / len(chosen)
            signal += float((weight * noise.signal).sum())
            for cause, own in noise.powers.items():
                both = np.array([(weight * own.plain).sum(), (weight * own.calibrated).sum()])
                power[cause] = power.get(cause, np.zeros(2)) + both
    if signal == 0:
        return LayerRatios({})
    return LayerRatios({cause: Ratio(*(np.maximum(both, 0.0) / signal).tolist()) for cause, both in power.items()})


def _alike(layer: MappedLayer) -> list[list[int]]:
    """Numbers of the replicas that are unrolled and cut alike."""
    found: dict[object, list[int]] = {}
    for number, replica in enumerate(layer.replicas):
        found.setdefault((replica.unrolling, replica.cut), []).append(number)
    return list(found.values())


def line_weights(layer: PairedLayer, replica: Replica) -> Array:
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

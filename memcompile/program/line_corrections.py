"""Digital gain and offset of each output line of one chip.

A line has a converter and an adder of its own, so what its cells get wrong on the whole can be taken back behind it:
the lines of every replica, and in a parallel window those of every output position, have their own. Output positions of
a layer that are read from the same lines are one *place*: places run over the replicas and, within one, over the
positions of its window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.arrays import read_only
from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import MappedLayer


@dataclass(frozen=True, eq=False)
class LineCorrections:
    """Corrections of a layer's output: gain * output + offset, both float32 [places, out_channels]."""

    gain: NDArray[np.float32]
    offset: NDArray[np.float32]

    @classmethod
    def none(cls, layer: MappedLayer) -> LineCorrections:
        """Corrections that change nothing."""
        shape = (count_places(layer), layer.geometry.out_channels)
        return cls(read_only(np.ones(shape, np.float32)), read_only(np.zeros(shape, np.float32)))

    def then(self, gain: NDArray[np.float64], offset: NDArray[np.float64]) -> LineCorrections:
        """These corrections with further ones behind them, [places, out_channels]."""
        return LineCorrections(
            read_only((self.gain * gain).astype(np.float32)),
            read_only((self.offset * gain + offset).astype(np.float32)),
        )


@dataclass(frozen=True, eq=False)
class Calibration:
    """Corrections of each crossbar layer, fitted to the chip of ``seed``."""

    seed: int
    layers: tuple[LineCorrections, ...]


def count_places(layer: MappedLayer) -> int:
    """Number of places of a layer."""
    return sum(replica.unrolling.window_outputs for replica in layer.replicas)


def places_of(layer: MappedLayer) -> NDArray[np.int64]:
    """Place that each output position is read from, int64 [positions].

    Where two replicas work on one window, the later one's output counts, as in the executors.
    """
    place, first = np.zeros(layer.geometry.positions, np.int64), 0
    for replica in layer.replicas:
        unrolling = replica.unrolling
        positions = unrolling.window_positions()[replica.windows]
        window, output = np.nonzero(positions >= 0)
        place[positions[window, output]] = first + output
        first += unrolling.window_outputs
    return place


def positions_of(geometry: Geometry, y: NDArray[Any]) -> NDArray[Any]:
    """A layer's output as [items, positions, out_channels]."""
    if geometry.layout == "channels_last":
        return y.reshape(-1, geometry.positions, geometry.out_channels)
    return y.reshape(-1, geometry.out_channels, geometry.positions).transpose(0, 2, 1)


def corrected_output(
    layer: MappedLayer, y: NDArray[Any], gain: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[Any]:
    """A layer's output with its lines corrected; gain and offset are [places, out_channels]."""
    place = places_of(layer)
    factors, terms = gain[place], offset[place]
    if layer.geometry.layout == "channels_first":
        factors, terms = np.ascontiguousarray(factors.T), np.ascontiguousarray(terms.T)
    fitted = y.reshape(-1, *factors.shape).astype(np.float64)
    fitted *= factors
    fitted += terms
    return fitted.reshape(y.shape).astype(y.dtype)

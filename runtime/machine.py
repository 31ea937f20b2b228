"""What both executors share: the program, the switched-on effects, the converter and the devices."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memcompile.program import Program
from memcompile.runtime.compiled import Workers
from memcompile.runtime.conversions import TileLines, pattern_sums
from memcompile.runtime.converter import Converter
from memcompile.runtime.devices import Devices
from memcompile.runtime.effects import Effects


class Machine:
    """One sample of the hardware a program runs on."""

    def __init__(self, program: Program, seed: int, effects: Effects, threads: int) -> None:
        self.program = program
        self.seed = seed
        self.effects = effects
        self.target = program.target
        self.workers = Workers(threads)
        self.tiles = program.placement.tiles
        self.converter = Converter.adc(program.target) if effects.adc else Converter.exact(program.target)
        self.devices = Devices(program, seed, effects, self.converter)
        sigma_us = program.target.read_noise.sigma_us if effects.read_noise else 0.0
        self.read_sigma = sigma_us / self.converter.unit_us
        """Read noise of one cell and phase, in converter units."""

    def lines(self, row: int) -> TileLines:
        """The output lines of one tile, prepared for conversion."""
        cells = self.devices.tile(row)
        rows, width = cells.shape
        assert self.converter.max_code is not None
        return TileLines(
            tables=pattern_sums(cells),
            variances=np.zeros((0, 256, width), np.float32),
            sigma=(self.read_sigma * np.sqrt(np.arange(rows + 1))).astype(np.float32),
            gain=np.ones(width, np.float32),
            rounding=np.full(width, 0.5, np.float32),
            max_code=np.float32(self.converter.max_code),
        )

    def tiles_of(self, layer: int, replica: int) -> NDArray[np.int64]:
        """Rows of the tile table that belong to one copy of a layer."""
        return np.flatnonzero((self.tiles.layer == layer) & (self.tiles.replica == replica))


class Executor(Protocol):
    """Computes the integer sums of crossbar layers."""

    def sums(self, layer: int, x: NDArray[np.int16], images: NDArray[np.int64]) -> NDArray[np.float64]:
        """Multiply quantised inputs with the weights of a layer.

        Parameters
        ----------
        layer
            Number of the crossbar layer.
        x
            Quantised input, [batch, in_channels, *input_size].
        images
            Number of each image, [batch].

        Returns
        -------
        [batch, out_channels, positions] in units of input step times weight step.
        """
        ...

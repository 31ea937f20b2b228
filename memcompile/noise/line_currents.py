"""Currents that the converters of a layer get on calibration inputs, against the range that they convert.

Lines carry the currents of cells without errors. Of large layers some matrices, tiles and lines stand for all.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.converter import Converter
from memcompile.ir.graph import MappedLayer, Replica, different_replicas
from memcompile.ir.quantizers import InputQuantizer
from memcompile.noise.conversions import lines_of
from memcompile.noise.layer_inputs import LayerInputs
from memcompile.program.program import Program

BINS = 64
"""Bins of a histogram from no current to the end of the range."""
LAST_BIN = 2 * BINS - 1
"""Bin that holds all larger currents, and as many below 0 where a line carries a difference."""
VECTORS = 256
"""Input vectors of a layer that are followed."""
MATRICES, TILES, COLUMNS = 8, 8, 64
"""Matrices of a layer, row tiles of a matrix and columns of a tile that are followed at most."""


@dataclass(frozen=True, eq=False)
class LineCurrents:
    """Histogram of the currents of a layer's output lines, one current a conversion.

    ``counts`` are conversions by bin; bin ``first`` is the first of them, and bin k holds currents from k / BINS to (k
    + 1) / BINS of the end of the range, the last ones all beyond. ``clipped`` conversions lie beyond the range;
    ``largest`` is the largest magnitude as a share of the range.
    """

    counts: NDArray[np.int64]
    first: int
    clipped: int
    largest: float

    @property
    def conversions(self) -> int:
        """Conversions that were followed."""
        return int(self.counts.sum())

    @property
    def clipped_share(self) -> float:
        """Part of the conversions that is clipped, 0..1."""
        return self.clipped / self.conversions if self.conversions else 0.0


def line_currents(program: Program, inputs: Sequence[LayerInputs]) -> list[LineCurrents]:
    """Currents of all layers of a program whose target has converters; ``inputs`` are those of each layer."""
    return [_of_layer(program, layer, own) for layer, own in zip(program.layers, inputs, strict=True)]


def _of_layer(program: Program, layer: MappedLayer, inputs: LayerInputs) -> LineCurrents:
    quantizer, converter = inputs.quantizer, Converter.adc(program.target, layer.range_share)
    assert isinstance(quantizer, InputQuantizer)
    counts = np.zeros(2 * (LAST_BIN + 1), np.int64)
    clipped, largest = 0, 0.0
    for copy in different_replicas(layer.replicas):
        for currents in _currents(program, layer, copy, inputs, quantizer, converter):
            codes = np.floor(currents + np.float32(converter.half))
            clipped += int(((codes < converter.min_code) | (codes > converter.max_code)).sum())
            shares = currents / np.float32(converter.max_code or 1)
            largest = max(largest, float(np.abs(shares).max(initial=0.0)))
            bins = np.clip(np.floor(shares * BINS), -LAST_BIN - 1, LAST_BIN).astype(np.int64)
            counts += np.bincount(bins.ravel() + LAST_BIN + 1, minlength=len(counts))
    filled = np.flatnonzero(counts)
    begin, end = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (LAST_BIN + 1, LAST_BIN + 1)
    return LineCurrents(counts[begin:end], begin - LAST_BIN - 1, clipped, largest)


def _currents(
    program: Program,
    layer: MappedLayer,
    copy: Replica,
    inputs: LayerInputs,
    quantizer: InputQuantizer,
    converter: Converter,
) -> Iterator[NDArray[np.float32]]:
    """Currents in codes, [vectors, lines], of each followed tile and phase."""
    per_level = np.float32(converter.codes_per_level / converter.levels_per_code)
    vectors = inputs.vectors(copy.unrolling, copy.windows, VECTORS)[:VECTORS].astype(np.int16)
    cells = copy.unrolling.expand(layer.cells)  # polarity, slices, matrices, rows, columns
    columns = some_of(cells.shape[-1], COLUMNS)
    for matrix in some_of(cells.shape[2], MATRICES):
        for number in some_of(len(copy.cut.rows) - 1, TILES):
            begin, end = list(itertools.pairwise(copy.cut.rows))[number]
            levels = cells[:, :, matrix, begin:end][..., columns].astype(np.float32)
            nothing = np.zeros((*levels.shape[:2], levels.shape[-1]))
            lines = lines_of(levels, layer.base, program.target, nothing).levels * per_level
            for phase in range(quantizer.phase_count):
                yield quantizer.digits(vectors[:, matrix, begin:end], phase).astype(np.float32) @ lines


def some_of(count: int, most: int) -> NDArray[np.int64]:
    """Numbers below ``count``, all or evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))

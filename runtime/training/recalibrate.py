"""Recalibration: a digital gain and offset of each output line, fitted to what the chip really computes.

No cell is written. Layer by layer, a few hundred images run through the chip as it is, and each line is corrected by
what :mod:`memcompile.runtime.training.line_fit` finds. Later layers see inputs that earlier ones, already recalibrated,
have made.

Lines are those of :mod:`memcompile.program.line_corrections`: each replica and each output position of a parallel
window has its own cells, and so its own error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import MappedLayer
from memcompile.program.line_corrections import (
    Calibration,
    LineCorrections,
    corrected_output,
    count_places,
    places_of,
    positions_of,
)
from memcompile.program.program import Program
from memcompile.runtime.cells.cache import BoundedCache
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.line_fit import LineMoments, corrections_of

KEPT_BYTES = 100_000_000
"""Memory for the wanted values of a reference; those that do not fit are computed for each chip."""


class Reference:
    """Wanted values of calibration images, the same for all chips; kept as far as ``KEPT_BYTES`` hold them.

    Parameters
    ----------
    emulator
        Hardware whose outputs are wanted, such as ideal devices. It reads with other noise than the chips.
    """

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._kept = BoundedCache(KEPT_BYTES)

    def run_stage(
        self, number: int, values: Mapping[str, NDArray[Any]], images: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Outputs of a stage for images of these numbers; ``values`` are what it reads, the same in each call."""
        stage = self._emulator.program.stages[number]
        return self._kept.get(
            (number, int(images[0]), len(images)),
            lambda: self._emulator.run_stage(stage, values, images),
            lambda outputs: sum(value.nbytes for value in outputs.values() if isinstance(value, np.ndarray)),
        )


def recalibrate(
    chip: Emulator,
    inputs: Mapping[str, NDArray[Any]],
    *,
    first_image: int = 0,
    reference: Reference | None = None,
    scales: bool = True,
    advance: Callable[[int], None] | None = None,
) -> Emulator:
    """Fit the corrections of all lines to ideal devices, or to another reference.

    Parameters
    ----------
    chip
        The chip under the conditions in which it is measured; corrections that it has are fitted further.
    inputs
        Images, [N, ...] per input, without labels. Their numbers, from ``first_image`` on, key the read noise.
    reference
        What is wanted of these images; ideal devices when None. One reference serves all chips of a program that are
        fitted to the same images.
    scales
        Fit gains, and not offsets alone.
    advance
        Called with 1 after each layer.

    Returns
    -------
    The chip with its corrections.
    """
    program = chip.program
    reference = reference or Reference(Emulator.ideal(program))
    count = len(next(iter(inputs.values())))
    chunks = [_Chunk.of(program, chip, inputs, first_image, *cut) for cut in chip.batches.cuts(count)]
    last_read = {value: number for number, stage in enumerate(program.stages) for value in stage.inputs}
    corrected: list[LineCorrections] = []
    for number, stage in enumerate(program.stages):
        pairs = []
        for chunk in chunks:
            expected = reference.run_stage(number, chunk.wanted, chunk.images + count)
            outcome = chip.run_stage(stage, chunk.measured, chunk.images)
            chunk.wanted.update(expected)
            chunk.measured.update(outcome)
            pairs.append((expected, outcome))
        if isinstance(stage, MappedLayer):
            corrections = _corrections(program, len(corrected), stage)
            value, geometry = stage.outputs[0], stage.geometry
            outputs = [(positions_of(geometry, e[value]), positions_of(geometry, o[value])) for e, o in pairs]
            moments = LineMoments.of(outputs, places_of(stage), count_places(stage))
            gain, offset = corrections_of(moments, scales=scales)
            corrected.append(corrections.then(gain, offset))
            for chunk in chunks:
                chunk.measured[value] = corrected_output(stage, chunk.measured[value], gain, offset)
            if advance is not None:
                advance(1)
        for chunk in chunks:
            chunk.forget(value for value in (*stage.inputs, *stage.outputs) if last_read.get(value, -1) <= number)
    return chip.calibrated(Calibration(chip.machine.devices.seed, tuple(corrected)))


@dataclass(eq=False)
class _Chunk:
    """Images that run at once: their numbers, and the values of the reference and of the chip that are still read."""

    images: NDArray[np.int64]
    wanted: dict[str, NDArray[Any]]
    measured: dict[str, NDArray[Any]]

    @classmethod
    def of(
        cls,
        program: Program,
        chip: Emulator,
        inputs: Mapping[str, NDArray[Any]],
        first_image: int,
        begin: int,
        end: int,
    ) -> _Chunk:
        """Chunk of the images from ``begin`` to ``end``."""
        values = {**program.constants, **chip.batches.part(inputs, begin, end)}
        return cls(np.arange(first_image + begin, first_image + end), values, dict(values))

    def forget(self, names: Iterable[str]) -> None:
        """Drop values that nothing reads any more."""
        for name in names:
            self.wanted.pop(name, None)
            self.measured.pop(name, None)


def _corrections(program: Program, number: int, layer: MappedLayer) -> LineCorrections:
    return LineCorrections.none(layer) if program.calibration is None else program.calibration.layers[number]

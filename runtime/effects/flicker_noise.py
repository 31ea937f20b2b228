"""Flicker noise: 1/f noise that has accumulated since a cell was first read."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np

from memcompile.hardware.conditions import Conditions
from memcompile.program.program import Program
from memcompile.runtime.effects.cells import Cells, draw
from memcompile.runtime.effects.effect import Aging, WrittenArray
from memcompile.runtime.random_numbers import Purpose, seed_of_write


class FlickerNoise(Aging):
    """Acts on targets with a section ``flicker_noise``, at all times."""

    switch = "flicker_noise"

    def acts(self, program: Program, conditions: Conditions, on: AbstractSet[str]) -> bool:
        """Return True if the target has such noise."""
        return program.target.flicker_noise is not None

    def moved_us(self, cells_us: Cells, array: WrittenArray) -> Cells:
        """G (1 + share sqrt(ln((t + t_r) / (2 t_r))) z), never below 0 uS, with z drawn anew for each time.

        Noise of a spectrum 1/f has so much power between the frequencies 1 / t and 1 / t_r (Nandakumar et al., ICECS
        2019); the share is that of the conductance that writing left. All reads of a run see one sample.
        """
        spec, time_s = array.target.flicker_noise, array.conditions.time_s
        if spec is None:
            return cells_us
        seed = seed_of_write(array.seed, int(np.float64(time_s).view(np.uint64)))
        noise = draw(cells_us.shape, Purpose.FLICKER, array.number, seed)
        return np.maximum(cells_us * (1.0 + spec.share_at(array.written_us, time_s) * noise), 0.0)

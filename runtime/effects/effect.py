"""Base of effects: one imperfection of the hardware, its switch, its size, and how it moves cells.

One file an effect: it has the formula with its source, says when it acts, and draws what it needs. `switches.py` lists
them in the order in which they act.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import ClassVar

from memcompile.hardware.conditions import Conditions
from memcompile.hardware.target import Target
from memcompile.program.program import Program
from memcompile.runtime.effects.cells import Cells


@dataclass(frozen=True)
class WrittenArray:
    """An array whose cells have been written.

    ``seed`` decides what belongs to a cell, ``write_seed`` what is drawn anew in each write. ``goals_us`` are the
    conductances that writing aimed at and ``written_us`` those that it left, [input lines, columns of cells], in
    microsiemens. Of a chip that the program was transferred to both are what was measured.
    """

    target: Target
    number: int
    seed: int
    write_seed: int
    conditions: Conditions
    goals_us: Cells
    written_us: Cells


class Effect(ABC):
    """One imperfection."""

    switch: ClassVar[str]
    """Its field of :class:`memcompile.runtime.effects.switches.Effects`."""

    @abstractmethod
    def acts(self, program: Program, conditions: Conditions, on: AbstractSet[str]) -> bool:
        """Return True if its size is above zero; ``on`` are the effects before it that act."""


class Aging(Effect):
    """An imperfection that moves cells after they were written."""

    @abstractmethod
    def moved_us(self, cells_us: Cells, array: WrittenArray) -> Cells:
        """Conductances under the conditions of an array, [input lines, columns of cells], in microsiemens."""

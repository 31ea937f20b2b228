"""Switches of the imperfections of the hardware that the emulator applies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from memcompile.hardware.conditions import NEW, Conditions
from memcompile.hardware.target import Target
from memcompile.program.program import Program
from memcompile.runtime.effects.adc import Adc
from memcompile.runtime.effects.adc_error import AdcError
from memcompile.runtime.effects.dac_error import DacError
from memcompile.runtime.effects.dead_lines import DeadLines
from memcompile.runtime.effects.drift import Drift
from memcompile.runtime.effects.effect import Aging, Effect
from memcompile.runtime.effects.flicker_noise import FlickerNoise
from memcompile.runtime.effects.nonlinear_iv import NonlinearIv
from memcompile.runtime.effects.programming_error import ProgrammingError
from memcompile.runtime.effects.read_disturb import ReadDisturb
from memcompile.runtime.effects.read_noise import ReadNoise
from memcompile.runtime.effects.relaxation import Relaxation
from memcompile.runtime.effects.retention import Retention
from memcompile.runtime.effects.stuck_cells import StuckCells
from memcompile.runtime.effects.wires import Wires

EFFECTS: tuple[Effect, ...] = (
    # Errors of writing, then changes of written cells.
    StuckCells(),
    ProgrammingError(),
    Relaxation(),
    Retention(),
    Drift(),
    FlickerNoise(),
    ReadDisturb(),
    # Errors on the way from a cell to the code of its line.
    DeadLines(),
    DacError(),
    Wires(),
    NonlinearIv(),
    ReadNoise(),
    Adc(),
    AdcError(),
)
"""All effects in the order in which they act; each acts or not by those before it."""


@dataclass(frozen=True)
class Effects:
    """One switch per imperfection; what is on takes its size from the program's target."""

    programming_error: bool = True
    """Cells keep the error that closed-loop programming leaves."""
    stuck_cells: bool = True
    """A share of the cells cannot be programmed."""
    read_noise: bool = True
    """The conductance of a cell fluctuates while it is read."""
    adc: bool = True
    """Line currents go through converters of finite resolution and range."""
    relaxation: bool = True
    """Conductances spread after programming."""
    retention: bool = True
    """Conductances change with the logarithm of time."""
    drift: bool = True
    """Conductances change slowly with time."""
    flicker_noise: bool = True
    """Conductances have accumulated 1/f noise."""
    read_disturb: bool = True
    """Conductances shift with each read."""
    dead_lines: bool = True
    """A share of the lines is not driven or not sensed."""
    dac_error: bool = True
    """Input lines get voltages that differ from the read voltage."""
    adc_error: bool = True
    """Converters differ in gain and offset."""
    wires: bool = True
    """Lines have resistance, so voltages drop along them."""
    nonlinear_iv: bool = True
    """Cells carry a current that is not proportional to their voltage."""

    @classmethod
    def none(cls) -> Effects:
        """Perfect devices and converters: integer arithmetic of the quantised network."""
        return cls(**{switch.name: False for switch in fields(cls)})

    def sized(self, program: Program, conditions: Conditions = NEW) -> Effects:
        """The same with everything switched off that does not act under the conditions of a chip."""
        on: set[str] = set()
        for effect in EFFECTS:
            if getattr(self, effect.switch) and effect.acts(program, conditions, on):
                on.add(effect.switch)
        return Effects(**{switch.name: switch.name in on for switch in fields(self)})

    def aging(self) -> Iterator[Aging]:
        """Effects switched on that move cells after they were written, in the order in which they act."""
        return (effect for effect in EFFECTS if isinstance(effect, Aging) and getattr(self, effect.switch))

    def read_sigma_us(self, target: Target) -> float:
        """Read noise that every cell has, whatever its conductance, in uS; 0 where there is none."""
        return target.read_noise.least_sigma_us if self.read_noise else 0.0

    def names(self, but: tuple[str, ...] = ()) -> list[str]:
        """Names of what is switched on, in words."""
        on = [switch.name for switch in fields(self) if getattr(self, switch.name) and switch.name not in but]
        return [name.replace("_", " ") for name in on]

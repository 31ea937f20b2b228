"""Which imperfections of the hardware the emulator applies."""

from __future__ import annotations

from dataclasses import dataclass, fields

from memcompile.hardware.target import Target
from memcompile.program.program import Program


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
    drift: bool = True
    """Conductances change slowly with time."""
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

    def sized(self, program: Program, time_s: float) -> Effects:
        """The same with everything switched off whose size in the target is zero.

        ``time_s`` is the time since programming, in seconds.
        """
        target, programming = program.target, program.target.programming
        faults, wires, noise = target.faults, target.wires, target.read_noise
        has_programming = bool(
            program.chip is not None
            or target.emulated_pulses
            or programming.sigma_us
            or programming.sigma_proportional_share
            or any(programming.sigma_polynomial_us)
        )
        sizes = {
            "programming_error": has_programming,
            "stuck_cells": faults.stuck_low_share + faults.stuck_high_share > 0,
            "read_noise": noise.sigma_us + noise.proportional_share > 0,
            "adc": not target.cell.continuous,
            "relaxation": target.relaxation is not None and time_s > 0,
            "drift": target.drift is not None and time_s > target.drift.reference_s,
            "dead_lines": faults.dead_input_line_share + faults.dead_output_line_share > 0,
            "dac_error": target.input.dac_sigma_share > 0,
            "adc_error": self.adc and target.adc.gain_sigma_share + target.adc.offset_sigma_codes > 0,
            "wires": wires is not None and wires.input_segment_ohm + wires.output_segment_ohm > 0,
        }
        # At the read voltage, and at none, a cell carries what it was programmed to.
        sizes["nonlinear_iv"] = target.cell.nonlinearity_per_v > 0 and (
            target.input.bits_per_phase > 1
            or (self.dac_error and sizes["dac_error"])
            or (self.wires and sizes["wires"])
        )
        return Effects(**{name: getattr(self, name) and sized for name, sized in sizes.items()})

    def read_sigma_us(self, target: Target) -> float:
        """Read noise that every cell has, whatever its conductance, in uS; 0 where there is none."""
        return target.read_noise.sigma_us if self.read_noise else 0.0

    def names(self, but: tuple[str, ...] = ()) -> list[str]:
        """Names of what is switched on, in words."""
        on = [switch.name for switch in fields(self) if getattr(self, switch.name) and switch.name not in but]
        return [name.replace("_", " ") for name in on]

"""Which imperfections of the hardware the emulator applies."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Effects:
    """One switch per imperfection; what is on takes its size from the program's target."""

    programming_error: bool = True
    """Cells keep the error that closed-loop programming leaves."""
    stuck_cells: bool = True
    """A share of the cells cannot be programmed."""
    read_noise: bool = True
    """The conductance of a cell fluctuates from one bit phase to the next."""
    adc: bool = True
    """Line currents go through converters of finite resolution and range."""

    @classmethod
    def none(cls) -> Effects:
        """Perfect devices and converters: integer arithmetic of the quantised network."""
        return cls(**{switch.name: False for switch in fields(cls)})

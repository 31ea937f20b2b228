"""badcrossbar, which solves wires and cells with SciPy's sparse LU; it has neither noise nor networks."""

from __future__ import annotations

from collections.abc import Callable

import badcrossbar

from . import cases


def prepare(case: cases.Case) -> Callable[[], object] | str:
    """One call of all work of a case, or why there is none."""
    if not isinstance(case, cases.WiresCase):
        return "solves wires alone"
    cells_us, voltages = cases.wires_inputs()
    return lambda: badcrossbar.compute(voltages.T, 1e6 / cells_us, cases.SEGMENT_OHM, all_currents=False)

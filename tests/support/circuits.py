"""Circuits of crossbars with wires: their resistors, solved node by node, and by ngspice."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.linalg import splu


def resistors(
    cells_us: NDArray[np.float64], segments_ohm: tuple[float, float], leads: tuple[int, int]
) -> list[tuple[str, str, float]]:
    """Every resistor of the network: two nodes and ohms. Drivers are d0, d1, ...; ground is 0."""
    rows, lines = cells_us.shape
    parts = []
    for i in range(rows):
        parts.append((f"d{i}", f"u{i}_0", segments_ohm[0] * leads[0]))
        for j in range(lines):
            parts.append((f"u{i}_{j}", f"v{i}_{j}", 1e6 / cells_us[i, j]))
            if j + 1 < lines:
                parts.append((f"u{i}_{j}", f"u{i}_{j + 1}", segments_ohm[0]))
            if i + 1 < rows:
                parts.append((f"v{i}_{j}", f"v{i + 1}_{j}", segments_ohm[1]))
    parts += [(f"v{rows - 1}_{j}", f"s{j}", segments_ohm[1] * leads[1]) for j in range(lines)]
    return parts


def nodal_solution_us(
    cells_us: NDArray[np.float64], segments_ohm: tuple[float, float], leads: tuple[int, int]
) -> NDArray[np.float64]:
    """The same matrix by solving for every node voltage."""
    parts = resistors(cells_us, segments_ohm, leads)
    rows, lines = cells_us.shape
    inner = sorted({name for part in parts for name in part[:2] if name[0] in "uv"})
    number = {name: k for k, name in enumerate(inner)}
    entries = []
    sources = np.zeros((len(inner), rows))
    for a, b, ohm in parts:
        for here, there in ((a, b), (b, a)):
            if here in number:
                entries.append((number[here], number[here], 1 / ohm))
                if there in number:
                    entries.append((number[here], number[there], -1 / ohm))
                elif there[0] == "d":
                    sources[number[here], int(there[1:])] += 1 / ohm
    row, column, value = (np.array(part) for part in zip(*entries, strict=True))
    system = coo_array((value, (row.astype(int), column.astype(int)))).tocsc()
    voltages = splu(system).solve(sources)
    ends = [number[f"v{rows - 1}_{j}"] for j in range(lines)]
    solution: NDArray[np.float64] = (voltages[ends] / (segments_ohm[1] * leads[1])).T * 1e6
    return solution


def ngspice_currents(
    elements: Sequence[str], volts: NDArray[np.float64], outputs: int, folder: Path
) -> NDArray[np.float64]:
    """Simulate the currents out of a crossbar of these elements with ngspice, in amperes, [outputs].

    Nodes ``d0, d1, ...`` are driven with ``volts``, nodes ``s0, s1, ...`` are held at zero.
    """
    netlist = ["* crossbar", ".options reltol=1e-10 abstol=1e-18 vntol=1e-13 itl1=1000", *elements]
    netlist += [f"Vd{i} d{i} 0 {volt:.12g}" for i, volt in enumerate(volts)]
    netlist += [f"Vs{j} s{j} 0 0" for j in range(outputs)]
    prints = [f"print i(vs{j})" for j in range(outputs)]
    netlist += [".control", "set numdgt=12", "op", *prints, "quit", ".endc", ".end"]
    (folder / "net.cir").write_text("\n".join(netlist))
    done = subprocess.run(
        ["ngspice", "-b", str(folder / "net.cir")], capture_output=True, text=True, check=True, timeout=120
    )
    found = dict(line.split(" = ") for line in done.stdout.splitlines() if line.startswith("i(vs"))
    return np.array([float(found[f"i(vs{j})"]) for j in range(outputs)])

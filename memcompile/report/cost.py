"""Cost of a program by the constants of its target: time, energy, area and writing.

Everything follows from the tile table and the schedule: a tile works one step for each window of its replica, or for
each turn of its output lines where they share converters, each step has the phases of its layer's input, and in a phase
the tile's input lines and the output lines whose turn it is work. Figures whose constants the target does
not give are None, and ``Cost.not_included`` names the parts that no figure includes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

import numpy as np

from memcompile.hardware.pair_corrections import MOST_CORRECTIONS, mean_correction_us
from memcompile.hardware.pulses import LevelWrites, WriteReport, nominal_pulses
from memcompile.hardware.target import CellSpec, EnergySpec, Target
from memcompile.hardware.target_settings import SOURCE
from memcompile.ir.graph import MappedLayer
from memcompile.ir.sharing import own_replicas
from memcompile.program.program import Program
from memcompile.report.pass_cost import PassCost, pass_cost
from memcompile.timing.timetable import tile_turns, tile_windows

Energy = Mapping[str, float]
CONSTANTS = MappingProxyType(
    {
        "array": "energy.array_pj",
        "cells": "energy.cell_pj",
        "drivers": "energy.driver_pj",
        "sample_and_hold": "energy.sample_hold_pj",
        "conversion": "energy.conversion_pj",
        "shift_and_add": "energy.shift_add_pj",
        "addition": "energy.addition_pj",
        "buffer": "energy.buffer_pj",
        "link": "energy.link_pj",
        "crossing": "energy.crossing_pj",
        "writing": "write_verify.set_step_us",
    }
)
"""Field of the target that the energy of each component is proportional to, or mainly decided by."""


class Counting(Enum):
    """Way of counting multiply-accumulate operations, each of which is two operations.

    P. Yao et al. (2020) count every cell of an array in every step. A signed weight takes two cells
    or more, and parallel windows hold cells that no weight sits in, so the network itself does less.
    """

    WEIGHTS = "weights"
    """Each signed weight once per output position: what the network asks for."""
    CELLS = "cells"
    """Each cell of a working tile in each step."""


@dataclass(frozen=True)
class Activity:
    """Activity of the tiles of one layer for one image.

    ``tile_steps`` counts steps of one tile, one for each turn of a product, ``phases`` their phases, and the next
    three the input lines, output lines (that is conversions) and cells that work, summed over phases. ``buffered``
    counts values read from buffers for input lines, once a window, and results written to them, ``handed_on``
    values that leave a tile: results, and sums joined to the tile above. ``additions`` are digital ones after
    shift-and-add: each step a pair subtracted, slices joined, row tiles joined. ``cell_macs`` and ``weight_macs``
    count multiply-accumulate operations in both ways. ``conductance_phases_us`` sums the conductances of the
    working cells over phases.
    """

    layer: str
    tile_steps: int
    phases: int
    input_line_phases: int
    conversions: int
    cell_phases: int
    additions: int
    buffered: int
    handed_on: int
    cell_macs: int
    weight_macs: int
    conductance_phases_us: float

    def energy_pj(self, spec: EnergySpec) -> Energy:
        """Energy for one image by component, in picojoules; components without a constant are left out."""
        energy = {
            "array": spec.array_pj * self.phases,
            "cells": spec.cell_pj * self.cell_phases,
            "drivers": spec.driver_pj * self.input_line_phases,
            "sample_and_hold": spec.sample_hold_pj * self.conversions,
            "conversion": spec.conversion_pj * self.conversions,
            "shift_and_add": spec.shift_add_pj * self.conversions,
        }
        further = (("addition", spec.addition_pj, self.additions), ("buffer", spec.buffer_pj, self.buffered))
        for component, each_pj, count in (*further, ("link", spec.link_pj, self.handed_on)):
            if each_pj is not None:
                energy[component] = each_pj * count
        return MappingProxyType(energy)


@dataclass(frozen=True)
class TransferCost:
    """Cost of writing all weights once, with pulses of nominal size and cells delivered at g_min.

    ``most_pulses`` is that of the cell with the most.
    """

    report: WriteReport
    most_pulses: int


@dataclass(frozen=True)
class Cost:
    """Cost of a program; None where the target lacks the constants.

    ``energy_pj`` is that of one image by component, in picojoules. ``interval_us`` lies between two images in the
    steady state, ``latency_us`` is that of one image alone, in microseconds. Where the arrays are written in segments,
    ``a_pass`` is the cost of a batch of images, ``interval_us`` is its share of an image and ``latency_us`` the whole
    pass, at whose end all its results exist; the energy of writing is then a component, ``transfer`` is None.
    ``area_mm2`` is that of all arrays of all chips with their periphery, in square millimetres. ``cell_heat_pj`` checks
    ``energy.cell_pj``: the energy of the cells at their own conductances, voltage^2 * g * duration, if all input digits
    are equally likely; it is part of no other figure.
    """

    activities: tuple[Activity, ...]
    energy_pj: Energy | None
    interval_us: float
    latency_us: float
    area_mm2: float | None
    cell_heat_pj: float | None
    transfer: TransferCost | None
    a_pass: PassCost | None
    not_included: tuple[str, ...]
    assumed: tuple[str, ...] = ()
    """Components of the energy whose constant is an assumption, by the target's ``sources``."""

    @property
    def assumed_share(self) -> float | None:
        """Share of the energy that rests on assumed constants; None without an energy."""
        total_pj = self.total_energy_pj
        if self.energy_pj is None or not total_pj:
            return None
        return sum(self.energy_pj[component] for component in self.assumed) / total_pj

    @property
    def total_energy_pj(self) -> float | None:
        """Energy of one image, in picojoules."""
        return None if self.energy_pj is None else sum(self.energy_pj.values())

    @property
    def power_mw(self) -> float | None:
        """Mean power of all chips in the steady state, in milliwatts."""
        energy_pj = self.total_energy_pj
        return energy_pj * 1e-3 / self.interval_us if energy_pj is not None and self.interval_us else None

    def operations(self, counting: Counting) -> int:
        """Operations of one image, two for each multiply-accumulate operation."""
        weights = counting is Counting.WEIGHTS
        return 2 * sum(each.weight_macs if weights else each.cell_macs for each in self.activities)

    def gops_per_w(self, counting: Counting) -> float | None:
        """Operations per energy: 10^9 operations per second and watt."""
        energy_pj = self.total_energy_pj
        return self.operations(counting) / energy_pj * 1e3 if energy_pj else None

    def gops_per_mm2(self, counting: Counting) -> float | None:
        """Operations per time and area in the steady state: 10^9 operations per second and square millimetre."""
        if not self.area_mm2 or not self.interval_us:
            return None
        return self.operations(counting) * 1e-3 / self.interval_us / self.area_mm2


def program_cost(program: Program) -> Cost:
    """Cost of a program by the constants of its target."""
    target, placement = program.target, program.placement
    activities = layer_activities(program)
    arrays, a_pass = placement.chips * target.chip.arrays, pass_cost(program)
    spec, area_mm2 = target.scaled_energy, target.array_mm2
    energy_pj = _with_writing(_energy_pj(activities, placement.crossing_values, spec), a_pass, target)
    return Cost(
        activities=activities,
        energy_pj=energy_pj,
        interval_us=_interval_us(program) if a_pass is None else a_pass.time_us / a_pass.batch,
        latency_us=placement.latency_steps * program.step_ns * 1e-3 if a_pass is None else a_pass.time_us,
        area_mm2=arrays * area_mm2 if area_mm2 is not None else None,
        cell_heat_pj=_cell_heat_pj(activities, target),
        transfer=None if placement.segments else transfer_cost(program.layers, target),
        a_pass=a_pass,
        not_included=_not_included(activities, placement.crossing_values, spec),
        assumed=tuple(part for part, own_pj in (energy_pj or {}).items() if own_pj and _is_assumed(part, target)),
    )


def _is_assumed(component: str, target: Target) -> bool:
    """Return True if a constant has no source, or is one that the target calls an assumption."""
    source = target.sources.get(CONSTANTS[component], "assumption")
    return source.startswith(("assumption", "changed in Python", SOURCE))


def layer_activities(program: Program) -> tuple[Activity, ...]:
    """Activity of each crossbar layer for one image, in execution order."""
    tiles, target = program.placement.tiles, program.target
    cell_map = program.cell_map
    heights, widths = tiles.heights.astype(np.int64), cell_map.widths.astype(np.int64)
    loads, turns = tile_windows(program.layers, tiles), tile_turns(program.layers, tiles, target)
    columns = (tiles.column_end - tiles.column_begin).astype(np.int64)
    # All lines of a column joined, pairs subtracted and slices added, and the tile joined to the one above it.
    additions = loads * columns * (cell_map.column_lines.astype(np.int64)[tiles.layer] - 1 + (tiles.row_begin > 0))
    found = []
    for number, layer in enumerate(program.layers):
        own = tiles.layer == number
        products, steps = loads[own], (loads * turns)[own]
        cell_macs = int((products * cell_map.cells[own]).sum())
        results = layer.geometry.positions * layer.geometry.out_channels
        joined = int((products * columns[own])[tiles.row_begin[own] > 0].sum())
        phases = layer.quantizer.phase_count
        found.append(
            Activity(
                layer=layer.name,
                tile_steps=int(steps.sum()),
                phases=phases * int(steps.sum()),
                input_line_phases=phases * int((steps * heights[own]).sum()),
                conversions=phases * int((products * widths[own]).sum()),
                cell_phases=phases * cell_macs,
                additions=int(additions[own].sum()),
                buffered=int((products * heights[own]).sum()) + results,
                handed_on=joined + results,
                cell_macs=cell_macs,
                weight_macs=layer.geometry.macs,
                conductance_phases_us=phases * _conductance_steps_us(layer, cell_macs, target.cell),
            )
        )
    return tuple(found)


def _conductance_steps_us(layer: MappedLayer, cell_macs: int, cell: CellSpec) -> float:
    """Conductance of all cells of a layer's tiles, summed over steps, in microsiemens.

    A replica holds each kernel once per output position of its window; all other cells are at g_min.
    """
    kernel_steps = sum(replica.unrolling.window_outputs * len(replica.windows) for replica in layer.replicas)
    return cell.g_min_us * cell_macs + cell.level_step_us * kernel_steps * float(layer.cells.sum(dtype=np.float64))


def _cell_heat_pj(activities: tuple[Activity, ...], target: Target) -> float | None:
    if target.cell.continuous:
        return None  # inputs are no voltages there
    conductance_us = sum(activity.conductance_phases_us for activity in activities)
    # Microsiemens, volts squared and nanoseconds make femtojoules.
    digit = target.input.highest_digit
    mean_square = (2 * digit + 1) / (6 * digit)  # of voltages 0, 1/digit, ... 1; one half for single bits
    return mean_square * conductance_us * target.input.read_voltage_v**2 * target.input.phase_ns * 1e-3


def _energy_pj(activities: tuple[Activity, ...], crossing_values: int, spec: EnergySpec | None) -> Energy | None:
    if spec is None:
        return None
    total: dict[str, float] = {}
    for activity in activities:
        for component, energy in activity.energy_pj(spec).items():
            total[component] = total.get(component, 0.0) + energy
    if spec.crossing_pj is not None:
        total["crossing"] = spec.crossing_pj * crossing_values
    return MappingProxyType(total)


def _interval_us(program: Program) -> float:
    return program.placement.initiation_interval_steps * program.step_ns * 1e-3


def _with_writing(energy_pj: Energy | None, a_pass: PassCost | None, target: Target) -> Energy | None:
    """Energy of an image with its share of writing the segments."""
    if energy_pj is None or a_pass is None:
        return energy_pj
    writing_j = a_pass.writing.energy_j(target)
    assert writing_j is not None, "a target with energies prices verify reads"
    return MappingProxyType({**energy_pj, "writing": writing_j * 1e12 / a_pass.batch})


def _not_included(activities: tuple[Activity, ...], crossing_values: int, spec: EnergySpec | None) -> tuple[str, ...]:
    """Parts of the cost that no figure includes, in words."""
    left_out = {"buffers": spec is None or spec.buffer_pj is None, "routing": spec is None or spec.link_pj is None}
    missing = ["digital operators", *(part for part, out in left_out.items() if out), "idle arrays"]
    additions = sum(activity.additions for activity in activities)
    if additions and (spec is None or spec.addition_pj is None):
        missing.append(f"{additions:,} additions")
    if crossing_values and (spec is None or spec.crossing_pj is None):
        missing.append(f"{crossing_values:,} values between chips")
    return tuple(missing)


def transfer_cost(layers: tuple[MappedLayer, ...], target: Target) -> TransferCost | None:
    """Cost of writing all replicas of all weights; None where the target gives no pulses.

    Cells that layers share are written once; those in which no weight sits, of parallel windows and full pairs alike,
    stay as delivered. Device errors are left out: neither the spread of pulses nor stuck cells change the count. Where
    the target writes the worst pairs again, the corrections of all pairs of tiles that it means on average come on top.
    """
    spec, cell = target.write_verify, target.cell
    if spec is None:
        return None
    once = LevelWrites.once(cell, spec)
    counts = np.zeros(cell.levels, np.int64)
    for layer, replicas in own_replicas(layers):
        copies = sum(replica.unrolling.window_outputs for replica in replicas)
        counts += copies * np.bincount(layer.cells.reshape(-1), minlength=cell.levels)
    most = int(once.pulses[counts > 0].max(initial=0))
    if target.programming.write_again_share == 0:
        return TransferCost(once.report(counts), most)
    of_replicas = (replica.unrolling for _, replicas in own_replicas(layers) for replica in replicas)
    pairs = sum(unrolling.matrices * unrolling.rows * unrolling.columns for unrolling in of_replicas)
    pulses, energy_j = nominal_pulses(*mean_correction_us(target), spec)
    writes = round(target.programming.write_again_share * pairs)
    again = WriteReport(writes, writes * int(pulses), writes * float(energy_j))
    return TransferCost(once.report(counts) + again, most + MOST_CORRECTIONS * int(pulses))

"""Cost of a program, as data with stable keys and as text."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from memcompile.figures import figure, seconds, with_prefix
from memcompile.hardware.pulses import WriteReport
from memcompile.program.program import Program
from memcompile.report.cost import Cost, Counting, program_cost
from memcompile.report.pass_cost import PassCost

Facts = dict[str, Any]


def cost_facts(program: Program) -> Facts:
    """Facts of the report about cost, with the keys that docs/json.md documents."""
    cost, spec = program_cost(program), program.target.scaled_energy
    transfer = cost.transfer
    return {
        "energy_pj": cost.total_energy_pj,
        "energy_pj_by_component": dict(cost.energy_pj) if cost.energy_pj is not None else None,
        "assumed": list(cost.assumed),
        "assumed_share": cost.assumed_share,
        "cell_heat_pj": cost.cell_heat_pj,
        "power_mw": cost.power_mw,
        "interval_us": cost.interval_us,
        "latency_us": cost.latency_us,
        "area_mm2": cost.area_mm2,
        "counting": {counting.value: _counting_facts(cost, counting) for counting in Counting},
        "transfer": write_facts(program, transfer.report, transfer.most_pulses) if transfer else None,
        "pass": _pass_facts(program, cost.a_pass) if cost.a_pass else None,
        "layers": [
            {
                "name": each.layer,
                "tile_steps": each.tile_steps,
                "conversions": each.conversions,
                "additions": each.additions,
                "energy_pj_by_component": dict(each.energy_pj(spec)) if spec else None,
            }
            for each in cost.activities
        ],
        "not_included": list(cost.not_included),
    }


def _pass_facts(program: Program, a_pass: PassCost) -> Facts:
    return {
        "batch": a_pass.batch,
        "time_us": a_pass.time_us,
        "writing_us": a_pass.writing_us,
        "computing_us": a_pass.computing_us,
        "writing": write_facts(program, a_pass.writing, a_pass.most_pulses),
        "segments": [
            {
                "tiles": each.tiles,
                "arrays": each.arrays,
                "cells": each.cells,
                "cell_writes": each.writing.writes,
                "pulses": each.writing.pulses,
                "writing_us": each.writing_us,
                "computing_us": each.computing_us,
            }
            for each in a_pass.segments
        ],
    }


def _counting_facts(cost: Cost, counting: Counting) -> Facts:
    return {
        "operations": cost.operations(counting),
        "gops_per_w": cost.gops_per_w(counting),
        "gops_per_mm2": cost.gops_per_mm2(counting),
    }


def write_facts(program: Program, report: WriteReport, most_pulses: int) -> Facts:
    """Facts of writing cells; null where the target does not say."""
    spec, target = program.target.write_verify, program.target
    endurance = spec.endurance_pulses if spec else None
    return {
        "cell_writes": report.writes,
        "pulses": report.pulses if spec else None,
        "failures": report.failures if spec else None,
        "time_s": report.time_s(spec, program.placement.chips) if spec else None,
        "energy_j": report.energy_j(target) if spec else None,
        "most_pulses_of_a_cell": most_pulses if spec else None,
        "endurance_share": most_pulses / endurance if endurance else None,
    }


def write_line(facts: Facts) -> str:
    """Cost of writing in one line for a person."""
    if facts["pulses"] is None:
        return f"{facts['cell_writes']:,} cells written; the target gives no pulses"
    parts = [
        f"{facts['cell_writes']:,} cells written with {facts['pulses']:,} pulses",
        seconds(facts["time_s"]),
    ]
    if facts["energy_j"] is not None:
        parts.append(with_prefix(facts["energy_j"], "J"))
    if facts["failures"] is not None:
        parts.append(f"{facts['failures']:,} cells missed the margin")
    return ", ".join(parts)


def cost_lines(facts: Facts) -> list[str]:
    """Lines about cost for a person; energy or area without constants is said to have no data."""
    if all(facts[key] is None for key in ("energy_pj", "area_mm2", "transfer", "pass")):
        return ["cost             no data: the target gives no energy, area or programming pulses"]
    lines = []
    if facts["energy_pj"] is not None:
        lines.append(f"energy           {_energy_line(facts)}")
    if facts["assumed_share"]:
        words = ", ".join(map(_words, facts["assumed"]))
        lines.append(f"assumed          {facts['assumed_share']:.1%} of the energy: {words}")
    if facts["area_mm2"] is not None:
        lines.append(f"area             {figure(facts['area_mm2'])} mm2, arrays and periphery of all chips")
    missing = [name for name, key in (("energy", "energy_pj"), ("area", "area_mm2")) if facts[key] is None]
    lines += [f"{name:16} no data: the target gives no constants for it" for name in missing]
    for name, title in (("weights", "efficiency"), ("cells", "")):
        parts = [
            f"{figure(facts['counting'][name][key])} {unit}"
            for key, unit in (("gops_per_w", "GOP/s/W"), ("gops_per_mm2", "GOP/s/mm2"))
            if facts["counting"][name][key] is not None
        ]
        if parts:
            counted = "each weight counted once" if name == "weights" else "each working cell counted"
            lines.append(f"{title:16} {', '.join(parts)}: {counted}")
    if facts["transfer"]:
        lines.append(f"transfer         {write_line(facts['transfer'])}")
    if facts["pass"]:
        lines += _pass_lines(facts["pass"]["writing"])
    return [*lines, f"not included     {', '.join(facts['not_included'])}"]


def _pass_lines(facts: Facts) -> list[str]:
    """Lines about writing and erasing all segments once."""
    lines = [f"writing          {write_line(facts)}, to write and erase all segments once"]
    if facts["endurance_share"]:
        passes = figure(1 / facts["endurance_share"])
        lines.append(f"endurance        {passes} batches: {facts['most_pulses_of_a_cell']:,} pulses each on one cell")
    return lines


def _energy_line(facts: Facts) -> str:
    parts = facts["energy_pj_by_component"]
    largest = max(parts, key=parts.get)
    share = parts[largest] / facts["energy_pj"] if facts["energy_pj"] else 0.0
    power = "" if facts["power_mw"] is None else f"; {with_prefix(1e-3 * facts['power_mw'], 'W')} at this rate"
    return f"{with_prefix(1e-12 * facts['energy_pj'], 'J')} an image, {share:.1%} of it {_words(largest)}{power}"


def _joules(energy_pj: float) -> str:
    return with_prefix(1e-12 * energy_pj, "J")


def _words(component: str) -> str:
    return component.replace("_", " ")


def energy_table(facts: Facts) -> Table | None:
    """Energy of each layer for one image, by component; None where the target gives no energy."""
    layers = facts["layers"]
    if not layers or layers[0]["energy_pj_by_component"] is None:
        return None
    components = [name for name, energy in facts["energy_pj_by_component"].items() if energy]
    table = Table(title="energy of an image", title_justify="left", header_style="bold")
    table.add_column("layer", overflow="fold")
    for heading in ("tile steps", *map(_words, components), "sum"):
        table.add_column(heading, justify="right")
    for layer in layers:
        parts = layer["energy_pj_by_component"]
        cells = [_joules(parts[name]) if name in parts else "" for name in components]
        table.add_row(layer["name"], f"{layer['tile_steps']:,}", *cells, _joules(sum(parts.values())))
    sums = [_joules(facts["energy_pj_by_component"][name]) for name in components]
    steps = sum(layer["tile_steps"] for layer in layers)
    table.add_section()
    table.add_row("all", f"{steps:,}", *sums, _joules(facts["energy_pj"]))
    return table

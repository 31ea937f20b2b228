"""The front of mappings in a table, in JSON, and as options that compile each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar

from rich.table import Table

from memcompile.accuracy.loss_front import FrontMapping, LossFront
from memcompile.figures import PLUS_MINUS
from memcompile.ir.slicing import SliceChoice

Facts = dict[str, Any]
Slices = TypeVar("Slices", SliceChoice, int | str)
MOST_NAMED = 4
"""Layers that a cell of the table names."""


def front_facts(front: LossFront) -> Facts:
    """Facts with the keys that docs/json.md documents."""
    first, *others = front.mappings
    return {
        "objective": front.objective,
        "mappings": [_mapping_facts(first, []), *(_mapping_facts(item, mapping_options(item)) for item in others)],
    }


def _mapping_facts(item: FrontMapping, options: list[str]) -> Facts:
    return {
        "chips": item.chips,
        "arrays": item.arrays,
        "cells": item.cells,
        "initiation_interval_steps": item.steps,
        "latency_steps": item.latency_steps,
        "slices": {name: own.value for name, own in item.slices.items()},
        "no_windows": list(item.one_position),
        "write_again_share": item.write_again_share,
        "range_calibrated": item.range_calibrated,
        "predicted_loss": item.loss,
        "uncertainty": item.uncertainty,
        "options": [*options, "--max-loss", "none"],
    }


def mapping_options(item: FrontMapping) -> list[str]:
    """Words of a command line that compiles the mapping: slices that most layers have, then those of others."""
    usual = _usual(item.slices)
    words = ["--slices", str(usual)]
    for name, own in item.slices.items():
        words += ["--slices", f"{name}={own}"] if own != usual else []
    for name in item.one_position:
        words += ["--no-windows", name]
    if item.range_calibrated:
        words += ["--set", "adc.range=calibrated"]
    if item.write_again_share:
        words += ["--set", f"programming.write_again_share={item.write_again_share:g}"]
    return words


def _usual(slices: Mapping[str, Slices]) -> Slices:
    """Slices that most layers have; of several such choices the first by its text."""
    counts = Counter(slices.values())
    return min(counts, key=lambda own: (-counts[own], str(own)))


def front_table(facts: Facts) -> Table:
    """One row for each mapping, by cost."""
    front, latency = facts["pareto"], facts["pareto"]["objective"] == "latency"
    table = Table(title="mappings by cost and predicted loss in points", title_justify="left", header_style="bold")
    table.add_column("", justify="right")
    chips = len({row["chips"] for row in front["mappings"]}) > 1
    for heading in (*(("chips",) if chips else ()), "latency" if latency else "steps", "arrays", "cells"):
        table.add_column(heading, justify="right")
    table.add_column("slices", overflow="fold")
    table.add_column("no windows", overflow="fold")
    again = any(row["write_again_share"] for row in front["mappings"])
    if again:
        table.add_column("again", justify="right")
    table.add_column("loss", justify="right", no_wrap=True)
    for number, row in enumerate(front["mappings"], start=1):
        table.add_row(
            f"{number}",
            *((f"{row['chips']}",) if chips else ()),
            f"{row['latency_steps' if latency else 'initiation_interval_steps']:,}",
            f"{row['arrays']}",
            f"{row['cells']:,}",
            _in_short(row["slices"]),
            _listed(row["no_windows"]),
            *((f"{row['write_again_share']:g}",) if again else ()),
            f"{row['predicted_loss']:.2f}{PLUS_MINUS}{row['uncertainty']:.2f}",
        )
    return table


def _in_short(slices: Mapping[str, int | str]) -> str:
    """Slices of all layers, those that are fewer by name."""
    usual = _usual(slices)
    others = [
        f"{other} in {_listed([name for name, own in slices.items() if own == other])}"
        for other in sorted(set(slices.values()) - {usual}, key=str)
    ]
    return "; ".join([f"{usual}", *others])


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= MOST_NAMED else f"{len(names)} layers"

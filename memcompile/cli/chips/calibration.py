"""Calibration of the chip that a command emulates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from memcompile.cli.console import Output
from memcompile.data.loader import Dataset, load_dataset
from memcompile.program.program import Program
from memcompile.report.emulated_chips import EmulatedChips
from memcompile.runtime.emulator import Emulator


def samples_of(program: Program, data: Path | None, **how: Any) -> Dataset:
    """Samples for a program; ``how`` are further arguments of :func:`load_dataset`.

    Raises
    ------
    DataError
        The data cannot be read or do not fit the program.
    """
    classify = Emulator.ideal(program).run
    return load_dataset(data, program.inputs, batching=program.batching, classify=classify, compiled=True, **how)


def calibrated_chip(program: Program, dataset: Dataset, seed: int, out: Output, *, read_back: bool = False) -> Program:
    """The chip of a seed with its lines calibrated, where that is possible and helps; says so where it is not.

    A program that is on a chip was calibrated when it was tuned, unless its cells were ``read_back``.
    """
    if not program.layers or program.target.cell.continuous or (program.chip is not None and not read_back):
        return program
    chips = EmulatedChips(replace(program, chip=None), dataset)
    found = chips.chip(seed, out.progress, program)
    if chips.obstacle:
        out.say(f"the chip is not calibrated: {chips.obstacle}")
    elif found.step is not None and not found.step.kept:
        out.say(f"the chip is not calibrated: {found.step.images} images held back do not show that it helps")
    return found.used

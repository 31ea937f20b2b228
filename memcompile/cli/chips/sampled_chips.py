"""Accuracy of several emulated chips of one program, and the share of them that is accepted."""

from __future__ import annotations

from typing import Any

import numpy as np

from memcompile.cli.console import Output
from memcompile.data.loader import Dataset
from memcompile.errors import UsageError
from memcompile.program.program import Program
from memcompile.progress.phases import EMULATE
from memcompile.report.acceptance import Acceptance
from memcompile.report.accuracy_report import chip_facts, chip_words
from memcompile.report.emulated_chips import EmulatedChips, measured_accuracy
from memcompile.report.evaluation import check_acceptance
from memcompile.runtime.emulator import Emulator


def run_chips(program: Program, dataset: Dataset, options: dict[str, Any], out: Output) -> None:
    """Run chips of consecutive seeds and print how their accuracies differ.

    Raises
    ------
    UsageError
        An option is for one chip, or chips of the program do not differ.
    """
    option = "--accept" if options["accept"] is not None else "--seeds"
    for name, key in (("-o", "output"), *((f"--{key}", key) for key in ("explain", "ideal", "conductances"))):
        if options[key]:
            raise UsageError(
                f"{option} compares the accuracies of chips, and {name} is for a single run; leave one out"
            )
    check_acceptance(program, dataset, option)
    first, count = options["seed"], options["seeds"] or 1
    since = {name: options[name] for name in ("time_s", "reads")}
    chips = EmulatedChips(program, dataset, calibrate=not options["no_calibration"])
    if chips.obstacle and not options["no_calibration"]:
        out.say(f"chips are not calibrated: {chips.obstacle}")
    shares = []
    with out.progress(EMULATE, count * dataset.count) as advance:
        for seed in range(first, first + count):
            emulator = Emulator(chips.chip(seed, out.progress).used, seed, executor=options["executor"], **since)
            shares.append(measured_accuracy(emulator, dataset, advance))
    accuracies = np.array(shares)
    mean, worst, quantile = chip_words(chip_facts(accuracies), count)
    seeds = f"{count} chips, seeds {first} to {first + count - 1}" if count > 1 else f"seed {first}"
    out.say(f"accuracy {mean} on {dataset.name}, {dataset.count:,} images, noisy devices, {seeds}")
    out.say(f"worst chip {worst}, 5 % quantile {quantile}")
    if options["accept"] is not None:
        out.say(Acceptance.of(accuracies, options["accept"]).line())

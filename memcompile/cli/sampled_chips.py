"""Accuracy of several emulated chips of one program, and the share of them that is accepted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from memcompile.chip_calibration import Calibrator, obstacle
from memcompile.cli.console import Output
from memcompile.data.loader import Dataset
from memcompile.errors import UsageError
from memcompile.program.program import Program
from memcompile.report.acceptance import Acceptance
from memcompile.report.accuracy_report import chip_facts, chip_words
from memcompile.report.evaluation import check_acceptance
from memcompile.report.scoring import class_names, score_samples
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
    names, first, count = class_names(program), options["seed"], options["seeds"] or 1
    since = {name: options[name] for name in ("time_s", "reads")}
    shares = []
    for seed, chip in _chips(program, dataset, options, out):
        emulator = Emulator(chip, seed, executor=options["executor"], **since)
        with out.progress(f"running, chip {seed}", dataset.count) as advance:
            shares.append(score_samples(emulator.run(dataset.as_given, progress=advance), dataset, names))
    accuracies = np.array(shares)
    mean, worst, quantile = chip_words(chip_facts(accuracies))
    seeds = f"{count} chips, seeds {first} to {first + count - 1}" if count > 1 else f"seed {first}"
    out.say(f"accuracy {mean} on {dataset.name}, {dataset.count:,} images, noisy devices, {seeds}")
    out.say(f"worst chip {worst}, 5 % quantile {quantile}")
    if options["accept"] is not None:
        out.say(Acceptance.of(accuracies, options["accept"]).line())


def _chips(program: Program, dataset: Dataset, options: dict[str, Any], out: Output) -> Iterator[tuple[int, Program]]:
    """Seed and program of each chip, calibrated where that is possible; says so where it is not."""
    seeds = range(options["seed"], options["seed"] + (options["seeds"] or 1))
    why = (
        ""
        if options["no_calibration"]
        else obstacle(program, dataset.batching.count(dataset.calibration), dataset.generated)
    )
    if why:
        out.say(f"chips are not calibrated: {why}")
    if why or options["no_calibration"]:
        yield from ((seed, program) for seed in seeds)
        return
    calibrator = Calibrator(program, dataset.calibration)
    for seed in seeds:
        yield seed, calibrator.chip(seed, out.progress).program

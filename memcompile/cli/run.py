"""``memcompile run``: predictions and accuracy of a program on a chip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from memcompile.accuracy.scoring import class_names, score_samples
from memcompile.cli.chips.calibration import calibrated_chip, samples_of
from memcompile.cli.chips.life import age_or_range, check_life_options, life_options, report_life
from memcompile.cli.chips.sampled_chips import run_chips
from memcompile.cli.console import (
    Output,
    accept_option,
    calibration_option,
    check_writable,
    data_options,
    reads_option,
    write_npz,
)
from memcompile.cli.programs import program_of
from memcompile.data.loader import Dataset
from memcompile.errors import UsageError
from memcompile.frontend.values import PlainArrays
from memcompile.measurements.read_back import read_back
from memcompile.program.program import Program
from memcompile.progress.phases import AGE, EMULATE, FIT_LINES, READ_PROGRAM, RUN
from memcompile.report.cost_report import write_facts, write_line
from memcompile.runtime.emulator import Emulator, check_seed


@click.command("run")
@click.argument("program", type=Path)
@click.option("-o", "--output", type=Path, metavar="NPZ", help="Write the predictions as npz.")
@click.option("--ideal", is_flag=True, help="Ideal devices: integer arithmetic of the quantised network.")
@click.option(
    "--executor",
    type=click.Choice(["fast", "literal"]),
    default="fast",
    show_default=True,
    help="literal walks every array, step and phase.",
)
@click.option("--images", type=click.IntRange(1), help="Run the first so many samples [default: all].")
@click.option("--skip", type=click.IntRange(0), help="Leave out the first so many samples.")
@click.option(
    "--time",
    "time_s",
    default="0s",
    callback=age_or_range,
    metavar="DURATION|A..B",
    help="Time since programming: 90s, 10min, 2h, 3d, 10y; or a range such as 1s..10y, for accuracy against age.",
)
@life_options
@reads_option
@click.option(
    "--conductances",
    type=Path,
    metavar="NPZ|CSV",
    help="Conductances read back from a real chip, laid out as `memcompile export` writes them.",
)
@accept_option
@calibration_option
@click.option("--explain", is_flag=True, help="Say which method each layer goes through, and why.")
@data_options
def run_command(program: Path, **options: Any) -> None:
    """Run PROGRAM on data: predictions, and accuracy where there are labels."""
    follows = isinstance(options["time_s"], tuple)
    check_life_options(options, follows=follows)
    out = Output(options["quiet"], options["json_path"])
    for name, option in (("output", "-o"), ("plot", "--plot")):
        if options[name]:
            check_writable(options[name], option)
    several = (options["seeds"] or 1) > 1 or options["accept"] is not None
    out.expect(READ_PROGRAM, *((AGE,) if follows else (EMULATE,) if several else _phases_of_one(options)))
    with out.progress(READ_PROGRAM, 1):
        loaded = _program(program, options)
        how = {name: options[name] for name in ("mean", "std", "seed")}
        dataset = samples_of(loaded, options["data"], **how).after(options["skip"])
    dataset = dataset.head(min(dataset.count, options["images"] or dataset.count))
    if follows:
        report_life(loaded, dataset, options, out)
        return
    if several:
        run_chips(loaded, dataset, options, out)
        return
    _run_once(loaded, dataset, options, out)


def _phases_of_one(options: dict[str, Any]) -> tuple[str, ...]:
    """Phases of running one chip."""
    return (RUN,) if options["ideal"] or options["no_calibration"] else (FIT_LINES, RUN)


def _program(path: Path, options: dict[str, Any]) -> Program:
    """The program, on the cells that were read back if there are such."""
    loaded = program_of(path)
    if options["conductances"] is None:
        return loaded
    if options["ideal"]:
        raise UsageError("--conductances contradicts --ideal: ideal devices hold what they are told; leave one out")
    check_seed(options["seed"])
    return read_back(loaded, options["conductances"], options["seed"], aged=options["time_s"] != 0)


def _run_once(program: Program, dataset: Dataset, options: dict[str, Any], out: Output) -> None:
    """Run a program at one age of its chip."""
    emulator = _emulator(program, dataset, options, out)
    if options["explain"]:
        for layer, method in emulator.explain().items():
            out.say(f"{layer}: {method}")
    writing = emulator.writing()
    if writing is not None:
        out.say(f"writing: {write_line(write_facts(program, writing, 0))}")
    with out.progress(RUN, dataset.count) as advance:
        outputs = emulator.run(dataset.as_given, progress=advance)
    if options["output"]:
        plain = PlainArrays.of(outputs)
        write_npz(options["output"], plain.arrays)
        out.say(f"{', '.join(plain.written) or 'nothing'} written to {options['output']}")
        for remark in plain.remarks:
            out.say(f"  {remark}")
    devices = _devices(program, options)
    if dataset.labels is None:
        out.say(f"{dataset.count} samples of {dataset.name}, {devices}; no labels, so no accuracy")
        return
    share = score_samples(outputs, dataset, class_names(program))
    out.say(f"accuracy {share:.2%} on {dataset.name}, {dataset.count:,} images, {devices}")


def _emulator(program: Program, dataset: Dataset, options: dict[str, Any], out: Output) -> Emulator:
    if options["ideal"]:
        return Emulator.ideal(program, options["executor"])
    since = {name: options[name] for name in ("time_s", "reads")}
    if not options["no_calibration"]:
        measured = options["conductances"] is not None
        program = calibrated_chip(program, dataset, options["seed"], out, read_back=measured)
    return Emulator(program, options["seed"], executor=options["executor"], **since)


def _devices(program: Program, options: dict[str, Any]) -> str:
    if options["conductances"] is not None:
        return f"cells of {options['conductances']}"
    ideal = options["ideal"] or program.target.cell.continuous
    return "ideal devices" if ideal else f"noisy devices, seed {options['seed']}"

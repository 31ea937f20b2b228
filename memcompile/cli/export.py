"""`memcompile export`: conductances for real arrays, and an emulated chip for other runtimes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import click

from memcompile.atomic import write_atomically
from memcompile.cli.chips.calibration import calibrated_chip, samples_of
from memcompile.cli.console import (
    Output,
    calibration_option,
    check_writable,
    duration,
    sample_options,
    write_npz,
)
from memcompile.cli.programs import program_of
from memcompile.errors import UsageError
from memcompile.export.chip_model import chip_model
from memcompile.export.conductances import conductance_arrays, programming_list
from memcompile.program.program import Program
from memcompile.runtime.emulator import check_seed


def _age(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    return None if value is None else duration(ctx, param, value)


@click.command("export")
@click.argument("program", type=Path)
@click.option("--npz", type=Path, metavar="FILE", help="Target conductances of every array, and an index.")
@click.option("--csv", type=Path, metavar="FILE", help="Programming list: a line for each cell that holds a weight.")
@click.option("--onnx", type=Path, metavar="FILE", help="An emulated chip as an ONNX model, without its read noise.")
@click.option("--seed", type=int, help="The chip, with --onnx, as for `memcompile run` [default: 0].")
@click.option(
    "--time",
    "time_s",
    callback=_age,
    metavar="DURATION",
    help="Time since programming, with --onnx: 90s, 10min, 2h, 3d [default: 0s].",
)
@click.option(
    "--reads",
    type=click.FloatRange(0, max=1e18),
    metavar="N",
    help="Reads of each cell since programming, with --onnx [default: 0].",
)
@click.option("--ideal", is_flag=True, help="With --onnx: ideal devices, integer arithmetic of the quantised network.")
@calibration_option
@sample_options
def export_command(program: Path, **options: Any) -> None:
    """Write what PROGRAM puts on its arrays: for real arrays, or for another runtime.

    `--npz` writes the conductances to program, `--csv` the same as a list, `--onnx` a model that
    computes what one emulated chip does; its operators are standard ones.
    """
    npz, listed, onnx = options["npz"], options["csv"], options["onnx"]
    _check(options)
    loaded = program_of(program)
    out = Output(quiet=False, json_path=None)
    if npz is not None:
        _export_arrays(loaded, npz, out)
    if listed is not None:
        _export_list(loaded, listed, out)
    if onnx is not None:
        _export_model(loaded, onnx, options, out)


def _check(options: dict[str, Any]) -> None:
    """Refuse contradictory options, and paths that cannot be written, before the work."""
    onnx, paths = options["onnx"], {f"--{name}": options[name] for name in ("npz", "csv", "onnx")}
    check_seed(options["seed"] or 0)
    of_chip = ("seed", "time_s", "reads", "data", "mean", "std")
    given = [f"--{name.removesuffix('_s')}" for name in of_chip if options[name] is not None]
    given += ["--no-calibration"] if options["no_calibration"] else []
    named = {option: path for option, path in paths.items() if path is not None}
    if not named:
        raise UsageError(
            "nothing to write; give --onnx FILE for a model, --npz FILE for conductances, --csv FILE for a list of "
            "cells, or several"
        )
    if onnx is None and (given or options["ideal"]):
        raise UsageError(f"{(*given, '--ideal')[0]} is for a model of a chip; add --onnx FILE")
    if given and options["ideal"]:
        raise UsageError(f"{given[0]} contradicts --ideal: ideal devices are all alike and do not age; leave one out")
    for one, other in itertools.combinations(named, 2):
        if named[one] == named[other]:
            raise UsageError(f"{one} and {other} both name {named[one]}; give each a file of its own")
    for option, path in named.items():
        check_writable(path, option)


def _export_list(program: Program, path: Path, out: Output) -> None:
    lines = list(programming_list(program))
    write_atomically(path, ("\n".join(lines) + "\n").encode())
    out.say(f"{len(lines) - 1:,} cells written to {path}; all others are at {program.target.cell.g_min_us:g} uS")


def _export_arrays(program: Program, path: Path, out: Output) -> None:
    arrays = conductance_arrays(program)
    write_npz(path, arrays)
    *segments, count, lines, outputs = arrays["conductances_us"].shape
    often = f" in {segments[0]} segments" if segments else ""
    out.say(f"{count} arrays of {lines} x {outputs} conductances{often} written to {path}")


def _export_model(program: Program, path: Path, options: dict[str, Any], out: Output) -> None:
    seed, ideal = options["seed"] or 0, options["ideal"]
    time_s, reads = options["time_s"] or 0.0, options["reads"] or 0.0
    if not (ideal or options["no_calibration"]):
        how = {name: options[name] for name in ("mean", "std")}
        program = calibrated_chip(program, samples_of(program, options["data"], **how), seed, out)
    model = chip_model(program, seed, time_s=time_s, reads=reads, ideal=ideal)
    write_atomically(path, model)
    out.say(f"{_chip(program, seed, time_s, reads, ideal)} written to {path}, {len(model):,} bytes")
    if not ideal and program.target.read_noise.acts:
        out.say("read noise is not in the model: it is drawn anew at each read; memcompile run has it")
    if not ideal and program.placement.segments:
        batch = program.placement.batch
        out.say(
            f"the arrays are as written for the first {batch} images; each further batch is written with new errors"
        )


def _chip(program: Program, seed: int, time_s: float, reads: float, ideal: bool) -> str:
    """Name of the chip that a model computes."""
    if ideal or program.target.cell.continuous:
        return "ideal devices"
    since = [f"{time_s:g} s"] * bool(time_s) + [f"{reads:g} reads"] * bool(reads)
    age = f", {' and '.join(since)} after programming," if since else ""
    return f"chip {seed}{age}" if program.chip is None else f"the chip that the program was transferred to{age}"

"""``memcompile refresh``: recover the accuracy that a tuned chip lost to drift, without writing a cell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from memcompile.cli.advice import DataOptions, command_line, derived_path
from memcompile.cli.console import Output, check_writable, data_options, duration, reads_option, scoring_options
from memcompile.cli.programs import program_of
from memcompile.cli.tune import step_facts, step_lines, tuning_data
from memcompile.program.file import save_program
from memcompile.progress.phases import FIT_LINES, READ_PROGRAM, SCORE_CHIP
from memcompile.report.emulated_chips import measured_accuracy
from memcompile.runtime.emulator import Emulator
from memcompile.tuning import refresh


@click.command("refresh")
@click.argument("program", type=Path)
@click.option("-o", "--output", type=Path, metavar="FILE", help="Refreshed program [default: PROGRAM.refreshed.mcp].")
@click.option(
    "--time",
    "time_s",
    required=True,
    callback=duration,
    metavar="DURATION",
    help="Age of the chip, since its cells were written: 90s, 10min, 2h, 3d.",
)
@reads_option
@click.option("--images", type=click.IntRange(1), default=300, show_default=True, help="Training images to fit with.")
@scoring_options
@data_options
def refresh_command(program: Path, **options: Any) -> None:
    """Fit the digital scales of PROGRAM, a tuned chip, to what it computed when it was fresh.

    No cell is written. Images come from --data.
    """
    out = Output(options["quiet"], options["json_path"])
    target = options["output"] or derived_path(program, "refreshed")
    check_writable(target)
    out.expect(READ_PROGRAM, FIT_LINES, SCORE_CHIP)
    with out.progress(READ_PROGRAM, 1):
        source = program_of(program)
        training, test = tuning_data(source, options)
    since = {name: options[name] for name in ("time_s", "reads")}
    refreshed, steps = refresh(source, training.inputs, **since, images=options["images"], progress=out.progress)
    save_program(refreshed, target)
    accuracy, new = {}, dict[str, float]()
    chips = (("fresh", source, new), ("aged", source, since), ("refreshed", refreshed, since))
    with out.progress(SCORE_CHIP, len(chips) * test.count) as advance:
        for name, chip, conditions in chips:
            assert chip.chip is not None
            accuracy[name] = measured_accuracy(Emulator(chip, chip.chip.seed, **conditions), test, advance)
    held_back = steps[-1].images
    facts = {
        **since,
        "training_data": training.name,
        "training_images": min(options["images"], training.count - held_back),
        "test_data": test.name,
        "test_images": test.count,
        "accuracy": accuracy,
        "steps": step_facts(steps),
    }
    lines = [
        f"accuracy on {test.name}, {test.count:,} images",
        f"  fresh chip           {accuracy['fresh']:.2%}",
        f"  {format(options['time_s'], ',.0f') + ' s later':<21}{accuracy['aged']:.2%}",
        f"  scales refreshed     {accuracy['refreshed']:.2%}  ({facts['training_images']:,} images of {training.name})",
        *step_lines(facts["steps"]),
    ]
    out.facts(facts, lines)
    scored = replace(DataOptions.of(options), data=options["test"] or options["data"])
    age = ["--time", f"{options['time_s']:f}".rstrip("0").rstrip(".") + "s"]
    age += ["--reads", f"{options['reads']:.15g}"] if options["reads"] else []
    again = command_line(["run", target, *scored.words(), *age])
    out.say(f"refreshed program written to {target}; next: {again}")

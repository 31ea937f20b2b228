"""``memcompile population``: many chips of one program."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from memcompile.atomic import write_atomically
from memcompile.cli.advice import DataOptions, command_line
from memcompile.cli.chips.calibration import samples_of
from memcompile.cli.chips.tuned_compile import OWN_DATA, TuningStudy
from memcompile.cli.console import Output, accept_option, calibration_option, data_options
from memcompile.cli.explore import cluster_options
from memcompile.cli.programs import program_of
from memcompile.errors import MemcompileError
from memcompile.exploration.explore import executor_of
from memcompile.exploration.population import Population, Sample, run_population, scored_on
from memcompile.exploration.runs.journal import make_folder
from memcompile.progress.phases import EMULATE
from memcompile.report.acceptance import Acceptance
from memcompile.report.accuracy_report import chip_facts, chip_words
from memcompile.report.evaluation import check_acceptance
from memcompile.report.facts import facts_json

WORST_LISTED = 5
BAR = 40


@click.command("population")
@click.argument("program", type=Path)
@click.option("--chips", type=click.IntRange(2), default=100, show_default=True, help="Chips that are emulated.")
@click.option("-o", "--output", type=Path, metavar="DIR", help="Folder for results [default: PROGRAM.population].")
@click.option("--images", type=click.IntRange(1), help="Score on the first so many samples [default: 500].")
@click.option(
    "--tune",
    is_flag=False,
    flag_value=OWN_DATA,
    metavar="[NPZ|DIR]",
    help="Tune each chip as `memcompile tune` does; samples to train with, or the training part of --data.",
)
@click.option("--tune-images", type=click.IntRange(1), help="Train with the first so many samples [default: all].")
@accept_option
@calibration_option
@cluster_options
@data_options
def population_command(program: Path, **options: Any) -> None:
    """Emulate many chips of PROGRAM: how accuracies are spread, the yield, and the worst chips.

    A killed run resumes with the same command.
    """
    out = Output(options["quiet"], None)
    loaded = program_of(program)
    how = {name: options[name] for name in ("mean", "std", "seed")}
    dataset = samples_of(loaded, options["data"], **how)
    check_acceptance(loaded, dataset, "population")
    training, skipped = None, 0
    if options["tune"] is not None:
        study = TuningStudy.of(loaded, dataset, options)
        training, dataset, skipped = study.training, study.scored, study.skipped
        if options["tune_images"] is not None:
            training = training.head(options["tune_images"])
    dataset = scored_on(dataset, options["images"])
    folder = options["output"] or Path(f"{program.name.removesuffix('.mcp')}.population")
    make_folder(folder)
    sample = Sample.of(loaded, program.name, dataset, calibrate=not options["no_calibration"], training=training)
    seeds = range(options["seed"], options["seed"] + options["chips"])
    executor = executor_of(options["workers"], options["scheduler"], dashboard=options["dashboard"])
    begin = time.monotonic()
    try:
        with out.progress(EMULATE, len(seeds)) as advance:
            before = 0

            def changed(done: int, total: int) -> None:
                nonlocal before
                advance(done - before)
                before = done

            found = run_population(sample, seeds, executor, folder, changed)
    finally:
        executor.close()
    if not found.seeds:
        raise MemcompileError(f"no chip could be emulated: {next(iter(found.failed.values()), 'none was asked for')}")
    facts = found.facts(options["accept"], WORST_LISTED)
    write_atomically(folder / "population.json", facts_json(facts).encode())
    write_atomically(folder / "chips.csv", found.csv().encode())
    data = DataOptions(options["data"], options["mean"], options["std"], skip=skipped or None)
    _report(found, program, dataset.name, dataset.count, data, options, out)
    out.say(f"{len(found.seeds):,} chips in {time.monotonic() - begin:.0f} s, results in {folder}")


def _report(
    found: Population, program: Path, name: str, images: int, data: DataOptions, options: dict[str, Any], out: Output
) -> None:
    """Print the distribution, the yield, the worst chips and what they share."""
    mean, worst, quantile = chip_words(chip_facts(found.accuracies), len(found.accuracies))
    out.say(f"accuracy {mean} on {name}, {images:,} images, {len(found.seeds):,} chips")
    out.say(f"worst chip {worst}, 5 % quantile {quantile}")
    most = max(count for _, _, count in found.histogram())
    for low, high, count in found.histogram():
        out.say(f"  {low:7.2%} to {high:7.2%} {count:6,} {'#' * round(BAR * count / most)}")
    if options["accept"] is not None:
        out.say(Acceptance.of(found.accuracies, options["accept"]).line())
    if len(found.tuned):
        mean, worst, quantile = chip_words(chip_facts(found.tuned), len(found.tuned))
        out.say(f"after tuning {mean}; worst chip {worst}, 5 % quantile {quantile}")
        if options["accept"] is not None:
            out.say(f"after tuning {Acceptance.of(found.tuned, options['accept']).line()}")
    out.say("worst chips:")
    calibrated = ["--no-calibration"] if options["no_calibration"] else []
    for seed, share in found.worst(WORST_LISTED):
        words = ["run", program, *data.words("--images", str(images), "--seed", str(seed)), *calibrated]
        out.say(f"  {share:7.2%}  {command_line(words)}")
    shared = found.shared_defects()
    for item in shared:
        out.say(f"  they have more of: {item.name}, {item.worst:.3g} on the mean instead of {item.others:.3g}")
    if not shared:
        out.say("  they share no defect that the others do not have as much of")
    for seed, message in list(found.failed.items())[:3]:
        out.say(f"chip {seed} failed: {message}")

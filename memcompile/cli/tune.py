"""``memcompile tune``: hybrid training of a program on one emulated chip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memcompile.accuracy.held_back import StepRecord
from memcompile.atomic import write_atomically
from memcompile.cli.advice import DataOptions, command_line, derived_path
from memcompile.cli.console import Output, check_writable, data_options, scoring_options, words
from memcompile.cli.programs import program_of
from memcompile.cli.report import facts_option, facts_with
from memcompile.data.loader import Dataset, load_dataset
from memcompile.errors import UsageError
from memcompile.ir.pass_manager import ProgressBar
from memcompile.pictures import colour_of, new_figure, png_of
from memcompile.program.file import save_program
from memcompile.program.program import Program
from memcompile.progress.phases import READ_PROGRAM, SCORE_CHIP, TUNING
from memcompile.report.cost_report import write_facts, write_line
from memcompile.report.emulated_chips import measured_accuracy
from memcompile.report.facts import program_facts
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.hybrid_training import LAST, TuningOptions
from memcompile.runtime.training.transfer import transfer
from memcompile.tuning import TuningPlan, TuningResult, refuse_other_layouts, tune, usual_plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

USUAL = usual_plan()


@click.command("tune")
@click.argument("program", type=Path)
@click.option("-o", "--output", type=Path, metavar="FILE", help="Tuned program [default: PROGRAM.tuned.mcp].")
@click.option("--images", type=click.IntRange(1), help="Use the first so many training images [default: all].")
@click.option(
    "--epochs",
    type=click.IntRange(0),
    default=USUAL.options.epochs,
    show_default=True,
    help="0 leaves the cells alone.",
)
@click.option(
    "--learning-rate",
    type=float,
    default=USUAL.options.learning_rate,
    show_default=True,
    help="Step in units of float weights.",
)
@click.option(
    "--threshold-us",
    type=float,
    default=USUAL.options.threshold_us,
    show_default=True,
    help="Rewrite a pair beyond this change.",
)
@click.option(
    "--recalibrate",
    "recalibration_images",
    type=click.IntRange(0),
    default=USUAL.recalibration_images,
    show_default=True,
    help="Images to fit the digital scales and offsets with; 0 leaves them alone.",
)
@click.option(
    "--layers",
    callback=words,
    default=LAST,
    show_default=True,
    metavar="NAME,..",
    help="Crossbar layers to tune in situ: names, `last` or `all`.",
)
@click.option("--digital-scales", is_flag=True, help="Tune these layers' digital scales too, by gradients.")
@click.option(
    "--patience", type=click.IntRange(0), default=0, show_default=True, help="Stop after so many epochs without gain."
)
@click.option(
    "--write-again",
    "write_again_share",
    type=click.FloatRange(0),
    default=USUAL.write_again_share,
    show_default=True,
    metavar="SHARE",
    help="Corrections after transfer, worst weights first, as a share of all weights.",
)
@click.option(
    "--write-again-by",
    type=click.Choice(["effect", "error"]),
    default=USUAL.write_again_by,
    show_default=True,
    help="Worst by effect on the network's output, or by error alone.",
)
@click.option("--plain-slices", is_flag=True, help="Do not leave measured errors of a slice to the next one.")
@click.option("--curve", type=Path, metavar="PNG", help="Draw the learning curve (needs the extra `plot`).")
@facts_option
@scoring_options
@data_options
def tune_command(program: Path, **options: Any) -> None:
    """Transfer PROGRAM to an emulated chip and tune it there.

    Training images come from --data. A killed run started again goes on from OUTPUT.checkpoint.
    """
    out = Output(options["quiet"], options["json_path"])
    target = options["output"] or derived_path(program, "tuned")
    check_writable(target)
    if options["curve"]:
        check_writable(options["curve"], "--curve")
        new_figure(1, 1, "--curve")  # without matplotlib there is nothing to wait for
    out.expect(READ_PROGRAM, *TUNING, SCORE_CHIP)
    with out.progress(READ_PROGRAM, 1):
        source = program_of(program)
        reported = _reported_accuracy(source, options["facts"])
        training, test = tuning_data(source, options)
    plan = TuningPlan(
        recalibration_images=min(options["recalibration_images"], training.count),
        correct_slices=not options["plain_slices"],
        write_again_share=options["write_again_share"],
        write_again_by=options["write_again_by"],
        options=TuningOptions(
            epochs=options["epochs"],
            learning_rate=options["learning_rate"],
            threshold_us=options["threshold_us"],
            layers=options["layers"],
            digital_scales=options["digital_scales"],
            patience=options["patience"],
        ),
        seed=options["seed"],
    )
    result = tune(
        source,
        training.inputs,
        training.labels,
        plan,
        images=options["images"],
        checkpoint=target.with_name(f"{target.name}.checkpoint"),
        progress=out.progress,
        notify=out.say,
    )
    save_program(result.program, target)
    before, _ = transfer(source, plan.seed, correct_slices=plan.correct_slices)
    facts = _facts(source, before, result, training, test, out.progress)
    out.facts(facts, _lines(facts))
    if options["curve"]:
        write_atomically(options["curve"], png_of(curve_figure(result, facts["accuracy"], reported), 150))
        out.say(f"learning curve drawn to {options['curve']}")
    scored = replace(DataOptions.of(options), data=options["test"] or options["data"])
    out.say(f"tuned program written to {target}; next: {command_line(['run', target, *scored.words()])}")


def _reported_accuracy(program: Program, facts: Path | None) -> float | None:
    """Accuracy of the float network, which no program file tells, as a report of the compilation has it."""
    accuracy = None if facts is None else facts_with(program_facts(program), facts)["accuracy"]
    return None if accuracy is None else float(accuracy["float"])


def tuning_data(program: Program, options: dict[str, Any]) -> tuple[Dataset, Dataset]:
    """Training and test samples."""
    refuse_other_layouts(program)
    data, test = options["data"], options["test"]
    training = training_samples(program, data, options)
    if test is None and data is not None and not data.is_dir():
        raise UsageError(f"{data} is an archive and has no test part; give samples to score on with --test")
    if test is not None and data is not None and test.resolve() == data.resolve():
        used = min(options["images"] or training.count, training.count)
        if (options["skip"] or 0) < used:
            raise UsageError(
                f"--test {test} names samples that --data trains with, whose score says nothing; give others, or leave "
                f"out the {used:,} samples of --images with --skip {used}"
            )
        # What follows them is scored, so it must not judge the steps of training.
        training = training.head(used)
    scored = load_dataset(test or data, program.inputs, part="test", **_how(program, options)).after(options["skip"])
    if scored.labels is None:
        raise UsageError(f"{scored.name} has no labels to score with; give an archive with labels")
    return training, scored.head(options["score_images"] or scored.count)


def training_samples(program: Program, data: Path | None, options: dict[str, Any]) -> Dataset:
    """Samples to train with: an archive, or the training part of a published data set or of the embedded one."""
    training = load_dataset(data, program.inputs, part="train", **_how(program, options))
    if training.generated:
        raise UsageError("tuning needs real samples with labels; give them with --data")
    return training


def _how(program: Program, options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of :func:`load_dataset` for both parts."""
    return {
        "mean": options["mean"],
        "std": options["std"],
        "seed": options["seed"],
        "classify": Emulator.ideal(program).run,
        "compiled": True,
    }


def _facts(
    source: Program, before: Program, result: TuningResult, training: Dataset, test: Dataset, progress: ProgressBar
) -> dict[str, Any]:
    assert before.chip is not None
    seed, accuracy = before.chip.seed, {}
    chips = {
        "ideal": Emulator.ideal(source),
        "transferred": Emulator(before, seed),
        "tuned": Emulator(result.program, seed),
    }
    with progress(SCORE_CHIP, len(chips) * test.count) as advance:
        for name, emulator in chips.items():
            accuracy[name] = measured_accuracy(emulator, test, advance)
    return {
        "training_data": training.name,
        "training_images": result.fitted_images,
        "test_data": test.name,
        "test_images": test.count,
        "accuracy": accuracy,
        "steps": step_facts(result.steps),
        "transfer": write_facts(source, result.transfer, result.transfer_most_pulses),
        "tuning": write_facts(source, result.tuning, result.most_pulses),
        "undoing": write_facts(source, result.undoing, result.most_pulses),
        "epochs": [asdict(record) for record in result.records],
    }


def step_facts(steps: Sequence[StepRecord]) -> list[dict[str, Any]]:
    """Facts of each step's result on held-back images."""
    return [asdict(step) for step in steps]


def step_lines(steps: Sequence[dict[str, Any]]) -> list[str]:
    """The same for a person to read."""
    lines = []
    for step in steps:
        lines.append(f"{step['step']}: {'kept' if step['kept'] else 'undone, not shown to help'}")
        if not step["images"]:
            lines.append("  no images are held back to judge it on; give more")
            continue
        lines.append(
            f"  {step['images']:,} images held back  {step['before']:.2%} right before, {step['after']:.2%} after; "
            f"{step['gained']} gained, {step['lost']} lost"
        )
    return lines


def _endurance_lines(facts: dict[str, Any]) -> list[str]:
    """Line on the share of a cell's endurance that is used up, where the target gives it."""
    share = facts["tuning"]["endurance_share"]
    if share is None:
        return []
    pulses = facts["tuning"]["most_pulses_of_a_cell"]
    return [f"endurance              {pulses:,} pulses on the busiest cell, a share of {share:.1e}"]


def _lines(facts: dict[str, Any]) -> list[str]:
    accuracy = facts["accuracy"]
    return [
        f"accuracy on {facts['test_data']}, {facts['test_images']:,} images",
        f"  ideal devices        {accuracy['ideal']:.2%}",
        f"  after transfer       {accuracy['transferred']:.2%}",
        f"  after tuning         {accuracy['tuned']:.2%}  "
        f"({facts['training_images']:,} images of {facts['training_data']})",
        *step_lines(facts["steps"]),
        f"transfer               {write_line(facts['transfer'])}",
        f"tuning                 {write_line(facts['tuning'])}",
        *([f"undoing                {write_line(facts['undoing'])}"] if facts["undoing"]["cell_writes"] else []),
        *_endurance_lines(facts),
    ]


def curve_figure(result: TuningResult, accuracy: Mapping[str, float], float_accuracy: float | None = None) -> Figure:
    """Loss and accuracy over epochs, with lines for what they are to be compared with.

    Parameters
    ----------
    accuracy
        On test samples: ``ideal`` devices, and the chip ``transferred``.
    float_accuracy
        Of the float network, if it is known.

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    figure = new_figure(8, 3.8, "--curve")
    loss, shares = figure.subplots(1, 2)
    records = result.records
    epochs = [record.epoch + 1 for record in records]
    loss.plot(epochs, [record.loss for record in records], marker="o", markersize=3, color=colour_of(0))
    loss.set(xlabel="epoch", ylabel="cross-entropy", title="loss on the chip")
    shares.plot(epochs, [100 * record.accuracy for record in records], "o-", markersize=3, label="training")
    held_back = [None if record.held_back is None else 100 * record.held_back for record in records]
    shares.plot(epochs, held_back, "s-", markersize=3, label="held back")
    lines = [("after transfer, test", accuracy["transferred"]), ("ideal devices, test", accuracy["ideal"])]
    in_situ = next((step for step in result.steps if step.step == "tune in situ"), None)
    if in_situ is not None:
        lines.insert(0, ("before tuning, held back", in_situ.before))
    if float_accuracy is not None:
        lines.append(("float, as reported", float_accuracy))
    for number, (label, share) in enumerate(lines, start=2):
        shares.axhline(100 * share, color=colour_of(number), linestyle=":" if number % 2 else "--", label=label)
    for axes in (loss, shares):
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.set_xlim(0.5, max(len(epochs), 1) + 0.5)
    shares.set(xlabel="epoch", ylabel="right answers, %", title="accuracy on the chip")
    shares.legend(fontsize="small")
    figure.suptitle(_curve_title(in_situ), fontsize="medium")
    return figure


def _curve_title(in_situ: StepRecord | None) -> str:
    """A sentence on whether tuning the cells helped."""
    if in_situ is None:
        return "cells were not tuned"
    if in_situ.kept:
        return f"tuning kept: {in_situ.gained} images gained and {in_situ.lost} lost of {in_situ.images} held back"
    if in_situ.after > in_situ.before:
        return "the last epoch was not the best: the cells went back to that"
    return f"tuning made nothing better on {in_situ.images} images held back, and was undone"

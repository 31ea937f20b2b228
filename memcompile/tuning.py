"""Hybrid training from end to end: transfer, write again, recalibrate, tune in situ; refresh later.

Each step is judged on images that it was not fitted to (:mod:`memcompile.accuracy.held_back`) and undone unless these
show that it helped. Undoing restores digital gains and offsets. Cells that were written are written back, which leaves
new errors; after writing the worst again, which corrects measured errors, that is done only where it did harm.

A checkpoint is written after each stage and each epoch. Everything random is keyed by the seed
and by counters that the checkpoint holds, so a killed run that is started again ends with the
same bytes as one that was not killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.chip_calibration import FIRST_IMAGE, fit_lines
from memcompile.accuracy.held_back import (
    LEAST_IMAGES,
    HeldBackImages,
    Outcome,
    StepRecord,
    better,
    harms,
    record,
    split,
)
from memcompile.blas import one_blas_thread
from memcompile.checkpoints import Checkpoint, TuningState
from memcompile.described import Described
from memcompile.errors import DataError, MemcompileError, UsageError
from memcompile.hardware.pulses import WriteReport
from memcompile.ir.graph import fixed_batch
from memcompile.ir.pass_manager import ProgressBar, no_progress
from memcompile.program.program import Program
from memcompile.progress.phases import MEASURE, TUNE, WRITE_CELLS
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.hybrid_training import (
    EpochRecord,
    InSituTuner,
    TuningOptions,
    stopped_early,
    tuned_layers,
    weights_of,
)
from memcompile.runtime.training.recalibrate import Reference
from memcompile.runtime.training.transfer import transfer
from memcompile.runtime.training.write_again import Ranking, sensitivities, write_worst_again
from memcompile.runtime.training.writer import Writer


@dataclass(frozen=True)
class TuningPlan:
    """Steps of tuning and the data for each.

    ``recalibration_images`` of 0 leaves the digital gains and offsets of lines alone; ``options.epochs`` of 0 leaves
    the cells alone after ``write_again_share`` (corrections as a share of the weights, of which
    those come first whose error has the largest ``write_again_by``, estimated on so many images).
    Without ``undo`` a step is kept whatever held-back images say.
    """

    recalibration_images: int = 300
    correct_slices: bool = True
    write_again_share: float = 0.0
    write_again_by: Ranking = "effect"
    write_again_images: int = 100
    options: TuningOptions = field(default_factory=TuningOptions)
    seed: int = 0
    undo: bool = True


def usual_plan(images: int | None = None, seed: int = 0) -> TuningPlan:
    """Plan of ``memcompile tune`` without options; ``images`` are all there are to fit with, as far as that is known.

    Worst by error needs no gradient, so that any network can have it, and is right where each weight gets a correction.
    """
    plan = TuningPlan(write_again_share=1.0, write_again_by="error", options=TuningOptions(epochs=10), seed=seed)
    return replace(plan, recalibration_images=min(plan.recalibration_images, images or plan.recalibration_images))


@dataclass(frozen=True, eq=False, repr=False)
class TuningResult(Described):
    """A tuned program and the cost of tuning.

    ``transfer`` and ``tuning`` are the costs of writing; ``transfer_most_pulses`` and ``most_pulses`` count the pulses
    of the cell that has had the most, after transfer (writing again included) and at the end. ``steps`` record what was
    done and kept, on ``fitted_images`` images; ``undoing`` is the cost of writing cells back.
    """

    program: Program
    records: tuple[EpochRecord, ...]
    transfer: WriteReport
    tuning: WriteReport
    transfer_most_pulses: int
    most_pulses: int
    steps: tuple[StepRecord, ...]
    undoing: WriteReport
    fitted_images: int

    def described(self) -> list[str]:
        """Lines of ``repr``."""
        steps = [
            f"  {step.step}: {step.before:.2%} to {step.after:.2%} of {step.images:,} images held back, "
            f"{'kept' if step.kept else 'undone'}"
            for step in self.steps
        ]
        return [f"TuningResult fitted on {self.fitted_images:,} images", *steps, *self.program.described()]


@one_blas_thread()
def tune(
    program: Program,
    inputs: Mapping[str, NDArray[Any]],
    labels: NDArray[np.int64] | None,
    plan: TuningPlan | None = None,
    *,
    images: int | None = None,
    checkpoint: Path | None = None,
    progress: ProgressBar = no_progress,
    notify: Callable[[str], None] = lambda line: None,
) -> TuningResult:
    """Transfer a program to one emulated chip and recover the lost accuracy.

    Parameters
    ----------
    inputs
        Training images, [N, ...] per program input.
    labels
        Their classes, int64 [N]; needed unless the plan has no epochs.
    plan
        Steps and their options; :func:`usual_plan` when None.
    images
        Number of images to fit with; those that follow are held back to judge each step on. When all are fitted with
        (None), the last fifth is held back instead. Cells are not tuned if these are fewer than two.
    checkpoint
        File from which a killed run resumes; removed at the end, and where the run fails. One that is damaged or of
        another run is set aside, as FILE.stale.
    notify
        Gets a line for the user.

    Raises
    ------
    UsageError
        The program has no crossbar layer, its chip is already programmed, a layer to tune does not
        exist, or a gradient would have to go back through an operator whose adjoint is not known.
    DataError
        Labels are missing or beyond the last layer's outputs.
    """
    count = len(next(iter(inputs.values())))
    plan = plan or usual_plan(count)
    check_tuning(program, labels, plan)
    decides = asdict(plan)
    del decides["options"]["epochs"]
    kept = Checkpoint.of(checkpoint, program, inputs, labels, decides)
    (inputs, labels), held_back = split(
        inputs, labels, min(images or count, count), fixed_batch(program.inputs.values()) or 1
    )
    state = kept.resume(plan.options.epochs, notify)
    try:
        held = HeldBackImages(Emulator.ideal(program), *held_back)
        if state is None:
            with progress(WRITE_CELLS, 1):
                state = _begin(program, inputs, held, plan, progress)
            kept.save(state)
        if plan.options.epochs and plan.undo and held.count < LEAST_IMAGES:
            # It would be undone, which leaves new errors.
            notify(f"layers are not tuned in situ: {held.count} images held back cannot show that it helps; give more")
        elif plan.options.epochs and labels is not None:
            state = _tune(state, inputs, labels, held, plan, kept.save, progress)
    except (MemcompileError, MemoryError):
        # What fails now would fail again; only a run that was stopped goes on.
        kept.remove()
        raise
    kept.remove()
    return TuningResult(
        state.program,
        state.records,
        state.transfer,
        state.tuning,
        state.transfer_most_pulses,
        int(state.cell_pulses.max(initial=0)),
        state.steps,
        state.undoing,
        len(next(iter(inputs.values()))),
    )


def refuse_other_layouts(program: Program) -> None:
    """Raise UsageError unless the samples of all inputs lie along axis 0."""
    other = [name for name, axis in program.batching.inputs.items() if axis != 0]
    if other:
        raise UsageError(
            f"a chip is tuned and refreshed with batches of samples, and samples do not lie along axis 0 of input "
            f"{other[0]!r}; export the network with the batch first in every input"
        )


def check_tuning(program: Program, labels: NDArray[Any] | None, plan: TuningPlan) -> None:
    """Raise what :func:`tune` raises for a program and labels that cannot be tuned."""
    refuse_other_layouts(program)
    if not program.layers:
        raise UsageError("the program has no crossbar layer, so there is nothing to tune")
    if program.target.cell.continuous:
        raise UsageError(f"cells of {program.target.name} have no errors, so there is nothing to tune")
    if program.placement.segments:
        raise UsageError(
            f"the arrays of this program are written {len(program.placement.segments)} times for each batch of "
            f"{program.placement.batch} images, and each write leaves other errors than those tuning would learn; "
            "compile it without --reprogram, for as many chips as it needs"
        )
    if program.chip is not None:
        raise UsageError("the program is already transferred to a chip; tune the program that the compiler wrote")
    if not plan.options.epochs:
        return
    if labels is None:
        raise DataError("tuning needs labels; give data with labels, or --epochs 0 to recalibrate only")
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"labels are names such as {labels[0]!r}, but tuning takes numbers: the place of each class among the "
            "outputs of the last crossbar layer, from 0 up"
        )
    tuned_layers(program, plan.options.layers)
    classes = program.layers[-1].geometry.out_channels
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"labels run from {labels.min()} to {labels.max()}, but the last crossbar layer "
            f"{program.layers[-1].name} has {classes} outputs"
        )
    if program.layers[-1].geometry.positions != 1:
        raise UsageError(
            f"the last crossbar layer {program.layers[-1].name} is not a classifier (it has "
            f"{program.layers[-1].geometry.positions} output positions); use --epochs 0 to recalibrate only"
        )


def _begin(
    program: Program, inputs: Mapping[str, NDArray[Any]], held: HeldBackImages, plan: TuningPlan, progress: ProgressBar
) -> TuningState:
    chip, writer = transfer(program, plan.seed, correct_slices=plan.correct_slices)
    steps: list[StepRecord] = []
    outcome, undoing = held.outcome(Emulator(chip, plan.seed)), WriteReport()
    # The transfer has made the corrections that the target asks for.
    plan = replace(plan, write_again_share=plan.write_again_share - program.target.programming.write_again_share)
    if plan.write_again_share > 0:
        chip, outcome, undoing = _write_again_or_back(chip, outcome, writer, inputs, held, plan, progress, steps)
    if plan.recalibration_images:
        some = {name: array[: plan.recalibration_images] for name, array in inputs.items()}
        fitted, outcome, step = fit_lines(
            "recalibrate", Emulator(chip, plan.seed), outcome, held, some, undo=plan.undo, progress=progress
        )
        chip = fitted.program
        steps.append(step)
    layers = tuned_layers(program, plan.options.layers) if plan.options.epochs else ()
    pending = np.zeros(weights_of(program, layers))
    most = int(writer.cell_pulses.max(initial=0))
    report, pulses = writer.take_report(), writer.cell_pulses
    return TuningState(
        chip, chip, outcome, outcome, tuple(steps), (), pending, writer.rounds, report, most, pulses, undoing
    )


def _write_again_or_back(
    chip: Program,
    before: Outcome,
    writer: Writer,
    inputs: Mapping[str, NDArray[Any]],
    held: HeldBackImages,
    plan: TuningPlan,
    progress: ProgressBar,
    steps: list[StepRecord],
) -> tuple[Program, Outcome, WriteReport]:
    """Correct the worst weights; write the cells back if that did harm."""
    assert chip.chip is not None
    cells_us = chip.chip.conductances_us
    chip = _write_again(chip, writer, inputs, plan, progress)
    after = held.outcome(Emulator(chip, plan.seed))
    if not (plan.undo and harms(before, after)):
        steps.append(record("write again", before, after))
        return chip, after, WriteReport()
    so_far = writer.take_report()
    writer.bring_back(cells_us)
    undoing = writer.take_report()
    writer.report = so_far
    chip = replace(chip, chip=writer.state())
    end = held.outcome(Emulator(chip, plan.seed))
    steps.append(record("write again", before, after, end))
    return chip, end, undoing


def _write_again(
    chip: Program, writer: Writer, inputs: Mapping[str, NDArray[Any]], plan: TuningPlan, progress: ProgressBar
) -> Program:
    sensitivity = None
    if plan.write_again_by == "effect":
        some = {name: array[: plan.write_again_images] for name, array in inputs.items()}
        with progress("weighing errors", len(next(iter(some.values())))) as advance:
            sensitivity = sensitivities(chip, writer, some, plan.seed, first_image=FIRST_IMAGE, advance=advance)
    return write_worst_again(chip, writer, plan.write_again_share, sensitivity)


@one_blas_thread()
def refresh(
    program: Program,
    inputs: Mapping[str, NDArray[Any]],
    time_s: float,
    *,
    reads: float = 0.0,
    images: int | None = None,
    progress: ProgressBar = no_progress,
) -> tuple[Program, tuple[StepRecord, ...]]:
    """Fit the digital gain and offset of each line of an aged chip to what it computed when fresh; no cell is written.

    Parameters
    ----------
    program
        A transferred program.
    inputs
        Images, [N, ...] per input, without labels.
    time_s
        Age of the chip: time since its cells were written, in seconds.
    reads
        Reads of each cell since then.
    images
        Number of images to fit with; the rest judges, as in :func:`tune`.

    Returns
    -------
    The chip, unchanged where held-back images do not say that it became more like the fresh one; and what was tried.

    Raises
    ------
    UsageError
        The program is not transferred to a chip, or has no crossbar layer.
    """
    refuse_other_layouts(program)
    if program.chip is None:
        raise UsageError("the program is not transferred to a chip, so nothing has aged; tune it first")
    if not program.layers:
        raise UsageError("the program has no crossbar layer, so there is nothing to refresh")
    fresh, count = Emulator(program, program.chip.seed), len(next(iter(inputs.values())))
    (inputs, _), held_back = split(inputs, None, min(images or count, count), fixed_batch(program.inputs.values()) or 1)
    held = HeldBackImages(fresh, *held_back)
    aged = Emulator(program, program.chip.seed, time_s=time_s, reads=reads)
    refreshed, _, step = fit_lines(
        "refresh", aged, held.outcome(aged), held, inputs, reference=Reference(fresh), progress=progress
    )
    return refreshed.program, (step,)


def _tune(
    state: TuningState,
    inputs: Mapping[str, NDArray[Any]],
    labels: NDArray[np.int64],
    held: HeldBackImages,
    plan: TuningPlan,
    save: Callable[[TuningState], None],
    progress: ProgressBar,
) -> TuningState:
    writer = Writer.resume(state.program, plan.seed, state.rounds, state.cell_pulses)
    with progress(MEASURE, len(labels)) as advance:
        tuner = InSituTuner(
            state.program,
            writer,
            inputs,
            labels,
            plan.options,
            plan.seed,
            state.pending,
            first_image=FIRST_IMAGE,
            advance=advance,
        )
    done = len(state.records)
    with progress(TUNE, plan.options.epochs) as advance:
        advance(done)
        for epoch in range(done, plan.options.epochs):
            if stopped_early(state.records, plan.options.patience):
                break
            took = tuner.epoch(epoch)
            after = held.outcome(Emulator(tuner.program, plan.seed))
            state = replace(
                state,
                program=tuner.program,
                records=(*state.records, replace(took, held_back=after.share)),
                pending=tuner.pending.copy(),
                rounds=writer.rounds,
                cell_pulses=writer.cell_pulses.copy(),
            )
            if better(state.best_outcome, after):
                state = replace(state, best=tuner.program, best_outcome=after)
            save(state)
            advance(1)
    return _keep_or_go_back(state, writer, held, plan)


def _keep_or_go_back(state: TuningState, writer: Writer, held: HeldBackImages, plan: TuningPlan) -> TuningState:
    """The last epoch if it is better than none and no worse than the best; else the best, or none."""
    last = held.outcome(Emulator(state.program, plan.seed))
    helps = better(state.start_outcome, last) and not better(last, state.best_outcome)
    if helps or not plan.undo:
        return replace(state, steps=(*state.steps, record("tune in situ", state.start_outcome, last)))
    assert state.best.chip is not None
    writer.take_report()
    writer.bring_back(state.best.chip.conductances_us)
    chip = replace(state.best, chip=writer.state())
    end = held.outcome(Emulator(chip, plan.seed))
    step = record("tune in situ", state.start_outcome, last, end)
    return replace(
        state,
        program=chip,
        steps=(*state.steps, step),
        cell_pulses=writer.cell_pulses.copy(),
        undoing=state.undoing + writer.take_report(),
    )

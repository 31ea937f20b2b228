"""The public functions: compile, load, evaluate, calibrate, tune."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memcompile.data.loader import Data, Dataset, load_dataset
from memcompile.errors import UsageError
from memcompile.export.mapping_picture import mapping_figure
from memcompile.frontend.sources import Network, open_network
from memcompile.hardware.target import Target
from memcompile.html.program_page import Origin, ReportPage
from memcompile.ir.pass_contract import Effort
from memcompile.ir.pass_manager import Pass, ProgressBar
from memcompile.ir.slicing import Slices
from memcompile.passes.replicate import Objective, Replicate
from memcompile.pipelines import AUTO, DEFAULT_TARGET, Auto, compile_model
from memcompile.program.file import load_program
from memcompile.program.program import Program
from memcompile.progress.notebook import shown
from memcompile.progress.phases import COMPILING, EMULATE, EVALUATING, FIT_LINES, TUNING
from memcompile.report import evaluation
from memcompile.report.acceptance import accuracy_share
from memcompile.report.emulated_chips import EmulatedChips, measured_accuracy
from memcompile.report.evaluation import Evaluation
from memcompile.report.facts import program_facts
from memcompile.runtime.emulator import Emulator
from memcompile.tuning import TuningPlan, TuningResult
from memcompile.tuning import tune as tune_chip
from memcompile.verify.verifier import verify_program

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compile(  # noqa: A001, PLR0913 - the public name; its options are those of the command line
    model: Network,
    target: Target | str = DEFAULT_TARGET,
    *,
    data: Data = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    frozen_inputs: Mapping[str, ArrayLike] | None = None,
    example_inputs: Sequence[Any] | None = None,
    objective: Objective = "throughput",
    effort: Effort = "normal",
    chips: int | None = None,
    batch: int | None = None,
    slices: Slices = 1,
    slice_base: int | None = None,
    seed: int = 0,
    settings: Sequence[str] = (),
    passes: Sequence[Pass] | None = None,
    time_limit_s: float = math.inf,
    max_loss: float | Auto | None = AUTO,
    no_windows: Sequence[str] = (),
    progress: ProgressBar | None = None,
) -> Program:
    """Compile a network for a target.

    Parameters
    ----------
    model
        Path of an ONNX file, an ``onnx.ModelProto``, or a ``torch.nn.Module``.
    target
        Name of a built-in target, path of a target file, or a :class:`Target`.
    data
        Samples to calibrate with: path of a .npz archive or of a directory with MNIST or CIFAR-10, or arrays by the
        name of their input, [samples, ...] each. Digits of scikit-learn or generated samples when None.
    mean, std
        Per-channel normalisation (x - mean) / std of uint8 images, after scaling to 0..1.
    input_shapes
        Sizes for inputs that leave some open.
    frozen_inputs
        Values of inputs that are made constants, such as a sampling rate: a number for all elements, or an array.
    example_inputs
        One batch of tensors or arrays, one per input, to export a PyTorch module with.
    objective
        throughput: shortest interval between images; accuracy: the same with one output position a step; latency:
        fewest steps for one image; arrays: one replica of each layer in the fewest arrays.
    effort
        Work that the searches may take.
    chips
        Budget of chips; as many as the network needs when None.
    batch
        Images of a batch for which a network larger than its chips is written onto them segment by segment.
    slices, slice_base
        Differential pairs per weight, for all layers or as a mapping by name, in which ``""`` stands for all layers
        that it does not name: a number, or a text such as ``"3:equal"`` for slices that share each weight, so that
        their errors average; and the value of a slice's step in steps of the one below.
    seed
        Seed of generated samples.
    settings
        Further options of passes, ``"PASS.OPTION=VALUE"``, and fields of the target, ``"SECTION.FIELD=VALUE"``.
    passes
        A pipeline of one's own instead of :func:`memcompile.pipelines.default_passes`.
    time_limit_s
        Seconds for all searches together; results then depend on the machine.
    max_loss
        Points of accuracy that calibrated chips may lose: layers get slices, at least those given, and windows to hold
        it, or to lose as little as was found. None asks nothing of accuracy; "auto" asks for one point where there are
        data to measure it with and neither slices, windows, passes nor a time limit are given.
    no_windows
        Names of layers that get no parallel windows, whose cells add errors.
    progress
        Opens a bar for a description and a total. Without one, notebooks show a line of their own.

    Raises
    ------
    MemcompileError
        Any fault of the model, the data, the target, the options or the budget.
    """
    with shown(progress, COMPILING) as bar:
        return compile_model(
            model,
            target,
            data=data,
            mean=mean,
            std=std,
            input_shapes=input_shapes,
            frozen_inputs=frozen_inputs,
            example_inputs=example_inputs,
            chips=chips,
            batch=batch,
            slices=slices,
            slice_base=slice_base,
            seed=seed,
            settings=(*_mapping_settings(objective, effort), *settings),
            passes=passes,
            time_limit_s=time_limit_s,
            max_loss=max_loss,
            no_windows=no_windows,
            progress=bar,
        ).program


def _mapping_settings(objective: Objective, effort: Effort) -> tuple[str, ...]:
    """Settings of what is not the default."""
    asked, usual = Replicate(objective=objective, effort=effort), Replicate()
    names = (name for name in ("objective", "effort") if getattr(asked, name) != getattr(usual, name))
    return tuple(f"replicate.{name}={getattr(asked, name)}" for name in names)


def load(path: Path | str) -> Program:
    """Read and check a program file.

    Raises
    ------
    ProgramError
        The file is missing, damaged, inconsistent, or of another version.
    """
    return verify_program(load_program(path))


def evaluate(
    program: Program,
    model: Network,
    data: Data = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    frozen_inputs: Mapping[str, ArrayLike] | None = None,
    example_inputs: Sequence[Any] | None = None,
    images: int | None = None,
    emulated_images: int | None = None,
    chips: int = 3,
    seed: int = 0,
    calibrate: bool = True,
    accept: float | str | None = None,
    budget: bool = True,
    progress: ProgressBar | None = None,
) -> Evaluation:
    """Measure a program against the network it was made from.

    Parameters
    ----------
    model, data, mean, std, frozen_inputs, example_inputs
        As for :func:`compile`; with labels accuracy is measured, without them the signal-to-noise ratio.
    images
        Scored samples at most; all when None.
    emulated_images
        Samples on emulated chips at most; as many as a fixed amount of work allows when None.
    chips
        Emulated chips, of seeds ``seed``, ``seed + 1``, ...
    calibrate
        Calibrate the lines of each chip on calibration samples, without labels, as :func:`calibrate` does.
    accept
        Accuracy that a chip has to reach to be accepted, a share such as 0.97 or per cent such as 97 or ``"97%"``; the
        result has the share of the chips that do, ``accuracy.acceptance``.
    budget
        With labels, find out what the loss comes from, which takes as long as some chips.

    Raises
    ------
    UsageError
        ``accept`` is no accuracy, there are no labels for it, or the network has inputs that the program has not.
    MemcompileError
        Any fault of the model or the data.
    """
    least = None if accept is None else accuracy_share(accept)
    file = open_network(model, None, example_inputs, frozen_inputs)
    further = [name for name in file.inputs if name not in program.inputs]
    if further:
        raise UsageError(
            f"the network has inputs {', '.join(further)}, which the program has not; give frozen_inputs as they were "
            "given to compile"
        )
    dataset = _dataset(program, data, mean, std, seed)
    if least is not None:
        evaluation.check_acceptance(program, dataset)
    with shown(progress, EVALUATING if budget else EVALUATING[:-1]) as bar:
        found = evaluation.evaluate(
            program,
            file,
            dataset,
            images=images,
            emulated_images=emulated_images,
            seeds=chips,
            seed=seed,
            calibrate=calibrate,
            budget=budget,
            progress=bar,
        )
    return found if least is None else found.accepting(least)


def accuracy(
    program: Program,
    data: Data = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    chips: int = 3,
    seed: int = 0,
    ideal: bool = False,
    calibrate: bool = True,
    progress: ProgressBar | None = None,
) -> NDArray[np.float64]:
    """Shares of right answers of emulated chips, or of ideal devices, without the network that a program was made from.

    Parameters
    ----------
    data, mean, std
        Samples with labels, as for :func:`compile`.
    chips
        Emulated chips, of seeds ``seed``, ``seed + 1``, ...; a tuned program has a chip of its own.
    ideal
        Ideal devices instead.
    calibrate
        Calibrate the lines of each chip, where that is possible.

    Returns
    -------
    [chips], 0..1.

    Raises
    ------
    UsageError
        There are no labels.
    MemcompileError
        The data do not fit the program.
    """
    dataset = _dataset(program, data, mean, std, seed)
    if dataset.labels is None:
        raise UsageError(f"{dataset.name} has no labels, so there is no accuracy; give data with labels")
    if ideal or program.target.cell.continuous:
        return np.array([measured_accuracy(Emulator.ideal(program), dataset)])
    seeds = range(seed, seed + chips) if program.chip is None else [program.chip.seed]
    emulated = EmulatedChips(program, dataset, calibrate=calibrate)
    with shown(progress, (EMULATE,)) as bar, bar(EMULATE, len(seeds) * dataset.count) as advance:
        return np.array([measured_accuracy(emulated.chip(seed, bar).emulator, dataset, advance) for seed in seeds])


def report_page(program: Program, evaluation: Evaluation | None = None, *, seed: int = 0) -> ReportPage:
    """Put what is known of a program on one page, which notebooks show.

    Parameters
    ----------
    evaluation
        What :func:`evaluate` measured; the page has no accuracy without it.
    seed
        Chip whose cells the floor plan shows.

    Returns
    -------
    The page, with ``save(path)``, ``html`` and ``facts``, the dictionary of the JSON report.
    """
    return ReportPage(program, program_facts(program, evaluation), Origin(seed=seed))


def draw(program: Program, evaluation: Evaluation | None = None) -> Figure:
    """Draw the tiles of a program, its schedule, and its accuracy if an evaluation is given.

    Returns
    -------
    A figure of matplotlib, which notebooks show.

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    return mapping_figure(program, program_facts(program, evaluation), "memcompile.draw")


def calibrate(
    program: Program,
    data: Data = None,
    seed: int = 0,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    progress: ProgressBar | None = None,
) -> Program:
    """Give each output line of one emulated chip a digital gain and offset, fitted without labels.

    Parameters
    ----------
    data, mean, std
        Samples, as for :func:`compile`; the first hundreds are used.
    seed
        The chip. ``Emulator(result, seed)`` runs it; other chips need a calibration of their own.

    Returns
    -------
    The program with the corrections of the chip, or unchanged if images that were held back do not show them to help.

    Raises
    ------
    UsageError
        Chips of the program cannot be calibrated.
    MemcompileError
        The data do not fit the program.
    """
    chips = EmulatedChips(program, _dataset(program, data, mean, std, seed))
    if chips.obstacle:
        raise UsageError(f"chips of this program cannot be calibrated: {chips.obstacle}")
    with shown(progress, (FIT_LINES,)) as bar:
        return chips.chip(seed, bar).used


def tune(
    program: Program,
    data: Data = None,
    plan: TuningPlan | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    images: int | None = None,
    checkpoint: Path | None = None,
    progress: ProgressBar | None = None,
    notify: Callable[[str], None] = lambda line: None,
) -> TuningResult:
    """Transfer a program to one emulated chip and recover the lost accuracy.

    Parameters
    ----------
    data, mean, std
        Training samples with labels, as for :func:`compile`; of a directory the training part.
    plan
        Steps of tuning and the seed of the chip; :func:`memcompile.tuning.usual_plan` when None.
    images
        Samples to fit with; those that follow judge each step. All when None, of which the last fifth judges.
    checkpoint
        File from which a killed run resumes.

    Raises
    ------
    MemcompileError
        The program cannot be tuned, or the data do not fit it.
    """
    dataset = _dataset(program, data, mean, std, 0, training=True)
    if dataset.generated:
        raise UsageError("tuning needs real samples with labels; give them as data")
    with shown(progress, TUNING) as bar:
        return tune_chip(
            program,
            dataset.inputs,
            dataset.labels,
            plan,
            images=images,
            checkpoint=checkpoint,
            progress=bar,
            notify=notify,
        )


def _dataset(
    program: Program,
    data: Data,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    seed: int,
    training: bool = False,
) -> Dataset:
    return load_dataset(
        data,
        program.inputs,
        mean=mean,
        std=std,
        seed=seed,
        part="train" if training else "test",
        batching=program.batching,
        classify=Emulator.ideal(program).run,
    )

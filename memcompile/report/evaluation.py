"""Quality of a program: accuracy where there are labels, signal to noise where there are none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.error_budget import ErrorBudget, error_budget
from memcompile.accuracy.noise_injection import inputs_on
from memcompile.accuracy.scoring import class_names, score_samples
from memcompile.blas import one_blas_thread
from memcompile.data.loader import Dataset
from memcompile.described import Described
from memcompile.errors import DataError, UsageError
from memcompile.figures import PLUS_MINUS
from memcompile.frontend.importer import ModelFile
from memcompile.frontend.sessions import run_session
from memcompile.frontend.values import Value, contents
from memcompile.ir.batching import Batching
from memcompile.ir.graph import OnnxNode
from memcompile.ir.pass_manager import ProgressBar, no_progress
from memcompile.noise.line_currents import LineCurrents, line_currents
from memcompile.program.coupled_samples import any_couples_samples
from memcompile.program.flow import program_flow
from memcompile.program.program import Program
from memcompile.program.random_operators import random_values
from memcompile.progress.phases import EMULATE, EXPLAIN_LOSS, SCORE
from memcompile.report.acceptance import Acceptance
from memcompile.report.emulated_chips import EmulatedChips, measured_accuracy, spread
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.executors.batches import join_values
from memcompile.runtime.training.transfer import transfer

# Emulating a converter output takes about a nanosecond or ten, so that this many take seconds.
CONVERSION_BUDGET = 20_000_000_000
QUALITY_IMAGES = 64
CURRENT_BYTES = 20_000_000
"""Memory for the inputs of all layers on the images on which the currents of lines are looked at."""
LEAST_CURRENT_IMAGES, MOST_CURRENT_IMAGES = 8, 64


@dataclass(frozen=True, eq=False)
class Accuracy:
    """Shares of right answers, 0..1.

    ``reference`` is the float network in onnxruntime. ``transferred`` and ``emulated`` are those of each emulated chip,
    [seeds]: as its cells were written, and with its lines calibrated where held-back images show that to help.
    ``images`` counts the samples of ``reference`` and ``ideal``, ``emulated_images`` those on chips; on these ideal
    devices have ``ideal_emulated``. Chips are accepted that reach ``least``, if that is given. ``tuned`` are the same
    chips after hybrid training, if they went through it.
    """

    reference: float
    ideal: float
    ideal_emulated: float
    transferred: NDArray[np.float64]
    emulated: NDArray[np.float64]
    images: int
    emulated_images: int
    calibration: CalibrationSummary
    least: float | None = None
    tuned: TunedAccuracy | None = None

    @property
    def seeds(self) -> int:
        """Number of emulated chips."""
        return len(self.emulated)

    @property
    def emulated_mean(self) -> float:
        """Mean over the chips as they are used."""
        return float(self.emulated.mean())

    @property
    def emulated_std(self) -> float:
        """Standard deviation over the chips as they are used; 0 of one."""
        return spread(self.emulated)

    @property
    def acceptance(self) -> Acceptance | None:
        """Chips as they are used that reach ``least``; None where it is not given."""
        return None if self.least is None else Acceptance.of(self.emulated, self.least)


@dataclass(frozen=True, eq=False)
class TunedAccuracy:
    """Shares of right answers of chips after hybrid training, [seeds], 0..1, and what they were trained with."""

    chips: NDArray[np.float64]
    training_data: str
    training_images: int


@dataclass(frozen=True)
class CalibrationSummary:
    """Calibration of the emulated chips: images it took, chips that it helped, or the reason why there was none."""

    images: int = 0
    chips: int = 0
    obstacle: str = ""


@dataclass(frozen=True)
class Quality:
    """Signal-to-noise ratios against onnxruntime, in decibels.

    ``layers`` and ``outputs`` are those of ideal devices, where all noise is that of quantising. ``chip_layers`` and
    ``chip_outputs`` are those of ``seeds`` emulated chips as they are used, [seeds] each, on the first ``chip_images``
    of ``images``, and ``transferred_outputs`` those of the same chips before their calibration. For outputs that are a
    row of scores a sample, ``agreement`` is the share of samples with onnxruntime's class, on ideal devices and on
    chips. ``not_compared`` says of other outputs why they have none.
    """

    layers: Mapping[str, float]
    outputs: Mapping[str, float]
    images: int
    chip_layers: Mapping[str, NDArray[np.float64]]
    chip_outputs: Mapping[str, NDArray[np.float64]]
    transferred_outputs: Mapping[str, NDArray[np.float64]]
    agreement: Mapping[str, float]
    chip_agreement: Mapping[str, NDArray[np.float64]]
    chip_images: int
    seeds: int
    not_compared: Mapping[str, str]
    calibration: CalibrationSummary


@dataclass(frozen=True, eq=False)
class ConverterInputs:
    """Currents that the converters of all layers get on ideal devices, from so many calibration images."""

    images: int
    layers: Sequence[LineCurrents]


@dataclass(frozen=True, repr=False)
class Evaluation(Described):
    """Measured quality of a program; accuracy, and an error budget that explains its loss if wanted, with labels.

    ``currents`` are those that converters get, where calibration data tell.
    """

    data: str
    accuracy: Accuracy | None
    quality: Quality | None
    budget: ErrorBudget | None = None
    currents: ConverterInputs | None = None

    def accepting(self, least: float) -> Evaluation:
        """The same, with chips accepted that reach an accuracy, 0..1."""
        return replace(self, accuracy=None if self.accuracy is None else replace(self.accuracy, least=least))

    def described(self) -> list[str]:
        """Lines of ``repr``."""
        if self.accuracy is not None:
            found = self.accuracy
            return [
                f"Evaluation on {self.data}, accuracy",
                f"  float {found.reference:.2%}, ideal {found.ideal:.2%} of {found.images:,} images",
                f"  transferred {found.transferred.mean():.2%}{PLUS_MINUS}{spread(found.transferred):.2%}, calibrated "
                f"{found.emulated_mean:.2%}{PLUS_MINUS}{found.emulated_std:.2%} of {found.emulated_images:,} images "
                f"on {found.seeds} chips",
            ]
        outputs = {} if self.quality is None else self.quality.outputs
        lines = [f"  {name}: {ratio:.1f} dB on ideal devices" for name, ratio in outputs.items()]
        return [f"Evaluation on {self.data}, signal to noise of outputs against onnxruntime", *lines]


def evaluate(
    program: Program,
    model: ModelFile,
    dataset: Dataset,
    *,
    images: int | None = None,
    emulated_images: int | None = None,
    seeds: int = 3,
    seed: int = 0,
    calibrate: bool = True,
    written: bool = False,
    sensitivities: NDArray[np.float64] | None = None,
    budget: bool = True,
    progress: ProgressBar = no_progress,
) -> Evaluation:
    """Measure a program on a data set.

    Parameters
    ----------
    images
        Scored samples at most; all when None.
    emulated_images
        Samples for the emulated figure at most; as many as a fixed number of converter outputs
        allows when None.
    seeds
        Emulated chips.
    calibrate
        Calibrate each chip on the data set's calibration samples; otherwise chips are as their cells were written.
    written
        Write the cells of each chip as :func:`memcompile.runtime.training.transfer.transfer` does, so that chips are
        those that hybrid training begins with: other samples of the same distribution.
    sensitivities
        Of the outputs to layers, [layers], as an accuracy budget measured them; measured when None.
    budget
        With labels, find out what the loss comes from.
    """
    scored = whole_batches(dataset, images or dataset.count, model)
    if scored.labels is None:
        with progress(EMULATE, 1):
            quality = measure_quality(
                program, model, dataset, emulated_images, seeds, seed, calibrate=calibrate, progress=progress
            )
            return Evaluation(dataset.name, None, quality, None, converter_inputs(program, dataset))
    chips = EmulatedChips(program, dataset, calibrate=calibrate)
    with progress(SCORE, 2 * scored.count) as advance:
        reference = run_float(model, scored.inputs, advance, batching=dataset.batching)
        ideal = Emulator.ideal(program).run(scored.inputs, progress=advance)
        currents = converter_inputs(program, dataset)
    rows = 1 if chips.obstacle else 2
    affordable = max(CONVERSION_BUDGET // (rows * max(program.conversions_per_image, 1)), 32)
    noisy, names = whole_batches(scored, emulated_images or affordable, model), class_names(program)

    transferred, emulated, helped = list[float](), list[float](), 0
    with progress(EMULATE, seeds * rows * noisy.count) as advance:
        for number in range(seed, seed + seeds):
            chip = chips.chip(number, progress, transfer(program, number)[0] if written else None)
            plain = used = measured_accuracy(chip.transferred, noisy, advance)
            if chip.calibrated:
                used = measured_accuracy(chip.emulator, noisy, advance)
            else:
                advance((rows - 1) * noisy.count)
            transferred.append(plain)
            emulated.append(used)
            helped += chip.calibrated
    ideal_share = score_samples(ideal, scored, names)
    ideal_emulated = ideal_share if noisy.count == scored.count else measured_accuracy(Emulator.ideal(program), noisy)
    accuracy = Accuracy(
        reference=score_samples(reference, scored, names),
        ideal=ideal_share,
        ideal_emulated=ideal_emulated,
        transferred=np.array(transferred),
        emulated=np.array(emulated),
        images=scored.count,
        emulated_images=noisy.count,
        calibration=CalibrationSummary(chips.images, helped, chips.obstacle),
    )
    if not budget:
        return Evaluation(dataset.name, accuracy, None, None, currents)
    calibrated = helped > 0
    with progress(EXPLAIN_LOSS, 1):
        causes = error_budget(program, scored, calibrated=calibrated, sensitivities=sensitivities, progress=progress)
    return Evaluation(dataset.name, accuracy, None, causes, currents)


def converter_inputs(program: Program, dataset: Dataset) -> ConverterInputs | None:
    """Currents that converters get on a few calibration images; None without real data or converters."""
    batching = program.batching
    usual = not batching.whole and not batching.one_by_one and all(axis == 0 for axis in batching.inputs.values())
    if program.target.cell.continuous or not program.layers or dataset.generated or not usual:
        return None
    size = batching.size or 1
    held = 4 * sum(layer.geometry.in_channels * math.prod(layer.geometry.input_size) for layer in program.layers)
    images = max(min(CURRENT_BYTES // held, MOST_CURRENT_IMAGES), LEAST_CURRENT_IMAGES)
    images = min(-(-images // size) * size, len(next(iter(dataset.calibration.values()))) // size * size)
    if not images:
        return None
    with one_blas_thread():
        inputs = inputs_on(
            Emulator.ideal(program), {name: array[:images] for name, array in dataset.calibration.items()}
        )
        return ConverterInputs(images, line_currents(program, inputs))


def check_acceptance(program: Program, dataset: Dataset, option: str = "--accept") -> None:
    """Raise UsageError where accuracies of several chips cannot be told; ``option`` asks for them."""
    why = ""
    if dataset.labels is None:
        why = f"{dataset.name} has no labels; give labels, or leave {option} out"
    elif program.target.cell.continuous:
        why = f"cells of {program.target.name} have no errors, so that they are all alike; leave {option} out"
    elif program.chip is not None:
        why = f"the program is on one already; give {option} with the program that the compiler wrote"
    if why:
        raise UsageError(f"{option} compares chips by their accuracy, and {why}")


def whole_batches(dataset: Dataset, images: int, model: ModelFile) -> Dataset:
    """At most so many samples, but whole batches where the model's batch is fixed.

    Raises
    ------
    DataError
        There are fewer samples than one batch.
    """
    size = dataset.batching.size or 1
    if dataset.count < size:
        raise DataError(f"{dataset.name} holds {dataset.count} samples; the model takes batches of {size}: give more")
    return dataset.head(max(min(dataset.count, images) // size, 1) * size)


def run_float(
    model: ModelFile,
    inputs: Mapping[str, NDArray[Any]],
    advance: Callable[[int], None] | None = None,
    also: Sequence[str] = (),
    batching: Batching | None = None,
) -> dict[str, NDArray[Any]]:
    """Run the original model in onnxruntime; returns its outputs and the values named in ``also``.

    Without ``batching`` samples lie along axis 0.
    """
    session = model.open_session(also, optimise=not also)
    names = [value.name for value in session.get_outputs()]
    layout = batching or Batching.along_first(model.inputs)
    count = layout.count(inputs)
    size = 1 if layout.one_by_one else layout.size
    if size is None and any_couples_samples(model.operators()):
        size = 1
    chunk = size or 100
    parts: list[list[Value]] = []

    def run(first: int, last: int) -> list[Value]:
        return run_session(session, names, layout.feeds(inputs, slice(first, last)), model.name)

    for start in range(0, count, chunk):
        parts.append(run(start, start + chunk))
        if advance is not None:
            advance(min(chunk, count - start))
    counts = [min(chunk, count - start) for start in range(0, count, chunk)]

    def joined(place: int, name: str) -> Value:
        another = None if size else lambda: (1, run(0, 1)[place])
        return join_values(name, [part[place] for part in parts], counts, another, layout)

    return {name: joined(place, name) for place, name in enumerate(names)}


def measure_quality(
    program: Program,
    model: ModelFile,
    dataset: Dataset,
    emulated_images: int | None = None,
    seeds: int = 3,
    seed: int = 0,
    *,
    calibrate: bool = True,
    progress: ProgressBar = no_progress,
) -> Quality:
    """Compare outputs of layers and network with onnxruntime on a few samples, on ideal devices and on chips.

    Parameters are those of :func:`evaluate`.
    """
    if program.target.cell.continuous:
        seeds = 0  # such chips are all alike, and ideal
    affordable = CONVERSION_BUDGET // max(program.conversions_per_image * seeds, 1)
    most = emulated_images or max(affordable, 1)
    chips, numbers = EmulatedChips(program, dataset, calibrate=calibrate), range(seed, seed + seeds)

    def measure(images: int) -> Quality:
        some = whole_batches(dataset, images, model)
        fewer = whole_batches(some, min(most, images), model)
        return _quality(program, model, some, fewer, chips, numbers, progress)

    try:
        return measure(QUALITY_IMAGES)
    except DataError:
        # A value has no batch axis, or a shape that the data decide: batches cannot be joined, but one can be compared.
        return measure(1)


def _quality(
    program: Program,
    model: ModelFile,
    some: Dataset,
    fewer: Dataset,
    chips: EmulatedChips,
    seeds: Sequence[int],
    progress: ProgressBar,
) -> Quality:
    values = {layer.name: layer.outputs[0] for layer in program.layers}
    known = model.value_names()
    also = [value for value in values.values() if value in known]
    reference = run_float(model, some.inputs, also=also, batching=some.batching)
    random = random_values(program_flow(program))
    on_ideal = Emulator.ideal(program).run(some.inputs, also=also)
    ideal, why = _ratios(reference, on_ideal, random)
    if fewer.count < some.count:
        reference = run_float(model, fewer.inputs, also=also, batching=some.batching)
    runs, plain, helped = list[dict[str, Any]](), list[dict[str, Any]](), 0
    for seed in seeds:
        chip = chips.chip(seed, progress)  # one after the other: the cells of all may fill the memory
        runs.append(chip.emulator.run(fewer.inputs, also=also))
        plain.append(chip.transferred.run(fewer.inputs) if chip.calibrated else runs[-1])
        helped += chip.calibrated
    on_chips = _of_chips(ideal, [_ratios(reference, run, random)[0] for run in runs])
    outputs = [name for name in program.outputs if name in ideal]
    transferred = _of_chips(outputs, [_ratios(reference, run, random)[0] for run in plain])
    scores = [name for name in outputs if _are_scores(reference[name], fewer.count)]
    return Quality(
        layers={name: ideal[value] for name, value in values.items() if value in ideal},
        outputs={name: ideal[name] for name in outputs},
        images=some.count,
        chip_layers={name: on_chips[value] for name, value in values.items() if value in on_chips},
        chip_outputs={name: on_chips[name] for name in outputs if name in on_chips},
        transferred_outputs=transferred,
        agreement={name: agreement(reference[name], on_ideal[name][: fewer.count]) for name in scores},
        chip_agreement={name: np.array([agreement(reference[name], run[name]) for run in runs]) for name in scores},
        chip_images=fewer.count,
        seeds=len(seeds),
        not_compared={name: why[name] for name in program.outputs if name in why},
        calibration=CalibrationSummary(chips.images, helped, chips.obstacle),
    )


def _of_chips(names: Iterable[str], ratios: Sequence[Mapping[str, float]]) -> dict[str, NDArray[np.float64]]:
    """Ratios of all chips, [chips], of the values that each chip has."""
    return {name: np.array([chip[name] for chip in ratios]) for name in names if all(name in chip for chip in ratios)}


def _are_scores(value: Value, samples: int) -> bool:
    """Return True if a value is a row of scores for each sample."""
    return isinstance(value, np.ndarray) and value.ndim == 2 and len(value) == samples and value.shape[1] > 1


def agreement(reference: NDArray[Any], scores: NDArray[Any]) -> float:
    """Share of samples whose largest score is that of the reference, both [samples, classes]."""
    return float((reference.argmax(axis=1) == scores.argmax(axis=1)).mean())


def _ratios(
    reference: Mapping[str, Value], values: Mapping[str, Value], random: Mapping[str, OnnxNode]
) -> tuple[dict[str, float], dict[str, str]]:
    """Signal-to-noise ratio of each value that has one, and why others have none."""
    ratios: dict[str, float] = {}
    why: dict[str, str] = {}
    for name, value in values.items():
        if name in random:
            why[name] = f"it depends on random numbers of {random[name].op_type} {random[name].name!r}"
            continue
        if name not in reference:
            continue
        ratio, reason = _compared(reference[name], value)
        if reason:
            why[name] = reason
        else:
            ratios[name] = ratio
    return ratios, why


def _compared(reference: Value, value: Value) -> tuple[float, str]:
    """Ratio of two values, and why they have none."""
    expected, found = contents(reference), contents(value)
    if expected.structure != found.structure:
        return math.nan, "its shape depends on the data and is another one than onnxruntime's"
    if not expected.numbers.size:
        return math.nan, "there are no numbers in it"
    ratio = signal_to_noise_db(expected.numbers, found.numbers)
    if math.isnan(ratio):
        return ratio, "onnxruntime's values are not finite"
    return ratio, "onnxruntime's values are all 0" if ratio == -math.inf else ""


def signal_to_noise_db(reference: NDArray[Any], value: NDArray[Any]) -> float:
    """10 log10(sum r^2 / sum (r - v)^2); infinite when equal, not a number where a wanted value is infinite."""
    wanted = reference.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        noise = float(np.square(wanted - value).sum())
        signal = float(np.square(wanted).sum())
    if noise == 0.0:
        return math.inf
    if not math.isfinite(signal):
        return math.nan
    ratio = signal / noise
    return 10.0 * math.log10(ratio) if ratio > 0.0 else -math.inf

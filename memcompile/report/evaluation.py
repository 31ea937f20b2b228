"""Quality of a program: accuracy where there are labels, signal to noise where there are none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.data.loader import Dataset
from memcompile.described import Described
from memcompile.errors import DataError
from memcompile.frontend.importer import ModelFile
from memcompile.frontend.sessions import run_session
from memcompile.frontend.values import Value, contents
from memcompile.ir.batching import Batching
from memcompile.ir.graph import OnnxNode
from memcompile.ir.pass_manager import ProgressBar, no_progress
from memcompile.program.coupled_samples import any_couples_samples
from memcompile.program.flow import program_flow
from memcompile.program.program import Program
from memcompile.program.random_operators import random_values
from memcompile.report.error_budget import ErrorBudget, error_budget
from memcompile.report.scoring import class_names, score_samples
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.executors.batches import join_values

# Emulating a converter output takes about a nanosecond or ten, so that this many take seconds.
CONVERSION_BUDGET = 20_000_000_000
QUALITY_IMAGES = 64


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers, 0..1.

    ``reference`` is the float network in onnxruntime. ``images`` counts the samples of ``reference``
    and ``ideal``, ``emulated_images`` those of the
    emulated figures, whose mean and standard deviation are over ``seeds`` chips.
    """

    reference: float
    ideal: float
    emulated_mean: float
    emulated_std: float
    images: int
    emulated_images: int
    seeds: int


@dataclass(frozen=True)
class Quality:
    """Signal-to-noise ratios against onnxruntime, in decibels.

    ``layers`` and ``outputs`` are those of ideal devices, where all noise is that of quantising. ``chip_layers`` and
    ``chip_outputs`` are those of ``seeds`` emulated chips, [seeds] each, on the first ``chip_images`` of ``images``.
    ``not_compared`` says of other outputs why they have none.
    """

    layers: Mapping[str, float]
    outputs: Mapping[str, float]
    images: int
    chip_layers: Mapping[str, NDArray[np.float64]]
    chip_outputs: Mapping[str, NDArray[np.float64]]
    chip_images: int
    seeds: int
    not_compared: Mapping[str, str]


@dataclass(frozen=True, repr=False)
class Evaluation(Described):
    """Measured quality of a program; accuracy, and the error budget that explains its loss, only with labels."""

    data: str
    accuracy: Accuracy | None
    quality: Quality | None
    budget: ErrorBudget | None = None

    def described(self) -> list[str]:
        """Lines of ``repr``."""
        if self.accuracy is not None:
            found = self.accuracy
            return [
                f"Evaluation on {self.data}, accuracy",
                f"  float {found.reference:.2%}, ideal {found.ideal:.2%} of {found.images:,} images",
                f"  emulated {found.emulated_mean:.2%} +- {found.emulated_std:.2%} of {found.emulated_images:,} images "
                f"on {found.seeds} chips",
            ]
        outputs = {} if self.quality is None else self.quality.outputs
        lines = [f"  {name}: {ratio:.1f} dB on ideal devices" for name, ratio in outputs.items()]
        return [f"Evaluation on {self.data}, signal to noise of outputs against onnxruntime", *lines]


def conversions_per_image(program: Program) -> int:
    """Converter outputs that one image takes, all line reads of all phases."""
    tiles = program.placement.tiles
    if not len(tiles):
        return 0
    layers = program.layers
    reads = np.array(
        [
            layers[layer].quantizer.phase_count * len(layers[layer].replicas[copy].windows)
            for layer, copy in zip(tiles.layer, tiles.replica, strict=True)
        ]
    )
    return int((program.cell_map.widths.astype(np.int64) * reads).sum())


def evaluate(
    program: Program,
    model: ModelFile,
    dataset: Dataset,
    *,
    images: int | None = None,
    emulated_images: int | None = None,
    seeds: int = 3,
    seed: int = 0,
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
    """
    scored = whole_batches(dataset, images or dataset.count, model)
    if scored.labels is None:
        return Evaluation(dataset.name, None, measure_quality(program, model, dataset, emulated_images, seeds, seed))
    with progress("float (onnxruntime)", scored.count) as advance:
        reference = run_float(model, scored.inputs, advance, batching=dataset.batching)
    with progress("ideal", scored.count) as advance:
        ideal = Emulator.ideal(program).run(scored.inputs, progress=advance)
    affordable = max(CONVERSION_BUDGET // max(conversions_per_image(program), 1), 32)
    noisy = whole_batches(scored, emulated_images or affordable, model)
    results, names = [], class_names(program)
    with progress("emulated", noisy.count * seeds) as advance:
        for chip in range(seeds):
            outputs = Emulator(program, seed=seed + chip).run(noisy.inputs, progress=advance)
            results.append(score_samples(outputs, noisy, names))
    accuracy = Accuracy(
        reference=score_samples(reference, scored, names),
        ideal=score_samples(ideal, scored, names),
        emulated_mean=float(np.mean(results)),
        emulated_std=float(np.std(results, ddof=1)) if seeds > 1 else 0.0,
        images=scored.count,
        emulated_images=noisy.count,
        seeds=seeds,
    )
    budget = error_budget(program, scored, ideal=ideal, progress=progress)
    return Evaluation(dataset.name, accuracy, None, budget)


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
) -> Quality:
    """Compare outputs of layers and network with onnxruntime on a few samples, on ideal devices and on chips."""
    if program.target.cell.continuous:
        seeds = 0  # such chips are all alike, and ideal
    affordable = CONVERSION_BUDGET // max(conversions_per_image(program) * seeds, 1)
    most = emulated_images or max(affordable, 1)

    def measure(images: int) -> Quality:
        some = whole_batches(dataset, images, model)
        return _quality(program, model, some, whole_batches(some, min(most, images), model), range(seed, seed + seeds))

    try:
        return measure(QUALITY_IMAGES)
    except DataError:
        # A value has no batch axis, or a shape that the data decide: batches cannot be joined, but one can be compared.
        return measure(1)


def _quality(program: Program, model: ModelFile, some: Dataset, fewer: Dataset, seeds: Sequence[int]) -> Quality:
    values = {layer.name: layer.outputs[0] for layer in program.layers}
    known = model.value_names()
    also = [value for value in values.values() if value in known]
    reference = run_float(model, some.inputs, also=also, batching=some.batching)
    random = random_values(program_flow(program))
    ideal, why = _ratios(reference, Emulator.ideal(program).run(some.inputs, also=also), random)
    if fewer.count < some.count:
        reference = run_float(model, fewer.inputs, also=also, batching=some.batching)
    chips = [_ratios(reference, Emulator(program, seed).run(fewer.inputs, also=also), random)[0] for seed in seeds]
    on_chips = {
        value: np.array([chip[value] for chip in chips]) for value in ideal if all(value in chip for chip in chips)
    }
    return Quality(
        layers={name: ideal[value] for name, value in values.items() if value in ideal},
        outputs={name: ideal[name] for name in program.outputs if name in ideal},
        images=some.count,
        chip_layers={name: on_chips[value] for name, value in values.items() if value in on_chips},
        chip_outputs={name: on_chips[name] for name in program.outputs if name in on_chips},
        chip_images=fewer.count,
        seeds=len(seeds),
        not_compared={name: why[name] for name in program.outputs if name in why},
    )


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

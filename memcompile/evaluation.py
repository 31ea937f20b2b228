"""How good a program is: accuracy where there are labels, signal to noise where there are none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.batching import Batching
from memcompile.coupled_samples import any_couples_samples
from memcompile.data import Dataset
from memcompile.errors import DataError
from memcompile.onnx_import import ModelFile
from memcompile.onnx_session import run_session
from memcompile.pass_manager import ProgressBar, no_progress
from memcompile.program import Program
from memcompile.runtime.batches import join
from memcompile.runtime.emulator import Emulator

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
    """

    layers: Mapping[str, float]
    outputs: Mapping[str, float]
    images: int
    chip_layers: Mapping[str, NDArray[np.float64]]
    chip_outputs: Mapping[str, NDArray[np.float64]]
    chip_images: int
    seeds: int


@dataclass(frozen=True)
class Evaluation:
    """What was measured; accuracy only with labels."""

    data: str
    accuracy: Accuracy | None
    quality: Quality | None


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
    return int((tiles.widths(program.column_lines).astype(np.int64) * reads).sum())


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
    results = []
    with progress("emulated", noisy.count * seeds) as advance:
        for chip in range(seeds):
            outputs = Emulator(program, seed=seed + chip).run(noisy.inputs, progress=advance)
            results.append(score_samples(outputs, noisy))
    accuracy = Accuracy(
        reference=score_samples(reference, scored),
        ideal=score_samples(ideal, scored),
        emulated_mean=float(np.mean(results)),
        emulated_std=float(np.std(results, ddof=1)) if seeds > 1 else 0.0,
        images=scored.count,
        emulated_images=noisy.count,
        seeds=seeds,
    )
    return Evaluation(dataset.name, accuracy, None)


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


def score_samples(outputs: Mapping[str, Any], dataset: Dataset) -> float:
    """Share of right answers on a data set, wherever samples lie in outputs.

    The labels of a run without a batch axis are one for the run, or one for each of its rows of scores.

    Raises
    ------
    DataError
        As :func:`score`.
    """
    assert dataset.labels is not None
    batching, labels = dataset.batching, dataset.labels
    rows = {}
    for name, value in outputs.items():
        axis = batching.join_axis(name)
        if not isinstance(value, np.ndarray):
            rows[name] = value
        elif not batching.whole:
            rows[name] = np.moveaxis(value, axis, 0) if axis else value
        elif labels.ndim == 1:
            rows[name] = value.reshape(len(labels), -1)
        else:
            rows[name] = value.reshape(-1, value.shape[-1]) if value.ndim else value
    return score(rows, labels.reshape(-1))


def score(outputs: Mapping[str, NDArray[Any]], labels: NDArray[np.int64]) -> float:
    """Share of samples whose largest score is at their label.

    Raises
    ------
    DataError
        No output has one row of scores a sample, or a label is beyond the scores.
    """
    for array in outputs.values():
        if array.ndim >= 2 and array.shape[0] == len(labels) and math.prod(array.shape[1:]) > 1:
            scores = array.reshape(len(labels), -1)
            break
    else:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
        raise DataError(
            f"there are labels, but no output holds one row of scores for each of {len(labels)} samples: {shapes}"
        )
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise DataError(
            f"labels run from {labels.min()} to {labels.max()}, but the output has {scores.shape[1]} scores"
        )
    return float((scores.argmax(axis=1) == labels).mean())


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
    parts: list[list[NDArray[Any]]] = []
    for start in range(0, count, size or 100):
        chunk = layout.feeds(inputs, slice(start, start + (size or 100)))
        parts.append(run_session(session, names, chunk, model.name))
        if advance is not None:
            advance(min(size or 100, count - start))
    joined = (join(name, list(pieces), layout) for name, pieces in zip(names, zip(*parts, strict=True), strict=True))
    return dict(zip(names, joined, strict=True))


def measure_quality(
    program: Program,
    model: ModelFile,
    dataset: Dataset,
    emulated_images: int | None = None,
    seeds: int = 3,
    seed: int = 0,
) -> Quality:
    """Compare outputs of layers and network with onnxruntime on a few samples, on ideal devices and on chips."""
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
    ideal = _ratios(reference, Emulator.ideal(program).run(some.inputs, also=also))
    if fewer.count < some.count:
        reference = run_float(model, fewer.inputs, also=also, batching=some.batching)
    chips = [_ratios(reference, Emulator(program, seed).run(fewer.inputs, also=also)) for seed in seeds]
    on_chips = {value: np.array([chip[value] for chip in chips]) for value in ideal}
    return Quality(
        layers={name: ideal[value] for name, value in values.items() if value in ideal},
        outputs={name: ideal[name] for name in program.outputs if name in ideal},
        images=some.count,
        chip_layers={name: on_chips[value] for name, value in values.items() if value in ideal},
        chip_outputs={name: on_chips[name] for name in program.outputs if name in ideal},
        chip_images=fewer.count,
        seeds=len(seeds),
    )


def _ratios(reference: Mapping[str, NDArray[Any]], values: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Signal-to-noise ratio of each value that is a tensor of numbers."""
    return {
        name: signal_to_noise_db(reference[name], value)
        for name, value in values.items()
        if _comparable(reference.get(name))
    }


def _comparable(value: NDArray[Any] | None) -> bool:
    """Whether a value is a tensor of numbers (an ONNX output can also be a map or a sequence)."""
    return value is not None and value.dtype.kind in "biuf"


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

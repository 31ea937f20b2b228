"""Samples to calibrate and to score a compiled network with.

`load_dataset` brings samples from a NumPy archive, from a directory in MNIST's or CIFAR-10's
published formats, or, without any path, from scikit-learn's handwritten digits into the dtypes
and layouts of a model's inputs. Images are stored as uint8; they are scaled to 0..1, normalised
per channel and laid out as the model wants them. All other arrays are taken as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memcompile.data.digits import DIGITS_TRAINING_SAMPLES, Classify, classifies_digits, digits8, digits28
from memcompile.data.files import (
    ArrayHeader,
    find_idx,
    read_cifar10,
    read_idx,
    read_mnist,
    read_npz,
    read_npz_headers,
)
from memcompile.data.fit import Normalisation, fit_samples, image_layout, model_dtype, shape_fits
from memcompile.described import Described
from memcompile.errors import DataError
from memcompile.ir.batching import OTHER_SIZES, Batching
from memcompile.ir.graph import TensorType

__all__ = [
    "CALIBRATION_SAMPLES",
    "DIGITS_TRAINING_SAMPLES",
    "GENERATED_SAMPLES",
    "Dataset",
    "digits28",
    "load_dataset",
    "read_idx",
    "read_mnist",
]

CALIBRATION_SAMPLES = 512
"""Largest number of samples for calibration."""

GENERATED_SAMPLES = 8
"""Number of samples that are generated where no data is given."""

GENERATED_BYTES = 2**30
"""Largest memory of generated samples, in bytes, at 8 bytes a value."""

Part = Literal["test", "train"]
Data = Path | str | Mapping[str, NDArray[Any]] | None
"""An archive, a directory in a published format, arrays by the name of their input (and labels), or nothing."""
_LABELS = "labels"


@dataclass(frozen=True, repr=False)
class Dataset(Described):
    """Samples in the dtypes and layouts of a model's inputs.

    Attributes
    ----------
    name
        Origin of the samples, for reports.
    inputs
        Scored samples by input name, each [N, ...].
    labels
        Right class of each scored sample, int64 or str [N], or None where it is not known.
    calibration
        Samples for calibration by input name, each [M, ...] with M up to `CALIBRATION_SAMPLES`.
    generated
        True if the samples are generated, so that accuracy means nothing.
    layout
        Axes along which samples lie in the arrays; None stands for axis 0.
    one_run
        The data are those of a single run of a network that has no batch axis, without the axis of runs.
    calibration_labels
        Right class of each sample for calibration, [M], or None where it is not known.
    """

    name: str
    inputs: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None
    calibration: Mapping[str, NDArray[Any]]
    generated: bool
    layout: Batching | None = None
    one_run: bool = False
    calibration_labels: NDArray[Any] | None = None

    def described(self) -> list[str]:
        """Lines of ``repr``."""
        labelled = "without labels" if self.labels is None else "with labels"
        arrays = [f"  {name}: {array.dtype} {list(array.shape)}" for name, array in self.inputs.items()]
        return [f"Dataset {self.name}{' (made up)' if self.generated else ''}, {labelled}", *arrays]

    @property
    def batching(self) -> Batching:
        """Axes of the arrays along which samples lie."""
        return self.layout or Batching(dict.fromkeys(self.inputs, 0))

    @property
    def count(self) -> int:
        """Number of scored samples, N."""
        return self.batching.count(self.inputs)

    @property
    def as_given(self) -> Mapping[str, NDArray[Any]]:
        """Scored samples without the axis of runs if there is only one run."""
        return self.batching.feeds(self.inputs, slice(0, 1)) if self.one_run else self.inputs

    @property
    def first_run(self) -> Mapping[str, NDArray[Any]]:
        """Inputs of one run of the network, as onnxruntime takes them: one sample, or those of a fixed batch."""
        return self.batching.feeds(self.inputs, slice(self.batching.size or 1))

    def head(self, n: int) -> Dataset:
        """Keep the first `n` scored samples (all, if there are fewer) and all calibration samples.

        Raises
        ------
        DataError
            If `n` is below 1.
        """
        if n < 1:
            raise DataError(f"{self.name}: cannot take {n} samples; take at least 1")
        inputs = self.batching.take(self.inputs, slice(n))
        return replace(self, inputs=inputs, labels=None if self.labels is None else self.labels[:n])

    def after(self, n: int | None) -> Dataset:
        """Leave out the first `n` scored samples.

        Raises
        ------
        DataError
            If none are left.
        """
        if not n:
            return self
        if n >= self.count:
            raise DataError(f"{self.name}: holds {self.count} samples, so none is left after {n}; leave out fewer")
        inputs = self.batching.take(self.inputs, slice(n, None))
        return replace(self, inputs=inputs, labels=None if self.labels is None else self.labels[n:])


def load_dataset(
    path: Data,
    inputs: Mapping[str, TensorType],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    part: Part = "test",
    batching: Batching | None = None,
    stored: Archive | None = None,
    classify: Classify | None = None,
    compiled: bool = False,
) -> Dataset:
    """Load samples for a model.

    Parameters
    ----------
    path
        A NumPy .npz archive: arrays named like the model's inputs (a one-input model takes the only array, or the only
        one whose shape fits, under any name), and optionally `labels`. Its first samples also serve calibration. Or a
        directory that holds MNIST's IDX files, or the batches of either CIFAR-10 version: the test part is scored, the
        training part's first images serve calibration. Or the arrays of an archive, by name. None takes scikit-learn's
        digits if the model has one float input of 28x28 or 8x8 grey images and, as ``classify`` says, is a classifier
        of digits; generated samples otherwise.
    inputs
        Type of each model input.
    mean, std
        Per-channel normalisation (x - mean) / std of uint8 images, after scaling to 0..1.
    seed
        Seed of generated samples.
    part
        Part of a published data set that is scored: ``"train"`` takes the training images (for tuning). An archive has
        one part.
    batching
        Axes along which samples lie in the inputs; axis 0 of all but scalars when None. An array has the shape of the
        input with any number of samples along its axis; one value that all samples share has just the shape of the
        input. Where a run is one sample, an array of the input's own shape is one run (or the same for all), and one
        with a further first axis is as many runs as that is long.
    stored
        Result of :func:`read_archive` for ``path``.
    classify
        Runs the network on one batch. A network is a classifier of digits if it has ten scores a sample that
        are right for more than `DIGITS_AGREEMENT` of the first `DIGITS_JUDGED` digits; None takes it for one.
    compiled
        True if the inputs are those of a program, which have a fixed size even where the model left it open.

    Raises
    ------
    DataError
        If the data cannot be read or does not fit the model.
    """
    if not inputs:
        raise DataError("the model has no input to feed samples to")
    check_types(inputs)
    normalisation = Normalisation.of(mean, std)
    layout = batching or Batching.along_first(inputs)
    if path is None:
        digits = _embedded_digits(inputs, layout, part)
        if digits is not None:
            fitted = _fitted(digits, inputs, layout, normalisation, compiled)
            assert fitted.labels is not None
            if classify is None or classifies_digits(fitted.inputs, fitted.labels, layout, classify):
                return fitted
        raw = _generated(inputs, layout, seed)
    elif archive := stored or open_archive(path, inputs):
        raw = _from_archive(archive, inputs, layout)
    else:
        assert not isinstance(path, Mapping)
        raw = (_training_part if part == "train" else _from_directory)(Path(path), inputs)
    return _fitted(raw, inputs, layout, normalisation, compiled)


def check_types(inputs: Mapping[str, TensorType]) -> None:
    """Refuse inputs that are neither numbers nor booleans.

    Raises
    ------
    DataError
        There is one.
    """
    for name, wanted in inputs.items():
        model_dtype(name, wanted)


def _fitted(
    raw: Dataset,
    inputs: Mapping[str, TensorType],
    layout: Batching,
    normalisation: Normalisation | None,
    compiled: bool,
) -> Dataset:
    """Samples as stored, but with the samples along axis 0, in the types and layouts of the inputs."""
    _check_counts(raw, layout)
    kinds = {
        name: TensorType(kind.dtype, (None, *layout.sample_shape(name, kind.shape))) for name, kind in inputs.items()
    }

    def fitted(samples: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        arrays = fit_samples(raw.name, samples, kinds, normalisation, OTHER_SIZES if compiled else "")
        return {name: layout.laid_out(name, array) for name, array in arrays.items()}

    return replace(raw, inputs=fitted(raw.inputs), calibration=fitted(raw.calibration), layout=layout)


def _first(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: array[:CALIBRATION_SAMPLES] for name, array in arrays.items()}


# --- sources -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Archive:
    """Arrays of a NumPy archive by the name of the input they are for, and the labels if it holds some."""

    path: Path
    arrays: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None


def read_archive(path: Path, inputs: Mapping[str, TensorType]) -> Archive:
    """Read the arrays for a model's inputs as they are stored.

    Raises
    ------
    DataError
        The archive cannot be read, or does not hold an array for each input.
    """
    return _archive(path, read_npz_headers(path), inputs, partial(read_npz, path))


def arrays_as_archive(arrays: Mapping[str, NDArray[Any]], inputs: Mapping[str, TensorType]) -> Archive:
    """Take arrays in memory as if they were those of an archive.

    Raises
    ------
    DataError
        There is no array for each input.
    """
    held = {name: np.asarray(array) for name, array in arrays.items()}
    headers = {name: ArrayHeader(array.shape, array.dtype) for name, array in held.items()}
    return _archive(Path("arrays in memory"), headers, inputs, lambda names: {name: held[name] for name in names})


def _archive(
    path: Path,
    headers: Mapping[str, ArrayHeader],
    inputs: Mapping[str, TensorType],
    read: Callable[[Sequence[str]], Mapping[str, NDArray[Any]]],
) -> Archive:
    """The stored arrays for a model's inputs, and the labels; only these are read."""
    chosen = _choose_arrays(path, headers, inputs)
    has_labels = _LABELS in headers and _LABELS not in chosen.values()
    arrays = read([*chosen.values(), *([_LABELS] if has_labels else [])])
    return Archive(path, {name: arrays[stored] for name, stored in chosen.items()}, arrays.get(_LABELS))


def open_archive(data: Data, inputs: Mapping[str, TensorType]) -> Archive | None:
    """Read an archive, or take arrays in memory for one; None for a directory and where no data are given."""
    if isinstance(data, Mapping):
        return arrays_as_archive(data, inputs)
    return None if data is None or Path(data).is_dir() else read_archive(Path(data), inputs)


def _from_archive(archive: Archive, inputs: Mapping[str, TensorType], layout: Batching) -> Dataset:
    own = {name: len(kind.shape) for name, kind in inputs.items()}
    one_run = layout.whole and all(array.ndim == own[name] for name, array in archive.arrays.items())
    samples = {
        name: _samples_first(f"{archive.path}, input '{name}'", array, inputs[name], layout, name)
        for name, array in archive.arrays.items()
    }
    if layout.whole:
        # What is there once belongs to every run.
        runs = max(len(array) for array in samples.values())
        samples = {
            name: np.broadcast_to(array, (runs, *array.shape[1:])) if archive.arrays[name].ndim == own[name] else array
            for name, array in samples.items()
        }
    labels = None if archive.labels is None else _check_labels(archive.path, archive.labels, layout, one_run)
    first = {name: array[:CALIBRATION_SAMPLES] for name, array in samples.items()}
    known = None if labels is None or layout.whole else labels[:CALIBRATION_SAMPLES]
    return Dataset(
        archive.path.stem, samples, labels, first, generated=False, one_run=one_run, calibration_labels=known
    )


def _samples_first(where: str, array: NDArray[Any], wanted: TensorType, layout: Batching, name: str) -> NDArray[Any]:
    """A stored array with the samples along axis 0."""
    axis, rank = layout.inputs[name], len(wanted.shape)
    if layout.whole:
        if array.ndim not in (rank, rank + 1):
            raise DataError(
                f"{where}: the network has no batch axis, a run of it takes {wanted}, and the data hold "
                f"{array.dtype} {list(array.shape)}; give that shape for one run, or several along a further first axis"
            )
        return array[None] if array.ndim == rank else array
    if axis is None and array.ndim != rank:
        raise DataError(
            f"{where}: all samples of a run share one value, {wanted}, and the data hold {array.dtype} "
            f"{list(array.shape)}; give that shape"
        )
    if axis is not None and array.ndim <= axis:
        raise DataError(
            f"{where}: the array is {f'{array.dtype} {list(array.shape)}' if array.ndim else 'a single value'}, but "
            f"samples lie along axis {axis} of {wanted}; give an array of samples"
        )
    return layout.samples_first(name, array)


def _choose_arrays(path: Path, headers: Mapping[str, ArrayHeader], inputs: Mapping[str, TensorType]) -> dict[str, str]:
    """Name of the stored array for each model input."""
    if inputs.keys() <= headers.keys():
        return {name: name for name in inputs}
    numeric = [name for name, header in headers.items() if name != _LABELS and header.is_numeric]
    if len(inputs) == 1:
        (only, wanted), *_ = inputs.items()
        fitting = [name for name in numeric if shape_fits(headers[name], wanted)]
        runs = [name for name in numeric if _is_run(headers[name], wanted)]
        for candidates in (numeric, fitting, runs):
            if len(candidates) == 1:
                return {only: candidates[0]}
    found = ", ".join(f"{name}: {header}" for name, header in headers.items()) or "nothing"
    needed = ", ".join(f"{name}: {wanted}" for name, wanted in inputs.items())
    raise DataError(
        f"{path}: holds no array for each input of the model. Needed are {needed}; found are {found}. "
        "Name the arrays like the inputs"
    )


def _is_run(header: ArrayHeader, wanted: TensorType) -> bool:
    """Return True if an array has the shape of an input, or is a stack of such."""
    rank = len(wanted.shape)
    sizes = header.shape[len(header.shape) - rank :]
    fits = all(need in (None, size) for size, need in zip(sizes, wanted.shape, strict=False))
    return len(header.shape) in (rank, rank + 1) and fits


def _from_directory(directory: Path, inputs: Mapping[str, TensorType]) -> Dataset:
    if len(inputs) > 1:
        raise DataError(
            f"{directory}: a directory holds images for one input, the model has {len(inputs)} "
            f"({', '.join(inputs)}); give a .npz archive with an array for each"
        )
    (name,) = inputs
    if find_idx(directory, "t10k", "images"):
        images, labels = read_mnist(directory, "t10k")
        training = find_idx(directory, "train", "images")
        if training and find_idx(directory, "train", "labels"):
            return _image_set("MNIST test images", name, images, labels, read_mnist(directory, "train"))
        calibration = (read_idx(training), None) if training else (images, labels)
        return _image_set("MNIST test images", name, images, labels, calibration)
    for end in ("", ".bin"):
        test = directory / f"test_batch{end}"
        if test.is_file():
            images, labels = read_cifar10(test)
            batches = (directory / f"data_batch_{number}{end}" for number in range(1, 6))
            batch = next((batch for batch in batches if batch.is_file()), None)
            calibration = read_cifar10(batch) if batch else (images, labels)
            return _image_set("CIFAR-10 test images", name, images, labels, calibration)
    raise DataError(
        f"{directory}: holds neither MNIST's test part (t10k-images-idx3-ubyte[.gz] and "
        "t10k-labels-idx1-ubyte[.gz]) nor CIFAR-10's (test_batch or test_batch.bin); "
        "name the directory that holds them, or a .npz archive itself"
    )


def _training_part(directory: Path, inputs: Mapping[str, TensorType]) -> Dataset:
    """The training images of a data set whose test part is there as well."""
    test = _from_directory(directory, inputs)
    (name,) = inputs
    if find_idx(directory, "train", "images"):
        images, labels = read_mnist(directory, "train")
        return _image_set("MNIST training images", name, images, labels, (images, labels))
    end = "" if (directory / "test_batch").is_file() else ".bin"
    batches = [directory / f"data_batch_{number}{end}" for number in range(1, 6)]
    found = [read_cifar10(batch) for batch in batches if batch.is_file()]
    if not found:
        raise DataError(f"{directory}: holds only {test.name}; add the training part")
    images, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _image_set("CIFAR-10 training images", name, images, labels, (images, labels))


def has_training_part(directory: Path) -> bool:
    """Return True if a directory in a published format holds the training images, too."""
    names = [f"data_batch_{number}{end}" for number in range(1, 6) for end in ("", ".bin")]
    return bool(find_idx(directory, "train", "images")) or any((directory / name).is_file() for name in names)


def _image_set(
    title: str,
    name: str,
    images: NDArray[Any],
    labels: NDArray[np.int64],
    calibration: tuple[NDArray[Any], NDArray[np.int64] | None],
) -> Dataset:
    """Images with labels, and those for calibration with theirs."""
    samples, classes = (None if part is None else part[:CALIBRATION_SAMPLES] for part in calibration)
    assert samples is not None
    return Dataset(title, {name: images}, labels, {name: samples}, generated=False, calibration_labels=classes)


def _embedded_digits(inputs: Mapping[str, TensorType], layout: Batching, part: Part) -> Dataset | None:
    """scikit-learn's digits, if the model has a single input that they fit."""
    (name, wanted), *others = inputs.items()
    sample = layout.sample_shape(name, wanted.shape)
    if others or None in sample or np.dtype(wanted.dtype).kind != "f":
        return None
    for side, render in ((28, digits28), (8, digits8)):
        if image_layout((1, side, side), sample):
            images, labels = render()
            train, test = slice(None, DIGITS_TRAINING_SAMPLES), slice(DIGITS_TRAINING_SAMPLES, None)
            scored = train if part == "train" else test
            return _image_set("digits of scikit-learn", name, images[scored], labels[scored], (images, labels))
    return None


def _generated(inputs: Mapping[str, TensorType], layout: Batching, seed: int) -> Dataset:
    """Standard normal floats, and zeros and ones for integers."""
    rng = np.random.default_rng(seed)
    samples: dict[str, NDArray[Any]] = {}
    for name, wanted in inputs.items():
        fixed = [size for size in layout.sample_shape(name, wanted.shape) if size is not None]
        if len(fixed) < len(layout.sample_shape(name, wanted.shape)):
            raise DataError(
                f"input '{name}' is {wanted}: samples can be made up only where all dimensions but the "
                "batch are fixed; fix them, or give data"
            )
        # Whole batches, where the model fixes their size.
        batch = layout.size or 1
        count = 1 if name in layout.shared else -(-GENERATED_SAMPLES // batch) * batch
        shape = (count, *fixed)
        dtype = np.dtype(wanted.dtype)
        size = math.prod(shape) * 8
        if size > GENERATED_BYTES:
            raise DataError(
                f"input '{name}' is {wanted}: {shape[0]} made-up samples of {size:,} bytes are more than the limit of "
                f"{GENERATED_BYTES:,} (1 GiB); give data"
            )
        values = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        samples[name] = values.astype(dtype)
    return Dataset("made-up samples", samples, None, _first(samples), generated=True)


# --- checks ------------------------------------------------------------------------------------


def _check_labels(path: Path, labels: NDArray[Any], layout: Batching, one_run: bool) -> NDArray[Any]:
    if layout.whole and one_run and labels.size and labels.shape != (1,):
        labels = labels.reshape(1, *labels.shape)  # of the single run, or of its rows
    if labels.ndim == 0:
        raise DataError(f"{path}: array '{_LABELS}' is a single value, not one for each sample")
    ranks = range(1, 9 if layout.whole else 2)
    if labels.dtype.kind == "U" and labels.ndim in ranks:
        return labels
    if labels.dtype.kind not in "iu" or labels.ndim not in ranks or (labels.size and labels.min() < 0):
        raise DataError(
            f"{path}: array '{_LABELS}' is {labels.dtype} {list(labels.shape)}, but labels are one whole "
            "class number from 0 up, or one class name, for each sample"
        )
    return labels.astype(np.int64)


def _check_counts(samples: Dataset, layout: Batching) -> None:
    counts = {name: len(array) for name, array in samples.inputs.items() if name not in layout.shared}
    if samples.labels is not None:
        counts[_LABELS] = len(samples.labels)
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"{samples.name}: the numbers of samples differ ({listed}); give equal numbers")
    if 0 in counts.values() or any(len(array) == 0 for array in samples.calibration.values()):
        raise DataError(f"{samples.name}: holds no samples; at least 1 is needed to score and to calibrate")

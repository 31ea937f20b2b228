"""Samples to calibrate and to score a compiled network with.

`load_dataset` brings samples from a NumPy archive, from a directory in MNIST's or CIFAR-10's
published formats, or, without any path, from scikit-learn's handwritten digits into the dtypes
and layouts of a model's inputs. Images are stored as uint8; they are scaled to 0..1, normalised
per channel and laid out as the model wants them. All other arrays are taken as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memcompile.data_files import (
    ArrayHeader,
    find_idx,
    read_cifar10,
    read_idx,
    read_mnist,
    read_npz,
    read_npz_headers,
)
from memcompile.data_fit import Normalisation, fit_samples, image_layout, model_dtype, shape_fits
from memcompile.errors import DataError
from memcompile.ir import TensorType

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
"""The most samples that calibration gets."""

GENERATED_SAMPLES = 8
"""How many samples are made up where no data is given."""

GENERATED_BYTES = 2**30
"""How much memory made-up samples may take, at 8 bytes a value."""

DIGITS_TRAINING_SAMPLES = 1000
"""The first so many of the 1,797 digits are the training part, the rest is scored."""

Part = Literal["test", "train"]

_LABELS = "labels"
_DIGITS_PEAK = 16
"""The largest pixel value in scikit-learn's digits."""


@dataclass(frozen=True)
class Dataset:
    """Samples in the dtypes and layouts of a model's inputs.

    Attributes
    ----------
    name
        Where the samples come from, for reports.
    inputs
        Scored samples by input name, each [N, ...].
    labels
        Right class of each scored sample, int64 [N], or None where it is not known.
    calibration
        Samples for calibration by input name, each [M, ...] with M up to `CALIBRATION_SAMPLES`.
    generated
        True if the samples are made up, so that no accuracy means anything.
    """

    name: str
    inputs: Mapping[str, NDArray[Any]]
    labels: NDArray[np.int64] | None
    calibration: Mapping[str, NDArray[Any]]
    generated: bool

    @property
    def count(self) -> int:
        """Number of scored samples, N."""
        return len(next(iter(self.inputs.values())))

    def head(self, n: int) -> Dataset:
        """Keep the first `n` scored samples (all, if there are fewer) and all calibration samples.

        Raises
        ------
        DataError
            If `n` is below 1.
        """
        if n < 1:
            raise DataError(f"{self.name}: cannot take {n} samples; take at least 1")
        inputs = {name: array[:n] for name, array in self.inputs.items()}
        return replace(self, inputs=inputs, labels=None if self.labels is None else self.labels[:n])


def load_dataset(
    path: Path | str | None,
    inputs: Mapping[str, TensorType],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    part: Part = "test",
) -> Dataset:
    """Load samples for a model.

    Parameters
    ----------
    path
        A NumPy .npz archive: arrays named like the model's inputs (a one-input model takes the
        only array, or the only one whose shape fits, under any name), and optionally `labels`.
        Its first samples also serve calibration.
        Or a directory that holds MNIST's IDX files, or the batches of either CIFAR-10 version: the
        test part is scored, the training part's first images serve calibration.
        None takes scikit-learn's digits if the model has one float input of 28x28 or 8x8 grey
        images, and made-up samples otherwise.
    inputs
        Type of each model input; the first dimension is the batch.
    mean, std
        Per-channel normalisation (x - mean) / std of uint8 images, after scaling to 0..1.
    seed
        Seed of made-up samples.
    part
        Which part of a published data set is scored: ``"train"`` takes the training images (for
        tuning). An archive has one part.

    Raises
    ------
    DataError
        If the data cannot be read or does not fit the model.
    """
    if not inputs:
        raise DataError("the model has no input to feed samples to")
    for name, wanted in inputs.items():
        model_dtype(name, wanted)
    normalisation = Normalisation.of(mean, std)
    raw = _raw_samples(None if path is None else Path(path), inputs, seed, part)
    _check_counts(raw)
    return replace(
        raw,
        inputs=fit_samples(raw.name, raw.inputs, inputs, normalisation),
        calibration=fit_samples(raw.name, raw.calibration, inputs, normalisation),
    )


def _raw_samples(path: Path | None, inputs: Mapping[str, TensorType], seed: int, part: Part) -> Dataset:
    """Samples as stored, before they are fitted to the model."""
    if path is None:
        return _embedded_digits(inputs, part) or _generated(inputs, seed)
    if not path.is_dir():
        return _from_archive(path, inputs)
    return _training_part(path, inputs) if part == "train" else _from_directory(path, inputs)


def _first(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: array[:CALIBRATION_SAMPLES] for name, array in arrays.items()}


# --- sources -----------------------------------------------------------------------------------


def _from_archive(path: Path, inputs: Mapping[str, TensorType]) -> Dataset:
    headers = read_npz_headers(path)
    chosen = _choose_arrays(path, headers, inputs)
    has_labels = _LABELS in headers and _LABELS not in chosen.values()
    arrays = read_npz(path, [*chosen.values(), *([_LABELS] if has_labels else [])])
    for name, array in arrays.items():
        if array.ndim == 0:
            raise DataError(f"{path}: array '{name}' is a single value, not an array of samples")
    labels = _check_labels(path, arrays[_LABELS]) if has_labels else None
    samples = {name: arrays[stored] for name, stored in chosen.items()}
    return Dataset(path.stem, samples, labels, _first(samples), generated=False)


def _choose_arrays(path: Path, headers: Mapping[str, ArrayHeader], inputs: Mapping[str, TensorType]) -> dict[str, str]:
    """Name of the stored array for each model input."""
    if inputs.keys() <= headers.keys():
        return {name: name for name in inputs}
    numeric = [name for name, header in headers.items() if name != _LABELS and header.is_numeric]
    if len(inputs) == 1:
        (only, wanted), *_ = inputs.items()
        fitting = [name for name in numeric if shape_fits(headers[name], wanted)]
        for candidates in (numeric, fitting):
            if len(candidates) == 1:
                return {only: candidates[0]}
    found = ", ".join(f"{name}: {header}" for name, header in headers.items()) or "nothing"
    needed = ", ".join(f"{name}: {wanted}" for name, wanted in inputs.items())
    raise DataError(
        f"{path}: holds no array for each input of the model. Needed are {needed}; found are {found}. "
        "Name the arrays like the inputs"
    )


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
        calibration = read_idx(training) if training else images
        return _image_set("MNIST test images", name, images, labels, calibration)
    for end in ("", ".bin"):
        test = directory / f"test_batch{end}"
        if test.is_file():
            images, labels = read_cifar10(test)
            batches = (directory / f"data_batch_{number}{end}" for number in range(1, 6))
            batch = next((batch for batch in batches if batch.is_file()), None)
            calibration = read_cifar10(batch)[0] if batch else images
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
        return _image_set("MNIST training images", name, images, labels, images)
    end = "" if (directory / "test_batch").is_file() else ".bin"
    batches = [directory / f"data_batch_{number}{end}" for number in range(1, 6)]
    found = [read_cifar10(batch) for batch in batches if batch.is_file()]
    if not found:
        raise DataError(f"{directory}: holds only {test.name}; add the training part")
    images, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _image_set("CIFAR-10 training images", name, images, labels, images)


def _image_set(
    title: str, name: str, images: NDArray[Any], labels: NDArray[np.int64], calibration: NDArray[Any]
) -> Dataset:
    return Dataset(title, {name: images}, labels, _first({name: calibration}), generated=False)


def _embedded_digits(inputs: Mapping[str, TensorType], part: Part) -> Dataset | None:
    """scikit-learn's digits, if the model has a single input that they fit."""
    (name, wanted), *others = inputs.items()
    sample = wanted.shape[1:]
    if others or None in sample or np.dtype(wanted.dtype).kind != "f":
        return None
    for side, render in ((28, digits28), (8, _digits8)):
        if image_layout((1, side, side), sample):
            images, labels = render()
            train, test = slice(None, DIGITS_TRAINING_SAMPLES), slice(DIGITS_TRAINING_SAMPLES, None)
            scored = train if part == "train" else test
            return _image_set("digits of scikit-learn", name, images[scored], labels[scored], images)
    return None


@cache
def _digits() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """scikit-learn's digits as they are: images [1797, 8, 8] of 0..16, and labels."""
    # Imported here, because it takes a second that runs with other data need not wait for.
    from sklearn.datasets import load_digits  # noqa: PLC0415

    digits = load_digits()
    return digits.images.astype(np.int64), digits.target.astype(np.int64)


def _digits8() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = _digits()
    return _to_uint8(images, _DIGITS_PEAK), labels.copy()


def digits28() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Render scikit-learn's digits like MNIST: 20x20 pixels in the middle of 28x28.

    The 8x8 digits are enlarged by bilinear interpolation in whole numbers, so that the images
    are the same on every machine.

    Returns
    -------
    images : ndarray of uint8, [1797, 28, 28]
    labels : ndarray of int64, [1797]
    """
    images, labels = _digits()
    # Pixel i of 20 lies at (i + 1/2) * 8/20 - 1/2 of the 8 source pixels: 4 i - 3 tenths.
    position = np.clip(4 * np.arange(20) - 3, 0, 70)
    weights = np.maximum(0, 10 - np.abs(position[:, None] - 10 * np.arange(8)))
    enlarged = _to_uint8(weights @ images @ weights.T, 100 * _DIGITS_PEAK)
    return np.pad(enlarged, ((0, 0), (4, 4), (4, 4))), labels.copy()


def _to_uint8(levels: NDArray[np.int64], peak: int) -> NDArray[np.uint8]:
    """Stretch 0..peak to 0..255."""
    return ((levels * 255 + peak // 2) // peak).astype(np.uint8)


def _generated(inputs: Mapping[str, TensorType], seed: int) -> Dataset:
    """Standard normal floats, and zeros and ones for whole numbers."""
    rng = np.random.default_rng(seed)
    samples: dict[str, NDArray[Any]] = {}
    for name, wanted in inputs.items():
        fixed = [size for size in wanted.shape[1:] if size is not None]
        if not wanted.shape or len(fixed) < len(wanted.shape) - 1:
            raise DataError(
                f"input '{name}' is {wanted}: samples can be made up only where all dimensions after the "
                "batch are fixed; fix them, or give data"
            )
        # Whole batches, where the model fixes their size.
        batch = wanted.shape[0] or 1
        shape = (-(-GENERATED_SAMPLES // batch) * batch, *fixed)
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


def _check_labels(path: Path, labels: NDArray[Any]) -> NDArray[np.int64]:
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or (labels.size and labels.min() < 0):
        raise DataError(
            f"{path}: array '{_LABELS}' is {labels.dtype} {list(labels.shape)}, but labels are one whole "
            "class number from 0 up for each sample"
        )
    return labels.astype(np.int64)


def _check_counts(samples: Dataset) -> None:
    counts = {name: len(array) for name, array in samples.inputs.items()}
    if samples.labels is not None:
        counts[_LABELS] = len(samples.labels)
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"{samples.name}: the numbers of samples differ ({listed}); give equal numbers")
    if samples.count == 0 or any(len(array) == 0 for array in samples.calibration.values()):
        raise DataError(f"{samples.name}: holds no samples; at least 1 is needed to score and to calibrate")

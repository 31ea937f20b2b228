"""scikit-learn's handwritten digits: the default data of networks that classify them."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import MemcompileError
from memcompile.ir.batching import Batching

DIGITS_TRAINING_SAMPLES = 1000
"""Digits of the training part, the first of the 1,797; the rest is scored."""

DIGITS_JUDGED = 200
"""Digits, the first of them, on which it is decided whether a network classifies digits."""

DIGITS_AGREEMENT = 0.5
"""A network classifies digits if it is right on more than this share; chance is 0.1, and an untrained network with a
lucky order of its outputs seldom reaches 0.3."""

Classify = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, Any]]
"""Function from the inputs of one batch to a network's outputs."""


_DIGITS_PEAK = 16
"""The largest pixel value in scikit-learn's digits."""


@cache
def _digits() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """scikit-learn's digits as they are: images [1797, 8, 8] of 0..16, and labels."""
    file = _digits_file()
    if file is None:
        from sklearn.datasets import load_digits  # noqa: PLC0415

        digits = load_digits()
        return digits.images.astype(np.int64), digits.target.astype(np.int64)
    with gzip.open(file, "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, np.int64, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].copy()


def _digits_file() -> Path | None:
    """The table in scikit-learn's folder, if it is there: importing the library takes longer than most compilations."""
    found = find_spec("sklearn")
    for folder in (found and found.submodule_search_locations) or ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return file
    return None


def digits8() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """scikit-learn's digits as they are: uint8 images [1797, 8, 8], and labels."""
    images, labels = _digits()
    return _to_uint8(images, _DIGITS_PEAK), labels.copy()


def digits28() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Render scikit-learn's digits like MNIST: 20x20 pixels in the middle of 28x28.

    The 8x8 digits are enlarged by bilinear interpolation in integers, so that the images are the same on every machine.

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


def classifies_digits(
    inputs: Mapping[str, NDArray[Any]], labels: NDArray[np.int64], batching: Batching, classify: Classify
) -> bool:
    """Return True if a network classifies digits: it has ten scores a sample, and they agree with the labels.

    Parameters
    ----------
    inputs
        The digits as the network's inputs, with samples where ``batching`` says.
    labels
        Their classes, [samples].
    """
    at_once = 1 if batching.one_by_one else batching.size or DIGITS_JUDGED
    right = judged = 0
    for begin in range(0, min(DIGITS_JUDGED, len(labels)) - at_once + 1, at_once):
        some = slice(begin, begin + at_once)
        try:
            outputs = classify(batching.feeds(inputs, some))
        except MemcompileError:
            return False
        scores = _scores(outputs, batching, at_once)
        if scores is None:
            return False
        judged += at_once
        right += int((scores.argmax(axis=1) == labels[some]).sum())
    return judged > 0 and right > DIGITS_AGREEMENT * judged


def _scores(outputs: Mapping[str, Any], batching: Batching, samples: int) -> NDArray[Any] | None:
    """The first output with several numbers a sample, [samples, 10]; None if they are not ten."""
    for name, value in outputs.items():
        if isinstance(value, list) and len(value) == samples and all(isinstance(row, dict) for row in value):
            rows = np.array([[row[key] for key in sorted(row)] for row in value])
        elif isinstance(value, np.ndarray) and value.ndim and value.dtype.kind == "f" and value.size > samples:
            rows = value.reshape(1, -1) if batching.whole else np.moveaxis(value, batching.join_axis(name) or 0, 0)
        else:
            continue
        return rows.reshape(samples, -1) if rows.size == 10 * samples and len(rows) == samples else None
    return None

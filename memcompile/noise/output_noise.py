"""Noise of a network's outputs, measured against what they should be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.frontend.values import Value
from memcompile.noise.margins import class_scores
from memcompile.program.program import Program


def output_noise(program: Program, clean: Mapping[str, Value], noisy: Mapping[str, Value], *, classes: bool) -> float:
    """Noise-to-signal ratio of a network's outputs; of scores that name ``classes``, of their differences."""
    total, count = 0.0, 0
    for name in program.outputs:
        wanted, found = clean[name], noisy[name]
        if not isinstance(wanted, np.ndarray) or wanted.dtype.kind != "f" or wanted.ndim < 2:
            continue
        if classes:
            wanted, found = class_scores(wanted), class_scores(found)
        total += noise_to_signal(wanted, found, 1)
        count += 1
    return total / count if count else 0.0


def noise_to_signal(wanted: NDArray[Any], found: NDArray[Any], axis: int) -> float:
    """Power of a difference over the variance of what is wanted, summed over channels along an axis."""
    wanted = np.moveaxis(wanted, axis, -1).reshape(-1, wanted.shape[axis]).astype(np.float64)
    found = np.moveaxis(found, axis, -1).reshape(wanted.shape)
    signal = float(wanted.var(axis=0).sum())
    return float(np.square(found - wanted).mean(axis=0).sum()) / signal if signal > 0 else 0.0

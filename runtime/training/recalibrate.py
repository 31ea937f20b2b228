"""Recalibration: per-channel digital scales and offsets fitted to what the chip really computes.

No cell is written. Layer by layer, a few hundred images run through the chip as it is; each
channel's gain is estimated from how what is measured follows the reference, and taken back:

    measured ~ g * reference + c,   g = cov(reference, measured) / var(reference).

The error is in what is measured. Fitting the reference to it instead would shrink a channel the more, the noisier it
is; the next layer, whose input quantiser and converters stay as they are, would see ever less of its range, and on
coarse converters nothing in the end. Later layers see inputs that earlier ones, already recalibrated, have made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import MappedLayer, read_only
from memcompile.program.program import Program, Stage
from memcompile.runtime.effects.effect import NEW, Conditions
from memcompile.runtime.emulator import Emulator

LEAST_CORRELATION = 0.5
"""Correlation with the reference below which a channel is drowned, and its gain not known."""
VARIES = 1e-12
"""Variance of a reference, in squares of its mean, below which it is constant but for rounding."""

Reference = Callable[[MappedLayer, NDArray[np.int64]], NDArray[Any]]


def recalibrate(
    program: Program,
    inputs: Mapping[str, NDArray[Any]],
    *,
    seed: int = 0,
    first_image: int = 0,
    conditions: Conditions = NEW,
    reference: Emulator | None = None,
    scales: bool = True,
    advance: Callable[[int], None] | None = None,
) -> Program:
    """Fit digital scales and offsets of all layers to ideal devices, or to another reference.

    Parameters
    ----------
    program
        A transferred program.
    inputs
        Images, [N, ...] per input, without labels.
    seed
        Decides the read noise, which is keyed by image numbers from ``first_image`` on.
    conditions
        Time and reads since the chip was written.
    reference
        Emulator whose outputs are wanted; ideal devices when None. It reads with other noise than the chip.
    scales
        Fit scales, and not offsets alone.
    advance
        Called with 1 after each layer.
    """
    images = np.arange(first_image, first_image + len(next(iter(inputs.values()))))
    wanted_from = reference or Emulator.ideal(program)
    wanted: dict[str, NDArray[Any]] = {**program.constants, **inputs}
    measured: dict[str, NDArray[Any]] = dict(wanted)
    chip = Emulator(program, seed, **vars(conditions))
    stages: list[Stage] = []
    last_read = {value: number for number, stage in enumerate(program.stages) for value in stage.inputs}
    for number, stage in enumerate(program.stages):
        expected = wanted_from.run_stage(stage, wanted, images + len(images))
        outcome = chip.run_stage(stage, measured, images)
        if isinstance(stage, MappedLayer):
            value = stage.outputs[0]
            fitted, outcome[value] = _fit(stage, expected[value], outcome[value], scales)
            stages.append(fitted)
            if advance is not None:
                advance(1)
        else:
            stages.append(stage)
        wanted.update(expected)
        measured.update(outcome)
        for values in (wanted, measured):
            for value in [name for name in values if last_read.get(name, -1) <= number]:
                del values[value]
    return replace(program, stages=tuple(stages))


def _fit(
    layer: MappedLayer, reference: NDArray[Any], measured: NDArray[Any], scales: bool
) -> tuple[MappedLayer, NDArray[Any]]:
    """The layer with fitted bias and, if wanted, scale, and its output with them."""
    axis = 1 if layer.geometry.layout == "channels_first" else measured.ndim - 1
    others = tuple(place for place in range(measured.ndim) if place != axis)
    shape = tuple(-1 if place == axis else 1 for place in range(measured.ndim))
    x, y = measured.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = x.mean(axis=others), y.mean(axis=others)
    variance_x, variance_y = x.var(axis=others), y.var(axis=others)
    covariance = (x * y).mean(axis=others) - mean_x * mean_y
    varies = variance_y > VARIES * np.square(mean_y)
    known = varies & (covariance > LEAST_CORRELATION * np.sqrt(variance_x * variance_y))
    gain = np.where(known, variance_y / np.where(known, covariance, 1.0), 1.0) if scales else np.ones_like(mean_x)
    offset = mean_y - gain * mean_x
    fitted = replace(
        layer,
        scale=read_only((layer.scale * gain).astype(np.float32)),
        bias=read_only((layer.bias * gain + offset).astype(np.float32)),
    )
    output = x * gain.reshape(shape) + offset.reshape(shape)
    return fitted, output.astype(measured.dtype)

"""Curve from the noise-to-signal ratio of a network's scores to the right answers that it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST_LOST = 0.9
"""Share of right answers that any noise takes at most: one class in ten is right by chance."""


@dataclass(frozen=True)
class CurveRun:
    """Run with noise in all layers: factor on its power, ratio of the output, share of right answers lost, images.

    ``error`` is the standard error of the loss over samples where it was smoothed, 0 where answers were counted.
    """

    factor: float
    noise: float
    loss: float
    images: int
    error: float = 0.0


@dataclass(frozen=True)
class LossCurve:
    """Share of right answers lost at a noise-to-signal ratio t: most (1 - exp(-(t / scale)^power))."""

    most: float
    scale: float
    power: float

    def __call__(self, noise: float) -> float:
        """Loss at a ratio."""
        return self.most * -math.expm1(-((max(noise, 0.0) / self.scale) ** self.power))

    def inverse(self, loss: float) -> float:
        """Ratio at which so much is lost; infinite where that is never."""
        if loss >= self.most:
            return math.inf
        return self.scale * math.pow(-math.log1p(-max(loss, 0.0) / self.most), 1 / self.power)

    @classmethod
    def fitted(
        cls, noise: Sequence[float], losses: Sequence[float], variances: Sequence[float], most: float
    ) -> LossCurve:
        """Least squares through losses, weighted by their variances.

        Powers near 1.5, which most networks show, are a little likelier beforehand.
        """
        at, lost = np.array(noise), np.array(losses)
        largest = max(float(at.max(initial=0.0)), 1e-9)
        powers = np.linspace(0.8, 2.4, 17)[:, None, None]
        scales = np.geomspace(largest / 3, largest * 1000, 240)
        curve = -most * np.expm1(-((at / scales[None, :, None]) ** powers))
        misfit = (np.square(curve - lost) / np.array(variances)).sum(axis=-1) + np.square((powers[..., 0] - 1.5) / 0.4)
        power, scale = np.unravel_index(int(misfit.argmin()), misfit.shape)
        return cls(most, float(scales[scale]), float(powers[power, 0, 0]))


def curve_of(runs: Sequence[CurveRun]) -> LossCurve:
    """The curve through the losses of runs."""
    return LossCurve.fitted([run.noise for run in runs], [run.loss for run in runs], _variances(runs), MOST_LOST)


def _variances(runs: Sequence[CurveRun]) -> list[float]:
    """Variance of the loss of each run: that of the runs with its factor, and of one image in all of them."""
    found = []
    for run in runs:
        alike = [other.loss for other in runs if other.factor == run.factor]
        spread = float(np.var(alike, ddof=1)) if len(alike) > 1 else 0.0
        found.append(max(spread, 1.0 / run.images / len(alike)))
    return found

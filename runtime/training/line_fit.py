"""Fit of a gain and an offset to each output line, drawn together where samples are too few to tell lines apart.

What is measured on a line follows its reference, measured = slope * reference + rest + noise. The error is in what is
measured, so the slope is estimated in this direction. Fitting the reference to what is measured instead would shrink a
line the more, the noisier it is; the next layer, whose input quantiser and converters stay as they are, would see ever
less of its range, and on coarse converters nothing in the end.

A mapping may have hundreds of replicas, and a line then sees one sample an image, or never anything but zero. So slopes
and rests of lines are drawn towards the mean of their channel, and channels towards 1 and 0, by empirical Bayes.
Slopes of all lines of a layer are taken to spread alike, and rests in proportion to what their channel carries:
channels have digital scales of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_CORRELATION = 0.5
"""Correlation with the reference below which a channel is drowned, and its gain not known."""
VARIES = 1e-12
"""Variance of a reference, in squares of its mean, below which it is constant but for rounding."""
TINY = 1e-30
NEWTON_STEPS, NEWTON_CLOSE = 60, 1e-9
"""Steps of Newton's method at most, and share of the sum that is close enough."""
BLOCK_BYTES, POSITION_BYTES = 1 << 18, 1 << 15
"""Memory for the terms of a sum at once, and for the sums themselves."""


@dataclass(frozen=True, eq=False)
class LineMoments:
    """Samples of each line, means and (co)variances of reference and measurement, all [places, out_channels]."""

    samples: NDArray[np.float64]
    reference: NDArray[np.float64]
    measured: NDArray[np.float64]
    reference_variance: NDArray[np.float64]
    covariance: NDArray[np.float64]
    measured_variance: NDArray[np.float64]

    @classmethod
    def of(
        cls, pairs: list[tuple[NDArray[np.floating], NDArray[np.floating]]], place: NDArray[np.int64], places: int
    ) -> LineMoments:
        """Moments of references and measurements, [items, positions, out_channels] each, of any float type.

        ``place`` [positions] is the place, below ``places``, that each position is read from.
        """
        sums = np.zeros((5, places, pairs[0][0].shape[-1]))
        for y, x in pairs:
            for number, total in enumerate(_sums_of_products(y, x)):
                np.add.at(sums[number], place, total)
        items = sum(len(y) for y, _ in pairs)
        samples = np.repeat(items * np.bincount(place, minlength=places)[:, None], sums.shape[-1], axis=1).astype(float)
        y, x, yy, xy, xx = sums / np.maximum(samples, 1)
        return cls(samples, y, x, np.maximum(yy - y * y, 0.0), xy - x * y, np.maximum(xx - x * x, 0.0))

    @property
    def drowned(self) -> NDArray[np.bool_]:
        """Mask of channels that hardly follow their reference, so that their gain is not known, [out_channels]."""
        own, both, other = (
            (self.samples * part).sum(axis=0)
            for part in (self.reference_variance, self.covariance, self.measured_variance)
        )
        drowned: NDArray[np.bool_] = both <= LEAST_CORRELATION * np.sqrt(own * other)
        return drowned

    @property
    def size(self) -> NDArray[np.float64]:
        """Standard deviation of what a channel carries, the mean over its lines, [out_channels]; 1 where it is zero."""
        variance = np.maximum(self.reference_variance, self.measured_variance)
        mean = (self.samples * variance).sum(axis=0) / np.maximum(self.samples.sum(axis=0), 1.0)
        size: NDArray[np.float64] = np.where(mean > 0, np.sqrt(mean), 1.0)
        return size

    def noise(self, slope: NDArray[np.float64]) -> NDArray[np.float64]:
        """Variance of what slopes do not explain, the mean over the lines of each channel, [out_channels]."""
        rest = self.measured_variance - 2 * slope * self.covariance + slope**2 * self.reference_variance
        # A line with few samples fits itself: each has spent two on its slope and its mean.
        free = np.maximum(self.samples - 2, 0.0).sum(axis=0)
        noise: NDArray[np.float64] = (self.samples * np.maximum(rest, 0.0)).sum(axis=0) / np.maximum(free, 1.0)
        return noise


def _sums_of_products(y: NDArray[np.floating], x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sums of y, x, y y, x y and x x over items, [5, positions, out_channels].

    Items are added one after the other, in blocks that stay in the processor's cache.
    """
    sums = np.zeros((5, *y.shape[1:]))
    positions = max(1, POSITION_BYTES // max(sums[0, :1].nbytes, 1))
    for first in range(0, y.shape[1], positions):
        here = slice(first, first + positions)
        _add_products(sums[:, here], y[:, here], x[:, here])
    return sums


def _add_products(sums: NDArray[np.float64], y: NDArray[np.floating], x: NDArray[np.floating]) -> None:
    """Add what items have at some positions to their sums, [5, positions, out_channels]."""
    items = max(1, BLOCK_BYTES // max(sums[0].nbytes, 1))
    for begin in range(0, len(y), items):
        a, b = (part[begin : begin + items].astype(np.float64, order="C") for part in (y, x))
        terms = np.empty_like(a, shape=(len(a) + 1, *a.shape[1:]))
        for total, (one, other) in zip(sums, ((a, None), (b, None), (a, a), (b, a), (b, b)), strict=True):
            terms[0] = total
            if other is None:
                terms[1:] = one
            else:
                np.multiply(one, other, out=terms[1:])
            terms.sum(axis=0, out=total)


def corrections_of(found: LineMoments, *, scales: bool = True) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gain and offset that bring what is measured on each line to its reference, [places, out_channels].

    Without ``scales`` all gains are 1.
    """
    slope = np.ones_like(found.samples)
    if scales:
        varies = found.reference_variance > VARIES * found.reference**2
        slope = np.where(varies, found.covariance / np.where(varies, found.reference_variance, 1.0), 1.0)
        certainty = found.samples * np.where(varies, found.reference_variance, 0.0)
        slope = shrunk(slope, certainty / np.maximum(found.noise(slope), TINY), around=1.0)
        slope = np.where(found.drowned | (slope <= 0.0), 1.0, slope)
    unit = found.size
    rest = (found.measured - slope * found.reference) / unit
    rest = unit * shrunk(rest, found.samples * unit**2 / np.maximum(found.noise(slope), TINY), around=0.0)
    return 1.0 / slope, -rest / slope


def shrunk(found: NDArray[np.float64], weight: NDArray[np.float64], around: float) -> NDArray[np.float64]:
    """Estimates of lines drawn towards their channel's mean, and these towards a value, as far as they are unsure.

    Empirical Bayes with the moment estimate of Paule and Mandel (Journal of Research of the National Bureau of
    Standards 87, 377, 1982): the variance between true values is that with which estimates spread as far as they
    should. Unlike the estimate by weighted squares it does not hang on those that are sure, such as lines that hardly
    carry anything.

    Parameters
    ----------
    found
        Estimates, [places, out_channels].
    weight
        One over the squared standard error of each; 0 where nothing is known.
    """
    total = weight.sum(axis=0)
    channel = np.where(total > 0, (weight * found).sum(axis=0) / np.maximum(total, TINY), around)
    between_lines = _excess(weight, found - channel, means=int((total > 0).sum()))
    of_channel = 1.0 / (between_lines / len(found) + 1.0 / np.maximum(total, TINY))
    between_channels = _excess(of_channel, channel - around, means=0)
    likely = around + _drawn(channel - around, of_channel, between_channels)
    return likely + _drawn(found - likely, weight, between_lines)


def _excess(weight: NDArray[np.float64], apart: NDArray[np.float64], means: int) -> float:
    """Variance between true values so far from ``means`` fitted means, beyond that of their errors.

    The sum of squares over variances falls with the variance between, and bends upwards: Newton's method from below,
    where one estimate alone would do, rises to where it is the number of free estimates.
    """
    known = weight > 0
    free, errors, squares = int(known.sum()) - means, 1.0 / weight[known], np.square(apart[known])
    if free <= 0:
        return 0.0
    between = max(0.0, float((squares / free - errors).max()))
    for _ in range(NEWTON_STEPS):
        terms = squares / (between + errors)
        excess = float(terms.sum()) - free
        if excess <= NEWTON_CLOSE * free:
            break
        between += excess / float((terms / (between + errors)).sum())
    return between


def _drawn(apart: NDArray[np.float64], weight: NDArray[np.float64], between: float) -> NDArray[np.float64]:
    """Distances shortened to what is likely true of them."""
    return apart * (between * weight / (between * weight + 1.0))

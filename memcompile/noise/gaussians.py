"""Moments of Gaussian numbers that are cut off, and nodes to average over Gaussian numbers with."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BEYOND = 1e12
"""End of the largest range that a target file can give; no number reaches it."""
NODES = 25
"""Nodes of averages over a Gaussian number; functions with kinks are averaged to a percent of a standard deviation."""


def normal_density(x: Array) -> Array:
    """Density of the standard normal distribution."""
    density: Array = np.exp(-0.5 * np.square(x)) / math.sqrt(2 * math.pi)
    return density


def normal_share(x: Array) -> Array:
    """Cumulative distribution of the standard normal distribution, to 1e-7 (Abramowitz and Stegun 7.1.26)."""
    size = np.abs(x) / math.sqrt(2)
    t = 1.0 / (1.0 + 0.3275911 * size)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    share: Array = 0.5 + 0.5 * np.sign(x) * (1.0 - series * np.exp(-size * size))
    return share


def clipped_moments(mean: Array, sigma: Array, low: float = 0.0, high: float = math.inf) -> tuple[Array, Array]:
    """Mean and variance of X ~ N(mean, sigma^2) cut off at both ends, clip(X, low, high); sigma may be 0."""
    safe = np.where(sigma > 0, sigma, 1.0)
    below, above = (low - mean) / safe, (min(high, BEYOND) - mean) / safe
    share_below, share_above = normal_share(below), normal_share(-above)
    density_below, density_above = normal_density(below), normal_density(above)
    # Of (X - mean) / sigma, so that nothing large cancels.
    first = density_below - density_above + below * share_below + above * share_above
    second = 1.0 - share_below - share_above + below * density_below - above * density_above
    second += np.square(below) * share_below + np.square(above) * share_above
    still = np.clip(mean, low, high)
    spread = np.square(safe) * np.maximum(second - np.square(first), 0.0)
    return np.where(sigma > 0, mean + safe * first, still), np.where(sigma > 0, spread, 0.0)


def moments_between(mean: Array, sigma: Array, ends: tuple[Array, Array]) -> tuple[Array, Array, Array]:
    """Share, and parts of the first and second moment, of X ~ N(mean, sigma^2) between ends; sigma may be 0."""
    safe = np.maximum(sigma, 1e-12)
    low, high = (ends[0] - mean) / safe, (ends[1] - mean) / safe
    share = normal_share(high) - normal_share(low)
    first = normal_density(low) - normal_density(high)
    second = share + low * normal_density(low) - high * normal_density(high)
    return (
        share,
        mean * share + safe * first,
        np.square(mean) * share + 2 * mean * safe * first + np.square(safe) * second,
    )


def nodes() -> tuple[Array, Array]:
    """Standard normal nodes and weights that add up to 1, [NODES] each."""
    points, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return points, weights / weights.sum()

"""Rounding in which later weights compensate for the errors of earlier ones.

The error of a channel's output is sum_i e_i x_i, where e_i is the rounding error of weight i. Its variance
over the inputs, with their covariance C, is e^T C e: the mean contributes a constant that goes into
the digital offset. Rounding each weight to the nearest level minimises e^T e instead. With the
Cholesky factor C = L L^T,

    e^T C e = sum_i L_ii^2 (e_i + sum_{j > i} L_ji / L_ii e_j)^2,

so that from the last weight to the first each one can be rounded such that it cancels what the ones
before it left: the nearest-plane method (Babai 1986), which is what GPTQ (Frantar et al. 2022) does
with the inverse of C. A few rounds of coordinate descent follow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SWEEPS = 3
"""Rounds of coordinate descent after the nearest plane, at most."""
BLOCK_ROWS = 64
"""Rows whose changes others learn of at once."""


def rounded(weights: Array, covariance: Array, limit: int, damping: float) -> Array:
    """Round each weight up or down such that the variance of the output errors is small.

    Parameters
    ----------
    weights
        In steps, [groups, rows, columns].
    covariance
        Of the rows' inputs, [groups, rows, rows]; the result does not depend on its scale.
    limit
        Largest level; larger weights are clipped.
    damping
        Variance added to each input's, as a share of the rows' mean variance.

    Returns
    -------
    Integer levels, less than a step away from each weight that is not clipped, [groups, rows, columns].
    """
    rows = weights.shape[1]
    variance = np.einsum("gii->gi", covariance)
    mean = variance.mean(axis=1)
    # Inputs that never vary leave nothing to weigh: then each weight counts the same.
    damped = covariance + np.eye(rows) * np.where(mean > 0, damping * mean, 1.0)[:, None, None]
    # The last weight is rounded first, with most others still free to compensate for its error.
    order = np.argsort(variance, axis=1, kind="stable")
    groups = np.arange(len(weights))[:, None]
    damped = damped[groups[..., None], order[:, :, None], order[:, None, :]]
    sorted_weights = weights[groups, order]
    low, high = (np.clip(to_whole(sorted_weights), -limit, limit) for to_whole in (np.floor, np.ceil))
    levels = _nearest_plane(sorted_weights, damped, low, high)
    _descend(levels, sorted_weights, damped, low, high)
    result = np.empty_like(levels)
    result[groups, order] = levels
    return result


def output_variance(errors: Array, covariances: Sequence[Array], blocks: Sequence[slice]) -> Array:
    """e^T C e of each column, [groups, columns], with the covariances of blocks of rows along the diagonal."""
    return sum(
        (
            (errors[:, block] * np.matmul(covariance, errors[:, block])).sum(axis=1)
            for block, covariance in zip(blocks, covariances, strict=True)
        ),
        np.zeros((len(errors), errors.shape[2])),
    )


def _nearest_plane(weights: Array, covariance: Array, low: Array, high: Array) -> Array:
    factor = np.linalg.cholesky(covariance)
    levels, errors = np.empty_like(weights), np.zeros_like(weights)
    for row in range(weights.shape[1] - 1, -1, -1):
        column = factor[:, row + 1 :, row] / factor[:, row, row, None]
        left = np.matmul(column[:, None, :], errors[:, row + 1 :])[:, 0]
        levels[:, row] = np.clip(np.rint(weights[:, row] - left), low[:, row], high[:, row])
        errors[:, row] = levels[:, row] - weights[:, row]
    return levels


def _descend(levels: Array, weights: Array, covariance: Array, low: Array, high: Array) -> None:
    """Coordinate descent: set one level after the other to its best value; each change lowers e^T C e.

    Rows that come later learn of the changes of a block of rows at once, in one matrix product.
    """
    pull = np.matmul(covariance, levels - weights)
    rows = weights.shape[1]
    for _ in range(SWEEPS):
        changed = False
        for begin in range(0, rows, BLOCK_ROWS):
            block = slice(begin, min(begin + BLOCK_ROWS, rows))
            before = levels[:, block].copy()
            _descend_block(levels[:, block], pull[:, block], covariance[:, block, block], low[:, block], high[:, block])
            changes = levels[:, block] - before
            if not changes.any():
                continue
            changed = True
            for others in (slice(0, block.start), slice(block.stop, rows)):
                pull[:, others] += np.matmul(covariance[:, others, block], changes)
        if not changed:
            break


def _descend_block(levels: Array, pull: Array, covariance: Array, low: Array, high: Array) -> None:
    """One round over the rows of a block; ``levels`` and ``pull`` are theirs, and change."""
    for row in range(levels.shape[1]):
        best = np.rint(levels[:, row] - pull[:, row] / covariance[:, row, row, None])
        change = np.clip(best, low[:, row], high[:, row]) - levels[:, row]
        if change.any():
            pull += covariance[:, :, row, None] * change[:, None, :]
            levels[:, row] += change

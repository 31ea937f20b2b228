"""Random numbers of cells: those of :mod:`memcompile.runtime.random_numbers`, bit for bit, compiled if they can be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.runtime import random_numbers
from memcompile.runtime.kernels.compiled import BLOCK_CELLS, cell_kernels
from memcompile.runtime.random_numbers import MASK, uniforms

LOW, HIGH = 1, 2
"""Marks of cells that are stuck at the lowest and at the highest level."""


def gaussians(
    count: int, c1: NDArray[Any] | int, c2: NDArray[Any] | int, c3: int, seed: int, first: NDArray[Any] | int = 0
) -> NDArray[np.float32]:
    """See :func:`memcompile.runtime.random_numbers.gaussians`."""
    compiled, shape = cell_kernels(), np.broadcast_shapes(np.shape(first), np.shape(c1), np.shape(c2))
    if compiled is None or (shape and count > 1):
        return random_numbers.gaussians(count, c1, c2, c3, seed, first)
    key = (np.int64(seed & MASK), np.int64(seed >> 32))
    if not shape:
        values = np.empty(whole_blocks(count), np.float32)
        counters = (np.int64(first), np.int64(c1), np.int64(c2), np.int64(c3))
        compiled.gaussian_run(*counters, *key, values, 0, len(values) // BLOCK_CELLS)
        return values[:count]
    size = math.prod(shape)
    values = np.empty(whole_blocks(size), np.float32)
    each = [filled(np.broadcast_to(np.asarray(c, np.int64), shape).ravel(), len(values)) for c in (first, c1, c2)]
    compiled.gaussian_each(*each, np.int64(c3), *key, values)
    return values[:size].reshape(*shape, 1)[..., :count]


def stuck_marks(
    cells: NDArray[np.uint8] | int, shares: tuple[float, float], top: int, array: int, c3: int, seed: int
) -> NDArray[np.uint8]:
    """Marks of the stuck ones of an array's cells, flat: ``LOW``, ``HIGH``, both, or 0.

    Parameters
    ----------
    cells
        Levels, flat and contiguous, which are moved to 0 or to ``top`` where cells are stuck; or the number of cells.
    shares
        Shares of cells that are stuck at the lowest and at the highest level.
    """
    levels = np.zeros(0, np.uint8) if isinstance(cells, int) else cells
    count = cells if isinstance(cells, int) else len(cells)
    compiled = cell_kernels()
    low, high = stuck_words(shares)
    if compiled is None or not some_work(shares):
        chance = uniforms(count, array, 0, c3, seed)
        marks = np.where(chance < shares[0], LOW, 0) + np.where(chance >= 1 - shares[1], HIGH, 0)
        levels[marks[: len(levels)] == LOW] = 0
        levels[marks[: len(levels)] >= HIGH] = top
        return marks.astype(np.uint8)
    moved = filled(levels, whole_blocks(len(levels)))
    marked = np.zeros(whole_blocks(count), np.uint8)
    key = (np.int64(seed & MASK), np.int64(seed >> 32))
    room = np.empty(BLOCK_CELLS, np.int32)
    compiled.mark_stuck(moved, np.int64(array), np.int64(c3), *key, low, high, top, room, marked)
    if moved is not levels:
        levels[:] = moved[: len(levels)]
    return marked[:count]


def stuck_words(shares: tuple[float, float]) -> tuple[int, int]:
    """Words of 32 bits below the first and above the second are those of stuck cells; exact as shares of one."""
    return math.ceil(shares[0] * 2.0**32), math.ceil((1 - shares[1]) * 2.0**32) - 1


def some_work(shares: tuple[float, float]) -> bool:
    """True if no share of stuck cells is all of them, which no word of 32 bits says."""
    low, high = stuck_words(shares)
    return low <= MASK and high >= 0


def whole_blocks(cells: int) -> int:
    """Cells of the blocks that hold so many."""
    return -(-cells // BLOCK_CELLS) * BLOCK_CELLS


def filled(values: NDArray[Any], size: int) -> NDArray[Any]:
    """Values with zeros up to a size; the same array if it has it."""
    if len(values) == size:
        return np.ascontiguousarray(values)
    filled = np.zeros(size, values.dtype)
    filled[: len(values)] = values
    return filled

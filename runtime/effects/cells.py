"""Cells of one array, and random numbers for them.

The seed is that of the chip, or, for what differs from write to write, that of the write.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memcompile.runtime.kernels.cell_numbers import gaussians
from memcompile.runtime.random_numbers import Purpose, stream

Cells = NDArray[np.float64]


def draw(shape: tuple[int, ...], purpose: Purpose, array: int, seed: int, variant: int = 0) -> Cells:
    """Standard Gaussian numbers, one a cell; ``variant`` tells several of one purpose apart."""
    count = int(np.prod(shape))
    return gaussians(count, array, variant, stream(purpose, 0), seed).reshape(shape).astype(np.float64)

"""How the conductances of cells come about: formulas of programming error, relaxation and drift.

All functions work on the cells of one array, in microsiemens, and draw from (seed, array number). The
seed is that of the chip, or, for what differs from write to write, that of the write.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.target import CellSpec, DriftSpec, ProgrammingSpec, RelaxationSpec, polynomial_us
from memcompile.runtime.effects.random_numbers import Purpose, gaussians, stream

Cells = NDArray[np.float64]


def draw(shape: tuple[int, ...], purpose: Purpose, array: int, seed: int, variant: int = 0) -> Cells:
    """Standard Gaussian numbers, one a cell; ``variant`` tells several of one purpose apart."""
    count = int(np.prod(shape))
    return gaussians(count, array, variant, stream(purpose, 0), seed).reshape(shape).astype(np.float64)


def programming_sigma_us(g_us: Cells, spec: ProgrammingSpec, cell: CellSpec) -> Cells:
    """Standard deviation of the programming error.

    sqrt(sigma^2 + (share g)^2), or the polynomial max(0, sum_i c_i x^i) of x = g / g_max where the
    target gives one, such as the published ReRAM fit (Wan et al., Nature 608, 504, 2022; used by
    CrossSim and aihwkit), whose sigma one second after programming is
    0.348 + 16.03 x - 43.853 x^2 + 45.393 x^3 - 16.815 x^4 for g_max = 40 uS.
    """
    return spec.sigma_at_us(g_us, cell.g_max_us)


def with_programming_error(g_us: Cells, spec: ProgrammingSpec, cell: CellSpec, array: int, seed: int) -> Cells:
    """G + N(0, sigma(g)), never below 0 uS."""
    error = programming_sigma_us(g_us, spec, cell) * draw(g_us.shape, Purpose.PROGRAMMING, array, seed)
    return np.maximum(g_us + error, 0.0)


def relaxed(g_us: Cells, spec: RelaxationSpec, cell: CellSpec, time_s: float, array: int, seed: int) -> Cells:
    """G + N(0, sigma^2 (1 - exp(-t / time_constant))), never below 0 uS.

    The spread that write-verified ReRAM cells regain within seconds to minutes (Zhao et al., IEDM
    2017; Wan et al. 2022); sigma is a number, or a polynomial of x = g / g_max where the target gives one.
    One number per cell decides its path, so later times continue earlier ones.
    """
    final: Cells | float = spec.sigma_us
    if spec.sigma_polynomial_us:
        final = polynomial_us(g_us / cell.g_max_us, spec.sigma_polynomial_us)
    sigma = final * np.sqrt(-np.expm1(-time_s / spec.time_constant_s))
    moved: Cells = np.maximum(g_us + sigma * draw(g_us.shape, Purpose.RELAXATION, array, seed), 0.0)
    return moved


def drifted(g_us: Cells, spec: DriftSpec, time_s: float, array: int, seed: int) -> Cells:
    """G (t / t0)^-nu for t > t0, with nu ~ N(mean, sigma) per cell (Ielmini et al., IEEE TED 54, 308, 2007)."""
    if time_s <= spec.reference_s:
        return g_us
    exponent = spec.exponent_mean + spec.exponent_sigma * draw(g_us.shape, Purpose.DRIFT, array, seed)
    factor: Cells = (time_s / spec.reference_s) ** -exponent
    return g_us * factor

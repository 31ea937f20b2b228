"""The current of a cell against its voltage, and the drive of an input's digits through it.

A cell of conductance g carries

    I(v) = g v_read sinh(k v) / sinh(k v_read),

so that at the read voltage, at which cells are verified, g is what was programmed; k = 0 is Ohm's
law. The hyperbolic sine is that of compact models of filamentary memristors: J. J. Yang et al., Nature
Nanotechnology 3, 429 (2008), and X. Guan, S. Yu, H.-S. P. Wong, IEEE Electron Device Letters 33,
1405 (2012), I = I0 exp(-gap / g0) sinh(V / V0), where k = 1 / V0.

The curve is the same for all cells of a target. So a line that gets digit d drives every cell with
f(d) = D sinh(k v_read d / D) / sinh(k v_read) in place of d, where D is the highest digit: currents stay a
product of conductances with a vector. With one bit a phase f(0) = 0 and f(1) = 1, and nothing changes.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.conditions import Conditions
from memcompile.hardware.target import Target
from memcompile.ir.quantizers import InputQuantizer
from memcompile.program.program import Program
from memcompile.runtime.effects.effect import Effect

DRIVE_BITS = 16
"""Resolution of a digit's drive, in bits; finer than the converters of any input by eight bits or more."""
SQUARE_BITS = 32


class NonlinearIv(Effect):
    """Acts where cells do not obey Ohm's law and get other voltages than the read voltage and none.

    At these two a cell carries its programmed current.
    """

    switch = "nonlinear_iv"

    def acts(self, program: Program, conditions: Conditions, on: AbstractSet[str]) -> bool:
        """Return True if cells get voltages other than zero and the read voltage."""
        target = program.target
        between = target.input.bits_per_phase > 1 or not on.isdisjoint({"dac_error", "wires"})
        return target.cell.nonlinearity_per_v > 0 and between


def relative_current(voltage: NDArray[np.float64], sharpness: float) -> NDArray[np.float64]:
    """Current of a cell by its voltage, both as shares of those at the read voltage.

    sinh(K x) / sinh(K) with K = ``sharpness`` = k v_read, of either sign; x where K is 0.
    """
    if sharpness == 0.0:
        return voltage
    size = np.abs(voltage)
    # Of exponentials of falling arguments, so that no hyperbolic sine overflows.
    ratio = np.expm1(-2 * sharpness * size) / np.expm1(-2 * sharpness)
    current: NDArray[np.float64] = np.sign(voltage) * np.exp(sharpness * (size - 1.0)) * ratio
    return current


def sharpness(target: Target) -> float:
    """The curve's K = k v_read; 0 is Ohm's law."""
    return target.cell.nonlinearity_per_v * target.input.read_voltage_v


@dataclass(frozen=True, eq=False)
class Drive:
    """Drive of each digit through a cell, as a multiple of that of digit 1 where Ohm's law holds.

    ``counts`` [highest digit + 1] are integers in units of ``step``, a power of two, so that line sums are exact in
    double precision, in whatever order they are formed.
    """

    counts: NDArray[np.uint16]
    step: float

    @classmethod
    def of(cls, target: Target) -> Drive:
        """The drive of a target's inputs, whose read voltages are exact."""
        highest = target.input.highest_digit
        digits = np.arange(highest + 1) / highest
        step = drive_step(target)
        return cls(np.rint(highest * relative_current(digits, sharpness(target)) / step).astype(np.uint16), step)

    def inputs(self, quantizer: InputQuantizer) -> NDArray[np.int64]:
        """Sum over phases of an input's drive times the phase weight, by input byte, [256], in steps."""
        return sum_over_phases(quantizer, self.counts.astype(np.int64))

    def squares(self) -> tuple[NDArray[np.uint32], float]:
        """Square of each digit's drive, as integers in a step of their own; the read noise of digits adds up so."""
        return _whole(np.square(self.counts * self.step))

    def squared_inputs(self, quantizer: InputQuantizer) -> tuple[NDArray[np.uint32], float]:
        """Sum over phases of (phase weight * drive)^2, by input byte, [256], as integers in a step."""
        total = np.zeros(256)
        for phase, weight in enumerate(quantizer.phase_weights):
            total += np.square(weight * self.step * self.counts[_digits_of_bytes(quantizer, phase)])
        return _whole(total)


def drive_step(target: Target) -> float:
    """Grid of the drive of digits."""
    return 2.0 ** (target.input.bits_per_phase - DRIVE_BITS)


def sum_over_phases(quantizer: InputQuantizer, of_digit: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum over phases of phase weight times the value of a digit, by input in two's complement, [256]."""
    total = np.zeros(256, np.int64)
    for phase, weight in enumerate(quantizer.phase_weights):
        total += weight * of_digit[_digits_of_bytes(quantizer, phase)]
    return total


def _digits_of_bytes(quantizer: InputQuantizer, phase: int) -> NDArray[np.uint8]:
    numbers = np.arange(256, dtype=np.uint8)
    return quantizer.digits((numbers.view(np.int8) if quantizer.signed else numbers).astype(np.int16), phase)


def _whole(values: NDArray[np.float64]) -> tuple[NDArray[np.uint32], float]:
    """Non-negative numbers as integers in a step, the largest of them about 2^32."""
    step = float(values.max()) / (2**SQUARE_BITS - 1)
    return np.rint(values / step).astype(np.uint32), step

"""Quantisers of a layer's input, which is applied to the lines bit by bit, or as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class InputQuantizer:
    """Maps a layer's input to integers: q = clip(round(x / scale), lowest, highest).

    Unsigned inputs use 0..2^bits - 1, signed ones -2^(bits - 1)..2^(bits - 1) - 1. Lines are driven
    in phases, ``bits_per_phase`` bits of an input at a time. With one bit a phase, signed inputs are
    two's complement, whose last phase counts -2^(bits - 1). With more bits a phase, all digits of
    the positive inputs come first and then all digits of the magnitudes of the negative ones: in
    two's complement a small negative number would be the difference of two large analog values, and
    have the errors of both.
    """

    scale: float
    bits: int
    signed: bool
    bits_per_phase: int = 1

    @property
    def lowest(self) -> int:
        """Smallest integer input."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """Largest integer input."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def phase_weights(self) -> tuple[int, ...]:
        """Weight of a one in each phase, least significant first."""
        weights = [1 << shift for shift in range(0, self.bits, self.bits_per_phase)]
        if not self.signed:
            return tuple(weights)
        if self.bits_per_phase == 1:
            return (*weights[:-1], -weights[-1])
        return (*weights, *(-weight for weight in weights))

    @property
    def phase_count(self) -> int:
        """Phases of a step."""
        return len(self.phase_weights)

    @property
    def highest_digit(self) -> int:
        """The digit that gets the read voltage; digit d gets d / highest_digit of it."""
        return (1 << self.bits_per_phase) - 1

    def quantize(self, x: NDArray[Any]) -> NDArray[np.int16]:
        """Quantise an array of any shape."""
        return np.rint(self.scaled(x)).astype(np.int16)

    def scaled(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """An array in steps of the quantiser and within its range, not rounded."""
        with np.errstate(over="ignore"):  # what becomes infinite is clipped
            steps = x.astype(np.float32, copy=False) / np.float32(self.scale)
        within: NDArray[np.float32] = np.clip(steps, self.lowest, self.highest)
        return within

    def phases(self, vectors: NDArray[Any]) -> Iterator[tuple[NDArray[np.float64], int]]:
        """Digits on the lines in each phase, and the weight of the phase."""
        for phase, weight in enumerate(self.phase_weights):
            yield self.digits(vectors, phase).astype(np.float64), weight

    def digits(self, x: NDArray[np.int16], phase: int) -> NDArray[np.uint8]:
        """Digits on the lines in one phase, 0..highest_digit, for quantised inputs of any shape."""
        sign, shift, mask = self.digit_of(phase)
        if sign:
            x = np.maximum(x if sign > 0 else -x, 0)
        digits: NDArray[np.uint8] = (x >> shift & mask).astype(np.uint8)
        return digits

    def digit_of(self, phase: int) -> tuple[int, int, int]:
        """(sign, shift, mask): a digit is ``max(sign * x, 0) >> shift & mask``, of x itself where the sign is 0."""
        weight = self.phase_weights[phase]
        sign = (1 if weight > 0 else -1) if self.signed and self.bits_per_phase > 1 else 0
        return sign, abs(weight).bit_length() - 1, self.highest_digit


@dataclass(frozen=True)
class ExactInput:
    """Inputs that are applied as they are, in one phase; for targets with continuous cells."""

    @property
    def scale(self) -> float:
        """The step of a quantiser; exact inputs count in ones."""
        return 1.0

    @property
    def phase_count(self) -> int:
        """Phases of a step."""
        return 1

    def quantize(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """The values themselves."""
        return x.astype(np.float64)

    def phases(self, vectors: NDArray[Any]) -> Iterator[tuple[NDArray[np.float64], int]]:
        """The one phase."""
        yield vectors, 1

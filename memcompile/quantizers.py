"""How a layer's input is applied to the lines: quantised, bit by bit, or as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class InputQuantizer:
    """Maps a layer's input to integers: q = clip(round(x / scale), lowest, highest).

    Unsigned inputs use 0..2^bits - 1; signed ones are two's complement, whose last bit phase
    counts -2^(bits - 1).
    """

    scale: float
    bits: int
    signed: bool

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
        """What a one counts in each bit phase, least significant first."""
        weights = [1 << phase for phase in range(self.bits)]
        if self.signed:
            weights[-1] = -weights[-1]
        return tuple(weights)

    def quantize(self, x: NDArray[Any]) -> NDArray[np.int16]:
        """Quantise an array of any shape."""
        scaled = np.rint(x.astype(np.float32, copy=False) / np.float32(self.scale))
        quantized: NDArray[np.int16] = np.clip(scaled, self.lowest, self.highest).astype(np.int16)
        return quantized

    def phases(self, vectors: NDArray[Any]) -> Iterator[tuple[NDArray[np.float64], int]]:
        """What drives the lines in each phase, and what the phase counts."""
        for phase, weight in enumerate(self.phase_weights):
            yield (vectors >> phase & 1).astype(np.float64), weight


@dataclass(frozen=True)
class ExactInput:
    """Inputs that are applied as they are, in one phase; for targets with continuous cells."""

    @property
    def scale(self) -> float:
        """The step of a quantiser; exact inputs count in ones."""
        return 1.0

    def quantize(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """The values themselves."""
        return x.astype(np.float64)

    def phases(self, vectors: NDArray[Any]) -> Iterator[tuple[NDArray[np.float64], int]]:
        """The one phase."""
        yield vectors, 1

"""Cases that all emulators work on, with the settings that are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

READ_SIGMA_US, WRITE_SIGMA_US, G_MIN_US, G_MAX_US = 0.1, 1.02, 2.0, 20.0
LEVELS = 7
INPUT_BITS = ADC_BITS = 8
SIZE, BATCH = 512, 256
WIRES_SIZE, SEGMENT_OHM = 128, 1.0


@dataclass(frozen=True)
class MatrixCase:
    """W1: products of SIZE x SIZE weights and BATCH vectors.

    Rows of a tile, bits of an input that a phase applies, and whether output lines have a converter;
    without one, phases are summed before anything is rounded.
    """

    title: str
    tile_rows: int
    bits_per_phase: int
    adc: bool


@dataclass(frozen=True)
class NetworkCase:
    """A network for images [3, size, size]: ``images`` at once, on arrays of so many rows, None for all of a layer.

    With ``chip`` a call programs a new chip as well. All have read noise and a converter for each pair of output lines,
    and apply all bits of an input in one phase; ``programming`` says whether cells have an error.
    """

    title: str
    network: str
    size: int
    images: int
    tile_rows: int | None
    tile_columns: int | None
    programming: bool
    chip: bool = False


@dataclass(frozen=True)
class WiresCase:
    """W3: currents of a WIRES_SIZE x WIRES_SIZE array behind wires, for BATCH vectors of voltages."""

    title: str


Case = MatrixCase | NetworkCase | WiresCase
CASES: dict[str, Case] = {
    "w1-plain": MatrixCase("W1, read noise, no converter, one tile", SIZE, 1, adc=False),
    "w1-tiles": MatrixCase("W1, the same in tiles of 128 rows", 128, 1, adc=False),
    "w1-phase": MatrixCase("W1, all bits in one phase, a converter per line and tile of 128 rows", 128, 8, adc=True),
    "w1-bits": MatrixCase("W1, bit-serial: a converter per line, phase and tile of 128 rows", 128, 1, adc=True),
    "w2": NetworkCase(
        "W2, ResNet-20, whole layers in one array, read noise and converters", "resnet20", 32, 20, None, None, False
    ),
    "w3": WiresCase("W3, 128 x 128 cells behind wires of 1 ohm a segment, 256 vectors"),
    "resnet18": NetworkCase(
        "ResNet-18, 224 x 224, arrays of 256 x 256 weights, programming error, read noise and converters, an image",
        "resnet18",
        224,
        1,
        256,
        256,
        True,
    ),
    "resnet18-chip": NetworkCase(
        "the same, a new chip and its first image", "resnet18", 224, 1, 256, 256, True, chip=True
    ),
}


def matrix_inputs() -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Weights [SIZE, SIZE] and inputs [BATCH, SIZE] of W1."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-LEVELS, LEVELS + 1, (SIZE, SIZE))
    return weights, rng.integers(0, 1 << INPUT_BITS, (BATCH, SIZE)).astype(np.float32)


def wires_inputs() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Conductances in uS [input lines, output lines] and voltages in V [vectors, input lines] of W3."""
    rng = np.random.default_rng(0)
    return rng.uniform(G_MIN_US, G_MAX_US, (WIRES_SIZE, WIRES_SIZE)), rng.uniform(0, 0.2, (BATCH, WIRES_SIZE))


def images(case: NetworkCase) -> NDArray[np.float32]:
    """Random images [images, 3, size, size]."""
    return np.random.default_rng(0).standard_normal((case.images, 3, case.size, case.size)).astype(np.float32)

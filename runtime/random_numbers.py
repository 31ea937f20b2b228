"""Counter-based random numbers: every number is a function of the seed and of its purpose.

Philox4x32-7 (Salmon et al., SC 2011) turns a 128-bit counter and the 64-bit seed into four
32-bit words; pairs of words become pairs of Gaussian numbers by the Box-Muller transform.

Read noise needs a number for every conversion and has a cheaper generator behind Philox, see
:func:`read_gaussians`. Its float32 operations have a fixed order, so that compiled kernels give the
same bits. What is drawn for cells keeps the older transform: a program that was transferred to a
chip finds the errors of that chip again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85
ROUNDS = 7
MASK = 0xFFFFFFFF

# Read noise: constants of C. Wellons' 32-bit mixers (github.com/skeeto/hash-prospector, public
# domain), and odd steps between the inputs of neighbouring pairs.
STEPS = (0x9E3779B9, 0xBB67AE85)
FACTORS = ((0x21F0AAAD, 0x735A2D97), (0x7FEB352D, 0x846CA68B))
PHASE_SHIFT = 20
"""Position of a pair of read noise in its item: the pair, plus the phase from this bit on."""
LINES_PER_BLOCK = 32
"""Lines whose read noise is drawn together; line i of a block and line i + 16 are one pair."""
HALF_BLOCK = LINES_PER_BLOCK // 2
"""Lines up to which two neighbouring windows of an image share a block."""
BLOCKS_AT_ONCE = 1 << 14
"""Counters whose words are worked out together: a core's own cache holds them."""

# Minimax polynomials on the octant: sin(pi/4 t)/t and cos(pi/4 t) in t^2, error below 3e-8;
# ln(1 + f)/f in f for sqrt(1/2) <= 1 + f <= sqrt(2), error below 2e-7.
SINE = tuple(np.float32(c) for c in (7.85398161e-01, -8.07454348e-02, 2.49000713e-03, -3.59545077e-05))
COSINE = tuple(np.float32(c) for c in (9.99999972e-01, -3.08424254e-01, 1.58499153e-02, -3.18880508e-04))
LOGARITHM = tuple(
    np.float32(c)
    for c in (
        0.99999992,
        -0.50000344,
        0.33335608,
        -0.24971559,
        0.19884241,
        -0.17212449,
        0.16338109,
        -0.10378594,
    )
)
LN2 = np.float32(0.6931471805599453)

# Shorter ones for read noise: sin(pi/4 t)/t, such that the sine's error is below 6e-7;
# -2 ln(1 + f)/f, such that the error of -2 ln(1 + f) is below 5e-7.
READ_SINE = tuple(np.float32(c) for c in (0.78539425, -0.080714, 0.00242711))
READ_LOGARITHM = tuple(
    np.float32(c) for c in (-2.00000644, 1.00003934, -0.666065991, 0.497626781, -0.412093461, 0.378039598, -0.236549646)
)
MINUS_2_LN2 = np.float32(-2 * 0.6931471805599453)
UNIFORM_BITS = 30
"""Resolution of the uniform number that becomes a radius of read noise."""
SQRT_HALF_BITS = 0x3F3504F3
ONE_BITS = 0x3F800000


class Purpose(IntEnum):
    """Purpose of a random number; keeps the streams apart."""

    PROGRAMMING = 1
    STUCK = 2
    READ = 3
    READ_LITERAL = 4
    RELAXATION = 5
    DRIFT = 6
    DEAD_INPUT = 7
    DEAD_OUTPUT = 8
    DAC = 9
    ADC_GAIN = 10
    ADC_OFFSET = 11
    WRITE_DEVICE = 12
    WRITE_CYCLE = 13
    REWRITE = 14
    READ_DISTURB = 15
    RETENTION = 16
    FLICKER = 17
    CORRECTION = 18


def stream(purpose: Purpose, number: int) -> int:
    """Last counter word of a stream: the purpose and a number such as a tile's.

    The number must be below 2^27.
    """
    return int(purpose) << 27 | number


def key_words(seed: int) -> NDArray[np.uint64]:
    """The two 32-bit words of the key, uint64 [2]."""
    return np.array([seed & MASK, seed >> 32], np.uint64)


def philox(
    c0: NDArray[Any], c1: NDArray[Any] | int, c2: NDArray[Any] | int, c3: int, seed: int
) -> tuple[NDArray[np.uint64], ...]:
    """Four random 32-bit words (held in uint64) for each counter."""
    shape = np.broadcast_shapes(np.shape(c0), np.shape(c1), np.shape(c2))
    words = [np.broadcast_to(np.asarray(c, np.uint64), shape) for c in (c0, c1, c2, c3)]
    k0, k1 = seed & MASK, seed >> 32
    mask, half = np.uint64(MASK), np.uint64(32)
    for _ in range(ROUNDS):
        p0, p1 = words[0] * np.uint64(M0), words[2] * np.uint64(M1)
        words = [
            (p1 >> half) ^ words[1] ^ np.uint64(k0),
            p1 & mask,
            (p0 >> half) ^ words[3] ^ np.uint64(k1),
            p0 & mask,
        ]
        k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
    return tuple(words)


def _polynomial(coefficients: tuple[np.float32, ...], x: NDArray[np.float32]) -> NDArray[np.float32]:
    result = x * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        result = (result + coefficient) * x
    return result + coefficients[0]


def gaussian_pair(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two independent standard Gaussian numbers from two random 32-bit words (Box-Muller).

    The radius is sqrt(-2 ln u) with u = (top 24 bits of a + 1) / 2^24. The angle is uniform in
    an octant by the top 24 bits of b; its lowest three bits swap and sign the coordinates.
    """
    uniform = ((a >> np.uint64(8)) + np.uint64(1)).astype(np.float32) * np.float32(2.0**-24)
    shifted = uniform.view(np.int32) + np.int32(ONE_BITS - SQRT_HALF_BITS)
    exponent = ((shifted >> np.int32(23)) - np.int32(127)).astype(np.float32)
    mantissa = ((shifted & np.int32(0x7FFFFF)) + np.int32(SQRT_HALF_BITS)).view(np.float32)
    f = mantissa - np.float32(1)
    logarithm = exponent * LN2 + _polynomial(LOGARITHM, f) * f
    radius = np.sqrt(np.maximum(np.float32(-2) * logarithm, np.float32(0)))
    t = (b >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)
    square = t * t
    sine = _polynomial(SINE, square) * t
    cosine = _polynomial(COSINE, square)
    swap = (b & np.uint64(1)).astype(bool)
    x = np.where(swap, sine, cosine) * (np.float32(1) - (b & np.uint64(2)).astype(np.float32))
    y = np.where(swap, cosine, sine) * (np.float32(1) - ((b & np.uint64(4)) >> np.uint64(1)).astype(np.float32))
    return radius * x, radius * y


def _scramble(x: NDArray[np.uint32], key: NDArray[np.uint32], factors: tuple[int, int]) -> NDArray[np.uint32]:
    """Mix the bits of words, with a key halfway."""
    x = (x ^ x >> np.uint32(16)) * np.uint32(factors[0]) ^ key
    x = (x ^ x >> np.uint32(15)) * np.uint32(factors[1])
    mixed: NDArray[np.uint32] = x ^ x >> np.uint32(15)
    return mixed


def _read_pair(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two independent standard Gaussian numbers from two random 32-bit words (Box-Muller).

    The radius is sqrt(-2 ln u) with u = (top 30 bits of a + 1) / 2^30, at most 6.4. The angle lies
    within 45 degrees of an axis by b / 2^31 as a signed number; its lowest two bits select the axis.
    """
    uniform = ((a >> np.uint32(32 - UNIFORM_BITS)) + np.uint32(1)).astype(np.int32).astype(np.float32)
    shifted = uniform.view(np.int32) + np.int32(ONE_BITS - SQRT_HALF_BITS - ((127 + UNIFORM_BITS) << 23))
    exponent = (shifted >> np.int32(23)).astype(np.float32)
    f = ((shifted & np.int32(0x7FFFFF)) + np.int32(SQRT_HALF_BITS)).view(np.float32) - np.float32(1)
    # Never negative: f is at most zero where the exponent is, and each exponent below adds twice what f can take.
    radius = np.sqrt(exponent * MINUS_2_LN2 + _polynomial(READ_LOGARITHM, f) * f)
    t = b.view(np.int32).astype(np.float32) * np.float32(2.0**-31)
    sine = _polynomial(READ_SINE, t * t) * t
    cosine = _polynomial(COSINE, t * t)
    cosine = (cosine.view(np.uint32) ^ (b << np.uint32(30) & np.uint32(1 << 31))).view(np.float32)
    odd = (b & np.uint32(1)).astype(bool)
    return radius * np.where(odd, sine, cosine), radius * np.where(odd, cosine, sine)


def read_gaussians(
    count: int,
    window: NDArray[np.int64],
    image: NDArray[np.int64],
    stream: int,
    seed: int,
    phase: int = 0,
) -> NDArray[np.float32]:
    """Standard Gaussian numbers of read noise, [items, count].

    Philox gives each item (a window of an image) and stream a key of 128 bits. Lines and phases get
    their words from it by a keyed mixer of two multiplications: word i of position p is
    scramble(k_i + p * step_i, k_(i+2)). Philox for each line would take as long as all the rest.

    Parameters
    ----------
    window, image
        Window and image of each item, [items] each.
    """
    keys = philox(0, window, image, stream, seed)  # type: ignore[arg-type]
    k0, k1, k2, k3 = (word.astype(np.uint32)[:, None] for word in keys)
    blocks, half = -(-count // LINES_PER_BLOCK), HALF_BLOCK
    position = np.arange(blocks * half, dtype=np.uint32) + np.uint32(phase << PHASE_SHIFT)
    a = _scramble(k0 + position * np.uint32(STEPS[0]), k2, FACTORS[0])
    b = _scramble(k1 + position * np.uint32(STEPS[1]), k3, FACTORS[1])
    pairs = np.stack([part.reshape(-1, blocks, half) for part in _read_pair(a, b)], axis=2)
    return pairs.reshape(len(pairs), -1)[:, :count]


def gaussians(
    count: int, c1: NDArray[Any] | int, c2: NDArray[Any] | int, c3: int, seed: int, first: NDArray[Any] | int = 0
) -> NDArray[np.float32]:
    """Standard Gaussian numbers, [*shape of the counters, count].

    ``c1``, ``c2`` and ``first`` (added to the block number, counter word 0) are broadcast
    against each other.
    """
    shape = np.broadcast_shapes(np.shape(first), np.shape(c1), np.shape(c2))
    blocks, each = -(-count // 4), min(count, 4)
    values = np.empty((prod(shape), blocks, each), np.float32)
    counters = [np.broadcast_to(np.asarray(c, np.uint64), shape).reshape(-1, 1) for c in (first, c1, c2)]
    rows = max(1, BLOCKS_AT_ONCE // max(blocks, 1))
    for row in range(0, len(values), rows):
        start, c1, c2 = (counter[row : row + rows] for counter in counters)
        for block in range(0, blocks, BLOCKS_AT_ONCE):
            part = values[row : row + rows, block : block + BLOCKS_AT_ONCE]
            words = philox(np.arange(block, block + part.shape[1], dtype=np.uint64) + start, c1, c2, c3, seed)
            one, other = gaussian_pair(np.stack(words[0:each:2], axis=-1), np.stack(words[1 : each + 1 : 2], axis=-1))
            part[..., 0::2], part[..., 1::2] = one, other[..., : each // 2]
    return values.reshape(*shape, blocks * each)[..., :count]


def uniforms(count: int, c1: int, c2: int, c3: int, seed: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) of 32 bits, [count]."""
    words = philox(np.arange(-(-count // 4)), c1, c2, c3, seed)
    return np.stack(words, axis=-1).ravel()[:count] / 2.0**32


def seed_of_write(seed: int, number: int) -> int:
    """Seed of what is drawn anew when arrays are written for the n-th time, 0 <= number < 2^64."""
    low, high = np.array([number & MASK]), number >> 32
    words = philox(low, high, 0, stream(Purpose.REWRITE, 0), seed)
    return int(words[0][0]) | int(words[1][0]) << 32


@dataclass(frozen=True, eq=False)
class ItemNoise:
    """Read noise of items, which count the windows of one image and then those of the next."""

    windows: NDArray[np.int64]
    """Window numbers of an image, [windows]."""
    images: NDArray[np.int64]
    """Image numbers, [batch]."""
    stream: int
    seed: int

    def gaussians(self, count: int, begin: int, end: int, phase: int = 0) -> NDArray[np.float32]:
        """Standard Gaussian numbers of items ``begin`` to ``end``, [end - begin, count].

        Up to ``HALF_BLOCK`` of them are half of a block, which belongs to windows 2 n and 2 n + 1.
        """
        image, place = np.divmod(np.arange(begin, end), len(self.windows))
        window, image = self.windows[place], self.images[image]
        if count > HALF_BLOCK:
            return read_gaussians(count, window, image, self.stream, self.seed, phase)
        both = read_gaussians(LINES_PER_BLOCK, window >> 1, image, self.stream, self.seed, phase)
        halves = both.reshape(-1, 2, HALF_BLOCK)
        return halves[np.arange(end - begin), window & 1, :count]

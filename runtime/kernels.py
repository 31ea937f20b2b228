"""Compiled kernels of the conversion loop; import only through :mod:`memcompile.runtime.compiled`.

Every floating-point operation is float32 (or exact), in the order of the NumPy path in
:mod:`memcompile.runtime.conversions`, and fast-math is off: both give the same bits. Explicit
casts keep Numba from widening to float64; unsigned indices spare tests for negative ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from memcompile.runtime import random_numbers as numbers
from memcompile.runtime.lanes import (
    COUNT,
    bits_of,
    floor,
    greater,
    less,
    load,
    numbered,
    of_bits,
    root,
    store,
    to_floats,
    unsigned_right,
    where_odd,
)

F, U = np.float32, np.uint64

M0, M1, W0, W1, MASK = (U(v) for v in (numbers.M0, numbers.M1, numbers.W0, numbers.W1, numbers.MASK))
ROUNDS = numbers.ROUNDS
HALF_WORD = U(32)
STEP_0, STEP_1 = (U(step) for step in numbers.STEPS)
(FACTOR_00, FACTOR_01), (FACTOR_10, FACTOR_11) = ((U(f) for f in pair) for pair in numbers.FACTORS)
S0, S1, S2 = numbers.READ_SINE
C0, C1, C2, C3 = numbers.COSINE
L0, L1, L2, L3, L4, L5, L6 = numbers.READ_LOGARITHM
MINUS_2_LN2 = numbers.MINUS_2_LN2
UNUSED_BITS = 32 - numbers.UNIFORM_BITS
SHIFT_BITS = numbers.ONE_BITS - numbers.SQRT_HALF_BITS - ((127 + numbers.UNIFORM_BITS) << 23)
SQRT_HALF_BITS = numbers.SQRT_HALF_BITS
TURN, SIGN = F(2.0**-31), 1 << 31
PHASE_SHIFT = U(numbers.PHASE_SHIFT)
BLOCK = U(numbers.LINES_PER_BLOCK)
HALF = U(COUNT)
assert HALF == numbers.HALF_BLOCK, "half a block of lines is a vector"
assert HALF + HALF == BLOCK, "a block of lines is two vectors"
SPAN = 256
"""Windows whose inputs are packed together."""


def _compile(**options: Any) -> Any:
    """``numba.njit`` with an on-disk cache where a folder for it can be written."""

    def wrap(function: Any) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no writable cache folder: compile in every process
            return njit(**options)(function)

    return wrap


@_compile(inline="always")
def _philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    for _ in range(ROUNDS):
        p0 = c0 * M0
        p1 = c2 * M1
        c0, c1, c2, c3 = (p1 >> HALF_WORD) ^ c1 ^ k0, p1 & MASK, (p0 >> HALF_WORD) ^ c3 ^ k1, p0 & MASK
        k0 = (k0 + W0) & MASK
        k1 = (k1 + W1) & MASK
    return c0, c1, c2, c3


@_compile(inline="always")
def item_key(window: Any, image: Any, stream: Any, key: Any) -> Any:
    """The four 32-bit words that key the read noise of an item."""
    return _philox(U(0), U(window), U(image), stream, key[0], key[1])


@_compile(inline="always")
def _scramble(x: Any, key: Any, factor_0: Any, factor_1: Any) -> Any:
    x = (x ^ unsigned_right(x, 16)) * factor_0 ^ key
    x = (x ^ unsigned_right(x, 15)) * factor_1
    return x ^ unsigned_right(x, 15)


@_compile(inline="always")
def gaussian_block(item: Any, position: Any) -> Any:
    """Standard Gaussian numbers of the two halves of a block of lines, as two vectors.

    ``item`` is what :func:`item_key` gives and ``position`` the position of the first pair.
    """
    a = _scramble(numbered() * STEP_0 + (item[0] + position * STEP_0), item[2], FACTOR_00, FACTOR_01)
    b = _scramble(numbered() * STEP_1 + (item[1] + position * STEP_1), item[3], FACTOR_10, FACTOR_11)
    shifted = bits_of(to_floats(unsigned_right(a, UNUSED_BITS) + 1)) + SHIFT_BITS
    exponent = to_floats(shifted >> 23)
    f = of_bits((shifted & 0x7FFFFF) + SQRT_HALF_BITS) - F(1)
    ratio = (((((f * L6 + L5) * f + L4) * f + L3) * f + L2) * f + L1) * f + L0
    radius = root(greater(exponent * MINUS_2_LN2 + ratio * f, F(0)))
    t = to_floats(b) * TURN
    square = t * t
    sine = ((square * S2 + S1) * square + S0) * t
    cosine = ((square * C3 + C2) * square + C1) * square + C0
    cosine = of_bits(bits_of(cosine) ^ (b << 30 & SIGN))
    return radius * where_odd(b, sine, cosine), radius * where_odd(b, cosine, sine)


@_compile(inline="always")
def draw_lines(noise: Any, blocks: Any, item: Any, position: Any) -> None:
    """Standard Gaussian numbers of all lines of an item in one phase."""
    for block in range(blocks):
        low, high = gaussian_block(item, position + HALF * block)
        store(noise, BLOCK * block, low)
        store(noise, BLOCK * block + HALF, high)


@_compile(inline="always")
def _transpose_bits(word: Any) -> Any:
    """Exchange rows (bytes) and columns (bits) of 8 x 8 bits (Warren, Hacker's Delight, 7-3)."""
    t = (word ^ (word >> U(7))) & U(0x00AA00AA00AA00AA)
    word = word ^ t ^ (t << U(7))
    t = (word ^ (word >> U(14))) & U(0x0000CCCC0000CCCC)
    word = word ^ t ^ (t << U(14))
    t = (word ^ (word >> U(28))) & U(0x00000000F0F0F0F0)
    return word ^ t ^ (t << U(28))


@_compile(inline="always")
def _count_bits(word: Any) -> Any:
    """Ones of each byte (Warren, Hacker's Delight, 5-1)."""
    ones = word - ((word >> U(1)) & U(0x5555555555555555))
    ones = (ones & U(0x3333333333333333)) + ((ones >> U(2)) & U(0x3333333333333333))
    return (ones + (ones >> U(4))) & U(0x0F0F0F0F0F0F0F0F)


@_compile(inline="always")
def _widen(bytes_: Any) -> Any:
    """The four low bytes as four 16-bit numbers."""
    wide = (bytes_ | (bytes_ << U(16))) & U(0x0000FFFF0000FFFF)
    return (wide | (wide << U(8))) & U(0x00FF00FF00FF00FF)


@_compile(nogil=True)
def pack_phases(vectors: Any, each: int, patterns: Any, driven: Any, begin: int, end: int) -> None:
    """Bit planes of uint8 [batch, rows, windows], for spans of windows ``begin`` to ``end``.

    ``patterns`` (uint64 [batch, windows, groups of ``each`` rows, at most 8]) gets in byte p the bits of phase p,
    ``driven`` (uint64 [batch, windows, 2]) the ones of each phase as 16-bit numbers.
    """
    rows, windows = vectors.shape[1:]
    spans = (windows + SPAN - 1) // SPAN
    words = np.zeros(SPAN, np.uint64)
    low = np.zeros(SPAN, np.uint64)
    high = np.zeros(SPAN, np.uint64)
    for unit in range(begin, end):
        image, first = unit // spans, U(unit % spans * SPAN)
        count = U(min(windows - unit % spans * SPAN, SPAN))
        low[:] = U(0)
        high[:] = U(0)
        for group in range(patterns.shape[2]):
            words[:] = U(0)
            for row in range(each * group, min(each * group + each, rows)):
                shift = U(8 * (row - each * group))
                line = vectors[image, row]
                for i in range(count):
                    words[i] |= U(line[first + i]) << shift
            for i in range(count):
                word = _transpose_bits(words[i])
                ones = _count_bits(word)
                low[i] += _widen(ones & U(0xFFFFFFFF))
                high[i] += _widen(ones >> U(32))
                words[i] = word
            for i in range(count):
                patterns[image, first + i, group] = words[i]
        for i in range(count):
            driven[image, first + i, 0], driven[image, first + i, 1] = low[i], high[i]


@_compile(inline="always")
def _sum_rows(tables: Any, rows: Any, groups: Any, line: Any) -> Any:
    """Sums of a block of lines over the given rows of all tables."""
    low, high = load(tables, rows[U(0)] + line), load(tables, rows[U(0)] + line + HALF)
    for group in range(U(1), groups):
        low = low + load(tables, rows[group] + line)
        high = high + load(tables, rows[group] + line + HALF)
    return low, high


@_compile(inline="always")
def _add_codes(codes: Any, line: Any, current: Any, rounding: Any, min_code: Any, max_code: Any, weight: Any) -> None:
    """Convert the currents of sixteen lines and add their weighted codes."""
    code = floor(less(greater(current + load(rounding, line), min_code), max_code))
    store(codes, line, load(codes, line) + code * weight)


@_compile(nogil=True)
def convert_items(
    tables: Any,
    variances: Any,
    sigma: Any,
    gain: Any,
    rounding: Any,
    noisy: bool,
    every: bool,
    min_code: Any,
    max_code: Any,
    patterns: Any,
    driven: Any,
    weights: Any,
    powers: Any,
    count: int,
    windows: Any,
    images: Any,
    grid: int,
    first_line: Any,
    stream: Any,
    key: Any,
    totals: Any,
    begin: int,
    end: int,
) -> None:
    """All conversions of one tile for items ``begin`` to ``end``; adds to ``totals``.

    The arguments are those of :func:`memcompile.runtime.conversions.convert_tile`; an item is an
    image and window, windows running faster. Noise, rounding and accumulation happen in registers,
    a block of lines at a time.
    """
    width, groups = U(gain.size), U(patterns.shape[1])
    entries, stride = U(tables.shape[1]), U(tables.shape[2])
    flat, flat_variances = tables.reshape(-1), variances.reshape(-1)
    proportional = flat_variances.size > 0
    rows = np.zeros(groups, np.uint64)
    codes = np.zeros(width, np.float32)
    first_pair = first_line // U(2)
    for item in range(U(begin), U(end)):
        image, window = item // U(windows.size), windows[item % U(windows.size)]
        source = U(image * U(grid) + U(window))
        words = item_key(window, images[image], stream, key)
        codes[:] = F(0)
        for phase in range(U(weights.size)):
            lines_on = (driven[source, phase // U(4)] >> (U(16) * (phase % U(4)))) & U(0xFFFF)
            if not (lines_on or every):
                continue
            for group in range(groups):
                pattern = (patterns[source, group] >> (U(8) * phase)) & U(255)
                rows[group] = (entries * group + pattern) * stride
            weight, scale = weights[phase], sigma[lines_on]
            position = (phase << PHASE_SHIFT) + first_pair
            for block in range(width // BLOCK):
                line = BLOCK * block
                low, high = _sum_rows(flat, rows, groups, line)
                if noisy:
                    z_low, z_high = gaussian_block(words, position + HALF * block)
                    z_low, z_high = z_low * load(gain, line), z_high * load(gain, line + HALF)
                    if proportional:
                        spread_low, spread_high = _sum_rows(flat_variances, rows, groups, line)
                        low, high = low + root(spread_low) * z_low, high + root(spread_high) * z_high
                    else:
                        low, high = low + z_low * scale, high + z_high * scale
                _add_codes(codes, line, low, rounding, min_code, max_code, weight)
                _add_codes(codes, line + HALF, high, rounding, min_code, max_code, weight)
        combine(codes, count, powers, totals, item)


@_compile(inline="always")
def combine(codes: Any, count: Any, powers: Any, totals: Any, item: Any) -> None:
    """Subtract pairs and add slices of the shifted and added codes of ``count`` lines."""
    slices, columns = U(powers.size), U(totals.shape[1])
    if U(count) == columns * slices:  # a line carries the difference of its pair
        for column in range(columns):
            total = np.int64(0)
            for s in range(slices):
                total += np.int64(codes[column * slices + s]) * powers[s]
            totals[item, column] += total
        return
    for column in range(columns):
        total = np.int64(0)
        for s in range(slices):
            pair = U(2) * (column * slices + s)
            total += np.int64(codes[pair] - codes[pair + U(1)]) * powers[s]
        totals[item, column] += total

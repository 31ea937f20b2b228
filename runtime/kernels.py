"""Compiled kernels of the conversion loop; import only through :mod:`memcompile.runtime.compiled`.

Every floating-point operation is float32 (or exact), in the order of the NumPy path in
:mod:`memcompile.runtime.conversions`, and fast-math is off: both give the same bits. Explicit
casts keep Numba from widening to float64 and int64, which would change results and cost speed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from memcompile.runtime import random_numbers as numbers

F, I, U = np.float32, np.int32, np.uint64

M0, M1, W0, W1, MASK = (U(v) for v in (numbers.M0, numbers.M1, numbers.W0, numbers.W1, numbers.MASK))
ROUNDS = numbers.ROUNDS
HALF_WORD = U(32)
S0, S1, S2, S3 = numbers.SINE
C0, C1, C2, C3 = numbers.COSINE
L0, L1, L2, L3, L4, L5, L6, L7 = numbers.LOGARITHM
LN2 = numbers.LN2
SHIFT_BITS, SQRT_HALF_BITS = I(numbers.ONE_BITS - numbers.SQRT_HALF_BITS), I(numbers.SQRT_HALF_BITS)
STEP_24 = F(2.0**-24)
PHASE_SHIFT = numbers.PHASE_SHIFT
SPAN = 256
"""Windows whose inputs are packed together."""
BATCH = 16
"""Items whose random numbers are drawn together."""
LANES = 16
"""A multiple of what a vector register holds."""


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
def _gaussian_pair(a: Any, b: Any) -> Any:
    uniform = F(I((a >> U(8)) + U(1))) * STEP_24
    shifted = I(np.float32(uniform).view(np.int32) + SHIFT_BITS)
    exponent = F(I(shifted >> I(23)) - I(127))
    mantissa = np.int32(I(shifted & I(0x7FFFFF)) + SQRT_HALF_BITS).view(np.float32)
    f = mantissa - F(1)
    ratio = ((((((L7 * f + L6) * f + L5) * f + L4) * f + L3) * f + L2) * f + L1) * f + L0
    logarithm = exponent * LN2 + ratio * f
    radius = np.sqrt(max(F(-2) * logarithm, F(0)))
    t = F(I(b >> U(8))) * STEP_24
    square = t * t
    sine = (((S3 * square + S2) * square + S1) * square + S0) * t
    cosine = ((C3 * square + C2) * square + C1) * square + C0
    swap = (b & U(1)) != U(0)
    x = (sine if swap else cosine) * (F(1) - F(I(b & U(2))))
    y = (cosine if swap else sine) * (F(1) - F(I((b & U(4)) >> U(1))))
    return radius * x, radius * y


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
def pack_phases(vectors: Any, patterns: Any, driven: Any, begin: int, end: int) -> None:
    """Bit planes of uint8 [batch, rows, windows], for spans of windows ``begin`` to ``end``.

    ``patterns`` (uint64 [batch, windows, groups of 8 rows]) gets in byte p the bits of phase p,
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
            for row in range(8 * group, min(8 * group + 8, rows)):
                shift = U(8 * (row - 8 * group))
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
def _draw(noise: Any, c0: Any, c1: Any, c2: Any, count: int, stream: Any, key: Any) -> None:
    """Four standard Gaussian numbers for each of ``count`` counters.

    The count is rounded up and the index unsigned so that the loop has no scalar rest and no test
    for negative indices.
    """
    k0, k1 = key[0], key[1]
    for e in range(U(count + LANES - 1) // U(LANES) * U(LANES)):
        a, b, c, d = _philox(U(c0[e]), U(c1[e]), U(c2[e]), stream, k0, k1)
        z0, z1 = _gaussian_pair(a, b)
        z2, z3 = _gaussian_pair(c, d)
        f = U(4) * e
        noise[f], noise[f + U(1)], noise[f + U(2)], noise[f + U(3)] = z0, z1, z2, z3


@_compile(inline="always")
def _code(current: Any, noise: Any, rounding: Any, max_code: Any) -> Any:
    """Output code of one conversion."""
    return np.floor(min(max(current + noise + rounding, F(0)), max_code))


@_compile(inline="always")
def _table_row(patterns: Any, item: Any, group: Any, shift: Any) -> Any:
    """Row of the stacked tables that holds the sums of one group's pattern in one phase."""
    return U(256 * group) + ((patterns[item, group] >> shift) & U(255))


@_compile(inline="always")
def _sum_tables(flat: Any, patterns: Any, item: Any, shift: Any, width: Any, sums: Any) -> None:
    """Sums of each line from the tables of any number of groups of eight input lines."""
    groups = patterns.shape[1]
    for line in range(width):
        sums[line] = F(0)
    for group in range(groups % 8):
        a = _table_row(patterns, item, group, shift) * width
        for line in range(width):
            sums[line] += flat[a + line]
    for group in range(groups % 8, groups, 8):  # few long loops beat many short ones
        a = _table_row(patterns, item, group, shift) * width
        b = _table_row(patterns, item, group + 1, shift) * width
        c = _table_row(patterns, item, group + 2, shift) * width
        d = _table_row(patterns, item, group + 3, shift) * width
        e = _table_row(patterns, item, group + 4, shift) * width
        f = _table_row(patterns, item, group + 5, shift) * width
        g = _table_row(patterns, item, group + 6, shift) * width
        h = _table_row(patterns, item, group + 7, shift) * width
        for line in range(width):
            low = (flat[a + line] + flat[b + line]) + (flat[c + line] + flat[d + line])
            high = (flat[e + line] + flat[f + line]) + (flat[g + line] + flat[h + line])
            sums[line] += low + high


@_compile(inline="always")
def _convert_pairs(
    flat: Any,
    flat_variances: Any,
    gain: Any,
    rounding: Any,
    max_code: Any,
    patterns: Any,
    weights: Any,
    pair_row: Any,
    pair_source: Any,
    pair_phase: Any,
    pair_scale: Any,
    noise: Any,
    sums: Any,
    spread: Any,
    count: int,
    codes: Any,
) -> None:
    """Convert the listed pairs of item and phase; adds weighted codes to ``codes``."""
    lines, groups = gain.size, patterns.shape[1]
    width, stride = U(lines), U((lines + 3) // 4 * 4)
    proportional = flat_variances.size > 0
    unequal = np.any(gain != F(1))
    for i in range(count):
        item, phase = pair_source[i], pair_phase[i]
        shift = U(8 * phase)
        weight, scale = weights[phase], pair_scale[i]
        code = U(pair_row[i]) * width
        draw = U(i) * stride
        if unequal:
            for line in range(width):
                noise[draw + line] *= gain[line]
        a = _table_row(patterns, item, 0, shift) * width
        if proportional:
            _sum_tables(flat, patterns, item, shift, width, sums)
            _sum_tables(flat_variances, patterns, item, shift, width, spread)
            for line in range(width):
                jitter = np.sqrt(spread[line]) * noise[draw + line]
                codes[code + line] += weight * _code(sums[line], jitter, rounding[line], max_code)
        elif groups == 1:
            for line in range(width):
                jitter = scale * noise[draw + line]
                codes[code + line] += weight * _code(flat[a + line], jitter, rounding[line], max_code)
        elif groups == 2:
            b = _table_row(patterns, item, 1, shift) * width
            for line in range(width):
                current, jitter = flat[a + line] + flat[b + line], scale * noise[draw + line]
                codes[code + line] += weight * _code(current, jitter, rounding[line], max_code)
        else:
            _sum_tables(flat, patterns, item, shift, width, sums)
            for line in range(width):
                jitter = scale * noise[draw + line]
                codes[code + line] += weight * _code(sums[line], jitter, rounding[line], max_code)


@_compile(nogil=True)
def convert_items(
    tables: Any,
    variances: Any,
    sigma: Any,
    gain: Any,
    rounding: Any,
    noisy: bool,
    every: bool,
    max_code: Any,
    patterns: Any,
    driven: Any,
    weights: Any,
    powers: Any,
    windows: Any,
    images: Any,
    grid: int,
    first_block: Any,
    stream: Any,
    key: Any,
    totals: Any,
    begin: int,
    end: int,
) -> None:
    """All conversions of one tile for items ``begin`` to ``end``; adds to ``totals``.

    The arguments are those of :func:`memcompile.runtime.conversions.convert_tile`; an item is an
    image and window, windows running faster. Items go in batches, so that the loop over random
    numbers is long. Arrays are indexed flat and unsigned: views and tests for negative indices
    would cost more than the arithmetic.
    """
    lines, phases = gain.size, weights.size
    blocks = (lines + 3) // 4
    pairs = BATCH * phases
    counters = pairs * blocks + LANES
    noise = np.zeros(4 * counters, np.float32)
    c0 = np.zeros(counters, np.uint32)
    c1 = np.zeros(counters, np.uint32)
    c2 = np.zeros(counters, np.uint32)
    pair_row = np.zeros(pairs, np.int64)
    pair_source = np.zeros(pairs, np.int64)
    pair_phase = np.zeros(pairs, np.int64)
    pair_scale = np.zeros(pairs, np.float32)
    sums = np.zeros(lines, np.float32)
    spread = np.zeros(lines, np.float32)
    codes = np.zeros(BATCH * lines, np.float32)
    flat, flat_variances = tables.reshape(-1), variances.reshape(-1)
    for first in range(begin, end, BATCH):
        last = min(first + BATCH, end)
        count = 0
        for item in range(first, last):
            window, image = windows[item % windows.size], item // windows.size
            source = image * grid + window
            for phase in range(phases):
                lines_on = (driven[source, phase // 4] >> U(16 * (phase % 4))) & U(0xFFFF)
                if lines_on or every:
                    pair_row[count], pair_source[count], pair_phase[count] = item - first, source, phase
                    pair_scale[count] = sigma[lines_on]
                    if noisy:
                        high = U(phase << PHASE_SHIFT) | first_block
                        base = U(count * blocks)
                        for block in range(U(blocks)):
                            c0[base + block] = np.uint32(high + block)
                            c1[base + block] = np.uint32(window)
                            c2[base + block] = np.uint32(images[image])
                    count += 1
        if noisy:
            _draw(noise, c0, c1, c2, count * blocks, stream, key)
        codes[:] = F(0)
        _convert_pairs(
            flat,
            flat_variances,
            gain,
            rounding,
            max_code,
            patterns,
            weights,
            pair_row,
            pair_source,
            pair_phase,
            pair_scale,
            noise,
            sums,
            spread,
            count,
            codes,
        )
        _combine(codes, powers, lines, totals, first, last)


@_compile(inline="always")
def _combine(codes: Any, powers: Any, lines: int, totals: Any, first: int, last: int) -> None:
    """Subtract pairs and add slices of shifted and added codes."""
    slices = U(powers.size)
    for item in range(first, last):
        base = U((item - first) * lines)
        for column in range(U(totals.shape[1])):
            total = np.int64(0)
            for s in range(slices):
                pair = base + U(2) * (column * slices + s)
                total += np.int64(codes[pair] - codes[pair + U(1)]) * powers[s]
            totals[item, column] += total

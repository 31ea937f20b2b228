"""Compiled kernels of the conversion loop; import only through :mod:`memcompile.runtime.kernels.compiled`.

Every floating-point operation is float32 (or exact), in the order of the NumPy path in
:mod:`memcompile.runtime.executors.conversions`, and fast-math is off: both give the same bits. Explicit
casts keep Numba from widening to float64; unsigned indices spare tests for negative ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from memcompile.runtime import random_numbers as numbers
from memcompile.runtime.kernels import compiled
from memcompile.runtime.kernels.lanes import (
    COUNT,
    bits_of,
    copy_8,
    copy_16,
    evens,
    everywhere,
    floor,
    greater,
    less,
    like,
    load,
    multiplied_and_added,
    numbered,
    odds,
    of_bits,
    pointer,
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
PHASES = U(compiled.PHASES)


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


@_compile(nogil=True)
def item_keys(windows: Any, images: Any, stream: Any, key: Any, halved: Any, begin: int, end: int) -> Any:
    """Words that key the read noise of items ``begin`` to ``end``, uint32 [4, items]; ``halved`` ones of two windows.

    An item is an image and window, windows running faster. All at once are several times as fast as one by one.
    """
    count = U(end - begin)
    window, image = np.empty(count, np.uint64), np.empty(count, np.uint64)
    place, number = U(begin) % U(windows.size), U(begin) // U(windows.size)  # counted on: divisions are slow
    for i in range(count):
        window[i], image[i] = U(windows[place]) >> U(halved), U(images[number])
        place += U(1)
        if place == U(windows.size):
            place, number = U(0), number + U(1)
    words = np.empty((4, count), np.uint32)
    first, second, third, fourth = words[0], words[1], words[2], words[3]
    for i in range(count):
        first[i], second[i], third[i], fourth[i] = _philox(U(0), window[i], image[i], stream, key[0], key[1])
    return words


@_compile(inline="always")
def key_of(words: Any, item: Any) -> Any:
    """The four words of one of the items of :func:`item_keys`."""
    return words[U(0), item], words[U(1), item], words[U(2), item], words[U(3), item]


@_compile(inline="always")
def _scramble(x: Any, key: Any, factor_0: Any, factor_1: Any) -> Any:
    x = (x ^ unsigned_right(x, 16)) * factor_0 ^ key
    x = (x ^ unsigned_right(x, 15)) * factor_1
    return x ^ unsigned_right(x, 15)


@_compile(inline="always")
def gaussian_block(item: Any, position: Any) -> Any:
    """Standard Gaussian numbers of the two halves of a block of lines, as two vectors.

    ``item`` is what :func:`key_of` gives and ``position`` the position of the first pair.
    """
    a = _scramble(numbered() * STEP_0 + (item[0] + position * STEP_0), item[2], FACTOR_00, FACTOR_01)
    b = _scramble(numbered() * STEP_1 + (item[1] + position * STEP_1), item[3], FACTOR_10, FACTOR_11)
    shifted = bits_of(to_floats(unsigned_right(a, UNUSED_BITS) + 1)) + SHIFT_BITS
    exponent = to_floats(shifted >> 23)
    f = of_bits((shifted & 0x7FFFFF) + SQRT_HALF_BITS) - F(1)
    ratio = (((((f * L6 + L5) * f + L4) * f + L3) * f + L2) * f + L1) * f + L0
    radius = root(exponent * MINUS_2_LN2 + ratio * f)
    t = to_floats(b) * TURN
    square = t * t
    sine = ((square * S2 + S1) * square + S0) * t
    cosine = ((square * C3 + C2) * square + C1) * square + C0
    cosine = of_bits(bits_of(cosine) ^ (b << 30 & SIGN))
    return radius * where_odd(b, sine, cosine), radius * where_odd(b, cosine, sine)


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


@_compile(inline="always")
def _side_by_side(starts: Any, first: Any, count: Any) -> Any:
    """Number of windows that lie side by side in each row of so many: 16, 8 or 1."""
    in_16, in_8 = count % HALF == U(0), count % U(8) == U(0)
    for i in range(U(1), count):
        if starts[first + i] != starts[first + i - U(1)] + 1:
            in_16, in_8 = in_16 and i % HALF == U(0), in_8 and i % U(8) == U(0)
    return 16 if in_16 else 8 if in_8 else 1


@_compile(inline="always")
def _read_row(image: Any, starts: Any, first: Any, count: Any, place: Any, beside: Any, read: Any, to: Any) -> None:
    """Read one input line of windows, zeros where there is no place to read."""
    if place < 0:
        for i in range(count):
            read[to + i] = np.uint8(0)
    elif beside == 16:
        for i in range(U(0), count, U(16)):
            copy_16(read, to + i, image, U(starts[first + i] + place))
    elif beside == 8:
        for i in range(U(0), count, U(8)):
            copy_8(read, to + i, image, U(starts[first + i] + place))
    else:
        for i in range(count):
            read[to + i] = image[U(starts[first + i] + place)]


@_compile(nogil=True)
def pack_phases(
    images: Any, starts: Any, places: Any, each: int, patterns: Any, driven: Any, begin: int, end: int
) -> None:
    """Bit planes of the input vectors of windows, for spans of windows ``begin`` to ``end``.

    Row r of window w reads place ``starts[w] + places[r]`` of a flat uint8 image, or none where ``places`` is -1.
    ``patterns`` (uint64 [batch, windows, groups of ``each`` rows, at most 8]) gets in byte p the bits of phase p,
    ``driven`` (uint64 [batch, windows, 2]) the ones of each phase as 16-bit numbers.
    """
    rows, windows = U(places.size), U(starts.size)
    spans = (windows + U(SPAN) - U(1)) // U(SPAN)
    words, low, high = np.zeros(SPAN, np.uint64), np.zeros(SPAN, np.uint64), np.zeros(SPAN, np.uint64)
    read = np.zeros(8 * SPAN, np.uint8)
    for unit in range(U(begin), U(end)):
        image, first = images[unit // spans], unit % spans * U(SPAN)
        count = min(windows - first, U(SPAN))
        beside = _side_by_side(starts, first, count)
        low[:] = U(0)
        high[:] = U(0)
        for group in range(U(patterns.shape[2])):
            for bit in range(U(8)):
                row = U(each) * group + bit
                place = places[row] if bit < U(each) and row < rows else np.int64(-1)
                _read_row(image, starts, first, count, place, beside, read, bit * U(SPAN))
            for i in range(count):
                word = U(read[i])
                for bit in range(U(1), U(8)):
                    word |= U(read[bit * U(SPAN) + i]) << (U(8) * bit)
                word = _transpose_bits(word)
                ones = _count_bits(word)
                low[i] += _widen(ones & U(0xFFFFFFFF))
                high[i] += _widen(ones >> U(32))
                words[i] = word
            for i in range(count):
                patterns[unit // spans, first + i, group] = words[i]
        for i in range(count):
            driven[unit // spans, first + i, 0], driven[unit // spans, first + i, 1] = low[i], high[i]


@_compile(inline="always")
def _fill_tables(tables: Any, first: Any, cells: Any, vector: Any, rows: Any, rows_each: Any, size: Any) -> None:
    """Sums of a vector of lines over all on/off patterns of each group of rows, from ``first`` on."""
    start = first
    for row in range(rows):
        bit = row % rows_each
        if not bit:
            start = first + size * (row // rows_each)
            store(tables, start, to_floats(numbered() * 0))
        cell = load(cells, HALF * (vector * rows + row))
        for pattern in range(U(1) << bit):
            old = start + HALF * pattern
            store(tables, old + (HALF << bit), load(tables, old) + cell)


@_compile(inline="always")
def _sum_groups(tables: Any, first: Any, second: Any, patterns: Any, at: Any, groups: Any, size: Any) -> Any:
    """Sums of two vectors of lines over all groups of rows.

    Their tables begin at ``first`` and ``second``, and those of a group are ``size`` values apart. Two sums of a
    vector take turns, for each has to wait for what was added last. They are exact: see
    :mod:`memcompile.hardware.converter`.
    """
    place = U(patterns[at]) * HALF
    low, high = load(tables, first + place), load(tables, second + place)
    if groups == U(1):
        return low, high
    place = size + U(patterns[at + PHASES]) * HALF
    other_low, other_high = load(tables, first + place), load(tables, second + place)
    for group in range(U(2), groups - U(1), U(2)):
        place = group * size + U(patterns[at + group * PHASES]) * HALF
        low, high = low + load(tables, first + place), high + load(tables, second + place)
        place = (group + U(1)) * size + U(patterns[at + (group + U(1)) * PHASES]) * HALF
        other_low = other_low + load(tables, first + place)
        other_high = other_high + load(tables, second + place)
    if groups & U(1):
        place = (groups - U(1)) * size + U(patterns[at + (groups - U(1)) * PHASES]) * HALF
        low, high = low + load(tables, first + place), high + load(tables, second + place)
    return low + other_low, high + other_high


@_compile(inline="always")
def amplified(z: Any, gain: Any, line: Any, uneven: Any) -> Any:
    """Noise of a vector of lines, times the gains of their converters unless all are one."""
    return z * load(gain, line) if uneven else z


@_compile(inline="always")
def converted(current: Any, rounding: Any, line: Any, min_code: Any, max_code: Any) -> Any:
    """The codes that converters make of the currents of a vector of lines, in the type of the currents."""
    return floor(less(greater(current + load(rounding, line), min_code), max_code))


@_compile(inline="always")
def _add_columns(codes: Any, columns: Any, weight: Any, totals: Any, first: Any, room: Any) -> None:
    """Add weighted codes of a vector of columns, or of as many as there are, to totals from ``first`` on."""
    if columns >= HALF:
        store(totals, first, load(totals, first) + like(codes, weight) * weight)
        return
    store(room, U(0), codes)
    for column in range(columns):
        totals[first + column] += np.int64(room[column]) * weight


@_compile(inline="always")
def add_block(
    low: Any,
    high: Any,
    line: Any,
    lines: Any,
    each: Any,
    columns: Any,
    factors: Any,
    totals: Any,
    first: Any,
    room: Any,
) -> None:
    """Subtract pairs and add slices of the codes of a block of lines, in totals whose columns begin at ``first``.

    ``each``, ``columns`` and ``factors`` are those of ``LineCounts`` of the executors' conversions, ``line`` is the
    first of the block and ``room`` holds the codes of a block.
    """
    rest = lines - line
    if each == U(1):
        _add_columns(low, rest, factors[U(0)], totals, first + line, room)
        if rest > HALF:
            _add_columns(high, rest - HALF, factors[U(0)], totals, first + line + HALF, room)
        return
    if each == U(2):
        difference = evens(low, high) - odds(low, high)
        _add_columns(difference, rest // U(2), factors[U(0)], totals, first + line // U(2), room)
        return
    store(room, U(0), low)
    store(room, HALF, high)
    for i in range(min(BLOCK, rest)):
        totals[first + columns[line + i]] += np.int64(room[i]) * factors[line + i]


@_compile(nogil=True)
def convert_items(
    cells: Any,
    variances: Any,
    all_sigma: Any,
    all_gain: Any,
    all_rounding: Any,
    noisy: bool,
    every: bool,
    min_code: Any,
    max_code: Any,
    all_patterns: Any,
    all_driven: Any,
    rows_each: Any,
    weights: Any,
    lines_each: Any,
    all_columns: Any,
    all_factors: Any,
    windows: Any,
    images: Any,
    stream: Any,
    key: Any,
    all_totals: Any,
    room: Any,
    begin: int,
    end: int,
) -> None:
    """All conversions of one tile for items ``begin`` to ``end``; adds to ``all_totals``.

    The arguments are those of :func:`memcompile.runtime.executors.conversions.convert_tile`; an item is an
    image and window, windows running faster. Block by block of lines, ``room`` gets tables of partial
    sums, which a core's own cache holds, and all items go through them; noise, rounding and accumulation happen in
    registers.
    """
    vectors, rows, groups = U(cells.shape[0]), U(cells.shape[1]), U(all_patterns.shape[2])
    # One vector more than the table: tables a power of two apart would drive each other out of the nearest cache.
    size = (HALF << rows_each) + HALF
    grid, apart, proportional, uneven = U(all_patterns.shape[1]), groups * size, variances.size > 0, all_gain.size > 0
    no_words = (np.uint32(0), np.uint32(0), np.uint32(0), np.uint32(0))
    patterns, driven, tables = pointer(all_patterns), pointer(all_driven), pointer(room)
    first_table, spreads = BLOCK, BLOCK + U(2) * apart  # codes of a block come first
    sigma, gain, rounding = pointer(all_sigma), pointer(all_gain), pointer(all_rounding)
    columns, factors, lines = pointer(all_columns), pointer(all_factors), U(all_columns.size)
    totals, item_total = pointer(all_totals), U(all_totals.strides[0]) // U(8)
    count = U(end - begin)
    sources = np.empty(count, np.uint64)
    for i in range(count):
        image, window = (U(begin) + i) // U(windows.size), windows[(U(begin) + i) % U(windows.size)]
        sources[i] = image * grid + U(window)
    keys = item_keys(windows, images, stream, key, False, begin, end if noisy else begin)
    for vector in range(U(0), vectors, U(2)):
        line, halves = HALF * vector, min(U(2), vectors - vector)
        second = (halves - U(1)) * apart  # where there is one vector only, it is taken for both
        for half in range(halves):
            _fill_tables(tables, first_table + half * apart, pointer(cells), vector + half, rows, rows_each, size)
            if proportional:
                _fill_tables(tables, spreads + half * apart, pointer(variances), vector + half, rows, rows_each, size)
        for i in range(count):
            words = key_of(keys, i) if noisy else no_words
            sum_low = sum_high = to_floats(numbered() * 0)
            for phase in range(U(weights.size)):
                lines_on = driven[sources[i] * PHASES + phase]
                if not (lines_on or every):
                    continue
                at = sources[i] * groups * PHASES + phase
                low, high = _sum_groups(tables, first_table, first_table + second, patterns, at, groups, size)
                if noisy:
                    scale = sigma[U(lines_on)]
                    z_low, z_high = gaussian_block(words, (phase << PHASE_SHIFT) + line // U(2))
                    z_low, z_high = amplified(z_low, gain, line, uneven), amplified(z_high, gain, line + HALF, uneven)
                    if proportional:
                        both = _sum_groups(tables, spreads, spreads + second, patterns, at, groups, size)
                        low, high = low + root(both[0]) * z_low, high + root(both[1]) * z_high
                    else:
                        low, high = low + z_low * scale, high + z_high * scale
                low = converted(low, rounding, line, min_code, max_code)
                high = converted(high, rounding, line + HALF, min_code, max_code)
                weight = everywhere(weights[phase])
                sum_low = multiplied_and_added(low, weight, sum_low)
                sum_high = multiplied_and_added(high, weight, sum_high)
            first = (U(begin) + i) * item_total
            add_block(sum_low, sum_high, line, lines, lines_each, columns, factors, totals, first, tables)

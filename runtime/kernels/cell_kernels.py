"""Compiled kernels that draw and program cells; import only through :mod:`memcompile.runtime.kernels.compiled`.

Counters, polynomials and the order of all operations are those of :mod:`memcompile.runtime.random_numbers` and of the
executors' devices, and fast-math is off: both give the same bits. Cells come in blocks of ``BLOCK_CELLS``: sixteen
counters of Philox in lanes, and the four words of each for the cells that follow each other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from memcompile.runtime import random_numbers as numbers
from memcompile.runtime.kernels.compiled import BLOCK_CELLS
from memcompile.runtime.kernels.conversion_kernels import HALF, U, _compile
from memcompile.runtime.kernels.lanes import (
    COUNT,
    any_outside,
    bits_of,
    divided,
    doubled,
    everywhere,
    gathered,
    greater,
    ints_of_bytes,
    like,
    load,
    longs_of,
    low_halves,
    nearest,
    numbered,
    of_bits,
    pointer,
    root,
    store,
    to_doubles,
    to_floats,
    unsigned_right,
    where_odd,
    where_set,
    zip_high,
    zip_low,
)

F, L = np.float32, np.int64
M0, M1, W0, W1, MASK = (L(v) for v in (numbers.M0, numbers.M1, numbers.W0, numbers.W1, numbers.MASK))
ROUNDS = numbers.ROUNDS
S0, S1, S2, S3 = numbers.SINE
C0, C1, C2, C3 = numbers.COSINE
L0, L1, L2, L3, L4, L5, L6, L7 = numbers.LOGARITHM
LN2 = numbers.LN2
SHIFT_BITS = numbers.ONE_BITS - numbers.SQRT_HALF_BITS
SQRT_HALF_BITS = numbers.SQRT_HALF_BITS
UNIT, SIGN, WORD = F(2.0**-24), 1 << 31, U(numbers.MASK)
NEITHER, LOW, HIGH = (np.uint8(mark) for mark in (0, 1, 2))
"""Marks of cells; see :mod:`memcompile.runtime.kernels.cell_numbers`."""
assert BLOCK_CELLS == 4 * COUNT


@_compile(inline="always")
def _words(c0: Any, c1: Any, c2: Any, c3: Any, key: Any) -> Any:
    """The four words of sixteen counters, as INTS; counters and the two words of the key are int64."""
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * M0, c2 * M1
        c0, c1 = unsigned_right(p1, 32) ^ c1 ^ k0, p1 & MASK
        c2, c3 = unsigned_right(p0, 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
    return low_halves(c0), low_halves(c1), low_halves(c2), low_halves(c3)


@_compile(inline="always")
def _pair(a: Any, b: Any) -> Any:
    """Two vectors of standard Gaussian numbers from two vectors of words."""
    shifted = bits_of(to_floats(unsigned_right(a, 8) + 1) * UNIT) + SHIFT_BITS
    exponent = to_floats((shifted >> 23) - 127)
    f = of_bits((shifted & 0x7FFFFF) + SQRT_HALF_BITS) - F(1)
    ratio = ((((((f * L7 + L6) * f + L5) * f + L4) * f + L3) * f + L2) * f + L1) * f + L0
    radius = root(greater((exponent * LN2 + ratio * f) * F(-2), F(0)))
    t = to_floats(unsigned_right(b, 8)) * UNIT
    square = t * t
    sine = (((square * S3 + S2) * square + S1) * square + S0) * t
    cosine = ((square * C3 + C2) * square + C1) * square + C0
    x = of_bits(bits_of(where_odd(b, sine, cosine)) ^ (b << 30 & SIGN))
    y = of_bits(bits_of(where_odd(b, cosine, sine)) ^ (b << 29 & SIGN))
    return radius * x, radius * y


@_compile(inline="always")
def _counters(first: Any, step: Any) -> Any:
    """Sixteen counters from ``first`` on."""
    return longs_of(numbered()) * step + first


@_compile(inline="always")
def _by_turns(a: Any, b: Any, c: Any, d: Any) -> Any:
    """Lanes of four vectors by turns, as four vectors."""
    low_ac, high_ac, low_bd, high_bd = zip_low(a, c), zip_high(a, c), zip_low(b, d), zip_high(b, d)
    return zip_low(low_ac, low_bd), zip_high(low_ac, low_bd), zip_low(high_ac, high_bd), zip_high(high_ac, high_bd)


@_compile(nogil=True)
def gaussian_run(
    first: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any, all_values: Any, begin: int, end: int
) -> None:
    """Standard Gaussian numbers of cells that follow each other, for blocks ``begin`` to ``end`` of them.

    Counters are int64; ``all_values`` (float32) has room for whole blocks.
    """
    values, zero = pointer(all_values), _counters(L(0), L(0))
    for block in range(U(begin), U(end)):
        words = _words(_counters(first + COUNT * L(block), L(1)), zero + c1, zero + c2, zero + c3, (k0, k1))
        x, y = _pair(words[0], words[1])
        z, w = _pair(words[2], words[3])
        some = _by_turns(x, y, z, w)
        at = U(BLOCK_CELLS) * block
        store(values, at, some[0])
        store(values, at + HALF, some[1])
        store(values, at + HALF + HALF, some[2])
        store(values, at + U(3) * HALF, some[3])


@_compile(nogil=True)
def gaussian_each(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any, all_values: Any) -> None:
    """The first standard Gaussian number of each counter.

    ``c0``, ``c1`` and ``c2`` are int64 of whole vectors, ``all_values`` is float32 of the same size.
    """
    values, zero = pointer(all_values), _counters(L(0), L(0))
    firsts, seconds, thirds = pointer(c0), pointer(c1), pointer(c2)
    for vector in range(U(all_values.size) // HALF):
        at = HALF * vector
        words = _words(load(firsts, at), load(seconds, at), load(thirds, at), zero + c3, (k0, k1))
        x, _ = _pair(words[0], words[1])
        store(values, at, x)


@_compile(inline="always")
def _mark(words: Any, low: Any, high: Any, room: Any, marks: Any, at: Any) -> None:
    """Mark the stuck ones of a block of cells."""
    some = _by_turns(words[0], words[1], words[2], words[3])
    store(room, U(0), some[0])
    store(room, HALF, some[1])
    store(room, HALF + HALF, some[2])
    store(room, U(3) * HALF, some[3])
    for cell in range(U(BLOCK_CELLS)):
        word = U(room[cell]) & WORD
        marks[at + cell] = (LOW if word < low else NEITHER) | (HIGH if word > high else NEITHER)


@_compile(inline="always")
def _any_outside(words: Any, low: Any, high: Any) -> Any:
    """True if a cell of a block is stuck."""
    some = any_outside(words[0], low, high) or any_outside(words[1], low, high)
    return some or any_outside(words[2], low, high) or any_outside(words[3], low, high)


@_compile(inline="always")
def _move(levels: Any, first: Any, marks: Any, mark: Any, top: Any) -> None:
    """Move the levels of a block's stuck cells."""
    for cell in range(U(BLOCK_CELLS)):
        found = marks[mark + cell]
        if found != NEITHER:
            levels[first + cell] = NEITHER if found == LOW else np.uint8(top)


@_compile(nogil=True)
def mark_stuck(
    all_levels: Any, array: Any, c3: Any, k0: Any, k1: Any, low: Any, high: Any, top: Any, all_room: Any, all_marks: Any
) -> None:
    """Mark the cells of an array whose words are below ``low`` or above ``high``.

    Their levels are moved to 0 or ``top``, unless there are none. Arrays have whole blocks; marks are 0 before.
    """
    levels, marks, room, zero = pointer(all_levels), pointer(all_marks), pointer(all_room), _counters(L(0), L(0))
    moves = all_levels.size > 0
    for block in range(U(all_marks.size) // U(BLOCK_CELLS)):
        words = _words(_counters(COUNT * L(block), L(1)), zero + array, zero, zero + c3, (k0, k1))
        if not _any_outside(words, low, high):
            continue
        at = U(BLOCK_CELLS) * block
        _mark(words, U(low), U(high), room, marks, at)
        if moves:
            _move(levels, at, marks, at, top)


@_compile(inline="always")
def _in_units(moved_us: Any, level: Any, unit_us: Any, per_level: Any, base: Any, scale: Any) -> Any:
    """Conductances in units on the grid, of the distance from their goals in microsiemens and of their levels."""
    deviation = nearest(divided(moved_us, everywhere(unit_us)) * scale) * (1.0 / scale)
    return greater(nearest(level * per_level * scale) * (1.0 / scale) + base + deviation, 0.0)


@_compile(inline="always")
def _level(levels: Any, at: Any) -> Any:
    """Levels of a vector of cells as float64."""
    return to_doubles(ints_of_bytes(load(levels, at)))


@_compile(nogil=True)
def lay_pairs(first: Any, second: Any, cells: Any) -> None:
    """Put the levels of both cells of pairs, [rows, pairs] each, side by side: ``cells`` is [rows, 2 * pairs]."""
    for row in range(first.shape[0]):
        for pair in range(first.shape[1]):
            cells[row, 2 * pair] = first[row, pair]
            cells[row, 2 * pair + 1] = second[row, pair]


@_compile(nogil=True)
def program_cells(
    all_levels: Any,
    all_stuck: Any,
    all_blank: Any,
    blank_share: float,
    sigma_us: Any,
    mean_us: Any,
    g_min_us: float,
    step_us: float,
    unit_us: float,
    per_level: float,
    base: float,
    scale: float,
    array: Any,
    c3: Any,
    k0: Any,
    k1: Any,
    sticks: bool,
    stuck_c3: Any,
    stuck_k0: Any,
    stuck_k1: Any,
    low: Any,
    high: Any,
    top: Any,
    in_units: bool,
    all_cells: Any,
) -> None:
    """Write an array: cells with the error of programming, in units on the grid or in microsiemens.

    ``all_stuck`` and ``all_blank`` mark cells, and may be empty; ``sigma_us`` and ``mean_us`` are [1], or by level.
    With ``sticks`` cells get stuck here, as in :func:`mark_stuck`. All arrays of cells are flat and have whole blocks.
    """
    all_room, all_marks = np.empty(BLOCK_CELLS, np.int32), np.zeros(BLOCK_CELLS, np.uint8)
    room, marks, some_here = pointer(all_room), pointer(all_marks), False
    levels, cells, zero = pointer(all_levels), pointer(all_cells), _counters(L(0), L(0))
    stuck, blank, kind = pointer(all_stuck), pointer(all_blank), all_cells[0]
    sigma_table, mean_table = pointer(sigma_us), pointer(mean_us)
    by_level, some_stuck, some_blank = sigma_us.size > 1, all_stuck.size > 0, all_blank.size > 0
    sigma, mean = everywhere(sigma_us[0]), everywhere(mean_us[0])
    for block in range(U(all_levels.size) // U(BLOCK_CELLS)):
        if sticks:
            words = _words(_counters(COUNT * L(block), L(1)), zero + array, zero, zero + stuck_c3, (stuck_k0, stuck_k1))
            some_here = _any_outside(words, low, high)
            if some_here:
                _mark(words, U(low), U(high), room, marks, U(0))
                _move(levels, U(BLOCK_CELLS) * block, marks, U(0), top)
        words = _words(_counters(COUNT * L(block), L(1)), zero + array, zero, zero + c3, (k0, k1))
        x, y = _pair(words[0], words[1])
        z, w = _pair(words[2], words[3])
        some = _by_turns(x, y, z, w)
        for part in range(4):
            at = U(BLOCK_CELLS) * block + HALF * U(part)
            drawn = some[0] if part == 0 else some[1] if part == 1 else some[2] if part == 2 else some[3]
            whole = ints_of_bytes(load(levels, at))
            level = to_doubles(whole)
            if by_level:
                sigma, mean = gathered(sigma_table, whole), gathered(mean_table, whole)
            goal_us = level * step_us + g_min_us
            written_us = greater(goal_us + (sigma * doubled(drawn) + mean), 0.0)
            if some_blank:
                shrunk_us = (written_us - goal_us) * blank_share + goal_us
                written_us = where_set(load(blank, at), shrunk_us, written_us)
            if some_stuck:
                written_us = where_set(load(stuck, at), goal_us, written_us)
            if some_here:
                written_us = where_set(load(marks, HALF * U(part)), goal_us, written_us)
            if in_units:
                store(cells, at, like(_in_units(written_us - goal_us, level, unit_us, per_level, base, scale), kind))
            else:
                store(cells, at, like(written_us, kind))


@_compile(nogil=True)
def cells_in_units(
    all_levels: Any,
    all_actual_us: Any,
    g_min_us: float,
    step_us: float,
    unit_us: float,
    per_level: float,
    base: float,
    scale: float,
    all_cells: Any,
) -> None:
    """Conductances of cells in units on the grid; flat arrays of whole blocks."""
    levels, actual_us, cells, kind = pointer(all_levels), pointer(all_actual_us), pointer(all_cells), all_cells[0]
    for vector in range(U(all_levels.size) // HALF):
        at = HALF * vector
        level = to_doubles(ints_of_bytes(load(levels, at)))
        moved_us = load(actual_us, at) - (level * step_us + g_min_us)
        store(cells, at, like(_in_units(moved_us, level, unit_us, per_level, base, scale), kind))


@_compile(inline="always")
def _size_at(g_us: Any, coefficients: Any, count: Any, reference_us: Any) -> Any:
    """c0 + c1 x + c2 x^2 + ... with x = g / g_reference."""
    x = g_us / reference_us
    value = coefficients[count - U(1)] + x * 0.0
    for power in range(U(1), count):
        value = coefficients[count - U(1) - power] + value * x
    return value


@_compile(inline="always")
def _left_by_writing(
    aim_us: Any,
    nominal_us: Any,
    z: Any,
    sigma: Any,
    sigmas: Any,
    mean: Any,
    means: Any,
    reference_us: Any,
    blank: Any,
    share: Any,
) -> Any:
    """Conductance of a cell after it was written to a goal, in microsiemens."""
    spread_us = sigma[U(0)]
    if sigmas > U(1):
        spread_us = max(_size_at(aim_us, sigma, sigmas, reference_us), 0.0)
    mean_us = mean[U(0)]
    if means > U(1):
        mean_us = _size_at(aim_us, mean, means, reference_us)
    written_us = max(aim_us + (spread_us * np.float64(z) + mean_us), 0.0)
    if blank and aim_us == nominal_us:
        written_us = nominal_us + share * (written_us - nominal_us)
    return written_us


@_compile(nogil=True)
def write_slices(
    signed: Any,
    place: Any,
    base: Any,
    levels: Any,
    all_stuck: Any,
    all_blank: Any,
    blank_share: float,
    sigma_us: Any,
    mean_us: Any,
    reference_us: float,
    g_min_us: float,
    step_us: float,
    top: float,
    noise: Any,
    aims_us: Any,
    cells_us: Any,
) -> None:
    """Write the slices of an array one after the other, each to make up for the measured error of the one above.

    ``signed``, ``place`` and ``base`` are those of ``ArraySlices``, [input lines, pairs]; all others are [input lines,
    columns of cells], and ``levels`` have stuck cells moved. Sizes are polynomials, by rising power.
    """
    rows, pairs = signed.shape
    sigma, mean, sigmas, means = pointer(sigma_us), pointer(mean_us), U(sigma_us.size), U(mean_us.size)
    some_stuck, some_blank = all_stuck.size > 0, all_blank.size > 0
    for row in range(U(rows)):
        left = 0.0
        for back in range(U(pairs)):
            pair = U(pairs) - U(1) - back
            level = signed[row, pair] + left
            for side in range(U(2)):
                column = U(2) * pair + side
                part = level if side == U(0) else -level
                aim_us = g_min_us + min(max(part, 0.0), top) * step_us
                nominal_us = g_min_us + np.float64(levels[row, column]) * step_us
                blank = some_blank and all_blank[row, column]
                written_us = _left_by_writing(
                    aim_us,
                    nominal_us,
                    noise[row, column],
                    sigma,
                    sigmas,
                    mean,
                    means,
                    reference_us,
                    blank,
                    blank_share,
                )
                if some_stuck and all_stuck[row, column]:
                    written_us = nominal_us
                aims_us[row, column], cells_us[row, column] = aim_us, written_us
            held = (cells_us[row, U(2) * pair] - cells_us[row, U(2) * pair + U(1)]) / step_us
            left = (level - held) * np.float64(base[row, pair]) if place[row, pair] > 0 else 0.0

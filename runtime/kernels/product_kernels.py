"""Compiled kernels that finish integer products; import only through :mod:`memcompile.runtime.kernels.compiled`.

Every floating-point operation is done in the order of the NumPy paths beside them and fast-math is
off, so that both give the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from memcompile.runtime.kernels.conversion_kernels import (
    BLOCK,
    HALF,
    PHASE_SHIFT,
    U,
    _compile,
    add_block,
    amplified,
    converted,
    gaussian_block,
    item_keys,
    key_of,
)
from memcompile.runtime.kernels.lanes import (
    copy_4,
    copy_16,
    copy_32,
    copy_64,
    divided,
    ints_of_bytes,
    like,
    load,
    numbered,
    pointer,
    store,
    to_floats,
    to_floats_nearest,
    total_of,
    turn,
)

SUMMABLE = 1 << 15
"""Number of squares of bytes whose sum stays below 2^31."""


@_compile(inline="always")
def _line_values(sums: Any, first: Any, lines: Any, digits: Any, base: Any, step: Any) -> Any:
    """Values of sixteen lines from their sums of digits, in the type of ``step``; exact in float64."""
    total = like(load(sums, first + (digits - U(1)) * lines), step)
    for digit in range(U(1), digits):
        total = total * base + like(load(sums, first + (digits - U(1) - digit) * lines), step)
    return total * step


@_compile(inline="always")
def _line_value(sums: Any, first: Any, lines: Any, digits: Any, base: Any, step: Any) -> Any:
    """The same of one line, in float64."""
    total = np.float64(sums[first + (digits - U(1)) * lines])
    for digit in range(U(1), digits):
        total = total * base + np.float64(sums[first + (digits - U(1) - digit) * lines])
    return total * step


@_compile(inline="always")
def draw_lines(noise: Any, blocks: Any, item: Any, position: Any) -> None:
    """Standard Gaussian numbers of all lines of an item in one phase."""
    for block in range(blocks):
        low, high = gaussian_block(item, position + HALF * block)
        store(noise, BLOCK * block, low)
        store(noise, BLOCK * block + HALF, high)


@_compile(nogil=True)
def finish_sums(
    all_sums: Any,
    digits: int,
    base: float,
    step: float,
    all_scale: Any,
    noisy: bool,
    windows: Any,
    images: Any,
    stream: Any,
    key: Any,
    all_totals: Any,
    room: Any,
    begin: int,
    end: int,
) -> None:
    """Values of the sums of items ``begin`` to ``end``, plus scaled Gaussian numbers.

    ``all_sums`` is [matrices, end - begin, digits * columns], ``all_totals`` float64 [items, matrices,
    columns] and ``all_scale`` the same of the items or with a single column. ``room`` holds the noise of an item.
    """
    matrices, columns = U(all_totals.shape[1]), U(all_totals.shape[2])
    blocks, narrow, parts = (matrices * columns + BLOCK - U(1)) // BLOCK, matrices * columns <= HALF, U(digits)
    sums, scale, totals, noise = pointer(all_sums), pointer(all_scale), pointer(all_totals), pointer(room)
    shared = all_scale.shape[2] == 1
    keys = item_keys(windows, images, stream, key, narrow, begin, end if noisy else begin)
    for item in range(U(begin), U(end)):
        drawn = HALF * U(windows[item % U(windows.size)] & 1) if narrow else U(0)  # two windows share a block of noise
        if noisy:
            draw_lines(noise, blocks, key_of(keys, item - U(begin)), U(0))
        for matrix in range(matrices):
            source = (matrix * U(end - begin) + item - U(begin)) * parts * columns
            target, row = (item * matrices + matrix) * columns, (item - U(begin)) * matrices + matrix
            z, column = drawn + matrix * columns, U(0)
            while column + HALF <= columns:
                values = _line_values(sums, source + column, columns, parts, base, step)
                if noisy and shared:
                    values = values + like(load(noise, z + column), step) * scale[row]
                elif noisy:
                    values = values + like(load(noise, z + column), step) * load(scale, row * columns + column)
                store(totals, target + column, values)
                column += HALF
            while column < columns:
                value = _line_value(sums, source + column, columns, parts, base, step)
                if noisy:
                    value += noise[z + column] * scale[row if shared else row * columns + column]
                totals[target + column] = value
                column += U(1)


@_compile(nogil=True)
def deviations(vectors: Any, sigma: float) -> Any:
    """``sigma`` times the root of the sum of squares of each vector, float32 [items].

    ``vectors`` are uint8 [items, rows] and contiguous.
    """
    scaled, rows, flat = np.empty(vectors.shape[0], np.float32), U(vectors.shape[1]), pointer(vectors)
    whole = rows // HALF * HALF
    for item in range(U(scaled.size)):
        vector, total = item * rows, np.int64(0)
        for first in range(U(0), whole, U(SUMMABLE)):
            squares = numbered() * 0
            for row in range(first, min(first + U(SUMMABLE), whole), HALF):
                values = ints_of_bytes(load(flat, vector + row))
                squares = squares + values * values
            total += np.int64(total_of(squares))
        for row in range(whole, rows):
            total += np.int64(flat[vector + row]) * np.int64(flat[vector + row])
        scaled[item] = np.float32(sigma * np.sqrt(np.float64(total)))
    return scaled


@_compile(nogil=True)
def convert_sums(
    all_sums: Any,
    digits: int,
    base: Any,
    step: Any,
    all_deviations: Any,
    all_spreads: Any,
    all_gain: Any,
    all_rounding: Any,
    noisy: bool,
    min_code: Any,
    max_code: Any,
    lines_each: Any,
    all_columns: Any,
    all_factors: Any,
    windows: Any,
    images: Any,
    phase: int,
    stream: Any,
    key: Any,
    all_totals: Any,
    first_column: int,
    room: Any,
    begin: int,
    end: int,
) -> None:
    """Convert the line sums of one phase of items ``begin`` to ``end``; adds to columns from ``first_column`` on.

    ``all_sums`` is [end - begin, digits * lines], ``all_totals`` [items, columns of the replica], contiguous, integers
    in the type of ``all_factors``, which with ``lines_each`` and ``all_columns`` are those of ``LineCounts`` of the
    executors' conversions. Read noise has the standard deviation ``all_spreads``, float32 [end - begin, lines], or
    ``all_deviations``, float32 [end - begin], if there is none. ``base``, ``step``, codes, ``all_rounding`` and
    ``room``, which holds a block, are of one floating-point type, in which currents are worked out. Sixteen lines or
    fewer take half a block of noise, the other half is that of the neighbouring window.
    """
    width, lines, item_columns = U(all_rounding.size), U(all_columns.size), U(all_totals.shape[1])
    sums, codes, totals, gain = pointer(all_sums), pointer(room), pointer(all_totals), pointer(all_gain)
    deviation, spread, rounding = pointer(all_deviations), pointer(all_spreads), pointer(all_rounding)
    columns, factors = pointer(all_columns), pointer(all_factors)
    proportional, uneven, narrow, parts = all_spreads.size > 0, all_gain.size > 0, width == HALF, U(digits)
    first_position, both, of_image = U(phase) << PHASE_SHIFT, np.int64(-1), np.int64(-1)
    z_low = z_high = to_floats(numbered() * 0)
    keys = item_keys(windows, images, stream, key, narrow, begin, end if noisy else begin)
    no_words = (np.uint32(0), np.uint32(0), np.uint32(0), np.uint32(0))
    count_windows = U(windows.size)
    turn_of, image_of = U(begin) % count_windows, U(begin) // count_windows  # counted on: divisions are slow
    for item in range(U(begin), U(end)):
        row, window, image = item - U(begin), windows[turn_of], images[image_of]
        first = item * item_columns + U(first_column)
        turn_of += U(1)
        if turn_of == count_windows:
            turn_of, image_of = U(0), image_of + U(1)
        if narrow:
            low = _line_values(sums, row * width * parts, width, parts, base, step)
            if noisy:
                if window >> 1 != both or image != of_image:  # two windows share a block
                    both, of_image = window >> 1, image
                    z_low, z_high = gaussian_block(key_of(keys, row), first_position)
                z = amplified(z_high if window & 1 else z_low, gain, U(0), uneven)
                low = low + like(z * load(spread, row * width) if proportional else z * deviation[row], step)
            low = converted(low, rounding, U(0), min_code, max_code)
            add_block(low, low, U(0), lines, lines_each, columns, factors, totals, first, codes)
            continue
        words = key_of(keys, row) if noisy else no_words
        for line in range(U(0), width, BLOCK):
            source, high_line = row * width * parts + line, line + HALF
            low = _line_values(sums, source, width, parts, base, step)
            high = _line_values(sums, source + HALF, width, parts, base, step)
            if noisy:
                z_low, z_high = gaussian_block(words, first_position + line // U(2))
                z_low, z_high = amplified(z_low, gain, line, uneven), amplified(z_high, gain, high_line, uneven)
                if proportional:
                    z_low = z_low * load(spread, row * width + line)
                    z_high = z_high * load(spread, row * width + high_line)
                else:
                    z_low, z_high = z_low * deviation[row], z_high * deviation[row]
                low, high = low + like(z_low, step), high + like(z_high, step)
            low = converted(low, rounding, line, min_code, max_code)
            high = converted(high, rounding, high_line, min_code, max_code)
            add_block(low, high, line, lines, lines_each, columns, factors, totals, first, codes)


@_compile(nogil=True)
def squared_scale(vectors: Any, squares: Any, variance: float, scale: Any) -> None:
    """Root of variance times the sum of squares from a table, float64 [items, matrices, 1]."""
    matrices, items, rows = vectors.shape
    for matrix in range(matrices):
        for item in range(items):
            vector = vectors[matrix, item]
            total = np.int64(0)
            for row in range(U(rows)):
                total += np.int64(squares[vector[row]])
            scale[item, matrix, 0] = np.sqrt(total * variance)


ROUND = np.float32(1.5 * 2.0**23)
"""Added and subtracted, leaves the nearest integer (half to even) of numbers below 2^22."""


@_compile(nogil=True)
def quantize(x: Any, scale: Any, low: Any, high: Any, quantized: Any, begin: int, end: int) -> Any:
    """Quantise flat float32 values; limits are whole, so that they may come before rounding.

    Returns whether all are numbers; of others the result has no meaning.
    """
    numbers = True
    for i in range(U(begin), U(end)):
        numbers &= x[i] == x[i]  # NaN alone differs from itself
        level = min(max(x[i] / scale, low), high)
        quantized[i] = np.int16((level + ROUND) - ROUND)
    return numbers


@_compile(nogil=True)
def rescale(sums: Any, scale: Any, bias: Any, y: Any) -> None:
    """Multiply and add per channel: float64 [items, channels, positions] into float32."""
    items, channels, positions = sums.shape
    for item in range(items):
        for channel in range(channels):
            source, target = sums[item, channel], y[item, channel]
            factor, offset = scale[channel], bias[channel]
            for position in range(U(positions)):
                target[position] = np.float32(source[position] * factor + offset)


@_compile(inline="always")
def _rescaled(value: Any, factor: Any, divisor: Any, scale: Any, bias: Any) -> Any:
    """A sum of codes, times factor / divisor, rescaled."""
    level = np.float64(value) * factor
    if divisor != 1.0:  # divisions are slow
        level = level / divisor
    return np.float32(level * scale + bias)


@_compile(nogil=True)
def rescale_channels_last(
    sums: Any, factor: float, divisor: float, scale: Any, bias: Any, place: Any, y: Any, begin: int, end: int
) -> None:
    """Sums times factor / divisor, rescaled: [items, positions, channels] into float32 [items, channels, positions].

    ``sums`` are integers or float64; ``scale`` and ``bias`` are [places, channels], ``place`` [positions]. Sixteen
    channels of sixteen positions at a time are worked out and turned.
    """
    positions, channels = U(sums.shape[1]), U(sums.shape[2])
    whole_positions, whole_channels = positions // HALF * HALF, channels // HALF * HALF
    flat, target, block = sums.reshape(-1), y.reshape(-1), np.zeros(HALF * HALF, np.float32)
    scales, biases, one = scale.reshape(-1), bias.reshape(-1), np.float64(1)
    for item in range(U(begin), U(end)):
        of = item * positions * channels
        for first in range(U(0), whole_positions, HALF):
            for channel in range(U(0), whole_channels, HALF):
                for i in range(HALF):
                    level = like(load(flat, of + (first + i) * channels + channel), one) * factor
                    if divisor != 1.0:
                        level = divided(level, divisor)
                    line = U(place[first + i]) * channels + channel
                    level = level * load(scales, line) + load(biases, line)
                    store(block, i * HALF, to_floats_nearest(level))
                turn(block, U(0), HALF, target, of + channel * positions + first, positions)
        for position in range(positions):
            for channel in range(whole_channels if position < whole_positions else U(0), channels):
                value, line = flat[of + position * channels + channel], U(place[position]) * channels + channel
                target[of + channel * positions + position] = _rescaled(
                    value, factor, divisor, scales[line], biases[line]
                )


@_compile(nogil=True)
def cut_rows(images: Any, windows: Any, rows: Any, items: Any, begin: int, end: int) -> None:
    """Input vectors of images ``begin`` to ``end``: flat padded uint8 into [matrices, images, windows, rows].

    Row r of matrix m reads place ``windows[w] + rows[m, r]`` in window w, and is zero where ``rows`` is -1.
    """
    matrices, count = rows.shape
    for matrix in range(matrices):
        places = rows[matrix]
        used = U(count)
        while used and places[used - U(1)] < 0:
            used -= U(1)
        for image in range(begin, end):
            source = images[image]
            for window in range(windows.size):
                vector, first = items[matrix, image, window], windows[window]
                for row in range(used):
                    vector[row] = source[U(first + places[row])]
                for row in range(used, U(count)):
                    vector[row] = np.uint8(0)


@_compile(nogil=True)
def place_sums(
    totals: Any, positions: Any, slots: int, columns: int, factor: float, divisor: float, y: Any, begin: int, end: int
) -> None:
    """Write the sums of one replica, times a factor, where they belong in a layer's output.

    ``totals`` is [images, windows, matrices, columns of a matrix], whose columns run over the groups of a bundle
    (``slots``), the outputs of a window and ``columns`` of a group. ``positions`` [windows, outputs of a
    window] is -1 where there is no output. ``y`` is float64 [images, positions, channels].
    """
    windows, outputs = positions.shape
    for image in range(begin, end):
        for window in range(windows):
            for output in range(outputs):
                position = positions[window, output]
                if position < 0:
                    continue
                target = y[image, position]
                for group in range(target.size // columns):
                    source = totals[image, window, group // slots]
                    first = U((group % slots * outputs + output) * columns)
                    base = U(group * columns)
                    if divisor == 1.0:  # divisions are slow
                        for column in range(U(columns)):
                            target[base + column] = np.float64(source[first + column]) * factor
                    else:
                        for column in range(U(columns)):
                            target[base + column] = np.float64(source[first + column]) * factor / divisor


@_compile(nogil=True)
def lay_channels_last(
    x: Any, positions: Any, sign: int, shift: int, mask: int, images: Any, begin: int, end: int
) -> None:
    """Digits max(``sign`` x, 0) >> ``shift`` & ``mask`` of images ``begin`` to ``end``, channels last.

    ``x`` is int16 [images, channels, positions]; the channels of a position begin at its place in ``positions``, in
    uint8 ``images`` [images, bytes]. Where the sign is 0, digits are of x itself.
    """
    channels, count = U(x.shape[1]), U(x.shape[2])
    whole_channels, whole_count = channels // HALF * HALF, count // HALF * HALF
    digits, block = np.zeros(channels * count, np.uint8), np.zeros(HALF * HALF, np.uint8)
    for image in range(begin, end):
        source, target = x[image].reshape(-1), images[image]
        for i in range(U(digits.size)):
            value = np.int32(source[i])
            if sign != 0:
                value = max(value * np.int32(sign), np.int32(0))
            digits[i] = np.uint8((value >> np.int32(shift)) & np.int32(mask))
        for first in range(U(0), whole_count, HALF):
            for channel in range(U(0), whole_channels, HALF):
                turn(digits, channel * count + first, count, block, U(0), HALF)
                for i in range(HALF):
                    copy_16(target, U(positions[first + i]) + channel, block, i * HALF)
        for position in range(count):
            begins = U(positions[position])
            for channel in range(whole_channels if position < whole_count else U(0), channels):
                target[begins + channel] = digits[channel * count + position]


@_compile(nogil=True)
def cut_pieces(images: Any, starts: Any, pieces: Any, vectors: Any, begin: int, end: int) -> None:
    """Input vectors of windows that begin at ``starts``, in pieces (row, place, bytes), of images ``begin`` to ``end``.

    ``images`` is uint8 [images, bytes] and ``vectors`` [images, windows, rows]; pieces of several bytes may run
    over rows that later pieces write.
    """
    flat, target = images.reshape(-1), vectors.reshape(-1)
    windows, rows = U(vectors.shape[1]), U(vectors.shape[2])
    for image in range(U(begin), U(end)):
        for window in range(windows):
            to = (image * windows + window) * rows
            of = image * U(images.shape[1]) + U(starts[window])
            for piece in range(U(pieces.shape[0])):
                row, place, size = to + U(pieces[piece, 0]), of + U(pieces[piece, 1]), pieces[piece, 2]
                if size == 64:
                    copy_64(target, row, flat, place)
                elif size == 32:
                    copy_32(target, row, flat, place)
                elif size == 16:
                    copy_16(target, row, flat, place)
                elif size == 4:
                    copy_4(target, row, flat, place)
                else:
                    target[row] = flat[place]

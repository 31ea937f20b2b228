"""Compiled kernels that finish integer products; import only through :mod:`memcompile.runtime.compiled`.

Every floating-point operation is done in the order of the NumPy paths beside them and fast-math is
off, so that both give the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from memcompile.runtime.kernels import (
    BLOCK,
    HALF,
    PHASE_SHIFT,
    U,
    _compile,
    draw_lines,
    gaussian_block,
    item_key,
)
from memcompile.runtime.lanes import (
    copy_4,
    copy_16,
    divided,
    evens,
    floor,
    greater,
    less,
    like,
    load,
    odds,
    store,
    to_floats_nearest,
    turn,
)

SUMMABLE = 1 << 15
"""So many squares of bytes stay below 2^31."""


@_compile(inline="always")
def _value(sums: Any, matrix: Any, item: Any, line: Any, columns: Any, digits: Any, base: Any) -> Any:
    """A sum of digits, most significant first; exact."""
    total = np.float64(sums[matrix, item, (digits - U(1)) * columns + line])
    for digit in range(U(1), digits):
        total = total * base + np.float64(sums[matrix, item, (digits - U(1) - digit) * columns + line])
    return total


@_compile(inline="always")
def _values(sums: Any, matrix: Any, item: Any, columns: Any, digits: Any, base: Any, step: Any, values: Any) -> None:
    """Values of one item; the usual two digits in one loop."""
    if digits == U(2):
        for line in range(columns):
            high, low = np.float64(sums[matrix, item, columns + line]), np.float64(sums[matrix, item, line])
            values[line] = (high * base + low) * step
        return
    for line in range(columns):
        values[line] = _value(sums, matrix, item, line, columns, digits, base) * step


@_compile(nogil=True)
def finish_sums(
    sums: Any,
    digits: int,
    base: float,
    step: float,
    scale: Any,
    noisy: bool,
    windows: Any,
    images: Any,
    stream: Any,
    key: Any,
    totals: Any,
    begin: int,
    end: int,
) -> None:
    """Values of the sums of items ``begin`` to ``end``, plus scaled Gaussian numbers.

    ``sums`` is [matrices, end - begin, digits * columns], ``totals`` float64 [items, matrices,
    columns] and ``scale`` the same or with a single column.
    """
    matrices, columns = totals.shape[1:]
    blocks, narrow = (U(matrices * columns) + BLOCK - U(1)) // BLOCK, U(matrices * columns) <= HALF
    noise = np.zeros(blocks * BLOCK, np.float32)
    values = np.zeros(columns, np.float64)
    for item in range(begin, end):
        window, image, begins = windows[item % windows.size], images[item // windows.size], U(0)
        if narrow:  # two windows share a block of noise
            window, begins = window >> 1, HALF * U(window & 1)
        if noisy:
            draw_lines(noise, blocks, item_key(window, image, stream, key), U(0))
        for matrix in range(matrices):
            total = totals[item, matrix]
            _values(sums, matrix, item - begin, U(columns), U(digits), base, step, values)
            first = begins + U(matrix * columns)
            if not noisy:
                for column in range(U(columns)):
                    total[column] = values[column]
            elif scale.shape[2] == 1:
                deviation = scale[item - begin, matrix, 0]
                for column in range(U(columns)):
                    total[column] = values[column] + deviation * noise[first + column]
            else:
                for column in range(U(columns)):
                    total[column] = values[column] + scale[item - begin, matrix, column] * noise[first + column]


@_compile(inline="always")
def _line_values(sums: Any, first: Any, lines: Any, digits: Any, base: Any, step: Any) -> Any:
    """Values of sixteen lines from their sums of digits, in the type of ``step``; exact in float64."""
    total = like(load(sums, first + (digits - U(1)) * lines), step)
    for digit in range(U(1), digits):
        total = total * base + like(load(sums, first + (digits - U(1) - digit) * lines), step)
    return total * step


@_compile(nogil=True)
def deviations(vectors: Any, sigma: float) -> Any:
    """``sigma`` times the root of the sum of squares of each vector, uint8 [items, rows] to float32 [items]."""
    scaled, rows = np.empty(vectors.shape[0], np.float32), U(vectors.shape[1])
    for item in range(U(scaled.size)):
        vector, total = vectors[item], np.int64(0)
        for first in range(U(0), rows, U(SUMMABLE)):
            part = np.int32(0)
            for row in range(first, min(first + U(SUMMABLE), rows)):
                part = np.int32(part + np.int32(vector[row]) * np.int32(vector[row]))
            total += np.int64(part)
        scaled[item] = np.float32(sigma * np.sqrt(np.float64(total)))
    return scaled


@_compile(inline="always")
def _store_codes(codes: Any, line: Any, current: Any, rounding: Any, min_code: Any, max_code: Any) -> None:
    """Convert the currents of sixteen lines."""
    store(codes, line, floor(less(greater(current + load(rounding, line), min_code), max_code)))


@_compile(inline="always")
def _add_pairs(codes: Any, count: Any, weight: Any, totals: Any, first: Any, columns: Any) -> None:
    """Add the weighted codes of pairs of one slice to flat ``totals`` from ``first`` on, sixteen columns at a time."""
    column = U(0)
    if count == columns:  # a line carries the difference of its pair
        while column + HALF <= columns:
            whole = like(load(codes, column), weight) * weight
            store(totals, first + column, load(totals, first + column) + whole)
            column += HALF
        while column < columns:
            totals[first + column] += np.int64(codes[column]) * weight
            column += U(1)
        return
    while column + HALF <= columns:
        low, high = load(codes, U(2) * column), load(codes, U(2) * column + HALF)
        whole = like(evens(low, high) - odds(low, high), weight) * weight
        store(totals, first + column, load(totals, first + column) + whole)
        column += HALF
    while column < columns:
        totals[first + column] += np.int64(codes[U(2) * column] - codes[U(2) * column + U(1)]) * weight
        column += U(1)


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


@_compile(nogil=True)
def convert_sums(
    sums: Any,
    digits: int,
    base: Any,
    step: Any,
    deviation: Any,
    spread: Any,
    gain: Any,
    rounding: Any,
    noisy: bool,
    min_code: Any,
    max_code: Any,
    count: int,
    weights: Any,
    windows: Any,
    images: Any,
    phase: int,
    stream: Any,
    key: Any,
    totals: Any,
    first_column: int,
    columns: int,
    begin: int,
    end: int,
) -> None:
    """Convert the line sums of one phase of items ``begin`` to ``end``; adds to some columns of ``totals``.

    ``sums`` is [end - begin, digits * lines], ``totals`` [items, columns of the copy], contiguous, whole
    numbers of the type of ``weights``. Read noise has the standard deviation ``spread``, float32 [end -
    begin, lines], or ``deviation``, float32 [end - begin], if there is none. ``base``, ``step``, codes and
    ``rounding`` are of one floating-point type, in which currents are worked out. Sixteen lines or fewer
    take half a block of noise, the other half is that of the neighbouring window.
    """
    lines, width = U(gain.size), U(totals.shape[1])
    flat, flat_spread, flat_totals = sums.reshape(-1), spread.reshape(-1), totals.reshape(-1)
    proportional = flat_spread.size > 0
    codes = np.zeros_like(rounding)
    first_position, parts = U(phase) << PHASE_SHIFT, U(digits)
    shared, both, of_image = np.zeros(BLOCK, np.float32), np.int64(-1), np.int64(-1)
    count_windows = U(windows.size)
    turn_of, image_of = U(begin) % count_windows, U(begin) // count_windows  # counted on: divisions are slow
    for item in range(U(begin), U(end)):
        row = item - U(begin)
        window, image = windows[turn_of], images[image_of]
        turn_of += U(1)
        if turn_of == count_windows:
            turn_of, image_of = U(0), image_of + U(1)
        if lines == HALF:
            low = _line_values(flat, row * lines * parts, lines, parts, base, step)
            if noisy:
                if window >> 1 != both or image != of_image:  # two windows share a block
                    both, of_image = window >> 1, image
                    draw_lines(shared, U(1), item_key(both, image, stream, key), first_position)
                z_low = load(shared, HALF * U(window & 1)) * load(gain, U(0))
                z_low = z_low * load(flat_spread, row * lines) if proportional else z_low * deviation[row]
                low = low + like(z_low, step)
            _store_codes(codes, U(0), low, rounding, min_code, max_code)
        else:
            words = item_key(window, image, stream, key)
            for block in range(lines // BLOCK):
                line = BLOCK * block
                first = row * lines * parts + line
                low = _line_values(flat, first, lines, parts, base, step)
                high = _line_values(flat, first + HALF, lines, parts, base, step)
                if noisy:
                    z_low, z_high = gaussian_block(words, first_position + HALF * block)
                    z_low, z_high = z_low * load(gain, line), z_high * load(gain, line + HALF)
                    if proportional:
                        z_low = z_low * load(flat_spread, row * lines + line)
                        z_high = z_high * load(flat_spread, row * lines + line + HALF)
                    else:
                        z_low, z_high = z_low * deviation[row], z_high * deviation[row]
                    low, high = low + like(z_low, step), high + like(z_high, step)
                _store_codes(codes, line, low, rounding, min_code, max_code)
                _store_codes(codes, line + HALF, high, rounding, min_code, max_code)
        if weights.size == 1:
            first = item * width + U(first_column)
            _add_pairs(codes, U(count), weights[0], flat_totals, first, U(columns))
        else:
            combine(codes, count, weights, totals[:, first_column : first_column + columns], item)


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
"""Added and subtracted, leaves the nearest whole number (half to even) of what is below 2^22."""


@_compile(nogil=True)
def quantize(x: Any, scale: Any, low: Any, high: Any, quantized: Any, begin: int, end: int) -> None:
    """Quantise flat float32 values; limits are whole, so that they may come before rounding."""
    for i in range(U(begin), U(end)):
        level = min(max(x[i] / scale, low), high)
        quantized[i] = np.int16((level + ROUND) - ROUND)


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
    sums: Any, factor: float, divisor: float, scale: Any, bias: Any, y: Any, begin: int, end: int
) -> None:
    """Sums times factor / divisor, rescaled: [items, positions, channels] into float32 [items, channels, positions].

    ``sums`` are whole numbers or float64. Sixteen channels of sixteen positions at a time are worked out and turned.
    """
    positions, channels = U(sums.shape[1]), U(sums.shape[2])
    whole_positions, whole_channels = positions // HALF * HALF, channels // HALF * HALF
    flat, target, block = sums.reshape(-1), y.reshape(-1), np.zeros(HALF * HALF, np.float32)
    one = np.float64(1)
    for item in range(U(begin), U(end)):
        of = item * positions * channels
        for first in range(U(0), whole_positions, HALF):
            for channel in range(U(0), whole_channels, HALF):
                for i in range(HALF):
                    level = like(load(flat, of + (first + i) * channels + channel), one) * factor
                    if divisor != 1.0:
                        level = divided(level, divisor)
                    level = level * load(scale, channel) + load(bias, channel)
                    store(block, i * HALF, to_floats_nearest(level))
                turn(block, U(0), HALF, target, of + channel * positions + first, positions)
        for position in range(positions):
            for channel in range(whole_channels if position < whole_positions else U(0), channels):
                value = flat[of + position * channels + channel]
                target[of + channel * positions + position] = _rescaled(
                    value, factor, divisor, scale[channel], bias[channel]
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
    """Write the sums of one copy, times a factor, where they belong in a layer's output.

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

    ``images`` is uint8 [images, bytes] and ``vectors`` [images, windows, rows]; pieces of 16 and 4 bytes may run
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
                if size == 16:
                    copy_16(target, row, flat, place)
                elif size == 4:
                    copy_4(target, row, flat, place)
                else:
                    target[row] = flat[place]

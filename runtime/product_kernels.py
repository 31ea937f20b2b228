"""Compiled kernels that finish integer products; import only through :mod:`memcompile.runtime.compiled`.

Every floating-point operation is done in the order of the NumPy paths beside them and fast-math is
off, so that both give the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from memcompile.runtime.kernels import BLOCK, PHASE_SHIFT, U, _compile, draw_lines, item_key

BASE = 128.0
TRANSPOSED = 16
"""Positions that are transposed together; what one cache line holds of float32."""


@_compile(nogil=True)
def square_sums(vectors: Any, sums: Any) -> None:
    """Sum of squares of each uint8 vector, int64 [matrices, items]."""
    matrices, items, rows = vectors.shape
    for matrix in range(matrices):
        for item in range(items):
            vector = vectors[matrix, item]
            total = np.int32(0)
            for row in range(U(rows)):
                total += np.int32(vector[row]) * np.int32(vector[row])
            sums[matrix, item] = total


@_compile(inline="always")
def _value(sums: Any, matrix: Any, item: Any, line: Any, columns: Any, digits: Any) -> Any:
    """A sum of digits of base 128, most significant first; exact."""
    total = np.float64(sums[matrix, item, (digits - U(1)) * columns + line])
    for digit in range(U(1), digits):
        total = total * BASE + np.float64(sums[matrix, item, (digits - U(1) - digit) * columns + line])
    return total


@_compile(inline="always")
def _values(sums: Any, matrix: Any, item: Any, columns: Any, digits: Any, step: Any, values: Any) -> None:
    """Values of one item; the usual three digits in one loop."""
    if digits == U(3):
        for line in range(columns):
            high = np.float64(sums[matrix, item, U(2) * columns + line])
            middle = np.float64(sums[matrix, item, columns + line])
            low = np.float64(sums[matrix, item, line])
            values[line] = ((high * BASE + middle) * BASE + low) * step
        return
    for line in range(columns):
        values[line] = _value(sums, matrix, item, line, columns, digits) * step


@_compile(nogil=True)
def finish_sums(
    sums: Any,
    digits: int,
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
    blocks = (U(matrices * columns) + BLOCK - U(1)) // BLOCK
    noise = np.zeros(blocks * BLOCK, np.float32)
    values = np.zeros(columns, np.float64)
    for item in range(begin, end):
        if noisy:
            words = item_key(windows[item % windows.size], images[item // windows.size], stream, key)
            draw_lines(noise, blocks, words, U(0))
        for matrix in range(matrices):
            total = totals[item, matrix]
            _values(sums, matrix, item - begin, U(columns), U(digits), step, values)
            first = U(matrix * columns)
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


@_compile(nogil=True)
def convert_sums(
    sums: Any,
    digits: int,
    step: float,
    scale: Any,
    gain: Any,
    rounding: Any,
    noisy: bool,
    max_code: float,
    weights: Any,
    windows: Any,
    images: Any,
    phase: int,
    stream: Any,
    key: Any,
    totals: Any,
    begin: int,
    end: int,
) -> None:
    """Convert the line sums of one phase of items ``begin`` to ``end``; adds to ``totals``.

    ``sums`` is [1, end - begin, digits * lines], ``scale`` float32 [end - begin, lines or 1],
    ``totals`` int64 [items, columns].
    """
    lines = gain.size
    blocks = (U(lines) + BLOCK - U(1)) // BLOCK
    noise = np.zeros(blocks * BLOCK, np.float32)
    values = np.zeros(lines, np.float64)
    codes = np.zeros(lines, np.float64)
    slices = U(weights.size)
    for item in range(begin, end):
        _values(sums, 0, item - begin, U(lines), U(digits), step, values)
        if noisy:
            words = item_key(windows[item % windows.size], images[item // windows.size], stream, key)
            draw_lines(noise, blocks, words, U(phase) << PHASE_SHIFT)
            if scale.shape[1] == 1:
                deviation = scale[item - begin, 0]
                for line in range(U(lines)):
                    values[line] += np.float64(deviation * (gain[line] * noise[line]))
            else:
                for line in range(U(lines)):
                    values[line] += np.float64(scale[item - begin, line] * (gain[line] * noise[line]))
        for line in range(U(lines)):
            codes[line] = np.floor(min(max(values[line] + rounding[line], 0.0), max_code))
        for column in range(U(totals.shape[1])):
            total = np.int64(0)
            for s in range(slices):
                pair = U(2) * (column * slices + s)
                total += np.int64(codes[pair] - codes[pair + U(1)]) * weights[s]
            totals[item, column] += total


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


@_compile(nogil=True)
def rescale_channels_last(sums: Any, scale: Any, bias: Any, y: Any, begin: int, end: int) -> None:
    """The same from float64 [items, positions, channels] into float32 [items, channels, positions]."""
    positions, channels = sums.shape[1:]
    for item in range(begin, end):
        if positions == 1:
            source, target = sums[item, 0], y[item].reshape(-1)
            for channel in range(U(channels)):
                target[channel] = np.float32(source[channel] * scale[channel] + bias[channel])
            continue
        for first in range(0, positions, TRANSPOSED):
            last = min(first + TRANSPOSED, positions)
            for channel in range(channels):
                line = y[item, channel]
                for position in range(first, last):
                    line[position] = np.float32(sums[item, position, channel] * scale[channel] + bias[channel])

"""Input vectors of single tiles, for products whose sums do not depend on the order of rows.

Channels come last in the images that vectors are cut from, and the rows of a tile are sorted by where
they lie there: all channels under the taps of one row of a kernel then follow each other and are copied
up to 64 bytes at a time. The rows of the tile's matrix are put in the same order.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.geometry import Unrolling
from memcompile.ir.quantizers import InputQuantizer
from memcompile.runtime.kernels.compiled import Workers, product_kernels

COPIES = (64, 32, 16, 4, 1)
"""Bytes that the compiled kernel can copy at once, each in one instruction of wide processors."""


@dataclass(frozen=True, eq=False)
class RowOrder:
    """The rows of a tile that are ever driven, sorted by where they lie.

    ``rows`` counts from the tile's first row. In a window that begins at place 0 of an image, row i of them reads
    ``places[i]``. ``pieces`` [pieces, 3], int64, are (first row, first place, bytes) and together copy all rows. A
    piece may run into the next ones, which are copied after it, and never beyond the last row or place.
    """

    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    pieces: NDArray[np.int64]


@lru_cache(maxsize=64)
def _layout(unrolling: Unrolling) -> tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Bytes of an image, and the places of its positions, of windows, and of rows (-1 where there is no input)."""
    padding, windows, rows = unrolling.addresses()
    geometry = unrolling.geometry
    channels = geometry.in_channels
    sizes = [size + sum(pads) for size, pads in zip(geometry.input_size, padding[2:], strict=True)]
    grid = np.arange(math.prod(sizes)).reshape(sizes)
    inside = tuple(
        slice(before, before + size) for size, (before, _) in zip(geometry.input_size, padding[2:], strict=True)
    )
    channel, position = np.divmod(rows, grid.size)
    last = np.where(rows < 0, -1, position * channels + channel)
    return grid.size * channels, grid[inside].ravel() * channels, windows * channels, last


@lru_cache(maxsize=4096)
def row_order(unrolling: Unrolling, matrix: int, begin: int, end: int) -> RowOrder:
    """The order of rows ``begin`` to ``end`` of a weight matrix."""
    _, _, _, rows = _layout(unrolling)
    places = rows[matrix, begin:end]
    order = np.argsort(places, kind="stable")
    order = order[places[order] >= 0]
    places = places[order]
    return RowOrder(order, places, _pieces(places))


def _pieces(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut ascending places into pieces that follow each other in memory."""
    if not len(places):
        return np.zeros((0, 3), np.int64)
    rows, beyond = len(places), int(places[-1]) + 1
    edges = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), rows]
    pieces = []
    for first, last in itertools.pairwise(edges):
        row, place = first, int(places[first])
        while row < last:
            left, room = last - row, min(rows - row, beyond - place)
            largest = max(size for size in COPIES if size <= left)
            size = min((size for size in COPIES if left <= size <= room), default=largest)
            pieces.append((row, place, size))
            row, place = row + size, place + size
    return np.array(pieces, np.int64)


def images_channels_last(
    unrolling: Unrolling, x: NDArray[np.int16], quantizer: InputQuantizer, phase: int, workers: Workers
) -> NDArray[np.uint8]:
    """Digits on the lines in one phase, as padded images whose channels come last, flat: [batch, bytes].

    Parameters
    ----------
    x
        Quantised inputs, [batch, channels, *input_size].
    """
    size, positions, _, _ = _layout(unrolling)
    images = np.zeros((len(x), size), np.uint8)
    compiled = product_kernels()
    channels = x.shape[1]
    if compiled is None:
        digits = quantizer.digits(x, phase).reshape(len(x), channels, -1)
        images[:, positions[:, None] + np.arange(channels)] = digits.transpose(0, 2, 1)
        return images
    sign, shift, mask = quantizer.digit_of(phase)
    flat = np.ascontiguousarray(x).reshape(len(x), channels, -1)
    workers.each_range(
        len(x), lambda begin, end: compiled.lay_channels_last(flat, positions, sign, shift, mask, images, begin, end)
    )
    return images


def tile_vectors(
    unrolling: Unrolling, windows: NDArray[np.int32], order: RowOrder, images: NDArray[np.uint8], workers: Workers
) -> NDArray[np.uint8]:
    """Input vectors of some windows, [batch * windows, rows in their order].

    Parameters
    ----------
    images
        Result of :func:`images_channels_last`.
    """
    _, _, starts, _ = _layout(unrolling)
    starts = starts[windows]
    vectors = np.empty((len(images), len(windows), len(order.rows)), np.uint8)
    compiled = product_kernels()
    if compiled is None:
        vectors[:] = images[:, starts[:, None] + order.places]
    else:
        workers.each_range(
            len(images), lambda begin, end: compiled.cut_pieces(images, starts, order.pieces, vectors, begin, end)
        )
    return vectors.reshape(len(images) * len(windows), len(order.rows))

"""Products without converters: one signed matrix for all pairs, slices and tiles of a layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.quantizers import InputQuantizer
from memcompile.runtime.compiled import Workers, product_kernels
from memcompile.runtime.digit_conversions import summed_variances, variance_matrix
from memcompile.runtime.integer_product import IntegerMatrix
from memcompile.runtime.random_numbers import ItemNoise, key_words

BLOCK_VALUES = 1 << 18
"""Sums of digits that a thread handles at once; some megabytes stay in a processor's caches."""


@dataclass(frozen=True, eq=False)
class LinearMatrices:
    """The programmed weights of one copy of a layer, in level steps, and their read noise."""

    weights: IntegerMatrix
    variances: IntegerMatrix | None
    """Variance of read noise per weight; None where all are ``variance``."""
    variance: float
    squares: NDArray[np.uint16]
    """[256]: sum over phases of (phase weight * digit)^2, by input in two's complement."""
    signed: bool

    @classmethod
    def of(
        cls, weights: NDArray[np.float64], variances: NDArray[np.float64], step: float, quantizer: InputQuantizer
    ) -> LinearMatrices:
        """Prepare weights, multiples of ``step``, and their variances, both [matrices, rows, columns]."""
        alike = bool(variances.min() == variances.max())
        return cls(
            IntegerMatrix.of(weights, step, signed_inputs=quantizer.signed),
            None if alike else variance_matrix(variances),
            float(variances.max()) if alike else 0.0,
            squared_inputs(quantizer),
            quantizer.signed,
        )

    @property
    def nbytes(self) -> int:
        """Memory of the matrices."""
        return self.weights.nbytes + (self.variances.nbytes if self.variances else 0)

    @property
    def noisy(self) -> bool:
        """Whether any output is noisy."""
        return self.variances is not None or self.variance > 0


def squared_inputs(quantizer: InputQuantizer) -> NDArray[np.uint16]:
    """Sum over phases of (phase weight * digit)^2, by input in two's complement, [256].

    Below 2^16: the sum of the products themselves is at most 255.
    """
    x = np.arange(256, dtype=np.uint8).view(np.int8) if quantizer.signed else np.arange(256)
    total = np.zeros(256, np.int64)
    for phase, weight in enumerate(quantizer.phase_weights):
        total += (weight * quantizer.digits(x.astype(np.int16), phase).astype(np.int64)) ** 2
    return total.astype(np.uint16)


def multiply(
    lines: LinearMatrices,
    numbers: NDArray[np.uint8],
    noise: ItemNoise,
    workers: Workers,
) -> NDArray[np.float64]:
    """Products with read noise, [batch * windows, matrices, columns].

    Parameters
    ----------
    numbers
        Inputs in two's complement, [matrices, batch * windows, rows].
    noise
        What keys the read noise.
    """
    matrices, items, _ = numbers.shape
    totals = np.empty((items, matrices, lines.weights.columns))
    block = max(1, BLOCK_VALUES // (matrices * lines.weights.digits * lines.weights.columns))
    compiled, key = product_kernels(), key_words(noise.seed)

    def work(begin: int, end: int) -> None:
        for first in range(begin, end, block):
            last = min(first + block, end)
            vectors = np.ascontiguousarray(numbers[:, first:last])
            scale = _noise_scale(lines, vectors)
            sums = lines.weights.sums(vectors ^ np.uint8(0x80) if lines.signed else vectors)  # the number plus 128
            if compiled is None:
                totals[first:last] = lines.weights.values(sums).transpose(1, 0, 2)
                if lines.noisy:
                    z = noise.gaussians(matrices * lines.weights.columns, first, last)
                    totals[first:last] += scale * z.reshape(last - first, matrices, -1)
                continue
            compiled.finish_sums(
                sums,
                lines.weights.digits,
                float(lines.weights.base),
                lines.weights.step,
                scale,
                lines.noisy,
                noise.windows,
                noise.images,
                np.uint64(noise.stream),
                key,
                totals,
                first,
                last,
            )

    workers.each_range(items, work)
    return totals


def _noise_scale(lines: LinearMatrices, vectors: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Standard deviation of read noise, [items, matrices, columns or 1]."""
    if lines.variances is not None:
        spread = np.sqrt(summed_variances(lines.variances, lines.squares[vectors]))
        return np.ascontiguousarray(spread.transpose(1, 0, 2))
    if not lines.noisy:
        return np.zeros((vectors.shape[1], vectors.shape[0], 1))
    compiled = product_kernels()
    if compiled is None:
        total = lines.squares[vectors].sum(axis=2, dtype=np.int64)
        return np.ascontiguousarray(np.sqrt(total * lines.variance).T[:, :, None])
    scale = np.empty((vectors.shape[1], vectors.shape[0], 1))
    compiled.squared_scale(vectors, lines.squares, lines.variance, scale)
    return scale

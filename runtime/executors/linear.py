"""Products without converters: one signed matrix for all pairs, slices and tiles of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.quantizers import InputQuantizer
from memcompile.runtime.effects.nonlinear_iv import Drive
from memcompile.runtime.executors.digit_conversions import summed_variances, variance_matrix
from memcompile.runtime.executors.integer_product import IntegerMatrix
from memcompile.runtime.kernels.compiled import Workers, product_kernels
from memcompile.runtime.random_numbers import LINES_PER_BLOCK, ItemNoise, key_words

BLOCK_VALUES = 1 << 18
"""Sums of digits that a thread handles at once; some megabytes stay in a processor's caches."""


@dataclass(frozen=True, eq=False)
class DrivenInputs:
    """Drive of whole inputs through cells, all phases together, by input in two's complement, [256].

    An input counts ``least`` + ``from_least``, in ``step``; the sum over phases of (phase weight * drive)^2 is
    ``squares``, in ``square_step``.
    """

    least: int
    from_least: NDArray[np.unsignedinteger[Any]]
    step: float
    squares: NDArray[np.uint32]
    square_step: float

    @classmethod
    def of(cls, drive: Drive, quantizer: InputQuantizer) -> DrivenInputs:
        """The inputs of a quantiser."""
        inputs = drive.inputs(quantizer)
        from_least = inputs - inputs.min()
        # Integer products take bytes, one after the other: no more of them than needed.
        narrow = from_least.astype(np.min_scalar_type(from_least.max()))
        return cls(int(inputs.min()), narrow, drive.step, *drive.squared_inputs(quantizer))


@dataclass(frozen=True, eq=False)
class LinearMatrices:
    """The programmed weights of one replica of a layer, in level steps, and their read noise."""

    weights: IntegerMatrix
    variances: IntegerMatrix | None
    """Variance of read noise per weight; None where all are ``variance``."""
    variance: float
    squares: NDArray[np.uint16]
    """[256]: sum over phases of (phase weight * digit)^2, by input in two's complement."""
    signed: bool
    driven: DrivenInputs | None = None
    """Drive of inputs in place of themselves, where cells do not obey Ohm's law."""

    @classmethod
    def of(
        cls,
        weights: NDArray[np.float64],
        variances: NDArray[np.float64],
        step: float,
        quantizer: InputQuantizer,
        drive: Drive | None = None,
    ) -> LinearMatrices:
        """Prepare weights, multiples of ``step``, and their variances, both [matrices, rows, columns]."""
        alike = bool(variances.min() == variances.max())
        return cls(
            IntegerMatrix.of(weights, step, signed_inputs=quantizer.signed and drive is None),
            None if alike else variance_matrix(variances),
            float(variances.max()) if alike else 0.0,
            squared_inputs(quantizer),
            quantizer.signed,
            None if drive is None else DrivenInputs.of(drive, quantizer),
        )

    @property
    def drive_step(self) -> float:
        """Unit of sums, beside the step of the weights."""
        return 1.0 if self.driven is None else self.driven.step

    @property
    def nbytes(self) -> int:
        """Memory of the matrices."""
        return self.weights.nbytes + (self.variances.nbytes if self.variances else 0)

    @property
    def noisy(self) -> bool:
        """True if any output is noisy."""
        return self.variances is not None or self.variance > 0

    def sums(self, numbers: NDArray[np.uint8]) -> NDArray[np.integer[Any]]:
        """Exact sums of inputs in two's complement, [matrices, items, rows], in steps of weights and drive."""
        if self.driven is None:
            return self.weights.sums(numbers ^ np.uint8(0x80) if self.signed else numbers)  # the number plus 128
        ones = np.ones((numbers.shape[0], 1, numbers.shape[2]), np.uint8)
        shift = self.driven.least * self.weights.sums(ones).astype(np.int64)
        return self.weights.wide_sums(self.driven.from_least[numbers]) + shift


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
        Keys of the read noise.
    """
    matrices, items, _ = numbers.shape
    totals = np.empty((items, matrices, lines.weights.columns))
    block = max(1, BLOCK_VALUES // (matrices * lines.weights.digits * lines.weights.columns))
    compiled, key = product_kernels(), key_words(noise.seed)
    noise_values = -(-matrices * lines.weights.columns // LINES_PER_BLOCK) * LINES_PER_BLOCK

    def work(begin: int, end: int) -> None:
        for first in range(begin, end, block):
            last = min(first + block, end)
            vectors = np.ascontiguousarray(numbers[:, first:last])
            scale = _noise_scale(lines, vectors)
            sums = lines.sums(vectors)
            if compiled is None:
                totals[first:last] = (lines.weights.values(sums) * lines.drive_step).transpose(1, 0, 2)
                if lines.noisy:
                    z = noise.gaussians(matrices * lines.weights.columns, first, last)
                    totals[first:last] += scale * z.reshape(last - first, matrices, -1)
                continue
            compiled.finish_sums(
                sums,
                lines.weights.digits,
                float(lines.weights.base),
                lines.weights.step * lines.drive_step,
                scale,
                lines.noisy,
                noise.windows,
                noise.images,
                np.uint64(noise.stream),
                key,
                totals,
                workers.room(noise_values),
                first,
                last,
            )

    workers.each_range(items, work)
    return totals


def _noise_scale(lines: LinearMatrices, vectors: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Standard deviation of read noise, [items, matrices, columns or 1]."""
    if lines.driven is not None:
        return _noise_of_drive(lines, lines.driven, vectors)
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


def _noise_of_drive(lines: LinearMatrices, driven: DrivenInputs, vectors: NDArray[np.uint8]) -> NDArray[np.float64]:
    squares = driven.squares[vectors]
    if lines.variances is not None:
        total = lines.variances.values(lines.variances.wide_sums(squares)).transpose(1, 0, 2)
    else:
        total = lines.variance * squares.sum(axis=2, dtype=np.float64).T[:, :, None]
    return np.ascontiguousarray(np.sqrt(driven.square_step * total))

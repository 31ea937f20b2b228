"""Exact products of 8-bit input vectors with fixed-point matrices, from 8-bit integer products.

A matrix on a grid is cut into balanced digits, which stand side by side in one int8 matrix;
onnxruntime's MatMulInteger multiplies them. Integer sums do not depend on the order of summation, so
results depend neither on threads nor on the batch, and processors multiply small integers faster than
floating-point numbers. Digits have 8 bits, or 7 where kernels for processors without dot-product
instructions add two products in 16 bits: 2 * 255 * 64 < 2^15. Values are the same either way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from memcompile.frontend.byte_products import integer_product_model
from memcompile.frontend.sessions import open_session
from memcompile.verify.interpreter import multiplies_bytes_exactly

MAX_ROWS = 1 << 16
"""Rows whose sums of products surely fit 32 bits: 2^16 * 255 * 128 < 2^31."""


def digit_base() -> int:
    """The base of digits: 256 where onnxruntime multiplies all bytes exactly, else 128."""
    return 256 if multiplies_bytes_exactly() else 128


@dataclass(frozen=True, eq=False)
class IntegerMatrix:
    """Matrices [matrices, rows, columns] on a grid, ready to be multiplied.

    The sums of digit p stand in columns p * columns to (p + 1) * columns of a product; the value
    of a column is ``step`` * sum over p of base^p * (sum of digit p).
    """

    sessions: tuple[ort.InferenceSession, ...]
    """One for each ``MAX_ROWS`` rows."""
    matrices: int
    columns: int
    digits: int
    base: int
    step: float
    nbytes: int

    @classmethod
    def of(cls, values: NDArray[np.float64], step: float, *, signed_inputs: bool = False) -> IntegerMatrix:
        """Prepare multiples of ``step``, [matrices, rows, columns].

        ``signed_inputs`` says whether input vectors are numbers plus 128 or numbers themselves.
        """
        grid, base = np.rint(values / step).astype(np.int64), digit_base()
        digits: list[NDArray[np.int8]] = []
        while not digits or grid.any():
            digit = (grid + base // 2) % base - base // 2
            digits.append(digit.astype(np.int8))
            grid = (grid - digit) // base
        stacked = np.concatenate(digits, axis=2)
        matrices, rows, columns = values.shape
        zero_point = 128 if signed_inputs else 0
        sessions = tuple(
            open_session(
                integer_product_model(stacked[:, first : first + MAX_ROWS], zero_point), threads=1, frugal=True
            )
            for first in range(0, rows, MAX_ROWS)
        )
        # The model holds the digits once, the session a second time in the order of its kernels.
        return cls(sessions, matrices, columns, len(digits), base, step, 2 * stacked.nbytes)

    def sums(self, vectors: NDArray[np.uint8]) -> NDArray[np.int64] | NDArray[np.int32]:
        """Sums of all digits: [matrices, items, rows] to [matrices, items, digits * columns]."""
        parts = [
            session.run(None, {"x": np.ascontiguousarray(vectors[:, :, first * MAX_ROWS : (first + 1) * MAX_ROWS])})[0]
            for first, session in enumerate(self.sessions)
        ]
        if not parts:  # no rows
            return np.zeros((*vectors.shape[:2], self.digits * self.columns), np.int32)
        if len(parts) == 1:
            only: NDArray[np.int32] = parts[0]
            return only
        total: NDArray[np.int64] = np.sum(parts, axis=0, dtype=np.int64)
        return total

    def wide_sums(self, vectors: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.int64]:
        """Sums of all digits for whole numbers of several bytes, as :meth:`sums`; byte after byte, exactly."""
        total = np.zeros((*vectors.shape[:2], self.digits * self.columns), np.int64)
        for place in range(vectors.dtype.itemsize):
            part = (vectors >> vectors.dtype.type(8 * place) & vectors.dtype.type(0xFF)).astype(np.uint8)
            total += self.sums(part).astype(np.int64) << np.int64(8 * place)
        return total

    def values(self, sums: NDArray[np.integer[Any]], kind: Any = np.float64) -> NDArray[np.floating[Any]]:
        """Values of sums, [..., digits * columns] to [..., columns], in a type; float64 is exact below 2^53 steps."""
        split = sums.reshape(*sums.shape[:-1], self.digits, self.columns)
        total: NDArray[np.floating[Any]] = split[..., self.digits - 1, :].astype(kind)
        for digit in range(self.digits - 2, -1, -1):
            total *= kind(self.base)
            total += split[..., digit, :].astype(kind)
        total *= kind(self.step)
        return total

"""Exact integer products against 64-bit integer arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcompile.runtime.executors import integer_product
from memcompile.runtime.executors.digit_conversions import summed_variances, variance_matrix
from memcompile.runtime.executors.integer_product import IntegerMatrix


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(0, 5),
    st.integers(1, 70),
    st.integers(1, 40),
    st.integers(0, 40),
    st.booleans(),
    st.integers(0, 99),
)
def test_products_are_exact(
    matrices: int, items: int, rows: int, columns: int, bits: int, signed: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-(1 << bits), (1 << bits) + 1, (matrices, rows, columns))
    x = rng.integers(-128, 128, (matrices, items, rows)) if signed else rng.integers(0, 256, (matrices, items, rows))
    matrix = IntegerMatrix.of(weights * 2.0**-9, 2.0**-9, signed_inputs=signed)
    got = matrix.values(matrix.sums((x + 128 if signed else x).astype(np.uint8)))
    assert np.array_equal(got, (x @ weights) * 2.0**-9)


@pytest.mark.parametrize("base", [128, 256])
def test_extreme_digits_and_inputs_do_not_saturate(base: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base = min(base, integer_product.digit_base())
    monkeypatch.setattr(integer_product, "digit_base", lambda: base)
    for digit in (-base // 2, base // 2 - 1):
        matrix = IntegerMatrix.of(np.full((1, 700, 33), float(digit)), 1.0)
        x = np.full((1, 5, 700), 255, np.uint8)
        assert matrix.digits == 1
        assert (matrix.values(matrix.sums(x)) == 700.0 * 255 * digit).all()


def test_values_do_not_depend_on_the_base_of_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    weights, x = rng.integers(-20_000, 20_000, (1, 60, 9)), rng.integers(0, 256, (1, 4, 60)).astype(np.uint8)
    usual = IntegerMatrix.of(weights.astype(np.float64), 1.0)
    monkeypatch.setattr(integer_product, "digit_base", lambda: 128)
    small = IntegerMatrix.of(weights.astype(np.float64), 1.0)
    assert small.digits == 3
    assert np.array_equal(small.values(small.sums(x)), usual.values(usual.sums(x)))


def test_more_rows_than_32_bits_hold_are_multiplied_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_product, "MAX_ROWS", 16)
    rng = np.random.default_rng(1)
    weights = rng.integers(-5000, 5000, (2, 50, 7))
    x = rng.integers(0, 256, (2, 3, 50))
    matrix = IntegerMatrix.of(weights.astype(np.float64), 1.0)
    assert len(matrix.sessions) == 4
    assert np.array_equal(matrix.values(matrix.sums(x.astype(np.uint8))), (x @ weights).astype(np.float64))


def test_summed_variances_are_those_of_double_precision() -> None:
    rng = np.random.default_rng(2)
    variances = rng.uniform(0, 3e-4, (1, 40, 9))
    squares = rng.integers(0, 1 << 16, (1, 6, 40)).astype(np.uint16)
    got = summed_variances(variance_matrix(variances), squares)
    assert np.allclose(got, squares.astype(np.float64) @ variances, rtol=1e-5)

"""Compiled kernels of integer products against NumPy, at sizes that fill no vector."""

from __future__ import annotations

from dataclasses import replace

import factories
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcompile.hardware.converter import Converter
from memcompile.ir.geometry import Geometry
from memcompile.program.line_corrections import LineCorrections, count_places
from memcompile.runtime.executors.edges import rescale
from memcompile.runtime.executors.fast import code_type
from memcompile.runtime.executors.rescaling import Rescaling
from memcompile.runtime.kernels.compiled import Workers
from memcompile.runtime.random_numbers import HALF_BLOCK, LINES_PER_BLOCK, ItemNoise, read_gaussians


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_turned_numbers_are_transposed(dtype: type[np.generic]) -> None:
    numba = pytest.importorskip("numba")
    from memcompile.runtime.kernels import lanes  # noqa: PLC0415 - needs Numba

    @numba.njit
    def turned(source, of, distance, target, to, step):  # type: ignore[no-untyped-def]
        lanes.turn(source, of, distance, target, to, step)

    source = np.random.default_rng(0).integers(0, 256, 600).astype(dtype)
    target = np.zeros(700, dtype)
    turned(source, 3, 31, target, 5, 40)
    want = np.zeros_like(target)
    for i in range(lanes.COUNT):
        for j in range(lanes.COUNT):
            want[5 + 40 * j + i] = source[3 + 31 * i + j]
    np.testing.assert_array_equal(target, want)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rescaled_sums_are_those_of_the_formula(data: st.DataObject) -> None:
    """Codes of either type and level steps, as they lie and transposed, with any factor."""
    pytest.importorskip("numba")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    batch, positions, channels = (data.draw(st.integers(1, most)) for most in (3, 70, 70))
    target = factories.make_target()
    layer = factories.random_layer(rng, Geometry(3, channels, (1,), (positions,)), target)
    converter = replace(
        Converter.adc(target),
        levels_per_code=data.draw(st.integers(1, 3)),
        codes_per_level=data.draw(st.integers(1, 3)),
    )
    kind = data.draw(st.sampled_from([np.int32, np.int64, np.float64]))
    sums = rng.integers(-(2**28), 2**28, (batch, positions, channels)).astype(kind).transpose(0, 2, 1)
    if data.draw(st.booleans()):
        sums = np.ascontiguousarray(sums)
    corrections = None
    if data.draw(st.booleans()):
        places = count_places(layer)
        gain, offset = rng.normal(1, 0.1, (places, channels)), rng.normal(0, 2, (places, channels))
        corrections = LineCorrections(gain.astype(np.float32), offset.astype(np.float32))
    rescaling = Rescaling.of(layer, corrections)
    got = rescale(rescaling, sums, "float32", converter, Workers(data.draw(st.integers(1, 2))))
    levels = sums.astype(np.float64)
    if kind is not np.float64:
        levels = levels * converter.levels_per_code / converter.codes_per_level
    np.testing.assert_array_equal(got, rescaling.apply(levels, "float32"))
    if corrections is None:
        np.testing.assert_array_equal(got, layer.rescale(levels))


@pytest.mark.parametrize("rows", [1, 15, 144, (1 << 15) - 1, (1 << 16) + 77])
def test_squares_of_any_number_of_rows_are_exact(rows: int) -> None:
    pytest.importorskip("numba")
    from memcompile.runtime.kernels import product_kernels  # noqa: PLC0415 - needs Numba

    vectors = np.random.default_rng(rows).integers(200, 256, (5, rows)).astype(np.uint8)
    total = np.square(vectors.astype(np.int64)).sum(axis=1)
    assert rows < 1 << 16 or total.max() > 1 << 31
    np.testing.assert_array_equal(product_kernels.deviations(vectors, 0.37), (0.37 * np.sqrt(total)).astype(np.float32))


def noise_of(windows: list[int]) -> ItemNoise:
    return ItemNoise(np.array(windows), np.array([7, 9]), 5, 3)


def test_few_lines_take_half_a_block_of_two_windows() -> None:
    whole = read_gaussians(LINES_PER_BLOCK, np.array([3]), np.array([9]), 5, 3, 2)[0]
    noise = noise_of([6, 1, 7])
    for window, half in ((0, slice(0, 16)), (2, slice(16, 32))):
        item = 3 + window
        np.testing.assert_array_equal(noise.gaussians(HALF_BLOCK, item, item + 1, 2)[0], whole[half])
        np.testing.assert_array_equal(noise.gaussians(5, item, item + 1, 2)[0], whole[half][:5])
        np.testing.assert_array_equal(noise.gaussians(HALF_BLOCK, 0, 6, 2)[item], whole[half])
    assert len(np.unique(noise.gaussians(HALF_BLOCK, 0, 6))) == 6 * HALF_BLOCK


def test_windows_that_share_a_block_are_independent() -> None:
    """Correlations of numbers and of their squares, neighbours and lines, below six standard errors."""
    noise = ItemNoise(np.arange(4000), np.arange(50), 5, 3)
    z = noise.gaussians(HALF_BLOCK, 0, 200_000).astype(np.float64)
    limit = 6 / np.sqrt(z.size)
    assert abs(z.mean()) < limit
    assert abs((z**2).mean() - 1) < np.sqrt(2) * limit
    for values in (z, (z**2 - 1) / np.sqrt(2)):
        for distance in (1, 2, 3):
            assert abs((values[distance:] * values[:-distance]).mean()) < limit
        assert abs((values[:, 1:] * values[:, :-1]).mean()) < limit
        assert abs((values[1::2, :8] * values[::2, 8:]).mean()) < 2 * limit


def test_sums_of_codes_get_the_smaller_type_that_holds_them() -> None:
    converter = replace(Converter.adc(factories.make_target()), max_code=1 << 20)
    powers = np.array([1, 15])
    fits, beyond = (code_type(converter, (1, 2, -4), powers, tiles) for tiles in (9, 10))
    assert 2 * (1 << 20) * 9 * 7 * 16 < 1 << 31 <= 2 * (1 << 20) * 10 * 7 * 16
    assert (fits, beyond) == (np.int32, np.int64)

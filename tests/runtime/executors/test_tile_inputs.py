"""Input vectors of tiles, cut from images whose channels come last."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.ir.quantizers import InputQuantizer
from memcompile.runtime.executors.tile_inputs import images_channels_last, row_order, tile_vectors
from memcompile.runtime.kernels.compiled import Workers


@st.composite
def unrollings(draw: st.DrawFn) -> Unrolling:
    rank, groups = draw(st.integers(0, 3)), draw(st.integers(1, 3))

    def axes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, dilations, strides = axes(1, 4), axes(1, 2), axes(1, 3)
    size = tuple(gap * (taps - 1) + 1 + more for gap, taps, more in zip(dilations, kernel, axes(0, 5), strict=True))
    channels = groups * draw(st.integers(1, 40 if rank < 2 else 6))
    geometry = Geometry(channels, groups * 2, kernel, size, groups, strides, dilations, axes(0, 2), axes(0, 2))
    window = tuple(draw(st.integers(1, most)) for most in geometry.output_size)
    return Unrolling(geometry, window, draw(st.integers(1, groups)))


@pytest.mark.parametrize("numba", ["0", "1"])
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_vectors_are_those_of_the_unrolling(numba: str, data: st.DataObject) -> None:
    """All rows of a tile that are ever driven, in the stated order; the others are zero in every window."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMCOMPILE_NUMBA", numba)
        unrolling = data.draw(unrollings())
        bits = data.draw(st.integers(1, 8))
        quantizer = InputQuantizer(1.0, 8, data.draw(st.booleans()), bits)
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        shape = (3, unrolling.geometry.in_channels, *unrolling.geometry.input_size)
        x = rng.integers(quantizer.lowest, quantizer.highest + 1, shape).astype(np.int16)
        phase = data.draw(st.integers(0, quantizer.phase_count - 1))
        begin = data.draw(st.integers(0, unrolling.rows - 1))
        end = data.draw(st.integers(begin + 1, unrolling.rows))
        matrix = data.draw(st.integers(0, unrolling.matrices - 1))
        windows = rng.permutation(unrolling.windows)[: data.draw(st.integers(1, unrolling.windows))].astype(np.int32)
        workers = Workers(data.draw(st.integers(1, 2)))

        order = row_order(unrolling, matrix, begin, end)
        images = images_channels_last(unrolling, x, quantizer, phase, workers)
        got = tile_vectors(unrolling, windows, order, images, workers).reshape(3, len(windows), -1)
        want = unrolling.vectors(quantizer.digits(x, phase))[:, matrix, begin:end][:, :, windows].transpose(0, 2, 1)
        assert np.array_equal(got, want[:, :, order.rows])
        assert not np.delete(want, order.rows, axis=2).any()


def test_pieces_cover_each_row_and_stay_inside() -> None:
    """Values that a piece writes beyond its own rows are overwritten by a later one."""
    geometry = Geometry(14, 4, (3, 3), (8, 8), 1, (1, 1), (1, 1), (1, 1), (1, 1))
    order = row_order(Unrolling.im2col(geometry), 0, 5, 121)
    held = np.full(len(order.rows), -1)
    for row, place, size in order.pieces.tolist():
        held[row : row + size] = place + np.arange(size)
        assert row + size <= len(order.rows)
        assert place + size <= order.places[-1] + 1
    assert np.array_equal(held, order.places)
    assert len(order.pieces) < len(order.rows) / 6


def test_a_dense_layer_is_copied_in_one_run() -> None:
    order = row_order(Unrolling.im2col(Geometry(100, 4)), 0, 0, 100)
    assert np.array_equal(order.rows, np.arange(100))
    assert order.pieces[:, 2].tolist() == [64, 32, 4]

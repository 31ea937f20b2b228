"""Windows of unrolled layers: cut out, folded back, combined and written to outputs."""

from __future__ import annotations

import numpy as np
from factories import unrollings
from hypothesis import given, settings
from hypothesis import strategies as st

from memcompile.ir.geometry import Unrolling


@given(unrollings(), st.integers(0, 1 << 30))
@settings(max_examples=40, deadline=None)
def test_fold_is_the_adjoint_of_vectors(unrolling: Unrolling, seed: int) -> None:
    """<vectors(x), v> = <x, fold(v)> for all geometries and windows, in exact integer arithmetic."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-9, 9, (2, unrolling.geometry.in_channels, *unrolling.geometry.input_size))
    cut = unrolling.vectors(x)
    v = rng.integers(-9, 9, cut.shape)
    assert (cut * v).sum() == (x * unrolling.fold(v)).sum()


@given(unrollings(), st.integers(0, 1 << 30), st.sampled_from([np.add, np.maximum]))
@settings(max_examples=40, deadline=None)
def test_combined_inputs_are_those_of_the_vectors(unrolling: Unrolling, seed: int, combine: np.ufunc) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 9, (2, unrolling.geometry.in_channels, *unrolling.geometry.input_size))
    np.testing.assert_array_equal(unrolling.combined(x, combine), combine.reduce(unrolling.vectors(x), axis=2))


@given(unrollings(), st.integers(0, 1 << 30))
@settings(max_examples=40, deadline=None)
def test_outputs_of_any_windows_are_written_to_their_positions(unrolling: Unrolling, seed: int) -> None:
    """One group's outputs beside another's, one output after the other; windows beyond the edge leave nothing."""
    geometry, rng = unrolling.geometry, np.random.default_rng(seed)
    windows = rng.permutation(unrolling.windows)[: rng.integers(1, unrolling.windows + 1)].astype(np.int32)
    outputs = rng.integers(1, 9, (2, len(windows), unrolling.matrices, unrolling.columns))
    found = np.zeros((2, geometry.out_channels, geometry.positions), np.int64)
    unrolling.scatter(outputs, windows, found)
    wanted = np.zeros_like(found)
    positions = unrolling.window_positions()
    per_group = unrolling.window_outputs * geometry.group_columns
    for (window, group, output, column), _ in np.ndenumerate(
        np.zeros((len(windows), geometry.groups, unrolling.window_outputs, geometry.group_columns))
    ):
        position = positions[windows[window], output]
        if position < 0:
            continue
        matrix, slot = divmod(group, unrolling.bundle)
        line = slot * per_group + output * geometry.group_columns + column
        wanted[:, group * geometry.group_columns + column, position] = outputs[:, window, matrix, line]
    np.testing.assert_array_equal(found, wanted)

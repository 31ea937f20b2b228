"""Copies of a layer with noise: outputs of many copies at once, and where reads have their noise."""

from __future__ import annotations

import numpy as np
from factories import unrollings
from hypothesis import given, settings
from hypothesis import strategies as st

from memcompile.accuracy.noisy_copies import InputWindows, NoisyCopies, PowerAnew
from memcompile.ir.geometry import Unrolling


@given(unrollings(), st.integers(0, 1 << 30))
@settings(max_examples=40, deadline=None)
def test_outputs_of_copies_are_those_of_each_alone(unrolling: Unrolling, seed: int) -> None:
    rng = np.random.default_rng(seed)
    copies = int(rng.integers(1, min(unrolling.windows, 4) + 1))
    each = unrolling.windows // copies
    windows = rng.permutation(unrolling.windows)[: copies * each].reshape(copies, each).astype(np.int32)
    shape = (unrolling.matrices, unrolling.rows, unrolling.columns)
    weights = rng.integers(-9, 9, (copies, *shape)).astype(np.float32)
    x = rng.integers(-9, 9, (3, unrolling.geometry.in_channels, *unrolling.geometry.input_size))
    vectors = unrolling.vectors(x.astype(np.float32))
    none = PowerAnew(*np.zeros((2, unrolling.matrices, unrolling.columns, 1), np.float32))
    found = NoisyCopies(unrolling, windows, weights, none).outputs(InputWindows(vectors, None), rng)
    for copy in range(copies):
        wanted = np.einsum("imrw,mrc->imcw", vectors[..., windows[copy]], weights[copy])
        np.testing.assert_array_equal(found[..., copy * each : (copy + 1) * each], wanted)

"""Losses of chips from what samples and the network's curve say."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memcompile.accuracy.measured_losses import combined_losses


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-5, 50), st.floats(0, 50)), min_size=1, max_size=4),
    st.floats(0.01, 20),
)
def test_combined_losses_lie_between_samples_and_the_curve(pairs: list[tuple[float, float]], of_samples: float) -> None:
    lost, read = (np.array(values) for values in zip(*pairs, strict=True))
    losses, error = combined_losses(lost, of_samples, read)
    assert (losses >= np.minimum(lost, read) - 1e-9).all()
    assert (losses <= np.maximum(lost, read) + 1e-9).all()
    _, with_more = combined_losses(lost, of_samples / 10, read)
    assert 0 < with_more <= error <= of_samples


def test_sure_samples_outweigh_the_curve() -> None:
    lost, read = np.array([1.0, 1.2]), np.array([2.0, 2.4])
    few, _ = combined_losses(lost, 10.0, read)
    many, _ = combined_losses(lost, 0.01, read)
    np.testing.assert_allclose(few, read, rtol=0.05)
    np.testing.assert_allclose(many, lost, rtol=0.05)

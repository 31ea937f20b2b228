"""Corrections of the noise of layers by one measured mapping."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcompile.accuracy.budget_search import layer_corrections


@given(st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=20), st.floats(0.1, 6.0))
def test_corrections_change_the_sum_as_far_as_they_may(noise: list[float], factor: float) -> None:
    own = np.array(noise)
    found = layer_corrections(own, factor)
    sum_changed = float(own @ found) / float(own.sum())
    assert (np.diff(found[np.argsort(own)]) * (1 if factor > 1 else -1) >= -1e-12).all()
    assert (found >= 0.5).all()
    if 1 <= factor <= 4:
        assert sum_changed == pytest.approx(factor)
    else:
        assert min(factor, 4.0) - 1e-9 <= sum_changed <= max(1.0, 4.0 + 1e-9)

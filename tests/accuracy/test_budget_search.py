"""Corrections of the noise of layers by one measured mapping, and budgets that nothing holds."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcompile.accuracy.budget_search import BudgetSearch, layer_corrections


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


@pytest.mark.parametrize(
    ("least", "reachable"),
    [(0.3, 4.0), (0.4 * (1 + 1e-6), 4.0), (0.5, 5.4), (2.0, 20.4)],
)
def test_a_budget_that_nothing_holds_may_be_missed_by_hardly_more_than_the_quietest(
    monkeypatch: pytest.MonkeyPatch, least: float, reachable: float
) -> None:
    """By hand: noise of 0.1 loses a point, so that 4 points allow 0.4; a tenth of the budget is 0.4 points more."""
    search = object.__new__(BudgetSearch)
    predictor = SimpleNamespace(limit=lambda points: points / 10, loss_of=lambda noise: 10 * noise)
    monkeypatch.setattr(search, "writing", SimpleNamespace(predictor=predictor), raising=False)
    monkeypatch.setattr(search, "_knapsack", lambda limit: {})
    monkeypatch.setattr(search, "_noise", lambda plans: np.array([least]))
    assert search._reachable(4.0) == pytest.approx(reachable)

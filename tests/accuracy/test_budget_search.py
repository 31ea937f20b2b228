"""Corrections of the noise of layers by one measured mapping, and budgets that nothing holds."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcompile.accuracy.budget_search import BudgetSearch, layer_corrections
from memcompile.accuracy.candidates import LayerPlan
from memcompile.ir.slicing import SliceChoice


@dataclass(frozen=True)
class Mapped:
    """Stands for the mapping of some plans."""

    plans: str
    target: Any


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
    monkeypatch.setattr(search, "variant", SimpleNamespace(predictor=predictor), raising=False)
    monkeypatch.setattr(search, "_chosen", lambda limit: {})
    monkeypatch.setattr(search, "_noise", lambda plans: np.array([least]))
    assert search._reachable(4.0) == pytest.approx(reachable)


def test_plans_that_were_measured_are_not_chosen_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three plans by noise, the loudest the cheapest; noise of 0.1 loses a point, so that 4 points allow 0.4."""
    noise = {"loud": 0.5, "usual": 0.3, "quiet": 0.1}
    target = SimpleNamespace(name="target")
    predictor = SimpleNamespace(
        limit=lambda points: points / 10,
        loss=lambda program: 10 * noise[program.plans],
        first=SimpleNamespace(target=target),
        shared=0.0,
    )
    search = object.__new__(BudgetSearch)
    candidates = SimpleNamespace(mapped=Mapped)
    monkeypatch.setattr(search, "candidates", candidates, raising=False)
    monkeypatch.setattr(search, "first", Mapped("none", target), raising=False)
    monkeypatch.setattr(search, "variant", SimpleNamespace(predictor=predictor, target=target), raising=False)
    monkeypatch.setattr(search, "_reachable", lambda points: points)
    monkeypatch.setattr(search, "_noise", lambda plans: np.array([noise[plans]]))
    monkeypatch.setattr(search, "_chosen", lambda limit: next((one for one in noise if noise[one] <= limit), "quiet"))
    chosen: list[Any] = []
    while (found := search.within(4.0, chosen)) is not None:
        chosen.append((found[0], found[1].target))
    assert chosen == [("usual", target), ("quiet", target)]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(1.0, (0, "without")), (0.6, (1, "one")), (0.35, (1, "one")), (0.25, (2, "one")), (0.1, (2, "two"))],
)
def test_the_first_target_that_holds_the_plans_of_the_quietest_is_chosen(
    monkeypatch: pytest.MonkeyPatch, limit: float, expected: tuple[int, str]
) -> None:
    """Plans of one layer: as it is without a budget, with fewer windows, with two slices; on three targets."""
    without, one, two = LayerPlan(SliceChoice(1)), LayerPlan(SliceChoice(1), False), LayerPlan(SliceChoice(2))
    names = {without: "without", one: "one", two: "two"}
    noise = [
        {without: 0.9, one: 0.7, two: 0.3},
        {without: 0.7, one: 0.35, two: 0.2},
        {without: 0.65, one: 0.2, two: 0.1},
    ]
    search = object.__new__(BudgetSearch)
    variants = [
        SimpleNamespace(number=number, noise=lambda plans, own=own: np.array([own[plans["layer"]]]))
        for number, own in enumerate(noise)
    ]
    cheapest = next((plan for plan in (without, one, two) if noise[-1][plan] <= limit), two)
    monkeypatch.setattr(search, "variants", variants, raising=False)
    monkeypatch.setattr(search, "candidates", SimpleNamespace(slices=lambda name: SliceChoice(1)), raising=False)
    monkeypatch.setattr(search, "first", SimpleNamespace(layers=[SimpleNamespace(name="layer")]), raising=False)
    monkeypatch.setattr(search, "_knapsack", lambda limit: {"layer": cheapest})
    plans = search._chosen(limit)
    assert (search.variant.number, names[plans["layer"]]) == expected  # type: ignore[attr-defined]

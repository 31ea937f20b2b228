"""Racing: verdicts from intervals against the front of the true values, by brute force."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memcompile.exploration.judging.racing import front_of, judge


@st.composite
def races(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    count = draw(st.integers(1, 9))
    quantities = draw(st.integers(1, 2))
    costs = np.array(draw(st.lists(st.lists(st.integers(0, 3), min_size=quantities, max_size=quantities),
                                   min_size=count, max_size=count)), np.float64)  # fmt: skip
    true = np.array(draw(st.lists(st.integers(0, 8), min_size=count, max_size=count))) / 8
    below, above = (np.array(draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))) / 8 for _ in range(2))
    admitted = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    known = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    resolution = draw(st.sampled_from([0.0, 0.125, 0.3]))
    return costs, true, true - below, true + above, admitted, known, resolution


@given(races())
def test_what_is_sure_agrees_with_the_front_of_the_true_values(race: tuple[np.ndarray, ...]) -> None:
    costs, true, low, high, admitted, known, resolution = race
    verdict = judge(costs, low, high, admitted & known, admitted | ~known, float(resolution))
    front = set(front_of(costs, true, admitted, float(resolution)).tolist())
    assert set(np.flatnonzero(verdict.on).tolist()) <= front
    assert not set(np.flatnonzero(verdict.out).tolist()) & front
    assert not (verdict.on & verdict.out).any()
    for number in np.flatnonzero(verdict.beaten_by >= 0).tolist():
        assert (costs[verdict.beaten_by[number]] <= costs[number]).all()


@given(races())
def test_exact_values_settle_every_point(race: tuple[np.ndarray, ...]) -> None:
    costs, true, _, _, admitted, _, resolution = race
    verdict = judge(costs, true, true, admitted, admitted, float(resolution))
    assert not verdict.open.any()
    assert np.flatnonzero(verdict.on).tolist() == sorted(front_of(costs, true, admitted, float(resolution)).tolist())


@given(races())
def test_without_a_resolution_the_front_is_that_of_pareto(race: tuple[np.ndarray, ...]) -> None:
    costs, true, _, _, admitted, _, _ = race
    numbers = np.flatnonzero(admitted)

    def beaten(one: int) -> bool:
        for other in numbers.tolist():
            no_worse = (costs[other] <= costs[one]).all() and true[other] >= true[one]
            same = (costs[other] == costs[one]).all() and true[other] == true[one]
            if other != one and no_worse and (not same or other < one):
                return True
        return False

    wanted = [number for number in numbers.tolist() if not beaten(number)]
    assert sorted(front_of(costs, true, admitted, 0.0).tolist()) == wanted


def test_of_accuracies_within_the_resolution_the_cheaper_one_stays() -> None:
    costs, accuracy = np.array([[1.0], [2.0], [3.0]]), np.array([0.90, 0.903, 0.92])
    every = np.ones(3, np.bool_)
    assert front_of(costs, accuracy, every, 0.005).tolist() == [0, 2]
    assert front_of(costs, accuracy, every, 0.0).tolist() == [0, 1, 2]


def test_no_points_have_no_front() -> None:
    none = np.zeros(0)
    verdict = judge(np.zeros((0, 2)), none, none, none.astype(bool), none.astype(bool), 0.01)
    assert len(verdict.on) == 0
    assert front_of(np.zeros((0, 2)), none, none.astype(bool), 0.01).tolist() == []

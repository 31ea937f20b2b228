"""Rounds by turns: medians and quartiles of ratios, and what is done about a disturbed reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import rounds

WORK, REFERENCE = object(), object()


def clock_of(work: list[float], reference: list[float]) -> Callable[[Callable[[], object], int], float]:
    """A clock that says these times one after the other, after one of each for the number of calls."""
    left = {WORK: iter([9.0, *work]), REFERENCE: iter([9.0, *reference])}
    return lambda each, calls: next(left[each()])


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "PAUSE_S", 0.0)


def measured(work: list[float], reference: list[float], count: int) -> rounds.Comparison:
    return rounds.compared(lambda: WORK, lambda: REFERENCE, count, clock_of(work, reference))


def test_ratios_are_medians_with_quartiles() -> None:
    found = measured([2.0, 4.0, 6.0, 8.0, 30.0], [1.0, 1.0, 1.0, 1.0, 1.0], 5)
    assert (found.ratio, found.lower_quartile, found.upper_quartile) == (6.0, 4.0, 8.0)
    assert (found.rounds, found.again, found.disturbed) == (5, 0, 0)


def test_what_slows_both_leaves_the_ratio() -> None:
    found = measured([2.0, 2.4, 2.8], [1.0, 1.2, 1.4], 3)
    assert found.lower_quartile == pytest.approx(found.upper_quartile) == pytest.approx(2.0)


def test_a_disturbed_reference_is_measured_again() -> None:
    """One run once printed a hundredth of the true ratio: its reference had waited."""
    found = measured([2.0, 2.0, 2.0, 2.0], [1.0, 100.0, 1.0, 1.0], 3)
    assert found.ratio == found.lower_quartile == 2.0
    assert (found.rounds, found.again, found.disturbed) == (3, 1, 0)


def test_slow_rounds_before_the_first_quiet_one_do_not_count() -> None:
    found = measured([2.0] * 4, [50.0, 1.0, 1.1, 1.2], 3)
    assert found.again == 1
    assert found.reference_s == 1.1


def test_a_machine_that_is_never_quiet_is_said_to_be() -> None:
    """Each round is twice as fast as the one before, so that none but the last is good."""
    found = measured([2.0] * 9, [2.0**power for power in range(9, 0, -1)], 3)
    assert (found.rounds, found.again, found.disturbed) == (3, 6, 2)


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_exponents(slope: float) -> None:
    sizes = [1e4, 1e5, 1e7]
    assert rounds.exponent(sizes, [3 * size**slope for size in sizes]) == pytest.approx(slope)


def test_the_machine_is_described() -> None:
    facts = rounds.machine()
    assert facts["processors"] >= 1
    assert facts["versions"]["numpy"][0].isdigit()

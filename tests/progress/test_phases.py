"""Phases: numbers from a plan, expected times, details within."""

from __future__ import annotations

import pytest

from memcompile.progress.phases import Phases, minutes


class Clock:
    """A clock that a test moves."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_bars_within_a_phase_are_its_details(clock: Clock) -> None:
    begun: list[bool] = []
    phases = Phases(begun.append, ("reading", "mapping", "checking"), clock)
    with phases("reading", 1):
        assert phases.words == "phase 1 of 3: reading"
    with phases("mapping", 1):
        with phases("calibrating", 5) as advance:
            advance(2)
            assert phases.words == "phase 2 of 3: mapping, calibrating 2 of 5"
            assert phases.share == pytest.approx(1 / 3)
        assert phases.words == "phase 2 of 3: mapping"
    assert phases.words == "phase 2 of 3: mapping", "until another begins"
    assert begun.count(True) == 2


def test_a_phase_that_is_left_out_leaves_the_numbers_of_others(clock: Clock) -> None:
    phases = Phases(lambda begins: None, ("reading", "mapping", "checking"), clock)
    with phases("checking", 1):
        assert phases.words == "phase 3 of 3: checking"
    with phases("something else", 4):
        assert phases.words == "something else, 0 of 4"
        assert phases.share == 0.0


def test_the_time_left_is_that_of_what_is_done(clock: Clock) -> None:
    phases = Phases(lambda begins: None, ("running",), clock)
    clock.now_s += 50
    with phases("running", 1_000) as advance:
        assert phases.left_s is None
        clock.now_s += 10
        advance(1)
        assert phases.left_s is None, "too little to say"
        advance(249)
        assert phases.left_s == pytest.approx(30)
        assert phases.words == "phase 1 of 1: running (0:30 left), 250 of 1,000"
        assert phases.share == pytest.approx(0.25)
        advance(750)
        assert phases.left_s is None
    assert phases.elapsed_s == 60


def test_the_same_phase_twice_is_one(clock: Clock) -> None:
    begun: list[bool] = []
    phases = Phases(begun.append, (), clock)
    for _ in range(3):
        with phases("scoring", 2) as advance:
            advance(1)
    assert begun.count(True) == 1


def test_a_failure_closes_all_bars(clock: Clock) -> None:
    phases = Phases(lambda begins: None, ("a",), clock)
    with pytest.raises(ZeroDivisionError), phases("a", 1), phases("b", 7):
        raise ZeroDivisionError
    assert phases.words == "phase 1 of 1: a"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (754, "12:34"), (3_723, "1:02:03")]
)
def test_times_read_like_a_clock(seconds: float, words: str) -> None:
    assert minutes(seconds) == words

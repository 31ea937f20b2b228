"""Limits of errors above which pairs are written again, and targets that cannot be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcompile.errors import TargetError
from memcompile.hardware.pair_corrections import (
    LEAST_LIMIT,
    MOST_CORRECTIONS,
    accepted_errors,
    corrections_at,
    limit_sigmas,
    mean_correction_us,
)
from memcompile.hardware.target import MOST_WRITTEN_AGAIN, load_target

TARGET = load_target("yao2020")


@given(st.floats(0.01, MOST_WRITTEN_AGAIN))
def test_a_limit_has_the_corrections_that_it_was_found_for(share: float) -> None:
    assert corrections_at(limit_sigmas(share)) == pytest.approx(share, rel=1e-6)


def test_corrections_are_counted_as_they_happen() -> None:
    """A thousand pairs, each written until it is within the limit, eight times at most."""
    rng = np.random.default_rng(0)
    for share in (0.3, 1.0, 2.5):
        limit, count = limit_sigmas(share), 200_000
        error, done = np.sqrt(2) * rng.standard_normal(count), np.zeros(count)
        for _ in range(MOST_CORRECTIONS):
            wrong = np.abs(error) > limit
            done += wrong
            error = np.where(wrong, rng.standard_normal(count), error)
        assert done.mean() == pytest.approx(share, rel=0.02)


def test_upper_slices_are_accepted_where_the_next_one_reaches() -> None:
    below, base = np.array([0.0, 5.0, -7.0]), 5
    low, high = accepted_errors(np.zeros(3), below, base, TARGET)
    top = TARGET.signed_levels
    for error in (low * 0.999, high * 0.999):
        assert (np.abs(below - base * error) <= top + LEAST_LIMIT).all()
    for error in (low * 1.001 - 0.01, high * 1.001 + 0.01):
        assert (np.abs(below - base * error) > top).all()


def test_the_mean_correction_is_that_of_errors_above_the_limit() -> None:
    again = TARGET.with_(programming__write_again_share=1.0)
    start_us, goal_us = mean_correction_us(again)
    sigma_us = TARGET.programming.sigma_us
    errors = np.abs(np.sqrt(2) * sigma_us * np.random.default_rng(1).standard_normal(200_000))
    above = errors[errors > limit_sigmas(1.0) * sigma_us]
    assert float(goal_us - start_us) == pytest.approx(above.mean(), rel=0.01)


def test_targets_that_cannot_be_written_again() -> None:
    assert TARGET.can_write_again
    with pytest.raises(TargetError, match="do not keep the error that is read back; leave it at 0, or set error_stays"):
        TARGET.with_(programming__error_stays=False, programming__write_again_share=1.0)
    with pytest.raises(TargetError, match="pulses already end within a margin; leave it at 0"):
        TARGET.with_(write_verify__emulated=True, programming__write_again_share=1.0)
    with pytest.raises(TargetError, match="less than or equal to 4"):
        TARGET.with_(programming__write_again_share=5.0)
    for name in ("hermes", "neurram", "ideal"):
        assert not load_target(name).can_write_again

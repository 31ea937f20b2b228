"""Intervals of accuracy: coverage of the mean over a finite number of chips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from memcompile.exploration.judging.intervals import NetworkCurve, count_margin, measured, predicted
from memcompile.noise.loss_curve import LossCurve

CURVE = NetworkCurve(("a", "b"), (0.5, 1.0), 1.0, LossCurve(0.9, 0.5, 1.5))


@pytest.mark.parametrize(("ideal", "loss", "spread"), [(0.98, 0.002, 0.001), (0.95, 0.03, 0.01), (0.9, 0.2, 0.06)])
def test_the_interval_of_some_chips_holds_the_mean_of_all(ideal: float, loss: float, spread: float) -> None:
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(400):
        chips = np.clip(ideal - loss + spread * rng.standard_normal(10), 0, 1)
        low, high = measured(chips[:2].tolist(), 10, ideal, 1000)
        missed += not low <= chips.mean() <= high
    assert missed <= 12  # 0.5 % on each side, and twice that for a spread that is not the expected one


def test_all_chips_are_exact() -> None:
    assert measured([0.9, 0.8], 2, 0.95, 100) == (pytest.approx(0.85), pytest.approx(0.85))


def test_more_chips_are_never_less_sure() -> None:
    shares = [0.9, 0.91, 0.89, 0.9, 0.9]
    widths = [high - low for low, high in (measured(shares[:count], 5, 0.95, 500) for count in (2, 3, 4, 5))]
    assert widths == sorted(widths, reverse=True)


def test_an_interval_never_leaves_what_is_possible() -> None:
    low, high = measured([1.0, 1.0], 4, 1.0, 10)
    assert low >= 0.5
    assert high <= 1.0


def test_a_prediction_holds_what_it_predicts() -> None:
    for noise in ([0.0, 0.0], [0.01, 0.02], [0.3, 0.5], [3.0, 9.0]):
        low, high = predicted(0.95, CURVE, noise, 500)
        assert 0 <= low <= max(0.95 - CURVE.loss(noise), 0.0) <= high <= 1


def test_rounding_is_no_loss_but_any_noise_draws_it_anew() -> None:
    rounded = replace(CURVE, rounding=0.1)
    assert rounded.loss([0.0, 0.0]) == rounded.most_lost([0.0, 0.0]) == 0
    assert CURVE.loss([0.01, 0.02]) < rounded.loss([0.01, 0.02]) < CURVE.loss([0.01, 0.12])
    low, high = predicted(0.7, rounded, [1e-9, 1e-9], 500)
    assert low <= 0.7 - CURVE.curve(0.1) < 0.7 < high


def test_noise_beyond_first_order_is_only_known_to_be_large() -> None:
    assert predicted(0.95, CURVE, [3.0, 9.0], 500)[1] > 0.95 - CURVE.loss([0.3, 0.3])


def test_noise_that_changes_no_answer_leaves_no_doubt() -> None:
    low, high = predicted(0.95, CURVE, [1e-12, 1e-12], 500)
    assert (low, high) == (pytest.approx(0.95, abs=1e-9), pytest.approx(0.95, abs=1e-9))
    low, high = measured([0.95, 0.95], 10, 0.95, 500, most_lost=1e-12)
    assert high - low < 1e-6
    low, high = measured([0.95, 0.95], 10, 0.95, 500)
    assert high - low > 1e-3


def test_a_count_is_as_far_off_as_poisson_says() -> None:
    rng = np.random.default_rng(4)
    for share, images in ((0.001, 500), (0.01, 500), (0.1, 1000)):
        counts = rng.poisson(share * images, 20_000) / images
        beyond = float((counts > share + count_margin(share, images) + 1 / images).mean())
        assert beyond < 0.003

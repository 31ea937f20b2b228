"""Curve from noise to loss, fitted to runs."""

from __future__ import annotations

import numpy as np
import pytest

from memcompile.noise.loss_curve import LossCurve


def test_curve_finds_the_power_of_its_own_losses() -> None:
    """Runs scatter as chips and 400 images do; 300 of them leave a standard error of three hundredths."""
    truth, rng = LossCurve(0.9, 2.0, 1.5), np.random.default_rng(0)
    noise = np.tile(np.geomspace(0.05, 0.5, 12), 25)
    exact = np.array([truth(t) for t in noise])
    losses = exact * (1 + 0.4 * rng.standard_normal(300)) + np.sqrt(exact / 400) * rng.standard_normal(300)
    fitted = LossCurve.fitted(noise.tolist(), losses.tolist(), (np.square(0.4 * exact) + exact / 400).tolist(), 0.9)
    for t in (0.1, 0.2, 0.4):
        assert fitted(t) == pytest.approx(truth(t), rel=0.12)
    assert fitted(0.0) == 0.0


def test_scatter_around_no_loss_is_no_loss() -> None:
    """Answers that turn right and wrong by chance leave little, however far single runs are from it."""
    losses = np.tile([0.03, -0.03, 0.01, -0.01], 5)
    fitted = LossCurve.fitted(np.full(20, 0.02).tolist(), losses.tolist(), [5e-4] * 20, 0.9)
    assert fitted(0.02) < 0.005


def test_runs_without_a_loss_predict_next_to_none() -> None:
    fitted = LossCurve.fitted([0.01, 0.02, 0.04], [0.0, 0.0, 0.0], [1e-4] * 3, 0.9)
    assert fitted(0.04) < 0.01

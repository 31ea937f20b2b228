"""The loss of a network as a function of the noise of its layers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcompile.accuracy.loss_model import LossModel
from memcompile.noise.loss_curve import CurveRun, LossCurve


@given(st.floats(0.001, 0.89), st.floats(0.5, 3.0), st.floats(0.01, 10.0))
def test_the_curve_and_its_inverse(loss: float, power: float, scale: float) -> None:
    curve = LossCurve(0.9, scale, power)
    assert curve(curve.inverse(loss)) == pytest.approx(loss, rel=1e-6)
    assert curve.inverse(0.95) == np.inf
    model = LossModel(np.array([2.0, 1.0]), curve, 0.5, 10)
    at_limit = model.limit(100 * loss)
    assert model.loss_at(0.5 * at_limit) == pytest.approx(100 * loss, rel=1e-6)


def test_a_run_that_loses_nothing_leaves_the_uncertainty_as_it_is() -> None:
    """Its loss may be above zero by rounding alone."""
    curve = LossCurve(0.9, 1.0, 1.5)
    runs = [CurveRun(1.0, 0.02, curve(0.02), 96, 0.002) for _ in range(6)]
    usual, _ = LossModel(np.ones(1), curve, 1.0, 96, runs=tuple(runs)).error_and_spread(0.3)
    with_none = (*runs, CurveRun(1.0, 0.02, 1e-19, 96, 0.002))
    found, _ = LossModel(np.ones(1), curve, 1.0, 96, runs=with_none).error_and_spread(0.3)
    assert usual <= found < 2 * usual


@given(st.floats(0.0, 0.5), st.floats(1e-4, 0.3), st.floats(0.0, 30.0))
def test_devices_lose_what_rounding_has_left(noise: float, rounding: float, counted: float) -> None:
    """Much noise costs what the curve says beside what ideal devices were counted to lose; none costs nothing."""
    model = LossModel(np.ones(1), LossCurve(0.9, 1.0, 1.5), 1.0, 10, rounding=rounding, rounding_loss=counted)
    assert model.device_loss(0.0) == 0.0
    together = model.loss_at(rounding + noise)
    if noise >= rounding:
        assert model.device_loss(noise) == pytest.approx(together - counted, abs=1e-9)
    uncounted = replace(model, rounding_loss=math.nan).device_loss(noise)
    assert uncounted == pytest.approx(together - model.loss_at(rounding), abs=1e-9)
    assert (model.device_loss(noise) <= uncounted) == (counted >= model.loss_at(rounding) or noise == 0)

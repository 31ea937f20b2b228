"""The loss of a network as a function of the noise of its layers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcompile.accuracy.loss_model import LossModel
from memcompile.noise.loss_curve import LossCurve


@given(st.floats(0.001, 0.89), st.floats(0.5, 3.0), st.floats(0.01, 10.0))
def test_the_curve_and_its_inverse(loss: float, power: float, scale: float) -> None:
    curve = LossCurve(0.9, scale, power)
    assert curve(curve.inverse(loss)) == pytest.approx(loss, rel=1e-6)
    assert curve.inverse(0.95) == np.inf
    model = LossModel(np.array([2.0, 1.0]), curve, 0.5, 10)
    at_limit = model.limit(100 * loss)
    assert model.loss_at(0.5 * at_limit) == pytest.approx(100 * loss, rel=1e-6)

"""Right answers of outputs that are no scores."""

from __future__ import annotations

import numpy as np
import pytest

from memcompile.accuracy.scoring import lost_share
from memcompile.data.loader import Dataset


def test_answers_without_scores_are_counted() -> None:
    labels = np.array([0, 1, 2, 3] * 25)
    noisy = labels.copy()
    noisy[:3] = 9
    dataset = Dataset("x", {"x": np.zeros((100, 1), np.float32)}, labels, {}, False)
    lost, error = lost_share({"y": labels}, {"y": noisy}, dataset)
    assert lost == pytest.approx(0.03)
    assert error == pytest.approx(np.sqrt(0.06 / 100))

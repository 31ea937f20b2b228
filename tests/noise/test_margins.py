"""Margins of answers, and losses smoothed over them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcompile.accuracy.scoring import score
from memcompile.noise.margins import as_often_wrong, class_margins, smoothed_loss


def _scores(seed: int, samples: int = 200, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    scores = rng.standard_normal((samples, classes)) + 2 * np.eye(classes)[labels]
    return scores.astype(np.float32), labels


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_margins_are_above_zero_where_answers_are_right(seed: int) -> None:
    scores, labels = _scores(seed)
    margins = class_margins({"y": scores}, labels)
    assert margins is not None
    assert (margins > 0).mean() == score({"y": scores}, labels)
    own = scores[np.arange(len(scores)), labels].astype(float)
    others = np.where(np.eye(4, dtype=bool)[labels], -np.inf, scores).max(axis=1)
    np.testing.assert_allclose(margins, own - others, atol=1e-6)


def test_margins_of_probabilities_are_those_of_their_logarithms() -> None:
    scores, labels = _scores(0)
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    found, wanted = class_margins({"y": shares}, labels), class_margins({"y": scores}, labels)
    assert found is not None
    assert wanted is not None
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_labels_by_name_are_looked_up() -> None:
    scores, labels = _scores(1)
    names = ("ant", "bee", "cat", "dog")
    by_name = class_margins({"y": scores}, np.array(names)[labels], names)
    np.testing.assert_array_equal(by_name, class_margins({"y": scores}, labels))


@pytest.mark.parametrize(
    "outputs",
    [
        {"y": np.zeros((5, 4), np.int64)},
        {"y": np.zeros(5, np.float32)},
        {"y": np.zeros((5, 1), np.float32)},
        {"y": np.zeros((4, 4), np.float32)},
        {"y": np.zeros((5, 3), np.float32)},
        {"y": np.zeros((5, 4), np.float32), "z": np.zeros((5, 4), np.float32)},
        {"y": [{"a": 1.0}] * 5},
        {"y": np.full((5, 4), np.inf, np.float32)},
        {"y": np.full((5, 4), np.nan, np.float32)},
    ],
)
def test_other_outputs_have_no_margins(outputs: dict[str, object]) -> None:
    assert class_margins(outputs, np.array([0, 1, 2, 3, 3])) is None  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(0.0, 3.0))
def test_smoothed_loss_counts_all_pairs(seed: int, noise: float) -> None:
    """Of samples and of what those with margins of about their size were moved by, 32 of 80."""
    rng = np.random.default_rng(seed)
    margins, before = rng.normal(2, 2, 60), rng.normal(2, 2, 80)
    after = before + noise * rng.standard_normal(80)
    loss, error = smoothed_loss(margins[:, None], before, after)
    order = np.argsort(np.abs(before))
    first = np.clip((np.abs(before)[order] < np.abs(margins)[:, None]).sum(axis=1) - 16, 0, 48) // 4 * 4
    moves = (after - before)[order][first[:, None] + np.arange(32)]
    # A margin that is moved to zero but for rounding may be counted on either side.
    assert loss == pytest.approx((margins[:, None] + moves <= 0).mean() - (margins <= 0).mean(), abs=1e-3)
    assert 0 <= error < 0.1
    if noise == 0:
        assert loss == 0


@pytest.mark.parametrize(("width", "seed"), [(1.0, 0), (2.0, 1), (4.0, 2)])
def test_smoothed_loss_is_the_mean_of_counts(width: float, seed: int) -> None:
    """Counts on 200 samples, averaged over 400 draws of noise, against one draw that is smoothed."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(5, 3, 2000)
    counts = [((margins + width * rng.standard_normal(2000)) <= 0).mean() for _ in range(400)]
    wanted = float(np.mean(counts)) - (margins <= 0).mean()
    after = margins + width * rng.standard_normal(2000)
    assert smoothed_loss(margins[:, None], margins, after)[0] == pytest.approx(wanted, rel=0.25)


def test_large_margins_have_more_noise() -> None:
    """Noise in proportion to the margin, as of a chip whose gain is uncertain: moves of small ones tell too little."""
    rng = np.random.default_rng(4)
    margins = np.abs(rng.normal(0, 5, 2000))
    counts = [(margins + 0.8 * margins * rng.standard_normal(2000) <= 0).mean() for _ in range(200)]
    after = margins + 0.8 * margins * rng.standard_normal(2000)
    assert smoothed_loss(margins[:, None], margins, after)[0] == pytest.approx(float(np.mean(counts)), rel=0.25)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(0.0, 0.6))
def test_spread_margins_are_as_often_wrong(seed: int, wrong: float) -> None:
    margins = np.random.default_rng(seed).normal(4, 1.5, 100)
    found = as_often_wrong(margins, wrong)
    share = (found <= 0).mean()
    if (margins <= 0).mean() >= wrong:
        np.testing.assert_array_equal(found, margins[:, None])
    else:
        assert min(wrong, 0.4) <= share <= min(wrong, 0.4) + 0.01
        assert found.mean() == pytest.approx(margins.mean(), abs=1e-6)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_margins_of_any_size_are_spread(scale: float) -> None:
    margins = scale * np.linspace(1, 2, 50)
    assert (as_often_wrong(margins, 0.1) <= 0).mean() == pytest.approx(0.1, abs=0.01)


def test_standard_error_is_that_of_the_samples_and_not_of_their_copies() -> None:
    """The same margins with copies say no more."""
    rng = np.random.default_rng(5)
    margins = rng.gamma(2, 2, 100)
    after = margins + 2.0 * rng.standard_normal(100)
    once = smoothed_loss(margins[:, None], margins, after)
    assert smoothed_loss(np.repeat(margins[:, None], 16, axis=1), margins, after) == pytest.approx(once)


def test_margins_of_nothing_stay() -> None:
    assert as_often_wrong(np.zeros(0), 0.1).shape == (0, 1)


def test_a_network_that_knows_its_samples_loses_more_on_others() -> None:
    rng = np.random.default_rng(3)
    seen = 1 + rng.gamma(3, 2, 400)
    after = seen + 2.0 * rng.standard_normal(400)
    known = smoothed_loss(seen[:, None], seen, after)[0]
    assert smoothed_loss(as_often_wrong(seen, 0.02), seen, after)[0] > 1.3 * known > 0

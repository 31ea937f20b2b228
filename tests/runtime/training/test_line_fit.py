"""Gains and offsets of lines: exact where nothing disturbs, drawn together where samples are few."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from memcompile.runtime.training import line_fit
from memcompile.runtime.training.line_fit import LineMoments, _excess, corrections_of, shrunk

PLACE = np.array([0, 1, 2, 2, 1, 0])


def lines(
    rng: np.random.Generator, items: int, slope: NDArray[np.float64], rest: NDArray[np.float64], noise: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Reference and measurement, [items, positions, channels], of lines with these slopes and rests."""
    reference = rng.normal(1.0, 2.0, (items, len(PLACE), slope.shape[1]))
    measured = slope[PLACE] * reference + rest[PLACE] + noise * rng.normal(size=reference.shape)
    return reference, measured


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 40))
def test_lines_without_noise_are_corrected_exactly_in_any_chunks(seed: int, items: int) -> None:
    rng = np.random.default_rng(seed)
    slope, rest = rng.uniform(0.7, 1.3, (3, 4)), rng.normal(0, 0.5, (3, 4))
    reference, measured = lines(rng, items, slope, rest, 0.0)
    cut = items // 2
    pairs = [(reference[:cut], measured[:cut]), (reference[cut:], measured[cut:])]
    gain, offset = corrections_of(LineMoments.of(pairs, PLACE, 3))
    np.testing.assert_allclose(measured * gain[PLACE] + offset[PLACE], reference, atol=1e-6)


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize(("block_bytes", "position_bytes"), [(1, 1), (1 << 9, 1 << 7), (1 << 18, 1 << 15)])
def test_sums_add_items_one_after_the_other(
    block_bytes: int, position_bytes: int, channels_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_fit, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(line_fit, "POSITION_BYTES", position_bytes)
    rng = np.random.default_rng(0)
    y, x = (rng.normal(size=(40, 17, 3)).astype(np.float32) for _ in range(2))
    want = np.zeros((5, 17, 3))
    for a, b in zip(y.astype(float), x.astype(float), strict=True):
        want += np.array([a, b, a * a, b * a, b * b])
    if channels_first:
        y, x = (np.ascontiguousarray(part.transpose(0, 2, 1)).transpose(0, 2, 1) for part in (y, x))
    np.testing.assert_array_equal(line_fit._sums_of_products(y, x), want)


def test_means_are_corrected_without_scales() -> None:
    rng = np.random.default_rng(1)
    reference, measured = lines(rng, 500, np.full((3, 2), 1.2), np.full((3, 2), 0.3), 0.0)
    gain, offset = corrections_of(LineMoments.of([(reference, measured)], PLACE, 3), scales=False)
    assert (gain == 1).all()
    np.testing.assert_allclose((measured + offset[PLACE] - reference).mean(axis=(0, 1)), 0, atol=1e-2)


def test_noise_does_not_shrink_a_line() -> None:
    """The error is in what is measured: the gain stays that of the line, however noisy it is."""
    rng = np.random.default_rng(2)
    reference, measured = lines(rng, 4000, np.full((3, 4), 1.25), np.zeros((3, 4)), 2.0)
    gain, _ = corrections_of(LineMoments.of([(reference, measured)], PLACE, 3))
    np.testing.assert_allclose(gain, 0.8, rtol=0.03)


def test_lines_with_few_samples_take_the_mean_of_their_channel() -> None:
    rng = np.random.default_rng(3)
    slope = np.repeat(rng.uniform(0.8, 1.2, (1, 16)), 3, axis=0)
    reference, measured = lines(rng, 4, slope, np.zeros((3, 16)), 1.0)
    found = LineMoments.of([(reference, measured)], PLACE, 3)
    alone = np.where(found.reference_variance > 0, found.covariance / found.reference_variance, 1.0)
    gain, _ = corrections_of(found)
    assert np.abs(1 / gain - slope).mean() < 0.5 * np.abs(alone - slope).mean()


def test_a_line_that_never_varies_takes_the_gain_of_its_channel() -> None:
    rng = np.random.default_rng(4)
    reference, measured = lines(rng, 400, np.full((3, 3), 0.9), np.zeros((3, 3)), 0.05)
    reference[:, PLACE == 1] = 0.0
    measured[:, PLACE == 1] = 0.25
    gain, offset = corrections_of(LineMoments.of([(reference, measured)], PLACE, 3))
    np.testing.assert_allclose(gain[1], 1 / 0.9, rtol=0.01)
    np.testing.assert_allclose(0.25 * gain[1] + offset[1], 0, atol=1e-3)


@pytest.mark.parametrize("slope", [0.0, -1.0])
def test_a_drowned_channel_keeps_its_gain(slope: float) -> None:
    rng = np.random.default_rng(5)
    reference, measured = lines(rng, 50, np.full((3, 2), slope), np.zeros((3, 2)), 10.0)
    gain, _ = corrections_of(LineMoments.of([(reference, measured)], PLACE, 3))
    assert (gain == 1).all()


@pytest.mark.parametrize("small", [1e-3, 1e-9])
def test_a_channel_that_hardly_carries_anything_says_nothing_of_the_others(small: float) -> None:
    """Its estimates are sure and close to each other, and its rests small: digital scales differ by channel."""
    rng = np.random.default_rng(7)
    slope, rest = rng.uniform(0.8, 1.2, (3, 8)), rng.normal(0, 0.5, (3, 8))
    reference, measured = lines(rng, 400, slope, rest, 0.2)
    quiet = np.concatenate([np.full((3, 1), 1.0), slope], axis=1), np.concatenate([np.zeros((3, 1)), rest], axis=1)
    scale = np.array([small, *np.ones(8)])
    wide, seen = lines(rng, 400, quiet[0], quiet[1], 0.2)
    seen[..., 0] = wide[..., 0] + 1e-6 * rng.normal(size=wide.shape[:2])
    for pair in ((reference, measured), (wide * scale, seen * scale)):
        gain, offset = corrections_of(LineMoments.of([pair], PLACE, 3))
        y, x = (part[..., -8:] for part in pair)
        left = x * gain[PLACE][:, -8:] + offset[PLACE][:, -8:] - y
        assert left.std() < 1.3 * 0.2


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 5), st.integers(3, 8), st.floats(0.0, 4.0))
def test_the_spread_between_lines_is_found(seed: int, places: int, channels: int, between: float) -> None:
    """At the variance that is found, estimates spread as far as they should; 0 where they spread less."""
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.1, 1e6, (places, channels))
    apart = rng.normal(size=weight.shape) * np.sqrt(between + 1 / weight)
    found = _excess(weight, apart, channels)
    free = weight.size - channels
    if found > 0:
        assert float((apart**2 / (found + 1 / weight)).sum()) == pytest.approx(free, rel=1e-6)
    else:
        assert float((apart**2 * weight).sum()) <= free * (1 + 1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 5))
def test_estimates_are_drawn_between_themselves_and_their_means(seed: int, places: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    found = rng.normal(1, 1, (places, channels))
    unsure, sure = (shrunk(found, np.full(found.shape, weight), around=1.0) for weight in (1e-9, 1e12))
    np.testing.assert_allclose(sure, found, atol=1e-3)
    np.testing.assert_allclose(unsure, 1.0, atol=1e-3)
    assert np.isfinite(shrunk(found, np.zeros(found.shape), around=1.0)).all()

"""Read noise: Gaussian to the tails, and independent between lines, phases, windows, images and tiles."""

import numpy as np
import pytest
from scipy import stats

from memcompile.runtime import random_numbers
from memcompile.runtime.random_numbers import Purpose, read_gaussians, stream

LINES, PHASES, WINDOWS, IMAGES, TILES = 96, 4, 40, 50, 2
LIMIT = 5.0
"""Standard errors; a single comparison exceeds it in 6 of 10 million seeds."""


def draw(seed: int) -> np.ndarray:
    """Read noise, [tiles, images, windows, phases, lines]."""
    image, window = np.divmod(np.arange(IMAGES * WINDOWS), WINDOWS)
    noise = [
        [
            read_gaussians(LINES, window + 3, image + 2**31, stream(Purpose.READ, tile), seed, phase)
            for phase in range(PHASES)
        ]
        for tile in range(TILES)
    ]
    whole = np.array(noise, np.float64).reshape(TILES, PHASES, IMAGES, WINDOWS, LINES)
    return whole.transpose(0, 2, 3, 1, 4)


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    """7.7 million numbers from five seeds, [seeds, tiles, images, windows, phases, lines]."""
    return np.stack([draw(seed) for seed in (0, 1, 2**32, 2**40 + 3, 2**64 - 1)])


def test_moments(samples: np.ndarray) -> None:
    """The first eight moments; a moment of order n has the variance E z^2n - (E z^n)^2."""
    for order in range(1, 9):
        even, double = stats.norm.moment(order), stats.norm.moment(2 * order)
        error = np.sqrt((double - even**2) / samples.size)
        assert abs((samples**order).mean() - even) < LIMIT * error, f"moment {order}"


def test_distribution(samples: np.ndarray) -> None:
    """Kolmogorov-Smirnov of all and chi-square of 1,000 equally probable bins; 1 of 10,000 seeds fails."""
    values = samples.ravel()
    assert stats.kstest(values, "norm").pvalue > 1e-4
    counts = np.histogram(values, stats.norm.ppf(np.linspace(0, 1, 1001)))[0]
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("limit", [2.0, 3.0, 4.0, 4.5, 5.0])
@pytest.mark.parametrize("sign", [-1, 1])
def test_tails(samples: np.ndarray, limit: float, sign: int) -> None:
    """As many numbers lie beyond a limit as should; Poisson limits with one false alarm in a million."""
    expected = stats.norm.sf(limit) * samples.size
    found = int((sign * samples > limit).sum())
    assert stats.poisson.ppf(1e-6, expected) <= found <= stats.poisson.isf(1e-6, expected)


@pytest.mark.parametrize("axis", range(1, 6), ids=["tiles", "images", "windows", "phases", "lines"])
@pytest.mark.parametrize("power", [1, 2])
def test_neighbours_are_independent(samples: np.ndarray, axis: int, power: int) -> None:
    """No correlation of numbers, or of their squares, at any distance along an axis."""
    values = samples if power == 1 else (samples**2 - 1) / np.sqrt(2)
    values = np.moveaxis(values, axis, 0)
    for distance in range(1, len(values)):
        products = values[distance:] * values[:-distance]
        assert abs(products.sum()) < LIMIT * np.sqrt(products.size), f"distance {distance}"


def test_every_pair_of_lines_and_phases_is_independent(samples: np.ndarray) -> None:
    """Correlations of all 73,536 pairs: the largest as large as it should be, and all their squares."""
    rows = samples.reshape(-1, PHASES * LINES)
    pairs = (rows.T @ rows)[np.triu_indices(PHASES * LINES, 1)] / np.sqrt(len(rows))
    assert abs(pairs).max() < stats.norm.isf(1e-4 / (2 * len(pairs)))
    assert abs((pairs**2).mean() - 1) < LIMIT * np.sqrt(2 / len(pairs))


def test_numbers_do_not_depend_on_what_is_drawn_with_them() -> None:
    window, image = np.arange(7), np.full(7, 5)
    whole = read_gaussians(100, window, image, 9, 77, phase=2)
    assert np.array_equal(read_gaussians(33, window[3:4], image[:1], 9, 77, phase=2)[0], whole[3, :33])


@pytest.mark.parametrize("change", ["window", "image", "stream", "seed", "phase"])
def test_numbers_depend_on_everything_that_keys_them(change: str) -> None:
    keys = {"window": np.array([4]), "image": np.array([5]), "stream": 6, "seed": 7, "phase": 1}
    changed = {**keys, change: keys[change] + 32}
    first, second = read_gaussians(64, **keys), read_gaussians(64, **changed)
    assert abs(np.corrcoef(first[0, :32], second[0, :32])[0, 1]) < 0.9
    assert not len(np.intersect1d(first, second))


@pytest.mark.parametrize("count", [1, 3, 4, 50])
def test_numbers_of_cells_do_not_depend_on_how_many_are_worked_out_at_once(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Each is one of a block of four, of which callers may want fewer."""
    arrays, first = np.arange(5)[:, None], np.arange(3) << 29
    whole = random_numbers.gaussians(52, arrays, 7, 9, 77, first)
    assert whole.shape == (5, 3, 52)
    assert len(np.unique(whole)) == whole.size
    monkeypatch.setattr(random_numbers, "BLOCKS_AT_ONCE", 6)
    np.testing.assert_array_equal(random_numbers.gaussians(count, arrays, 7, 9, 77, first), whole[..., :count])


def test_the_largest_uniforms_have_a_radius() -> None:
    # The logarithm is near zero there; its root would not be a number if rounding could take it to the other side.
    uniforms = np.concatenate([np.arange((1 << 32) - (1 << 20), 1 << 32), np.arange(1 << 20) << 12]).astype(np.uint32)
    both = random_numbers._read_pair(uniforms, np.zeros(len(uniforms), np.uint32))
    assert np.isfinite(both).all()

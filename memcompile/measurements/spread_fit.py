"""Fit of the mean and the spread of numbers against a state: forms of both, maximum likelihood, cross-validation.

Numbers are Gaussian with mean m(x) and standard deviation s(x). Means are linear in their coefficients and fitted by
weighted least squares; spreads by maximum likelihood. A form is chosen by the likelihood of numbers that it was not
fitted to: the one with fewest coefficients whose likelihood is not more than WORTH below the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FOLDS = 5
ROUNDS = 3
"""Turns of fitting the mean with the spread and the spread with the mean."""
WORTH = 2.0
"""Gain in likelihood of all held-out numbers together, in nats, that further coefficients have to bring."""
STEPS = 60
LEAST_SPREAD = 1e-6
"""Smallest spread, as a share of that of all numbers."""
LEAST_SIGMA = 1e-12
"""Standard deviation that residuals are divided by in place of a smaller one."""


@dataclass(frozen=True)
class Form:
    """Form of a mean or of a spread: ``constant``, ``polynomial``, ``proportional`` or ``table``, or ``none``."""

    kind: str
    degree: int = 0
    knots: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """Number of coefficients."""
        sizes = {"none": 0, "constant": 1, "proportional": 2, "polynomial": self.degree + 1, "table": len(self.knots)}
        return sizes[self.kind]

    @property
    def name(self) -> str:
        """Name for people."""
        names = {"polynomial": f"polynomial of degree {self.degree}", "table": f"table of {len(self.knots)} points"}
        return names.get(self.kind, self.kind)

    def basis(self, x: Array) -> Array:
        """Functions whose sum, times the coefficients, is the form, [numbers, coefficients]."""
        if self.kind == "table":
            return np.stack([np.interp(x, self.knots, unit) for unit in np.eye(len(self.knots))], axis=1)
        degree = self.degree if self.kind == "polynomial" else 0
        return np.vander(x, degree + 1, increasing=True)[:, : self.size]

    def points(self, values: Array, unit: float = 1.0) -> list[list[float]]:
        """Points [state, value] of a table, with states in a unit."""
        return [[knot * unit, value] for knot, value in zip(self.knots, values.tolist(), strict=True)]


NONE, CONSTANT, PROPORTIONAL = Form("none"), Form("constant"), Form("proportional")


def polynomial(degree: int) -> Form:
    """Form of a polynomial."""
    return Form("polynomial", degree)


def table(x: Array, most: int) -> Form:
    """Form of a table with points at even shares of the states, fewer where there are fewer states."""
    states = np.unique(x)
    knots = states if len(states) <= most else np.unique(np.quantile(states, np.linspace(0, 1, most)))
    return Form("table", knots=tuple(knots.tolist()))


@dataclass(frozen=True, eq=False)
class SpreadFit:
    """Mean and spread that were fitted, with standard errors and covariances of their coefficients.

    Coefficients of a spread are those of its values: standard deviations at the points of a table, the constant and
    the share of a proportional one, both 0 or more.
    """

    mean_form: Form
    mean: Array
    mean_covariance: Array
    spread_form: Form
    spread: Array
    spread_covariance: Array

    def mean_at(self, x: Array) -> Array:
        """Mean at some states."""
        if not self.mean_form.size:
            return np.zeros(x.shape)
        value: Array = self.mean_form.basis(x) @ self.mean
        return value

    def spread_at(self, x: Array) -> Array:
        """Standard deviation at some states."""
        return _spread(self.spread_form, self.spread, x)

    def mean_error_at(self, x: Array) -> Array:
        """Standard error of the mean at some states."""
        return _error(self.mean_form.basis(x), self.mean_covariance)

    def spread_error_at(self, x: Array) -> Array:
        """Standard error of the standard deviation at some states."""
        return _error(_slopes(self.spread_form, self.spread, x), self.spread_covariance)

    def log_likelihoods(self, x: Array, y: Array) -> Array:
        """Logarithm of the density of each number."""
        return log_density(y, self.mean_at(x), self.spread_at(x))


def standardised(y: Array, mean: Array, spread: Array) -> Array:
    """Distance of each number from its mean, in standard deviations."""
    distance: Array = (y - mean) / np.maximum(spread, LEAST_SIGMA)
    return distance


def log_density(y: Array, mean: Array, spread: Array) -> Array:
    """Logarithm of the Gaussian density of each number."""
    residual = standardised(y, mean, spread)
    density: Array = -0.5 * residual**2 - np.log(np.maximum(spread, LEAST_SIGMA)) - 0.5 * math.log(2 * math.pi)
    return density


def _error(basis: Array, covariance: Array) -> Array:
    error: Array = np.sqrt(np.maximum(np.einsum("ni,ij,nj->n", basis, covariance, basis), 0.0))
    return error


def _spread(form: Form, values: Array, x: Array) -> Array:
    proportional = form.kind == "proportional"
    value: Array = np.hypot(values[0], values[1] * x) if proportional else np.maximum(form.basis(x) @ values, 0.0)
    return value


def _slopes(form: Form, values: Array, x: Array) -> Array:
    """Derivatives of the spread by its coefficients, [numbers, coefficients]."""
    if form.kind != "proportional":
        return form.basis(x)
    spread = np.maximum(_spread(form, values, x), 1e-300)
    slopes: Array = np.stack([values[0] / spread, values[1] * x**2 / spread], axis=1)
    return slopes


def fit(x: Array, y: Array, mean_form: Form, spread_form: Form) -> SpreadFit:
    """Fit both forms to numbers y at states x."""
    scale = float(y.std()) or 1.0
    spread = np.full(len(y), scale)
    basis = mean_form.basis(x)
    mean, values = np.zeros(mean_form.size), np.zeros(spread_form.size)
    for _ in range(ROUNDS):
        if mean_form.size:
            mean = _least_squares(basis / spread[:, None], y / spread)
        values = _fit_spread(x, y - basis @ mean, spread_form, scale)
        spread = np.maximum(_spread(spread_form, values, x), LEAST_SPREAD * scale)
    weighted = basis / spread[:, None]
    slopes = _slopes(spread_form, values, x) / spread[:, None]
    return SpreadFit(
        mean_form,
        mean,
        np.linalg.pinv(weighted.T @ weighted),
        spread_form,
        values,
        np.linalg.pinv(2 * slopes.T @ slopes),
    )


def _least_squares(a: Array, y: Array) -> Array:
    """Coefficients of few columns, by their normal equations; the smallest ones where columns depend on each other."""
    coefficients: Array = np.linalg.pinv(a.T @ a, hermitian=True) @ (a.T @ y)
    return coefficients


def _fit_spread(x: Array, residuals: Array, form: Form, scale: float) -> Array:
    """Maximum likelihood of the coefficients of a spread."""
    if form.kind == "constant":
        return np.array([math.sqrt(float(np.square(residuals).mean())) or LEAST_SPREAD * scale])
    # Logarithms keep what has to be positive so.
    positive = form.kind != "polynomial"
    square = np.square(residuals)
    rms = math.sqrt(float(square.mean())) or LEAST_SPREAD * scale
    if positive:
        start = np.full(form.size, math.log(rms))
        if form.kind == "proportional":
            start[1] -= math.log(float(np.abs(x).max()) or 1.0)
    else:
        # E|z| = sqrt(2 / pi).
        start = _least_squares(form.basis(x), np.abs(residuals) * math.sqrt(math.pi / 2))

    def values_of(theta: Array) -> Array:
        return np.exp(np.clip(theta, -60, 60)) if positive else theta

    def cost(theta: Array) -> tuple[float, Array]:
        spread = np.maximum(_spread(form, values_of(theta), x), LEAST_SPREAD * scale)
        return float((np.log(spread) + 0.5 * square / spread**2).sum()), spread

    theta, (now, spread) = start, cost(start)
    for _ in range(STEPS):
        # Fisher scoring: the information matrix takes the place of second derivatives.
        slopes = _slopes(form, values_of(theta), x) * (values_of(theta) if positive else 1.0) / spread[:, None]
        information = 2 * slopes.T @ slopes
        information[np.diag_indices(form.size)] += 1e-9 * max(float(np.trace(information)), 1e-300)
        step = np.linalg.solve(information, slopes.T @ (square / spread**2 - 1.0))
        share, better = 1.0, cost(theta + step)
        while better[0] > now and share > 1e-6:
            share /= 2
            better = cost(theta + share * step)
        gain = now - better[0]
        if gain <= 0:
            break
        theta, (now, spread) = theta + share * step, better
        if gain < 1e-7:
            break
    return values_of(theta)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A form with the likelihood of numbers that it was not fitted to: each in nats, [numbers]."""

    name: str
    size: int
    held_out: Array

    @property
    def mean(self) -> float:
        """Mean logarithm of the density."""
        return float(self.held_out.mean())


def chosen(candidates: Sequence[Candidate]) -> int:
    """Place of the smallest candidate that is nearly as likely as the best one."""
    totals = [float(item.held_out.sum()) for item in candidates]
    worthy = [place for place, total in enumerate(totals) if total >= max(totals) - WORTH]
    return min(worthy, key=lambda place: (candidates[place].size, -totals[place]))


def folds(groups: Array) -> NDArray[np.int64]:
    """Fold of each number; numbers of one group share one. Drawn from a fixed seed."""
    names, of = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(names))
    numbers: NDArray[np.int64] = order[of] % FOLDS
    return numbers


def held_out(
    x: Array, y: Array, fold: NDArray[np.int64], fitted: Callable[[Array, Array], SpreadFit]
) -> tuple[Array, Array]:
    """Likelihood of each number under a fit to the other folds, and its residual in standard deviations."""
    likelihoods, residuals = np.zeros(len(y)), np.zeros(len(y))
    for number in range(FOLDS):
        test = fold == number
        if not test.any():
            continue
        of_rest = fitted(x[~test], y[~test])
        likelihoods[test] = of_rest.log_likelihoods(x[test], y[test])
        residuals[test] = standardised(y[test], of_rest.mean_at(x[test]), of_rest.spread_at(x[test]))
    return likelihoods, residuals


@dataclass(frozen=True, eq=False)
class Choice:
    """The fit that was chosen, all candidates, and how well held-out residuals follow a Gaussian."""

    fit: SpreadFit
    means: tuple[Candidate, ...]
    spreads: tuple[Candidate, ...]
    held_out: float
    ks_distance: float
    ks_p: float


def choose(x: Array, y: Array, means: Sequence[Form], spreads: Sequence[Form], groups: Array | None = None) -> Choice:
    """Choose the form of the spread with the freest mean, then the form of the mean with that spread."""
    fold = folds(np.arange(len(y), dtype=np.float64) if groups is None else groups)
    freest = max(means, key=lambda form: form.size)

    def candidate(name: str, size: int, mean: Form, spread: Form) -> Candidate:
        likelihoods, _ = held_out(x, y, fold, lambda a, b: fit(a, b, mean, spread))
        return Candidate(name, size, likelihoods)

    of_spreads = tuple(candidate(form.name, form.size, freest, form) for form in spreads)
    spread = spreads[chosen(of_spreads)]
    of_means = tuple(candidate(form.name, form.size, form, spread) for form in means)
    mean = means[chosen(of_means)]
    likelihoods, residuals = held_out(x, y, fold, lambda a, b: fit(a, b, mean, spread))
    return Choice(fit(x, y, mean, spread), of_means, of_spreads, float(likelihoods.mean()), *gaussian_test(residuals))


def gaussian_test(residuals: Array) -> tuple[float, float]:
    """Distance of residuals in standard deviations from a Gaussian, by Kolmogorov and Smirnov, and its p value."""
    from scipy import stats  # noqa: PLC0415 - slow to import

    test = stats.kstest(residuals, "norm")
    return float(test.statistic), float(test.pvalue)

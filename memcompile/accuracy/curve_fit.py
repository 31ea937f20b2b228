"""Fit of the curve from noise at a network's outputs to lost answers, and of how noise of layers adds up on it.

Few answers change in a run, but all margins move. Where classes are told by scores, the curve is that of the margins of
many samples under the moves of all runs; elsewhere it goes through the losses that were counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.network_study import LayerAlone, NoisyRun
from memcompile.noise.loss_curve import MOST_LOST, CurveRun, LossCurve, curve_of
from memcompile.noise.margins import MarginMoves, smoothed_loss

CURVE_PLACES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
"""Noise by that of the chips at hand at which the curve is fitted."""
LEAST_LOSS = 0.001
"""Share of answers below which losses on the curve are as good as none."""
COST_SPREAD = 0.3
"""Standard deviation of the logarithm of what noise costs by the layer that it comes from, before it is measured."""
SHARE_SPREAD = 0.3
"""Standard deviation around 1, before it is measured, of the noise that layers make together by the sum of theirs."""
LEAST_SHARE = 0.1
"""Least such share: noise never goes away, whatever a handful of runs say."""
TINY = 1e-12
"""Least noise of runs that the curve is fitted to."""


def fitted_curve(noisy: Sequence[NoisyRun], margins: NDArray[np.float64]) -> tuple[LossCurve, list[CurveRun]]:
    """Fit the curve to runs with noise in all layers.

    Parameters
    ----------
    noisy
        The runs; none without labels.
    margins
        Margins of many samples without noise, [samples]; may be empty where no run has margins.

    Returns
    -------
    The curve, and the noise and the loss of each run.
    """
    runs = _curve_runs(noisy, margins)
    curve = _smooth_curve(noisy, margins) if any(run.margins for run in noisy) else curve_of(runs)
    return curve, runs


def _smooth_curve(noisy: Sequence[NoisyRun], margins: NDArray[np.float64]) -> LossCurve:
    """The curve through what noise of any power does to margins.

    A margin is moved in proportion to the root of the noise, so that the moves of all runs, whatever their factor, tell
    how those at one power are spread.
    """
    factors = {run.factor for run in noisy}
    usual = {one: max(float(np.mean([run.noise for run in noisy if run.factor == one])), TINY) for one in factors}
    pairs = [(run.margins, usual[run.factor]) for run in noisy if run.margins is not None]
    before = np.concatenate([before for (before, _), _ in pairs])
    moves = MarginMoves.of(
        before, np.concatenate([(after - before) / math.sqrt(noise) for (before, after), noise in pairs])
    )
    ratios = [place * usual[min(factors, key=lambda one: abs(one - 1.0))] for place in CURVE_PLACES]
    losses = [moves.loss(margins, math.sqrt(ratio))[0] for ratio in ratios]
    # Noise wins nothing: losses below zero tell how far the samples at hand are off.
    variances = [max(loss, LEAST_LOSS) ** 2 / 100 + min(loss, 0.0) ** 2 for loss in losses]
    return LossCurve.fitted(ratios, losses, variances, MOST_LOST)


def _curve_runs(noisy: Sequence[NoisyRun], margins: NDArray[np.float64]) -> list[CurveRun]:
    """Losses of runs: smoothed over the samples of all of them where margins are known, else counted."""
    runs = []
    for run in noisy:
        loss, error = run.counted, 0.0
        if run.margins is not None:
            loss, error = smoothed_loss(margins, *run.margins)
        runs.append(CurveRun(run.factor, run.noise, loss, run.images, error))
    return runs


def noise_cost(alone: LayerAlone, curve: LossCurve, margins: NDArray[np.float64]) -> float:
    """Factor on a layer's noise that the curve would need to give the loss that there is, 1 as far as that is unsure.

    One power of noise costs more where it moves the means of scores, or those of samples with small margins.
    """
    if len(alone.margins) < 2 or not len(margins) or alone.of_output <= 0:
        return 1.0
    losses = np.array([smoothed_loss(margins, *pair)[0] for pair in alone.margins])
    error = float(losses.std(ddof=1)) / math.sqrt(len(losses))
    loss = max(float(losses.mean()), error)
    if not 0 < loss < curve.most:
        return 1.0
    found = math.log(curve.inverse(loss) / (alone.of_output / len(alone.margins)))
    unsure = error / loss / curve.power
    return math.exp(found * COST_SPREAD**2 / (COST_SPREAD**2 + unsure**2))


def share_of_sum(runs: Sequence[NoisyRun], total: float) -> float:
    """Noise that all layers make together as a share of the sum of their small contributions.

    It is drawn towards 1 as far as the runs leave it unsure, which they do where rounded inputs make most of the noise.
    """
    small = max(1.0, min((run.factor for run in runs), default=1.0))
    shares = [(run.noise - run.rounding) / (run.factor * total) for run in runs if run.factor <= small and total > 0]
    if len(shares) < 2:
        return 1.0
    error = float(np.var(shares, ddof=1)) / len(shares)
    found = (float(np.mean(shares)) * SHARE_SPREAD**2 + error) / (SHARE_SPREAD**2 + error)
    return max(found, LEAST_SHARE)

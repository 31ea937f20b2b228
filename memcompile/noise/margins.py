"""Margins of a classifier's answers, and what noise takes of them.

An answer changes where noise moves its margin, the score of its own class above the best other one, beyond zero. Losses
that are smoothed over margins are far surer than counts of answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.frontend.values import Value

CLOSE_SHARE, LEAST_CLOSE = 0.25, 16
"""Share and least number of samples, those with the smallest margins, that noise is most likely to change."""
NEAR_SHARE, NEAR_STEPS = 0.4, 8
"""Share of samples, those with the nearest margins, whose moves a margin gets, and steps in which that slides."""
LEAST_PROBABILITY = 1e-9
MOST_WRONG = 0.4
"""Share of wrong answers that margins are spread to at most: a normal number makes half of them wrong and no more."""
SPREAD_STEPS = 40
_NORMAL = np.array([NormalDist().inv_cdf((place + 0.5) / 16) for place in range(16)])
"""Sixteen normal numbers that are equally likely."""


def class_scores(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Scores of classes less their mean, [N, classes]; of probabilities, their logarithms."""
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    if flat.min(initial=0.0) >= 0 and np.allclose(flat.sum(axis=1), 1.0, atol=1e-3):
        flat = np.log(np.maximum(flat, LEAST_PROBABILITY))
    centred: NDArray[np.float64] = flat - flat.mean(axis=1, keepdims=True)
    return centred


def class_margins(
    outputs: Mapping[str, Value], labels: NDArray[Any], names: Sequence[str] = ()
) -> NDArray[np.float64] | None:
    """Score of each sample's class above that of the best other class, [N]; right answers are above 0.

    None where no single output tells classes by scores, samples along axis 0, or where a score is not finite.

    Parameters
    ----------
    labels
        Class numbers or class names, [N].
    names
        Names of the classes, if the network has some, in the order of class numbers.
    """
    rows = [value for value in outputs.values() if isinstance(value, np.ndarray) and value.ndim >= 2]
    if len(outputs) != 1 or len(rows) != 1 or rows[0].dtype.kind != "f" or labels.shape != rows[0].shape[:1]:
        return None
    if not np.isfinite(rows[0]).all():
        return None
    scores = class_scores(rows[0])
    if labels.dtype.kind == "U":
        places = {name: place for place, name in enumerate(names)}
        labels = np.array([places.get(name, -1) for name in labels.tolist()], np.int64)
    if scores.shape[1] < 2 or labels.min(initial=0) < 0 or labels.max(initial=0) >= scores.shape[1]:
        return None
    samples = np.arange(len(scores))
    own = scores[samples, labels].copy()
    scores[samples, labels] = -np.inf
    margins: NDArray[np.float64] = own - scores.max(axis=1)
    return margins


def as_often_wrong(margins: NDArray[np.float64], wrong: float) -> NDArray[np.float64]:
    """Margins spread by normal numbers until a share of them is wrong; as they are where it is no smaller already.

    A network is surer of samples that it was trained with than of others, so that noise changes fewer of its answers.
    Others are to it as if they were noisy: how noisy, the answers say that it gets wrong.

    Returns
    -------
    Margins that stand for those of other samples, [N, 1], or [N, 16] where they are spread.
    """
    wanted, each = min(wrong, MOST_WRONG), margins[:, None]
    if not len(margins) or (margins <= 0).mean() >= wanted:
        return each
    # At this width the sign of a margin is that of the normal number, which is below 0 for half of them.
    low, high = 0.0, float(np.abs(margins).max()) / float(np.abs(_NORMAL).min()) * 2
    for _ in range(SPREAD_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if (each + middle * _NORMAL <= 0).mean() >= wanted else (middle, high)
    spread: NDArray[np.float64] = each + high * _NORMAL
    return spread


@dataclass(frozen=True, eq=False)
class MarginMoves:
    """Moves of margins by noise: magnitudes of samples' margins without it, rising, and their moves, [M] each."""

    magnitudes: NDArray[np.float64]
    moves: NDArray[np.float64]

    @classmethod
    def of(cls, before: NDArray[np.float64], moves: NDArray[np.float64]) -> MarginMoves:
        """Moves of samples with some margins without noise, [M] each, in any order."""
        magnitudes = np.abs(before)
        order = np.argsort(magnitudes, kind="stable")
        return cls(magnitudes[order], moves[order])

    def loss(self, margins: NDArray[np.float64], factor: float = 1.0) -> tuple[float, float]:
        """Share of right answers that noise is expected to take, and its standard error over samples.

        An answer changes where noise moves a margin beyond zero. A count of such answers is all chance where few
        change. Noise that one sample met might have met another one, so each margin is moved by what each of the
        samples with margins nearest to it in size were moved by: those with large margins have more noise.

        Parameters
        ----------
        margins
            Margins without noise of all samples, [N, any], see :func:`as_often_wrong`.
        factor
            Factor on all moves.
        """
        flat = margins.ravel()
        count = min(max(LEAST_CLOSE, math.ceil(NEAR_SHARE * len(self.moves))), len(self.moves))
        step = max(count // NEAR_STEPS, 1)
        places = np.searchsorted(self.magnitudes, np.abs(flat)) - count // 2
        first = np.clip(places, 0, len(self.moves) - count) // step * step
        wrong = np.empty(len(flat))
        for begin in np.unique(first):
            here, near = first == begin, factor * np.sort(self.moves[begin : begin + count])
            wrong[here] = np.searchsorted(near, -flat[here], side="right") / count
        lost = (wrong.reshape(margins.shape) - (margins <= 0)).mean(axis=1)
        return float(lost.mean()), float(lost.std() / math.sqrt(len(lost)))


def smoothed_loss(
    margins: NDArray[np.float64], before: NDArray[np.float64], after: NDArray[np.float64]
) -> tuple[float, float]:
    """Share of right answers that noise is expected to take of samples with some margins, and its standard error.

    ``margins`` are those without noise, [N, any]; ``before`` and ``after`` those without and with noise of samples that
    met some, [M] each. See :meth:`MarginMoves.loss`.
    """
    return MarginMoves.of(before, after - before).loss(margins)


def closest(margins: NDArray[np.float64]) -> NDArray[np.int64]:
    """Numbers of the samples with the smallest margins, a share of them."""
    return np.argsort(np.abs(margins), kind="stable")[: max(LEAST_CLOSE, math.ceil(CLOSE_SHARE * len(margins)))]

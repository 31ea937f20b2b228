"""Intervals that hold the accuracy of a design on all its chips, before these are emulated, and while they are.

An interval is for the mean over a fixed set of chips on a fixed set of images, which is what the whole grid would
measure. In closed form it comes from the noise of layers and one curve for the network; from some of the chips it comes
from their spread, as a t interval for the mean of a finite number of chips.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memcompile.accuracy.loss_model import FIRST_ORDER
from memcompile.noise.loss_curve import LossCurve
from memcompile.report.emulated_chips import spread

NOISE_FACTOR = 2.0
"""Factor by which predicted noise may be wrong, either way: one curve for all targets and mappings."""
COUNT_CONFIDENCE = 0.9985
"""Of a count of answers on either side of a prediction."""
LEAST_CHANGED = 1e-3
"""Expected number of changed answers below which there are none."""
CONFIDENCE = 0.995
"""Of an interval of chips, on each side."""
CHIP_SPREAD = 1 / 3
"""Expected standard deviation from chip to chip, as a share of what chips lose: one to three points of two to six."""
MOST_LOST = 0.9
"""Share of answers that noise can take; chips that lose nearly all of them are alike again."""
PRIOR_CHIPS = 6.0
"""Chips that what is expected of the spread counts for."""

Interval = tuple[float, float]
UNKNOWN: Interval = (0.0, 1.0)


@dataclass(frozen=True)
class NetworkCurve:
    """Loss of a network by the noise of its layers, as :class:`memcompile.accuracy.loss_model.LossModel` has it.

    Losses are against ideal devices, whose rounded inputs make noise of their own, ``rounding``.
    """

    layers: tuple[str, ...]
    sensitivities: tuple[float, ...]
    share: float
    curve: LossCurve
    rounding: float = 0.0

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> NetworkCurve:
        """The curve of a record."""
        return cls(
            tuple(record["layers"]),
            tuple(record["sensitivities"]),
            record["share"],
            LossCurve(*record["curve"]),
            record.get("rounding", 0.0),  # journals of earlier versions have none
        )

    def noise(self, ratios: Sequence[float]) -> float:
        """Noise-to-signal ratio of the network's scores at those of layers."""
        return self.share * sum(ratio * size for ratio, size in zip(ratios, self.sensitivities, strict=True))

    def loss(self, ratios: Sequence[float]) -> float:
        """Share of answers lost at noise-to-signal ratios of layers."""
        return self.lost(self.noise(ratios))

    def most_lost(self, ratios: Sequence[float]) -> float:
        """The largest share that they may cost; the least noise draws rounding anew, which may cost as much again."""
        noise = self.noise(ratios)
        return self.curve(self.rounding + noise * NOISE_FACTOR) if noise > 0 else 0.0

    def lost(self, noise: float) -> float:
        """Share lost at a ratio of the scores."""
        return self.curve(self.rounding + noise) - self.curve(self.rounding)


def predicted(ideal: float, curve: NetworkCurve, noise: Sequence[float], images: int) -> Interval:
    """Interval of the accuracy of chips whose noise is known in closed form, 0..1.

    Noise beyond first order is known to be large, and no more.
    """
    ratio = curve.noise(noise)
    most, least = curve.most_lost(noise), curve.lost(min(ratio, FIRST_ORDER) / NOISE_FACTOR)
    margin = count_margin(changed_share(most), images)
    return max(ideal - most - margin, 0.0), min(ideal - least + margin, 1.0)


def changed_share(loss: float) -> float:
    """Share of images whose answer changes where so many are lost: about as many become right as wrong."""
    return min(2 * max(loss, 0.0), 1.0)


def count_margin(share: float, images: int) -> float:
    """Share of images by which a count may be off where such a share changes; 0 where none surely does.

    Changes are rare and nearly independent, so their number is Poisson's.
    """
    from scipy.special import pdtrik  # noqa: PLC0415 - slow to import, and no other command needs it

    expected = share * images
    return float(pdtrik(COUNT_CONFIDENCE, expected) - expected) / images if expected > LEAST_CHANGED else 0.0


def measured(
    shares: Sequence[float], chips: int, ideal: float, images: int, most_lost: float | None = None
) -> Interval:
    """Interval of the mean over ``chips`` chips, of which some were emulated.

    ``most_lost`` is the largest share of answers that they are predicted to lose, None where that is not known.
    """
    from scipy.special import stdtrit  # noqa: PLC0415 - slow to import, and no other command needs it

    found = np.array(shares)
    mean, count = float(found.mean()), len(found)
    if count >= chips:
        return mean, mean
    lost = max(ideal - mean, 0.0)
    # That some chips lose nothing does not say that none changes an answer.
    changed = max(changed_share(lost), min(1 / images, 1.0 if most_lost is None else changed_share(most_lost)))
    of_chips = CHIP_SPREAD * lost * max(1 - lost / MOST_LOST, 0.0)
    expected = changed / images + of_chips**2
    freedom = PRIOR_CHIPS + count - 1
    variance = (PRIOR_CHIPS * expected + (count - 1) * spread(found) ** 2) / freedom
    quantile = float(stdtrit(freedom, CONFIDENCE))
    half = quantile * math.sqrt(variance * (1 / count - 1 / chips))
    # Chips that are left out of the mean so far lie between no and all right answers.
    least, most = mean * count / chips, (mean * count + chips - count) / chips
    return max(mean - half, least), min(mean + half, most)

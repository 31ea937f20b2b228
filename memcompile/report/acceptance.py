"""Share of chips that reach an accuracy, with the exact interval that a sample of chips leaves for all of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import UsageError

CONFIDENCE = 0.95
"""Confidence of the two-sided interval."""
_NUMBER = re.compile(r"(?P<number>(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:e-?[0-9]{1,2})?) *(?P<percent>%?)")


@dataclass(frozen=True)
class Acceptance:
    """Number of sampled chips whose accuracy is at least ``least`` (0..1)."""

    least: float
    reached: int
    chips: int

    @classmethod
    def of(cls, accuracies: NDArray[np.float64], least: float) -> Acceptance:
        """Count the chips, [chips], that reach an accuracy."""
        return cls(least, int((accuracies >= least).sum()), len(accuracies))

    @property
    def share(self) -> float:
        """Share of the sampled chips, 0..1."""
        return self.reached / self.chips

    @property
    def interval(self) -> tuple[float, float]:
        """Interval of the share of all chips, at ``CONFIDENCE``."""
        return clopper_pearson(self.reached, self.chips, CONFIDENCE)

    def line(self) -> str:
        """The same for a person to read."""
        low, high = self.interval
        return (
            f"at least {self.least:.2%}: {self.reached:,} of {self.chips:,} chips, {self.share:.1%}; "
            f"{CONFIDENCE:.0%} interval of all chips {low:.1%} to {high:.1%}"
        )


def clopper_pearson(reached: int, trials: int, confidence: float) -> tuple[float, float]:
    """Exact two-sided interval of a probability after so many of ``trials`` independent trials succeeded.

    C. J. Clopper and E. S. Pearson, Biometrika 26, 404 (1934): quantiles of beta distributions.
    """
    from scipy.special import betaincinv  # noqa: PLC0415 - slow to import

    tail, missed = (1 - confidence) / 2, trials - reached
    low = float(betaincinv(reached, missed + 1, tail)) if reached else 0.0
    high = float(betaincinv(reached + 1, missed, 1 - tail)) if missed else 1.0
    return low, high


def accuracy_share(given: float | str) -> float:
    """Share of right answers, 0..1, that a user gives.

    A number with % is in per cent; without it is a share up to 1, and in per cent above.

    Raises
    ------
    UsageError
        It is none of these, or not above 0 and at most 100 %.
    """
    text = str(given).strip()
    found = None if isinstance(given, bool) else _NUMBER.fullmatch(text)
    share = 0.0
    if found is not None:
        value = Decimal(found["number"])
        # By decimal arithmetic a share is the float that so many right answers of all would give.
        share = float(value / 100 if found["percent"] or value > 1 else value)
    if not 0 < share <= 1:
        raise UsageError(
            f"{text!r} is no accuracy to accept chips by: give per cent, such as 97% or 97, or a share, such as 0.97; "
            "above 0, at most 100%"
        )
    return share

"""Slices of a layer's weights: how many pairs hold one weight, and the value of a slice's step."""

from __future__ import annotations

from dataclasses import dataclass

from memcompile.hardware.target import Target


@dataclass(frozen=True)
class Slicing:
    """Slices of one layer on a target.

    ``slice_base`` is the value of one step of a slice in steps of the slice before it: as the target's errors allow
    when None, more where only that holds whole weights, less where that holds all weights of a layer.
    """

    target: Target
    slices: int = 1
    slice_base: int | None = None

    @property
    def base(self) -> int:
        """Value of one step of a slice in steps of the slice before it."""
        if self.slice_base is not None:
            return self.slice_base
        return self.target.slice_base() if self.slices == 1 else self.target.default_slice_base()

    def base_of(self, largest: int) -> int:
        """Base for a layer whose largest integer weight is given: the smallest that reaches it, unless one is given.

        So the most significant slice, whose error counts most, is used as far as it goes.
        """
        if self.slice_base is not None or self.slices == 1:
            return self.base
        bases = range(2, self.target.slice_base())
        reaching = (base for base in bases if weight_limit(self.target, self.slices, base) >= largest)
        return next(reaching, self.target.slice_base())

    @property
    def weight_limit(self) -> int:
        """Largest integer weight that the slices hold."""
        return weight_limit(self.target, self.slices, self.base)

    @property
    def whole_weight_limit(self) -> int:
        """Largest weight of a quantised model that the slices hold, with the base that it takes."""
        return weight_limit(self.target, self.slices, self.slice_base or self.target.slice_base())


def weight_limit(target: Target, slices: int, base: int) -> int:
    """Largest integer weight: L * base^(n - 1), and half a step of each slice but the last.

    With a base below 2 L + 1 the lower slices keep the rest of their range free: for the measured
    error of the slices above.
    """
    powers = [base**place for place in range(slices)]
    below = sum(power * ((base - 1) // 2) for power in powers[:-1])
    return int(target.signed_levels * powers[-1] + below)

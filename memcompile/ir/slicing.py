"""Slices of a layer's weights: how many pairs hold one weight, the value of a slice's step, and how they are filled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from memcompile.errors import UsageError
from memcompile.hardware.target import Target

Fill = Literal["max", "equal"]
"""``max``: each slice holds as much of a weight as it can; ``equal``: slices share it, so that their errors average."""
FILLS: tuple[Fill, ...] = get_args(Fill)
ALL_LAYERS = ""
"""Name that stands for all layers without slices of their own."""
MOST_CHARACTERS = 9
"""Characters of a number of slices."""
EQUAL_BASE, EQUAL_BASE_OF_TWO = 2, 3
"""Bases of slices that share weights: small ones share best, and two slices need one more for enough levels."""


@dataclass(frozen=True)
class SliceChoice:
    """Number of slices, and how they are filled."""

    count: int = 1
    fill: Fill = "max"

    def __str__(self) -> str:
        return f"{self.count}" if self.fill == "max" else f"{self.count}:{self.fill}"

    @property
    def value(self) -> int | str:
        """The number alone where slices are filled to the most, the text otherwise."""
        return self.count if self.fill == "max" else str(self)

    @classmethod
    def of(cls, value: int | str) -> SliceChoice:
        """The choice that a number means, or a text such as ``3`` or ``3:equal``.

        Raises
        ------
        UsageError
            The text means none.
        """
        count, colon, word = str(value).partition(":")
        fill = next((fill for fill in FILLS if fill == word), None) if colon else "max"
        if not count.strip().isdecimal() or len(count) > MOST_CHARACTERS or fill is None:
            raise UsageError(f"slices = {value}: a number, or one with how slices are filled, such as 3:equal")
        return cls(int(count), fill)


Slices = int | str | Mapping[str, int | str]
"""Slices of all layers, or of each by its name and of others by ``ALL_LAYERS``."""


def slice_choices(slices: Slices) -> tuple[SliceChoice, dict[str, SliceChoice]]:
    """Choice for all layers, and those of layers that have their own.

    Raises
    ------
    UsageError
        A text means no choice.
    """
    if not isinstance(slices, Mapping):
        return SliceChoice.of(slices), {}
    own = {name: SliceChoice.of(value) for name, value in slices.items()}
    return own.pop(ALL_LAYERS, SliceChoice()), own


@dataclass(frozen=True)
class Slicing:
    """Slices of one layer on a target.

    ``slice_base`` is the value of one step of a slice in steps of the slice before it: as the target's errors allow
    when None, more where only that holds whole weights, less where that holds all weights of a layer.
    """

    target: Target
    slices: int = 1
    slice_base: int | None = None
    fill: Fill = "max"

    @property
    def base(self) -> int:
        """Value of one step of a slice in steps of the slice before it."""
        if self.slice_base is not None:
            return self.slice_base
        if self.slices == 1:
            return self.target.slice_base()
        largest = self.target.default_slice_base()
        if self.fill == "max":
            return largest
        return min(largest, EQUAL_BASE_OF_TWO if self.slices == 2 else EQUAL_BASE)

    def base_of(self, largest: int) -> int:
        """Base for a layer whose largest integer weight is given: the smallest that reaches it, unless one is given.

        So the most significant slice, whose error counts most, is used as far as it goes.
        """
        if self.slice_base is not None or self.slices == 1:
            return self.base
        bases = range(2, self.target.slice_base())
        reaching = (base for base in bases if self.limit_of(base) >= largest)
        return next(reaching, self.target.slice_base())

    @property
    def weight_limit(self) -> int:
        """Largest integer weight that the slices hold."""
        return self.limit_of(self.base)

    @property
    def whole_weight_limit(self) -> int:
        """Largest weight of a quantised model that the slices hold, with the base that it takes."""
        return self.limit_of(self.slice_base or self.target.slice_base())

    def limit_of(self, base: int) -> int:
        """Largest integer weight that the slices hold with a base."""
        return weight_limit(self.target, self.slices, base, self.fill)


def weight_limit(target: Target, slices: int, base: int, fill: Fill = "max") -> int:
    """Largest integer weight: L * base^(n - 1), and what each slice but the last may hold of it.

    With a base below 2 L + 1 the lower slices keep the rest of their range free: for the measured
    error of the slices above.
    """
    powers = [base**place for place in range(slices)]
    lower = lower_limit(target, base, fill)
    return int(target.signed_levels * powers[-1] + lower * sum(powers[:-1]))


def lower_limit(target: Target, base: int, fill: Fill) -> int:
    """Largest digit of a slice but the last: half a base, or all that leaves room for the error of the slice above."""
    if fill == "max":
        return (base - 1) // 2
    return max(target.digit_beside_errors(base), base // 2)

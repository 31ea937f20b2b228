"""Equal designs: all points get the same area, the same number of chips, or chips for the same rate.

A design that needs fewer arrays than another can use the rest for replicas. Compared at the fewest chips that each
needs, designs differ in two things at once; at equal area, chips or rate they differ in one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from memcompile.errors import UsageError

Level = Literal["area", "chips", "rate"]
MOST_CHIPS = 1 << 20
SLACK = 1 + 1e-9


@dataclass(frozen=True)
class Bracket:
    """Search for the fewest chips of a design with a rate: ``few`` are too few, ``enough`` will do, if known."""

    few: int = 0
    enough: int | None = None
    next: int = 1
    chips: int | None = None
    why: str = ""

    def narrowed(self, facts: Mapping[str, Any], level: float, error: str) -> Bracket:
        """The bracket after the next number was tried."""
        if error:
            return replace(self, why=error)
        reached = (facts["images_per_second"] or math.inf) >= level / SLACK
        few, enough = (self.few, self.next) if reached else (self.next, self.enough)
        if enough is not None and enough - few <= 1:
            return Bracket(few, enough, chips=enough)
        following = 2 * few if enough is None else (few + enough) // 2
        if following > MOST_CHIPS:
            return Bracket(few, enough, why=f"{few:,} chips do not reach {level:,.0f} images/s")
        return Bracket(few, enough, following)


@dataclass(frozen=True)
class Iso:
    """A level of ``kind`` that all points are brought to; that of the point which needs most when ``level`` is None."""

    kind: Level
    level: float | None = None

    @classmethod
    def parse(cls, text: str) -> Iso:
        """Read ``area``, ``chips`` or ``rate``, each perhaps with ``=NUMBER``.

        Raises
        ------
        UsageError
            It is none of these.
        """
        kind, equals, number = text.partition("=")
        try:
            level = float(number) if equals else None
        except ValueError:
            level = -1.0
        if kind not in get_args(Level) or (level is not None and not 0 < level < math.inf):
            raise UsageError(f"--iso {text!r}: give area, chips or rate, alone or with a number above 0: area=25")
        if kind == "chips" and level is not None and not level.is_integer():
            raise UsageError(f"--iso {text!r}: chips are counted in whole numbers")
        return cls(kind, level)  # type: ignore[arg-type]

    @property
    def key(self) -> str:
        """Key of the quantity in rows."""
        return {"area": "cost.area_mm2", "chips": "chips", "rate": "images_per_second"}[self.kind]

    def of(self, facts: Sequence[Mapping[str, Any]]) -> float:
        """The level for points at their fewest chips, by their flat facts."""
        if self.level is not None:
            return self.level
        return max((float(one[self.key]) for one in facts if one[self.key] is not None), default=1.0)

    def bracket(self, facts: Mapping[str, Any], level: float) -> Bracket:
        """Chips of a point at a level, from its facts at the fewest; a search for rates."""
        fewest, found = int(facts["chips"]), facts[self.key]
        if self.kind == "rate":
            reached = (found or math.inf) >= level / SLACK
            return Bracket(fewest - 1, fewest, chips=fewest) if reached else Bracket(fewest, None, 2 * fewest)
        if found is None:
            return Bracket(why="its target has no constants for area")
        chips = math.floor(SLACK * level / (float(found) / fewest))
        if chips >= fewest:
            return Bracket(chips=min(chips, MOST_CHIPS))
        unit = " mm2" if self.kind == "area" else " chips"
        return Bracket(why=f"one replica takes {float(found):g}{unit}, more than the {level:g} of --iso {self.kind}")

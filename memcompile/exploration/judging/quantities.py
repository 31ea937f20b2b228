"""Quantities that designs are compared by: the key of the report behind each, and which way is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memcompile.errors import UsageError, did_you_mean
from memcompile.figures import figure, with_prefix

SCALED: Mapping[str, tuple[float, str]] = {"pJ": (1e-12, "J"), "us": (1e-6, "s"), "mW": (1e-3, "W")}
"""Units that texts give with an SI prefix: their size in the unit without one."""


@dataclass(frozen=True)
class Quantity:
    """A figure of a design; ``key`` is that of its row, in ``unit``."""

    name: str
    key: str
    words: str
    unit: str
    more_is_better: bool = False

    def text(self, value: float) -> str:
        """A count in full, and other values with three digits; with an SI prefix where the unit takes one: 108 nJ."""
        if isinstance(value, int):
            return f"{value:,}"
        if self.unit not in SCALED:
            return figure(value)
        factor, unit = SCALED[self.unit]
        return with_prefix(value * factor, unit)

    @property
    def heading(self) -> str:
        """Head of a column of texts: the name, and the unit that they leave out."""
        return self.name if not self.unit or self.unit in SCALED else f"{self.name}, {self.unit}"


QUANTITIES: Mapping[str, Quantity] = {
    item.name: item
    for item in (
        Quantity("accuracy", "accuracy.emulated_mean", "accuracy on chips", "", more_is_better=True),
        Quantity("energy", "cost.energy_pj", "energy of an image", "pJ"),
        Quantity("area", "cost.area_mm2", "area of all arrays", "mm2"),
        Quantity("rate", "images_per_second", "images a second", "1/s", more_is_better=True),
        Quantity("latency", "cost.latency_us", "latency of one image", "us"),
        Quantity("chips", "chips", "chips", ""),
        Quantity("arrays", "arrays_used", "arrays", ""),
        Quantity("cells", "cells_used", "cells", ""),
        Quantity("power", "cost.power_mw", "mean power", "mW"),
    )
}
ACCURACY = QUANTITIES["accuracy"]
USUAL = ("accuracy", "energy", "area")
"""Quantities of the front by default, as far as targets have constants for them."""
SUBSTITUTES = {"energy": "latency", "area": "chips"}
"""Quantities without constants, and those that every target has."""
ALIASES: Mapping[str, tuple[str, float]] = {
    "accuracy": ("accuracy.emulated_mean", 1.0),
    "energy": ("cost.energy_pj", 1.0),
    "energy_nj": ("cost.energy_pj", 1e-3),
    "energy_uj": ("cost.energy_pj", 1e-6),
    "area": ("cost.area_mm2", 1.0),
    "rate": ("images_per_second", 1.0),
    "latency": ("cost.latency_us", 1.0),
    "latency_ms": ("cost.latency_us", 1e-3),
    "arrays": ("arrays_used", 1.0),
    "cells": ("cells_used", 1.0),
    "power": ("cost.power_mw", 1.0),
    "loss": ("predicted.loss", 1.0),
}
"""Short names in conditions: the key, and the factor on its value."""


def read_quantities(names: Sequence[str]) -> tuple[Quantity, ...]:
    """Quantities by name.

    Raises
    ------
    UsageError
        A name is unknown or comes twice, or there are fewer than two.
    """
    found = []
    for name in names:
        if name not in QUANTITIES:
            raise UsageError(
                f"no quantity is called {name!r}; there are {', '.join(QUANTITIES)}{did_you_mean(name, QUANTITIES)}"
            )
        if QUANTITIES[name] in found:
            raise UsageError(f"the quantity {name} is there twice")
        found.append(QUANTITIES[name])
    if len(found) < 2:
        raise UsageError(f"a front is of two quantities at least; there are {', '.join(QUANTITIES)}")
    return tuple(found)

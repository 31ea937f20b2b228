"""A value that the compiler minimised, with what is proven of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Certificate:
    """Value found, bound proven, and the method of both.

    ``bound`` never exceeds ``value`` (both are minimised). ``limited_by`` names the resource that is
    short, "" where nothing is said of it.
    """

    quantity: str
    value: int
    bound: int
    method: str
    limited_by: str = ""

    @property
    def gap(self) -> float:
        """Relative distance of the value from the proven bound."""
        return (self.value - self.bound) / self.value if self.value else 0.0

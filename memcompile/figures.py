"""Figures in words: three significant digits and SI prefixes, the same in terminals, files and pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

PREFIXES = (
    (1e-15, "f"),
    (1e-12, "p"),
    (1e-9, "n"),
    (1e-6, "u"),
    (1e-3, "m"),
    (1.0, ""),
    (1e3, "k"),
    (1e6, "M"),
)
"""Factors of SI prefixes, ascending."""
PLUS_MINUS = " ± "
"""Between a mean and its standard deviation; where the encoding of the output lacks the sign, ``+-`` stands for it."""


def with_prefix(value: float, unit: str) -> str:
    """A quantity in the largest SI prefix that leaves a figure of 1 or more: 1.23 uJ, 415 nJ."""
    rounded = abs(float(f"{value:.2e}")) or 1.0
    factor, prefix = max((item for item in PREFIXES if item[0] <= rounded), default=PREFIXES[0])
    return f"{figure(value / factor)} {prefix}{unit}"


def seconds(value: float) -> str:
    """A duration with a prefix; from a second on plain seconds, which are not counted in thousands."""
    return with_prefix(value, "s") if abs(value) < 1 else f"{figure(value)} s"


def figure(value: float) -> str:
    """A number with three significant digits, never in powers of ten: 1,230, 12.3, 0.00123."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.2e}")
    return f"{rounded:,.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


def counted(count: int, what: str) -> str:
    """A number with its noun: 1 step, 2,000 steps."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def points(value: float) -> str:
    """Points of accuracy to the tenth, none of which is a negative zero: 0.4."""
    return f"{round(value, 1) + 0.0:.1f}"


def percent(share: float) -> str:
    """An accuracy, or another share that is compared to the hundredth: 97.99%."""
    return f"{share:.2%}"


FORMS: Mapping[str, Callable[[Any], str]] = MappingProxyType(
    {
        "count": lambda value: f"{value:,}",
        "figure": figure,
        "accuracy": percent,
        "share": lambda value: f"{value:.1%}",
        "points": points,
        "ratio": lambda value: f"{value:.4f}",
        "decibel": lambda value: f"{value:.1f} dB",
        "time_ns": lambda value: seconds(1e-9 * value),
        "time_us": lambda value: seconds(1e-6 * value),
        "time_s": seconds,
        "energy_pj": lambda value: with_prefix(1e-12 * value, "J"),
        "energy_j": lambda value: with_prefix(value, "J"),
        "power_mw": lambda value: with_prefix(1e-3 * value, "W"),
        "area_mm2": lambda value: f"{figure(value)} mm2",
    }
)
"""Ways to write a number of the report, by name."""


def at_key(facts: Mapping[str, Any], key: str) -> Any:
    """The value of a JSON pointer (RFC 6901), such as ``/layers/0/tiles``."""
    value: Any = facts
    for part in key.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


def pointer(*parts: str | int) -> str:
    """A JSON pointer of names and places."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)

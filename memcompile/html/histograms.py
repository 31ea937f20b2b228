"""Histograms of the currents that converters get, as outlines in rows of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 260, 44
"""In CSS pixels."""
LEAST_HEIGHT = 2.0
"""Height of a bar of a single conversion: counts differ by orders of magnitude, so that heights are logarithms."""


@dataclass(frozen=True)
class Histogram:
    """Outlines of the bars within the range and beyond it, as SVG paths, and the places of the ends of the range."""

    within: str
    beyond: str
    ends: tuple[float, ...]
    words: str


def current_histograms(facts: Mapping[str, Any]) -> list[Histogram]:
    """A histogram a layer, all over the same currents; none where there are no data."""
    found = facts["converter_inputs"]
    if found is None:
        return []
    bins, layers = found["bins_of_range"], found["layers"]
    # Ranges are whole in each picture, so that what is unused of them shows.
    signed = any(layer["first_bin"] < 0 for layer in layers)
    first = min([-bins * signed, *(layer["first_bin"] for layer in layers)])
    last = max([bins, *(layer["first_bin"] + len(layer["counts"]) for layer in layers)])
    return [_histogram(layer, bins, first, last, signed) for layer in layers]


def _histogram(layer: Mapping[str, Any], bins: int, first: int, last: int, signed: bool) -> Histogram:
    numbered = list(enumerate(layer["counts"], start=layer["first_bin"]))
    tallest = math.log1p(max(layer["counts"], default=1))
    step = WIDTH / (last - first)

    def path(bars: Sequence[tuple[int, int]]) -> str:
        heights = (
            (number, LEAST_HEIGHT + (HEIGHT - LEAST_HEIGHT) * math.log1p(count) / tallest) for number, count in bars
        )
        return "".join(
            f"M{(number - first) * step:.1f} {HEIGHT}v-{height:.1f}h{step:.1f}v{height:.1f}z"
            for number, height in heights
        )

    filled = [(number, count) for number, count in numbered if count]
    inside = [bar for bar in filled if -bins * signed <= bar[0] < bins]
    outside = [bar for bar in filled if bar not in inside]
    ends = tuple((end - first) * step for end in ((-bins, bins) if signed else (bins,)))
    words = (
        f"Histogram of currents of {layer['name']}; the largest is {layer['largest']:.3g} times the end of the range"
    )
    return Histogram(path(inside), path(outside), ends, words)

"""Main effects: how far each knob moves a quantity, averaged over all others; and why points have no result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memcompile.exploration.judging.quantities import ACCURACY, Quantity
from memcompile.exploration.knobs import text_of
from memcompile.exploration.points import Candidate


@dataclass(frozen=True)
class Effect:
    """Means of a quantity at each value of each knob, by knob and by the value's text."""

    quantity: Quantity
    means: Mapping[str, Mapping[str, float]]

    def span(self, name: str) -> float:
        """Difference between the largest and the least mean of a knob."""
        values = self.means[name].values()
        return max(values) - min(values)

    @property
    def strongest(self) -> str:
        """Knob that moves the quantity most."""
        return max(self.means, key=self.span)


def main_effects(items: Sequence[Candidate], quantities: Sequence[Quantity], chips: int) -> list[Effect]:
    """Main effects on quantities over all points that are mapped; of accuracies, the middle of their intervals."""
    usable = [item for item in items if item.mapped is not None and not item.error]
    found = []
    for quantity in quantities:
        values = [(item, value) for item in usable if (value := _figure(item, quantity, chips)) is not None]
        means: dict[str, dict[str, float]] = {}
        for name in values[0][0].values if values else ():
            groups: dict[str, list[float]] = {}
            for item, value in values:
                at = item.values[name]
                groups.setdefault("auto" if at is None else text_of(at), []).append(value)
            means[name] = {text: sum(group) / len(group) for text, group in groups.items()}
        if means:
            found.append(Effect(quantity, means))
    return found


def _figure(item: Candidate, quantity: Quantity, chips: int) -> float | None:
    if quantity is ACCURACY:
        interval = item.interval(chips)
        return None if interval == (0.0, 1.0) else sum(interval) / 2
    value = item.facts.get(quantity.key)
    return None if value is None else float(value)


def reasons(items: Sequence[Candidate]) -> list[tuple[str, int]]:
    """Messages of points without a result, the most frequent first."""
    counts = Counter(item.error or item.excluded for item in items if item.error or item.excluded)
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))

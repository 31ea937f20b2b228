"""Points of an exploration with what is known of them: designs, records of the journal, and their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memcompile.exploration.judging.conditions import Known
from memcompile.exploration.judging.intervals import UNKNOWN, Interval, NetworkCurve, measured, predicted
from memcompile.exploration.judging.quantities import ACCURACY, Quantity
from memcompile.exploration.knobs import Design
from memcompile.exploration.results import VARIED, Row, chip_accuracy, flattened
from memcompile.exploration.space import Point

Record = dict[str, Any]


@dataclass(eq=False)
class Candidate:
    """A point, and what is known of it so far.

    ``mapped`` is the record of its mapping, ``chips`` those of its chips by seed, ``error`` the message of what failed,
    and ``excluded`` the reason why it does not satisfy the conditions. ``beaten_by`` is the key of the point because of
    which no more work went into it. ``granted`` is the number of chips that the rounds so far gave it: the journal may
    hold more, from an earlier run, but no round may know of them.
    """

    values: Point
    design: Design
    key: str
    order: tuple[int, ...] = ()
    mapped: Record | None = None
    chips: dict[int, Record] = field(default_factory=dict)
    error: str = ""
    excluded: str = ""
    beaten_by: str = ""
    on_front: bool = False
    curve: NetworkCurve | None = None
    granted: int = 0

    @property
    def facts(self) -> Row:
        """Flat facts of the mapping."""
        return {} if self.mapped is None else dict(flattened(self.mapped["facts"]))

    @property
    def of_chips(self) -> list[Record]:
        """Records of chips in the order of their seeds."""
        return [self.chips[seed] for seed in sorted(self.chips)]

    @property
    def predicted_loss(self) -> float | None:
        """Share of answers that chips are predicted to lose against ideal devices."""
        if self.mapped is None or self.mapped["noise"] is None or self.curve is None:
            return None
        return self.curve.loss(self.mapped["noise"])

    def is_complete(self, chips: int) -> bool:
        """Return True if all its chips are emulated, or have nothing to emulate."""
        return self.mapped is not None and (bool(self.mapped["continuous"]) or len(self.chips) >= chips)

    def interval(self, chips: int) -> Interval:
        """Interval of its mean accuracy over all chips; without chips, the prediction alone."""
        if self.mapped is None or self.mapped["ideal"] is None:
            return UNKNOWN
        ideal, images = float(self.mapped["ideal"]), int(self.mapped["images"])
        if self.mapped["continuous"]:
            return ideal, ideal
        loss = self.predicted_loss
        if not chips:
            return UNKNOWN if loss is None else (ideal - loss, ideal - loss)
        if len(self.chips) >= min(2, chips):
            most = None if self.curve is None or loss is None else self.curve.most_lost(self.mapped["noise"])
            return measured([chip["emulated"] for chip in self.of_chips], chips, ideal, images, most)
        if loss is None or self.curve is None:
            return UNKNOWN
        return predicted(ideal, self.curve, self.mapped["noise"], images)

    def costs(self, quantities: Sequence[Quantity]) -> list[float] | None:
        """Costs but the accuracy, less is better; None where one is not known for its target."""
        facts = self.facts
        found = [(facts.get(item.key), item) for item in quantities if item is not ACCURACY]
        if any(value is None for value, _ in found):
            return None
        return [-float(value) if item.more_is_better else float(value) for value, item in found]  # type: ignore[arg-type]

    def known(self, chips: int) -> Mapping[str, Known]:
        """What conditions may ask for."""
        values: dict[str, Known] = {}
        for name, value in self._named().items():
            if value is None or isinstance(value, str):
                values[name] = value
            elif isinstance(value, bool):
                values[name] = str(value).lower()
            elif isinstance(value, int | float):
                values[name] = float(value), float(value)
        loss = self.predicted_loss
        values["predicted.loss"] = None if loss is None else (100 * loss, 100 * loss)
        if self.mapped is not None and self.mapped["ideal"] is not None:
            values[ACCURACY.key] = self.interval(chips)
        elif self.mapped is not None:
            values[ACCURACY.key] = None
        return values

    def _named(self) -> Row:
        return {**{f"{VARIED}{name}": value for name, value in self.values.items()}, **self.facts}

    def row(self, chips: int, least: float | None) -> Row:
        """Its row of the results."""
        complete = self.is_complete(chips)
        status = (
            "failed"
            if self.error
            else "excluded"
            if self.excluded
            else "measured"
            if complete and self.mapped is not None
            else "dropped"
            if self.beaten_by
            else "open"
        )
        loss = self.predicted_loss
        row: Row = {
            "point": self.key,
            "status": status,
            "front": self.on_front,
            "beaten_by": self.beaten_by or None,
            "message": self.error or self.excluded or None,
            **self._named(),
            "chips_emulated": len(self.chips),
            "float": None,
            "ideal": None,
            "predicted.loss": None if loss is None else 100 * loss,
        }
        if self.mapped is not None:
            row |= {"float": self.mapped["float"], "ideal": self.mapped["ideal"]}
            row |= flattened(chip_accuracy(self.mapped, self.of_chips, least), "accuracy.")
        return row

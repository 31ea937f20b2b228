"""Programs side by side: the figures in which they may differ, as rows for a table and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from memcompile.atomic import write_atomically
from memcompile.figures import FORMS, at_key, pointer
from memcompile.html.charts import Chart, plain
from memcompile.html.page import Page
from memcompile.pictures import colour_of

Facts = Mapping[str, Any]
NO_DATA = "no data"
OF_CONSTANTS = "/cost/"
"""Keys of figures that take constants of the target, which not every publication gives."""


@dataclass(frozen=True)
class Row:
    """A figure: its title, its key among the facts of a program, its form, and whether more of it is better."""

    title: str
    key: str
    form: str
    more_is_better: bool | None = None
    of_nothing: float | None = None
    """A figure that says that there is none."""

    def value(self, facts: Facts) -> float | None:
        """The figure of a program; None where it has none."""
        try:
            found = at_key(facts, self.key)
        except (LookupError, TypeError, ValueError):
            return None
        number = isinstance(found, int | float) and not isinstance(found, bool)
        return found if number and found != self.of_nothing else None

    def text(self, facts: Facts) -> str:
        """The same in words; "no data" where the target has no constants for it."""
        value = self.value(facts)
        if value is None:
            return NO_DATA if self.key.startswith(OF_CONSTANTS) else ""
        return FORMS[self.form](value)

    def best(self, programs: Sequence[Facts]) -> set[int]:
        """Numbers of the programs that have the best figure, where figures differ and one is better than another.

        None is the best where the constants of a target are not known: it may be better than all others.
        """
        values = {number: self.value(facts) for number, facts in enumerate(programs)}
        known = {number: value for number, value in values.items() if value is not None}
        if self.more_is_better is None or len(set(known.values())) < 2:
            return set()
        if len(known) < len(values) and self.key.startswith(OF_CONSTANTS):
            return set()
        end = max(known.values()) if self.more_is_better else min(known.values())
        return {number for number, value in known.items() if value == end}


ROWS = (
    Row("accuracy, float", "/accuracy/float", "accuracy", True),
    Row("accuracy, ideal devices", "/accuracy/ideal", "accuracy", True),
    Row("accuracy, transferred", "/accuracy/transferred_mean", "accuracy", True),
    Row("accuracy, calibrated", "/accuracy/emulated_mean", "accuracy", True),
    Row("accuracy, worst chip", "/accuracy/emulated_worst", "accuracy", True),
    Row("accuracy, tuned", "/accuracy/tuned/mean", "accuracy", True),
    Row("predicted loss, points", "/error_budget/predicted_loss", "points", False),
    Row("images a second", "/images_per_second", "figure", True),
    Row("steps between images", "/initiation_interval_steps", "count", False),
    Row("  proven lower bound", "/initiation_interval_bound", "count", of_nothing=0),
    Row("latency", "/cost/latency_us", "time_us", False),
    Row("energy of an image", "/cost/energy_pj", "energy_pj", False),
    Row("power", "/cost/power_mw", "power_mw", False),
    Row("area", "/cost/area_mm2", "area_mm2", False),
    Row("GOP/s/W, weights", "/cost/counting/weights/gops_per_w", "figure", True),
    Row("GOP/s/mm2, weights", "/cost/counting/weights/gops_per_mm2", "figure", True),
    Row("chips", "/chips", "count", False),
    Row("arrays used", "/arrays_used", "count", False),
    Row("cells used", "/cells_used", "count"),
    Row("use of all cells", "/cell_utilisation", "share"),
    Row("segments", "/segments", "count"),
    Row("values from chip to chip", "/crossing_values", "count", False),
    Row("values in buffers", "/buffers/pipelined", "count", False),
    Row("time of writing", "/cost/transfer/time_s", "time_s", False),
)
CHARTED = ("images a second", "latency", "energy of an image", "area")
"""Rows that the page also shows as bars, relative to the first program."""
WIDE = 10
"""Ratio of the longest bar to the shortest above which bars are logarithms."""
OF_LAYERS = ("slices", "replicas", "steps", "arrays")


def shown_rows(programs: Sequence[Facts]) -> list[Row]:
    """Rows for which a program has a figure."""
    return [row for row in ROWS if any(row.value(facts) is not None for facts in programs)]


def differs(row: Row, programs: Sequence[Facts]) -> bool:
    """Return True if programs have different figures."""
    return len({row.value(facts) for facts in programs}) > 1


def layer_rows(programs: Sequence[Facts]) -> list[Row]:
    """Figures of layers that programs do not agree on; none unless all have the same layers in the same order."""
    names = [[layer["name"] for layer in facts["layers"]] for facts in programs]
    if any(each != names[0] for each in names):
        return []
    rows = [
        Row(f"{name}: {word}", pointer("layers", number, word), "count")
        for number, name in enumerate(names[0])
        for word in OF_LAYERS
    ]
    return [row for row in rows if differs(row, programs)]


def comparison_page(
    names: Sequence[str], programs: Sequence[Facts], failed: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """Programs side by side as HTML.

    Parameters
    ----------
    names
        Names of the programs.
    failed
        Reasons why targets have no program.
    """
    facts = {"names": list(names), "programs": [dict(each) for each in programs], "failed": dict(failed)}
    page = Page("Comparison of programs", "comparison.html.j2", facts)
    page.add_chart(_chart(names, programs))
    return page.render(
        names=names,
        programs=programs,
        tables=[("Programs", shown_rows(programs)), ("Layers that differ", layer_rows(programs))],
        differs=differs,
        failed=failed,
    )


def write_comparison_page(
    path: Path, names: Sequence[str], programs: Sequence[Facts], failed: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write the page, whole or not at all; parameters are those of :func:`comparison_page`.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    write_atomically(path, comparison_page(names, programs, failed))


def _chart(names: Sequence[str], programs: Sequence[Facts]) -> Chart | None:
    """Bars of some figures as multiples of those of the first program."""
    rows = [row for row in ROWS if row.title in CHARTED and all(row.value(facts) for facts in programs)]
    if not rows:
        return None
    multiples = [[(row.value(facts) or 0) / (row.value(programs[0]) or 1) for row in rows] for facts in programs]
    traces = [
        {
            "type": "bar",
            "name": plain(name),
            "x": [row.title for row in rows],
            "y": multiples[number],
            "customdata": [row.text(facts) for row in rows],
            "marker": {"color": colour_of(number)},
            "hovertemplate": "%{x}: %{customdata}<br>%{y:.3g} times the first<extra>" + plain(name) + "</extra>",
        }
        for number, (name, facts) in enumerate(zip(names, programs, strict=True))
    ]
    words = "Bars of rate, latency, energy and area as multiples of the first program; the table has the figures"
    longest, shortest = max(map(max, multiples)), min(map(min, multiples))
    scale = {"type": "log"} if longest > WIDE * shortest else {"rangemode": "tozero"}
    axis = {"title": {"text": "times the first"}, **scale}
    layout = {"barmode": "group", "yaxis": axis}
    return Chart("comparison", "As multiples of the first program", words, traces, layout)

"""The report of one program as a page: verdict, accuracy, floor plan, schedule, cost and origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memcompile.atomic import write_atomically
from memcompile.figures import pointer
from memcompile.html.cell_data import cell_data
from memcompile.html.charts import colour_of
from memcompile.html.mapping_data import ArrayKinds, mapping_bytes, mapping_facts
from memcompile.html.network_rows import network_rows
from memcompile.html.page import Page
from memcompile.html.report_charts import report_charts
from memcompile.program.program import Program
from memcompile.report.verdict import verdict

TITLES = {
    "arrays": "arrays",
    "initiation_interval": "steps between two images",
    "latency": "steps of one image alone",
    "crossing_values": "values from chip to chip",
    "pass_time_ns": "time of a batch",
}
"""Words for the quantities of certificates."""


@dataclass(frozen=True)
class Origin:
    """Command that a report comes from, as a reader would type it, and the chip whose cells it shows."""

    command: str = ""
    seed: int = 0


def program_page(program: Program, facts: Mapping[str, Any], origin: Origin | None = None) -> bytes:
    """The report of a program as HTML.

    Parameters
    ----------
    facts
        Those of the program, see :func:`memcompile.report.facts.program_facts`; what they do not hold, such as accuracy
        where none was measured, the page leaves out.
    """
    origin = origin or Origin()
    canvases = ("canvas.js", "floor_plan.js", "schedule.js") if program.layers else ()
    scripts = (*canvases, *(("yield.js",) if facts["accuracy"] else ()))
    page = Page(f"{facts['model']} on {facts['target']}", "report.html.j2", facts, scripts)
    for chart in report_charts(dict(facts)):
        page.add_chart(chart)
    cells = None
    if program.layers:
        kinds = ArrayKinds.of(program)
        page.add_data("mapping", mapping_facts(program, kinds))
        page.add_packed("mapping", mapping_bytes(program, kinds))
        cells = cell_data(program, kinds, origin.seed)
    if cells is not None:
        page.add_data("cells", cells.facts)
        page.add_packed("cells", cells.content)
    return page.render(
        program=program,
        target=program.target,
        origin=origin,
        verdict=verdict(facts),
        network=network_rows(program),
        cells=None if cells is None else cells.facts,
        titles=TITLES,
        colour_of=colour_of,
        pointer=pointer,
    )


def write_program_page(path: Path, program: Program, facts: Mapping[str, Any], origin: Origin | None = None) -> None:
    """Write the report as an HTML file, whole or not at all.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    write_atomically(path, program_page(program, facts, origin))

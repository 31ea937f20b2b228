"""The report of one program as a page: verdict, accuracy, floor plan, schedule, cost and origin."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from memcompile.atomic import write_atomically
from memcompile.described import Described
from memcompile.figures import pointer
from memcompile.html.cell_data import cell_data
from memcompile.html.histograms import HEIGHT, WIDTH, current_histograms
from memcompile.html.mapping_data import ArrayKinds, mapping_bytes, mapping_facts
from memcompile.html.network_rows import network_rows
from memcompile.html.page import Page
from memcompile.html.report_charts import report_charts
from memcompile.pictures import colour_of
from memcompile.program.program import Program
from memcompile.report.lifetime import age_text
from memcompile.report.verdict import as_text, verdict

FRAME_PIXELS = 640
"""Height of the page in a notebook."""
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


@dataclass(frozen=True, eq=False, repr=False)
class ReportPage(Described):
    """The report of a program: its facts, and the page that shows them, which notebooks display in a frame."""

    program: Program
    facts: Mapping[str, Any]
    origin: Origin = field(default_factory=Origin)

    def described(self) -> list[str]:
        """Lines of ``repr``: the verdict."""
        return [
            f"Report of {self.facts['model']}",
            *(f"  {as_text(words, self.facts)}" for words in verdict(self.facts)),
        ]

    @cached_property
    def html(self) -> bytes:
        """The page."""
        return program_page(self.program, self.facts, self.origin)

    def save(self, path: Path | str) -> None:
        """Write the page, whole or not at all.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        write_atomically(Path(path), self.html)

    def _repr_html_(self) -> str:
        """The page in a frame that sees nothing of the notebook around it."""
        inside = html.escape(self.html.decode("utf-8"))
        style = f"width: 100%; height: {FRAME_PIXELS}px; border: 0"
        return f'<iframe sandbox="allow-scripts" title="Report" style="{style}" srcdoc="{inside}"></iframe>'


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
        histograms=current_histograms(facts),
        histogram_size=(WIDTH, HEIGHT),
        titles=TITLES,
        colour_of=colour_of,
        pointer=pointer,
        age_text=age_text,
    )


def write_program_page(path: Path, program: Program, facts: Mapping[str, Any], origin: Origin | None = None) -> None:
    """Write the report as an HTML file, whole or not at all.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    write_atomically(path, program_page(program, facts, origin))

"""``memcompile compare``: programs side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from memcompile.cli.console import Output, check_writable
from memcompile.cli.programs import program_of
from memcompile.cli.report import read_report
from memcompile.errors import UsageError
from memcompile.html.comparison_page import Facts, Row, differs, layer_rows, shown_rows, write_comparison_page
from memcompile.report.facts import program_facts
from memcompile.short_names import short_names

DIFFERS = "*"
"""Mark of rows in which programs differ."""
NAME_LETTERS = 24


@click.command("compare")
@click.argument("programs", nargs=-1, type=Path)
@click.option("--html", type=Path, metavar="FILE", help="Write the comparison as an HTML page.")
@click.option("--all-layers", is_flag=True, help="List figures of layers that differ, too.")
def compare_command(programs: tuple[Path, ...], html: Path | None, all_layers: bool) -> None:
    """Compare PROGRAMS: rate, latency, energy, area, arrays, and accuracy of those that are JSON reports.

    A program file knows nothing of accuracy; the report that `memcompile compile --json` wrote of it does, and can be
    named instead.
    """
    if len(programs) < 2:
        raise UsageError("compare takes two programs or more; name their files, such as a.mcp b.mcp")
    if html is not None:
        check_writable(html, "--html")
    facts = [_facts_of(path) for path in programs]
    names = _names(programs)
    out = Output(quiet=False, json_path=None)
    out.print(comparison_table(names, facts, shown_rows(facts)))
    of_layers = layer_rows(facts)
    if of_layers and all_layers:
        out.print(comparison_table(names, facts, of_layers))
    elif of_layers:
        out.say(f"layers differ in {len(of_layers)} figures; --all-layers lists them")
    if html is not None:
        write_comparison_page(html, names, facts)
        out.say(f"comparison written to {html}")


def _facts_of(path: Path) -> Facts:
    """Facts of a program file, or those that a JSON report holds."""
    if path.suffix.lower() != ".json":
        return program_facts(program_of(path))
    found = read_report(path, str(path))
    named = [found.get("model"), found.get("target")]
    named += [layer.get("name") if isinstance(layer, dict) else None for layer in found["layers"]]
    if not all(isinstance(name, str) for name in named):
        raise UsageError(f"{path} is no report; name a file that `memcompile compile --json` wrote")
    try:
        json.dumps(found, allow_nan=False)
    except ValueError as error:
        raise UsageError(f"{path} holds numbers that no report has: {error}") from error
    return found


def _names(programs: tuple[Path, ...]) -> list[str]:
    """Names of files, with their folders where these tell them apart."""
    names = [path.name for path in programs]
    return names if len(set(names)) == len(names) else [str(path) for path in programs]


def comparison_table(names: Sequence[str], programs: Sequence[Facts], rows: Sequence[Row]) -> Table:
    """Figures of programs side by side, with a mark at those that differ."""
    table = Table(title=f"{DIFFERS} marks what differs; the best is bold", title_justify="left", header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in short_names(names, NAME_LETTERS):
        table.add_column(name, justify="right", overflow="fold")
    table.add_row("", "target", *(str(facts["target"]) for facts in programs))
    for row in rows:
        best = row.best(programs)
        cells = [row.text(facts) for facts in programs]
        marked = [Text(cell, style="bold" if number in best else "") for number, cell in enumerate(cells)]
        table.add_row(DIFFERS if differs(row, programs) else "", row.title, *marked)
    return table

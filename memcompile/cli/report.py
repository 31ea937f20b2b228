"""``memcompile report PROGRAM``: the report as an HTML page, and the option of other commands that writes one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from memcompile.atomic import write_atomically
from memcompile.cli.advice import command_line
from memcompile.cli.console import Output, check_writable
from memcompile.cli.programs import program_of
from memcompile.errors import UsageError
from memcompile.export.schedule_trace import trace_json
from memcompile.html.program_page import Origin, write_program_page
from memcompile.program.program import Program
from memcompile.report.facts import MEASURED as OF_EVALUATION
from memcompile.report.facts import Facts, program_facts

NO_PAGE = "none"
MEASURED = ("multiply_adds", "operators", "data", "accuracy_budget", "pareto", *OF_EVALUATION)
"""Keys of a JSON report that a program file does not tell."""
OF_LAYERS = ("sqnr_db", "exact")
"""Such keys of a layer."""
MOST_BYTES = 1 << 28


def report_file_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the files that a report comes in."""
    for option in (
        click.option(
            "--trace",
            type=Path,
            metavar="FILE.json",
            help="Write the schedule of one image as a trace for Perfetto or chrome://tracing.",
        ),
        click.option(
            "--html",
            metavar="FILE|none",
            help="Write the report as an HTML page [default: beside the program, with .html for .mcp].",
        ),
    ):
        function = option(function)
    return function


def facts_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Option of commands that show what a program file does not tell."""
    return click.option(
        "--facts",
        type=Path,
        metavar="JSON",
        help="Report that `memcompile compile --json` wrote of this program, for accuracy and all else that was "
        "measured.",
    )(function)


@dataclass(frozen=True)
class ReportFiles:
    """Files of a report: its page, and the trace of its schedule; None of what is not wanted."""

    page: Path | None
    trace: Path | None

    @classmethod
    def of(cls, html: str | None, trace: Path | None, program: Path) -> ReportFiles:
        """Files that were asked for; without a word a page beside the program, unless that goes to no regular file.

        Raises
        ------
        UsageError
            A file cannot be written there.
        """
        page = None if html in (None, NO_PAGE) else Path(str(html))
        for path, option in ((page, "--html"), (trace, "--trace")):
            if path is not None:
                check_writable(path, option)
        if html is None and (program.is_file() or not program.exists()):
            page = page_beside(program)
        return cls(page, trace)

    @property
    def any(self) -> bool:
        """True if there are files to write."""
        return self.page is not None or self.trace is not None

    def write(self, program: Program, facts: Facts, origin: Origin, out: Output) -> None:
        """Write the files and say so."""
        if self.trace is not None:
            write_atomically(self.trace, trace_json(program))
            out.say(f"trace written to {self.trace}; open it in Perfetto or chrome://tracing")
        if self.page is not None:
            write_program_page(self.page, program, facts, origin)
            out.say(f"report written to {self.page}")


def page_beside(program: Path) -> Path:
    """Default path of a page, PROGRAM.html without .mcp."""
    return program.with_name(f"{program.name.removesuffix('.mcp')}.html")


@click.command("report")
@click.argument("program", type=Path)
@click.option("-o", "--output", type=Path, metavar="FILE", help="HTML file [default: PROGRAM with .html for .mcp].")
@facts_option
@click.option(
    "--life", type=Path, metavar="JSON", help="Accuracy against age, as `memcompile run --time A..B --json` wrote it."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Chip whose cells are shown.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.pass_context
def report_command(
    context: click.Context,
    program: Path,
    output: Path | None,
    facts: Path | None,
    life: Path | None,
    seed: int,
    quiet: bool,
) -> None:
    """Write the report of PROGRAM as one HTML page: mapping, schedule, cost, and accuracy if --facts has it."""
    path = output or page_beside(program)
    check_writable(path)
    loaded = program_of(program)
    found = program_facts(loaded)
    origin = Origin(command_line(context.obj or ["report", program]), seed)
    given = [source for source in (facts, life) if source is not None]
    if facts is not None:
        found = facts_with(found, facts)
    if life is not None:
        found["life"] = _read_json(life, f"--life {life}")
    if given:
        _write_with(path, loaded, found, origin, " or ".join(map(str, given)))
    else:
        write_program_page(path, loaded, found, origin)
    if not quiet:
        click.echo(f"report written to {path}")


def _write_with(path: Path, program: Program, facts: Facts, origin: Origin, source: str) -> None:
    """Write a page with facts of a file, whose values may be anything."""
    from jinja2 import UndefinedError  # noqa: PLC0415 - few commands need it

    try:
        write_program_page(path, program, facts, origin)
    except (ArithmeticError, AttributeError, LookupError, TypeError, UndefinedError, ValueError) as error:
        raise UsageError(f"{source} is not what this version of memcompile writes: {error!r}") from error


def facts_with(found: Facts, path: Path) -> Facts:
    """Facts of a program with what a report of the same program measured.

    Raises
    ------
    UsageError
        The file is no such report.
    """
    given = read_report(path, f"--facts {path}")
    for key in ("model_sha256", "target", "arrays_used", "cells_used", "initiation_interval_steps", "chips"):
        if given.get(key) != found[key]:
            raise UsageError(
                f"--facts {path} is of another program: its {key} is {given.get(key)!r}, that of the program "
                f"{found[key]!r}; name the report that was written with the program"
            )
    missing = [key for key in MEASURED if key not in given]
    if missing or len(given["layers"]) != len(found["layers"]):
        raise UsageError(f"--facts {path} lacks {', '.join(missing) or 'layers'}; another version wrote it")
    merged = {**found, **{key: given[key] for key in MEASURED}}
    layers = zip(found["layers"], given["layers"], strict=True)
    merged["layers"] = [{**own, **{key: other[key] for key in OF_LAYERS if key in other}} for own, other in layers]
    return merged


def read_report(path: Path, words: str) -> Facts:
    """The dictionary of a JSON report, of which no more is known than that it has a list of layers.

    Parameters
    ----------
    words
        The file in messages.

    Raises
    ------
    UsageError
        The file cannot be read, or is no report.
    """
    given = _read_json(path, words)
    if not isinstance(given, dict) or not isinstance(given.get("layers"), list):
        raise UsageError(f"{words} is no report; name a file that `memcompile compile --json` wrote")
    return given


def _read_json(path: Path, words: str) -> Any:
    """Content of a JSON file.

    Raises
    ------
    UsageError
        It cannot be read.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"{words} is larger than {MOST_BYTES} bytes, which no report is")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{words} cannot be read: {error.strerror}; name a file that --json wrote") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{words} is not JSON: {error}; name a file that --json wrote") from error

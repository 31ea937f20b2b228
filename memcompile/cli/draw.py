"""``memcompile draw PROGRAM``: a picture of the mapping."""

from __future__ import annotations

from pathlib import Path

import click

from memcompile.atomic import write_atomically
from memcompile.cli.console import check_writable
from memcompile.cli.programs import program_of
from memcompile.cli.report import facts_option, facts_with
from memcompile.export.mapping_picture import described, mapping_figure
from memcompile.pictures import picture_of, suffix_of
from memcompile.report.facts import program_facts


@click.command("draw")
@click.argument("program", type=Path)
@click.option(
    "-o",
    "--output",
    type=Path,
    metavar="FILE",
    help="Picture: .png, .svg or .pdf [default: PROGRAM with .png for .mcp].",
)
@facts_option
@click.option("--dpi", type=click.IntRange(20, 600), default=140, show_default=True, help="Pixels an inch.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def draw_command(program: Path, output: Path | None, facts: Path | None, dpi: int, quiet: bool) -> None:
    """Draw PROGRAM: tiles on the arrays, who works in which step, and accuracy if --facts has it (needs matplotlib)."""
    path = output or program.with_name(f"{program.name.removesuffix('.mcp')}.png")
    suffix = suffix_of(path)
    check_writable(path)
    loaded = program_of(program)
    found = program_facts(loaded)
    if facts is not None:
        found = facts_with(found, facts)
    text = described(loaded, found)
    write_atomically(path, picture_of(mapping_figure(loaded, found), dpi, suffix, text))
    if not quiet:
        click.echo(f"{text}; drawn in {path}")

"""``memcompile MODEL --target A,B``: a program for each target, and all of them in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from memcompile.cli.advice import program_path
from memcompile.cli.compare import comparison_table
from memcompile.cli.console import Output, check_writable
from memcompile.cli.report import NO_PAGE
from memcompile.errors import MemcompileError, UsageError
from memcompile.hardware.target import load_target
from memcompile.html.comparison_page import shown_rows, write_comparison_page
from memcompile.report.facts import Facts

ONE_FILE = {"output": "-o", "trace": "--trace", "dump_ir": "--dump-ir"}
"""Options that name what a single program is written to."""


def split_targets(text: str) -> list[str]:
    """Targets of a list such as ``hermes,yao2020``; a file may have a comma in its name."""
    if Path(text).is_file():
        return [text]
    return [name.strip() for name in text.split(",") if name.strip()] or [text]


def check_targets(model: Path, targets: Sequence[str], options: Mapping[str, Any]) -> Path | None:
    """Refuse what cannot be done for several targets, before the work.

    Returns
    -------
    The page that will compare the programs, None if none is wanted.

    Raises
    ------
    UsageError
        An option is for a single program, or two programs would have the same file.
    TargetError
        A target file is wrong.
    """
    for name, option in ONE_FILE.items():
        if options[name] is not None:
            raise UsageError(f"{option} names a file of one program; leave it out, or name one target")
    paths = [program_path(model, target) for target in targets]
    for place, target in enumerate(targets):
        load_target(target)
        if paths[place] in paths[:place]:
            raise UsageError(f"--target names {target!r} and another target whose program is {paths[place]}; name one")
        check_writable(paths[place])
    if options["html"] == NO_PAGE:
        return None
    page = Path(f"{model.stem}.compare.html" if options["html"] is None else options["html"])
    check_writable(page, "--html")
    return page


@dataclass
class Programs:
    """Outcome for each target: the facts of its program, or why there is none."""

    outcomes: dict[str, Facts | MemcompileError] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Facts]:
        """Facts of the programs by target."""
        return {name: found for name, found in self.outcomes.items() if not isinstance(found, MemcompileError)}

    @property
    def failed(self) -> dict[str, MemcompileError]:
        """Failures by target."""
        return {name: found for name, found in self.outcomes.items() if isinstance(found, MemcompileError)}

    def add(self, target: str, compiled: Callable[[], Facts], out: Output) -> None:
        """Compile for a target; a failure is told at once and ends nothing."""
        try:
            self.outcomes[target] = compiled()
        except MemcompileError as error:
            self.outcomes[target] = error
            out.fail(f"{target}: {error}")

    @property
    def exit_code(self) -> int:
        """That of the first target that failed."""
        return next((error.exit_code for error in self.failed.values()), 0)

    def report(self, page: Path | None, out: Output) -> None:
        """Print the comparison and write its page and the JSON."""
        names, facts = list(self.facts), list(self.facts.values())
        if facts:
            out.show(comparison_table(names, facts, shown_rows(facts)))
        if self.failed:
            out.show(self._failures())
        out.write_json([_told(target, found) for target, found in self.outcomes.items()])
        if page is not None and facts:
            reasons = {target: str(error) for target, error in self.failed.items()}
            write_comparison_page(page, names, facts, reasons)
            out.say(f"comparison written to {page}")

    def _failures(self) -> Table:
        table = Table(title="no program", title_justify="left", header_style="bold")
        table.add_column("target", overflow="fold")
        table.add_column("why", overflow="fold")
        table.add_column("exit code", justify="right")
        for target, error in self.failed.items():
            table.add_row(target, str(error), str(error.exit_code))
        return table


def _told(target: str, found: Facts | MemcompileError) -> Facts:
    """The facts of a program, or those of a failure."""
    if isinstance(found, MemcompileError):
        return {"target": target, "error": str(found), "exit_code": found.exit_code}
    return found


def compile_targets(targets: Sequence[str], compiled: Callable[[str], Facts], page: Path | None, out: Output) -> None:
    """Compile for each target, compare, and leave with the exit code of the first that failed.

    Parameters
    ----------
    compiled
        Compiles for a target, writes its files and prints its report.
    page
        File for the comparison as a page.
    """
    programs = Programs()
    for target in targets:
        with out.progress(target, 1):
            programs.add(target, partial(compiled, target), out)
    programs.report(page, out)
    if programs.exit_code:
        click.get_current_context().exit(programs.exit_code)

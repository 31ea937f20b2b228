"""Shared parts of all commands: options about data, output, and progress."""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console, RenderableType
from rich.table import Table

from memcompile.atomic import write_atomically
from memcompile.errors import UsageError
from memcompile.ir.pass_manager import ProgressBar, no_progress
from memcompile.progress.terminal import PlainLines, TerminalLine
from memcompile.report.acceptance import accuracy_share
from memcompile.report.facts import Facts, facts_json
from memcompile.report.terminal_report import LEADING_LAYERS, MOST_LAYERS, Form, mapping_report, quality_report
from memcompile.runtime.cells import memory
from memcompile.runtime.kernels.compiled import when_compiling

# Tables need about this width; a pipe has none of its own.
PIPE_WIDTH = 120
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "y": 365.25 * 86400.0}


def numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Read a list of numbers such as 0.485,0.456,0.406."""
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.replace(",", " ").split())
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 0.485,0.456,0.406") from error


def duration(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """Read a duration such as 90s, 10min, 2h, 3d or 10y, in seconds."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(s|min|h|d|y)", value.strip())
    if match is None:
        raise click.BadParameter(f"{value!r} is not a duration such as 90s, 10min, 2h, 3d or 10y")
    return float(match[1]) * _SECONDS[match[2]]


def reads_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Option of commands that run a chip that has been in use."""
    return click.option(
        "--reads",
        type=click.FloatRange(0, max=1e18),
        default=0.0,
        metavar="N",
        help="Reads of each cell since programming, for read disturb.",
    )(function)


def words(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """Read a list of names such as conv1,fc."""
    return tuple(name.strip() for name in value.split(",") if name.strip())


def sample_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that reads samples."""
    for option in (
        click.option("--std", callback=numbers, metavar="A,B,..", help="Divide uint8 images by this, per channel."),
        click.option(
            "--mean", callback=numbers, metavar="A,B,..", help="Subtract this from uint8 images (scaled to 0..1)."
        ),
        click.option(
            "--data", type=Path, metavar="NPZ|DIR", help="Samples: an npz, or a folder with MNIST or CIFAR-10 files."
        ),
    ):
        function = option(function)
    return function


def data_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that works on samples."""
    function = sample_options(function)
    for option in (
        click.option("--quiet", is_flag=True, help="Print nothing but errors."),
        click.option("--seed", type=int, default=0, show_default=True, help="Decides everything random."),
        click.option(
            "--memory",
            type=click.FloatRange(0, 1 << 20, min_open=True),
            callback=_bound_memory,
            expose_value=False,
            metavar="GIB",
            help="Memory to stay within when chips are emulated "
            "[default: a quarter of what is free for the cells of one]. Results do not depend on it.",
        ),
    ):
        function = option(function)
    return function


def _bound_memory(ctx: click.Context, param: click.Parameter, value: float | None) -> None:
    """Bound the memory of this process."""
    if value is not None:
        os.environ[memory.VARIABLE] = repr(value)


def calibration_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Option of every command that emulates the chip of a seed."""
    return click.option(
        "--no-calibration",
        is_flag=True,
        help="Leave chips as their cells were written; by default each line gets a digital gain and offset from "
        "calibration samples, without labels.",
    )(function)


def share_of_right_answers(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read an accuracy such as 97%, 97 or 0.97, as a share."""
    return None if value is None else accuracy_share(value)


def accept_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Option of every command that emulates several chips."""
    return click.option(
        "--accept",
        callback=share_of_right_answers,
        metavar="ACCURACY",
        help="Count the chips that reach an accuracy, such as 97%, 97 or 0.97 (1 is all), with a 95 % interval for the "
        "share of all chips.",
    )(function)


def all_layers_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Option of every command that lists layers."""
    return click.option(
        "--all-layers",
        is_flag=True,
        help=f"List every layer; of more than {MOST_LAYERS} only {LEADING_LAYERS} are listed by default.",
    )(function)


def scoring_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that changes a chip and scores it."""
    for option in (
        click.option(
            "--json", "json_path", metavar="FILE|-", help="Write what was reached as JSON (- for standard output)."
        ),
        click.option(
            "--score-images", type=click.IntRange(1), help="Score on the first so many test images [default: all]."
        ),
        click.option("--skip", type=click.IntRange(0), help="Leave out the first so many samples of --test."),
        click.option(
            "--test", type=Path, metavar="NPZ", help="Samples to score on; published data sets bring their own."
        ),
    ):
        function = option(function)
    return function


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays of any names as a compressed npz, whole or not at all."""
    buffer = io.BytesIO()
    # numpy.savez_compressed takes names as keywords, among which some are its own.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)
    write_atomically(path, buffer.getvalue())


class _OwnConsole(Console):
    """A console that leaves a broken pipe to the command line."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def discard_output() -> None:
    """Discard what standard output still buffers; writing it would fail again when the process ends."""
    with suppress(OSError, ValueError):  # no file behind it, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


PLAIN = {"±": "+-", "…": ".."}
"""Stand-ins for signs that the encoding of the output lacks."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Signs of :data:`PLAIN` in plain letters, and a question mark for all else."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


def _write_plain_signs() -> None:
    """Let standard output write signs that its encoding lacks in plain letters."""
    codecs.register_error("memcompile.plain", _plain)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="memcompile.plain")


class Output:
    """Standard output for results, standard error for progress."""

    def __init__(self, quiet: bool, json_path: str | None) -> None:
        self._json_path = json_path
        if json_path not in (None, "-"):
            check_writable(Path(str(json_path)))
        # With JSON on standard output nothing else may be there.
        self._quiet = quiet or json_path == "-"
        width = None if sys.stdout.isatty() else PIPE_WIDTH
        _write_plain_signs()
        # Names come from files of strangers: brackets in them are letters.
        self._console = _OwnConsole(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
        self._line = None if quiet else _progress_line()

    @property
    def progress(self) -> ProgressBar:
        """Progress on standard error."""
        return no_progress if self._line is None else self._line

    def expect(self, *phases: str) -> None:
        """Say which phases there will be, in order."""
        if self._line is not None:
            self._line.phases.plan = phases

    def _paused(self) -> AbstractContextManager[None]:
        """The terminal without the line of progress, which would get among what is printed."""
        return nullcontext() if self._line is None else self._line.paused()

    def say(self, text: str) -> None:
        """Print a line."""
        if not self._quiet:
            self._print(text, soft_wrap=True, markup=False)

    def print(self, table: Table) -> None:
        """Print a table that was asked for."""
        self._print(table)

    def read(self, tables: Sequence[Table], paged: bool) -> None:
        """Print tables to read at leisure: through a pager where they are longer than the terminal, if ``paged``."""
        if not (paged and sys.stdout.isatty() and sys.stdin.isatty()):
            for table in tables:
                self.print(table)
            return
        with self._console.capture() as capture:
            for table in tables:
                self._console.print(table)
        text = capture.get()
        with self._paused():
            if text.count("\n") < self._console.height:
                click.echo(text, nl=False, color=True)  # rich has left out what the terminal cannot show
            else:
                click.echo_via_pager(text)

    def _print(self, what: RenderableType, **how: Any) -> None:
        with self._paused():
            self._console.print(what, **how)

    def show(self, table: Table, *lines: str) -> None:
        """Print a table that belongs to the report, and lines below it."""
        if self._quiet:
            return
        self._print("")
        self._print(table)
        for line in lines:
            self.say(line)

    def mapping(self, facts: dict[str, Any], all_layers: bool = False) -> None:
        """Print what a program tells."""
        if not self._quiet:
            self._print(mapping_report(facts, self._form(all_layers)))

    def quality(self, facts: dict[str, Any], all_layers: bool = False) -> None:
        """Print what was measured."""
        if not self._quiet:
            self._print(quality_report(facts, self._form(all_layers)), end="")

    def _form(self, all_layers: bool) -> Form:
        return Form(self._console.width, all_layers)

    def facts(self, facts: dict[str, Any], lines: list[str]) -> None:
        """Print lines, and write the facts behind them as JSON if asked for."""
        self.write_json(facts)
        for line in lines:
            self.say(line)

    def fail(self, message: str) -> None:
        """Print a message about something that failed and ends nothing."""
        with self._paused():
            click.echo(f"memcompile: error: {message}", err=True)

    def write_json(self, facts: Facts | list[Facts]) -> None:
        """Write facts as JSON if asked for."""
        if self._json_path == "-":
            with self._paused():
                click.echo(facts_json(facts), nl=False)
        elif self._json_path is not None:
            write_atomically(Path(self._json_path), facts_json(facts).encode())


def _progress_line() -> PlainLines | TerminalLine:
    """Progress on standard error until the command ends: one line of a terminal, or a line a phase elsewhere."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    line = TerminalLine() if terminal else PlainLines()
    context = click.get_current_context(silent=True)
    if context is not None:
        running = ExitStack()
        running.callback(line.close)
        running.enter_context(when_compiling(lambda: line.remark("compiling kernels, once only")))
        context.call_on_close(running.close)
    return line


def check_writable(path: Path, option: str = "-o") -> None:
    """Refuse a path that cannot be written before the work, not after it; ``option`` is the one that gives it."""
    if path.is_dir():
        raise UsageError(f"{path} is a directory; give a file name with {option}")
    if not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist; make it first, or choose another with {option}")

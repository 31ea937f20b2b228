"""The group of all commands, and what ``memcompile --help`` prints: quick, for nothing slow is imported for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click

from memcompile.errors import EXIT_CODES, UsageError, did_you_mean

COMMANDS = {
    "compare": "Compare PROGRAMS: rate, latency, energy, area, arrays, and accuracy of those that are JSON reports.",
    "compile": "Compile MODEL, write the program, and report mapping and accuracy.",
    "device": "Make a target of measured cells: PAIRS is a CSV file of conductances aimed at and measured.",
    "draw": (
        "Draw PROGRAM: tiles on the arrays, who works in which step, and accuracy if --facts has it (needs matplotlib)."
    ),
    "explore": "Compile and emulate variants of MODEL, and show which are best.",
    "export": "Write what PROGRAM puts on its arrays: for real arrays, or for another runtime.",
    "population": "Emulate many chips of PROGRAM: how accuracies are spread, the yield, and the worst chips.",
    "refresh": "Fit the digital scales of PROGRAM, a tuned chip, to what it computed when it was fresh.",
    "report": "Write the report of PROGRAM as one HTML page: mapping, schedule, cost, and accuracy if --facts has it.",
    "run": "Run PROGRAM on data: predictions, and accuracy where there are labels.",
    "show": "Show the mapping table of PROGRAM, or where one weight sits.",
    "targets": "List the built-in targets and devices, or print NAME as a complete file, ready to edit.",
    "tune": "Transfer PROGRAM to an emulated chip and tune it there.",
}
"""First sentences of what the commands say of themselves, for the list of all."""
HELP: tuple[list[str], ...] = (["--help"], ["-h"], [])
"""Arguments that ask for it."""
_CODES = "\n".join(f"  {code:>3}  {text}" for code, text in sorted(EXIT_CODES.items()))


class DefaultGroup(click.Group):
    """A group whose command ``compile`` may be left out: ``memcompile MODEL.onnx``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {*self.commands, "--help", "-h", "--version"}
        if args and args[0] not in own:
            self._refuse_wrong_verb(args[0])
            args = ["compile", *args]
        ctx.obj = list(args)  # for advice that calls the same command again
        return super().parse_args(ctx, args or ["--help"])

    def _refuse_wrong_verb(self, word: str) -> None:
        """Raise UsageError for a word that is neither a command nor looks like a model."""
        if word.startswith("-") or not re.fullmatch(r"[A-Za-z]+", word) or Path(word).exists():
            return
        raise UsageError(
            f"{word!r} is neither a command nor a file; commands are {', '.join(self.commands)}"
            f"{did_you_mean(word, self.commands)}"
        )


def command_group(*options: Callable[[Callable[[], None]], Callable[[], None]]) -> DefaultGroup:
    """A group without commands yet, with options of its own."""

    def cli() -> None:
        """Compile trained networks (ONNX) for memristor crossbar chips.

        `memcompile MODEL.onnx` compiles the model and reports mapping and accuracy;
        it is short for `memcompile compile MODEL.onnx`, and `memcompile compile --help` lists its options.
        """

    for option in options:
        cli = option(cli)
    return click.group(
        cls=DefaultGroup,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        epilog=f"\b\nExit codes:\n{_CODES}",
    )(cli)


def print_overview() -> None:
    """Print what ``memcompile --help`` does."""
    group = command_group(click.version_option("", prog_name="memcompile"))
    for name, text in COMMANDS.items():
        group.add_command(click.Command(name, help=text))
    group.main(args=["--help"], prog_name="memcompile", standalone_mode=False)

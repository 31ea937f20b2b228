"""Program files that commands are given."""

from __future__ import annotations

from pathlib import Path

from memcompile.cli.advice import command_line
from memcompile.errors import UsageError
from memcompile.program.file import load_program
from memcompile.program.program import Program
from memcompile.verify.verifier import verify_program


def program_of(path: Path) -> Program:
    """Read and verify a program.

    Raises
    ------
    UsageError
        The file is a model.
    ProgramError
        The file is damaged, or breaks a rule.
    """
    if path.suffix.lower() == ".onnx":
        raise UsageError(f"{path} is a model; compile it first: {command_line([path])}")
    return verify_program(load_program(path))

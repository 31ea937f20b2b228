"""One error hierarchy: every mistake a user can make is one message and one exit code.

The command line prints ``memcompile: error: MESSAGE`` and leaves with ``exit_code``; nothing in
this hierarchy ever shows a traceback. ``assert`` and ordinary exceptions are for our own faults.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from typing import ClassVar


class MemcompileError(Exception):
    """A failure whose message says what, where, the limit and what to do."""

    exit_code: ClassVar[int] = 1
    summary: ClassVar[str] = "any other failure"


class UsageError(MemcompileError):
    """The command line or a Python call asks for something that does not exist."""

    exit_code = 2
    summary = "wrong usage: an unknown option, pass or name, or options that contradict each other"


class ModelError(MemcompileError):
    """The model file cannot be read, is not valid ONNX, onnxruntime refuses it, or it breaks a limit."""

    exit_code = 3
    summary = "the model cannot be read, is not valid ONNX, onnxruntime cannot run it, or it takes too much"


class DataError(MemcompileError):
    """The data cannot be read or does not fit the model."""

    exit_code = 4
    summary = "the data cannot be read or does not fit the model"


class TargetError(MemcompileError):
    """The target file is wrong; the message lists all its errors at once."""

    exit_code = 5
    summary = "the target file is wrong (all its errors are listed)"


class ProgramError(MemcompileError):
    """The program file is damaged, or another version wrote it."""

    exit_code = 6
    summary = "the program file is damaged or of another version"


class CapacityError(MemcompileError):
    """The network does not fit the given chips."""

    exit_code = 7
    summary = "the network does not fit the given budget of chips"


class OutputError(MemcompileError):
    """A file cannot be written; whatever stood there before is untouched."""

    exit_code = 8
    summary = "an output file, or standard output, cannot be written"


class InternalError(MemcompileError):
    """A fault of memcompile, found before anything wrong is handed out.

    Parameters
    ----------
    what
        The fault, and where it is.
    way_round
        Workaround for the user until the fault is fixed.
    """

    def __init__(self, what: str, way_round: str) -> None:
        between = "\n" if "\n" in what else "; "
        super().__init__(
            f"{what}{between}{way_round}; please report it with the command line, the model, the data and your own "
            f"target file, if any, and these versions: {_versions()}"
        )


def _versions() -> str:
    """Versions that a report of a fault has to name."""
    found = []
    for package in ("memcompile", "onnxruntime", "onnx", "numpy", "ortools", "numba"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join([*found, f"Python {platform.python_version()} on {platform.machine()}"])


class VerificationError(InternalError):
    """A pass broke the graph: a fault of memcompile, with all violations listed."""

    exit_code = 70
    summary = "an internal check failed: a fault of memcompile; the message says how to go round it and report it"


class MiscompileError(InternalError):
    """A program differs from its network by more than rounding explains: a fault of memcompile."""

    exit_code = 71
    summary = "the program does not compute what the model does: a fault of memcompile; as for 70"

    def __init__(self, what: str) -> None:
        super().__init__(what, "--no-check compiles without this check")


EXIT_CODES: dict[int, str] = {
    0: "success",
    **{
        kind.exit_code: kind.summary
        for kind in (
            MemcompileError,
            UsageError,
            ModelError,
            DataError,
            TargetError,
            ProgramError,
            CapacityError,
            OutputError,
            VerificationError,
            MiscompileError,
        )
    },
    130: "interrupted (Ctrl-C)",
    143: "terminated (SIGTERM)",
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """End of a message about an unknown word: the nearest known one, or nothing."""
    nearest = get_close_matches(word, list(known), 1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""

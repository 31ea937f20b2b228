"""Reads the fenced blocks of a page and runs them.

In ``bash`` blocks each line is one command; it ends with ``# exit code N`` if it is meant to fail.
A ``text`` block right after a ``bash`` or ``python`` block is what that one prints. A ``toml`` block
is the content of the file that the paragraph before it names. The ``python`` blocks of a page run
in one process, in order.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from stand_ins import write_stand_ins

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = (
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
)
INCLUDED = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "examples", "benchmarks", "docs")
"""Parts of the repository that the commands of a page may use."""
NEEDS_TORCH = "import torch"
"""Python blocks that need PyTorch contain this; without PyTorch they do not run."""
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
EXPECTED = re.compile(r"\s+# exit code (?P<code>\d+)$")
FILE_NAMED = re.compile(r"`(?P<name>[\w.-]+\.toml)`[^`]*$")
WIDTH = 120


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page: where it starts (``fence``), and where its body does and ends."""

    language: str
    body: str
    before: str
    fence: int
    start: int
    end: int

    @property
    def commands(self) -> list[str]:
        """The commands of a bash block, one a line."""
        joined = self.body.replace("\\\n", "")
        return [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]

    @property
    def is_setup(self) -> bool:
        """Return True if a bash block sets up an environment, which only continuous integration does."""
        return "venv" in self.body or "pip install" in self.body


def blocks(text: str) -> list[Block]:
    """All fenced blocks of a page in order."""
    found = []
    for match in BLOCK.finditer(text):
        before = text[: match.start()].rstrip().rpartition("\n\n")[2]
        found.append(Block(match["language"], match["body"], before, match.start(), *match.span("body")))
    return found


class Runs(Protocol):
    """Runs what a page shows, in a folder of its own."""

    folder: Path

    def command(self, command: str) -> str:
        """Run one command line; returns its standard output, and its errors where it is meant to fail."""

    def python(self, body: str) -> str:
        """Run a Python block; returns what it printed."""


def outputs_of(text: str, runs: Runs, without: str | None = None) -> Iterator[tuple[Block, Block | None, str]]:
    """Run the blocks of a page in order.

    Parameters
    ----------
    runs
        Its commands find the repository's `INCLUDED` folders in its folder.
    without
        Python blocks that contain this text do not run.

    Yields
    ------
    Each block that ran, the text block right after it (if there is one), and what it printed.
    """
    found = blocks(text)
    for block, after in itertools.zip_longest(found, found[1:]):
        follows = after is not None and not text[block.end : after.fence].removeprefix("```").strip()
        shown = after if after and after.language == "text" and follows else None
        if block.language == "bash" and not block.is_setup:
            yield block, shown, "".join(runs.command(command) for command in block.commands)
        elif block.language == "toml":
            named = FILE_NAMED.search(block.before)
            assert named, f"the paragraph before this block names no file:\n{block.body}"
            (runs.folder / named["name"]).write_text(block.body, encoding="utf-8")
        elif block.language == "python" and (without is None or without not in block.body):
            yield block, shown, runs.python(block.body)


def split_command(command: str) -> tuple[str, int]:
    """Split a command line from the exit code that it is meant to leave with."""
    expected = EXPECTED.search(command)
    return EXPECTED.sub("", command), int(expected["code"]) if expected else 0


PROGRESS = re.compile(r"^phase \d+ of \d+: .*\n", re.MULTILINE)
"""Lines of phases, which pages leave out."""


def checked_output(command: str, code: int, wanted: int, out: str, errors: str) -> str:
    """Join what a command printed that left with this code.

    Raises
    ------
    RuntimeError
        The code is not the wanted one.
    """
    if code != wanted:
        raise RuntimeError(f"`{command}` left with code {code}, not {wanted}\n{out[-2000:]}{errors[-4000:]}")
    return out + (PROGRESS.sub("", errors) if wanted else "")


def environment() -> dict[str, str]:
    """Environment in which `memcompile` and `python` are those that run this file."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "COLUMNS": str(WIDTH)}


DRIVER = """
import ast, sys
scope = {"__name__": "__main__"}
for line in sys.stdin:
    exec(compile(ast.literal_eval(line), "<block>", "exec"), scope)
    print(ast.literal_eval(sys.argv[1]), flush=True)
"""
END_OF_BLOCK = "== end of block ==\n"


class Processes:
    """Runs each command in a process of its own, and the Python blocks of a page in one process, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._python: subprocess.Popen[str] | None = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        if self._python is not None:
            self._python.communicate()

    def command(self, command: str) -> str:
        """Run one command line in a shell."""
        line, wanted = split_command(command)
        result = subprocess.run(
            line,
            shell=True,
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return checked_output(line, result.returncode, wanted, result.stdout, result.stderr)

    def python(self, body: str) -> str:
        """Run a Python block."""
        if self._python is None:
            self._python = subprocess.Popen(
                [sys.executable, "-c", DRIVER, repr(END_OF_BLOCK.strip())],
                cwd=self.folder,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._python.stdin is not None
        assert self._python.stdout is not None
        self._python.stdin.write(repr(body) + "\n")
        self._python.stdin.flush()
        lines = []
        for line in self._python.stdout:
            if line == END_OF_BLOCK:
                return "".join(lines)
            lines.append(line)
        raise RuntimeError(f"this Python block failed, see standard error:\n{body}")


def prepare(folder: Path) -> None:
    """Put what pages use into an empty folder: parts of the repository, and stand-ins for a reader's own files."""
    for name in INCLUDED:
        source = REPOSITORY / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    write_stand_ins(folder)

"""Runs scripts and notebooks in this process, and reads what commands print.

The start of another process costs more than most of them do.
"""

from __future__ import annotations

import ast
import json
import re
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PHASE = re.compile(r"phase \d+ of \d+: [a-z ]+ \(after \d+:\d\d\)")


def run_script(script: Path, *arguments: object) -> int:
    """Run a script in the current folder, as ``python script`` would.

    Returns
    -------
    Its exit code.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        patch.setattr(sys, "path", [str(script.parent.resolve()), *sys.path])
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as left:
            if isinstance(left.code, str):
                sys.stderr.write(left.code)
                return 1
            return left.code or 0
    return 0


@dataclass(frozen=True)
class Cell:
    """Code of a cell, and the value of its last expression, which Jupyter shows; None if there is none."""

    source: str
    value: Any


def run_notebook(path: Path) -> list[Cell]:
    """Run the code cells of a notebook in the current folder, in order and in one namespace, without Jupyter."""
    document = json.loads(path.read_text(encoding="utf-8"))
    space: dict[str, Any] = {"__name__": "__main__"}
    cells = ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"]
    return [Cell(source, _run(source, f"{path.name}, cell {number}", space)) for number, source in enumerate(cells)]


def _run(source: str, name: str, space: dict[str, Any]) -> Any:
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), space)
    return None if last is None else eval(compile(ast.Expression(last.value), name, "eval"), space)


def without_phases(errors: str) -> str:
    """Standard error without the lines that a pipe gets for the phases of a command."""
    return "".join(line for line in errors.splitlines(keepends=True) if not PHASE.fullmatch(line.rstrip("\n")))

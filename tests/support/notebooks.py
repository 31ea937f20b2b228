"""Runs notebooks without Jupyter: the code of their cells in order, in one namespace."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cell:
    """Code of a cell, and the value of its last expression, which Jupyter shows; None if there is none."""

    source: str
    value: Any


def run_notebook(path: Path) -> list[Cell]:
    """Run the code cells of a notebook in the current folder."""
    document = json.loads(path.read_text(encoding="utf-8"))
    space: dict[str, Any] = {"__name__": "__main__"}
    cells = ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"]
    return [Cell(source, _run(source, f"{path.name}, cell {number}", space)) for number, source in enumerate(cells)]


def _run(source: str, name: str, space: dict[str, Any]) -> Any:
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), space)
    return None if last is None else eval(compile(ast.Expression(last.value), name, "eval"), space)

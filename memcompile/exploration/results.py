"""Results: one row a point, with the keys of the JSON report in one line each, as JSON lines and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memcompile.atomic import write_atomically
from memcompile.report.accuracy_report import accuracy_facts
from memcompile.report.evaluation import Accuracy, CalibrationSummary

Row = dict[str, Any]
VARIED = "vary."
"""Prefix of the columns of what varies."""


def flattened(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys joined by dots, and their values."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def chip_accuracy(mapped: Mapping[str, Any], chips: Sequence[Mapping[str, Any]], least: float | None) -> Row:
    """Facts of accuracy as the report has them, of the chips that were emulated; none without chips or labels."""
    if mapped["ideal"] is None or not (chips or mapped["continuous"]):
        return {}
    used = [chip["emulated"] for chip in chips] or [mapped["ideal"]]
    summary = CalibrationSummary(
        chips[0]["calibration_images"] if chips else 0,
        sum(chip["calibrated"] for chip in chips),
        chips[0]["obstacle"] if chips else "nothing of the program has errors",
    )
    accuracy = Accuracy(
        reference=mapped["float"],
        ideal=mapped["ideal"],
        ideal_emulated=mapped["ideal"],
        transferred=np.array(used),
        emulated=np.array(used),
        images=mapped["images"],
        emulated_images=mapped["images"],
        calibration=summary,
        least=least,
    )
    # Chips are scored as they are used alone, which takes half the time.
    return {name: value for name, value in accuracy_facts(accuracy).items() if not name.startswith("transferred")}


def columns(rows: Sequence[Row]) -> list[str]:
    """All keys of rows in the order of their first appearance, without those that others have parts of."""
    found: dict[str, None] = {}
    for row in rows:
        found |= dict.fromkeys(row)
    parts = {key[:place] for key in found for place, letter in enumerate(key) if letter == "."}
    return [key for key in found if key not in parts]


def completed(rows: Sequence[Row]) -> list[Row]:
    """Rows with the same keys in all, None where one does not apply."""
    names = columns(rows)
    return [{name: row.get(name) for name in names} for row in rows]


def write_results(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``results.jsonl`` and ``results.csv``, each whole or not at all.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    whole = completed(rows)
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in whole)
    write_atomically(folder / "results.jsonl", "".join(lines).encode())
    write_atomically(folder / "results.csv", csv_text(whole).encode())


def csv_text(rows: Sequence[Row]) -> str:
    """Rows as CSV; lists are their values with spaces between, and what does not apply is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = list(rows[0]) if rows else []
    writer.writerow(names)
    writer.writerows([_cell(row[name]) for name in names] for row in rows)
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Iterable) and not isinstance(value, str):
        return " ".join(map(str, value))
    # A spreadsheet would take it for a formula, and names come from files of strangers.
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "@") else value

"""Tables of measured cells: CSV files whose columns are found by name and unit."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import DataError

Array = NDArray[np.float64]

MAX_BYTES = 200_000_000
LARGEST_US = 1e7
"""A memristor is far below; beyond it a unit is wrong."""

# Factors to microsiemens, to ohms and to seconds, by the unit in lower case.
SIEMENS = {"s": 1e6, "siemens": 1e6, "ms": 1e3, "us": 1.0, "microsiemens": 1.0, "ns": 1e-3, "nanosiemens": 1e-3}
OHMS = {"ohm": 1.0, "ohms": 1.0, "kohm": 1e3, "kohms": 1e3, "mohm": 1e6, "mohms": 1e6, "megohm": 1e6}
SECONDS = {
    **{"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9},
    **{"min": 60.0, "minute": 60.0, "minutes": 60.0, "h": 3600.0, "hour": 3600.0, "hours": 3600.0},
    **{"d": 86_400.0, "day": 86_400.0, "days": 86_400.0},
}
WORDS = {
    "target": ("target", "goal", "aim", "aimed", "set", "desired", "nominal", "wanted"),
    "measured": ("measured", "meas", "read", "actual", "result", "final", "verified", "value", "readout"),
    "initial": ("initial", "start", "first", "before"),
    "time": ("time", "t", "age", "elapsed", "delay", "after", "seconds", "minutes", "hours", "days"),
    "cell": ("cell", "device", "id", "cellid", "deviceid"),
}
"""Words by which a column is known; a column is what the first of its words says."""
OPEN_WORDS = ("programmed", "prog", "written", "g", "conductance", "r", "resistance")
"""Words of conductances that are the one of goal and measurement that no other column is."""
EXAMPLES = {
    "target": "target_us or target (uS)",
    "measured": "measured_us or measured (uS)",
    "initial": "initial_us",
    "time": "time_s or time (h)",
    "cell": "cell",
}


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of a table, by role: conductances in microsiemens, times in seconds, cells by number.

    ``lines`` are the numbers of the rows in the file, from 1.
    """

    name: str
    columns: Mapping[str, Array]
    lines: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.lines)

    def of(self, role: str) -> Array | None:
        """One column, None where the table has none."""
        return self.columns.get(role)

    def kept(self, rows: NDArray[np.bool_]) -> Table:
        """Some of the rows."""
        return Table(self.name, {role: column[rows] for role, column in self.columns.items()}, self.lines[rows])


@dataclass(frozen=True)
class _Column:
    place: int
    title: str
    role: str
    unit: str

    def number(self, text: str) -> float:
        """Value of an entry in microsiemens or seconds.

        Raises
        ------
        ValueError
            It is no such value; the message says why.
        """
        try:
            value = float(text)
        except ValueError as error:
            raise ValueError(f"{text!r} is not a number; correct it, or remove the line") from error
        if not math.isfinite(value):
            raise ValueError(f"{text!r} is not finite; correct it, or remove the line")
        if self.role == "time":
            if value < 0:
                raise ValueError(f"{text} is a time before writing; give at least 0")
            return value * SECONDS[self.unit]
        value_us = self._conductance_us(text, value)
        if value_us > LARGEST_US:
            raise ValueError(f"{text} {self.unit} is {value_us * 1e-6:g} S, beyond any memristor; is the unit right?")
        if self.role == "target" and value_us < 0:
            raise ValueError(f"{text} is below 0, and no cell can be written to that; give the conductance aimed at")
        return value_us

    def _conductance_us(self, text: str, value: float) -> float:
        if self.unit in SIEMENS:
            return value * SIEMENS[self.unit]
        if value <= 0:
            raise ValueError(f"a resistance of {text} is not above 0; give ohms, or conductances in uS")
        return 1e6 / (value * OHMS[self.unit])


def read_table(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """Read a table of measured cells.

    The first row that is neither empty nor a comment (#) names the columns: a word such as target or measured, and a
    unit such as uS, nS, mS, kohm, s or h. Values are separated by commas, semicolons or tabs.

    Parameters
    ----------
    needed, optional
        Roles of columns: target, measured, initial, time, cell. Other columns are ignored.

    Raises
    ------
    DataError
        The file cannot be read, lacks a column, or a value is wrong; names line and column.
    """
    rows, decimal = csv_rows(path, "a CSV file of measured cells")
    if not rows:
        raise DataError(f"{path} is empty; it needs a row of column names, such as target_us,measured_us, and values")
    line, titles = rows[0]
    columns = _columns(path, line, titles, needed, optional)
    values: dict[str, list[float]] = {column.role: [] for column in columns}
    names: dict[str, int] = {}
    for line, row in rows[1:]:
        for column in columns:
            where = f"{path}, line {line}, column {column.title!r}"
            if column.place >= len(row) or not row[column.place].strip():
                raise DataError(f"{where}: no value; add it, or remove the line")
            text = row[column.place].strip()
            if column.role == "cell":
                values["cell"].append(names.setdefault(text, len(names)))
                continue
            try:
                values[column.role].append(column.number(text.replace(decimal, ".")))
            except ValueError as error:
                raise DataError(f"{where}: {error}") from error
    if len(rows) == 1:
        raise DataError(f"{path} has column names and no values; add a line for each measured cell")
    lines = np.array([line for line, _ in rows[1:]])
    return Table(path.name, {role: np.array(column, np.float64) for role, column in values.items()}, lines)


def _text_of(path: Path, what: str) -> str:
    """Text of a file that is to be ``what``.

    Raises
    ------
    DataError
        The file cannot be read, is too large, or is no text.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES // 1_000_000} MB; give a part of the measurements")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give {what}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; save the table as CSV") from error


def csv_rows(path: Path, what: str) -> tuple[list[tuple[int, list[str]]], str]:
    """Rows of a file that is to be ``what``, each with its line number, without comments (#) and empty lines.

    Also returns the decimal mark: a comma where semicolons separate values.

    Raises
    ------
    DataError
        The file cannot be read, is too large, or is no CSV.
    """
    text = _text_of(path, what)
    first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
    delimiter = max(";\t,", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader if any(entry.strip() for entry in row)]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; save the table as CSV") from error
    kept = [(line, row) for line, row in rows if not row[0].lstrip().startswith("#")]
    return kept, "," if delimiter == ";" else "."


def _columns(path: Path, line: int, titles: list[str], needed: Sequence[str], optional: Sequence[str]) -> list[_Column]:
    """Columns of the wanted roles."""
    wanted = (*needed, *optional)
    said = [(place, title.strip(), _role(title)) for place, title in enumerate(titles)]
    open_role = next((role for role in needed if role not in {role for *_, role in said}), None)
    if open_role in ("target", "measured"):
        said = [(p, title, open_role if role is None and _is_open(title) else role) for p, title, role in said]
    found: dict[str, _Column] = {}
    unitless: dict[str, str] = {}
    for place, title, role in said:
        if role is None or role not in wanted:
            continue
        unit = _unit(title, role)
        if unit is None:
            unitless.setdefault(role, title)
            continue
        if role in found:
            raise DataError(
                f"{path}, line {line}, column {title!r}: {found[role].title!r} also says {role}; keep one, or rename "
                "the other so that it does not"
            )
        found[role] = _Column(place, title, role, unit)
    for role, title in unitless.items():
        if role not in found:
            known = "s, min, h or d" if role == "time" else "uS, nS, mS, S, ohm, kohm or Mohm"
            raise DataError(
                f"{path}, line {line}, column {title!r}: no unit; name it {EXAMPLES[role]}, with one of {known}"
            )
    missing = [role for role in needed if role not in found]
    if missing:
        named = ", ".join(repr(title.strip()) for title in titles[:8])
        raise DataError(
            f"{path}, line {line}: no column says {missing[0]}, among {named}; name it {EXAMPLES[missing[0]]}"
        )
    return list(found.values())


def _words(title: str) -> list[str]:
    title = title.replace("µ", "u").replace("μ", "u").replace("Ω", "ohm").replace("Ω", "ohm")
    # target_uS, gTarget and G_TARGET are words of their own; units such as uS are not cut.
    apart = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", title)
    return [word for word in re.split(r"[^A-Za-z]+", apart.lower()) if word]


def _role(title: str) -> str | None:
    words = _words(title)
    unit = words[-1] if len(words) > 1 else ""
    for role, known in WORDS.items():
        if any(word in known for word in words if word != unit or word not in SECONDS):
            return role
    return None


def _is_open(title: str) -> bool:
    """True for a conductance that may be a goal or a measurement."""
    words = _words(title)
    return any(word in OPEN_WORDS for word in words) and any(word in {**SIEMENS, **OHMS} for word in words)


def _unit(title: str, role: str) -> str | None:
    if role == "cell":
        return ""
    known = SECONDS if role == "time" else {**SIEMENS, **OHMS}
    words = _words(title)
    named = [word for word in words if word in known]
    # A single letter is a name there, but a time may be called by its unit alone.
    return named[-1] if named and (len(words) > 1 or (role == "time" and len(words[0]) > 1)) else None

"""Conductances read back from a real chip: the program on the cells as they are."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memcompile.data.files import read_npz, read_npz_headers
from memcompile.errors import DataError, UsageError
from memcompile.measurements.columns import LARGEST_US, text_of
from memcompile.program.program import ChipState, Program

KEY = "conductances_us"
PLACES = ("array", "input_line", "output_line")
VALUES = ("measured_us", KEY, "conductance_us")
"""Columns of a CSV file that may hold the conductance, the first that is there."""


def read_back(program: Program, path: Path, seed: int, *, aged: bool = False) -> Program:
    """A program on a chip whose cells hold measured conductances.

    What such a measurement contains is not drawn again: stuck cells, dead lines, and, unless the chip ``aged`` since,
    accumulated 1/f noise. The seed decides the rest, such as read noise.

    Parameters
    ----------
    path
        An npz with ``conductances_us`` in the shape that ``memcompile export --npz`` writes, or a CSV file with the
        columns of ``memcompile export --csv``, the conductance being ``measured_us`` if there is such a column.

    Raises
    ------
    UsageError
        The program is on a chip already, is written in segments, or has continuous cells.
    DataError
        The file is damaged, or does not fit the arrays of the program.
    """
    if program.chip is not None:
        raise UsageError("the program is transferred to a chip already; give the program that the compiler wrote")
    if program.placement.segments:
        raise UsageError("the arrays of this program are written several times, so that no one reading has them all")
    if program.target.cell.continuous:
        raise UsageError(f"cells of {program.target.name} are ideal; compile for the chip that was measured")
    cells_us = _from_csv(program, path) if path.suffix.lower() == ".csv" else _from_npz(program, path)
    faults = dict.fromkeys(
        (
            "faults__stuck_low_share",
            "faults__stuck_high_share",
            "faults__dead_input_line_share",
            "faults__dead_output_line_share",
        ),
        0.0,
    )
    target = program.target.with_(**faults)
    if not aged and target.flicker_noise is not None:
        target = target.with_(flicker_noise=None)
    return replace(program, target=target, chip=ChipState(cells_us, seed))


def _shapes(program: Program) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape of the arrays in exports, and of the cells of a chip."""
    array, count = program.target.array, int(program.placement.tiles.array.max(initial=-1)) + 1
    shape = (count, array.input_lines, array.output_lines, array.cells_per_crossing)
    return shape[: 2 + array.cells_per_crossing], (count, array.input_lines, array.cell_columns)


def _from_npz(program: Program, path: Path) -> NDArray[np.float32]:
    exported, of_chip = _shapes(program)
    headers = read_npz_headers(path)
    if KEY not in headers:
        raise DataError(
            f"{path} has no array {KEY!r}, but {', '.join(headers) or 'none'}; write it as export --npz does"
        )
    header = headers[KEY]
    if header.shape != exported or not header.is_numeric:
        axes = "arrays, input lines, output lines" + (", polarity" if len(exported) == 4 else "")
        raise DataError(
            f"{path}: {KEY} is {header}, but the program has {list(exported)} ({axes}); give its arrays as "
            "memcompile export --npz writes them"
        )
    values = read_npz(path, [KEY])[KEY].astype(np.float64)
    wrong = np.argwhere(~(np.isfinite(values) & (values >= 0) & (values <= LARGEST_US)))
    if len(wrong):
        place = wrong[0].tolist()
        raise DataError(
            f"{path}: {KEY}{place} is {values[tuple(place)]:g}; conductances are from 0 to {LARGEST_US:g} uS"
        )
    return values.reshape(of_chip).astype(np.float32)


def _from_csv(program: Program, path: Path) -> NDArray[np.float32]:
    """Cells of a list; those that hold no weight and are not in it are at the lowest conductance."""
    exported, of_chip = _shapes(program)
    cells = np.full(exported, np.nan)
    columns = (*PLACES, "polarity")[: len(exported)]
    for line, row, value in _rows(path, columns):
        place = tuple(_index(path, line, name, row[name], size) for name, size in zip(columns, exported, strict=True))
        if not np.isnan(cells[place]):
            raise DataError(f"{path}, line {line}: this cell is in the list twice; keep one of its lines")
        cells[place] = value
    flat = cells.reshape(-1)
    pairs = program.cell_map.pairs()
    missing = [cell for of in (pairs.plus, pairs.minus) for cell in of[np.isnan(flat[of])][:1].tolist()]
    if missing:
        place = np.unravel_index(missing[0], exported)
        named = ", ".join(f"{name} {int(at)}" for name, at in zip(columns, place, strict=True))
        raise DataError(f"{path} lacks the cell at {named}, which holds a weight; list all that export --csv lists")
    return np.where(np.isnan(cells), program.target.cell.g_min_us, cells).reshape(of_chip).astype(np.float32)


def _rows(path: Path, columns: tuple[str, ...]) -> list[tuple[int, Mapping[str, str], float]]:
    text = text_of(path, "an npz or a CSV file")
    lines = [line if not line.lstrip().startswith("#") else "" for line in text.splitlines()]
    reader = csv.DictReader(io.StringIO("\n".join(lines)))
    titles = [title.strip() for title in reader.fieldnames or ()]
    reader.fieldnames = titles
    value_column = next((name for name in VALUES if name in titles), None)
    lacking = [name for name in columns if name not in titles] + ([] if value_column else [VALUES[0]])
    if lacking or value_column is None:
        raise DataError(f"{path} has no column {lacking[0]!r}; it needs {', '.join(columns)} and {VALUES[0]}")
    found: list[tuple[int, Mapping[str, str], float]] = []
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}, column {value_column!r}"
            found.append((reader.line_num, row, _conductance(where, (row[value_column] or "").strip())))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; save the list as CSV") from error
    return found


def _conductance(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{where}: {text!r} is not a number; give the conductance in uS") from error
    if not 0 <= value <= LARGEST_US:
        raise DataError(f"{where}: {text} uS is out of range; conductances are from 0 to {LARGEST_US:g} uS")
    return value


def _index(path: Path, line: int, name: str, text: str | None, size: int) -> int:
    number = (text or "").strip()
    if not (number.isascii() and number.isdigit()) or int(number) >= size:
        raise DataError(f"{path}, line {line}, column {name!r}: {number!r} is not a number from 0 to {size - 1}")
    return int(number)

"""Conductances read back from a real chip: the program on the cells as they are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memcompile.data.files import read_npz, read_npz_headers
from memcompile.errors import DataError, UsageError
from memcompile.hardware.target import FaultsSpec
from memcompile.measurements.columns import LARGEST_US, csv_rows
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
    faults = {f"faults__{field}": 0.0 for field in FaultsSpec.model_fields}
    target = program.target.with_(**faults)
    if not aged and target.flicker_noise is not None:
        target = target.with_(flicker_noise=None)
    return replace(program, target=target, chip=ChipState(cells_us, seed))


def _shapes(program: Program) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape of the arrays in exports, and of the cells of a chip."""
    array, count = program.target.array, program.cell_map.arrays
    return (count, *array.cell_axes), (count, array.input_lines, array.cell_columns)


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


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, str], float]]:
    """Line number, entries by column, and conductance of each row."""
    rows, decimal = csv_rows(path, "an npz or a CSV file")
    titles = [title.strip() for title in rows[0][1]] if rows else []
    value_column = next((name for name in VALUES if name in titles), VALUES[0])
    lacking = [name for name in (*columns, value_column) if name not in titles]
    if lacking:
        raise DataError(f"{path} has no column {lacking[0]!r}; it needs {', '.join(columns)} and {VALUES[0]}")
    for line, row in rows[1:]:
        entries = dict(itertools.zip_longest(titles, map(str.strip, row[: len(titles)]), fillvalue=""))
        where = f"{path}, line {line}, column {value_column!r}"
        yield line, entries, _conductance(where, entries[value_column].replace(decimal, "."))


def _conductance(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{where}: {text!r} is not a number; give the conductance in uS") from error
    if not 0 <= value <= LARGEST_US:
        raise DataError(f"{where}: {text} uS is out of range; conductances are from 0 to {LARGEST_US:g} uS")
    return value


def _index(path: Path, line: int, name: str, number: str, size: int) -> int:
    if not (number.isascii() and number.isdigit()) or int(number) >= size:
        raise DataError(f"{path}, line {line}, column {name!r}: {number!r} is not a number from 0 to {size - 1}")
    return int(number)

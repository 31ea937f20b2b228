"""Packs few tiles into few arrays exactly, with CP-SAT."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model


@dataclass(frozen=True)
class ExactPacking:
    """``places`` is [tiles, 3]: array, first input line, first output line; None if none was found.

    ``bound`` is proven for the number of arrays.
    """

    places: NDArray[np.int64] | None
    bound: int


def pack_exactly(
    sizes: NDArray[np.int64], lines: tuple[int, int], arrays: int, interval: int, effort: float
) -> ExactPacking:
    """Fewest arrays that hold tiles without overlap and within the interval.

    The arrays stand side by side along the output lines, so that one two-dimensional
    non-overlap rule serves them all; tiles must not reach across an edge. Equal tiles are
    numbered in the order of their arrays.

    Parameters
    ----------
    sizes
        [tiles, 3]: input lines, output lines, steps per image.
    lines
        Input and output lines of an array.
    arrays
        Most arrays allowed.
    interval
        Most steps of an array.
    effort
        Limit in the solver's deterministic time.
    """
    model = cp_model.CpModel()
    used = model.new_int_var(1, arrays, "arrays")
    where, corners = [], []
    boxes_y, boxes_x = [], []
    for number, (height, width, _) in enumerate(sizes.tolist()):
        array = model.new_int_var(0, arrays - 1, f"array{number}")
        line = model.new_int_var(0, lines[0] - height, f"line{number}")
        output = model.new_int_var(0, lines[1] - width, f"output{number}")
        place = model.new_int_var(0, arrays * lines[1] - width, f"place{number}")
        model.add(place == lines[1] * array + output)
        model.add(array < used)
        boxes_y.append(model.new_fixed_size_interval_var(line, height, f"y{number}"))
        boxes_x.append(model.new_fixed_size_interval_var(place, width, f"x{number}"))
        where.append(array)
        corners.append((line, output))
    model.add_no_overlap_2d(boxes_x, boxes_y)
    _share_steps(model, where, sizes, arrays, interval)
    for first, second in _equal_neighbours(sizes):
        model.add(where[first] <= where[second])
    model.minimize(used)
    solver = solve(model, effort)
    if solver is None:
        return ExactPacking(None, 0)
    places = np.array(
        [
            (solver.value(array), solver.value(line), solver.value(output))
            for array, (line, output) in zip(where, corners, strict=True)
        ]
    )
    return ExactPacking(places, int(np.ceil(solver.best_objective_bound - 1e-6)))


def _share_steps(
    model: cp_model.CpModel, where: list[cp_model.IntVar], sizes: NDArray[np.int64], arrays: int, interval: int
) -> None:
    """The loads of an array add up to at most the interval."""
    if int(sizes[:, 2].sum()) <= interval:
        return
    for array in range(arrays):
        here = []
        for number, item in enumerate(where):
            inside = model.new_bool_var(f"in{array}_{number}")
            model.add(item == array).only_enforce_if(inside)
            model.add(item != array).only_enforce_if(~inside)
            here.append(inside)
        model.add(sum(int(load) * inside for load, inside in zip(sizes[:, 2], here, strict=True)) <= interval)


def _equal_neighbours(sizes: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pairs of equal tiles that follow each other."""
    last: dict[tuple[int, ...], int] = {}
    pairs = []
    for number, key in enumerate(map(tuple, sizes.tolist())):
        if key in last:
            pairs.append((last[key], number))
        last[key] = number
    return pairs


def solve(model: cp_model.CpModel, effort: float) -> cp_model.CpSolver | None:
    """Solve with one worker and a deterministic limit; None if no solution was found."""
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = effort
    status = solver.solve(model)
    return solver if status in (cp_model.OPTIMAL, cp_model.FEASIBLE) else None

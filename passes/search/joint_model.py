"""Chooses windows, replicas, arrays and loads of a small network together, exactly within its family.

A layer may mix two nested window sizes: the larger take windows inside the output, the
smaller the rest, with the edges. A layer whose kernel fits one tile may mix any chain of
nested one-tile windows, with any number of windows in each array; the others choose among
*schemes*, mixtures whose replicas share their windows evenly.

For one interval T after the other, a master problem selects schemes that fit the arrays in
total, and a second problem distributes their tiles over the single arrays; schemes it proves
impossible are cut off (logic-based Benders decomposition). All is solved by CP-SAT.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memcompile.passes.search.explore_windows import CopyOption
from memcompile.passes.solving import cp_sat
from memcompile.passes.solving.solver import Solver


@dataclass(frozen=True)
class Part:
    """Replicas of one option: its number in the layer's list, and the windows of each replica."""

    option: int
    loads: tuple[int, ...]


Scheme = tuple[Part, ...]


Content = tuple[tuple[int, int, int, int], ...]
"""Tiles of an array that stand side by side: input lines, output lines, steps, and number."""


@dataclass(frozen=True)
class JointPlan:
    """A scheme per layer that fits within ``interval`` steps, and the content of each array."""

    schemes: tuple[Scheme, ...]
    interval: int
    contents: tuple[Content, ...]


@dataclass(frozen=True)
class JointProblem:
    """Options per layer, input and output lines of an array, number of arrays."""

    layers: tuple[tuple[CopyOption, ...], ...]
    lines: tuple[int, int]
    arrays: int

    def is_free(self, layer: int) -> bool:
        """Return True if the loads of the layer's replicas are chosen array by array."""
        return self.layers[layer][0].tiles == 1 and self.layers[layer][0].windows > 1

    def free_options(self, layer: int) -> dict[int, CopyOption]:
        """Options of one tile, by number."""
        return {number: option for number, option in enumerate(self.layers[layer]) if option.tiles == 1}

    def tall_width(self, option: CopyOption) -> int:
        """Output lines under tiles higher than half an array: two of them never share a line."""
        return sum(width * count for height, width, count in option.sizes if 2 * height > self.lines[0])

    def full_width(self, option: CopyOption) -> int:
        """Output lines if every tile has its own lines."""
        return sum(width * count for _, width, count in option.sizes)


def nested(outer: CopyOption, inner: CopyOption) -> int:
    """Number of windows of ``inner`` that make up one of ``outer``; 0 if the sizes do not nest."""
    outer_window, inner_window = outer.unrolling.window, inner.unrolling.window
    if outer_window == inner_window or outer.unrolling.bundle != inner.unrolling.bundle:
        return 0
    if any(a % b for a, b in zip(outer_window, inner_window, strict=True)):
        return 0
    return math.prod(outer_window) // math.prod(inner_window)


def whole_windows(option: CopyOption) -> int:
    """Number of windows that lie entirely inside the output."""
    size = option.unrolling.geometry.output_size
    return math.prod(length // count for length, count in zip(size, option.unrolling.window, strict=True))


def evenly(windows: int, copies: int) -> tuple[int, ...]:
    """Split windows among replicas, the larger shares first."""
    least, longer = divmod(windows, copies)
    return (least + 1,) * longer + (least,) * (copies - longer)


def schemes_of(options: Sequence[CopyOption], interval: int) -> list[Scheme]:
    """One option, or a larger window and a nested smaller one for the rest; at most one spare replica."""
    found: list[Scheme] = []
    for inner, option in enumerate(options):
        found += [(part,) for part in _parts(inner, option.windows, interval)]
        for outer, larger in enumerate(options):
            ratio, whole = nested(larger, option), whole_windows(larger)
            if not ratio or not whole:
                continue
            counts = {whole, *range(interval, whole, interval)}
            for count in sorted(counts):
                rest = option.windows - ratio * count
                if rest > 0:
                    found += [
                        (first, second)
                        for first in _parts(outer, count, interval)
                        for second in _parts(inner, rest, interval)
                    ]
    return found


def _parts(option: int, windows: int, interval: int) -> list[Part]:
    """The fewest replicas that keep the interval, or one more."""
    fewest = -(-windows // interval)
    return [Part(option, evenly(windows, copies)) for copies in (fewest, fewest + 1) if copies <= windows]


class Master:
    """Master problem of one interval: selects schemes whose total demand fits the arrays in total."""

    def __init__(self, problem: JointProblem, interval: int) -> None:
        self.problem, self.interval = problem, interval
        self.model = cp_sat.CpModel()
        self.schemes: dict[int, list[Scheme]] = {}
        self.picked: dict[int, list[cp_sat.IntVar]] = {}
        work: list[cp_sat.LinearExprT] = []
        area: list[cp_sat.LinearExprT] = []
        tall: list[cp_sat.LinearExprT] = []
        for layer, options in enumerate(problem.layers):
            if problem.is_free(layer):
                windows = cover(self.model, problem.free_options(layer))
                for number, count in windows.items():
                    option = options[number]
                    copies = self.model.new_int_var(0, problem.arrays, "")
                    self.model.add(count <= interval * copies)
                    work.append(count)
                    area.append(option.crossings * copies)
                    tall.append(problem.tall_width(option) * copies)
                continue
            self.schemes[layer] = schemes_of(options, interval)
            self.picked[layer] = [self.model.new_bool_var("") for _ in self.schemes[layer]]
            self.model.add_exactly_one(self.picked[layer])
            for scheme, here in zip(self.schemes[layer], self.picked[layer], strict=True):
                work.append(here * sum(options[part.option].tiles * sum(part.loads) for part in scheme))
                area.append(here * sum(options[part.option].crossings * len(part.loads) for part in scheme))
                width = sum(problem.tall_width(options[part.option]) * len(part.loads) for part in scheme)
                tall.append(here * width)
        self.model.add(sum(work) <= problem.arrays * interval)
        self.model.add(sum(area) <= problem.arrays * problem.lines[0] * problem.lines[1])
        self.model.add(sum(tall) <= problem.arrays * problem.lines[1])
        # Of the schemes that fit, those with few cells leave most freedom to the arrays.
        self.model.minimize(sum(area))

    def propose(self, effort: float) -> dict[int, int] | None:
        """Scheme number per layer; None if there is none (left).

        Raises
        ------
        TimeoutError
            The deterministic limit ran out before an answer.
        """
        solver = Solver(effort)
        status = solver.solve(self.model)
        if status == cp_sat.INFEASIBLE:
            return None
        if status not in (cp_sat.OPTIMAL, cp_sat.FEASIBLE):
            raise TimeoutError
        return {
            layer: next(number for number, here in enumerate(picked) if solver.value(here))
            for layer, picked in self.picked.items()
        }

    def forbid(self, choice: dict[int, int]) -> None:
        """Add a no-good cut against one combination of schemes."""
        self.model.add_bool_or(~self.picked[layer][number] for layer, number in choice.items())


def cover(model: cp_sat.CpModel, options: Mapping[int, CopyOption]) -> dict[int, cp_sat.IntVar]:
    """Number of windows of each option of a layer, so that every output position is computed once.

    Active windows form a chain of nested sizes; all but the smallest lie entirely inside the output.
    """
    free = list(options)
    windows = {u: model.new_int_var(0, options[u].windows, "") for u in free}
    active = {u: model.new_bool_var("") for u in free}
    smallest = {u: model.new_bool_var("") for u in free}
    model.add_exactly_one(smallest.values())
    for u in free:
        model.add(windows[u] == 0).only_enforce_if(~active[u])
        model.add_implication(smallest[u], active[u])
        inside = {v: ratio for v in free if (ratio := nested(options[v], options[u]))}
        covered = windows[u] + sum(ratio * windows[v] for v, ratio in inside.items())
        model.add(covered == options[u].windows).only_enforce_if(smallest[u])
        model.add(covered <= whole_windows(options[u])).only_enforce_if(active[u], ~smallest[u])
        for v in free:
            if v != u and v not in inside:
                model.add_implication(smallest[u], ~active[v])
                if v > u and not nested(options[u], options[v]):
                    model.add_bool_or(~active[u], ~active[v])
    return windows


class Distribution:
    """Distributes the tiles of chosen schemes, and the free replicas, over the single arrays."""

    def __init__(self, problem: JointProblem, interval: int, schemes: dict[int, Scheme], own_lines: bool) -> None:
        self.problem, self.interval, self.own_lines = problem, interval, own_lines
        self.model = cp_sat.CpModel()
        self.steps: list[list[cp_sat.LinearExprT]] = [[] for _ in range(problem.arrays)]
        self.area: list[list[cp_sat.LinearExprT]] = [[] for _ in range(problem.arrays)]
        self.width: list[list[cp_sat.LinearExprT]] = [[] for _ in range(problem.arrays)]
        self.tiles: list[list[tuple[int, int, cp_sat.LinearExprT, cp_sat.IntVar]]] = [[] for _ in range(problem.arrays)]
        self.contents: tuple[Content, ...] = ()
        self.free: dict[int, dict[int, list[cp_sat.IntVar]]] = {}
        for layer, options in enumerate(problem.layers):
            if layer in schemes:
                for part in schemes[layer]:
                    self._scheme_part(options[part.option], part)
            else:
                self._free_layer(layer)
        for array in range(problem.arrays):
            self.model.add(sum(self.steps[array]) <= interval)
            self.model.add(sum(self.area[array]) <= problem.lines[0] * problem.lines[1])
            self.model.add(sum(self.width[array]) <= problem.lines[1])

    def _scheme_part(self, option: CopyOption, part: Part) -> None:
        for load in sorted(set(part.loads), reverse=True):
            for height, width, count in option.sizes:
                total = count * part.loads.count(load)
                fit = (self.problem.lines[0] // height) * (self.problem.lines[1] // width)
                here = [self.model.new_int_var(0, min(total, fit), "") for _ in range(self.problem.arrays)]
                self.model.add(sum(here) == total)
                for array, number in enumerate(here):
                    self.steps[array].append(load * number)
                    self.tiles[array].append((height, width, load, number))
                    self._occupy(array, height, width, number)

    def _free_layer(self, layer: int) -> None:
        """Allow at most one replica of an option per array: a second one would only wait for the first."""
        problem, model = self.problem, self.model
        self.free[layer] = {}
        for number, total in cover(model, problem.free_options(layer)).items():
            option = problem.layers[layer][number]
            height, width, _ = option.sizes[0]
            loads = []
            for array in range(problem.arrays):
                here = model.new_bool_var("")
                load = model.new_int_var(0, min(self.interval, option.windows), "")
                model.add(load <= min(self.interval, option.windows) * here)
                self.steps[array].append(load)
                self.tiles[array].append((height, width, load, here))
                self._occupy(array, height, width, here)
                loads.append(load)
            model.add(sum(loads) == total)
            self.free[layer][number] = loads

    def _occupy(self, array: int, height: int, width: int, count: cp_sat.IntVar) -> None:
        self.area[array].append(height * width * count)
        if self.own_lines or 2 * height > self.problem.lines[0]:
            self.width[array].append(width * count)

    def solve(self, effort: float) -> dict[int, Scheme] | None:
        """Schemes of the free layers, which fill the ``contents`` of arrays; None if there is no distribution.

        Raises
        ------
        TimeoutError
            The deterministic limit ran out before an answer.
        """
        solver = Solver(effort)
        status = solver.solve(self.model)
        if status == cp_sat.INFEASIBLE:
            return None
        if status not in (cp_sat.OPTIMAL, cp_sat.FEASIBLE):
            raise TimeoutError
        found = {}
        for layer, options in self.free.items():
            parts = []
            for number, loads in options.items():
                taken = sorted((load for item in loads if (load := solver.value(item))), reverse=True)
                if taken:
                    parts.append(Part(number, tuple(taken)))
            found[layer] = tuple(parts)
        self.contents = tuple(self._content(solver, array) for array in range(self.problem.arrays))
        return found

    def _content(self, solver: Solver, array: int) -> Content:
        listed = [
            (height, width, solver.value(load), solver.value(number))
            for height, width, load, number in self.tiles[array]
        ]
        return tuple(tile for tile in listed if tile[2] and tile[3])  # a replica without windows does not count

"""Logic-based Benders decomposition: windows, replicas, arrays and loads of a small network together.

A layer may mix two nested window sizes: the larger take windows inside the output, the
smaller the rest, with the edges. A layer whose kernel fits one tile may mix any chain of
nested one-tile windows, with any number of windows in each array; the others choose among
*schemes*, mixtures whose replicas share their windows evenly.

For one interval T after the other, a master problem selects schemes that fit the arrays in
total, and a subproblem distributes their tiles over the single arrays; schemes it proves
impossible are cut off. All is solved by CP-SAT, exactly within this family.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from memcompile.ir.pass_contract import Effort
from memcompile.passes.packing.first_fit import Fill, Packing, TileShape, pack
from memcompile.passes.search.explore_windows import ReplicaOption
from memcompile.passes.search.nested_windows import Part, Scheme, cover, replicas_of, schemes_of
from memcompile.passes.search.problem import Bracket, LayerKind, MappingProblem, NestedPlan, in_time
from memcompile.passes.solving import cp_sat
from memcompile.passes.solving.bisection import first_true
from memcompile.passes.solving.clock import running_clock
from memcompile.passes.solving.solver import Solver

MOST_OPTIONS = 8
"""Most options of a layer, those with the smallest windows."""


@dataclass(frozen=True)
class Limits:
    """Deterministic limits of the search: solver time per problem, and schemes tried per interval."""

    master: float
    subproblem: float
    proposals: int
    intervals: int


LIMITS = {"normal": Limits(4.0, 2.0, 6, 12), "best": Limits(20.0, 20.0, 40, 40)}

Content = tuple[tuple[int, int, int, int], ...]
"""Tiles of an array that stand side by side: input lines, output lines, steps, and number."""


@dataclass(frozen=True)
class JointPlan:
    """A scheme per layer that fits within ``interval`` steps, and the content of each array."""

    schemes: tuple[Scheme, ...]
    interval: int
    contents: tuple[Content, ...]


def benders(problem: MappingProblem, bracket: Bracket, effort: Effort) -> Bracket:
    """Search intervals between bound and plan, upwards, until one is kept."""
    small = layer_by_layer(problem)
    plan = search(small, bracket.bound, bracket.interval, LIMITS[effort])
    if plan is None:
        return bracket
    replicas = tuple(replicas_of(kind.options, scheme) for kind, scheme in zip(small.kinds, plan.schemes, strict=True))
    return replace(bracket, plan=NestedPlan(replicas, plan.interval, packed_side_by_side(plan, problem)))


def layer_by_layer(problem: MappingProblem) -> MappingProblem:
    """The problem with a kind for each layer, in layer order, and few options, the smallest windows first."""
    kinds = []
    for kind in problem.kinds:
        options = sorted(kind.options, key=lambda option: (option.unrolling.window_outputs, option.crossings))
        kinds += [LayerKind((member,), tuple(options[:MOST_OPTIONS])) for member in kind.members]
    return replace(problem, kinds=tuple(sorted(kinds, key=lambda kind: kind.members)))


def search(problem: MappingProblem, lowest: int, beat: int, limits: Limits) -> JointPlan | None:
    """A plan with a short interval below ``beat``, None if none was found; ``lowest`` is a known bound."""
    interval = first_true(lowest, beat, lambda interval: _is_possible(problem, interval, limits), in_time)
    proven = True
    for _ in range(limits.intervals):
        if interval >= beat or running_clock().is_over:
            return None
        plan, impossible = _try_interval(problem, interval, limits)
        if plan is not None:
            return plan
        proven = proven and impossible
        # Step by step as long as all schemes are ruled out; then with a wider stride, to find a plan in time.
        interval += 1 if proven else max(1, interval // 64)
    return None


def _is_possible(problem: MappingProblem, interval: int, limits: Limits) -> bool:
    """Return True if the master problem has a solution or stays undecided."""
    try:
        return Master(problem, interval).propose(limits.master) is not None
    except TimeoutError:
        return True


def _try_interval(problem: MappingProblem, interval: int, limits: Limits) -> tuple[JointPlan | None, bool]:
    """A plan of this interval; else None, and True if it is proven that there is none."""
    master = Master(problem, interval)
    proven = True
    for _ in range(limits.proposals):
        try:
            choice = master.propose(limits.master)
        except TimeoutError:
            return None, False
        if choice is None:
            return None, proven
        schemes = {layer: master.schemes[layer][number] for layer, number in choice.items()}
        try:
            subproblem = Subproblem(problem, interval, schemes, own_lines=True)
            free = subproblem.solve(limits.subproblem)
            if free is not None:
                found = {**schemes, **free}
                chosen = tuple(found[layer] for layer in range(len(problem.kinds)))
                return JointPlan(chosen, interval, subproblem.contents), False
            relaxed = Subproblem(problem, interval, schemes, own_lines=False).solve(limits.subproblem)
            proven = proven and relaxed is None
        except TimeoutError:
            proven = False
        if not choice:
            return None, proven
        master.forbid(choice)
    return None, False


def packed_side_by_side(plan: JointPlan, problem: MappingProblem) -> Packing | None:
    """A packing of a plan where first fit, with which placement begins, finds none."""
    counts: Counter[tuple[int, int, int]] = Counter()
    for content in plan.contents:
        for height, width, load, number in content:
            counts[height, width, load] += number
    shapes = [TileShape(*key, count) for key, count in sorted(counts.items())]
    if pack(shapes, problem.lines, plan.interval, problem.arrays, enough=problem.arrays) is not None:
        return None
    index = {(shape.height, shape.width, shape.load): number for number, shape in enumerate(shapes)}
    fills = []
    for content in plan.contents:
        tiles, edge = [], 0
        for height, width, load, number in content:
            tiles += [(index[height, width, load], 0, edge + place * width) for place in range(number)]
            edge += number * width
        if tiles:
            fills.append((Fill(tuple(tiles), (), sum(shapes[number].load for number, _, _ in tiles)), 1))
    return Packing(tuple(fills))


def is_free(options: Sequence[ReplicaOption]) -> bool:
    """Return True if the loads of a layer's replicas are chosen array by array."""
    return options[0].tiles == 1 and options[0].windows > 1


def free_options(options: Sequence[ReplicaOption]) -> dict[int, ReplicaOption]:
    """Options of one tile, by number."""
    return {number: option for number, option in enumerate(options) if option.tiles == 1}


def tall_width(problem: MappingProblem, option: ReplicaOption) -> int:
    """Output lines under tiles higher than half an array: two of them never share a line."""
    return sum(width * count for height, width, count in option.sizes if 2 * height > problem.lines[0])


def decided(model: cp_sat.CpModel, limit: float) -> Solver | None:
    """A solver that has a solution; None if there is none.

    Raises
    ------
    TimeoutError
        The deterministic limit ran out before an answer.
    """
    solver = Solver(limit)
    status = solver.solve(model)
    if status == cp_sat.INFEASIBLE:
        return None
    if status not in (cp_sat.OPTIMAL, cp_sat.FEASIBLE):
        raise TimeoutError
    return solver


class Master:
    """Master problem of one interval: selects schemes whose total demand fits the arrays in total."""

    def __init__(self, problem: MappingProblem, interval: int) -> None:
        self.problem, self.interval = problem, interval
        self.model = cp_sat.new_model()
        self.schemes: dict[int, list[Scheme]] = {}
        self.picked: dict[int, list[cp_sat.IntVar]] = {}
        work: list[cp_sat.LinearExprT] = []
        area: list[cp_sat.LinearExprT] = []
        tall: list[cp_sat.LinearExprT] = []
        for layer, options in enumerate(kind.options for kind in problem.kinds):
            if is_free(options):
                windows = cover(self.model, free_options(options))
                for number, count in windows.items():
                    option = options[number]
                    copies = self.model.new_int_var(0, problem.arrays, "")
                    self.model.add(count <= interval // option.longest * copies)
                    work.append(option.longest * count)
                    area.append(option.crossings * copies)
                    tall.append(tall_width(problem, option) * copies)
                continue
            self.schemes[layer] = schemes_of(options, interval)
            self.picked[layer] = [self.model.new_bool_var("") for _ in self.schemes[layer]]
            self.model.add_exactly_one(self.picked[layer])
            for scheme, here in zip(self.schemes[layer], self.picked[layer], strict=True):
                work.append(here * sum(options[part.option].tile_steps * sum(part.loads) for part in scheme))
                area.append(here * sum(options[part.option].crossings * len(part.loads) for part in scheme))
                width = sum(tall_width(problem, options[part.option]) * len(part.loads) for part in scheme)
                tall.append(here * width)
        self.model.add(sum(work) <= problem.arrays * interval)
        self.model.add(sum(area) <= problem.arrays * problem.lines[0] * problem.lines[1])
        self.model.add(sum(tall) <= problem.arrays * problem.lines[1])
        # Of the schemes that fit, those with few cells leave most freedom to the arrays.
        self.model.minimize(sum(area))

    def propose(self, limit: float) -> dict[int, int] | None:
        """Scheme number per layer; None if there is none (left)."""
        solver = decided(self.model, limit)
        if solver is None:
            return None
        return {
            layer: next(number for number, here in enumerate(picked) if solver.value(here))
            for layer, picked in self.picked.items()
        }

    def forbid(self, choice: dict[int, int]) -> None:
        """Add a no-good cut against one combination of schemes."""
        self.model.add_bool_or(~self.picked[layer][number] for layer, number in choice.items())


class Subproblem:
    """Distributes the tiles of chosen schemes, and the free replicas, over the single arrays."""

    def __init__(self, problem: MappingProblem, interval: int, schemes: dict[int, Scheme], own_lines: bool) -> None:
        self.problem, self.interval, self.own_lines = problem, interval, own_lines
        self.model = cp_sat.new_model()
        self.steps: list[list[cp_sat.LinearExprT]] = [[] for _ in range(problem.arrays)]
        self.area: list[list[cp_sat.LinearExprT]] = [[] for _ in range(problem.arrays)]
        self.width: list[list[cp_sat.LinearExprT]] = [[] for _ in range(problem.arrays)]
        self.tiles: list[list[tuple[int, int, cp_sat.LinearExprT, cp_sat.IntVar]]] = [[] for _ in range(problem.arrays)]
        self.contents: tuple[Content, ...] = ()
        self.free: dict[int, dict[int, list[cp_sat.IntVar]]] = {}
        for layer, options in enumerate(kind.options for kind in problem.kinds):
            if layer in schemes:
                for part in schemes[layer]:
                    self._scheme_part(options[part.option], part)
            else:
                self._free_layer(layer, options)
        for array in range(problem.arrays):
            self.model.add(sum(self.steps[array]) <= interval)
            self.model.add(sum(self.area[array]) <= problem.lines[0] * problem.lines[1])
            self.model.add(sum(self.width[array]) <= problem.lines[1])

    def _scheme_part(self, option: ReplicaOption, part: Part) -> None:
        sizes = list(zip(option.sizes, option.turns, strict=True))
        for windows in sorted(set(part.loads), reverse=True):
            for (height, width, count), turns in sizes:
                total, load = count * part.loads.count(windows), windows * turns
                fit = (self.problem.lines[0] // height) * (self.problem.lines[1] // width)
                here = [self.model.new_int_var(0, min(total, fit), "") for _ in range(self.problem.arrays)]
                self.model.add(sum(here) == total)
                for array, number in enumerate(here):
                    self.steps[array].append(load * number)
                    self.tiles[array].append((height, width, load, number))
                    self._occupy(array, height, width, number)

    def _free_layer(self, layer: int, options: Sequence[ReplicaOption]) -> None:
        """Allow at most one replica of an option per array: a second one would only wait for the first."""
        problem, model = self.problem, self.model
        self.free[layer] = {}
        for number, total in cover(model, free_options(options)).items():
            option = options[number]
            (height, width, _), turns = option.sizes[0], option.longest
            loads, most = [], min(self.interval // turns, option.windows)
            for array in range(problem.arrays):
                here = model.new_bool_var("")
                load = model.new_int_var(0, most, "")
                model.add(load <= most * here)
                self.steps[array].append(turns * load)
                self.tiles[array].append((height, width, turns * load, here))
                self._occupy(array, height, width, here)
                loads.append(load)
            model.add(sum(loads) == total)
            self.free[layer][number] = loads

    def _occupy(self, array: int, height: int, width: int, count: cp_sat.IntVar) -> None:
        self.area[array].append(height * width * count)
        if self.own_lines or 2 * height > self.problem.lines[0]:
            self.width[array].append(width * count)

    def solve(self, limit: float) -> dict[int, Scheme] | None:
        """Schemes of the free layers, which fill the ``contents`` of arrays; None if there is no distribution."""
        solver = decided(self.model, limit)
        if solver is None:
            return None
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

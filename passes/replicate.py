"""Chooses the number of chips, and the window and replicas of each layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import CapacityError
from memcompile.hardware.target import Target
from memcompile.ir.geometry import Unrolling
from memcompile.ir.graph import (
    Certificate,
    Cut,
    Graph,
    MappedLayer,
    Placement,
    Replica,
    TiledLayer,
    TileTable,
    read_only,
)
from memcompile.ir.pass_contract import Amount, Effort, Fidelity, Form, Forms
from memcompile.ir.pass_manager import Pass, PassContext
from memcompile.ir.sharing import holders
from memcompile.passes.packing.bounds import arrays_bound
from memcompile.passes.packing.exact import pack_exactly
from memcompile.passes.packing.first_fit import Packing, TileShape, group_tiles
from memcompile.passes.place import Place
from memcompile.passes.placement.timetables import one_image
from memcompile.passes.placement.traffic import Traffic
from memcompile.passes.search.benders import benders
from memcompile.passes.search.branch_and_price import branch_and_price
from memcompile.passes.search.explore_windows import ReplicaOption
from memcompile.passes.search.lagrangian import Shortage, balanced, lagrangian_relaxation
from memcompile.passes.search.latency_bound import latency_bound
from memcompile.passes.search.latency_plan import latency_plans
from memcompile.passes.search.layer_graph import mapped_layers, tile_sizes, tile_turns
from memcompile.passes.search.layer_groups import LayerGroup, alone, layer_groups, mapped_groups
from memcompile.passes.search.multiple_choice_knapsack import coarse_knapsack, fine_knapsack
from memcompile.passes.search.nested_bound import nested_bound
from memcompile.passes.search.problem import Bracket, MappingProblem, NestedPlan, WindowPlan
from memcompile.passes.search.single_replicas import EXACT_LIMIT, layer_kinds, single_replicas
from memcompile.passes.solving.clock import Clock, running, running_clock
from memcompile.timing.dataflow_steps import Flow

Objective = Literal["throughput", "accuracy", "latency", "arrays"]
NESTED_LAYERS = 8
NESTED_ARRAYS = 16
"""Most layers and arrays of a network whose layers may mix nested windows."""
WORK = {"fast": 4.0, "normal": 20.0, "best": math.inf}
"""Work of all searches together, about seconds of a processor."""
INTEGER = "integer choices and array patterns as bound"
SINGLE_SHARE = 0.25
"""Share of the work for single replicas; each stage has a share of what is then left."""


@dataclass(frozen=True)
class Stage:
    """A search that narrows the bracket of plan and bound, with a share of the work that is left.

    ``fast`` stages run at the lowest effort, too; short of the highest one a gap up to ``accepted`` is left alone.
    """

    narrow: Callable[[MappingProblem, Bracket, Effort], Bracket]
    share: float
    proof: str
    fast: bool = False
    accepted: float = 0.0


STAGES = (
    # Separates the layers: in no time close to the optimum where one resource is short in all arrays.
    Stage(lagrangian_relaxation, 1.0, "Lagrangian bound", fast=True),
    # Chooses for all layers together; the fastest improvement comes first, as the clock may run out at any time.
    Stage(coarse_knapsack, 0.15, INTEGER),
    # Models single arrays, too: bounds, and choices for few arrays that are shared by many layers.
    Stage(branch_and_price, 0.9, INTEGER, accepted=0.0025),
    # Tries shorter intervals close to the best one.
    Stage(fine_knapsack, 1.0, INTEGER),
)
NESTED_STAGES = (
    # Bounds for one window per layer do not cover mixtures of windows.
    Stage(nested_bound, 1.0, "CP-SAT", fast=True),
    # Fills single arrays with mixed windows, and each replica with as many as fit.
    Stage(benders, 0.6, "CP-SAT"),
)


def shorten(
    problem: MappingProblem,
    single: WindowPlan,
    effort: Effort,
    stages: Sequence[Stage] = STAGES,
    nested: Sequence[Stage] = NESTED_STAGES,
) -> Bracket:
    """Search the shortest interval, from a plan of single replicas."""
    bracket = narrowed(problem, Bracket(single, 1), effort, stages)
    if not may_nest(problem):
        return bracket
    return narrowed(problem, replace(bracket, bound=1), effort, nested)


def may_nest(problem: MappingProblem) -> bool:
    """Return True if layers may mix nested windows: few of them, on few arrays, each with cells of its own."""
    shared = any(item.windows != item.unrolling.windows for kind in problem.kinds for item in kind.options)
    return int(problem.layers.sum()) <= NESTED_LAYERS and problem.arrays <= NESTED_ARRAYS and not shared


def narrowed(problem: MappingProblem, bracket: Bracket, effort: Effort, stages: Sequence[Stage]) -> Bracket:
    """The bracket after some stages, of which those run that may still gain something."""
    for number, stage in enumerate(stages):
        accepted = bracket.is_within(0.0 if effort == "best" else stage.accepted)
        if (number and accepted) or (effort == "fast" and not stage.fast):
            continue
        with running(running_clock().part(stage.share)):
            bracket = replace(stage.narrow(problem, bracket, effort), proof=stage.proof)
    return bracket


@dataclass(frozen=True)
class Replicate(Pass):
    """Gives each layer the window and the number of replicas that shorten the interval between images.

    Without a budget the network gets as many chips as one replica of each layer needs; the arrays that
    these leave free on those chips are used for larger windows and further replicas. The windows of
    a layer are dealt round its replicas, so that neighbouring windows are computed at once. A parallel
    window has cells without a weight, whose errors add to the sums; ``accuracy`` uses none.

    Raises
    ------
    CapacityError
        One replica does not fit the budget.
    """

    summary: ClassVar[str] = "choose chips, windows and replicas of each layer for a short interval"
    consumes: ClassVar[Forms] = frozenset({Form.TILED})
    produces: ClassVar[Forms] = frozenset({Form.MAPPED})
    fidelity: ClassVar[Fidelity] = "exact"

    objective: Objective = "throughput"
    """throughput: shortest interval; accuracy: the same with one output position a step; latency: fewest steps
    for one image; arrays: one replica of each layer, fewest arrays."""
    effort: Effort = "normal"
    """Work limit of all searches together; best sets no limit."""
    share_cells: bool = True
    """Hold weights once that several layers use, as those of the steps of a recurrent layer."""
    parallel_windows: bool = True
    """Try windows of several output positions; otherwise one position a step."""
    time_limit_s: Amount = math.inf
    """Seconds after which the search ends with the best it has; then results depend on the machine."""

    def run(self, graph: Graph, context: PassContext) -> Graph:
        if graph.placement is not None:
            return graph  # in segments, with their replicas
        layers = [node for node in graph.nodes if isinstance(node, TiledLayer)]
        if not layers:
            return graph.replace(placement=Placement(chips=0, tiles=TileTable.of(())))
        with running(Clock.after(self.time_limit_s, WORK[self.effort])):
            return self._planned(graph, layers, context)

    def _planned(self, graph: Graph, layers: Sequence[TiledLayer], context: PassContext) -> Graph:
        """The graph with its replicas and their certificates."""
        groups = layer_groups(layers, context.one_position) if self.share_cells else alone(layers)
        single = self.single(groups, context.target)
        chips = chips_for(groups, single, context)
        if self.objective == "arrays":
            found = _Found(balanced(single, lines_of(context.target)))
        elif self.objective == "latency":
            problem = self.problem(groups, context.target, chips, context.one_position)
            found = self._hasten(graph, groups, single, problem, context)
        else:
            found = self._shorten(groups, single, self.problem(groups, context.target, chips, context.one_position))
        graph = with_replicas(graph, groups, found.plan.replicas)
        places = found.places
        if places is None:
            places = draft_places(mapped_layers(graph), context.target, found.plan.packing)
        placement = Placement(
            chips=chips,
            tiles=places,
            certificates=found.certificates,
            initiation_interval_steps=found.plan.interval,
        )
        return graph.replace(placement=placement)

    @staticmethod
    def single(groups: Sequence[LayerGroup], target: Target) -> WindowPlan:
        """One replica of each layer."""
        with running(running_clock().part(SINGLE_SHARE)):
            return single_replicas(layer_kinds(groups, target, None, windows=False), target)

    def problem(
        self, groups: Sequence[LayerGroup], target: Target, chips: int, one_position: Container[str] = ()
    ) -> MappingProblem:
        """Windows and replicas to choose from on so many chips; some layers get one output position a step."""
        arrays = chips * target.chip.arrays

        def built(interval: int | None = None) -> MappingProblem:
            kinds = layer_kinds(groups, target, arrays, self._windows, one_position, interval)
            return MappingProblem(tuple(kinds), lines_of(target), arrays)

        plain = built()
        # The interval is about as long as all arrays together need at least.
        return built(plain.least_interval) if plain.takes_turns else plain

    @property
    def _windows(self) -> bool:
        """True if windows of several output positions are tried."""
        return self.parallel_windows and self.objective != "accuracy"

    def _shorten(self, groups: Sequence[LayerGroup], single: WindowPlan, problem: MappingProblem) -> _Found:
        """Search the shortest interval."""
        bracket = shorten(problem, single, self.effort)
        windows = "one rectangular window per layer" if self._windows else "one position a step"
        windows = "nested windows" if may_nest(problem) else windows
        windows = f"{windows}, tiles of a few widths" if problem.takes_turns else windows
        method = f"{bracket.proof} over {windows} and any number of copies, one tile a step per array"
        limit = "nothing: no image takes less than a step"
        if bracket.interval > 1:
            limit = Shortage.of(problem, bracket.interval - 1).words([group.first.name for group in groups])
        certificate = Certificate("initiation_interval", bracket.interval, bracket.bound, method, limit)
        return _Found(bracket.plan, (certificate,))

    def _hasten(
        self,
        graph: Graph,
        groups: Sequence[LayerGroup],
        single: WindowPlan,
        problem: MappingProblem,
        context: PassContext,
    ) -> _Found:
        """Search the fewest steps for one image alone."""
        target, shortest = context.target, self._shorten(groups, single, problem)
        plans: list[WindowPlan | NestedPlan] = [shortest.plan]
        plans += [balanced(plan, problem.lines) for plan in (single, *latency_plans(problem))]
        found = []
        for plan in plans:
            flow = flow_of(graph, groups, plan.replicas)
            packing = plan.packing or packed_exactly(flow.layers, target, problem.arrays, plan.interval)
            tiles = draft_places(flow.layers, target, packing)
            if tiles.array.min() >= 0:
                turns = tile_turns(flow.layers, tiles, target)
                found.append((one_image(flow, tiles, turns).latency, _Found(plan, places=tiles)))
            if running_clock().is_over and found:
                break
            if plan is shortest.plan:
                # Also as ``place`` packs it for the shortest interval: in fewer arrays, sometimes with fewer steps.
                found.append(_in_fewest_arrays(graph, groups, plan, tiles, problem.arrays, target))
        latency, best = min(found, key=lambda item: item[0])
        apart = alone([layer for group in groups for layer in group.layers])
        ones = [(all_windows(Unrolling.im2col(item.first.geometry), item.first.cut),) for item in apart]
        # No array works longer on an image than its latency, so a bound of the interval is one too.
        (interval,) = shortest.certificates
        uses = [group.numbers for group in groups]
        bound = max(interval.bound, latency_bound(problem, flow_of(graph, apart, ones), uses))
        method = f"longest path, rate of each layer, work left, and the interval's bound: {interval.method}"
        return replace(best, certificates=(Certificate("latency", latency, bound, method),))


@dataclass(frozen=True, eq=False)
class _Found:
    """A plan, its certificates, and the places of its tiles if they are known."""

    plan: WindowPlan | NestedPlan
    certificates: tuple[Certificate, ...] = ()
    places: TileTable | None = None


def _in_fewest_arrays(
    graph: Graph,
    groups: Sequence[LayerGroup],
    plan: WindowPlan | NestedPlan,
    draft: TileTable,
    arrays: int,
    target: Target,
) -> tuple[int, _Found]:
    """The latency of a plan as ``place`` packs it without regard to latency."""
    chips = -(-arrays // target.chip.arrays)
    placement = Placement(chips, draft, initiation_interval_steps=plan.interval)
    mapped = with_replicas(graph, groups, plan.replicas).replace(placement=placement)
    places = Place().packed(mapped, Traffic(mapped, draft), PassContext(target, {}, chips=chips)).places.T
    tiles = draft.with_columns(array=places[0], input_line=places[1], output_line=places[2])
    flow = Flow.of_graph(mapped)
    return one_image(flow, tiles, tile_turns(flow.layers, tiles, target)).latency, _Found(plan, places=tiles)


def lines_of(target: Target) -> tuple[int, int]:
    """Input lines and output lines of an array."""
    return target.array.input_lines, target.array.output_lines


def flow_of(graph: Graph, groups: Sequence[LayerGroup], replicas: Sequence[tuple[Replica, ...]]) -> Flow:
    """The flow of a graph whose groups of layers have these replicas."""
    return Flow.of_graph(with_replicas(graph, groups, replicas))


def with_replicas(graph: Graph, groups: Sequence[LayerGroup], replicas: Sequence[tuple[Replica, ...]]) -> Graph:
    """The graph with these replicas of each group of layers."""
    return graph.map_nodes(mapped_groups(groups, replicas))


def all_windows(unrolling: Unrolling, cut: Cut) -> Replica:
    """One replica that computes all windows."""
    return Replica(unrolling, cut, read_only(np.arange(unrolling.windows, dtype=np.int32)))


def packed_exactly(layers: Sequence[MappedLayer], target: Target, arrays: int, interval: int) -> Packing | None:
    """A packing of given replicas, for a plan that came without one."""
    shapes, _ = _grouped(layers, TileTable.of(layers), target)
    lines = (target.array.input_lines, target.array.output_lines)
    return pack_exactly(shapes, lines, arrays, interval, EXACT_LIMIT).packing


def _grouped(
    layers: Sequence[MappedLayer], tiles: TileTable, target: Target
) -> tuple[list[TileShape], list[NDArray[np.int64]]]:
    """Tiles with cells of their own, of the same size and load together, and their rows of the table."""
    sizes, rows = tile_sizes(layers, tiles, target)
    shapes, members = group_tiles(*sizes.T)
    return shapes, [rows[each] for each in members]


def draft_places(layers: Sequence[MappedLayer], target: Target, packing: Packing | None) -> TileTable:
    """The tile table, with the places of the plan's packing as a draft for placement."""
    tiles = TileTable.of(layers)
    if packing is None:
        return tiles
    _, members = _grouped(layers, tiles, target)
    places = packing.expand(members, len(tiles)).astype(np.int32)[holders(layers, tiles)]
    return tiles.with_columns(array=places[:, 0], input_line=places[:, 1], output_line=places[:, 2])


def chips_for(groups: Sequence[LayerGroup], single: WindowPlan, context: PassContext) -> int:
    """The budget, or as many chips as one replica of each layer needs.

    Raises
    ------
    CapacityError
        One replica does not fit the budget.
    """
    per_chip, needed = context.target.chip.arrays, single.packing.arrays
    if context.chips is None:
        return -(-needed // per_chip)
    if needed > context.chips * per_chip:
        raise CapacityError(capacity_message([group.first for group in groups], context.target, context.chips, needed))
    return context.chips


def capacity_message(layers: Sequence[TiledLayer], target: Target, chips: int, arrays: int) -> str:
    """Error message: arrays needed and available, the layers that take most, and remedies."""
    per_chip = target.chip.arrays
    lines = (target.array.input_lines, target.array.output_lines)
    sizes = []
    for number, layer in enumerate(layers):
        option = ReplicaOption.of(layer.unrolling, layer.cut, layer.slices * target.array.lines_per_pair)
        shapes = [TileShape(height, width, 1, count) for height, width, count in option.sizes]
        sizes.append((arrays_bound(shapes, lines, None), number))
    largest = sorted(sizes, key=lambda item: (-item[0], item[1]))[:3]
    named = ", ".join(f"{layers[number].name} ({count} arrays)" for count, number in largest)
    fewer_slices = ", fewer --slices" if any(layer.slices > 1 for layer in layers) else ""
    parts = ", --reprogram to write the network onto the chips part by part" if target.write_verify else ""
    have = f"{chips} chip has" if chips == 1 else f"{chips} chips have"
    return (
        f"needs {arrays} arrays, {have} {chips * per_chip} ({per_chip} arrays of "
        f"{lines[0]} x {lines[1]} lines on a chip of {target.name}); largest layers: {named}; "
        f"use --chips {-(-arrays // per_chip)}{parts}{fewer_slices}, a target with larger arrays, or a smaller network"
    )

"""Chooses the number of chips, and the window and replicas of each layer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

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
    carry,
    read_only,
)
from memcompile.ir.pass_contract import Amount, Fidelity, Form, Forms
from memcompile.ir.pass_manager import Pass, PassContext
from memcompile.passes.packing.bounds import arrays_bound
from memcompile.passes.packing.exact import pack_exactly
from memcompile.passes.packing.packing import Fill, Packing, TileShape, group_tiles, pack
from memcompile.passes.packing.tiling import tile_limits
from memcompile.passes.place import Place
from memcompile.passes.placement.timetables import one_image
from memcompile.passes.search.choice_branching import EFFORTS as BRANCH_EFFORTS
from memcompile.passes.search.choice_branching import close_by_branching
from memcompile.passes.search.choice_master import EFFORTS as MASTER_EFFORTS
from memcompile.passes.search.choice_master import choose_together, raise_bound
from memcompile.passes.search.explore_windows import CopyOption, explore_windows
from memcompile.passes.search.joint_bound import joint_bound
from memcompile.passes.search.joint_model import JointPlan, JointProblem
from memcompile.passes.search.joint_plan import EFFORTS as JOINT_EFFORTS
from memcompile.passes.search.joint_plan import replicas_of, search_jointly
from memcompile.passes.search.latency_bound import latency_bound
from memcompile.passes.search.latency_plan import latency_plans
from memcompile.passes.search.layer_graph import column_lines, mapped_layers, tile_loads
from memcompile.passes.search.pattern_search import EFFORTS as PATTERN_EFFORTS
from memcompile.passes.search.pattern_search import close_gap
from memcompile.passes.search.window_plan import (
    PRICES,
    Choice,
    LayerKind,
    PriceTable,
    WindowPlan,
    balanced,
    interval_bound,
    shapes_of,
    shortest_interval,
)
from memcompile.passes.solving.clock import Clock, running
from memcompile.timing.dataflow_steps import Flow

Objective = Literal["throughput", "accuracy", "latency", "arrays"]
Effort = Literal["fast", "normal", "best"]
JOINT_LAYERS = 8
JOINT_ARRAYS = 16
JOINT_OPTIONS = 8
EXACT_ARRAYS = 32
EXACT_TILES = 200
EXACT_LIMIT = 1.0
WORK = {"fast": 4.0, "normal": 11.0, "best": math.inf}
"""Work of all searches together, about seconds of a processor."""
SINGLE_SHARE = 0.25
"""Share of the remaining work for single replicas; each further search has a share of its own."""
MASTER_SHARE = 0.25
COARSE = 1 / 32
"""Share of the interval left open by the first search."""
BRANCH_SHARE = 0.8
FINE_SHARE = 0.5
FINE_FAILURES = {"normal": 4, "best": math.inf}
"""Failed intervals in a row after which the fine search, a bisection, ends."""
PATTERN_SHARE = 0.6
JOINT_SHARE = 0.6


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
        with running(Clock.after(self.time_limit_s, WORK[self.effort])) as clock:
            return self._planned(graph, layers, context, clock)

    def _planned(self, graph: Graph, layers: Sequence[TiledLayer], context: PassContext, clock: Clock) -> Graph:
        """The graph with its replicas and their certificates."""
        kinds = layer_kinds(layers, context.target, None, windows=False)
        with running(clock.part(SINGLE_SHARE)):
            single = single_copies(kinds, context.target)
        chips = chips_for(layers, single, context)
        arrays = chips * context.target.chip.arrays
        if self.objective in ("throughput", "accuracy"):
            found = self._shorten(layers, single, arrays, context.target, clock)
        elif self.objective == "latency":
            found = self._hasten(graph, layers, single, arrays, context.target, clock)
        else:
            plan = balanced(single, (context.target.array.input_lines, context.target.array.output_lines))
            found = _Found(chosen_replicas(plan), plan.interval, (), plan.packing)
        graph = with_copies(graph, layers, found.replicas)
        places = found.places
        if places is None:
            places = draft_places(mapped_layers(graph), context.target, found.packing)
        placement = Placement(
            chips=chips,
            tiles=places,
            certificates=found.certificates,
            initiation_interval_steps=found.interval,
        )
        return graph.replace(placement=placement)

    @property
    def _windows(self) -> bool:
        """True if windows of several output positions are tried."""
        return self.parallel_windows and self.objective != "accuracy"

    def _hasten(
        self,
        graph: Graph,
        layers: Sequence[TiledLayer],
        single: WindowPlan,
        arrays: int,
        target: Target,
        clock: Clock,
    ) -> _Found:
        """Search the fewest steps for one image alone; returns replicas and certificates."""
        lines = (target.array.input_lines, target.array.output_lines)
        table = PriceTable(layer_kinds(layers, target, arrays, self._windows), lines)
        shortest = self._shorten(layers, single, arrays, target, clock)
        plans = [shortest]
        for plan in (single, *latency_plans(table, arrays)):
            packed = balanced(plan, lines)
            plans.append(_Found(chosen_replicas(packed), packed.interval, (), packed.packing))
        found = []
        for item in plans:
            flow = flow_of(graph, layers, item.replicas)
            mapped = flow.layers
            tiles = draft_places(mapped, target, item.packing or packed_exactly(mapped, target, arrays, item.interval))
            if tiles.array.min() >= 0:
                found.append((one_image(flow, tiles).latency, replace(item, places=tiles)))
            if clock.is_over and found:
                break
            if item is shortest:
                # Also as ``place`` packs it for the shortest interval: in fewer arrays, sometimes with fewer steps.
                found += self._in_fewest_arrays(graph, layers, item, tiles, arrays, target)
        latency, best = min(found, key=lambda item: item[0])
        ones = [(all_windows(Unrolling.im2col(layer.geometry), layer.cut),) for layer in layers]
        # No array works longer on an image than its latency, so a bound of the interval is one too.
        (interval,) = shortest.certificates
        bound = max(interval.bound, latency_bound(table, arrays, flow_of(graph, layers, ones)))
        method = f"longest path, rate of each layer, work left, and the interval's bound: {interval.method}"
        return replace(best, certificates=(Certificate("latency", latency, bound, method),))

    @staticmethod
    def _in_fewest_arrays(
        graph: Graph, layers: Sequence[TiledLayer], plan: _Found, draft: TileTable, arrays: int, target: Target
    ) -> list[tuple[int, _Found]]:
        """The latency of a plan as ``place`` packs it without regard to latency."""
        chips = -(-arrays // target.chip.arrays)
        placement = Placement(chips, draft, initiation_interval_steps=plan.interval)
        mapped = with_copies(graph, layers, plan.replicas).replace(placement=placement)
        placed = Place().run(mapped, PassContext(target, {}, chips=chips)).placement
        assert placed is not None
        # Chips that are not full leave numbers out; place wants a draft without gaps.
        numbers = np.unique(placed.tiles.array, return_inverse=True)[1].ravel()
        tiles = placed.tiles.with_columns(array=numbers)
        return [(one_image(Flow.of_graph(mapped), tiles).latency, replace(plan, places=tiles))]

    def _shorten(
        self, layers: Sequence[TiledLayer], single: WindowPlan, arrays: int, target: Target, clock: Clock
    ) -> _Found:
        """Search the shortest interval on these arrays; returns replicas and certificates."""
        lines = (target.array.input_lines, target.array.output_lines)
        kinds = layer_kinds(layers, target, arrays, self._windows)
        table = PriceTable(kinds, lines)
        bound = min(interval_bound(table, arrays), single.interval)
        prices = PRICES["fast" if self.effort == "fast" else "normal"]
        plan = shortest_interval(table, arrays, single, bound, prices)
        proof = "Lagrangian bound"
        if self.effort != "fast" and bound < plan.interval:
            plan, bound = self._close_gap(table, arrays, bound, plan, clock)
            proof = "integer choices and array patterns as bound"
        windows = "one rectangular window per layer" if self._windows else "one position a step"
        method = f"{proof} over {windows} and any number of copies, one tile a step per array"
        found = _Found(chosen_replicas(plan), plan.interval, (), plan.packing)
        if len(layers) <= JOINT_LAYERS and arrays <= JOINT_ARRAYS:
            # Windows of such a network may be mixed, which the bound for one window per layer does not cover.
            bound = joint_bound(table, arrays, found.interval, clock)
            method = "CP-SAT over nested windows and any number of copies, one tile a step per array"
            found = self._mix_windows(kinds, lines, arrays, bound, found, clock)
        limit = limits_of(table, found.interval, layers)
        certificate = Certificate("initiation_interval", found.interval, bound, method, limit)
        return replace(found, certificates=(certificate,))

    def _close_gap(
        self, table: PriceTable, arrays: int, bound: int, plan: WindowPlan, clock: Clock
    ) -> tuple[WindowPlan, int]:
        """Run increasingly long searches until the gap between plan and bound is small enough."""
        # The fastest improvement comes first: the clock may run out at any time.
        with running(clock.part(MASTER_SHARE)) as part:
            master = replace(MASTER_EFFORTS[self.effort], clock=part)
            bound = raise_bound(table, arrays, bound, plan.interval, master)
            plan = choose_together(table, arrays, bound, plan, master, COARSE)
        gap = BRANCH_EFFORTS[self.effort].gap
        if plan.interval - bound > gap * plan.interval:
            with running(clock.part(BRANCH_SHARE)) as part:
                effort = replace(BRANCH_EFFORTS[self.effort], clock=part)
                plan, bound = close_by_branching(table, arrays, bound, plan, effort)
        with running(clock.part(FINE_SHARE)) as part:
            nearly = max(bound, math.floor((1 - COARSE) * plan.interval))
            master = replace(MASTER_EFFORTS[self.effort], clock=part)
            plan = choose_together(table, arrays, nearly, plan, master, failures=FINE_FAILURES[self.effort])
        if plan.interval - bound <= gap * plan.interval:
            return plan, bound
        with running(clock.part(PATTERN_SHARE)) as part:
            return close_gap(table, arrays, bound, plan, replace(PATTERN_EFFORTS[self.effort], clock=part))

    def _mix_windows(
        self,
        kinds: Sequence[LayerKind],
        lines: tuple[int, int],
        arrays: int,
        bound: int,
        found: _Found,
        clock: Clock,
    ) -> _Found:
        """Replicas that mix windows within layers, where that shortens the interval further."""
        if self.effort == "fast" or bound == found.interval:
            return found
        options = joint_options(kinds)
        with running(clock.part(JOINT_SHARE)) as part:
            effort = replace(JOINT_EFFORTS[self.effort], clock=part)
            plan = search_jointly(JointProblem(tuple(options), lines, arrays), bound, found.interval, effort)
        if plan is None:
            return found
        copies = tuple(replicas_of(item, scheme) for item, scheme in zip(options, plan.schemes, strict=True))
        return _Found(copies, plan.interval, (), _packed_jointly(plan, lines, arrays))


def limits_of(table: PriceTable, interval: int, layers: Sequence[TiledLayer]) -> str:
    """Describe in words the resource that keeps an interval from being one step shorter."""
    if interval <= 1:
        return "nothing: no image takes less than a step"
    return table.shortage(interval - 1).words([layer.name for layer in layers])


@dataclass(frozen=True, eq=False)
class _Found:
    """Replicas of each layer, the interval they keep, certificates, and a packing if one is known."""

    replicas: tuple[tuple[Replica, ...], ...]
    interval: int
    certificates: tuple[Certificate, ...]
    packing: Packing | None
    places: TileTable | None = None


def _packed_jointly(plan: JointPlan, lines: tuple[int, int], arrays: int) -> Packing | None:
    """A packing of a joint plan where first fit, with which placement begins, finds none."""
    counts: Counter[tuple[int, int, int]] = Counter()
    for content in plan.contents:
        for *tile, number in content:
            counts[tile[0], tile[1], tile[2]] += number
    shapes = [TileShape(*key, count) for key, count in sorted(counts.items())]
    if pack(shapes, lines, plan.interval, arrays, enough=arrays) is not None:
        return None
    index = {(shape.height, shape.width, shape.load): number for number, shape in enumerate(shapes)}
    fills = []
    for content in plan.contents:
        widths = [(index[height, width, load], width) for height, width, load, number in content for _ in range(number)]
        edges = np.cumsum([0, *(width for _, width in widths)]).tolist()
        tiles = tuple((number, 0, edge) for (number, _), edge in zip(widths, edges, strict=False))
        fills.append((Fill(tiles, (), sum(shapes[number].load for number, _ in widths)), 1))
    return Packing(tuple(fill for fill in fills if fill[0].tiles))


def flow_of(graph: Graph, layers: Sequence[TiledLayer], replicas: Sequence[tuple[Replica, ...]]) -> Flow:
    """The flow of a graph whose layers have these replicas."""
    return Flow.of_graph(with_copies(graph, layers, replicas))


def with_copies(graph: Graph, layers: Sequence[TiledLayer], replicas: Sequence[tuple[Replica, ...]]) -> Graph:
    """The graph with these replicas of each layer."""
    changed = {
        layer.name: carry(MappedLayer, layer, replicas=copies) for layer, copies in zip(layers, replicas, strict=True)
    }
    return graph.map_nodes(changed)


def all_windows(unrolling: Unrolling, cut: Cut) -> Replica:
    """One replica that computes all windows."""
    return Replica(unrolling, cut, read_only(np.arange(unrolling.windows, dtype=np.int32)))


def packed_exactly(layers: Sequence[MappedLayer], target: Target, arrays: int, interval: int) -> Packing | None:
    """A packing of given replicas, for a plan that came without one."""
    tiles = TileTable.of(layers)
    shapes, _ = group_tiles(tiles.heights, tiles.widths(column_lines(layers, target)), tile_loads(layers, tiles))
    lines = (target.array.input_lines, target.array.output_lines)
    return pack_exactly(shapes, lines, arrays, interval, EXACT_LIMIT).packing


def draft_places(layers: Sequence[MappedLayer], target: Target, packing: Packing | None) -> TileTable:
    """The tile table, with the places of the plan's packing as a draft for placement."""
    tiles = TileTable.of(layers)
    if packing is None:
        return tiles
    _, members = group_tiles(tiles.heights, tiles.widths(column_lines(layers, target)), tile_loads(layers, tiles))
    places = packing.expand(members, len(tiles)).astype(np.int32)
    return tiles.with_columns(array=places[:, 0], input_line=places[:, 1], output_line=places[:, 2])


def chosen_replicas(plan: WindowPlan) -> tuple[tuple[Replica, ...], ...]:
    """Replicas of each layer, in layer order."""
    by_layer = {}
    for kind, choices in zip(plan.kinds, plan.choices, strict=True):
        shared = {choice: share_windows(choice) for choice in choices}
        by_layer.update({layer: shared[choice] for layer, choice in zip(kind.members, choices, strict=True)})
    return tuple(by_layer[number] for number in range(len(by_layer)))


def joint_options(kinds: Sequence[LayerKind]) -> list[tuple[CopyOption, ...]]:
    """Options of each layer for the joint model, the smallest windows first."""
    by_layer = {}
    for kind in kinds:
        options = sorted(kind.options, key=lambda option: (option.unrolling.window_outputs, option.crossings))
        by_layer.update(dict.fromkeys(kind.members, tuple(options[:JOINT_OPTIONS])))
    return [by_layer[number] for number in range(len(by_layer))]


def layer_kinds(layers: Sequence[TiledLayer], target: Target, arrays: int | None, windows: bool) -> list[LayerKind]:
    """Layers of equal geometry and slices together, with their options; the replica as tiled comes first.

    Options larger than ``arrays`` arrays are left out; None leaves out all that need more crossings
    than the replica as tiled. Without ``windows`` a step yields one output position.
    """
    members: dict[tuple[object, ...], list[int]] = {}
    for number, layer in enumerate(layers):
        key = (layer.geometry, layer.slices, layer.unrolling, layer.cut)
        members.setdefault(key, []).append(number)
    kinds = []
    for numbers in members.values():
        layer = layers[numbers[0]]
        lines = layer.slices * target.array.lines_per_pair
        tiled = CopyOption.of(layer.unrolling, layer.cut, lines)
        rows, columns = tile_limits(target, layer.slices)
        most = tiled.crossings if arrays is None else arrays * target.array.crossings
        options = explore_windows(layer.geometry, rows, columns, lines, most)
        options = tuple(item for item in options if windows or item.unrolling.window_outputs == 1)
        same = [option for option in options if option.unrolling != tiled.unrolling or option.cut != tiled.cut]
        kinds.append(LayerKind(tuple(numbers), (tiled, *same)))
    return kinds


def single_copies(kinds: Sequence[LayerKind], target: Target) -> WindowPlan:
    """One replica of each layer in few arrays: the options with least crossings, or as tiled."""
    lines = (target.array.input_lines, target.array.output_lines)
    plans = []
    for pick in (_fewest_crossings, _as_tiled):
        choices = tuple((Choice(pick(kind), 1),) * len(kind.members) for kind in kinds)
        shapes = shapes_of(choices)
        plans.append(WindowPlan(tuple(kinds), choices, fewest_arrays(shapes, lines)))
    return min(plans, key=lambda plan: (plan.packing.arrays, plan.interval))


def fewest_arrays(shapes: Sequence[TileShape], lines: tuple[int, int]) -> Packing:
    """Pack into few arrays at any interval; few tiles exactly."""
    bound = arrays_bound(shapes, lines, None)
    packing = pack(shapes, lines, None, None, enough=bound)
    assert packing is not None, "without a limit every tile finds an array"
    if packing.arrays <= EXACT_ARRAYS and sum(shape.count for shape in shapes) <= EXACT_TILES:
        steps = sum(shape.load * shape.count for shape in shapes)
        for arrays in range(bound, packing.arrays):
            exact = pack_exactly(shapes, lines, arrays, steps, EXACT_LIMIT)
            if exact.packing is not None:
                return exact.packing
    return packing


def _fewest_crossings(kind: LayerKind) -> CopyOption:
    return min(kind.options, key=lambda option: option.crossings)


def _as_tiled(kind: LayerKind) -> CopyOption:
    return kind.options[0]


def chips_for(layers: Sequence[TiledLayer], single: WindowPlan, context: PassContext) -> int:
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
        raise CapacityError(capacity_message(layers, context.target, context.chips, needed))
    return context.chips


def share_windows(choice: Choice) -> tuple[Replica, ...]:
    """Replicas of a layer; of n replicas, replica r computes windows r, r + n, r + 2 n, ..."""
    option, copies = choice.option, choice.copies
    windows = np.arange(option.windows, dtype=np.int32)
    return tuple(
        Replica(option.unrolling, option.cut, read_only(np.ascontiguousarray(windows[copy::copies])))
        for copy in range(copies)
    )


def capacity_message(layers: Sequence[TiledLayer], target: Target, chips: int, arrays: int) -> str:
    """Error message: arrays needed and available, the layers that take most, and remedies."""
    per_chip = target.chip.arrays
    lines = (target.array.input_lines, target.array.output_lines)
    sizes = []
    for number, layer in enumerate(layers):
        option = CopyOption.of(layer.unrolling, layer.cut, layer.slices * target.array.lines_per_pair)
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

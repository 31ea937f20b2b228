"""Every rule of the verifier has a graph or program that breaks it, and nothing else."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import models
import numpy as np
import onnx
import pytest
import stages
from factories import in_segments, make_target, random_layer, two_layer_program
from stages import replaced

from memcompile.errors import ProgramError, VerificationError
from memcompile.hardware.target import load_target
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.ir.graph import TILE_COLUMNS, Certificate, Cut, Graph, MappedLayer, Placement, Replica, TileTable
from memcompile.ir.quantizers import ExactInput, InputQuantizer
from memcompile.ir.sharing import holders
from memcompile.passes.replicate import Replicate
from memcompile.pipelines import default_passes, emit_program
from memcompile.program.line_corrections import Calibration, LineCorrections, count_places
from memcompile.program.program import ChipState, Program, Provenance
from memcompile.verify import schedule_rules, segment_rules, verifier
from memcompile.verify.verifier import Verifier, _sharing, find_violations, placement_violations, verify_program

TARGET = load_target("yao2020")
FEEDS = {"x": models.images((4, 4, 5, 5))}
Change = Callable[[Any], Any]


@cache
def graph_after(name: str) -> Graph:
    """Grouped convolutions after a pass."""
    return stages.after(name, models.grouped_conv(), FEEDS, slices=2)


@cache
def program() -> Program:
    context = stages.context_for(FEEDS, slices=2)
    return emit_program(graph_after("schedule"), context, Provenance("test", "0" * 64, "test", {}))


def node(change: Change, place: int = 0) -> Change:
    """Change one node of a graph."""

    def changed(graph: Graph) -> Graph:
        nodes = list(graph.nodes)
        nodes[place] = change(nodes[place])
        return replaced(graph, nodes=tuple(nodes))

    return changed


def fields(place: int = 0, **changes: Any) -> Change:
    """Set fields of one node."""
    return node(lambda item: replaced(item, **changes), place)


def array(field: str, value: float, place: int = 0) -> Change:
    """Set the first element of an array of one node."""

    def changed(item: Any) -> Any:
        copy = getattr(item, field).copy()
        copy.flat[0] = value
        return replaced(item, **{field: copy})

    return node(changed, place)


def geometry(**changes: Any) -> Change:
    return node(lambda item: replaced(item, geometry=replaced(item.geometry, **changes)))


def quantizer(**changes: Any) -> Change:
    return node(lambda item: replaced(item, quantizer=replaced(item.quantizer, **changes)))


def replica(**changes: Any) -> Change:
    """Change the first copy of the first layer."""

    def changed(item: MappedLayer) -> MappedLayer:
        values = {key: value(item) if callable(value) else value for key, value in changes.items()}
        return replaced(item, replicas=(replaced(item.replicas[0], **values), *item.replicas[1:]))

    return node(changed)


def placement(**changes: Any) -> Change:
    return lambda item: replaced(item, placement=replaced(item.placement, **changes))


def tile(column: str, value: Callable[[Any], int], place: int = 0) -> Change:
    """Set one column of one row of the tile table."""

    def changed(item: Any) -> Any:
        table = item.placement.tiles
        values = getattr(table, column).copy()
        values[place] = value(item)
        return placement(tiles=table.with_columns(**{column: values}))(item)

    return changed


def tiles(change: Change) -> Change:
    """Change the tile table."""
    return lambda item: placement(tiles=change(item.placement.tiles))(item)


def pile_up(table: TileTable) -> TileTable:
    """All tiles at the corner of the first array."""
    zeros = np.zeros(len(table), np.int32)
    return table.with_columns(array=zeros, input_line=zeros, output_line=zeros)


def start_together(table: TileTable) -> TileTable:
    """Two tiles of one array start in the same step."""
    order = np.argsort(table.array, kind="stable")
    place = next(i for i in range(len(order) - 1) if table.array[order[i]] == table.array[order[i + 1]])
    return table.with_columns(
        **{
            column: np.where(np.arange(len(table)) == order[place + 1], values[order[place]], values)
            for column, values in (("start", table.start), ("slot", table.slot))
        }
    )


def read_early(table: TileTable) -> TileTable:
    """The first layer, alone in its arrays, works a step later, so that the next one reads too early."""
    assert not set(table.array[table.layer == 0]) & set(table.array[table.layer > 0])
    return table.with_columns(start=table.start + (table.layer == 0))


def leave_out_one(table: TileTable) -> TileTable:
    return TileTable(*(getattr(table, column)[:-1] for column in TILE_COLUMNS))


def windows(change: Callable[[Any], Any]) -> Change:
    """Change the windows of the first copy."""
    return replica(windows=lambda layer: change(layer.replicas[0].windows))


def too_wide(layer: MappedLayer) -> Unrolling:
    return Unrolling(layer.geometry, (layer.geometry.output_size[0] + 1, 1))


def one_cell_too_high(item: Any) -> Any:
    cells = np.zeros_like(item.cells)
    cells.flat[0] = 8
    return replaced(item, cells=cells)


GRAPHS: list[tuple[str, str, Change]] = [
    ("unique-names", "fold_constants", fields(1, name="Conv_c1")),
    ("defined-before-use", "fold_constants", fields(inputs=("nowhere", "w1"))),
    ("defined-before-use", "fold_constants", fields(captures=("nowhere",))),
    ("defined-before-use", "fold_constants", lambda graph: replaced(graph, nodes=graph.nodes[::-1])),
    (
        "single-assignment",
        "fold_constants",
        lambda graph: replaced(graph, nodes=(*graph.nodes, replaced(graph.nodes[2], name="again"))),
    ),
    ("outputs-defined", "fold_constants", lambda graph: replaced(graph, outputs=("y", "nowhere"))),
    ("digital-inputs", "group_digital", fields(2, inputs=())),
    ("digital-outputs", "group_digital", fields(2, outputs=("r2", "nowhere"))),
    ("one-value-in-and-out", "group_digital", fields(inputs=("x", "x"))),
    ("one-value-in-and-out", "group_digital", fields(outputs=("c1", "more"))),
    ("whole-groups", "group_digital", geometry(groups=3)),
    ("output-size", "group_digital", geometry(dilations=(9, 1))),
    ("array-shapes", "group_digital", geometry(kernel=(2, 3))),
    ("array-shapes", "group_digital", fields(bias=np.zeros(5, np.float32))),
    ("array-shapes", "unroll_convolutions", fields(matrix=np.zeros((1, 9, 4), np.float32))),
    ("array-shapes", "quantize_weights", fields(levels=np.zeros((4, 9, 2), np.int32))),
    ("array-shapes", "quantize_weights", fields(scale=np.ones(3, np.float32))),
    ("array-shapes", "slice_weights", fields(digits=np.zeros((2, 4, 8, 1), np.int8))),
    ("array-shapes", "split_differential", fields(cells=np.zeros((1, 2, 4, 9, 1), np.uint8))),
    ("array-types", "group_digital", fields(bias=np.zeros(4))),
    ("array-types", "split_differential", fields(cells=np.zeros((2, 2, 4, 9, 1), np.float32))),
    ("array-types", "schedule", windows(lambda numbers: numbers.astype(np.int64))),
    ("input-bits", "calibrate_activations", quantizer(bits=7)),
    ("exact-input", "calibrate_activations", fields(quantizer=ExactInput())),
    ("input-step", "calibrate_activations", quantizer(scale=0.0)),
    ("input-step", "quantize_weights", quantizer(scale=float("nan"))),
    ("digit-range", "slice_weights", array("digits", 8)),
    ("digit-range", "slice_weights", array("digits", -128)),
    ("slice-base", "slice_weights", fields(base=16)),
    ("slice-base", "split_differential", fields(base=1)),
    ("cell-levels", "split_differential", node(one_cell_too_high)),
    ("one-sided-pairs", "split_differential", fields(cells=np.ones((2, 2, 4, 9, 1), np.uint8))),
    ("finite-scales", "quantize_weights", array("scale", np.inf)),
    ("finite-scales", "quantize_weights", array("bias", np.nan)),
    ("cut-covers-matrix", "tile_matrices", fields(cut=Cut((0, 8), (0, 1)))),
    ("cut-covers-matrix", "tile_matrices", fields(cut=Cut((0, 5, 5, 9), (0, 1)))),
    ("cut-covers-matrix", "tile_matrices", fields(cut=Cut((0, 9), (1, 1)))),
    ("cut-covers-matrix", "schedule", replica(cut=lambda layer: Cut((0, 1), layer.replicas[0].cut.columns))),
    ("has-replicas", "schedule", fields(replicas=())),
    ("replica-geometry", "schedule", replica(unrolling=lambda layer: Unrolling.im2col(Geometry(1, 1)))),
    ("window-numbers", "schedule", windows(lambda numbers: numbers - 1)),
    ("window-numbers", "schedule", windows(lambda numbers: numbers + 10_000)),
    ("window-inside-output", "schedule", replica(unrolling=too_wide)),
    ("each-output-once", "schedule", windows(lambda numbers: numbers[1:])),
    ("each-output-once", "schedule", windows(lambda numbers: np.append(numbers[1:], numbers[1:2]))),
    ("each-output-once", "schedule", windows(lambda numbers: np.append(numbers, numbers[:1]))),
    ("bound-below-value", "schedule", placement(certificates=(Certificate("arrays", 3, 4, "wrong"),))),
    ("every-tile-once", "schedule", tile("row_end", lambda graph: graph.placement.tiles.row_end[0] + 1)),
    ("every-tile-once", "schedule", tiles(leave_out_one)),
    ("tile-inside-array", "schedule", tile("array", lambda graph: 8 * graph.placement.chips)),
    ("tile-inside-array", "schedule", tile("input_line", lambda graph: 16)),
    ("tile-inside-array", "schedule", tile("input_line", lambda graph: -1)),
    ("tile-inside-array", "schedule", tile("output_line", lambda graph: 128)),
    ("no-overlap", "schedule", tiles(pile_up)),
    ("inside-schedule", "schedule", placement(latency_steps=0)),
    ("inside-schedule", "schedule", placement(initiation_interval_steps=0)),
    ("idle-ends", "schedule", placement(latency_steps=2**31 - 1)),
    ("idle-ends", "schedule", placement(initiation_interval_steps=2**31 - 1)),
    ("one-tile-a-step", "schedule", tiles(start_together)),
    ("inputs-exist", "schedule", tiles(read_early)),
    ("inputs-exist", "schedule", tile("lag", lambda graph: 0, place=-1)),
    ("pauses-ascending", "schedule", placement(pauses=np.array([[1, 2, 0]], np.int32))),
    ("pauses-ascending", "schedule", placement(pauses=np.array([[1, 2, 1], [1, 2, 1]], np.int32))),
]


def chip(shape: tuple[int, ...] | None = None, value: float = 5.0) -> Change:
    """Add a programmed chip."""

    def changed(item: Program) -> Program:
        arrays = int(item.placement.tiles.array.max()) + 1
        return replaced(item, chip=ChipState(np.full(shape or (arrays, 16, 128), value, np.float32), 0))

    return changed


def corrected(shape: tuple[int, int] | None = None, value: float = 1.0, layers: int | None = None) -> Change:
    """Add corrections of lines, of this shape and value."""

    def changed(item: Program) -> Program:
        found = []
        for layer in item.layers[:layers]:
            wanted = shape or (count_places(layer), layer.geometry.out_channels)
            found.append(LineCorrections(np.full(wanted, value, np.float32), np.zeros(wanted, np.float32)))
        return replaced(item, calibration=Calibration(0, tuple(found)))

    return changed


def stage(place: int, **changes: Any) -> Change:
    """Set fields of one stage."""

    def changed(item: Program) -> Program:
        made = list(item.stages)
        made[place] = replaced(made[place], **changes)
        return replaced(item, stages=tuple(made))

    return changed


def calibrated(share: float) -> Change:
    """A range of the first layer, on a chip whose layers have ranges of their own up to one half."""
    hardware = make_target(adc={"range": "calibrated", "range_share": 0.5})
    return lambda item: replaced(stage(0, range_share=share)(item), target=hardware)


def with_nonsense(model: bytes) -> bytes:
    """The model with a first operator that cannot be."""
    changed = onnx.ModelProto.FromString(model)
    first = changed.graph.node[0]
    first.CopyFrom(onnx.helper.make_node("Transpose", first.input[:1], first.output, perm=[7, 0]))
    return changed.SerializeToString()


PROGRAMS: list[tuple[str, Change]] = [
    ("unique-names", stage(1, name="Conv_c1")),
    ("defined-before-use", stage(2, inputs=("nowhere",))),
    ("single-assignment", stage(2, outputs=("r2", "c1"))),
    ("outputs-defined", lambda item: replaced(item, outputs=("nowhere",))),
    ("placed-and-scheduled", tile("array", lambda item: -1)),
    ("placed-and-scheduled", tile("start", lambda item: -1)),
    ("placed-and-scheduled", tile("rhythm", lambda item: -1)),
    ("placed-and-scheduled", tile("slot", lambda item: -1)),
    ("placed-and-scheduled", tile("lag", lambda item: -1)),
    ("rows-at-once", lambda item: replaced(item, target=item.target.with_(array__rows_at_once=3))),
    ("chip-shape", chip((1, 16, 128))),
    ("chip-conductances", chip(value=-1.0)),
    ("chip-conductances", chip(value=float("nan"))),
    ("calibration-shape", corrected(layers=1)),
    ("calibration-shape", corrected((1, 1))),
    ("calibration-finite", corrected(value=float("inf"))),
    ("input-bits", stage(0, quantizer=InputQuantizer(1.0, 4, False))),
    ("input-bits", stage(0, quantizer=InputQuantizer(1.0, 8, False, 2))),
    ("converter-range", stage(0, range_share=0.5)),
    ("converter-range", calibrated(0.0)),
    ("converter-range", calibrated(1e-9)),
    ("converter-range", calibrated(0.6)),
    ("converter-range", calibrated(float("nan"))),
    ("no-overlap", tiles(pile_up)),
    ("inputs-exist", tiles(read_early)),
    ("digital-operators", lambda item: stage(2, model=with_nonsense(item.stages[2].model))(item)),
]


@cache
def cut_program() -> Program:
    """Two layers in three segments; the first layer ends in the second of them."""
    whole = two_layer_program(np.random.default_rng(0), TARGET)
    first = int((whole.placement.tiles.layer == 0).sum())
    return in_segments(whole, [1, first + 1], 10)


def first_segment(table: TileTable) -> TileTable:
    """The last tile, which reads the first layer, moves to the first segment, where there is room."""
    last = np.arange(len(table)) == len(table) - 1
    return table.with_columns(
        segment=np.where(last, 0, table.segment),
        array=np.where(last, 1, table.array),
        start=np.where(last, 0, table.start),
        lag=np.where(last, 0, table.lag),
    )


SEGMENTED: list[tuple[str, Change]] = [
    ("segments-numbered", tiles(lambda table: table.with_columns(segment=2 * table.segment))),
    ("segments-numbered", tiles(lambda table: table.with_columns(segment=table.segment + 1))),
    ("segments-numbered", tiles(lambda table: table.with_columns(segment=0 * table.segment))),
    ("segments-numbered", placement(segments=(), batch=0)),
    ("segments-have-a-batch", placement(batch=0)),
    ("segments-sum-up", placement(initiation_interval_steps=1)),
    ("segments-sum-up", placement(latency_steps=1)),
    ("segments-sum-up", placement(pipelined_latency_steps=1)),
    ("segments-in-order", tiles(first_segment)),
    ("segments-in-order", tiles(lambda table: table.with_columns(segment=2 - table.segment))),
    ("no-overlap", tiles(pile_up)),
    ("inputs-exist", tiles(lambda table: table.with_columns(start=0 * table.start))),
    ("inside-schedule", tiles(lambda table: table.with_columns(start=table.start + 100))),
    ("inside-schedule", tiles(lambda table: table.with_columns(slot=table.slot + 1000))),
    ("chip-is-written-once", chip()),
]


@cache
def sharing_program() -> Program:
    """Two layers with the same weights, one after the other."""
    weights = {"w": models.dyadic(np.random.default_rng(5), (6, 6)).T}
    nodes = [models.node("MatMul", "x w", "h"), models.node("Relu", "h", "r"), models.node("MatMul", "r w", "y")]
    model = models.make(nodes, {"x": (1, ("N", 6))}, {"y": (1, None)}, weights)
    feeds = {"x": models.images((4, 6))}
    context = stages.context_for(feeds)
    passes = [Replicate(objective="arrays") if isinstance(item, Replicate) else item for item in default_passes()]
    graph = stages.run_verified(stages.import_model(model, feeds), tuple(passes), context)
    return emit_program(graph, context, Provenance("test", "0" * 64, "test", {}))


def last_layer(**changes: Any) -> Change:
    """Set fields of the layer that uses the cells of the first one."""
    return lambda item: stage(item.stages.index(item.layers[1]), **changes)(item)


def last_replica(**changes: Any) -> Change:
    """Set fields of its replica."""
    return lambda item: last_layer(replicas=(replaced(item.layers[1].replicas[0], **changes),))(item)


def once_more(item: Program) -> Program:
    """It has a second replica, without windows, that uses the same cells."""
    (own,), table = item.layers[1].replicas, item.placement.tiles
    again = table.take(np.append(np.arange(len(table)), len(table) - 1))
    again = again.with_columns(replica=np.append(table.replica, 1))
    found = last_layer(replicas=(own, replaced(own, windows=own.windows[:0])))(item)
    return replaced(found, placement=replaced(item.placement, tiles=again))


SHARING: list[tuple[str, Change]] = [
    ("is not that of tile 0, whose cells it uses", tile("output_line", lambda item: 100, place=-1)),
    ("which is no layer that does", last_layer(shares_with="nobody")),
    ("has other weights than", last_layer(cells=np.zeros((2, 1, 1, 6, 6), np.uint8))),
    ("two of its replicas use the same cells", once_more),
    ("is not laid out as in those before", last_replica(cut=Cut((0, 3, 6), (0, 6)))),
]


@pytest.mark.parametrize(("message", "change"), SHARING, ids=lambda value: value if isinstance(value, str) else "")
def test_what_does_not_fit_shared_cells_is_told(message: str, change: Change) -> None:
    assert verify_program(sharing_program()) is sharing_program()
    changed = change(sharing_program())
    found = list(_sharing(changed.layers, changed.placement, holders(changed.layers, changed.placement.tiles)))
    assert {violation.rule for violation in found} == {"shared-cells"}
    assert any(message in violation.what for violation in found), found


@pytest.mark.parametrize(("rule", "change"), SEGMENTED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_program_in_segments_that_breaks_one_rule_is_told_that_rule(rule: str, change: Change) -> None:
    assert verify_program(cut_program()) is cut_program()
    with pytest.raises(ProgramError) as error:
        verify_program(change(cut_program()))
    assert set(re.findall(r"\[([a-z-]+)\]", str(error.value))) == {rule}


def test_tiles_of_different_segments_share_cells() -> None:
    whole = two_layer_program(np.random.default_rng(0), TARGET)
    alone = in_segments(whole, range(1, len(whole.placement.tiles)), 1)
    piled = tiles(pile_up)(alone)
    assert len(np.unique(piled.placement.tiles.segment)) == len(whole.placement.tiles)
    assert verify_program(piled) is piled


@pytest.mark.parametrize(("rule", "name", "change"), GRAPHS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_graph_that_breaks_one_rule_is_told_that_rule(rule: str, name: str, change: Change) -> None:
    graph = graph_after(name)
    assert find_violations(graph, TARGET) == []
    found = find_violations(change(graph), TARGET)
    assert {violation.rule for violation in found} == {rule}
    assert all(violation.where and violation.what for violation in found)


@pytest.mark.parametrize(("rule", "change"), PROGRAMS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_program_that_breaks_one_rule_is_told_that_rule(rule: str, change: Change) -> None:
    assert verify_program(program()) is program()
    with pytest.raises(ProgramError) as error:
        verify_program(change(program()))
    assert set(re.findall(r"\[([a-z-]+)\]", str(error.value))) == {rule}


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("gap", [0, -1])
def test_tiles_may_touch_but_not_overlap(down: int, right: int, gap: int) -> None:
    """Two tiles in one array, the second below, beside, or diagonal to the first; once a line too near."""
    layer = random_layer(np.random.default_rng(1), Geometry(8, 2, (1,), layout="channels_last"), TARGET)
    halves = Replica(Unrolling.im2col(layer.geometry), Cut((0, 4, 8), (0, 2)), layer.replicas[0].windows)
    layer = replaced(layer, replicas=(halves,))
    table = TileTable.of([layer]).with_columns(
        array=np.zeros(2),
        input_line=np.array([3, 3 + down * (4 + gap)]),
        output_line=np.array([2, 2 + right * (4 + gap)]),
        start=np.array([0, 1]),
        rhythm=np.zeros(2),
        slot=np.array([0, 1]),
        lag=np.zeros(2),
    )
    found = placement_violations([layer], Placement(1, table, (), 2, 2), TARGET)
    assert [violation.rule for violation in found] == ["no-overlap"] * (gap < 0)


@pytest.mark.parametrize("arrays", [1, 3, 40])
def test_every_overlapping_pair_is_named_in_order(arrays: int) -> None:
    """Tiles anywhere on few or many arrays, against a look at each pair."""
    rng = np.random.default_rng(arrays)
    layer = random_layer(rng, Geometry(12, 10, (1,), layout="channels_last"), TARGET)
    cut = Replica(
        Unrolling.im2col(layer.geometry), Cut(tuple(range(0, 13, 2)), tuple(range(0, 11, 2))), np.zeros(1, int)
    )
    layer = replaced(layer, replicas=(cut,))
    table = TileTable.of([layer])
    lines = {name: rng.integers(0, 9, len(table)) for name in ("input_line", "output_line")}
    table = table.with_columns(array=rng.integers(0, arrays, len(table)), **lines)
    found = placement_violations([layer], Placement(-(-arrays // TARGET.chip.arrays), table, (), 2, 2), TARGET)
    want = []
    for a, b in itertools.combinations(range(len(table)), 2):
        near = abs(lines["input_line"][a] - lines["input_line"][b]) < 2
        if near and abs(lines["output_line"][a] - lines["output_line"][b]) < 4 and table.array[a] == table.array[b]:
            want.append((table.array[a], a, b))
    assert want
    assert [item.where for item in found] == [f"tiles {a} and {b}" for _, a, b in sorted(want)]


def test_a_layer_may_have_a_range_up_to_that_of_a_calibrated_target() -> None:
    with_range = calibrated(0.5)(program())
    assert verify_program(with_range) is with_range


def test_a_program_with_its_chip_is_accepted() -> None:
    with_chip = chip()(program())
    assert verify_program(with_chip) is with_chip


def test_every_rule_is_tested() -> None:
    source = "".join(map(inspect.getsource, (verifier, schedule_rules, segment_rules)))
    rules = set(re.findall(r'Violation\(\s*"([a-z-]+)"', source))
    assert len(rules) > 25
    tested = {rule for rule, _, _ in GRAPHS} | {rule for rule, _ in (*PROGRAMS, *SEGMENTED)}
    assert rules == tested | {"shared-cells"}


def test_every_pass_leaves_a_graph_without_violations() -> None:
    for item in default_passes():
        assert find_violations(graph_after(item.pass_name()), TARGET) == []


def test_the_instrument_lists_all_violations_and_names_the_pass() -> None:
    graph = fields(inputs=("nowhere", "w1"))(fields(3, name="Conv_c1")(graph_after("fold_constants")))
    with pytest.raises(VerificationError, match="after pass some_pass the graph breaks 2 rules") as error:
        Verifier().after_pass(1, "some_pass", graph, stages.context_for(FEEDS))
    assert "[defined-before-use] Conv_c1: reads 'nowhere'" in str(error.value)
    assert "[unique-names] Conv_c1" in str(error.value)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("fold_constants", "the same network in other operators may do"),
        ("replicate", "--set replicate.objective=arrays --set replicate.effort=fast maps one replica of each layer"),
    ],
)
def test_the_instrument_says_how_to_go_round_a_fault_and_what_a_report_needs(name: str, advice: str) -> None:
    graph = graph_after(name)
    twice = replaced(graph, nodes=(*graph.nodes, graph.nodes[-1]))
    with pytest.raises(VerificationError) as error:
        Verifier().after_pass(1, name, twice, stages.context_for(FEEDS))
    assert error.value.exit_code == 70
    *_, last = str(error.value).splitlines()
    assert last.startswith(advice)
    assert "please report it with the command line, the model, the data" in last
    assert f"onnx {onnx.__version__}, numpy {np.__version__}" in last

"""Data for the canvases: kinds of arrays, steps, cells, the network's lanes, and charts against the facts."""

from __future__ import annotations

from dataclasses import replace

import factories
import numpy as np
import pytest
from kept import Kept
from places import FIVE_LAYER_CNN

from memcompile.html import cell_data as cells_of
from memcompile.html.cell_data import BLANK, UNUSED, cell_data
from memcompile.html.mapping_data import COLUMNS, ArrayKinds, mapping_bytes, mapping_facts
from memcompile.html.network_rows import network_rows
from memcompile.program.program import Program
from memcompile.report.lookup import find_weight
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.transfer import transfer
from memcompile.timing.timetable import Timetable


@pytest.fixture(scope="module")
def compiled(kept: Kept) -> Program:
    """Parallel windows, replicas and shared arrays."""
    return kept.program(FIVE_LAYER_CNN)


@pytest.fixture(scope="module")
def segmented() -> Program:
    program = factories.two_layer_program(np.random.default_rng(0), factories.make_target())
    return factories.in_segments(program, (1,), batch=6)


@pytest.fixture(scope="module")
def crossings() -> Program:
    """Both cells of a pair where two lines cross."""
    target = factories.make_target(array={"pairs": "crossings"}, adc={"bits": 9})
    return factories.two_layer_program(np.random.default_rng(5), target)


@pytest.fixture(params=["compiled", "segmented", "crossings"])
def program(request: pytest.FixtureRequest) -> Program:
    found: Program = request.getfixturevalue(request.param)
    return found


def test_arrays_of_a_kind_hold_the_same_levels(program: Program) -> None:
    kinds = ArrayKinds.of(program)
    devices = Emulator.ideal(program).machine.devices
    first: dict[int, bytes] = {}
    for (segment, array), kind in np.ndenumerate(kinds.kind):
        used = ((program.placement.tiles.segment == segment) & (program.placement.tiles.array == array)).any()
        assert (kind >= 0) == used
        if kind >= 0:
            levels = devices.levels(array, segment).tobytes()
            assert first.setdefault(int(kind), levels) == levels
    assert kinds.count.sum() == (kinds.kind >= 0).sum()
    assert [kinds.kind.reshape(-1)[place] for place in kinds.first] == list(range(len(kinds.first)))


def test_copies_of_a_layer_make_arrays_of_a_kind() -> None:
    program = factories.two_layer_program(np.random.default_rng(1), factories.make_target())
    tiles = program.placement.tiles
    one = tiles.take(np.array([0, 0, 0], np.int64)).with_columns(array=np.arange(3))
    kinds = ArrayKinds.of(replace(program, placement=replace(program.placement, tiles=one)))
    assert (kinds.kind.tolist(), kinds.count.tolist()) == ([[0, 0, 0]], [3])
    moved = one.with_columns(input_line=np.array([0, 1, 0]))
    kinds = ArrayKinds.of(replace(program, placement=replace(program.placement, tiles=moved)))
    assert kinds.kind.tolist() == [[0, 1, 0]]


def test_tiles_come_with_their_steps(program: Program) -> None:
    kinds = ArrayKinds.of(program)
    facts, data = mapping_facts(program, kinds), mapping_bytes(program, kinds)
    numbers = np.frombuffer(data, "<i4")
    tiles = program.placement.tiles
    table = numbers[: facts["tiles"] * len(facts["columns"])].reshape(len(facts["columns"]), -1)
    assert facts["columns"] == [*COLUMNS, "load", "last"]
    for name, column in zip(COLUMNS, table, strict=False):
        assert np.array_equal(column, getattr(tiles, name))
    timetable = Timetable(program.layers, program.placement, program.target)
    assert [int(last) for last in table[-1]] == [int(timetable.steps(tile)[-1]) for tile in range(len(tiles))]
    assert np.array_equal(table[-2], program.tile_loads)
    rest = numbers[table.size :]
    assert np.array_equal(rest[: 3 * facts["pauses"]].reshape(-1, 3), program.placement.pauses)
    assert np.array_equal(rest[3 * facts["pauses"] :], kinds.kind.reshape(-1))


def unpacked(program: Program, facts: dict[str, object], content: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    array = program.target.array
    places = facts["places"]
    assert isinstance(places, list)
    shape = (len(places), array.input_lines, array.cell_columns)
    size = int(np.prod(shape))
    weights = np.frombuffer(content, "<i4", size).reshape(shape)
    conductances = np.frombuffer(content, "<u2", size, 4 * size).reshape(shape)
    return weights, conductances, np.frombuffer(content, np.uint8, size, 6 * size).reshape(shape)


def test_cells_are_those_that_the_look_up_finds(program: Program) -> None:
    found = cell_data(program, ArrayKinds.of(program), seed=3)
    assert found is not None
    weights, conductances, levels = unpacked(program, found.facts, found.content)
    number = {place: row for row, place in enumerate(found.facts["places"])}
    seen = 0
    for layer in program.layers:
        geometry = layer.geometry
        for output, kernel_input in ((0, 0), (geometry.out_channels - 1, geometry.group_rows - 1)):
            group, column = divmod(output, geometry.group_columns)
            weight = (group * geometry.group_rows + kernel_input) * geometry.group_columns + column
            for cell in find_weight(program, layer.name, output, kernel_input):
                array = cell.chip * program.target.chip.arrays + cell.array
                each = program.target.array.cells_per_crossing
                column = each * cell.output_line + (each == 2 and cell.polarity == "-")
                at = (number[cell.segment * program.cell_map.arrays + array], cell.input_line, column)
                assert (weights[at], levels[at]) == (weight, cell.level)
                seen += 1
    assert seen >= 4 * len(program.layers)
    devices = Emulator(program, 3).machine.devices
    for place, row in number.items():
        segment, array = divmod(place, program.cell_map.arrays)
        actual_us = devices.array(array, segment) * devices.converter.unit_us
        assert conductances[row] * found.facts["conductance_step_us"] == pytest.approx(actual_us, abs=0.001)
        aimed_us = program.target.cell.g_min_us + levels[row] * program.target.cell.level_step_us
        assert np.abs(actual_us - aimed_us).mean() < 2
    used = (weights != UNUSED).sum()
    assert used == program.cells_used
    assert (weights == BLANK).sum() == used - (weights >= 0).sum()


def test_a_tuned_chip_shows_its_own_cells() -> None:
    program = factories.two_layer_program(np.random.default_rng(2), factories.make_target())
    chip, _ = transfer(program, seed=9)
    found = cell_data(chip, ArrayKinds.of(chip), seed=3)
    assert found is not None
    assert found.facts["seed"] == 9
    assert chip.chip is not None
    _, conductances, _ = unpacked(chip, found.facts, found.content)
    for row, place in enumerate(found.facts["places"]):
        wanted = chip.chip.conductances_us[place]
        assert conductances[row] * found.facts["conductance_step_us"] == pytest.approx(wanted, abs=0.01)


def test_large_systems_list_the_first_array_of_each_kind(compiled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ArrayKinds.of(compiled)
    monkeypatch.setattr(cells_of, "MOST_CELLS", 3 * compiled.target.array.cells)
    found = cell_data(compiled, kinds, seed=0)
    assert found is not None
    assert not found.facts["all"]
    assert set(found.facts["places"]) <= set(kinds.first.tolist())
    assert len(found.facts["places"]) == 3
    monkeypatch.setattr(cells_of, "MOST_CELLS", 0)
    assert cell_data(compiled, kinds, seed=0) is None


def test_stuck_cells_are_listed() -> None:
    target = factories.make_target(faults={"stuck_low_share": 0.1, "stuck_high_share": 0.0})
    program = factories.two_layer_program(np.random.default_rng(3), target)
    found = cell_data(program, ArrayKinds.of(program), seed=0)
    assert found is not None
    share = len(found.facts["stuck"]) / (len(found.facts["places"]) * target.array.cells)
    assert 0.08 < share < 0.12


def test_lanes_lead_from_a_stage_to_its_readers(compiled: Program) -> None:
    rows = network_rows(compiled)
    assert rows[0].name == "image"
    assert [row.layer for row in rows if row.layer is not None] == [0, 1, 2]
    assert all(row.lane == 0 and row.above == ((0,) if number else ()) for number, row in enumerate(rows))
    assert [row.below for row in rows] == [True] * (len(rows) - 1) + [False]


def test_a_skip_connection_takes_a_lane_of_its_own() -> None:
    program = factories.two_layer_program(np.random.default_rng(4), factories.make_target())
    first, relu, second = program.stages
    skip = replace(factories.digital_stage("skip", "Relu", "y", "z", 4), inputs=("y", "h"))
    rows = network_rows(replace(program, stages=(first, relu, second, skip), outputs=("z",)))
    names = {row.name: row for row in rows}
    assert names["relu"].through == (0,), "h is read again later"
    assert set(names["skip"].above) == {0, 1}
    assert names["skip"].through == ()
    assert names["z"].above == (names["skip"].lane,)

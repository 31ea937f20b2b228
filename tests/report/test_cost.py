"""The cost of programs: against the paper's headline, a literal walk, and the rules a sum obeys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import memcompile
from memcompile.cli.main import main
from memcompile.figures import figure, with_prefix
from memcompile.hardware.line_turns import LineTurns
from memcompile.hardware.target import EnergySpec, Target, builtin_targets, load_target
from memcompile.hardware.target_settings import with_target_settings
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.ir.graph import MappedLayer, Placement, TileTable
from memcompile.program.program import Program
from memcompile.report.cost import Cost, Counting, layer_activities, program_cost, transfer_cost
from memcompile.report.cost_report import cost_facts, cost_lines, energy_table
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.runtime.executors.literal import LiteralExecutor
from memcompile.runtime.training.transfer import transfer

ENERGY = {
    "array_pj": 3.0,
    "cell_pj": 0.01,
    "driver_pj": 0.2,
    "sample_hold_pj": 0.3,
    "conversion_pj": 2.0,
    "shift_add_pj": 0.4,
    "addition_pj": 0.05,
    "crossing_pj": 7.0,
}


def core_program(folder: Path) -> Program:
    """A network whose weights fill one array of 128 x 128, compiled for one such array of the reference chip."""
    weights = np.random.default_rng(0).normal(size=(128, 64)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="core")],
        "core",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 128])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 64])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "core.onnx")
    target = factories.make_target(array={"input_lines": 128}, chip={"arrays": 1})
    return memcompile.compile(folder / "core.onnx", target=target)


# --- the published headline ----------------------------------------------------------------------


def test_a_full_core_reaches_the_published_figures_in_the_papers_counting(tmp_path: Path) -> None:
    """P. Yao et al., Nature 577, 641 (2020): 11,014 GOP/s/W and 1,164 GOP/s/mm2, each cell a MAC."""
    cost = program_cost(core_program(tmp_path))
    efficiency, density = cost.gops_per_w(Counting.CELLS), cost.gops_per_mm2(Counting.CELLS)
    assert efficiency is not None
    assert density is not None
    assert (round(efficiency), round(density)) == (11_014, 1_164)
    # A signed weight is a pair of cells, so the network gets half of it.
    assert cost.gops_per_w(Counting.WEIGHTS) == pytest.approx(efficiency / 2)
    assert cost.gops_per_mm2(Counting.WEIGHTS) == pytest.approx(density / 2)
    assert cost.total_energy_pj == pytest.approx(8 * 371.9, abs=0.5)
    assert cost.interval_us == pytest.approx(0.4)


# --- an independent recount ----------------------------------------------------------------------


class CountingExecutor(LiteralExecutor):
    """The literal executor that adds up, phase by phase, what each line and cell that works takes."""

    energy_pj: float = 0.0
    cell_macs: int = 0
    heat_pj: float = 0.0

    def step(self, stage: MappedLayer, row: int, *rest: Any) -> NDArray[np.float64]:
        spec = self.machine.target.energy
        cells, turn = self.machine.devices.cells(row), rest[-1]
        converted = LineTurns.of(self.machine.target).lines(len(self.machine.devices.gains(row)), turn)
        lines_in, lines_out = len(cells), converted.stop - converted.start
        width = lines_out * self.machine.target.array.cells_per_crossing
        cells = cells[:, converted.start * width // lines_out :][:, :width]
        conductance_us = float(cells.sum()) * self.machine.converter.unit_us
        for _ in stage.quantizer.phases(rest[0]):
            self.energy_pj += spec.array_pj
            self.heat_pj += 0.2**2 * (0.5 * conductance_us * 1e-6) * 50e-9 * 1e12
            for _ in range(lines_in):
                self.energy_pj += spec.driver_pj + cells.shape[1] * spec.cell_pj
            for _ in range(lines_out):
                self.energy_pj += spec.sample_hold_pj + spec.conversion_pj + spec.shift_add_pj
        pairs_on_lines = self.machine.target.array.pairs == "output_lines"
        columns = int(self.machine.tiles.column_end[row] - self.machine.tiles.column_begin[row])
        for _ in range(columns if turn == 0 else 0):  # a column: subtracted, joined, joined to the tile above
            self.energy_pj += spec.addition_pj * stage.slices * pairs_on_lines
            self.energy_pj += spec.addition_pj * (stage.slices - 1)
            self.energy_pj += spec.addition_pj * bool(self.machine.tiles.row_begin[row])
        self.cell_macs += cells.size
        return super().step(stage, row, *rest)


@pytest.mark.parametrize("sharing", [1, 40])
@pytest.mark.parametrize("pairs", ["output_lines", "crossings"])
@pytest.mark.parametrize("slices", [1, 2])
def test_walking_every_step_gives_the_same_energy(slices: int, pairs: str, sharing: int) -> None:
    rng = np.random.default_rng(5)
    target = factories.make_target(energy=ENERGY, array={"pairs": pairs}, adc={"lines_per_converter": sharing})
    geometry = Geometry(5, 6, (3, 3), (6, 5), 1, (1, 1), (1, 1), (1, 1), (1, 1))
    unrollings = [Unrolling(geometry, (2, 1))] * 3
    layer = factories.random_layer(rng, geometry, target, slices=slices, unrollings=unrollings)
    program = factories.layer_program(rng, layer, target)
    machine = Emulator(program, effects=Effects.none(), executor="literal").machine
    walker = CountingExecutor(machine)
    walker.sums(0, rng.integers(0, 256, (1, 5, 6, 5)).astype(np.int16), np.zeros(1, np.int64))
    cost = program_cost(program)
    assert len(program.placement.tiles) > 3
    assert cost.total_energy_pj == pytest.approx(walker.energy_pj)
    # The emulator keeps conductances on the grid of its converter.
    assert cost.cell_heat_pj == pytest.approx(walker.heat_pj, rel=1e-5)
    assert cost.operations(Counting.CELLS) == 2 * walker.cell_macs
    assert cost.operations(Counting.WEIGHTS) == 2 * 30 * 6 * 5 * 9


# --- rules that a sum obeys ----------------------------------------------------------------------

sides = st.integers(1, 3)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(sides, sides, st.integers(1, 2), st.integers(0, 99))
def test_energy_is_the_sum_over_components_and_over_layers(channels: int, kernel: int, slices: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = factories.make_target(energy=ENERGY)
    geometries = [Geometry(channels, 4, (kernel,), (6,)), Geometry(4, channels, (1,), (7 - kernel,))]
    layers = [
        factories.random_layer(rng, geometry, target, name=name, inputs=(name,), outputs=(f"{name}y",), slices=slices)
        for name, geometry in zip("ab", geometries, strict=True)
    ]
    whole = factories.make_program(rng, layers, target, {})
    whole = replace(whole, placement=replace(whole.placement, crossing_values=3))
    alone = [factories.make_program(rng, [layer], target, {}) for layer in layers]
    cost = program_cost(whole)
    assert cost.energy_pj is not None
    assert cost.total_energy_pj == pytest.approx(sum(cost.energy_pj.values()))
    assert cost.energy_pj["crossing"] == 21.0
    assert target.energy is not None
    by_layer = [sum(each.energy_pj(target.energy).values()) for each in cost.activities]
    assert cost.total_energy_pj == pytest.approx(sum(by_layer) + 21.0)
    assert by_layer == pytest.approx([program_cost(program).total_energy_pj for program in alone])
    whole_transfer = transfer_cost(whole.layers, target)
    parts = [transfer_cost(program.layers, target) for program in alone]
    assert whole_transfer is not None
    assert whole_transfer.report.pulses == sum(part.report.pulses for part in parts if part)


def shared_among(layer_program: Program, copies: int) -> Program:
    """The program with its single copy's windows shared by several alike copies, each in arrays of its own."""
    (layer,) = layer_program.layers
    (replica,) = layer.replicas
    parts = np.array_split(replica.windows, copies)
    shared = replace(layer, replicas=tuple(replace(replica, windows=part) for part in parts))
    table = TileTable.of([shared])
    count = len(table)
    table = table.with_columns(
        array=np.arange(count), input_line=np.zeros(count), output_line=np.zeros(count), slot=np.zeros(count)
    )
    steps = max(len(part) for part in parts)
    placement = Placement(1, table, (), steps, steps)
    return replace(layer_program, stages=(shared,), placement=placement)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(2, 5), st.integers(0, 99))
def test_copies_shorten_the_interval_and_leave_the_energy_of_an_image(copies: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = factories.make_target(chip={"arrays": 100})
    geometry = Geometry(2, 5, (3,), (14,))
    layer = factories.random_layer(rng, geometry, target, unrollings=[Unrolling.im2col(geometry)])
    single = factories.layer_program(rng, layer, target)
    one, several = (program_cost(shared_among(single, count)) for count in (1, copies))
    assert several.total_energy_pj == pytest.approx(one.total_energy_pj)
    assert several.interval_us < one.interval_us
    assert several.area_mm2 == one.area_mm2
    assert several.power_mw is not None
    assert one.power_mw is not None
    assert several.power_mw > one.power_mw
    assert one.transfer is not None
    assert several.transfer is not None
    assert several.transfer.report.pulses == copies * one.transfer.report.pulses


def test_transfer_is_what_the_writer_counts_on_devices_without_errors() -> None:
    rng = np.random.default_rng(2)
    target = factories.make_target(
        programming={"sigma_us": 0.0}, faults={"stuck_low_share": 0.0, "stuck_high_share": 0.0}
    )
    geometry = Geometry(3, 4, (3, 3), (5, 5), 1, (1, 1), (1, 1), (0, 0), (0, 0))
    unrollings = [Unrolling.im2col(geometry), Unrolling(geometry, (2, 2))]
    layer = factories.random_layer(rng, geometry, target, slices=2, unrollings=unrollings)
    program = factories.layer_program(rng, layer, target)
    _, writer = transfer(program, 0, correct_slices=False)
    cost = transfer_cost(program.layers, target)
    report = writer.take_report()
    assert cost is not None
    assert (cost.report.writes, cost.report.pulses) == (report.writes, report.pulses)
    assert cost.report.pulse_energy_j == pytest.approx(report.pulse_energy_j)
    assert cost.most_pulses == writer.cell_pulses.max() > 0


def test_writing_again_adds_the_corrections_of_all_pairs() -> None:
    program = small()
    once = transfer_cost(program.layers, program.target)
    target = program.target.with_(programming__sigma_us=1.0, programming__error_stays=True)
    again = transfer_cost(program.layers, target.with_(programming__write_again_share=0.5))
    assert once is not None
    assert again is not None
    (layer,) = program.layers
    of_replicas = [replica.unrolling for replica in layer.replicas]
    pairs = sum(unrolling.matrices * unrolling.rows * unrolling.columns for unrolling in of_replicas)
    writes = again.report.writes - once.report.writes
    assert writes == round(0.5 * pairs) > 0
    # Errors above 1.2 standard deviations of a write, 1.9 uS on average, at pulses of 0.5625 uS and as wide a margin.
    assert again.report.pulses - once.report.pulses == 3 * writes
    assert again.report.pulse_energy_j > once.report.pulse_energy_j
    assert again.most_pulses == once.most_pulses + 8 * 3


def test_most_pulses_are_those_of_the_highest_level_that_occurs() -> None:
    program = small()
    (layer,) = program.layers
    pulses = []
    for level in (1, 7):
        cost = transfer_cost((replace(layer, cells=np.minimum(layer.cells, level)),), program.target)
        assert cost is not None
        pulses.append(cost.most_pulses)
    assert pulses == [4, 31]  # 18/7 uS and 18 uS, less the margin of 0.5625 uS, at as much a pulse


def test_rates_follow_the_interval_and_not_the_latency() -> None:
    program = small()
    placement = replace(program.placement, initiation_interval_steps=10, latency_steps=25, chips=3)
    cost = program_cost(replace(program, placement=placement))
    assert (cost.interval_us, cost.latency_us) == pytest.approx((4.0, 10.0))
    assert cost.area_mm2 == pytest.approx(3 * 8 * 128 * 549.8e-6)
    assert cost.total_energy_pj is not None
    assert cost.power_mw == pytest.approx(cost.total_energy_pj * 1e-12 / 4e-6 * 1e3)
    giga_operations = 2 * 40 * 6 / 4e-6 * 1e-9
    assert cost.gops_per_mm2(Counting.WEIGHTS) == pytest.approx(giga_operations / cost.area_mm2)
    assert cost.gops_per_w(Counting.WEIGHTS) == pytest.approx(giga_operations / (cost.power_mw or 0) * 1e3)


# --- what a target leaves out --------------------------------------------------------------------


def bare(target: Target, *sections: str) -> Target:
    return target.model_copy(update=dict.fromkeys(sections))


def small() -> Program:
    rng = np.random.default_rng(1)
    target = load_target("yao2020")
    return factories.layer_program(rng, factories.random_layer(rng, Geometry(40, 6), target, slices=2), target)


def test_missing_constants_give_none_and_are_named() -> None:
    program = small()
    program = replace(program, placement=replace(program.placement, crossing_values=1234))
    cost = program_cost(program)
    additions = sum(each.additions for each in layer_activities(program))
    assert additions > 6 * 3
    assert cost.not_included[-2:] == (f"{additions:,} additions", "1,234 values between chips")
    assert cost.energy_pj is not None
    assert not {"addition", "crossing"} & set(cost.energy_pj)
    given = program_cost(replace(program, target=factories.make_target(energy=ENERGY)))
    assert given.not_included == cost.not_included[:-2]
    nothing = program_cost(replace(program, target=bare(program.target, "energy", "area", "write_verify")))
    assert nothing.not_included == cost.not_included
    assert (nothing.energy_pj, nothing.total_energy_pj, nothing.power_mw) == (None, None, None)
    assert (nothing.area_mm2, nothing.transfer) == (None, None)
    for counting in Counting:
        assert nothing.gops_per_w(counting) is nothing.gops_per_mm2(counting) is None
    assert nothing.latency_us == cost.latency_us > 0


def test_exact_inputs_take_one_phase(tmp_path: Path) -> None:
    core_program(tmp_path)
    energy = EnergySpec(conversion_pj=1.0)
    target = load_target("ideal").model_copy(update={"energy": energy})
    cost = program_cost(memcompile.compile(tmp_path / "core.onnx", target=target))
    assert cost.total_energy_pj == 2 * 64
    assert cost.interval_us == pytest.approx(0.05)
    assert cost.cell_heat_pj is None
    assert cost.transfer is None


def test_a_network_without_crossbar_layers_costs_nothing_here() -> None:
    empty = replace(small(), stages=(), placement=Placement(0, TileTable.of([])))
    cost = program_cost(empty)
    assert (cost.total_energy_pj, cost.interval_us, cost.area_mm2, cost.power_mw) == (0, 0, 0, None)
    assert cost.gops_per_w(Counting.WEIGHTS) is cost.gops_per_mm2(Counting.CELLS) is None
    assert energy_table(cost_facts(empty)) is None


@pytest.mark.parametrize(
    ("absent", "kept"),
    [
        ((), ["energy", "area", "efficiency", "", "transfer", "not included"]),
        (("energy",), ["area", "energy", "efficiency", "", "transfer", "not included"]),
        (("area",), ["energy", "area", "efficiency", "", "transfer", "not included"]),
        (("energy", "write_verify"), ["area", "energy", "efficiency", "", "not included"]),
        (("energy", "area"), ["energy", "area", "transfer", "not included"]),
        (("energy", "area", "write_verify"), ["cost"]),
    ],
)
def test_lines_tell_what_is_known(absent: tuple[str, ...], kept: list[str]) -> None:
    program = small()
    facts = cost_facts(replace(program, target=bare(program.target, *absent)))
    lines = cost_lines(facts)
    assert [line[:16].strip() for line in lines] == kept
    assert not any("None" in line or "nan" in line for line in lines)
    said = [line[:16].strip() for line in lines if "no data" in line]
    assert said == (["cost"] if kept == ["cost"] else [name for name in ("energy", "area") if name in absent])
    json.dumps(facts, allow_nan=False)


def test_the_share_of_assumptions_is_told() -> None:
    """Conversions take most of the energy; without a source for them, so much of it is assumed."""
    program = small()
    facts = cost_facts(program)
    assert (facts["assumed"], facts["assumed_share"]) == ([], 0.0)
    parts = facts["energy_pj_by_component"]
    assumed = cost_facts(replace(program, target=program.target.with_(energy__conversion_pj=2.55)))
    assert assumed["assumed"] == ["conversion"]
    assert assumed["assumed_share"] == pytest.approx(parts["conversion"] / facts["energy_pj"])
    (line,) = [line for line in cost_lines(assumed) if line.startswith("assumed")]
    assert line == f"assumed          {assumed['assumed_share']:.1%} of the energy: conversion"


def test_constants_that_are_set_for_a_program_are_assumed() -> None:
    program = small()
    changed, _ = with_target_settings(program.target, ["energy.conversion_pj=3"])
    assert program_cost(replace(program, target=changed)).assumed == ("conversion",)


@pytest.mark.parametrize("name", builtin_targets())
def test_a_sweep_over_bits_of_converters_grows_or_has_no_data(name: str) -> None:
    program, target = small(), load_target(name)
    costs = [program_cost(replace(program, target=target.with_(adc__bits=bits))) for bits in range(2, 17)]
    for spec, figures in (
        (target.energy, [cost.total_energy_pj for cost in costs]),
        (target.area, [cost.area_mm2 for cost in costs]),
    ):
        if spec is None:
            assert set(figures) == {None}
        else:
            known = [each for each in figures if each is not None]
            assert len(known) == len(costs)
            assert (np.diff(known) > 0).all()


def test_buffers_and_links_count_what_tiles_read_and_hand_on() -> None:
    """40 inputs in row tiles of at most 16 lines and all 6 columns once; 6 results and the sums joined above them."""
    program = small()
    priced = replace(program, target=program.target.with_(energy__buffer_pj=2.0, energy__link_pj=3.0))
    tiles, cost, plain = program.placement.tiles, program_cost(priced), program_cost(program)
    assert cost.energy_pj is not None
    assert plain.total_energy_pj is not None
    columns = tiles.column_end - tiles.column_begin
    assert cost.energy_pj["buffer"] == 2.0 * (tiles.heights.sum() + 6)
    assert cost.energy_pj["link"] == 3.0 * (columns[tiles.row_begin > 0].sum() + 6)
    rest = plain.total_energy_pj + cost.energy_pj["buffer"] + cost.energy_pj["link"]
    assert cost.total_energy_pj == pytest.approx(rest)
    assert {"buffers", "routing"} <= set(plain.not_included)
    assert not {"buffers", "routing"} & set(cost.not_included)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 J"),
        (1.234e-6, "1.23 uJ"),
        (9.9996e-7, "1.00 uJ"),
        (4.15e-7, "415 nJ"),
        (2.4e-13, "240 fJ"),
        (1e-17, "0.0100 fJ"),
        (12.0, "12.0 J"),
        (4.56e7, "45.6 MJ"),
    ],
)
def test_quantities_have_the_largest_prefix_that_leaves_a_figure_of_one(value: float, text: str) -> None:
    assert with_prefix(value, "J") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12_345_678.0, "12,300,000"),
        (1234.0, "1,230"),
        (99.96, "100"),
        (12.34, "12.3"),
        (0.0012345, "0.00123"),
    ],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert figure(value) == text


def test_facts_are_those_of_the_cost() -> None:
    program = small()
    facts, cost = cost_facts(program), program_cost(program)
    assert isinstance(cost, Cost)
    assert facts["energy_pj"] == cost.total_energy_pj == pytest.approx(sum(facts["energy_pj_by_component"].values()))
    assert facts["counting"]["cells"]["gops_per_w"] == cost.gops_per_w(Counting.CELLS)
    assert facts["counting"]["weights"]["gops_per_mm2"] == cost.gops_per_mm2(Counting.WEIGHTS)
    assert facts["latency_us"] == pytest.approx(program.placement.latency_steps * 0.4)
    by_layer = [sum(layer["energy_pj_by_component"].values()) for layer in facts["layers"]]
    assert sum(by_layer) == pytest.approx(facts["energy_pj"])
    assert facts["transfer"]["cell_writes"] == 2 * 2 * 40 * 6


def test_explain_shows_the_energy_of_each_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    core_program(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["core.onnx", "--no-evaluation", "--explain"]) == 0
    out = capsys.readouterr().out
    assert "energy of an image " in out
    assert "core" in out.partition("energy of an image ")[2].partition("all")[0]
    assert main(["core.onnx", "--target", "neurram", "--no-evaluation", "--explain"]) == 0
    out = capsys.readouterr().out
    assert "energy of an image " not in out
    assert "the target gives no energy, area or programming pulses" in out

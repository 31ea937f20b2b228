"""Shared converters and groups of rows: what they change of the arithmetic, of the schedule and of costs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import exported
import factories
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_graphs import chain, context_of, conv, dense
from numpy.typing import NDArray

from memcompile.hardware.target import Target, builtin_targets, load_target
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.passes.place import Place
from memcompile.passes.replicate import Replicate
from memcompile.passes.schedule import Schedule
from memcompile.passes.tile_matrices import TileMatrices
from memcompile.program.program import Program
from memcompile.report.cost import program_cost
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.timing.timetable import tile_turns

SHARED: dict[str, dict[str, Any]] = {
    "array": {"rows_at_once": 5, "columns_at_once": 12},
    "adc": {"lines_per_converter": 32, "conversions_per_phase": 2},
}
CONVERTERS = replace(Effects.none(), adc=True)


def dense_program(target: Target, rows: int, columns: int, *, slices: int = 1, seed: int = 0) -> Program:
    """One matrix of random weights, cut at random."""
    rng = np.random.default_rng(seed)
    layer = factories.random_layer(rng, Geometry(rows, columns, layout="channels_last"), target, slices=slices)
    return factories.layer_program(rng, layer, target)


def by_groups(program: Program, inputs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums in level steps, each group of rows converted alone: by the definition, in floating point.

    A range of n lines ends at n cells of g_max with the highest digit, at the highest code.
    """
    (layer,), target = program.layers, program.target
    cell, codes = target.cell, (1 << target.adc.bits) - 1
    code_us = target.array.driven_lines * target.input.highest_digit * cell.g_max_us / codes
    cells_us = cell.g_min_us + cell.level_step_us * layer.cells[:, :, 0].astype(np.float64)  # polarity, slices, r, c
    total = np.zeros((len(inputs), layer.geometry.out_channels))
    for begin, end in itertools.pairwise(layer.replicas[0].cut.rows):
        for phase in range(target.input.bits):
            driven = (inputs[:, begin:end] >> phase) & 1
            current_us = np.einsum("br,psrc->psbc", driven, cells_us[:, :, begin:end])
            code = np.clip(np.floor(current_us / code_us + 0.5), 0, codes)
            pairs = (code[0] - code[1]) * (code_us / cell.level_step_us)
            total += 2.0**phase * np.einsum("s,sbc->bc", float(layer.base) ** np.arange(layer.slices), pairs)
    return total


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("rows_at_once", [1, 3, 16])
def test_each_group_of_rows_is_converted_alone(rows_at_once: int, slices: int) -> None:
    """Few bits, so that codes differ from one way of grouping to the next."""
    target = factories.make_target(array={"rows_at_once": rows_at_once}, adc={"bits": 5, "range": "fixed"})
    program = dense_program(target, 37, 6, slices=slices)
    inputs = np.random.default_rng(1).integers(0, 256, (7, 37))
    (layer,) = program.layers
    x = (inputs * layer.quantizer.scale).astype(np.float32)[:, None]
    want = by_groups(program, inputs) * layer.scale.astype(np.float64) + layer.bias
    for executor in ("fast", "literal"):
        emulator = Emulator(program, effects=CONVERTERS, executor=executor)
        assert np.allclose(emulator.run({"x": x})["y"][:, 0], want, rtol=1e-6, atol=1e-6), executor
    ideal = Emulator.ideal(program).run({"x": x})["y"][:, 0]
    assert not np.allclose(ideal, want, rtol=1e-3), "five bits are not exact"


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 999),
    st.integers(1, 128),
    st.integers(1, 128),
    st.integers(1, 4),
    st.sampled_from(["output_lines", "crossings"]),
)
def test_turns_of_output_lines_change_no_number(
    seed: int, sharing: int, together: int, per_phase: int, pairs: str
) -> None:
    geometry = Geometry(3, 5, (2, 2), (3, 4), 1, (1, 1), (1, 1), (0, 1), (1, 0))
    found = []
    for adc, columns in (({}, None), ({"lines_per_converter": sharing, "conversions_per_phase": per_phase}, together)):
        array = {"pairs": pairs, "columns_at_once": columns}
        target = factories.make_target(array=array, adc={"bits": 6, "range": "fixed", **adc})
        rng = np.random.default_rng(seed)
        unrollings = [Unrolling(geometry, (1, 2))] * 2
        layer = factories.random_layer(rng, geometry, target, slices=2, unrollings=unrollings)
        program = factories.layer_program(rng, layer, target)
        x = rng.normal(0, 1, (2, 3, 3, 4)).astype(np.float32) * layer.quantizer.highest
        found.append([Emulator(program, 3, effects=effects).run({"x": x})["y"] for effects in (Effects(), CONVERTERS)])
    for alone, shared in zip(*found, strict=True):
        assert np.array_equal(alone, shared)
    literal = Emulator(program, effects=CONVERTERS, executor="literal").run({"x": x})["y"]
    assert np.array_equal(literal, found[1][1])


def test_an_exported_chip_converts_group_by_group() -> None:
    errors = {**SHARED["adc"], "gain_sigma_share": 0.02, "offset_sigma_codes": 0.6, "bits": 6}
    program = dense_program(factories.make_target(array=SHARED["array"], adc=errors), 23, 9, slices=2)
    (layer,) = program.layers
    x = np.random.default_rng(2).integers(0, 256, (4, 1, 23)).astype(np.float32) * np.float32(layer.quantizer.scale)
    exported.assert_agrees(program, {"x": x}, seed=4)


# --- time and energy -----------------------------------------------------------------------------

LAYERS = (conv(8, 3, 2, 6), dense(150, 20))


def interval_of(target: Target) -> int:
    """Interval of a small network on one chip; no bound is above its value."""
    graph, context = chain(LAYERS, target), context_of(target, chips=1)
    for item in (TileMatrices(), Replicate(effort="fast"), Place(), Schedule()):
        graph = item.run(graph, context)
    placement = graph.placement
    assert placement is not None
    for certificate in placement.certificates:
        assert certificate.bound <= certificate.value
    return placement.initiation_interval_steps


def few_arrays(name: str) -> Target:
    """A built-in target with no more arrays than the small network needs."""
    target = load_target(name)
    return target.with_(chip__arrays=min(target.chip.arrays, 24))


@pytest.mark.parametrize("name", builtin_targets())
def test_the_interval_grows_with_sharing_and_shrinks_with_rows_together(name: str) -> None:
    target = few_arrays(name).with_(adc__conversions_per_phase=1)
    lines, rows = target.array.output_lines, target.array.input_lines
    sharing = [interval_of(target.with_(adc__lines_per_converter=n)) for n in (1, max(1, lines // 8), lines)]
    assert sharing == sorted(sharing)
    assert sharing[-1] > sharing[0]
    together = [interval_of(target.with_(array__rows_at_once=n)) for n in (1, max(1, rows // 8), rows)]
    assert together == sorted(together, reverse=True)
    assert together[0] > together[-1]


def test_each_turn_drives_the_lines_again_and_converts_each_line_once() -> None:
    energy = {"array_pj": 3.0, "driver_pj": 0.2, "cell_pj": 0.01, "conversion_pj": 2.0}
    costs = []
    for sharing in (1, 128):
        target = factories.make_target(energy=energy, adc={"lines_per_converter": sharing})
        program = dense_program(target, 16, 6)
        assert np.array_equal(
            tile_turns(program.layers, program.placement.tiles, target),
            program.cell_map.widths if sharing == 128 else np.ones(len(program.placement.tiles)),
        )
        costs.append(program_cost(program))
    alone, shared = costs
    (one,), (each,) = alone.activities, shared.activities
    assert (each.conversions, each.cell_phases, each.additions) == (one.conversions, one.cell_phases, one.additions)
    assert each.phases == one.conversions, "one line a step"
    tiles, widths = program.placement.tiles, program.cell_map.widths
    assert each.input_line_phases == 8 * int((tiles.heights * widths).sum())
    assert alone.energy_pj is not None
    assert shared.energy_pj is not None
    assert shared.energy_pj["array"] == pytest.approx(3.0 * each.phases)
    assert shared.energy_pj["conversion"] == alone.energy_pj["conversion"]
    assert shared.latency_us > alone.latency_us

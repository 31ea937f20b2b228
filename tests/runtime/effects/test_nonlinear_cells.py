"""Cells whose current is not proportional to their voltage: formula, exactness, wires, and both executors."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories
import numpy as np
import pytest
from circuits import ngspice_currents, resistors
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import fsolve

from memcompile.errors import TargetError
from memcompile.ir.geometry import Geometry
from memcompile.ir.quantizers import InputQuantizer
from memcompile.program.program import Program
from memcompile.runtime.effects.nonlinear_iv import Drive, relative_current, sharpness
from memcompile.runtime.effects.nonlinear_wires import NonlinearTile
from memcompile.runtime.effects.wires import effective_conductances_us
from memcompile.runtime.emulator import Effects, Emulator

STILL = Effects(read_noise=False)
ONLY = Effects(**{**vars(Effects.none()), "nonlinear_iv": True})
WIRES = {"input_segment_ohm": 30.0, "output_segment_ohm": 20.0}


def layer_program(
    bits_per_phase: int, per_v: float = 12.0, *, slices: int = 2, signed: bool = False, **sections: dict[str, Any]
) -> tuple[Program, np.ndarray]:
    """A layer of 40 inputs and 6 outputs on three images; k v_read is 2.4."""
    rng = np.random.default_rng(1)
    sections["cell"] = {"nonlinearity_per_v": per_v, **sections.get("cell", {})}
    sections["input"] = {"bits_per_phase": bits_per_phase, **sections.get("input", {})}
    target = factories.make_target(**sections)
    geometry = Geometry(40, 6, (1,), (2,), layout="channels_last")
    layer = factories.random_layer(rng, geometry, target, slices=slices, signed=signed)
    x = rng.integers(-128 if signed else 0, 128 if signed else 256, (3, 2, 40))
    return factories.layer_program(rng, layer, target), x.astype(np.float32)


def both(program: Program, x: np.ndarray, effects: Effects) -> tuple[np.ndarray, np.ndarray]:
    fast, literal = (Emulator(program, 3, effects=effects, executor=name).run(x)["y"] for name in ("fast", "literal"))
    return fast, literal


# --- the curve -----------------------------------------------------------------------------------


@given(st.floats(-1.5, 1.5), st.floats(1e-6, 40.0))
def test_the_curve_is_a_hyperbolic_sine_through_the_read_point(voltage: float, k: float) -> None:
    current = float(relative_current(np.array([voltage]), k)[0])
    assert current == pytest.approx(np.sinh(k * voltage) / np.sinh(k), rel=1e-9, abs=1e-300)
    assert relative_current(np.array([0.0, 1.0, -1.0]), k).tolist() == pytest.approx([0.0, 1.0, -1.0], rel=1e-12)


def test_no_nonlinearity_is_ohms_law_and_the_curve_tends_to_it() -> None:
    voltages = np.linspace(-1, 1, 9)
    assert np.array_equal(relative_current(voltages, 0.0), voltages)
    assert np.allclose(relative_current(voltages, 1e-5), voltages, rtol=1e-9)
    assert np.isfinite(relative_current(voltages, 1e6)).all()


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_digits_drive_what_the_formula_says(bits: int) -> None:
    target = factories.make_target(cell={"nonlinearity_per_v": 10.0}, input={"bits_per_phase": bits})
    drive, highest = Drive.of(target), (1 << bits) - 1
    digits = np.arange(highest + 1)
    want = highest * np.sinh(10.0 * 0.2 * digits / highest) / np.sinh(2.0)
    assert np.abs(drive.counts * drive.step - want).max() <= drive.step / 2
    assert drive.step <= highest / 2**15
    assert drive.counts[highest] * drive.step == highest
    assert sharpness(target) == pytest.approx(2.0)


@pytest.mark.parametrize(("bits_per_phase", "signed"), [(2, False), (3, True), (8, False), (8, True)])
def test_whole_inputs_drive_the_sum_over_their_phases(bits_per_phase: int, signed: bool) -> None:
    drive = Drive.of(factories.make_target(cell={"nonlinearity_per_v": 9.0}, input={"bits_per_phase": bits_per_phase}))
    quantizer = InputQuantizer(1.0, 8, signed, bits_per_phase)
    numbers = np.arange(quantizer.lowest, quantizer.highest + 1, dtype=np.int16)
    phases = [(drive.counts[digits.astype(int)], weight) for digits, weight in quantizer.phases(numbers)]
    sums = sum(weight * counts.astype(np.int64) for counts, weight in phases)
    assert np.array_equal(drive.inputs(quantizer)[numbers], sums)  # a negative index is the byte in two's complement
    squares, step = drive.squared_inputs(quantizer)
    want = sum((weight * drive.step * counts.astype(np.float64)) ** 2 for counts, weight in phases)
    assert np.allclose(squares[numbers] * step, want, rtol=1e-6, atol=step)


# --- what the executors make of it ---------------------------------------------------------------


@settings(max_examples=16, deadline=None, derandomize=True)
@given(st.sampled_from([2, 3, 4, 8]), st.booleans(), st.booleans(), st.floats(0.1, 40.0), st.integers(1, 2))
def test_executors_agree_bit_for_bit(bits: int, signed: bool, adc: bool, per_v: float, slices: int) -> None:
    program, x = layer_program(bits, per_v, signed=signed, slices=slices)
    fast, literal = both(program, x, replace(STILL, adc=adc))
    assert np.array_equal(fast, literal)


@pytest.mark.parametrize("bits", [2, 8])
def test_sums_are_those_of_the_formula(bits: int) -> None:
    """Without converters: conductances times sinh of the voltages, phase by phase; the grid leaves 1e-4."""
    program, x = layer_program(bits, slices=1)
    layer, highest = program.layers[0], (1 << bits) - 1
    drives = np.zeros(x.shape)
    for digits, weight in layer.quantizer.phases(x.astype(np.int16)):
        drives += weight * highest * np.sinh(2.4 * digits / highest) / np.sinh(2.4)
    want = layer.rescale((drives @ layer.integer_matrix()[0]).transpose(0, 2, 1)).transpose(0, 2, 1)
    for found in both(program, x, ONLY):
        assert np.abs(found - want).max() < 1e-4 * np.abs(want).max()
    assert np.abs(Emulator.ideal(program).run(x)["y"] - want).max() > 0.05 * np.abs(want).max()


@pytest.mark.parametrize("adc", [True, False])
def test_one_bit_a_phase_leaves_every_product_as_it_is(adc: bool) -> None:
    curved, x = layer_program(1)
    ohmic, _ = layer_program(1, 0.0)
    effects = Effects(adc=adc)
    for executor in ("fast", "literal"):
        want = Emulator(ohmic, 2, effects=effects, executor=executor).run(x)["y"]
        assert np.array_equal(Emulator(curved, 2, effects=effects, executor=executor).run(x)["y"], want)
    explained = Emulator(curved, 2, effects=effects).explain()["layer"]
    assert explained.startswith("conversions" if adc else "linear")
    assert "the nonlinear current of cells has no effect: lines get 0 V or the read voltage" in explained
    assert "no effect" not in Emulator(ohmic, 2, effects=effects).explain()["layer"]


def test_the_effect_has_a_switch() -> None:
    program, x = layer_program(4)
    off, ideal = replace(ONLY, nonlinear_iv=False), Emulator.ideal(program).run(x)["y"]
    assert np.array_equal(Emulator(program, effects=off).run(x)["y"], ideal)
    assert not np.array_equal(Emulator(program, effects=ONLY).run(x)["y"], ideal)
    assert Emulator(program, effects=ONLY).explain()["layer"].startswith("linear: no converter")
    assert Emulator(program).explain()["layer"].startswith("digits: ")


@pytest.mark.parametrize(("bits", "adc"), [(2, True), (8, True), (3, False), (8, False)])
@pytest.mark.parametrize("share", [0.0, 0.2])
@pytest.mark.parametrize("signed", [False, True])
def test_compiled_kernels_threads_and_chunks_change_no_bit(
    bits: int, adc: bool, share: float, signed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    program, x = layer_program(bits, signed=signed, read_noise={"sigma_us": 0.4, "proportional_share": share})
    effects = Effects(adc=adc)
    results = [Emulator(program, 7, effects=effects, threads=threads).run(x)["y"] for threads in (1, 2)]
    results.append(Emulator(program, 7, effects=effects, chunk=1).run(x)["y"])
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")
    results.append(Emulator(program, 7, effects=effects).run(x)["y"])
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("adc", [True, False])
@pytest.mark.parametrize("noise", [{"sigma_us": 1.5}, {"sigma_us": 0.3, "proportional_share": 0.2}], ids=str)
def test_read_noise_has_one_distribution_on_both_executors(noise: dict[str, float], adc: bool) -> None:
    """Kolmogorov-Smirnov on 6 outputs of 1,000 images: a false alarm in 6 of 10,000 seeds; the seed is fixed."""
    program, x = layer_program(4, slices=1, read_noise=noise)
    fast, literal = both(program, np.repeat(x[:1], 1000, axis=0), Effects(adc=adc))
    for output in range(6):
        assert stats.ks_2samp(fast[:, 0, output], literal[:, 0, output]).pvalue > 1e-4
    assert np.allclose(fast[:, 0].std(axis=0), literal[:, 0].std(axis=0), rtol=0.2)


def test_read_noise_has_the_stated_moments() -> None:
    """sigma^2 times the sum of squared drives, for 5,000 images without a converter; 5-sigma limits."""
    program, x = layer_program(8, slices=1, read_noise={"sigma_us": 1.5})
    effects = replace(ONLY, read_noise=True)
    many = np.repeat(x[:1, :1].repeat(2, axis=1), 5000, axis=0)
    noise = Emulator(program, 8, effects=effects).run(many)["y"] - Emulator(program, effects=ONLY).run(many[:1])["y"]
    drives = 255 * np.sinh(2.4 * x[0, 0].astype(float) / 255) / np.sinh(2.4)
    sigma = 1.5 / program.target.cell.level_step_us * np.sqrt(2 * np.square(drives).sum()) * 2.0**-6
    assert abs(noise.mean()) < 5 * sigma / np.sqrt(noise.size)
    assert abs(noise.std() / sigma - 1) < 5 / np.sqrt(2 * noise.size)


# --- with voltages that differ from line to line -------------------------------------------------


def test_a_wrong_read_voltage_is_bent_by_the_curve() -> None:
    """One bit a phase: a line at 1 + e read voltages drives sinh(K (1 + e)) / sinh(K)."""
    program, x = layer_program(1, input={"dac_sigma_share": 0.1})
    devices = Emulator(program, 4).machine.devices
    voltages = devices.voltages(0)
    assert np.abs(voltages - 1).max() > 0.05
    assert np.allclose(devices.drive_of_one(0), np.sinh(2.4 * voltages) / np.sinh(2.4), rtol=1e-12)
    assert np.array_equal(*both(program, x, STILL))
    assert not np.array_equal(
        Emulator(program, 4, effects=STILL).run(x)["y"],
        Emulator(program, 4, effects=replace(STILL, nonlinear_iv=False)).run(x)["y"],
    )


def test_lines_with_voltages_of_their_own_go_through_the_literal_executor() -> None:
    program, x = layer_program(4, input={"dac_sigma_share": 0.1})
    emulator = Emulator(program, 4)
    assert emulator.explain()["layer"].startswith("literal: cells are nonlinear and each input line has voltages")
    assert np.array_equal(*both(program, x, STILL))
    devices = emulator.machine.devices
    digits = np.arange(16.0)[:, None].repeat(len(devices.voltages(0)), axis=1)
    want = 15 * np.sinh(2.4 * digits / 15 * devices.voltages(0)) / np.sinh(2.4)
    assert np.allclose(devices.drives(0, digits), want, rtol=0, atol=2.0**-12)


# --- with wires ----------------------------------------------------------------------------------


def independent_currents(cells: np.ndarray, volts: np.ndarray, k: float, ohm: tuple[float, float]) -> np.ndarray:
    """Output currents from a general root finder on Kirchhoff's equations; volts and cells in V and S."""
    rows, lines = cells.shape

    def cell(v: np.ndarray) -> np.ndarray:
        return cells * 0.2 * np.sinh(k * v) / np.sinh(k * 0.2)

    def residual(nodes: np.ndarray) -> np.ndarray:
        u, v = nodes.reshape(2, rows, lines)
        current = cell(u - v)
        left = np.diff(np.column_stack([volts, u]), axis=1) / ohm[0]  # minus the current from the left
        down = np.diff(np.vstack([v, np.zeros(lines)]), axis=0) / ohm[1]
        into_u = -left - current
        into_u[:, :-1] += left[:, 1:]
        into_v = current + down
        into_v[1:] -= down[:-1]
        return np.concatenate([into_u.ravel(), into_v.ravel()]) * 1e6

    start = np.concatenate([np.repeat(volts, lines), np.zeros(cells.size)])
    _, v = fsolve(residual, start, xtol=1e-13).reshape(2, rows, lines)
    return v[-1] / ohm[1]


@pytest.mark.parametrize("k", [1.0, 12.0, 30.0])
@pytest.mark.parametrize("ohm", [(50.0, 20.0), (2000.0, 900.0)])
def test_currents_through_wires_solve_kirchhoffs_equations(k: float, ohm: tuple[float, float]) -> None:
    rng = np.random.default_rng(2)
    cells, volts = rng.uniform(2e-6, 20e-6, (7, 6)), 0.2 * rng.integers(0, 4, 7) / 3
    tile = NonlinearTile(cells, 1.0, 0.2 * k, *ohm)
    assert np.allclose(tile.currents(volts / 0.2) * 0.2, independent_currents(cells, volts, k, ohm), rtol=1e-7)


@pytest.mark.parametrize("ohm", [(0.0, 50.0), (50.0, 0.0), (30.0, 20.0)])
def test_a_weak_curve_tends_to_the_linear_network(ohm: tuple[float, float]) -> None:
    rng = np.random.default_rng(3)
    cells, shares = rng.uniform(2, 20, (9, 12)), rng.uniform(0, 1, 9)
    tile = NonlinearTile(cells, 1.0, 1e-4, ohm[0] * 1e-6, ohm[1] * 1e-6, 3, 2)
    assert np.allclose(tile.currents(shares), shares @ effective_conductances_us(cells, *ohm, 3, 2), rtol=1e-7)


@pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")
@pytest.mark.parametrize(("shape", "ohm", "k"), [((16, 12), (40.0, 25.0), 10.0), ((12, 16), (300.0, 200.0), 20.0)])
def test_output_currents_match_ngspice(
    shape: tuple[int, int], ohm: tuple[float, float], k: float, tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    cells_us, volts = rng.uniform(2, 20, shape), 0.2 * rng.integers(0, 4, shape[0]) / 3
    elements = []
    for number, (a, b, resistance) in enumerate(resistors(cells_us, ohm, (1, 1))):
        if a[0] == "u" and b[0] == "v":
            scale = 0.2e-6 * 1e6 / resistance / np.sinh(k * 0.2)
            elements.append(f"B{number} {a} {b} I={scale:.15g}*sinh({k}*V({a},{b}))")
        else:
            elements.append(f"R{number} {a} {b} {resistance:.12g}")
    currents = ngspice_currents(elements, volts, shape[1], tmp_path)
    tile = NonlinearTile(cells_us * 1e-6, 1.0, 0.2 * k, *ohm)
    assert np.allclose(currents, tile.currents(volts / 0.2) * 0.2, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [1, 4])
def test_wires_and_curve_together_go_through_the_literal_executor(bits: int) -> None:
    program, x = layer_program(bits, wires=WIRES, array={"output_lines": 32}, input={"bits": 4})
    x = np.minimum(x, 15)
    effects = replace(STILL, adc_error=False)
    emulator = Emulator(program, 3, effects=effects)
    assert emulator.explain()["layer"].startswith("literal: cells are nonlinear and wires take some of their voltage")
    fast, literal = both(program, x[:1], effects)
    assert np.array_equal(fast, literal)
    for off in ("wires", "nonlinear_iv"):
        assert not np.array_equal(Emulator(program, 3, effects=replace(effects, **{off: False})).run(x[:1])["y"], fast)
    devices, table = emulator.machine.devices, program.placement.tiles
    digits = x[:1, 0, table.row_begin[0] : table.row_end[0]] % 2
    rows, left = digits.shape[1], int(table.output_line[0])
    unit_ohm = devices.converter_of(0).unit_us * 1e-6
    tile = NonlinearTile(
        devices.cells(0).astype(np.float64),
        1.0,
        2.4,
        WIRES["input_segment_ohm"] * unit_ohm,
        WIRES["output_segment_ohm"] * unit_ohm,
        left + 1,
        16 - int(table.input_line[0]) - rows + 1,
    )
    highest = (1 << bits) - 1
    assert np.allclose(devices.currents(0, digits)[0], highest * tile.currents(digits[0] / highest), atol=1e-4)


def test_results_do_not_depend_on_the_chunk_with_wires_and_curve() -> None:
    program, x = layer_program(4, wires=WIRES, array={"output_lines": 32}, input={"bits": 4})
    x = np.minimum(x, 15)
    whole = Emulator(program, 3).run(x)["y"]
    assert np.array_equal(Emulator(program, 3, chunk=1).run(x)["y"], whole)


def test_a_network_beyond_all_devices_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memcompile.runtime.effects.nonlinear_wires.MAX_ITERATIONS", 1)
    tile = NonlinearTile(np.full((3, 3), 1e-5), 1.0, 5.0, 1000.0, 1000.0)
    with pytest.raises(TargetError, match=r"are not found in 1 iterations; lower wires or cell\.nonlinearity_per_v"):
        tile.currents(np.ones(3))

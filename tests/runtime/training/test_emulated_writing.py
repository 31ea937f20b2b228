"""Transfer and tuning on targets whose writes are emulated pulse by pulse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories
import numpy as np
import pytest
from kept import Kept
from numpy.typing import NDArray
from places import FIVE_LAYER_CNN as MODEL
from scipy import stats

import memcompile
from memcompile.cli.main import main
from memcompile.data.loader import Dataset, load_dataset
from memcompile.hardware.pulses import WriteReport, nominal_pulses
from memcompile.hardware.target import Target, WriteVerifySpec
from memcompile.ir.geometry import Geometry
from memcompile.ir.pass_manager import Advance
from memcompile.program.file import encode_program, save_program
from memcompile.program.program import Program
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.hybrid_training import TuningOptions
from memcompile.runtime.training.transfer import transfer
from memcompile.runtime.training.writer import Writer
from memcompile.tuning import TuningPlan, tune

PULSES = {"emulated": True, "cycle_sigma_share": 0.5, "device_sigma_share": 0.3, "max_pulses": 200}
EVEN_PULSES = {**PULSES, "cycle_sigma_share": 0.0}


def emulated_target(pulses: dict[str, Any], **sections: dict[str, Any]) -> Target:
    return factories.make_target(write_verify=pulses, **sections)


def spec_of(program: Program) -> WriteVerifySpec:
    spec = program.target.emulated_pulses
    assert spec is not None
    return spec


def layer_of(target: Target, slices: int = 1) -> Program:
    rng = np.random.default_rng(1)
    layer = factories.random_layer(rng, Geometry(40, 6, (1,), (3,), layout="channels_last"), target, slices=slices)
    return factories.layer_program(rng, layer, target)


@pytest.fixture(scope="module")
def network(kept: Kept) -> Program:
    return kept.program(MODEL, emulated_target(PULSES))


@pytest.fixture(scope="module")
def digits(network: Program) -> Dataset:
    return load_dataset(None, network.inputs, part="train").head(200)


@pytest.mark.parametrize("slices", [1, 2])
def test_transfer_leaves_the_chip_that_the_program_runs_on(slices: int) -> None:
    """Both ways to write a chip of one seed leave the same cells if all pulses of a cell are alike."""
    target = emulated_target(EVEN_PULSES, faults={"stuck_low_share": 0.02, "stuck_high_share": 0.02})
    program = layer_of(target, slices)
    chip, writer = transfer(program, 3)
    devices = Emulator(program, 3).machine.devices
    arrays = [devices.array(number) for number in range(int(program.placement.tiles.array.max()) + 1)]
    assert chip.chip is not None
    np.testing.assert_allclose(
        chip.chip.conductances_us, np.stack(arrays) * devices.converter.unit_us, rtol=0, atol=devices.converter.unit_us
    )
    # Whole arrays are verified there, pairs that hold a weight here: stuck cells in between are given up too.
    took, whole = writer.take_report(), Emulator(program, 3).writing()
    assert whole is not None
    assert took.failures is not None
    assert whole.failures is not None
    between = whole.failures - took.failures
    assert 0 < between == (whole.pulses - took.pulses) / spec_of(program).max_pulses


def test_errors_are_those_of_arrays_written_as_a_whole() -> None:
    """Two-sample Kolmogorov-Smirnov test at a false-alarm rate of 1e-6, seeds fixed."""
    program = layer_of(emulated_target(PULSES))
    pairs, cell = program.cell_map.pairs(), program.target.cell
    held = np.where(pairs.digit > 0, pairs.plus, pairs.minus)[pairs.digit != 0]
    wanted = cell.g_min_us + np.abs(pairs.digit[pairs.digit != 0]) * cell.level_step_us
    errors: tuple[list[NDArray[np.float64]], ...] = ([], [])
    given_up = 0
    for seed in range(20):
        _, writer = transfer(program, seed)
        given_up += writer.take_report().failures or 0
        devices = Emulator(program, seed).machine.devices
        whole = np.stack([devices.array(number) for number in range(len(writer.cells_us))]) * devices.converter.unit_us
        for kept, cells_us in zip(errors, (writer.cells_us, whole), strict=True):
            kept.append(cells_us.reshape(-1)[held] - wanted)
    ours, theirs = (np.concatenate(kept) for kept in errors)
    spec = spec_of(program)
    assert 0 < np.sum(np.abs(ours) > spec.margin_us + 1e-3) <= given_up < len(ours) / 200
    assert ours.std() > spec.margin_us / 4
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-6


def test_a_write_starts_from_where_the_cell_is() -> None:
    still = {"stuck_low_share": 0.0, "stuck_high_share": 0.0}
    program = layer_of(emulated_target({**EVEN_PULSES, "device_sigma_share": 0.0}, faults=still))
    spec, writer = spec_of(program), Writer(program, 1)
    cells, rng = np.arange(300), np.random.default_rng(0)
    for _ in range(3):
        now_us = writer.cells_us.reshape(-1)[cells].astype(np.float64)
        goals_us = rng.uniform(program.target.cell.g_min_us, program.target.cell.g_max_us, len(cells))
        pulses, energy_j = nominal_pulses(now_us, goals_us, spec)
        before = writer.cell_pulses.copy().reshape(-1)[cells]
        writer.take_report()
        writer.write(cells, goals_us)
        np.testing.assert_array_equal(writer.cell_pulses.reshape(-1)[cells] - before, pulses)
        report = writer.take_report()
        assert report == WriteReport(300, int(pulses.sum()), report.pulse_energy_j, 0)
        assert report.pulse_energy_j == pytest.approx(energy_j.sum())
        assert np.abs(writer.cells_us.reshape(-1)[cells] - goals_us).max() <= spec.margin_us + 1e-5
    again = writer.cells_us.copy()
    writer.write(cells, goals_us)
    np.testing.assert_array_equal(writer.cells_us, again)
    assert writer.take_report() == WriteReport(300, 0, 0.0, 0)


def test_pulses_of_each_write_vary_anew() -> None:
    program = layer_of(emulated_target(PULSES))
    writer, cells = Writer(program, 1), np.arange(500)
    low, high = np.full(len(cells), program.target.cell.g_min_us), np.full(len(cells), 15.0)
    held = []
    for _ in range(2):
        writer.write(cells, high)
        held.append(writer.cells_us.reshape(-1)[cells].copy())
        writer.write(cells, low)
    assert np.mean(held[0] == held[1]) < 0.1


def test_stuck_cells_take_all_pulses_and_stay() -> None:
    pulses = {**PULSES, "device_sigma_share": 0.1}  # no cell so slow that its pulses do not suffice
    program = layer_of(emulated_target(pulses, faults={"stuck_low_share": 0.1, "stuck_high_share": 0.1}))
    cell, writer = program.target.cell, Writer(program, 2)
    before = writer.cells_us.copy()
    assert set(np.unique(before)) == {np.float32(cell.g_min_us), np.float32(cell.g_max_us)}
    assert writer.cell_pulses.sum() == 0
    middle = (cell.g_min_us + cell.g_max_us) / 2
    writer.write(np.arange(before.size), np.full(before.size, middle))
    stuck = np.abs(writer.cells_us - middle) > spec_of(program).margin_us + 1e-3
    np.testing.assert_array_equal(writer.cells_us[stuck], before[stuck])
    assert 0.15 < stuck.mean() < 0.25
    assert (writer.cell_pulses[stuck] == PULSES["max_pulses"]).all()
    assert writer.take_report().failures == stuck.sum()


def test_lower_slice_holds_what_the_pulses_of_the_upper_one_missed() -> None:
    program = memcompile.compile(MODEL, emulated_target(PULSES), slices=2, slice_base=5, effort="fast")
    pairs, errors = program.cell_map.pairs(), []
    for correct in (False, True):
        _, writer = transfer(program, 1, correct_slices=correct)
        held = writer.measure_pairs(pairs.plus, pairs.minus) - pairs.digit
        fine = pairs.slice == 0
        below = np.searchsorted(pairs.plus[fine], pairs.plus[~fine] - 2, sorter=np.argsort(pairs.plus[fine]))
        whole = 5 * held[~fine] + held[fine][np.argsort(pairs.plus[fine])[below]]
        errors.append(np.median(np.abs(whole)))
    assert errors[1] < errors[0] / 2


class KilledError(Exception):
    """Stands for a kill at a bad moment."""


def test_killed_tuning_resumes_to_the_same_bytes(network: Program, digits: Dataset, tmp_path: Path) -> None:
    plan = TuningPlan(50, write_again_share=0.2, options=TuningOptions(epochs=3, learning_rate=0.5, threshold_us=0.3))
    whole = tune(network, digits.inputs, digits.labels, plan)
    assert whole.tuning.writes > 0
    assert whole.tuning.failures is not None

    @contextmanager
    def deadly(description: str, total: int) -> Iterator[Advance]:
        def advance(done: int) -> None:
            if description == "tuning" and done:
                raise KilledError

        yield advance

    checkpoint = tmp_path / "run.checkpoint"
    with pytest.raises(KilledError):
        tune(network, digits.inputs, digits.labels, plan, checkpoint=checkpoint, progress=deadly)
    resumed = tune(network, digits.inputs, digits.labels, plan, checkpoint=checkpoint)
    assert encode_program(resumed.program) == encode_program(whole.program)
    assert (resumed.records, resumed.transfer, resumed.tuning) == (whole.records, whole.transfer, whole.tuning)


def test_tune_reports_cells_that_missed_the_margin(
    network: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scarce = network.target.model_copy(update={"write_verify": spec_of(network).model_copy(update={"max_pulses": 30})})
    save_program(replace(network, target=scarce), tmp_path / "net.mcp")
    arguments = ["tune", "net.mcp", "--images", "100", "--epochs", "1", "--score-images", "50"]
    step = ["--learning-rate", "0.5", "--threshold-us", "0.01"]
    assert main([*arguments, *step, "--json", "facts.json"]) == 0
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["transfer"]["failures"] > 100
    assert f"{facts['transfer']['failures']:,} cells missed the margin" in capsys.readouterr().out
    assert facts["tuning"]["cell_writes"] > 0
    assert facts["tuning"]["failures"] == sum(epoch["failures"] for epoch in facts["epochs"])
    quick = ["--max-loss", "none", "--effort", "fast", "--no-evaluation", "--quiet"]
    assert main([str(MODEL), "-o", "net.mcp", *quick, "--json", "facts.json"]) == 0
    assert json.loads((tmp_path / "facts.json").read_text())["cost"]["transfer"]["failures"] is None

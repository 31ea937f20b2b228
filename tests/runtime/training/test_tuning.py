"""Transfer, recalibration and in-situ tuning."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from places import FIVE_LAYER_CNN as MODEL

import memcompile
from memcompile.cli.main import main
from memcompile.data.loader import Dataset, load_dataset
from memcompile.errors import DataError, OutputError, UsageError
from memcompile.hardware.pulses import WriteReport
from memcompile.hardware.target import Target, load_target
from memcompile.ir.pass_manager import Advance
from memcompile.program.file import encode_program
from memcompile.program.program import Program
from memcompile.report.scoring import score
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.runtime.executors.devices import Devices
from memcompile.runtime.training.hybrid_training import TuningOptions, probabilities
from memcompile.runtime.training.recalibrate import recalibrate
from memcompile.runtime.training.transfer import Writer, transfer
from memcompile.runtime.training.write_again import sensitivities, write_worst_again
from memcompile.tuning import TuningPlan, refresh, tune


def target_without_errors() -> Target:
    values = load_target("yao2020").model_dump()
    values["programming"]["sigma_us"] = 0.0
    values["read_noise"]["sigma_us"] = 0.0
    values["faults"] = {"stuck_low_share": 0.0, "stuck_high_share": 0.0}
    return Target.model_validate(values)


@pytest.fixture(scope="module")
def program() -> Program:
    return memcompile.compile(MODEL, max_loss=None)


@pytest.fixture(scope="module")
def perfect() -> Program:
    """A program for a target whose cells have no errors."""
    return memcompile.compile(MODEL, target_without_errors(), max_loss=None)


@pytest.fixture(scope="module")
def compiled_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program file that the command line writes."""
    path = tmp_path_factory.mktemp("compiled") / "net.mcp"
    assert main([str(MODEL), "-o", str(path), "--no-evaluation", "--quiet"]) == 0
    return path


@pytest.fixture(scope="module")
def two_slices() -> Program:
    return memcompile.compile(MODEL, slices=2, slice_base=5)


@pytest.fixture(scope="module")
def digits(program: Program) -> Dataset:
    return load_dataset(None, program.inputs, part="train")


@pytest.fixture(scope="module")
def test_digits(program: Program) -> Dataset:
    return load_dataset(None, program.inputs).head(400)


@pytest.mark.parametrize("name", ["program", "two_slices"])
def test_wiring_lists_what_the_placed_arrays_hold(name: str, request: pytest.FixtureRequest) -> None:
    program: Program = request.getfixturevalue(name)
    emulator = Emulator.ideal(program)
    devices: Devices = emulator.machine.devices
    arrays = int(program.placement.tiles.array.max()) + 1
    levels = np.stack([devices.levels(number) for number in range(arrays)]).astype(np.int16)
    pairs = program.cell_map.pairs()
    np.testing.assert_array_equal(levels.reshape(-1)[pairs.plus] - levels.reshape(-1)[pairs.minus], pairs.digit)
    assert len(np.unique(np.concatenate([pairs.plus, pairs.minus]))) == 2 * len(pairs.plus)
    copies = sum(
        layer.geometry.weights * replica.unrolling.window_outputs * layer.slices
        for layer in program.layers
        for replica in layer.replicas
    )
    assert len(pairs.plus) == copies


def test_transfer_leaves_the_programming_error(program: Program) -> None:
    chip, writer = transfer(program, seed=3)
    assert chip.chip is not None
    pairs, cell = program.cell_map.pairs(), program.target.cell
    nominal = cell.g_min_us + np.maximum(pairs.digit, 0) * cell.level_step_us
    error = chip.chip.conductances_us.reshape(-1)[pairs.plus] - nominal
    error = error[np.abs(error) < 8 * program.target.programming.sigma_us]  # without the stuck cells
    # 6 standard errors: a false alarm in 10^8 runs, and the seed is fixed anyway.
    spread = program.target.programming.sigma_us
    assert abs(error.mean()) < 6 * spread / np.sqrt(len(error))
    assert abs(error.std() / spread - 1) < 6 / np.sqrt(2 * len(error))
    report = writer.take_report()
    assert report.writes == 2 * len(pairs.plus)
    assert writer.take_report() == WriteReport()


def test_transfer_counts_the_pulses_of_each_cell(program: Program) -> None:
    """Counted again from the levels, on devices without errors: a cell that adds or subtracts starts at g_min."""
    program = replace(program, target=target_without_errors())
    _, writer = transfer(program, seed=3)
    pairs, spec, cell = program.cell_map.pairs(), program.target.write_verify, program.target.cell
    assert spec is not None
    by_level = [
        next(n for n in range(500) if level * cell.level_step_us - n * spec.set_step_us <= spec.margin_us)
        for level in range(cell.levels)
    ]
    assert by_level == [0, 4, 9, 13, 18, 22, 27, 31]
    levels = np.abs(pairs.digit)
    expected = np.array(by_level)[levels]
    report = writer.take_report()
    assert report.pulses == expected.sum()
    held = np.where(pairs.digit > 0, pairs.plus, pairs.minus)
    assert np.array_equal(writer.cell_pulses.reshape(-1)[held], expected)
    assert writer.cell_pulses.sum() == report.pulses
    energy = sum(
        spec.set_voltage_v**2 * (cell.g_min_us + k * spec.set_step_us) * 1e-6 * spec.pulse_ns * 1e-9
        for n in expected.tolist()
        for k in range(n)
    )
    assert report.pulse_energy_j == pytest.approx(energy)
    reads = report.writes + report.pulses
    assert report.time_s(spec, 1) == pytest.approx((report.pulses * 50 + reads * 50) * 1e-9)
    assert report.time_s(spec, 4) == pytest.approx(report.time_s(spec, 1) / 4)
    energy_spec = program.target.energy
    assert energy_spec is not None
    assert report.energy_j(program.target) == pytest.approx(energy + reads * energy_spec.phase_pj(1, 1) * 1e-12)


def test_a_target_without_pulses_prices_no_write(program: Program) -> None:
    target = program.target.model_copy(update={"write_verify": None})
    chip, writer = transfer(replace(program, target=target), seed=3)
    priced, _ = transfer(program, seed=3)
    assert chip.chip is not None
    assert priced.chip is not None
    np.testing.assert_array_equal(chip.chip.conductances_us, priced.chip.conductances_us)
    report = writer.take_report()
    assert report.writes > 0
    assert (report.pulses, report.pulse_energy_j, writer.cell_pulses.max()) == (0, 0.0, 0)
    assert report.energy_j(target.model_copy(update={"energy": None})) is None


def test_transfer_is_decided_by_the_seed(program: Program) -> None:
    first, again, other = (transfer(program, seed)[0] for seed in (1, 1, 2))
    assert encode_program(first) == encode_program(again)
    assert encode_program(first) != encode_program(other)


def test_transfer_without_errors_is_ideal(perfect: Program, test_digits: Dataset) -> None:
    chip, _ = transfer(perfect, seed=0)
    ideal = Emulator.ideal(perfect).run(test_digits.inputs)
    outputs = Emulator(chip).run(test_digits.inputs)
    np.testing.assert_array_equal(outputs["logits"], ideal["logits"])


def test_lower_slice_absorbs_the_error_of_the_upper(two_slices: Program) -> None:
    pairs = two_slices.cell_map.pairs()
    base = two_slices.layers[0].base
    spread = []
    for correct in (False, True):
        _, writer = transfer(two_slices, seed=5, correct_slices=correct)
        held = writer.measure_pairs(pairs.plus, pairs.minus)
        error = held - pairs.digit
        whole = np.zeros(len(pairs.plus))
        upper = np.flatnonzero(pairs.slice == 1)
        lower = np.searchsorted(pairs.plus, pairs.plus[upper] - 2, sorter=np.argsort(pairs.plus))
        lower = np.argsort(pairs.plus)[lower]
        whole = error[lower] + base * error[upper]
        spread.append(np.median(np.abs(whole)))
    assert spread[1] < 0.4 * spread[0]


def test_recalibration_keeps_a_perfect_chip(perfect: Program, test_digits: Dataset) -> None:
    chip, _ = transfer(perfect, seed=0)
    fitted = recalibrate(chip, test_digits.inputs)
    assert fitted.calibration is not None
    for corrections in fitted.calibration.layers:
        np.testing.assert_allclose(corrections.gain, 1, rtol=1e-5)
        np.testing.assert_allclose(corrections.offset, 0, atol=1e-4)


def test_recalibration_undoes_a_wrong_scale(perfect: Program, test_digits: Dataset) -> None:
    """A chip whose first layer reads 20 % high and shifted gets its outputs back."""
    chip, _ = transfer(perfect, seed=0)
    ideal = Emulator.ideal(perfect).run(test_digits.inputs)
    assert chip.chip is not None
    cells = chip.chip.conductances_us.copy()
    # Levels above g_min grow by a tenth everywhere: every weight does, and so every channel's scale.
    cells = 2.0 + (cells - 2.0) * np.float32(1.1)
    wrong = replace(chip, chip=replace(chip.chip, conductances_us=cells))
    fitted = recalibrate(wrong, test_digits.inputs)
    error = [
        np.abs(Emulator(p, effects=Effects(adc=False)).run(test_digits.inputs)["logits"] - ideal["logits"]).mean()
        for p in (wrong, fitted)
    ]
    assert error[1] < 0.1 * error[0]


def test_tuning_recovers_accuracy(program: Program, digits: Dataset, test_digits: Dataset) -> None:
    assert test_digits.labels is not None
    gains = []
    for seed in range(3):
        before, _ = transfer(program, seed)
        result = tune(program, digits.inputs, digits.labels, TuningPlan(seed=seed, options=TuningOptions(epochs=4)))
        scores = [
            score(Emulator(p, seed).run(test_digits.inputs), test_digits.labels) for p in (before, result.program)
        ]
        gains.append(scores[1] - scores[0])
        assert result.tuning == sum((record.report for record in result.records), WriteReport())
        assert [step.step for step in result.steps][-1] == "tune in situ"
    assert np.mean(gains) > 0.01


def test_threshold_decides_what_is_rewritten(program: Program, digits: Dataset) -> None:
    writes = []
    for threshold in (0.02, 0.2, 1e9):
        options = TuningOptions(epochs=2, threshold_us=threshold)
        result = tune(program, digits.inputs, digits.labels, TuningPlan(options=options, undo=False))
        writes.append(result.tuning.writes)
    assert writes[0] > writes[1] >= writes[2] == 0


def test_writing_the_worst_again_reduces_the_error_of_whole_weights(two_slices: Program) -> None:
    base = float(two_slices.layers[0].base)
    assert all(layer.base == base for layer in two_slices.layers)
    pairs = two_slices.cell_map.pairs()
    upper, order = np.flatnonzero(pairs.slice == 1), np.argsort(pairs.plus)
    lower = order[np.searchsorted(pairs.plus, pairs.plus[upper] - 2, sorter=order)]

    def errors(writer: Writer) -> NDArray[np.float64]:
        held = (writer.measure_pairs(pairs.plus, pairs.minus) - pairs.digit) * base**pairs.slice
        whole: NDArray[np.float64] = held[lower] + held[upper]
        return whole

    sizes, wrong = [], []
    for seed in range(5):
        chip, writer = transfer(two_slices, seed=seed)
        before, writes = errors(writer), writer.report.writes
        again = write_worst_again(chip, writer, 0.5, None)
        after = errors(writer)
        sizes.append([np.sqrt((each**2).mean()) for each in (before, after)])
        wrong.append([(np.abs(each) > 2).sum() for each in (before, after)])
        assert 0.5 * len(before) <= writer.report.writes - writes < 0.6 * len(before)
        assert again.chip is not None
        np.testing.assert_array_equal(again.chip.conductances_us, writer.cells_us)
    # Single stuck cells decide the size of a chip's error, and differ from chip to chip.
    size_before, size_after = np.median(sizes, axis=0)
    assert size_after < 0.55 * size_before
    # What stays wrong by levels: stuck cells whose partner has no room to make up for them.
    wrong_before, wrong_after = np.sum(wrong, axis=0)
    assert wrong_after < 0.3 * wrong_before


def test_errors_that_are_left_lie_below_a_threshold(program: Program) -> None:
    """Correcting the worst each time leaves none above a threshold, which the number of corrections decides.

    A weight starts with the error of two writes, and each correction leaves that of one: so the threshold c is where
    P(error of two > c) / P(error of one <= c) is the number of corrections per weight; stuck cells are few.
    """
    spec, pairs = program.target, program.cell_map.pairs()
    sigma = spec.programming.sigma_us / spec.cell.level_step_us

    def corrections(threshold: float) -> float:
        one, two = (math.erf(threshold / (math.sqrt(2) * size)) for size in (sigma, math.sqrt(2) * sigma))
        return (1 - two) / one

    for share, threshold in ((0.5, 1.2), (1.0, 0.8), (2.0, 0.47)):
        assert corrections(threshold * sigma) == pytest.approx(share, rel=0.05)
        chip, writer = transfer(program, seed=1)
        before = writer.report.writes
        write_worst_again(chip, writer, share, None)
        assert writer.report.writes - before == round(share * len(pairs.plus))
        left = np.abs(writer.measure_pairs(pairs.plus, pairs.minus) - pairs.digit)
        # The last rounds take a hundredth of the weights each, whatever their errors; the threshold is theirs, too.
        assert np.quantile(left, 0.97) < 1.15 * threshold * sigma


def test_stuck_cells_do_not_take_all_corrections(program: Program) -> None:
    faulty = replace(program, target=program.target.with_(faults__stuck_low_share=0.05))
    pairs = program.cell_map.pairs()
    chip, writer = transfer(faulty, seed=0)
    write_worst_again(chip, writer, 1.0, None)
    left = np.abs(writer.measure_pairs(pairs.plus, pairs.minus) - pairs.digit)
    sigma = faulty.target.programming.sigma_us / faulty.target.cell.level_step_us
    assert np.quantile(left, 0.85) < 1.2 * sigma


def test_effort_goes_where_the_output_needs_it(program: Program, digits: Dataset) -> None:
    """With the same number of writes, ranking by effect moves the scores less far from the ideal ones than by error."""
    some = {name: array[:100] for name, array in digits.inputs.items()}
    scored = {name: array[:300] for name, array in digits.inputs.items()}
    ideal = probabilities(Emulator.ideal(program).run(scored)["logits"])
    distance: dict[str, list[float]] = {"effect": [], "error": [], "none": []}
    for seed in range(3):
        for ranking, found in distance.items():
            chip, writer = transfer(program, seed)
            if ranking != "none":
                weighed = sensitivities(chip, writer, some, seed) if ranking == "effect" else None
                chip = write_worst_again(chip, writer, 0.2, weighed)
            shares = probabilities(Emulator(chip, seed).run(scored, first_image=5000)["logits"])
            found.append(float((ideal * np.log(ideal / shares)).sum(axis=1).mean()))
    assert np.mean(distance["effect"]) < np.mean(distance["error"]) < np.mean(distance["none"])


def test_several_layers_are_tuned(program: Program, digits: Dataset) -> None:
    some = digits.head(200)
    first, last = program.layers[0].name, program.layers[-1].name
    for layers, wanted in (((first, last), {0, 2}), (("all",), {0, 1, 2}), (("last",), {2})):
        options = TuningOptions(epochs=1, threshold_us=0.02, layers=layers, digital_scales=True)
        plan = TuningPlan(recalibration_images=0, options=options, undo=False)
        before, _ = transfer(program, plan.seed)
        after = tune(program, some.inputs, some.labels, plan).program
        assert before.chip is not None
        assert after.chip is not None
        pairs = program.cell_map.pairs()
        moved = (before.chip.conductances_us != after.chip.conductances_us).reshape(-1)
        assert set(pairs.layer[moved[pairs.plus] | moved[pairs.minus]]) == wanted
        for number, (old, new) in enumerate(zip(before.layers, after.layers, strict=True)):
            assert np.array_equal(old.scale, new.scale) == (number not in wanted)
            assert np.array_equal(old.bias, new.bias) == (number not in wanted)


def test_tuning_all_layers_lowers_the_loss(program: Program, digits: Dataset) -> None:
    options = TuningOptions(epochs=4, layers=("all",), digital_scales=True, learning_rate=0.02)
    records = tune(program, digits.inputs, digits.labels, TuningPlan(0, options=options, seed=2)).records
    assert records[-1].loss < 0.8 * records[0].loss


def test_parallel_copies_share_one_master_weight(perfect: Program, digits: Dataset) -> None:
    """Copies have their own errors, but get the same changes."""
    layer = perfect.layers[0]
    assert len(layer.replicas) > 1 or layer.replicas[0].unrolling.window_outputs > 1
    options = TuningOptions(epochs=1, threshold_us=0.02, layers=(layer.name,))
    some = digits.head(200)
    tuned = tune(perfect, some.inputs, some.labels, TuningPlan(0, options=options, undo=False)).program
    assert tuned.chip is not None
    pairs, cells = perfect.cell_map.pairs(), tuned.chip.conductances_us.reshape(-1)
    held = cells[pairs.plus] - cells[pairs.minus]
    here = pairs.layer == 0
    for weight in np.unique(pairs.weight[here]):
        copies = held[here & (pairs.weight == weight)]
        np.testing.assert_allclose(copies, copies[0], atol=1e-5)


def test_early_stop(program: Program, digits: Dataset) -> None:
    some = digits.head(100)
    # Nothing is rewritten and nearly nothing learnt: the loss is read noise around one value.
    options = TuningOptions(epochs=30, learning_rate=1e-9, patience=2)
    records = tune(program, some.inputs, some.labels, TuningPlan(0, options=options)).records
    losses = [record.loss for record in records]
    assert 3 <= len(losses) < 30
    assert min(losses[-2:]) >= min(losses[:-2])
    assert all(min(losses[end - 2 : end]) < min(losses[: end - 2]) for end in range(3, len(losses)))


def test_a_chip_keeps_its_faults_and_drift_whatever_noise_it_is_read_with(
    program: Program, test_digits: Dataset
) -> None:
    """So `run --time` reads the chip that `tune` wrote and `refresh` fits, with any --seed."""
    values = load_target("yao2020").model_dump()
    values["drift"] = {"exponent_mean": 0.1, "exponent_sigma": 0.1, "reference_s": 1.0}
    values["faults"] = {"stuck_low_share": 0.01, "stuck_high_share": 0.01}
    chip, _ = transfer(replace(program, target=Target.model_validate(values)), seed=3)
    assert chip.chip is not None
    images = test_digits.head(20).inputs

    def aged(program: Program, seed: int, *, noise: bool = False) -> NDArray[np.float32]:
        return Emulator(program, seed, effects=Effects(read_noise=noise), time_s=7200.0).run(images)["logits"]

    np.testing.assert_array_equal(aged(chip, 0), aged(chip, 3))
    assert (aged(chip, 0, noise=True) != aged(chip, 3, noise=True)).any()
    other = replace(chip, chip=replace(chip.chip, seed=4))
    assert (aged(other, 3) != aged(chip, 3)).any()


def test_refresh_wins_back_what_drift_took(test_digits: Dataset, digits: Dataset) -> None:
    values = load_target("yao2020").model_dump()
    values["drift"] = {"exponent_mean": 0.1, "exponent_sigma": 0.01, "reference_s": 1.0}
    program = memcompile.compile(MODEL, Target.model_validate(values), max_loss=None)
    some = digits.head(200)
    tuned = tune(program, some.inputs, some.labels, TuningPlan(200, options=TuningOptions(epochs=0), seed=3)).program
    refreshed, steps = refresh(tuned, some.inputs, 7200.0)
    assert [step.step for step in steps] == ["refresh"]
    assert steps[-1].kept
    assert tuned.chip is not None
    assert refreshed.chip is not None
    np.testing.assert_array_equal(refreshed.chip.conductances_us, tuned.chip.conductances_us)
    fresh = Emulator(tuned, 3).run(test_digits.inputs)["logits"]
    error = [
        np.abs(Emulator(chip, 3, time_s=7200.0).run(test_digits.inputs, first_image=900)["logits"] - fresh).mean()
        for chip in (tuned, refreshed)
    ]
    assert error[1] < 0.4 * error[0]


@pytest.mark.parametrize("minus_first", [False, True])
def test_corrections_may_all_go_to_the_same_side(program: Program, *, minus_first: bool) -> None:
    """Then no cell of the other side is written, which is no error."""
    _, writer = transfer(replace(program, target=target_without_errors()), seed=0)
    pairs = program.cell_map.pairs()
    plus, minus = pairs.plus[:5], pairs.minus[:5]
    writer.cells_us.reshape(-1)[plus] = writer.cells_us.reshape(-1)[minus] = 10.0
    writer.take_report()
    writer.correct_pairs(plus, minus, np.linspace(-2, 2, 5), minus_first=minus_first)
    np.testing.assert_allclose(writer.measure_pairs(plus, minus), np.linspace(-2, 2, 5), atol=1e-5)
    assert writer.take_report().writes == 5
    assert (writer.cells_us.reshape(-1)[plus if minus_first else minus] == 10.0).all()
    writer.correct_pairs(plus[:0], minus[:0], np.zeros(0), minus_first=minus_first)
    assert writer.take_report() == WriteReport()


class KilledError(Exception):
    """Stands for a kill between two epochs."""


LAST_LAYER = TuningPlan(recalibration_images=50, options=TuningOptions(epochs=3))
EVERYTHING = TuningPlan(
    recalibration_images=50,
    write_again_share=0.2,
    options=TuningOptions(epochs=3, layers=("all",), digital_scales=True, patience=3, threshold_us=0.2),
)


@pytest.mark.parametrize(
    ("fatal", "plan"),
    [
        ("recalibrate", LAST_LAYER),
        ("measuring", LAST_LAYER),
        ("tuning", LAST_LAYER),
        ("weighing errors", EVERYTHING),
        ("tuning", EVERYTHING),
    ],
)
def test_killed_run_resumes_to_the_same_bytes(
    program: Program, digits: Dataset, tmp_path: Path, fatal: str, plan: TuningPlan
) -> None:
    some = digits.head(300)
    whole = tune(program, some.inputs, some.labels, plan)

    @contextmanager
    def deadly(description: str, total: int) -> Iterator[Advance]:
        seen = 0

        def advance(done: int) -> None:
            nonlocal seen
            seen += done
            if description == fatal and seen > total // 2:
                raise KilledError

        yield advance

    checkpoint = tmp_path / "run.checkpoint"
    with pytest.raises(KilledError):
        tune(program, some.inputs, some.labels, plan, checkpoint=checkpoint, progress=deadly)
    assert checkpoint.exists() == (fatal in ("measuring", "tuning"))
    resumed = tune(program, some.inputs, some.labels, plan, checkpoint=checkpoint)
    assert encode_program(resumed.program) == encode_program(whole.program)
    assert resumed.records == whole.records
    assert (resumed.transfer, resumed.tuning) == (whole.transfer, whole.tuning)
    assert resumed.transfer_most_pulses == whole.transfer_most_pulses
    assert resumed.most_pulses == whole.most_pulses > 0
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_run_never_blocks(program: Program, digits: Dataset, tmp_path: Path) -> None:
    checkpoint, stale = tmp_path / "run.checkpoint", tmp_path / "run.checkpoint.stale"
    some = digits.head(100)
    said: list[str] = []

    @contextmanager
    def deadly(description: str, total: int) -> Iterator[Advance]:
        if description == "tuning":
            raise KilledError
        yield lambda done: None

    plan = TuningPlan(recalibration_images=0, options=TuningOptions(epochs=1))
    want = encode_program(tune(program, some.inputs, some.labels, plan).program)
    with pytest.raises(KilledError):
        tune(program, some.inputs, some.labels, replace(plan, seed=1), checkpoint=checkpoint, progress=deadly)
    another = checkpoint.read_bytes()
    for damaged, why in ((another, "another program, other data or other options"), (b"no zip", "cannot be read")):
        checkpoint.write_bytes(damaged)
        result = tune(program, some.inputs, some.labels, plan, checkpoint=checkpoint, notify=said.append)
        assert encode_program(result.program) == want
        assert why in said[-1]
        assert f"it is now {stale}" in said[-1]
        assert (checkpoint.exists(), stale.read_bytes()) == (False, damaged)


def test_a_stale_checkpoint_that_cannot_be_moved_is_one_message(
    program: Program, digits: Dataset, tmp_path: Path
) -> None:
    checkpoint, some = tmp_path / "run.checkpoint", digits.head(20)
    checkpoint.write_bytes(b"no zip")
    (tmp_path / "run.checkpoint.stale").mkdir()
    with pytest.raises(OutputError, match=r"cannot be moved to .*: Is a directory; remove it to start again"):
        tune(program, some.inputs, some.labels, TuningPlan(recalibration_images=0), checkpoint=checkpoint)


def test_a_failed_run_leaves_no_checkpoint(program: Program, digits: Dataset, tmp_path: Path) -> None:
    checkpoint, some = tmp_path / "run.checkpoint", digits.head(20)
    seen: list[str] = []

    @contextmanager
    def failing(description: str, total: int) -> Iterator[Advance]:
        if description == "tuning":
            seen.extend(path.name for path in tmp_path.iterdir())
            raise DataError("as if a value were not a number")
        yield lambda done: None

    with pytest.raises(DataError, match="as if"):
        tune(program, some.inputs, some.labels, TuningPlan(0), checkpoint=checkpoint, progress=failing)
    assert seen == ["run.checkpoint"]
    assert not list(tmp_path.iterdir())


def test_refusals(program: Program, digits: Dataset) -> None:
    assert digits.labels is not None
    with pytest.raises(DataError, match="needs labels"):
        tune(program, digits.inputs, None)
    with pytest.raises(DataError, match="labels run from 10 to 19"):
        tune(program, digits.inputs, digits.labels + 10)
    chip, _ = transfer(program, 0)
    with pytest.raises(UsageError, match="already transferred"):
        tune(chip, digits.inputs, digits.labels)
    with pytest.raises(UsageError, match="no crossbar layer is called 'C9'; there are C1, C3, FC"):
        tune(program, digits.inputs, digits.labels, TuningPlan(options=TuningOptions(layers=("C9",))))
    with pytest.raises(UsageError, match="no layer to tune is named"):
        tune(program, digits.inputs, digits.labels, TuningPlan(options=TuningOptions(layers=())))
    with pytest.raises(UsageError, match="not transferred to a chip, so nothing has aged"):
        refresh(program, digits.inputs, 60.0)
    with pytest.raises(UsageError, match="nothing to refresh"):
        refresh(replace(chip, stages=()), digits.inputs, 60.0)
    empty = replace(program, stages=())
    with pytest.raises(UsageError, match="no crossbar layer"):
        tune(empty, digits.inputs, digits.labels)


def test_command_line(
    compiled_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(compiled_file, "net.mcp")
    arguments = ["tune", "net.mcp", "--images", "300", "--epochs", "2", "--score-images", "200", "--json", "-"]
    assert main(arguments) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts["accuracy"]) == {"ideal", "transferred", "tuned"}
    assert facts["training_images"] == 300
    assert [step["images"] for step in facts["steps"]] == [400] * len(facts["steps"])
    assert {"recalibrate", "tune in situ"} <= {step["step"] for step in facts["steps"]}
    assert len(facts["epochs"]) == 2
    took, retuned = facts["transfer"], facts["tuning"]
    assert took["energy_j"] > 0 < took["time_s"]
    assert retuned["cell_writes"] == sum(epoch["writes"] for epoch in facts["epochs"])
    assert retuned["pulses"] == sum(epoch["pulses"] for epoch in facts["epochs"])
    assert took["most_pulses_of_a_cell"] <= retuned["most_pulses_of_a_cell"]
    assert retuned["endurance_share"] == retuned["most_pulses_of_a_cell"] / 1e11
    tuned = memcompile.load(tmp_path / "net.tuned.mcp")
    assert tuned.chip is not None
    assert main(["run", "net.tuned.mcp", "--images", "50"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.mcp", "net.tuned.mcp"]


def test_lines_leave_out_what_the_target_does_not_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (resources.files("memcompile.hardware") / "targets" / "yao2020.toml").read_text(encoding="utf-8")
    pulses = text.partition("[write_verify]")[2].partition("[energy]")[0]
    for name, kept in {
        "bare": text.replace(f"[write_verify]{pulses}", ""),
        "everlasting": re.sub(r"(?m)^endurance_pulses = .*$", "", text),
    }.items():
        Path(f"{name}.toml").write_text(kept, encoding="utf-8")
        assert main([str(MODEL), "--target", f"{name}.toml", "-o", "net.mcp", "--no-evaluation", "--quiet"]) == 0
        capsys.readouterr()
        assert main(["tune", "net.mcp", "--images", "20", "--epochs", "0", "--score-images", "20"]) == 0
        out = capsys.readouterr().out
        assert "endurance" not in out
        assert ("the target gives no pulses" in out) == (name == "bare")
        assert (" uJ" in out) == (name == "everlasting")


def test_command_line_with_everything(
    compiled_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(compiled_file, "net.mcp")
    sizes = ["--images", "100", "--score-images", "100", "--json", "-"]
    options = ["--layers", "C3,last", "--digital-scales", "--patience", "2", "--write-again", "0.1"]
    assert main(["tune", "net.mcp", "--epochs", "1", "--write-again-by", "effect", *options, *sizes]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["transfer"]["cell_writes"] > 5500
    assert main(["refresh", "net.tuned.mcp", "--time", "2h", *sizes]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["time_s"] == 7200
    assert set(facts["accuracy"]) == {"fresh", "aged", "refreshed"}
    assert memcompile.load(tmp_path / "net.tuned.refreshed.mcp").chip is not None
    assert main(["refresh", "net.tuned.mcp", "--time", "2h", *sizes[:-2]]) == 0
    assert "7,200 s later" in capsys.readouterr().out
    assert main(["tune", "net.mcp", "--layers", "C9", *sizes]) == 2
    assert "no crossbar layer is called 'C9'" in capsys.readouterr().err


def test_learning_curve(compiled_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    shutil.copy(compiled_file, "net.mcp")
    arguments = ["tune", "net.mcp", "--images", "100", "--epochs", "1", "--score-images", "50", "--quiet"]
    assert main([*arguments, "--curve", "curve.png"]) == 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")

"""Steps are judged on images that they were not fitted to, and undone where these do not say that they helped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from factories import make_target
from four_patterns import FourPatterns
from hypothesis import given, settings
from hypothesis import strategies as st

from memcompile.accuracy.held_back import HeldBackImages, Outcome, agrees, better, harms, record, split
from memcompile.program.program import Program
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.runtime.training.hybrid_training import TuningOptions
from memcompile.runtime.training.recalibrate import recalibrate
from memcompile.runtime.training.transfer import transfer
from memcompile.runtime.training.writer import Writer
from memcompile.tuning import TuningPlan, refresh, tune

PATTERNS = FourPatterns.drawn(83, 360)
IMAGES, LABELS = PATTERNS.images, PATTERNS.labels


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """On coarse converters."""
    target = make_target(adc={"bits": 5}, programming={"sigma_us": 1.0})
    return PATTERNS.compiled(tmp_path_factory.mktemp("held_back"), target, labelled=False).program


def outcome(right: list[int], error: list[float]) -> Outcome:
    return Outcome(np.array(right, bool), np.array(error, float))


def test_classes_decide_where_enough_change_sides() -> None:
    before = outcome([1] * 10 + [0] * 10, [1.0] * 20)
    assert better(before, outcome([1] * 10 + [1] * 3 + [0] * 7, [2.0] * 20))  # 3 >= 1.5 sqrt(3)
    assert not better(before, outcome([0] * 3 + [1] * 7 + [0] * 10, [0.0] * 20))
    assert not better(before, outcome([0] * 4 + [1] * 6 + [1] * 4 + [0] * 6, [2.0] * 20))


def test_errors_decide_where_classes_do_not() -> None:
    before, right = outcome([1] * 20, list(np.linspace(1, 2, 20))), [1] * 20
    assert better(before, outcome(right, list(np.linspace(0.9, 1.8, 20))))
    assert not better(before, before)
    assert not better(before, outcome(right, list(np.linspace(1.1, 2.2, 20))))
    assert not better(before, outcome(right, [*np.linspace(1, 2, 20)[:-1], 0.0]))  # one image is no evidence
    assert not better(before, outcome([1] * 19 + [0], [0.0] * 20))  # the error fell, but a class was lost
    assert not better(outcome([0], [1.0]), outcome([0], [0.0]))
    assert not better(outcome([], []), outcome([], []))


def test_images_agree_with_a_correction_that_lowers_their_error_unless_classes_are_lost() -> None:
    before = outcome([1] * 10 + [0] * 10, [1.0] * 20)
    assert agrees(before, outcome([1] * 10 + [0] * 10, [0.99] * 20))
    assert agrees(before, outcome([1] * 9 + [0] * 11, [0.9] * 20))
    assert not agrees(before, outcome([1] * 10 + [0] * 10, [1.01] * 20))
    assert not agrees(before, outcome([1] * 6 + [0] * 14, [0.1] * 20))  # 4 >= 1.5 sqrt(4)
    assert not agrees(before, before)
    assert not agrees(outcome([], []), outcome([], []))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(0, 1000))
def test_two_outcomes_are_never_better_than_each_other(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = (Outcome(rng.random(count) < 0.7, rng.random(count)) for _ in range(2))
    assert not (better(one, other) and better(other, one))
    kept = record("step", one, other)
    assert (kept.after - kept.before) * count == pytest.approx(kept.gained - kept.lost)


@pytest.mark.parametrize(
    ("count", "used", "fitted", "held"), [(100, 100, 80, 20), (100, 70, 70, 30), (9000, 50, 50, 400), (1, 1, 1, 0)]
)
def test_what_is_held_back_follows_what_is_fitted(count: int, used: int, fitted: int, held: int) -> None:
    numbers = np.arange(count)
    (inputs, labels), (others, other_labels) = split({"x": numbers}, numbers, used)
    assert labels is not None
    assert other_labels is not None
    assert np.array_equal(inputs["x"], numbers[:fitted])
    assert np.array_equal(others["x"], numbers[fitted : fitted + held])
    assert np.array_equal(np.concatenate([labels, other_labels]), numbers[: fitted + held])


def test_whole_batches_are_held_back() -> None:
    numbers = np.arange(64)
    fitted, held = split({"x": numbers}, None, 64, batch=8)
    assert [len(part[0]["x"]) for part in (fitted, held)] == [56, 8]


def test_labels_that_no_output_scores_are_not_used(program: Program) -> None:
    ideal = Emulator.ideal(program)
    seen = ideal.run({"x": IMAGES[:50]})["y"].argmax(axis=1)
    for labels in (None, LABELS[:50] + 9, LABELS[:50, None]):
        held = HeldBackImages(ideal, {"x": IMAGES[:50]}, labels)
        assert np.array_equal(held.classes, seen)
    assert np.array_equal(HeldBackImages(ideal, {"x": IMAGES[:50]}, LABELS[:50]).classes, LABELS[:50])


def test_a_noisy_channel_is_not_shrunk(program: Program) -> None:
    """Noise of a coarse converter, and a gain of 1: a least-squares fit to what is measured would give 0.6 or so."""
    chip, _ = transfer(program, 0)
    images = {"x": IMAGES[:200]}
    fitted = recalibrate(Emulator(chip), images).program
    values = [Emulator(p, 0).run(images, also=["h"])["h"].std() for p in (chip, fitted)]
    ideal = Emulator.ideal(program).run(images, also=["h"])["h"].std()
    assert ideal < values[1] < 1.1 * values[0]


def test_a_step_that_does_harm_is_undone(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digital steps leave the chip as it was, bit for bit; what tuned cells held is written back."""

    def harm(chip: Emulator, inputs: object, **options: object) -> Emulator:
        layers, stages = chip.program.layers, chip.program.stages
        harmed = [replace(s, bias=-9 * s.bias - 5, scale=-s.scale) if s in layers else s for s in stages]
        return Emulator(replace(chip.program, stages=tuple(harmed)))

    monkeypatch.setattr("memcompile.accuracy.chip_calibration.recalibrate", harm)
    before, _ = transfer(program, 0)
    result = tune(program, {"x": IMAGES}, LABELS, TuningPlan(50, options=TuningOptions(epochs=0)))
    assert [(step.step, step.kept) for step in result.steps] == [("recalibrate", False)]
    assert all(step.lost > step.gained and step.before == step.after for step in result.steps)
    assert before.chip is not None
    assert result.program.chip is not None
    assert np.array_equal(result.program.chip.conductances_us, before.chip.conductances_us)
    for one, other in zip(before.layers, result.program.layers, strict=True):
        assert np.array_equal(one.scale, other.scale)
        assert np.array_equal(one.bias, other.bias)
    aged, tried = refresh(before, {"x": IMAGES}, 60.0)
    assert aged is before
    assert not any(step.kept for step in tried)


def test_corrections_of_measured_errors_are_undone_for_classes_alone() -> None:
    """A chip that is nearer to its weights may be less sure of its answers: that is no harm."""
    right, none = np.arange(100) < 90, np.zeros(100, np.bool_)
    low, high = np.full(100, 0.1), np.full(100, 0.1) + np.arange(100) / 1000
    assert not harms(Outcome(right, low), Outcome(right, high))
    assert harms(Outcome(right, low), Outcome(np.arange(100) < 80, low))
    assert not harms(Outcome(right, low), Outcome(np.arange(100) < 89, low))
    assert not harms(Outcome(right, low), Outcome(np.ones(100, np.bool_), high))
    assert harms(Outcome(none, low), Outcome(none, high)), "outputs are no classes"
    assert not harms(Outcome(none, high), Outcome(none, low))


def test_writing_again_that_does_harm_is_written_back(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def harm(chip: Program, writer: Writer, *options: object) -> Program:
        pairs = chip.cell_map.pairs()
        writer.write_pairs(pairs.plus, pairs.minus, -pairs.digit.astype(np.float64))
        return replace(chip, chip=writer.state())

    monkeypatch.setattr("memcompile.tuning.write_worst_again", harm)
    plan = TuningPlan(0, write_again_share=1.0, write_again_by="error", options=TuningOptions(epochs=0))
    result = tune(program, {"x": IMAGES}, LABELS, plan)
    (step,) = result.steps
    assert (step.step, step.kept) == ("write again", False)
    assert step.lost > step.gained
    assert step.after > step.before - 0.05
    assert result.undoing.writes > 0


def test_tuning_that_does_harm_is_written_back(program: Program) -> None:
    harmful = TuningOptions(epochs=2, learning_rate=50.0, threshold_us=0.1)
    before, _ = transfer(program, 0)
    kept = tune(program, {"x": IMAGES}, LABELS, TuningPlan(0, options=harmful, undo=False))
    undone = tune(program, {"x": IMAGES}, LABELS, TuningPlan(0, options=harmful))
    assert (kept.steps[-1].kept, undone.steps[-1].kept) == (True, False)
    assert kept.undoing.writes == 0 < undone.undoing.writes
    held = split({"x": IMAGES}, LABELS, 360)[1]
    scores = [
        HeldBackImages(Emulator.ideal(program), *held).outcome(Emulator(chip)).share
        for chip in (before, kept.program, undone.program)
    ]
    assert scores[1] < scores[0] - 0.1
    assert scores[2] == undone.steps[-1].after > scores[0] - 0.05
    assert before.chip is not None
    assert undone.program.chip is not None
    missed = np.abs(undone.program.chip.conductances_us - before.chip.conductances_us)
    assert (
        missed < 1.0
    ).mean() > 0.99  # half a standard deviation, but for cells that eight writes did not bring there
    for one, other in zip(before.layers, undone.program.layers, strict=True):
        assert np.array_equal(one.bias, other.bias)


def test_cells_come_back_as_closely_as_writes_allow(program: Program) -> None:
    _, writer = transfer(program, 0)
    cells = writer.cells_us.copy()
    changed = np.arange(0, cells.size, 7)
    writer.write(changed, np.full(len(changed), 15.0))
    writer.take_report()
    writer.bring_back(cells)
    missed = np.abs(writer.cells_us - cells).reshape(-1)
    assert (missed[np.setdiff1d(np.arange(cells.size), changed)] == 0).all()
    # No write aims below the window, where half the blank cells are.
    assert (missed[changed] <= 0.5 + np.maximum(2.0 - cells.reshape(-1)[changed], 0)).mean() > 0.9
    assert len(changed) * 0.8 < writer.take_report().writes < len(changed) * 8
    same = writer.cells_us.copy()
    writer.bring_back(same)
    assert writer.take_report().writes == 0


def test_noise_without_programming_error_leaves_nothing_to_fit(program: Program) -> None:
    """Offsets of a perfect chip stay where they are."""
    chip, _ = transfer(replace(program, target=make_target(programming={"sigma_us": 0.0})), 0)
    fitted = recalibrate(Emulator(chip), {"x": IMAGES[:100]}, scales=False).program
    off = Effects.none()
    got, want = (Emulator(p, effects=off).run({"x": IMAGES})["y"] for p in (fitted, chip))
    np.testing.assert_allclose(got, want, atol=0.05 * np.abs(want).max())
    assert fitted.calibration is not None
    assert all((corrections.gain == 1).all() for corrections in fitted.calibration.layers)

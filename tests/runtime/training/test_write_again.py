"""Writing the worst cells again: errors that are left, and the weights that are corrected."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from factories import target_without_errors
from numpy.typing import NDArray

from memcompile.data.loader import Dataset
from memcompile.hardware.pair_corrections import limit_sigmas
from memcompile.hardware.pulses import WriteReport
from memcompile.program.program import Program
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.hybrid_training import probabilities
from memcompile.runtime.training.transfer import transfer
from memcompile.runtime.training.write_again import sensitivities, with_blanks, write_worst_again
from memcompile.runtime.training.writer import Writer


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
    spec = program.target
    pairs = with_blanks(program, program.cell_map.pairs(), np.ones(len(program.layers), bool))
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
        assert limit_sigmas(share) == pytest.approx(threshold, rel=0.05)
        left = np.abs(writer.measure_pairs(pairs.plus, pairs.minus) - pairs.digit)
        # The last rounds take a hundredth of the weights each, whatever their errors; the threshold is theirs, too.
        assert np.quantile(left, 0.97) < 1.15 * threshold * sigma


def test_structural_zeros_are_corrected_as_weights_are(program: Program) -> None:
    blanks = program.cell_map.pairs(blanks=True)
    assert len(blanks.plus) > 500
    chip, writer = transfer(program, seed=1)
    before = writer.measure_pairs(blanks.plus, blanks.minus)
    write_worst_again(chip, writer, 1.0, None)
    after = writer.measure_pairs(blanks.plus, blanks.minus)
    assert np.square(after).mean() < 0.15 * np.square(before).mean()
    share = {"effect": {number: np.ones(layer.geometry.weights) for number, layer in enumerate(program.layers)}}
    chip, writer = transfer(program, seed=1)
    write_worst_again(chip, writer, 1.0, share["effect"])
    np.testing.assert_array_equal(writer.measure_pairs(blanks.plus, blanks.minus), after)


def test_what_the_target_says_is_done_on_transfer(program: Program) -> None:
    again = replace(program, target=program.target.with_(programming__write_again_share=1.0))
    chip, writer = transfer(program, seed=1)
    wanted = write_worst_again(chip, writer, 1.0, None)
    found, _ = transfer(again, seed=1)
    assert wanted.chip is not None
    assert found.chip is not None
    np.testing.assert_array_equal(found.chip.conductances_us, wanted.chip.conductances_us)


def test_a_stuck_cell_is_left_to_the_other_one(program: Program) -> None:
    """The minus cell would be the one to write, and does not move: the plus cell goes as far as it can."""
    stuck = replace(program, target=target_without_errors())
    _, writer = transfer(stuck, seed=0)
    pairs, cell = program.cell_map.pairs(), program.target.cell
    plus, minus, flat = pairs.plus[:1], pairs.minus[:1], writer.cells_us.reshape(-1)
    flat[plus], flat[minus] = cell.g_min_us + cell.level_step_us, cell.g_max_us
    writer._high.reshape(-1)[minus] = True
    writer.correct_pairs(plus, minus, np.array([1.0]), minus_first=True)
    assert flat[plus] == cell.g_max_us
    assert flat[minus] == cell.g_max_us


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

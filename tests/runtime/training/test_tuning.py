"""Tuning in situ: what it wins, what it writes, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from memcompile.accuracy.scoring import score
from memcompile.data.loader import Dataset
from memcompile.errors import DataError, UsageError
from memcompile.hardware.pulses import WriteReport
from memcompile.program.file import encode_program
from memcompile.program.program import Program
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.hybrid_training import TuningOptions
from memcompile.runtime.training.transfer import transfer
from memcompile.tuning import TuningPlan, refresh, tune


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


@pytest.mark.parametrize("images", [2, 9])
def test_cells_are_left_alone_where_nothing_shows_that_training_helps(
    program: Program, digits: Dataset, images: int
) -> None:
    """A fifth is held back; of none or one image training would be undone, and undoing leaves new errors."""
    some, said = digits.head(images), list[str]()
    plan = TuningPlan(recalibration_images=0, write_again_share=0.1, options=TuningOptions(epochs=3))
    result = tune(program, some.inputs, some.labels, plan, notify=said.append)
    assert "cannot show that it helps; give more" in said[-1]
    without = replace(plan, options=TuningOptions(epochs=0))
    assert encode_program(result.program) == encode_program(tune(program, some.inputs, some.labels, without).program)
    assert result.tuning == result.undoing == WriteReport(failures=result.tuning.failures)


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

"""Checkpoints of tuning: a killed run goes on to the same bytes, and none is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from memcompile.data.loader import Dataset
from memcompile.errors import DataError, OutputError
from memcompile.ir.pass_manager import Advance
from memcompile.program.file import encode_program
from memcompile.program.program import Program
from memcompile.runtime.training.hybrid_training import TuningOptions
from memcompile.tuning import TuningPlan, tune


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
        ("fitting output lines", LAST_LAYER),
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

"""Points that Optuna chooses: the same after a kill, and in the storage as others expect them."""

from __future__ import annotations

from pathlib import Path

import pytest
from explorations import GRID, Counting, KilledError, Killer, explored, results

from memcompile.errors import UsageError

optuna = pytest.importorskip("optuna")


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_trials_are_in_the_storage_with_their_values(tmp_path: Path, sampler: str) -> None:
    search = explored(tmp_path, sampler=sampler, trials=6, chips=1)
    study = optuna.load_study(study_name="memcompile", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert len(study.trials) == 6
    assert study.metric_names == ["accuracy", "energy", "area"]
    assert [item.name for item in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    rows = {tuple(item.values.values()): item for item in search.candidates.values()}
    for trial in study.trials:
        item = rows[tuple(trial.params[name.partition("=")[0]] for name in GRID)]
        assert trial.values[1] == item.facts["cost.energy_pj"]
    assert search.front


def test_killed_trials_go_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    asked = {"sampler": "tpe", "trials": 10, "chips": 1}
    explored(tmp_path / "whole", **asked)
    for after in (0, 3, 2, 4):
        with pytest.raises(KilledError):
            explored(tmp_path / "killed", executor=Killer(1, after), **asked)
    explored(tmp_path / "killed", **asked)
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


def test_points_are_not_done_twice(tmp_path: Path) -> None:
    counting = Counting()
    explored(tmp_path, varied=("adc.bits=7,8",), sampler="nsga2", trials=9, chips=1, executor=counting)
    names = [task.name for task in counting.done]
    assert len(names) == len(set(names))


def test_a_failed_point_is_a_failed_trial(tmp_path: Path) -> None:
    counting = Counting(lambda task: "no" if task.design.slices == 2 else "")
    search = explored(tmp_path, sampler="tpe", trials=8, chips=1, executor=counting)
    study = optuna.load_study(study_name="memcompile", storage=f"sqlite:///{tmp_path / 'study.db'}")
    failed = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.FAIL]
    assert failed
    assert all(trial.params["slices"] == 2 for trial in failed)
    assert any(row["status"] == "failed" for row in search.rows())


def test_another_space_is_refused(tmp_path: Path) -> None:
    explored(tmp_path, varied=("adc.bits=7,8",), sampler="tpe", trials=2, chips=0)
    with pytest.raises(UsageError, match="another space"):
        explored(tmp_path, varied=("adc.bits=6,8",), sampler="tpe", trials=2, chips=0)


def test_an_unknown_sampler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no sampler is called 'dice'"):
        explored(tmp_path, sampler="dice", trials=2)

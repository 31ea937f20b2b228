"""Accuracy of chips against age, with refresh."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import FIVE_LAYER_CNN as MODEL

from memcompile.accuracy.scoring import score
from memcompile.cli.main import main
from memcompile.data.loader import Dataset, load_dataset
from memcompile.errors import MemcompileError
from memcompile.hardware.conditions import Conditions
from memcompile.hardware.target import Target, load_target
from memcompile.pipelines import compile_model
from memcompile.program.file import save_program
from memcompile.program.program import Program
from memcompile.report.lifetime import (
    YEAR_S,
    Age,
    Life,
    Refreshes,
    age_text,
    life_of,
    life_sentence,
    log_ages,
    time_above_s,
    worst_ages,
)
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.runtime.training.transfer import transfer

DAY_S = 86_400.0
IMAGES = 20


def chip(**changes: object) -> Target:
    return load_target("yao2020").with_(cell__device="pcm", cell__levels=8, **changes)


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_model(MODEL, chip(), settings=("replicate.effort=fast",)).program


@pytest.fixture(scope="module")
def samples(program: Program) -> Dataset:
    return load_dataset(None, program.inputs, batching=program.batching, compiled=True).head(IMAGES)


def accuracy(program: Program, samples: Dataset, seed: int, **conditions: float) -> float:
    assert samples.labels is not None
    return score(Emulator(program, seed, **conditions).run(samples.as_given), samples.labels)  # type: ignore[arg-type]


# --- what is measured ------------------------------------------------------------------------------


def test_accuracy_is_that_of_the_chips_at_each_age(program: Program, samples: Dataset) -> None:
    ages = (1.0, DAY_S)
    life = life_of(program, samples, ages, seeds=2, seed=3, calibrate=False)
    for age, at in zip(life.plain, ages, strict=True):
        assert age.accuracies == tuple(accuracy(program, samples, seed, time_s=at) for seed in (3, 4))
    assert not life.refreshed
    assert not life.calibrated


def test_writing_again_starts_a_new_age_with_new_errors(program: Program, samples: Dataset) -> None:
    refreshes = Refreshes("writing", (DAY_S, 2 * DAY_S))
    life = life_of(program, samples, (3600.0, 4 * DAY_S), seeds=1, refreshes=refreshes, calibrate=False)
    found = [(age.age_s, age.since_s, age.refreshes) for age in life.refreshed]
    assert found == [(3600.0, 3600.0, 0), (DAY_S, DAY_S, 0), (2 * DAY_S, DAY_S, 1), (4 * DAY_S, 2 * DAY_S, 2)]
    assert life.refreshed[0].accuracies == life.plain[0].accuracies
    assert life.refreshed[2].accuracies[0] == accuracy(program, samples, 0, time_s=DAY_S, writes=1)
    assert life.refreshed[3].accuracies[0] == accuracy(program, samples, 0, time_s=2 * DAY_S, writes=2)
    assert life.endurance is not None
    assert life.endurance.first > 0
    assert life.endurance.used(4) == pytest.approx((life.endurance.first + 4 * life.endurance.each) / 1e11)


def test_refreshed_chips_are_looked_at_where_they_are_worst() -> None:
    every = Refreshes("scales", every_s=100.0)
    assert worst_ages(every, (1.0, 30.0, 950.0, 1020.0)) == (
        *((1.0, 0), (30.0, 0), (100.0, 0), (200.0, 1), (300.0, 2)),  # before the first refresh, and the first intervals
        *((1000.0, 9), (1020.0, 10)),
    )
    assert worst_ages(every, (1.0, 1000.0))[-2:] == ((300.0, 2), (1000.0, 9)), "the last age ends an interval"
    assert worst_ages(every, (1.0, 100.0)) == ((1.0, 0), (100.0, 0))
    assert worst_ages(Refreshes("scales", (10.0, 40.0)), (1.0, 20.0)) == ((1.0, 0), (10.0, 0), (20.0, 1))
    assert worst_ages(Refreshes("scales", (10.0, 40.0)), (1.0, 5.0)) == ((1.0, 0), (5.0, 0))


def test_scales_that_are_fitted_again_win_back_what_drift_took(program: Program, samples: Dataset) -> None:
    refreshes = Refreshes("scales", (3600.0, 29 * DAY_S))
    life = life_of(program, samples, (30 * DAY_S,), seeds=1, refreshes=refreshes)
    assert life.calibrated
    assert life.refreshed[-1].refreshes == 2
    assert life.refreshed[-1].mean > life.plain[-1].mean + 0.2


def test_writing_again_draws_errors_anew_and_leaves_what_belongs_to_cells(program: Program) -> None:
    """Programming errors differ from write to write; stuck cells and drift exponents do not."""
    effects = Effects(flicker_noise=False)

    def cells(writes: int, time_s: float) -> np.ndarray:
        machine = Emulator(program, 3, effects=effects, writes=writes, time_s=time_s).machine
        return machine.devices.array(0).astype(np.float64)

    first, again = cells(0, 0.0), cells(1, 0.0)
    assert np.array_equal(first, Emulator(program, 3, effects=effects).machine.devices.array(0))
    assert np.mean(first[first > 0] == again[first > 0]) < 0.05
    levels = Emulator(program, 3, effects=effects).machine.devices.levels(0)
    high = (levels >= 4) & (first > 0) & (again > 0)
    ratios = [cells(writes, DAY_S)[high] / new[high] for writes, new in ((0, first), (1, again))]
    assert ratios[0] == pytest.approx(ratios[1], rel=2e-2)
    assert ratios[0].std() > 0.02


# --- ages and words --------------------------------------------------------------------------------


@given(st.floats(1.0, 1e9), st.floats(1.0, 1e9), st.integers(2, 50))
def test_points_are_even_in_log_time(a: float, b: float, points: int) -> None:
    first, last = sorted((a, b * 1.001))
    if first == last:
        return
    ages = log_ages(first, last, points)
    assert (ages[0], ages[-1], len(ages)) == (first, last, points)
    steps = np.diff(np.log(ages))
    assert steps == pytest.approx(np.full(points - 1, math.log(last / first) / (points - 1)), rel=1e-6, abs=1e-9)


@given(st.floats(1.0, 1e6), st.integers(0, 500))
def test_a_whole_number_of_periods_has_had_its_refresh(every_s: float, number: int) -> None:
    refreshes = Refreshes("scales", every_s=every_s)
    assert refreshes.count(refreshes.time_s(number)) == number
    assert refreshes.count(refreshes.time_s(number) + 0.5 * every_s) == number


def test_given_refreshes_end() -> None:
    refreshes = Refreshes("scales", (10.0, 100.0))
    assert [refreshes.count(age) for age in (1, 10, 99, 100, 1e9)] == [0, 1, 1, 2, 2]
    assert [refreshes.time_s(number) for number in range(4)] == [0.0, 10.0, 100.0, math.inf]


def ages_of(*means: float) -> tuple[Age, ...]:
    return tuple(Age(10.0**place, 0.0, 0, (mean,)) for place, mean in enumerate(means))


def test_time_above_an_accuracy_is_interpolated_in_log_time() -> None:
    assert time_above_s(ages_of(0.99, 0.98, 0.96), 0.97) == pytest.approx(10**1.5)
    assert time_above_s(ages_of(0.99, 0.98, 0.98), 0.97) == math.inf
    assert time_above_s(ages_of(0.9, 0.98, 0.98), 0.97) == 0.0
    assert time_above_s(ages_of(0.99, 0.9, 0.99), 0.97) < 10.0, "the first time counts"


def test_sentence_names_both_ways() -> None:
    plain, refreshed = ages_of(0.99, 0.99, 0.95), ages_of(0.99, 0.99, 0.98)
    life = Life(plain, refreshed, Refreshes("scales", every_s=30 * DAY_S), None, True)
    assert life_sentence(life, 0.97) == (
        "stays above 97.00 % for 31.6 s without refresh, for all of 100 s with a refresh every 30 days"
    )
    given_times = Life(plain, refreshed, Refreshes("writing", (3600.0, 2 * DAY_S)), None, True)
    assert life_sentence(given_times, 0.999) == (
        "stays above 99.90 % at no time without refresh, at no time with a refresh after 60 min, 2 days"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.0, "1 s"),
        (90.0, "90 s"),
        (600.0, "10 min"),
        (7200.0, "2 h"),
        (31 * DAY_S, "31 days"),
        (4 * YEAR_S, "4 years"),
    ],
)
def test_ages_have_the_unit_that_people_use(seconds: float, text: str) -> None:
    assert age_text(seconds) == text


# --- refusals and the command ----------------------------------------------------------------------


def test_what_cannot_age_or_be_refreshed_is_told(program: Program, samples: Dataset) -> None:
    still = replace(program, target=load_target("pimcomp"))
    with pytest.raises(MemcompileError, match="cells of pimcomp do not change with time"):
        life_of(still, samples, (1.0, 2.0))
    refreshes = Refreshes("scales", every_s=DAY_S)
    with pytest.raises(
        MemcompileError,
        match="chips are not calibrated: it was not asked for; refresh by writing",
    ):
        life_of(program, samples, (1.0, 2.0), refreshes=refreshes, calibrate=False)
    on_chip, _ = transfer(program, 1)
    with pytest.raises(MemcompileError, match="the program is on a chip that was tuned"):
        life_of(on_chip, samples, (1.0, 2.0), refreshes=refreshes)
    assert len(life_of(on_chip, samples, (1.0, DAY_S), seeds=3).plain[0].accuracies) == 1
    with pytest.raises(MemcompileError, match="writes -1 is out of range"):
        Conditions(writes=-1)


def test_command_prints_draws_and_writes(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_program(program, Path("p.mcp"))
    few = ["--images", str(IMAGES), "--points", "2", "--seeds", "2", "--time", "1s..1y"]
    files = ["--plot", "life.png", "--json", "life.json"]
    refresh = ["--no-calibration", "--refresh", "every 30d", "--refresh-by", "writing"]
    assert main(["run", "p.mcp", *few, *refresh, "--stays-above", "50", *files]) == 0
    said = capsys.readouterr().out
    assert f"accuracy on digits of scikit-learn, {IMAGES} images, 2 chips\n" in said
    assert "with a refresh every 30 days (cells written again), just before each" in said
    assert "after 12 refreshes" in said
    assert "stays above 50.00 % for " in said
    assert Path("life.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads(Path("life.json").read_text(encoding="utf-8"))
    assert [age["age_s"] for age in facts["ages"]] == [1.0, YEAR_S]
    assert facts["refresh"]["every_s"] == 30 * DAY_S
    assert facts["refresh"]["ages"][-1]["refreshes"] == 12
    assert facts["stays_above"]["with_refresh_s"] is None or facts["stays_above"]["with_refresh_s"] > 1.0
    assert len(facts["ages"][0]["accuracies"]) == facts["chips"] == 2


WRONG = {
    "--time 1h --points 3": "--points is for a range of ages; give one, such as --time 1s..10y",
    "--plot a.png": "--plot is for a range of ages",
    "--json a.json": "--json is for a range of ages",
    "--time 1s..1h -o a.npz": "--output is for one age",
    "--time 1s..1h --ideal": "--ideal is for one age",
    "--time 1s..1h --reads 5": "--reads is for one age",
    "--time 1s..1h --executor literal": "--executor literal is for one age",
    "--time 1h..1s": "'1h..1s' is no range of ages",
    "--time 0s..1h": "'0s..1h' is no range of ages",
    "--time 1s..": "'' is not a duration such as",
    "--time 1s..1h --refresh 0s": "a chip cannot be refreshed at age 0",
    "--time 1s..1h --refresh 2h,1h": "ages of refreshes must rise",
    "--time 1s..1h --refresh weekly": "'weekly' is not a duration such as",
    "--time 1s..1h --refresh-by writing": "--refresh-by says how chips are refreshed; say when with --refresh",
    "--time 1s..1h --plot no/a.png": "the folder no does not exist",
}


@pytest.mark.parametrize("words", WRONG)
def test_command_refuses_with_one_message(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "p.mcp", *words.split()]) == 2
    assert WRONG[words] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

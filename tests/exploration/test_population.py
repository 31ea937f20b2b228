"""Populations: the same chips as elsewhere, resumed after a kill, and defects that the worst share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from explorations import KilledError, Killer, Shuffled
from models import digit_samples, small_digits

from memcompile.exploration.population import Population, Sample, rank_evidence, run_population
from memcompile.exploration.runs.executors import InThisProcess
from memcompile.pipelines import compile_model
from memcompile.report.emulated_chips import EmulatedChips, measured_accuracy
from memcompile.runtime.emulator import Emulator

SETTINGS = ("faults.stuck_high_share=0.004", "faults.dead_input_line_share=0.01", "replicate.effort=fast")


@pytest.fixture(scope="module")
def sample() -> Sample:
    compiled = compile_model(small_digits(), "yao2020", data=digit_samples(), settings=SETTINGS)
    return Sample.of(compiled.program, "small.mcp", compiled.dataset.head(100), calibrate=True, training=None)


def test_chips_are_those_that_other_commands_emulate(sample: Sample, tmp_path: Path) -> None:
    found = run_population(sample, range(3, 6), InThisProcess(), tmp_path)
    compiled = compile_model(
        small_digits(),
        "yao2020",
        data=digit_samples(),
        settings=SETTINGS,
    )
    chips = EmulatedChips(compiled.program, sample.dataset)
    wanted = [measured_accuracy(Emulator(chips.chip(seed).used, seed), sample.dataset) for seed in range(3, 6)]
    assert found.accuracies.tolist() == wanted
    assert found.seeds == (3, 4, 5)


def test_a_killed_population_resumes(sample: Sample, tmp_path: Path) -> None:
    for after in (0, 1, 0):
        with pytest.raises(KilledError):
            run_population(sample, range(12), Killer(after, after), tmp_path / "killed")
    resumed = run_population(sample, range(12), Shuffled(4), tmp_path / "killed")
    whole = run_population(sample, range(12), InThisProcess(), tmp_path / "whole")
    assert resumed.csv() == whole.csv()
    assert len(whole.worst(3)) == 3
    assert whole.worst(1)[0][1] == whole.accuracies.min()


def test_counted_defects_are_those_of_the_emulated_cells(sample: Sample, tmp_path: Path) -> None:
    found = run_population(sample, range(12), InThisProcess(), tmp_path)
    highs = np.array([own["cells stuck high in hidden"] for own in found.defects])
    cells = 64 * 24 * 2
    assert 0.5 * 0.004 * cells < highs.mean() < 2 * 0.004 * cells
    assert all(own["error of scores"] > 0 for own in found.defects)


def test_a_defect_that_makes_chips_bad_is_found() -> None:
    rng = np.random.default_rng(2)
    broken = rng.poisson(1.0, 400)
    accuracies = 0.98 - 0.02 * broken + 0.002 * rng.standard_normal(400)
    defects = [{"broken": float(count), "harmless": float(rng.poisson(1.0))} for count in broken]
    population = Population(tuple(range(400)), accuracies, np.zeros(0), tuple(defects))
    shared = population.shared_defects()
    assert [item.name for item in shared] == ["broken"]
    assert shared[0].worst > 3 > shared[0].others
    facts = population.facts(0.95, 5)
    assert facts["acceptance"]["reached"] == int((accuracies >= 0.95).sum())
    assert sum(item["chips"] for item in facts["histogram"]) == 400


def test_ranks_with_ties_have_no_evidence_where_there_is_none() -> None:
    assert rank_evidence(np.ones(10), np.arange(10) < 3) == 0
    rng = np.random.default_rng(1)
    found = [rank_evidence(rng.integers(0, 3, 60).astype(float), np.arange(60) < 10) for _ in range(300)]
    assert abs(np.mean(found)) < 0.2
    assert 0.85 < np.std(found) < 1.15

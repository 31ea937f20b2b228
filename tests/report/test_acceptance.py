"""Chips that reach an accuracy: the exact interval, what users may write, and the reports that have it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import comb
from pathlib import Path

import models
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, Group

import memcompile
from memcompile.cli.main import main
from memcompile.errors import UsageError
from memcompile.report.acceptance import Acceptance, accuracy_share, clopper_pearson
from memcompile.report.accuracy_report import accuracy_facts, accuracy_lines, accuracy_table
from memcompile.report.evaluation import Accuracy, CalibrationSummary, TunedAccuracy
from memcompile.runtime.training.transfer import transfer

DATA = {"x": models.images((60, 2, 6, 6), seed=3), "labels": np.arange(60) % 4}


@pytest.mark.parametrize(
    ("reached", "trials", "low", "high"),
    [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0.0, 0.1684), (1, 29, 0.0009, 0.1776)],
)
def test_intervals_that_are_published(reached: int, trials: int, low: float, high: float) -> None:
    """R. G. Newcombe, Statistics in Medicine 17, 857 (1998), table I, method 5."""
    np.testing.assert_allclose(clopper_pearson(reached, trials, 0.95), (low, high), atol=5e-5)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_each_end_leaves_half_of_the_rest(case: tuple[int, int], confidence: float) -> None:
    """At the lower end as many successes or more have half the rest as probability, at the upper end as many or fewer.

    Sums of binomial probabilities, term by term.
    """
    reached, trials = case
    low, high = clopper_pearson(reached, trials, confidence)

    def probability(share: float, counts: range) -> float:
        return sum(comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in counts)

    tail = (1 - confidence) / 2
    assert 0 <= low <= reached / trials <= high <= 1
    assert low == 0.0 if reached == 0 else probability(low, range(reached, trials + 1)) == pytest.approx(tail, rel=1e-6)
    assert high == 1.0 if reached == trials else probability(high, range(reached + 1)) == pytest.approx(tail, rel=1e-6)


@pytest.mark.parametrize(
    ("given", "share"),
    [
        *[(text, 0.97) for text in ("97", "97%", "97 %", " 97.0% ", "0.97", ".97", 97, 97.0, 0.97)],
        *[(text, 1.0) for text in ("1", "100", "100%", "1.0", 1, "1e2")],
        ("0.5%", 0.005),
        ("1.5", 0.015),
        ("1%", 0.01),
        (1e-5, 1e-5),
    ],
)
def test_ways_to_write_an_accuracy(given: float | str, share: float) -> None:
    assert accuracy_share(given) == share


@pytest.mark.parametrize(
    "given",
    [
        "",
        "%",
        "0",
        "0%",
        "-1",
        "101",
        "100.1%",
        "nan",
        float("nan"),
        float("inf"),
        "97,5",
        "97%%",
        "1_0",
        "1e999",
        True,
    ],
)
def test_anything_else_is_one_message(given: float | str) -> None:
    with pytest.raises(UsageError, match="is no accuracy to accept chips by: give per cent, such as 97% or 97, or a"):
        accuracy_share(given)


@given(st.integers(1, 1000), st.sampled_from([797, 1000, 10_000]))
def test_a_chip_at_the_limit_is_accepted(tenths: int, images: int) -> None:
    """So many right answers of 1,000 are no less than the same in per cent, however it rounds."""
    least = accuracy_share(f"{tenths / 10}%")
    assert Acceptance.of(np.array([tenths / 1000, (tenths - 1) / 1000]), least).reached == 1
    assert Acceptance.of(np.array([np.ceil(tenths * images / 1000) / images]), least).reached == 1


ACCURACY = Accuracy(
    reference=0.9888,
    ideal=0.988,
    ideal_emulated=0.989,
    transferred=np.array([0.95, 0.96, 0.94, 0.93]),
    emulated=np.array([0.97, 0.975, 0.96, 0.98]),
    images=10_000,
    emulated_images=5_000,
    calibration=CalibrationSummary(384, 3),
    least=0.97,
    tuned=TunedAccuracy(np.array([0.98, 0.985, 0.98, 0.982]), "MNIST training images", 6_000),
)


@pytest.mark.parametrize("name", ["all", "untuned", "plain"])
def test_table_of_accuracies(name: str, golden: Callable[[str, str], None]) -> None:
    plain = replace(ACCURACY, calibration=CalibrationSummary(obstacle="it was not asked for"), least=None, tuned=None)
    accuracy = {"all": ACCURACY, "untuned": replace(ACCURACY, tuned=None), "plain": plain}[name]
    facts = {"data": "MNIST test images", "accuracy": accuracy_facts(accuracy)}
    console = Console(width=120)
    with console.capture() as text:
        console.print(Group(accuracy_table(facts), *accuracy_lines(facts["accuracy"])))
    golden(f"report/accuracy_{name}", text.get() + json.dumps(facts, indent=1) + "\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and its data, in which commands run."""
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(models.conv_bn().SerializeToString())
    np.savez("d.npz", **DATA)
    np.savez("unlabelled.npz", x=DATA["x"])
    return tmp_path


COMPILE = "m.onnx --data d.npz --set replicate.effort=fast"


def test_compile_run_and_evaluate_count_the_same_chips(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMPILE.split(), "--seeds", "5", "--accept", "1%", "--json", "r.json"]) == 0
    accuracy = json.loads(Path("r.json").read_text())["accuracy"]
    found = accuracy["acceptance"]
    assert (found["least"], found["reached"], found["chips"], found["confidence"]) == (0.01, 5, 5, 0.95)
    assert found["interval"] == pytest.approx([0.025 ** (1 / 5), 1.0])
    assert "at least 1.00%: 5 of 5 chips, 100.0%; 95% interval of all chips 47.8% to 100.0%" in capsys.readouterr().out
    median = float(np.median(accuracy["emulated"]))
    reached = sum(share >= median for share in accuracy["emulated"])
    assert main(["run", "m.yao2020.mcp", "--data", "d.npz", "--seeds", "5", "--accept", str(median)]) == 0
    out = capsys.readouterr().out
    assert f": {reached} of 5 chips, " in out
    assert f"accuracy {accuracy['emulated_mean']:.2%} ± {accuracy['emulated_std']:.2%} on d, 60 images, noisy" in out
    assert f"worst chip {min(accuracy['emulated']):.2%}, 5 % quantile {accuracy['emulated_quantile_5']:.2%}" in out
    program = memcompile.load("m.yao2020.mcp")
    again = memcompile.evaluate(program, "m.onnx", "d.npz", chips=5, accept=median).accuracy
    assert again is not None
    assert again.acceptance == Acceptance(median, reached, 5)
    assert main(["run", "m.yao2020.mcp", "--data", "d.npz", "--seeds", "2", "--no-calibration", "--seed", "3"]) == 0
    assert "2 chips, seeds 3 to 4" in capsys.readouterr().out
    assert main(["run", "m.yao2020.mcp", "--data", "d.npz", "--accept", ".01", "--seed", "3"]) == 0
    assert "1 of 1 chips, 100.0%; 95% interval of all chips 2.5% to 100.0%" in capsys.readouterr().out


def test_chips_that_cannot_be_compared_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(command: str, message: str) -> None:
        assert main(command.split()) == UsageError.exit_code
        assert message in " ".join(capsys.readouterr().err.split())

    refused(f"{COMPILE} --accept 120", "'120' is no accuracy to accept chips by")
    refused(f"{COMPILE} --accept 97 --no-evaluation", "leave --no-evaluation out")
    unlabelled = COMPILE.replace("d.npz", "unlabelled.npz")
    refused(f"{unlabelled} --accept 97", "--accept compares chips by their accuracy, and unlabelled has no labels")
    refused(f"{COMPILE} --target ideal --accept 97", "cells of ideal have no errors, so that they are all alike")
    assert not list(folder.glob("*.mcp")), "nothing is written"
    assert main([*COMPILE.split(), "--no-evaluation", "--quiet"]) == 0
    run = "run m.yao2020.mcp --data d.npz"
    refused(f"{run} --seeds 2 -o p.npz", "--seeds compares the accuracies of chips, and -o is for a single run")
    refused(f"{run} --accept 50 --ideal", "--accept compares the accuracies of chips, and --ideal is for a single run")
    refused(f"{run} --accept 50 --explain", "--explain is for a single run")
    refused("run m.yao2020.mcp --data unlabelled.npz --seeds 2", "--seeds compares chips by their accuracy")
    program = memcompile.load("m.yao2020.mcp")
    chip, _ = transfer(program, 0)
    chip.save("chip.mcp")
    refused("run chip.mcp --data d.npz --seeds 2", "the program is on one already; give --seeds with the program that")
    with pytest.raises(UsageError, match="has no labels"):
        memcompile.evaluate(program, "m.onnx", "unlabelled.npz", accept="97%")

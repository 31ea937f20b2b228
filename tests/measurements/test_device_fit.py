"""Devices from measurements: five synthetic chips are recovered, and wrong files are told by line and column."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memcompile.errors import DataError
from memcompile.hardware.target import Target, load_target, load_target_file
from memcompile.hardware.target_text import target_text
from memcompile.measurements.columns import read_table
from memcompile.measurements.device_target import measured_target
from memcompile.measurements.pairs import PairsFit, fit_pairs, read_pairs
from memcompile.measurements.reads import fit_reads, read_reads
from memcompile.measurements.retention import (
    ByTime,
    Law,
    LogTime,
    PowerLaw,
    PowerLawByConductance,
    Relaxation,
    RetentionFit,
    fit_retention,
    read_retention,
)

Array = NDArray[np.float64]
PAIRS, CELLS = 600, 400
ERRORS = 3.5
"""Standard errors within which what was put in has to come out; a seventh of the chips would miss by one of them."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip by its formulas: goals, spread and mean of the error of writing, and the law of later changes."""

    goals: Callable[[np.random.Generator, int], Array]
    spread: Callable[[Array], Array]
    mean: Callable[[Array], Array]
    later: Callable[[np.random.Generator, Array, float], Array]
    first_s: float
    times_s: tuple[float, ...]
    law: type[Law]
    numbers: dict[str, float]
    stuck: int = 0


def even(low: float, high: float) -> Callable[[np.random.Generator, int], Array]:
    return lambda rng, count: rng.uniform(low, high, count)


def exponents_of_pcm(g: Array) -> tuple[Array, Array]:
    log = np.log(g / 25.0)
    return np.clip(-0.0155 * log + 0.0244, 0.049, 0.1), np.clip(-0.0125 * log - 0.0059, 0.008, 0.045)


def drift_of_pcm(rng: np.random.Generator, g: Array, time_s: float) -> Array:
    mean, spread = exponents_of_pcm(g)
    return g * (time_s / 20.0) ** -(mean + spread * rng.standard_normal(g.shape))


def kinked(g: Array) -> Array:
    return np.interp(g, [1.0, 4.0, 8.0, 12.0], [0.1, 0.8, 0.15, 0.7])


CHIPS: dict[str, Chip] = {
    "one spread, relaxation": Chip(
        even(2.0, 20.0),
        lambda g: np.full(g.shape, 0.8),
        lambda g: np.zeros(g.shape),
        lambda rng, g, t: g + 0.5 * np.sqrt(-np.expm1(-t / 300.0)) * rng.standard_normal(g.shape),
        0.0,
        (10.0, 100.0, 1e3, 1e4),
        Relaxation,
        {"sigma_us": 0.5, "time_constant_s": 300.0},
    ),
    "in proportion, drift": Chip(
        even(1.0, 40.0),
        lambda g: np.hypot(0.3, 0.05 * g),
        lambda g: 0.4 - 0.03 * g,
        lambda rng, g, t: g * (t / 60.0) ** -(0.04 + 0.012 * rng.standard_normal(g.shape)),
        60.0,
        (600.0, 6e3, 6e4),
        PowerLaw,
        {"exponent_mean": 0.04, "exponent_sigma": 0.012},
    ),
    "polynomial, lines in ln t": Chip(
        even(9.0, 40.0),
        lambda g: np.polynomial.polynomial.polyval(g / 40.0, (0.348, 16.03, -43.853, 45.393, -16.815)),
        lambda g: np.full(g.shape, 0.25),
        lambda rng, g, t: g - 0.089 * np.log(t) + (0.412 + 0.042 * np.log(t)) * rng.standard_normal(g.shape),
        1.0,
        (10.0, 1e3, 1e5),
        LogTime,
        {"mean_us": 0.0, "mean_per_ln_us": -0.089, "sigma_us": 0.412, "sigma_per_ln_us": 0.042},
    ),
    "kinks, drift by conductance": Chip(
        even(1.0, 12.0),
        kinked,
        lambda g: 2 * kinked(g) - 0.5,
        drift_of_pcm,
        20.0,
        (2e3, 2e4),
        PowerLawByConductance,
        {},
    ),
    "eight levels, stuck cells, table": Chip(
        lambda rng, count: rng.integers(0, 8, count) * 3.0 + 4.0,
        lambda g: 0.2 + 0.01 * g,
        lambda g: np.zeros(g.shape),
        lambda rng, g, t: g + (0.3 if t < 5e3 else -0.6) + (0.6 if t < 5e3 else 0.2) * rng.standard_normal(g.shape),
        1.0,
        (10.0, 1e3, 1e4),
        ByTime,
        {"mean_us after 10 s": 0.3, "sigma_us after 10 s": 0.6, "mean_us after 10000 s": -0.6},
        stuck=6,
    ),
}


def pairs_of(chip: Chip, path: Path, rng: np.random.Generator) -> Path:
    """A file of pairs, measured as resistances."""
    goals = chip.goals(rng, PAIRS)
    measured = goals + chip.mean(goals) + chip.spread(goals) * rng.standard_normal(PAIRS)
    measured[: chip.stuck] = goals.min()
    rows = [f"{goal:.6f},{1e3 / value:.9f}" for goal, value in zip(goals, measured, strict=True)]
    path.write_text("\n".join(["target (uS),R_measured (kohm)", *rows]) + "\n", encoding="utf-8")
    return path


def retention_of(chip: Chip, path: Path, rng: np.random.Generator) -> Path:
    """A file of reads at several times; each cell is read at one later time, so that reads are independent."""
    start = chip.goals(rng, CELLS)
    lines = ["cell,time_s,read_us"]
    for cell, g in enumerate(start.tolist()):
        time_s = chip.times_s[cell % len(chip.times_s)]
        later = chip.later(rng, np.array([g]), time_s)[0]
        lines += [f"c{cell},{chip.first_s},{g:.9f}", f"c{cell},{time_s},{later:.9f}"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@cache
def fitted(name: str) -> tuple[PairsFit, RetentionFit]:
    """Fits to the files of a chip."""
    chip, rng = CHIPS[name], np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as folder:
        pairs = fit_pairs(read_pairs(pairs_of(chip, Path(folder) / "pairs.csv", rng)))
        return pairs, fit_retention(read_retention(retention_of(chip, Path(folder) / "later.csv", rng)))


@pytest.mark.parametrize("name", CHIPS)
def test_errors_of_writing_are_recovered_within_their_standard_errors(name: str) -> None:
    chip, found = CHIPS[name], fitted(name)[0]
    fit = found.choice.fit
    at = np.linspace(found.g_min_us, found.g_max_us, 8)[1:-1]
    x = at / found.g_max_us
    mean_errors, spread_errors = fit.mean_error_at(x) + 1e-3, fit.spread_error_at(x)
    # A table of quantiles does not have the kinks at its points.
    between = 0.08 if "kinks" in name else 0.0
    assert np.all(np.abs(fit.mean_at(x) - chip.mean(at)) <= ERRORS * mean_errors + between)
    assert np.all(np.abs(fit.spread_at(x) - chip.spread(at)) <= ERRORS * spread_errors + between)
    assert (fit.mean_form.kind == "table") == ("kinks" in name)
    assert found.choice.ks_p > 1e-3
    assert found.levels_measured == ("levels" in name)
    if chip.stuck:
        assert found.levels == 8
        # Those of the lowest level are where they should be.
        assert {item.line for item in found.outliers} <= set(range(2, 2 + chip.stuck))
        assert found.stuck_low == len(found.outliers) >= 3
    else:
        assert not found.outliers


@pytest.mark.parametrize("name", CHIPS)
def test_law_of_change_is_found_and_recovered_within_its_standard_errors(name: str) -> None:
    chip, found = CHIPS[name], fitted(name)[1]
    assert isinstance(found.law, chip.law)
    numbers = found.law.numbers()
    assert set(found.errors) == set(numbers)
    for key, true in chip.numbers.items():
        assert abs(numbers[key] - true) <= ERRORS * found.errors[key], key
    if isinstance(found.law, PowerLawByConductance):
        at = np.array([1.5, 4.0, 10.0])
        mean, spread = exponents_of_pcm(at)
        state = np.log(at)
        exponents = found.law.exponents
        assert np.all(np.abs(exponents.mean_at(state) - mean) <= ERRORS * exponents.mean_error_at(state) + 2e-3)
        assert np.all(np.abs(exponents.spread_at(state) - spread) <= ERRORS * exponents.spread_error_at(state) + 2e-3)


@pytest.mark.parametrize("name", CHIPS)
def test_target_has_the_cells_that_were_measured(name: str, tmp_path: Path) -> None:
    """The file is complete, its numbers are the fitted ones, and their sources say so."""
    pairs, retention = fitted(name)
    target = measured_target("mine", load_target("yao2020"), pairs, None, retention)
    path = tmp_path / "mine.toml"
    path.write_text(target_text(target), encoding="utf-8")
    assert load_target_file(path) == target
    assert_same_errors(target, pairs)
    assert target.emulated_pulses is None
    assert target.sources["cell.g_max_us"] == f"measured, N={PAIRS}, pairs.csv"
    assert target.sources["programming.sigma_us"] == f"measured, N={PAIRS}, pairs.csv"
    assert target.sources["adc.bits"].startswith("as yao2020: ")
    assert target.sources["read_noise.sigma_us"].startswith("assumption: ")
    section, fields = retention.law.section, retention.law.fields()
    aging = {"relaxation", "retention", "drift", "flicker_noise"}
    assert {each for each in aging if getattr(target, each) is not None} == {section}
    assert target.sources[f"{section}.{next(iter(fields))}"].startswith("measured, N=")


def assert_same_errors(target: Target, pairs: PairsFit) -> None:
    at = np.linspace(pairs.g_min_us, pairs.g_max_us, 50)
    mean, spread = pairs.error_at_us(at)
    assert target.programming.mean_at_us(at, target.cell.reference_us) == pytest.approx(mean, abs=1e-3)
    assert target.programming.sigma_at_us(at, target.cell.reference_us) == pytest.approx(spread, rel=1e-3, abs=1e-3)


def test_read_noise_is_recovered_within_its_standard_errors(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    cells = rng.uniform(1.0, 40.0, 80)
    reads = cells[:, None] + np.hypot(0.05, 0.02 * cells)[:, None] * rng.standard_normal((80, 12))
    rows = [f"{cell},{value * 1e3:.6f}" for cell, values in enumerate(reads) for value in values]
    path = tmp_path / "reads.csv"
    path.write_text("\n".join(["device id,read (nS)", *rows]), encoding="utf-8")
    found = fit_reads(read_reads(path))
    at = np.array([2.0, 20.0, 39.0])
    errors = found.choice.fit.spread_error_at(at)
    assert np.all(np.abs(found.choice.fit.spread_at(at) - np.hypot(0.05, 0.02 * at)) <= ERRORS * errors)
    assert found.read_noise() == {
        "sigma_us": pytest.approx(0.05, abs=0.02),
        "proportional_share": pytest.approx(0.02, abs=0.002),
    }
    assert (found.count, found.cells) == (960, 80)


def test_gross_errors_are_named_and_do_not_move_the_fit(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    goals = rng.uniform(2.0, 20.0, 500)
    measured = goals + 0.4 * rng.standard_normal(500)
    clean = fit_pairs(read_pairs(written(tmp_path / "a.csv", goals, measured)))
    odd = [17, 99, 480]
    measured[odd] = goals[odd] + np.array([30.0, -1.0 * goals[odd[1]], 6.0])
    found = fit_pairs(read_pairs(written(tmp_path / "b.csv", goals, measured)))
    assert [item.line for item in found.outliers] == [row + 2 for row in odd]
    at = np.array([0.5])
    assert found.choice.fit.spread_at(at) == pytest.approx(clean.choice.fit.spread_at(at), rel=0.03)


def written(path: Path, goals: Array, measured: Array, header: str = "target_us,measured_us") -> Path:
    rows = [f"{goal},{value}" for goal, value in zip(goals, measured, strict=True)]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


# --- columns ---------------------------------------------------------------------------------------

TITLES = {
    "target_us,measured_us": (1.0, 1.0),
    "Target [uS];Measured [µS]": (1.0, 1.0),
    "g_target [S]\tG read (nS)": (1e6, 1e-3),
    "aimed at (mS),actual (mS)": (1e3, 1e3),
    "# made today\n\nrow,G_Target_uS,note,gMeasured (S)": (1.0, 1e6),
    "Goal(microsiemens),result_siemens": (1.0, 1e6),
    "set_ms,value_ns": (1e3, 1e-3),
    "target_conductance_S,programmed_conductance_S": (1e6, 1e6),
    "G_prog (uS),measured conductance (uS)": (1.0, 1.0),
    "goal_us,G/uS": (1.0, 1.0),
    "set,target_us,note,measured_us": (1.0, 1.0),
}


@pytest.mark.parametrize("titles", TITLES)
def test_columns_are_found_by_name_and_unit(titles: str, tmp_path: Path) -> None:
    factors, delimiter = TITLES[titles], next(mark for mark in ";\t," if mark in titles)
    wide = titles.count(delimiter) > 2
    row = delimiter.join(["7", "2", "x", "3"] if wide else ["2", "3"])
    path = tmp_path / "t.csv"
    path.write_text(f"\ufeff{titles}\r\n{row}\r\n\r\n", encoding="utf-8")
    table = read_table(path, ("target", "measured"))
    assert table.columns["target"].tolist() == pytest.approx([2 * factors[0]])
    assert table.columns["measured"].tolist() == pytest.approx([3 * factors[1]])


def test_times_may_be_called_by_their_unit(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("cell,hours,conductance_us\n1,2,3\n", encoding="utf-8")
    table = read_table(path, ("time", "measured"), ("cell",))
    assert (table.columns["time"][0], table.columns["measured"][0]) == (7200.0, 3.0)


def test_resistances_times_and_decimal_commas(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("device;elapsed (min);R_read [kΩ]\nA;1,5;50\nB;2;100\nA;3;200\n", encoding="utf-8")
    table = read_table(path, ("time", "measured"), ("cell", "initial"))
    assert table.columns["time"].tolist() == [90.0, 120.0, 180.0]
    assert table.columns["measured"].tolist() == [20.0, 10.0, 5.0]
    assert table.columns["cell"].tolist() == [0, 1, 0]
    assert table.lines.tolist() == [2, 3, 4]


WRONG = {
    "": "is empty; it needs a row of column names",
    "target_us,measured_us\n": "has column names and no values",
    "target_us,measured_us\n1,2\n3,oops\n": "line 3, column 'measured_us': 'oops' is not a number",
    "target_us,measured_us\n1,\n": "line 2, column 'measured_us': no value",
    "target_us,measured_us\n1\n": "line 2, column 'measured_us': no value",
    "target_us,measured_us\n1,nan\n": "line 2, column 'measured_us': 'nan' is not finite",
    "target_us,measured_us\n-1,2\n": "line 2, column 'target_us': -1 is below 0",
    "target_S,measured_us\n20,20\n": "line 2, column 'target_S': 20 s is 20 S, beyond any memristor",
    "target_us,measured_kohm\n1,0\n": "line 2, column 'measured_kohm': a resistance of 0 is not above 0",
    "target,measured_us\n1,2\n": "line 1, column 'target': no unit; name it target_us or target (uS)",
    "target_us,goal_us,measured_us\n1,2,3\n": "line 1, column 'goal_us': 'target_us' also says target; keep one",
    "target_us,other\n1,2\n": "line 1: no column says measured, among 'target_us', 'other'",
    '# note\ntarget_us,measured_us\n1,2\n1,"2\n': "line 4, column 'measured_us': '2' is not",
}


@pytest.mark.parametrize("text", WRONG, ids=list(WRONG.values()))
def test_wrong_tables_are_one_message_with_line_and_column(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    if text.endswith('"2\n'):
        assert read_table(path, ("target", "measured")).count == 2, "a quote that is not closed ends with the file"
        return
    with pytest.raises(DataError) as error:
        read_table(path, ("target", "measured"))
    assert WRONG[text] in str(error.value)
    assert str(error.value).count("\n") == 0
    assert str(path) in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "b.csv"
    binary.write_bytes(b"\xff\xfe\x00target")
    for path, message in (
        (tmp_path / "none.csv", "cannot be read"),
        (binary, "is not UTF-8 text"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(DataError, match=message):
            read_table(path, ("target",))


def test_too_little_is_told(tmp_path: Path) -> None:
    goals = np.linspace(1, 20, 30)
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: fit_pairs(read_pairs(written(tmp_path / "a.csv", goals[:5], goals[:5]))), "has 5 pairs"),
        (
            lambda: fit_pairs(read_pairs(written(tmp_path / "g.csv", goals, goals, "target_ms,measured_us"))),
            "is a unit wrong",
        ),
        (lambda: fit_pairs(read_pairs(written(tmp_path / "h.csv", goals, 0 * goals))), "hold 0 uS or less"),
        (
            lambda: fit_pairs(read_pairs(written(tmp_path / "b.csv", 0 * goals + 3, goals))),
            "all pairs of b.csv have the goal",
        ),
        (
            lambda: fit_retention(read_retention(written(tmp_path / "c.csv", goals, goals, "time_s,measured_us"))),
            "does not say what each cell held when it was new",
        ),
        (
            lambda: fit_retention(read_retention(written(tmp_path / "d.csv", goals, goals, "cell,time_s,measured_us"))),
            "line 2, column 'measured_us': no value",
        ),
        (
            lambda: fit_reads(read_reads(written(tmp_path / "e.csv", goals, goals, "cell,measured_us"))),
            "has 0 reads of cells that were read more than once",
        ),
    ]
    for call, message in cases:
        with pytest.raises(DataError, match=message):
            call()
    path = tmp_path / "f.csv"
    path.write_text(
        "cell,time_s,measured_us\n" + "".join(f"{i},1,5\n{i},10,5.{i}\n" for i in range(9)), encoding="utf-8"
    )
    with pytest.raises(DataError, match="has 9 reads after the first ones"):
        fit_retention(read_retention(path))


def test_exact_drift_is_a_power_law_and_no_table(tmp_path: Path) -> None:
    """Exponents that differ by rounding alone do not depend on the conductance."""
    start = np.random.default_rng(0).uniform(1.0, 20.0, 60)
    rows = [f"{cell},{t},{g * t**-0.05!r}" for cell, g in enumerate(start.tolist()) for t in (1.0, 10.0, 100.0, 1e3)]
    path = tmp_path / "later.csv"
    path.write_text("\n".join(["cell,time_s,measured_us", *rows]) + "\n", encoding="utf-8")
    found = fit_retention(read_retention(path))
    assert isinstance(found.law, PowerLaw)
    assert found.law.numbers() == pytest.approx({"exponent_mean": 0.05, "exponent_sigma": 0.0}, abs=1e-12)


def test_quantised_reads_without_spread_do_not_break_the_fit(tmp_path: Path) -> None:
    """Measurements on a coarse grid have groups whose errors are all the same."""
    goals = np.repeat(np.arange(1.0, 9.0), 20)
    found = fit_pairs(read_pairs(written(tmp_path / "a.csv", goals, goals)))
    assert found.levels == 8
    assert found.choice.fit.spread_at(np.array([0.5])) == pytest.approx(0.0, abs=1e-4)

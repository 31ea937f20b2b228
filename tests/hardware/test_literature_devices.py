"""Device models of the literature: against their formulas as published, and how a target takes one."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memcompile.errors import TargetError
from memcompile.hardware.conditions import Conditions
from memcompile.hardware.devices import builtin_devices, load_device
from memcompile.hardware.target import FIELDS, Target, load_target, parse_target
from memcompile.noise.cell_errors import drift_moments
from memcompile.runtime.effects.effect import WrittenArray
from memcompile.runtime.effects.programming_error import with_programming_error
from memcompile.runtime.effects.read_noise import read_sigma
from memcompile.runtime.effects.switches import Effects

Array = NDArray[np.float64]
CELLS = 40_000
DAY_S = 86_400.0
CHIP = tomllib.loads((resources.files("memcompile.hardware") / "targets" / "yao2020.toml").read_text(encoding="utf-8"))
OF_CELLS = ("programming", "read_noise", "write_verify", "drift")


def chip_of(device: str, **sections: dict[str, Any]) -> Target:
    """The reference chip with cells of a device, and some values that the chip writes itself."""
    values = {key: value for key, value in CHIP.items() if key not in OF_CELLS}
    values["cell"] = {"device": device, "levels": 8}
    values["sources"] = {}
    for section, changes in sections.items():
        values[section] = {**values.get(section, {}), **changes}
    return parse_target(values, device)


def cells_after(target: Target, goals_us: Array, time_s: float, seed: int = 1) -> Array:
    """Cells written to some goals, CELLS each, after some time, by the effects of the emulator."""
    goals = np.tile(goals_us, (CELLS, 1))
    cells = with_programming_error(goals, target.programming, target.cell, 0, seed)
    array = WrittenArray(target, 0, seed, seed, Conditions(time_s), goals, cells)
    for effect in Effects().aging():
        cells = effect.moved_us(cells, array)
    return cells


# --- formulas as published, evaluated by NumPy alone -----------------------------------------------


def pcm(goals: Array, time_s: float, rng: np.random.Generator) -> Array:
    """Nandakumar et al. (2019): drift by the conductance aimed at, 1/f noise by that which writing left."""
    x = np.maximum(goals / 25.0, 1e-7)
    g = np.maximum(goals + (0.26348 + 1.9650 * x - 1.1731 * x**2) * rng.standard_normal(goals.shape), 0.0)
    mean = np.clip(-0.0155 * np.log(x) + 0.0244, 0.049, 0.1)
    spread = np.clip(-0.0125 * np.log(x) - 0.0059, 0.008, 0.045)
    share = np.minimum(0.0088 / np.maximum(g / 25.0, 1e-7) ** 0.65, 0.2)
    if time_s > 20.0:
        g = g * (time_s / 20.0) ** -np.abs(mean + spread * rng.standard_normal(goals.shape))
    noise = share * np.sqrt(np.log((max(time_s, 20.0) + 250e-9) / 500e-9))
    return np.maximum(g * (1 + noise * rng.standard_normal(goals.shape)), 0.0)


def hermes(devices: int) -> Callable[[Array, float, np.random.Generator], Array]:
    g_max, first, programming = {
        2: (20.7, 300.0, (0.16603222, 4.71806468, -8.48101252, 4.68961419)),
        1: (10.35, 200.0, (0.15781817, 2.32443916, -2.16310839, 0.68841818)),
    }[devices]

    def formula(goals: Array, time_s: float, rng: np.random.Generator) -> Array:
        x = np.maximum(goals / g_max, 1e-7)
        log = np.log(x)
        sigma = np.polynomial.polynomial.polyval(x, programming)
        g = np.maximum(goals + sigma * rng.standard_normal(goals.shape), 0.0)
        mean = np.where(x < 0.0945, np.clip(-0.0387 * log - 0.0182, 0.072, 0.13), -0.0436 * x**2 - 0.0126 * x + 0.0736)
        y = np.maximum(g / g_max, 1e-7)
        if devices == 2:
            low, high = np.clip(-0.0117 * log - 0.0057, 0.0091, 0.04), -0.0118 * x**2 + 0.0093 * x + 0.0073
            spread = np.where(x < 0.3055, low, high)
            low = np.clip(-0.0117 * np.log(y) - 0.0069, 0.015, 0.04)
            share = np.where(y < 0.16, low, 0.0069 * y**3 - 0.0280 * y**2 + 0.0211 * y + 0.0123)
        else:
            low, high = np.clip(-0.0120 * log - 0.0023, 0.0124, 0.04), -0.0165 * x**2 + 0.0116 * x + 0.0104
            spread = np.where(x < 0.3039, low, high)
            low = np.clip(-0.0078 * np.log(y) + 0.0038, 0.0179, 0.04)
            share = np.where(y < 0.1591, low, 0.0664 * y**3 - 0.1352 * y**2 + 0.0768 * y + 0.0088)
        if time_s > first:
            g = g * (time_s / first) ** -np.abs(mean + spread * rng.standard_normal(goals.shape))
        noise = share * np.sqrt(np.log((max(time_s, first) + 512e-9) / (2 * 512e-9)))
        return np.maximum(g * (1 + noise * rng.standard_normal(goals.shape)), 0.0)

    return formula


WAN = {
    1.0: (0.348, 16.030, -43.853, 45.393, -16.815),
    DAY_S: (0.701, 22.086, -50.773, 47.095, -16.458),
    2 * DAY_S: (0.782, 20.274, -43.507, 37.062, -11.934),
}


def wan(goals: Array, time_s: float, rng: np.random.Generator) -> Array:
    """Whole spread at each time, its square linear in ln t between; constant after the last."""
    sigma = [np.polynomial.polynomial.polyval(goals[0] / 40.0, coefficients) for coefficients in WAN.values()]
    logs, now = np.log(list(WAN)), np.log(max(time_s, 1.0))
    variance = np.array([np.interp(now, logs, column) for column in np.square(sigma).T])
    return np.maximum(goals + np.sqrt(variance) * rng.standard_normal(goals.shape), 0.0)


def cmo(offset: float, slope: float) -> Callable[[Array, float, np.random.Generator], Array]:
    def formula(goals: Array, time_s: float, rng: np.random.Generator) -> Array:
        g = goals + (offset + slope * goals) * rng.standard_normal(goals.shape)
        if time_s >= 1.0:
            spread = 0.04201137 * np.log(time_s) + 0.41183342
            g = g - 0.08900206 * np.log(time_s) + spread * rng.standard_normal(goals.shape)
        noise = 0.0277316483 * np.log10(goals) * np.sqrt(np.log((max(time_s, 1.0) + 1e-6) / 2e-6))
        return np.maximum(g + noise * rng.standard_normal(goals.shape), 0.0)

    return formula


def sonos(goals: Array, time_s: float, rng: np.random.Generator) -> Array:
    """Currents in nA at 0.1 V, one day after programming or right after it."""
    current, (a, b) = 100.0 * goals, (19.88665, 176.3115)
    if time_s == DAY_S:
        drift = (1.72684e-01, 5.72552e-02, -6.85715e-04, 3.50271e-06, -9.37682e-09, 1.40575e-11, -1.19803e-14)
        drift += (5.41293e-18, -8.85448e-22, -1.66869e-25, 5.95180e-29)
        current, (a, b) = current + np.polynomial.polynomial.polyval(current, drift), (25.59102, 186.85544)
    sigma = a * (1 - np.exp(-current / b))
    return np.maximum(current + sigma * rng.standard_normal(goals.shape), 0.0) / 100.0


def programmed(offset: float, *coefficients: float) -> Callable[[Array, float, np.random.Generator], Array]:
    def formula(goals: Array, time_s: float, rng: np.random.Generator) -> Array:
        sigma = np.polynomial.polynomial.polyval(goals, (offset, *coefficients))
        return np.maximum(goals + sigma * rng.standard_normal(goals.shape), 0.0)

    return formula


YEAR_S = 365 * DAY_S
FORMULAS: dict[str, tuple[Callable[[Array, float, np.random.Generator], Array], tuple[float, ...]]] = {
    "pcm": (pcm, (0.0, 21.0, 3620.0, DAY_S, YEAR_S)),
    "hermes-unit-cell": (hermes(2), (0.0, 3900.0, DAY_S)),
    "hermes-one-device": (hermes(1), (0.0, 3900.0, DAY_S)),
    "rram-wan2022": (wan, (1.0, 3600.0, DAY_S, 2 * DAY_S, YEAR_S)),
    "cmo-hfox-0.2": (cmo(0.00081107, 0.00106879), (0.0, 1.0, 3600.0, DAY_S)),
    "cmo-hfox-2": (cmo(0.0112185391, 0.01129027418), (0.0, 1.0, 3600.0, DAY_S)),
    "sonos": (sonos, (1.0, 3600.0, DAY_S)),
    "rram-milo2021": (programmed(4.782321, -0.009107), (0.0, DAY_S)),
    "pcm-joshi2020": (programmed(0.28638599, 0.07585724, -0.00178767), (0.0, DAY_S)),
}


@pytest.mark.parametrize("device", builtin_devices())
def test_cells_have_the_mean_and_spread_of_the_published_formula(device: str) -> None:
    """Five standard errors of CELLS cells each in both, and the 1 % that a table may miss between its points."""
    formula, times = FORMULAS[device]
    target, rng = chip_of(device), np.random.default_rng(0)
    window = target.cell.g_max_us - target.cell.g_min_us
    goals_us = target.cell.g_min_us + window * np.array([0.0, 0.03, 0.11, 0.27, 0.5, 0.77, 1.0])
    for time_s in times:
        ours = cells_after(target, goals_us, time_s)
        theirs = formula(np.tile(goals_us, (CELLS, 1)), time_s, rng)
        spread = theirs.std(axis=0)
        error = 5 * np.sqrt(2 / CELLS)
        assert np.all(np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) <= error * spread + 2e-3 * goals_us), time_s
        kurtosis = ((theirs - theirs.mean(axis=0)) ** 4).mean(axis=0) / np.maximum(spread, 1e-12) ** 4
        of_spread = 5 * np.sqrt(np.maximum(kurtosis - 1, 1) / 2 / CELLS)
        assert np.all(np.abs(ours.std(axis=0) - spread) <= (of_spread + 0.01) * spread + 1e-3), time_s


def test_two_ports_of_one_publication_disagree() -> None:
    """Both fit the figure of Wan et al.; the device says which one it takes and why."""
    target = chip_of("rram-wan2022")
    ours = float(target.programming.sigma_at_us(np.array([20.0]), target.cell.reference_us)[0])
    other = 1.053 + 0.2374 * 20 - 0.01167 * 400 + 1.536e-4 * 8000
    assert ours == pytest.approx(2.02, abs=0.005)
    assert other == pytest.approx(2.36, abs=0.005)
    assert "2.36 against 2.02" in target.sources["programming.sigma_polynomial_us"]


def test_reads_of_sonos_cells_are_noisy_by_their_current() -> None:
    target = chip_of("sonos")
    cells = np.array([0.0, 1.3, 7.7, 16.0])
    expected = 12.58037 * (1 - np.exp(-100 * cells / 215.36557)) / 100
    assert read_sigma(cells / 0.5, target.read_noise, 0.5) * 0.5 == pytest.approx(expected, rel=0.01)


def test_moments_of_drift_are_those_of_its_draws() -> None:
    target = chip_of("pcm")
    assert target.drift is not None
    goals = np.array([0.3, 3.0, 20.0])
    nu = np.abs(
        target.drift.mean_at(goals) + target.drift.sigma_at(goals) * np.random.default_rng(0).normal(size=(10**6, 3))
    )
    factor = (DAY_S / 20.0) ** -nu
    first, second = drift_moments(target.drift, goals, DAY_S)
    assert first == pytest.approx(factor.mean(axis=0), rel=2e-3)
    assert second == pytest.approx((factor**2).mean(axis=0), rel=2e-3)


def test_noise_of_one_age_says_nothing_of_that_of_another_and_paths_continue() -> None:
    """1/f noise is drawn anew for each age; retention and drift keep one number a cell."""
    goals = np.array([10.0])
    noisy = [cells_after(chip_of("pcm"), goals, time_s).ravel() for time_s in (1000.0, 1000.0, 1100.0)]
    assert np.array_equal(noisy[0], noisy[1])
    quiet = cells_after(chip_of("pcm", flicker_noise={"share_table": [[1.0, 1e-9]]}), goals, 1000.0).ravel()
    assert abs(np.corrcoef(noisy[0] - quiet, noisy[2] - quiet)[0, 1]) < 0.1
    steps = [
        cells_after(chip_of("cmo-hfox-0.2", flicker_noise={"share_table": [[1.0, 1e-9]]}), goals, t) for t in (2.0, 1e6)
    ]
    assert np.corrcoef(*(step.ravel() for step in steps))[0, 1] > 0.99


# --- files and targets -----------------------------------------------------------------------------


@pytest.mark.parametrize("device", builtin_devices())
def test_every_device_says_where_each_number_is_from(device: str) -> None:
    values = load_device(device)
    assert values["name"] == device
    fields = {
        f"{s}.{key}" for s, inside in values.items() if isinstance(inside, dict) and s != "sources" for key in inside
    }
    assert fields == set(values["sources"]) <= set(FIELDS)
    ports = [why for why in values["sources"].values() if "aihwkit" in why or "CrossSim" in why]
    assert ports
    assert all("MIT" in why or "BSD-3" in why for why in ports)


def test_fields_of_the_chip_win_over_those_of_the_device() -> None:
    plain = chip_of("pcm")
    assert (plain.cell.g_max_us, plain.cell.levels) == (25.0, 8)
    assert plain.sources["drift.reference_s"].startswith("pcm: ")
    chip = chip_of("pcm", cell={"device": "pcm", "levels": 8, "g_max_us": 20.0}, programming={"sigma_us": 0.5})
    assert chip.cell.g_max_us == 20.0
    assert chip.programming.sigma_polynomial_us == (), "one of several ways to say the spread takes the place of all"
    assert np.all(chip.programming.sigma_at_us(np.array([0.0, 9.0]), chip.cell.reference_us) == 0.5)
    assert not {"cell.g_max_us", "programming.sigma_us"} & set(chip.sources)
    short = chip_of("pcm", drift={"exponent_mean": 0.02})
    assert short.drift is not None
    assert short.drift.exponent_mean_table == ()
    assert short.drift.exponent_sigma_table
    # Polynomials stay functions of the conductance, however much of the window a chip uses.
    narrow = chip_of("pcm", cell={"device": "pcm", "levels": 8, "g_max_us": 20.0})
    at = np.array([12.0])
    assert narrow.programming.sigma_at_us(at, narrow.cell.reference_us) == plain.programming.sigma_at_us(at, 25.0)


def test_target_with_a_device_survives_being_stored() -> None:
    target = chip_of("rram-wan2022")
    assert parse_target(target.model_dump(), "stored") == target
    assert target.with_(retention=None).retention is None, "left out on purpose"


def test_target_can_be_given_a_device() -> None:
    target = load_target("yao2020").with_(cell__device="pcm", cell__levels=6)
    assert (target.cell.g_max_us, target.cell.levels) == (25.0, 6)
    assert target.programming.sigma_polynomial_us == (0.26348, 1.965, -1.1731)
    assert target.programming.blank_share == load_target("yao2020").programming.blank_share
    assert target.emulated_pulses is None, "pulses of the former cells do not decide the error of the new ones"
    other = target.with_(cell__device="rram-milo2021")
    assert other.drift is None
    assert other.flicker_noise is None


def test_unknown_device_is_told_with_the_nearest_one() -> None:
    with pytest.raises(TargetError, match=r"cell\.device = 'pmc': no device is called so.*did you mean 'pcm'\?"):
        parse_target({**CHIP, "cell": {**CHIP["cell"], "device": "pmc"}}, "WHERE")


RETENTION = {
    "reference_s": 1.0,
    "times_s": [10.0, 20.0],
    "conductances_us": [1.0, 2.0],
    "mean_table_us": [[0, 0], [0, 0]],
    "sigma_table_us": [[0, 1], [0, 1]],
}
DRIFT = {"exponent_mean": 0, "exponent_sigma": 0, "reference_s": 1.0}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("retention", {**RETENTION, "times_s": [20.0, 10.0]}, "times_s: times must rise"),
    ("retention", {**RETENTION, "times_s": [0.5, 10.0]}, "times_s: times must rise, from after reference_s on"),
    ("retention", {**RETENTION, "conductances_us": [2.0, 1.0]}, "conductances_us: conductances must rise"),
    ("retention", {**RETENTION, "mean_table_us": [[0, 0]]}, "mean_table_us: must have 2 rows of 2 numbers"),
    ("retention", {**RETENTION, "sigma_table_us": [[0, 1], [0]]}, "sigma_table_us: must have 2 rows of 2 numbers"),
    (
        "retention",
        {**RETENTION, "sigma_table_us": [[0, -1], [0, 1]]},
        "sigma_table_us: a standard deviation is below 0",
    ),
    ("retention", {**RETENTION, "sigma_us": 1.0}, "mean_us and the like cannot be combined with tables"),
    ("retention", {"reference_s": 1.0, "times_s": [10.0]}, "tables need times_s and conductances_us"),
    ("drift", {**DRIFT, "exponent_mean_table": [[2, 0], [1, 0]]}, "exponent_mean_table: conductances must rise"),
    (
        "drift",
        {**DRIFT, "exponent_mean_table": [[0, 0]]},
        "exponent_mean_table: conductances must be at least 1e-09 uS",
    ),
    ("drift", {**DRIFT, "exponent_sigma_table": [[1, -1]]}, "exponent_sigma_table: a standard deviation is below 0"),
    (
        "flicker_noise",
        {"share_table": [[2, 1], [1, 1]], "read_s": 1e-6, "first_read_s": 1.0},
        "share_table: conductances must rise",
    ),
    (
        "programming",
        {"sigma_us": 0, "sigma_table_us": [[1, 1]], "sigma_polynomial_us": [1]},
        "sigma_table_us: cannot be combined with programming.sigma_polynomial_us",
    ),
    ("programming", {"sigma_us": 0, "sigma_table_us": [[1, -1]]}, "sigma_table_us: a standard deviation is below 0"),
    ("read_noise", {"sigma_us": 0, "sigma_table_us": [[1, 1], [1, 2]]}, "sigma_table_us: conductances must rise"),
]


@pytest.mark.parametrize(("section", "values", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_wrong_tables_are_told(section: str, values: dict[str, Any], message: str) -> None:
    changed = {**CHIP, section: values}
    with pytest.raises(TargetError) as error:
        parse_target({**changed, "sources": {}}, "WHERE")
    line = str(error.value).splitlines()[1].removeprefix(f"  - {section}")
    assert line.lstrip(".: ").startswith(message)

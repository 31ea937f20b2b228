"""Target files: strict keys, all errors at once, physics, and where every number is from."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from memcompile.errors import MemcompileError, TargetError, UsageError
from memcompile.hardware.converter_cost import area_ratio, energy_ratio
from memcompile.hardware.line_turns import LineTurns
from memcompile.hardware.target import (
    FIELDS,
    AreaSpec,
    ArraySpec,
    EnergySpec,
    Target,
    builtin_targets,
    load_target,
    load_target_file,
    parse_target,
)

TARGETS = resources.files("memcompile.hardware") / "targets"
REFERENCE = (TARGETS / "yao2020.toml").read_text(encoding="utf-8")
# Sections that a target may leave out.
OPTIONAL = (
    "write_verify",
    "relaxation",
    "retention",
    "drift",
    "flicker_noise",
    "read_disturb",
    "wires",
    "energy",
    "area",
)
ABSENT = ("relaxation", "retention", "drift", "flicker_noise", "read_disturb", "wires")
"""Those that the reference chip leaves out."""


def values(**sections: dict[str, Any] | None) -> dict[str, Any]:
    """The reference chip with some values changed; None drops a key, a whole section if given so."""
    found = tomllib.loads(REFERENCE)
    for section, changes in sections.items():
        if changes is None:
            del found[section]
            continue
        for key, value in changes.items():
            if value is None:
                del found[section][key]
            else:
                found.setdefault(section, {})[key] = value
    return found


def errors_of(changed: dict[str, Any]) -> list[str]:
    """The lines of the message with which a target is refused."""
    with pytest.raises(TargetError) as error:
        parse_target(changed, "WHERE")
    head, *lines = str(error.value).splitlines()
    count = len(lines)
    assert head == f"target WHERE has {count} error{'s' if count > 1 else ''}:"
    assert all(line.startswith("  - ") for line in lines)
    return [line.removeprefix("  - ") for line in lines]


# --- built-in targets --------------------------------------------------------------------------


def test_the_reference_chip_is_built_in() -> None:
    target = load_target("yao2020")
    assert (target.array.input_lines, target.array.output_lines, target.chip.arrays) == (16, 128, 8)
    assert target.array.cells == 2048
    assert target.signed_levels == 7
    assert target.slice_base() == 15
    assert target.cell.level_step_us == pytest.approx(18 / 7)


def section_of(target: Target, field: str) -> BaseModel:
    section = getattr(target, field.split(".", maxsplit=1)[0])
    assert isinstance(section, BaseModel)
    return section


@pytest.mark.parametrize("name", builtin_targets())
def test_every_built_in_target_says_where_each_number_is_from(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    absent = tuple(f"{section}." for section in OPTIONAL if getattr(target, section) is None)
    possible = {field for field in FIELDS if not field.startswith(absent)}
    left_out = {field for field in possible if field.split(".")[1] not in section_of(target, field).model_fields_set}
    assert possible - left_out <= set(target.sources) <= possible, "what a file leaves out needs no source"
    assert all(text.strip() for text in target.sources.values())


def test_reference_core_takes_the_published_energy_and_area() -> None:
    """The constants are shares of the paper's core of 128 x 128: 371.9 pJ a phase, 1,164 GOP/s/mm2."""
    target = load_target("yao2020")
    assert target.energy is not None
    assert target.area is not None
    assert target.energy.phase_pj(128, 128) == pytest.approx(371.9, abs=0.05)
    core = target.with_(array__input_lines=128)
    operations = 2 * core.array.cells / (target.input.bits * target.input.phase_ns)  # GOP/s
    assert core.array_mm2 is not None
    assert round(operations / core.array_mm2) == 1164


def test_isaac_adds_up_to_the_published_chip() -> None:
    """330 mW a tile of 96 arrays without links between chips, and 85.4 mm2: the sums of the tables of the paper."""
    target = load_target("isaac")
    energy, area_mm2 = target.energy, target.array_mm2
    assert energy is not None
    assert energy.buffer_pj is not None
    assert energy.link_pj is not None
    assert area_mm2 is not None
    assert area_mm2 * target.chip.arrays == pytest.approx(85.4, abs=0.05)
    # In sixteen phases of 100 ns an array reads 128 values of 16 bits and makes 16, which counts twice 8 bits.
    phases_pj = 16 * energy.phase_pj(128, 128)
    values_pj = 2 * (energy.buffer_pj * (128 + 16) + energy.link_pj * 16)
    assert 96 * (phases_pj + values_pj) / 1600 == pytest.approx(330, rel=0.002)
    assert (target.converters, LineTurns.of(target).most_steps) == (1, 1), "a cycle holds all 128 conversions"


def test_energy_grows_with_lines_and_cells() -> None:
    energy = EnergySpec(
        array_pj=1.0, cell_pj=10.0, driver_pj=100.0, sample_hold_pj=1e3, conversion_pj=1e4, shift_add_pj=1e5
    )
    assert energy.phase_pj(0, 0) == 1.0
    assert energy.phase_pj(2, 3) == 1.0 + 10.0 * 6 + 100.0 * 2 + 111e3 * 3


def test_area_grows_with_lines_and_cells_whether_used_or_not() -> None:
    area = AreaSpec(array_um2=1.0, cell_um2=10.0, input_line_um2=1e3, output_line_um2=1e5)
    assert area.array_mm2(ArraySpec(input_lines=3, output_lines=4)) == pytest.approx((1 + 120 + 3e3 + 4e5) * 1e-6)
    converters = area.model_copy(update={"converter_um2": 2e6}).array_mm2(ArraySpec(input_lines=3, output_lines=4), 2)
    assert converters == pytest.approx((1 + 120 + 3e3 + 4e5 + 4e6) * 1e-6)


PRICED = [name for name in builtin_targets() if load_target(name).energy is not None]
BITS = [2, 4, 7, 8, 9, 12, 16]


@pytest.mark.parametrize("name", PRICED)
def test_energy_and_area_grow_with_the_bits_of_converters(name: str) -> None:
    target = load_target(name)
    energy = [target.with_(adc__bits=bits).scaled_energy for bits in BITS]
    sums = [each.phase_pj(target.array.input_lines, target.array.output_lines) for each in energy if each]
    assert len(sums) == len(BITS)
    assert (np.diff(sums) > 0).all()
    assert target.energy is not None
    assert target.scaled_energy == target.energy, "the published point is kept"
    if target.area is None:
        assert target.array_mm2 is None
        return
    areas = [target.with_(adc__bits=bits).array_mm2 for bits in BITS]
    assert (np.diff([area for area in areas if area is not None]) > 0).all()
    fewer = target.with_(adc__lines_per_converter=target.array.output_lines).array_mm2
    assert fewer is not None
    assert target.adc.lines_per_converter == target.array.output_lines or fewer < areas[BITS.index(8)]


def test_the_survey_of_converters_doubles_energy_at_few_bits_and_quadruples_it_at_many() -> None:
    assert energy_ratio(3, 2) == pytest.approx(2, rel=0.01)
    assert energy_ratio(16, 15) == pytest.approx(4, rel=0.02)
    assert energy_ratio(11, 10) == pytest.approx(3), "half of each at ten bits"
    assert energy_ratio(8, 8) == area_ratio(8, 8) == 1.0
    # Few bits: 2^0.4237 * 0.8742 a bit; many: 4^0.4237 * 0.8742.
    assert area_ratio(3, 2) == pytest.approx(1.173, rel=0.01)
    assert area_ratio(16, 15) == pytest.approx(1.573, rel=0.01)


@pytest.mark.parametrize("name", PRICED)
def test_cells_take_energy_as_long_as_a_phase_lasts(name: str) -> None:
    """Drivers and converters take theirs once a phase; a published point is kept."""
    target = load_target(name).with_(energy__cell_pj=0.01)
    longer = target.with_(input__phase_ns=3 * target.input.phase_ns)
    assert longer.energy is not None
    assert longer.energy.at_phase_ns == target.input.phase_ns
    before, after = target.scaled_energy, longer.scaled_energy
    assert before is target.energy
    assert after is not None
    assert after.cell_pj == pytest.approx(0.03)
    assert after.phase_pj(7, 5) - target.energy.phase_pj(7, 5) == pytest.approx(0.02 * 35)
    back = longer.with_(input__phase_ns=target.input.phase_ns)
    assert back.scaled_energy is not None
    assert back.scaled_energy.cell_pj == 0.01
    # A constant that comes with the new phase is meant for it.
    new = target.with_(input__phase_ns=1.0, energy={"cell_pj": 0.5})
    assert new.scaled_energy is new.energy


def test_constants_stay_those_of_the_bits_they_were_given_for() -> None:
    """A file that does not name the bits of its constants means its own; changing these leaves the constants."""
    target = load_target("yao2020").with_(energy__at_bits=None, area__at_bits=None)
    assert target.scaled_energy is target.energy
    wider = target.with_(adc__bits=10)
    assert wider.energy is not None
    assert wider.area is not None
    assert (wider.energy.at_bits, wider.area.at_bits) == (8, 8)
    assert wider.scaled_energy is not None
    assert wider.scaled_energy.conversion_pj == pytest.approx(2.55 * energy_ratio(10, 8))
    # Constants that come with the new bits are meant for them.
    new = target.with_(adc__bits=10, energy={"conversion_pj": 9.0}, area=None)
    assert new.scaled_energy is new.energy
    assert new.array_mm2 is None


def test_fields_are_the_leaves_of_all_sections() -> None:
    assert {"array.input_lines", "cell.levels", "wires.input_segment_ohm", "drift.reference_s"} <= set(FIELDS)
    assert len(FIELDS) == len(set(FIELDS))
    assert not {"name", "title", "sources"} & set(FIELDS)
    for field in FIELDS:
        assert len(field.split(".")) == 2


# --- errors ------------------------------------------------------------------------------------


def test_all_schema_errors_are_told_at_once_with_path_value_and_mend() -> None:
    changed = values(
        array={"input_lines": 0, "output_lines": "many", "cells": 2048},
        chip=None,
        cell={"levels": 8.5, "g_max_us": -1.0, "g_min_us": None},
        input={"bits": 9},
        adc={"bits": True},
        faults={"stuck_low_share": 1.5},
        read_noise={"lasts": "forever"},
    )
    changed["colour"] = "blue"
    lines = dict(line.split(":", 1) for line in errors_of(changed))
    assert lines == {
        "array.input_lines = 0": " input should be greater than or equal to 1",
        "array.output_lines = 'many'": " input should be a valid integer",
        "array.cells = 2048": " no such key; remove it or correct its spelling",
        "chip": " missing; add it",
        "cell.levels = 8.5": " input should be a valid integer",
        "cell.g_max_us = -1.0": " input should be greater than or equal to 0.000000001",
        "cell.g_min_us": " missing; add it",
        "input.bits = 9": " input should be less than or equal to 8",
        "adc.bits = True": " input should be a valid integer",
        "faults.stuck_low_share = 1.5": " input should be less than or equal to 1",
        "read_noise.lasts = 'forever'": " input should be 'phase' or 'step'",
        "colour = 'blue'": " no such key; remove it or correct its spelling",
    }


def test_all_physics_errors_are_told_at_once() -> None:
    changed = values(
        array={"output_lines": 127},
        cell={"g_min_us": 30.0},
        input={"bits": 4, "bits_per_phase": 5},
        faults={"stuck_low_share": 0.6, "stuck_high_share": 0.7},
        sources={"cell.colour": "nowhere"},
    )
    changed["write_verify"]["margin_us"] = 0.25
    lines = errors_of(changed)
    expected = (
        ("cell.g_min_us = 30.0", "below cell.g_max_us = 20.0", "lower end first"),
        ("input.bits_per_phase = 5", "not be above input.bits = 4", "at most all of them"),
        ("array.output_lines = 127", "must be even", "drop the odd line"),
        ("faults.stuck_low_share + faults.stuck_high_share = 1.2999", "at most 1", "shares of all cells"),
        ("write_verify.margin_us = 0.25", "at least half a pulse, 0.28125", "widen the margin"),
        ("sources.'cell.colour'", "no such field", "name a field as section.field"),
    )
    assert len(lines) == len(expected)
    for line, parts in zip(lines, expected, strict=True):
        assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("programming", "message"),
    [
        ({"mean_table_us": [[2.0, 0.1], [2.0, 0.2]]}, "conductances must rise from point to point"),
        ({"mean_table_us": [[2.0, 0.1]], "mean_polynomial_us": [0.1]}, "cannot be combined with"),
    ],
)
def test_means_of_the_programming_error_are_checked(programming: dict[str, Any], message: str) -> None:
    (line,) = errors_of(values(programming=programming))
    assert message in line


def test_a_curve_that_is_a_switch_is_refused() -> None:
    """40 per volt at 0.2 V is what devices have at most, several times over; 300 is a mistake of units."""
    assert parse_target(values(cell={"nonlinearity_per_v": 40.0}), "WHERE").cell.nonlinearity_per_v == 40.0
    assert errors_of(values(cell={"nonlinearity_per_v": 300.0})) == [
        "cell.nonlinearity_per_v * input.read_voltage_v = 60: must not be above 50, beyond which a digit below the "
        "highest drives next to nothing; lower one of them"
    ]


def test_a_signed_converter_has_two_bits_or_more() -> None:
    assert parse_target(values(array={"pairs": "crossings"}, adc={"bits": 2}), "WHERE").adc.bits == 2
    assert errors_of(values(array={"pairs": "crossings"}, adc={"bits": 1})) == [
        "adc.bits = 1: must be at least 2 where a line carries the difference of a pair "
        '(array.pairs = "crossings"); one of them is the sign; give 2 or more'
    ]
    odd = parse_target(values(array={"pairs": "crossings", "output_lines": 127}), "WHERE")
    assert odd.array.cell_columns == 254


@pytest.mark.parametrize("range_of", ["full", True, None, 1.0])
def test_a_range_has_one_of_three_names(range_of: object) -> None:
    changed = values()
    changed["adc"]["range"] = range_of
    (line,) = errors_of(changed)
    assert line == f"adc.range = {range_of!r}: input should be 'fixed', 'aligned' or 'calibrated'"


@pytest.mark.parametrize("section", ["array", "chip", "cell", "input", "adc", "programming", "faults", "read_noise"])
def test_unknown_keys_are_refused_in_every_section(section: str) -> None:
    assert errors_of(values(**{section: {"sigma": 1.0}})) == [
        f"{section}.sigma = 1.0: no such key; remove it or correct its spelling"
    ]


@pytest.mark.parametrize("field", [field for field in FIELDS if not field.startswith(ABSENT)])
@pytest.mark.parametrize("value", [float("nan"), float("-inf"), -1, [], {"a": 1}], ids=str)
def test_no_field_takes_nonsense(field: str, value: object) -> None:
    section, key = field.split(".")
    if value == [] and section in ("programming", "read_noise") and key.endswith(("_polynomial_us", "_table_us")):
        return  # no polynomial, no table
    lines = errors_of(values(**{section: {key: value}}))
    assert len(lines) == 1
    assert lines[0].startswith(f"{field}")


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "x" * 65])
def test_names_are_plain_words(name: str) -> None:
    changed = values()
    changed["name"] = name
    assert len(errors_of(changed)) == 1


def test_optional_sections_are_strict_too() -> None:
    assert errors_of(values(wires={"input_segment_ohm": 1.0, "ohm": 2.0})) == [
        "wires.output_segment_ohm: missing; add it",
        "wires.ohm = 2.0: no such key; remove it or correct its spelling",
    ]
    wired = parse_target(values(wires={"input_segment_ohm": 1.0, "output_segment_ohm": 2.0}), "WHERE")
    assert wired.wires is not None
    assert wired.wires.output_segment_ohm == 2.0
    assert parse_target(values(), "WHERE").wires is None
    assert errors_of(values(energy={"adc_pj": 2.0, "cell_pj": -1.0})) == [
        "energy.cell_pj = -1.0: input should be greater than or equal to 0",
        "energy.adc_pj = 2.0: no such key; remove it or correct its spelling",
    ]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.sampled_from(FIELDS),
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                 lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)),
)  # fmt: skip
def test_any_value_gives_a_target_or_an_error_that_names_the_field(field: str, value: Any) -> None:
    section, key = field.split(".")
    changed = tomllib.loads(REFERENCE)
    changed.setdefault(section, {})[key] = value
    try:
        assert isinstance(parse_target(changed, "WHERE"), Target)
    except TargetError as error:
        assert section in str(error)


# --- files -------------------------------------------------------------------------------------


@pytest.fixture
def target_file(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "target.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_a_file_is_read(target_file: Callable[[str | bytes], Path]) -> None:
    assert load_target(str(target_file(REFERENCE))) == load_target("yao2020")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("levels = ", "is not TOML"),
        ("a = 1\na = 2", "is not TOML"),
        ("x = " + "[" * 5000, "is not TOML"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        ("# " + "x" * 1_000_001, "is larger than 1000000 bytes"),
        ("", "has 11 errors"),
    ],
    ids=["cut", "twice", "deep", "not UTF-8", "large", "empty"],
)
def test_bad_files(target_file: Callable[[str | bytes], Path], content: str | bytes, message: str) -> None:
    path = target_file(content)
    with pytest.raises(TargetError, match=message) as error:
        load_target_file(path)
    assert str(path) in str(error.value)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    for name, reason in (("missing.toml", "No such file"), ("folder.toml", "s a directory")):
        with pytest.raises(TargetError, match=f"{name} cannot be read: .*{reason}"):
            load_target(str(tmp_path / name))


@pytest.mark.parametrize("name", ["yao", "", "../targets/yao2020", "yao2020.TOML"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match=r"built in are .*yao2020"):
        load_target(name)


def test_errors_have_their_own_exit_code() -> None:
    assert issubclass(TargetError, MemcompileError)
    assert TargetError.exit_code == 5


@pytest.mark.parametrize("value", [1e13, 1e300, 1e-300])
def test_numbers_that_nothing_physical_has_are_refused(value: float) -> None:
    (line,) = errors_of(values(input={"read_voltage_v": value}))
    limit = "less than or equal to 1000000000000" if value > 1 else "greater than or equal to 0.000000001"
    assert line == f"input.read_voltage_v = {value}: input should be {limit}"

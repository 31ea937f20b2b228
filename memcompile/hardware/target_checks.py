"""Checks of a target: errors of its schema, and of values that no key alone shows to be wrong, all at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from memcompile.errors import did_you_mean
from memcompile.hardware.aging_sections import LEAST_G_US, RetentionSpec
from memcompile.hardware.devices import builtin_devices
from memcompile.hardware.target_sections import fields_of

if TYPE_CHECKING:
    from memcompile.hardware.target import Target, WriteVerifySpec

MAX_SHARPNESS = 50.0
"""Largest product of cell.nonlinearity_per_v and read voltage; devices are below 10."""

# Fields that a target with continuous cells leaves at zero or empty, and sections that it leaves out.
ERROR_FIELDS = (
    "cell.nonlinearity_per_v",
    "input.dac_sigma_share",
    "adc.gain_sigma_share",
    "adc.offset_sigma_codes",
    "programming.sigma_us",
    "programming.sigma_proportional_share",
    "faults.stuck_low_share",
    "faults.stuck_high_share",
    "faults.dead_input_line_share",
    "faults.dead_output_line_share",
    "read_noise.sigma_us",
    "read_noise.proportional_share",
    "programming.sigma_polynomial_us",
    "programming.sigma_table_us",
    "programming.mean_polynomial_us",
    "programming.mean_table_us",
    "read_noise.sigma_table_us",
)
ERROR_SECTIONS = ("write_verify", "relaxation", "retention", "drift", "flicker_noise", "read_disturb", "wires")


def schema_errors(error: ValidationError) -> list[str]:
    """Errors of keys and of values that are wrong by themselves."""
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "missing":
            lines.append(f"{path}: missing; add it")
            continue
        mend = item["msg"][0].lower() + item["msg"][1:]
        if item["type"] == "extra_forbidden":
            mend = "no such key; remove it or correct its spelling"
        lines.append(f"{path} = {item['input']!r}: {mend}")
    return lines


def target_errors(target: Target) -> list[str]:
    """Errors of values that the schema allows."""
    return [
        *_device_errors(target),
        *_cell_and_line_errors(target),
        *_continuous_errors(target),
        *_sharing_errors(target),
        *_fault_errors(target),
        *_table_errors(target),
        *_drift_errors(target),
        *_flicker_errors(target),
        *_retention_errors(target.retention),
        *_pulse_errors(target.write_verify),
        *_write_again_errors(target),
        *_source_errors(target),
    ]


def _device_errors(target: Target) -> list[str]:
    name = target.cell.device
    if name is None or name in builtin_devices():
        return []
    known = builtin_devices()
    return [
        f"cell.device = {name!r}: no device is called so; built in are {', '.join(known)}{did_you_mean(name, known)}"
    ]


def _cell_and_line_errors(target: Target) -> list[str]:
    """Windows, voltages, phases and lines that contradict each other."""
    errors = []
    cell, array = target.cell, target.array
    if cell.g_min_us >= cell.g_max_us:
        errors.append(
            f"cell.g_min_us = {cell.g_min_us}: must be below cell.g_max_us = {cell.g_max_us}; "
            "give the window's lower end first"
        )
    sharpness = cell.nonlinearity_per_v * target.input.read_voltage_v
    if sharpness > MAX_SHARPNESS:
        errors.append(
            f"cell.nonlinearity_per_v * input.read_voltage_v = {sharpness:g}: must not be above {MAX_SHARPNESS:g}, "
            "beyond which a digit below the highest drives next to nothing; lower one of them"
        )
    if target.input.bits_per_phase > target.input.bits:
        errors.append(
            f"input.bits_per_phase = {target.input.bits_per_phase}: must not be above input.bits = "
            f"{target.input.bits}; give the bits of a phase, at most all of them"
        )
    if array.signed_lines and target.adc.bits < 2:
        errors.append(
            f"adc.bits = {target.adc.bits}: must be at least 2 where a line carries the difference of a pair "
            '(array.pairs = "crossings"); one of them is the sign; give 2 or more'
        )
    if array.lines_per_pair == 2 and array.output_lines % 2:
        errors.append(
            f"array.output_lines = {array.output_lines}: must be even, because a differential pair "
            "takes two neighbouring output lines; drop the odd line"
        )
    return errors


def _continuous_errors(target: Target) -> list[str]:
    """Errors that ideal cells do not have."""
    if not target.cell.continuous:
        return []
    values = target.model_dump()
    errors = []
    if target.cell.levels != 2:
        errors.append(
            f"cell.levels = {target.cell.levels}: must be 2, the ends of the window, because cell.continuous is true"
        )
    for field in ERROR_FIELDS:
        section, name = field.split(".")
        value = values[section][name]
        if np.any(value):
            wrong = f"{field}: must be empty" if isinstance(value, tuple) else f"{field} = {value}: must be 0"
            errors.append(f"{wrong}, because cell.continuous is true")
    errors += [
        f"{section}: cannot be combined with cell.continuous; remove the section"
        for section in ERROR_SECTIONS
        if values[section] is not None
    ]
    return errors


def _sharing_errors(target: Target) -> list[str]:
    """Parts of an array that are larger than the array."""
    array = target.array
    limits = (
        ("array.rows_at_once", array.rows_at_once, "array.input_lines", array.input_lines),
        ("array.columns_at_once", array.columns_at_once, "array.output_lines", array.output_lines),
        ("adc.lines_per_converter", target.adc.lines_per_converter, "array.output_lines", array.output_lines),
    )
    return [
        f"{name} = {value}: must not be above {of} = {most}; give the part that works at once, at most all of them"
        for name, value, of, most in limits
        if value is not None and value > most
    ]


def _fault_errors(target: Target) -> list[str]:
    stuck = target.faults.stuck_low_share + target.faults.stuck_high_share
    if stuck <= 1:
        return []
    return [f"faults.stuck_low_share + faults.stuck_high_share = {stuck}: at most 1; they are shares of all cells"]


def _table_errors(target: Target) -> list[str]:
    """Errors of tables by conductance, and of tables beside what they replace."""
    programming = target.programming
    errors = [
        f"programming.{name}_table_us: cannot be combined with programming.{name}_polynomial_us; give one of them"
        for name in ("mean", "sigma")
        if getattr(programming, f"{name}_table_us") and getattr(programming, f"{name}_polynomial_us")
    ]
    for field in ("programming.mean_table_us", "programming.sigma_table_us", "read_noise.sigma_table_us"):
        section, name = field.split(".")
        points = getattr(getattr(target, section), name)
        errors += _rising_errors(field, [at for at, _ in points], -math.inf)
        if name.startswith("sigma"):
            errors += _negative_errors(field, [sigma for _, sigma in points])
    return errors


def _drift_errors(target: Target) -> list[str]:
    errors: list[str] = []
    spec = target.drift
    if spec is None:
        return errors
    for name in ("exponent_mean_table", "exponent_sigma_table"):
        errors += _rising_errors(f"drift.{name}", [at for at, _ in getattr(spec, name)], LEAST_G_US)
    return errors + _negative_errors("drift.exponent_sigma_table", [sigma for _, sigma in spec.exponent_sigma_table])


def _flicker_errors(target: Target) -> list[str]:
    spec = target.flicker_noise
    return [] if spec is None else _rising_errors("flicker_noise.share_table", [at for at, _ in spec.share_table])


def _retention_errors(spec: RetentionSpec | None) -> list[str]:
    if spec is None or not (spec.times_s or spec.conductances_us or spec.mean_table_us or spec.sigma_table_us):
        return []
    if not (spec.times_s and spec.conductances_us):
        return ["retention: tables need times_s and conductances_us; give both, or no table"]
    errors = []
    if any((spec.mean_us, spec.mean_per_ln_us, spec.sigma_us, spec.sigma_per_ln_us)):
        errors.append("retention: mean_us and the like cannot be combined with tables; give one of them")
    if not _rise((spec.reference_s, *spec.times_s)):
        errors.append("retention.times_s: times must rise, from after reference_s on; sort them, each once")
    errors += _rising_errors("retention.conductances_us", spec.conductances_us)
    for name in ("mean_table_us", "sigma_table_us"):
        rows = getattr(spec, name)
        if len(rows) != len(spec.times_s) or any(len(row) != len(spec.conductances_us) for row in rows):
            errors.append(
                f"retention.{name}: must have {len(spec.times_s)} rows of {len(spec.conductances_us)} numbers, "
                f"a row for each of times_s and a number for each of conductances_us"
            )
    return errors + _negative_errors("retention.sigma_table_us", [*itertools.chain(*spec.sigma_table_us)])


def _pulse_errors(pulses: WriteVerifySpec | None) -> list[str]:
    if pulses is None:
        return []
    step = max(pulses.set_step_us, pulses.reset_step_us)
    if 2 * pulses.margin_us >= step:
        return []
    return [
        f"write_verify.margin_us = {pulses.margin_us}: must be at least half a pulse, {step / 2:g}, "
        "or a cell jumps over its goal for ever; widen the margin or weaken the pulses"
    ]


def _write_again_errors(target: Target) -> list[str]:
    spec = target.programming
    if spec.write_again_share == 0:
        return []
    start = f"programming.write_again_share = {spec.write_again_share:g}: "
    if target.emulated_pulses is not None:
        return [f"{start}pulses already end within a margin; leave it at 0, or set write_verify.emulated = false"]
    if not spec.error_stays:
        return [f"{start}cells do not keep the error that is read back; leave it at 0, or set error_stays = true"]
    return []


def _source_errors(target: Target) -> list[str]:
    return [
        f"sources.{name!r}: no such field; name a field as section.field, such as cell.levels"
        for name in sorted(set(target.sources) - set(fields_of(type(target))))
    ]


def _rising_errors(name: str, conductances_us: Sequence[float], least: float = 0.0) -> list[str]:
    """Errors of conductances that have to rise from a number on."""
    if not _rise(conductances_us):
        return [f"{name}: conductances must rise from point to point; sort them, each once"]
    if conductances_us and conductances_us[0] < least:
        return [f"{name}: conductances must be at least {least:g} uS, because their logarithm counts; give others"]
    return []


def _rise(numbers: Sequence[float]) -> bool:
    return all(a < b for a, b in itertools.pairwise(numbers))


def _negative_errors(name: str, sigmas: Sequence[float]) -> list[str]:
    below = any(sigma < 0 for sigma in sigmas)
    return [f"{name}: a standard deviation is below 0; give 0 or more"] if below else []

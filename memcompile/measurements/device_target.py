"""A target whose cells are those that were measured."""

from __future__ import annotations

from typing import Any

from memcompile.hardware.devices import AGING
from memcompile.hardware.target import Target, parse_target
from memcompile.measurements.pairs import PairsFit
from memcompile.measurements.reads import ReadsFit
from memcompile.measurements.retention import RetentionFit

DIGITS = 6
"""Significant digits of fitted numbers."""


def measured_target(
    name: str, base: Target, pairs: PairsFit, reads: ReadsFit | None = None, retention: RetentionFit | None = None
) -> Target:
    """A target like another one, with the cells that were measured.

    Aging of the other target's cells goes; its read noise stays, as a share of the window, where reads were not
    measured. Pulses only price writes then.
    """
    values = base.model_dump()
    sources = {field: f"as {base.name}: {why}" for field, why in base.sources.items()}
    of_pairs = f"measured, N={pairs.count}, {pairs.name}"
    window = (pairs.g_max_us - pairs.g_min_us) / (base.cell.g_max_us - base.cell.g_min_us)
    values |= {"name": name, "title": f"{base.title}; cells of {pairs.name}"}
    _put(values, sources, "cell", {"g_min_us": pairs.g_min_us, "g_max_us": pairs.g_max_us}, of_pairs)
    told = of_pairs if pairs.levels_measured else f"derived: levels two standard deviations apart, {of_pairs}"
    _put(values, sources, "cell", {"levels": pairs.levels}, told)
    _put(values, sources, "cell", {"device": None, "g_reference_us": None}, "")
    kept = {"blank_share": base.programming.blank_share}
    _replace(
        values,
        sources,
        "programming",
        kept,
        {field: _short(value) for field, value in pairs.programming().items()},
        of_pairs,
    )
    stuck = {"stuck_low_share": pairs.stuck_low / pairs.count, "stuck_high_share": pairs.stuck_high / pairs.count}
    _put(values, sources, "faults", stuck, f"{of_pairs}, outliers at the ends of the window")
    _put_reads(values, sources, base, reads, window)
    for section in AGING:
        values[section] = None
    if retention is not None:
        for section, fields in retention.sections.items():
            why = f"measured, N={len(retention.changes.time_s)}, {retention.name}: {retention.law.name}"
            values[section] = {}
            _put(values, sources, section, {field: _short(value) for field, value in fields.items()}, why)
    if values["write_verify"] is not None:
        _put(values, sources, "write_verify", {"emulated": False}, "programming has what was measured")
    present = {
        f"{section}.{field}" for section, inside in values.items() if isinstance(inside, dict) for field in inside
    }
    values["sources"] = {field: why for field, why in sources.items() if field in present}
    return parse_target(values, name)


def _put_reads(
    values: dict[str, Any], sources: dict[str, str], base: Target, reads: ReadsFit | None, window: float
) -> None:
    noise = base.read_noise
    if reads is not None:
        why = f"measured, N={reads.count}, {reads.name}"
        fields = {field: _short(value) for field, value in reads.read_noise().items()}
        _replace(values, sources, "read_noise", {"lasts": noise.lasts}, fields, why)
        return
    why = f"assumption: the share of the window that {base.name} has; give --reads to measure it"
    fields = {"sigma_us": _short(noise.sigma_us * window), "proportional_share": noise.proportional_share}
    if noise.sigma_table_us:
        fields = {"sigma_us": _short(max(sigma for _, sigma in noise.sigma_table_us) * window)}
    _replace(values, sources, "read_noise", {"lasts": noise.lasts}, fields, why)


def _put(values: dict[str, Any], sources: dict[str, str], section: str, fields: dict[str, Any], why: str) -> None:
    values[section] = {**(values[section] or {}), **fields}
    for field, value in fields.items():
        if value is None:
            sources.pop(f"{section}.{field}", None)
        else:
            sources[f"{section}.{field}"] = why


def _replace(
    values: dict[str, Any],
    sources: dict[str, str],
    section: str,
    kept: dict[str, Any],
    fields: dict[str, Any],
    why: str,
) -> None:
    """Give a section some fields of old and some of new, and no other."""
    for field in values[section]:
        if field not in kept:
            sources.pop(f"{section}.{field}", None)
    values[section] = dict(kept)
    _put(values, sources, section, fields, why)


def _short(value: Any) -> Any:
    """Numbers with as many digits as a fit is worth, also inside of lists."""
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value

"""A target whose cells are those that were measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memcompile.hardware.devices import AGING
from memcompile.hardware.target import Target, parse_target
from memcompile.measurements.pairs import PairsFit
from memcompile.measurements.reads import ReadsFit
from memcompile.measurements.retention import RetentionFit

DIGITS = 6
"""Significant digits of fitted numbers."""


@dataclass(frozen=True)
class _Draft:
    """Values of a target, and sources of its fields, to be changed."""

    values: dict[str, Any]
    sources: dict[str, str]

    def put(self, section: str, fields: dict[str, Any], why: str) -> None:
        """Give fields of a section, None for one that is left out."""
        self.values[section] = {**(self.values[section] or {}), **fields}
        for field, value in fields.items():
            if value is None:
                self.sources.pop(f"{section}.{field}", None)
            else:
                self.sources[f"{section}.{field}"] = why

    def replace(self, section: str, kept: str, fields: dict[str, Any], why: str) -> None:
        """Give a section other fields, and leave it one of its own."""
        for field in self.values[section].keys() - {kept}:
            self.sources.pop(f"{section}.{field}", None)
        self.values[section] = {kept: self.values[section][kept]}
        self.put(section, fields, why)

    def target(self) -> Target:
        """The target, with sources of the fields that it has."""
        sections = ((section, inside) for section, inside in self.values.items() if isinstance(inside, dict))
        present = {f"{section}.{field}" for section, inside in sections for field in inside}
        sources = {field: why for field, why in self.sources.items() if field in present}
        return parse_target({**self.values, "sources": sources}, self.values["name"])


def measured_target(
    name: str, base: Target, pairs: PairsFit, reads: ReadsFit | None = None, retention: RetentionFit | None = None
) -> Target:
    """A target like another one, with the cells that were measured.

    Aging of the other target's cells goes; its read noise stays, as a share of the window, where reads were not
    measured. Pulses only price writes then.
    """
    draft = _Draft(base.model_dump(), {field: f"as {base.name}: {why}" for field, why in base.sources.items()})
    draft.values.update(name=name, title=f"{base.title}; cells of {pairs.name}")
    _put_pairs(draft, pairs)
    _put_reads(draft, base, pairs, reads)
    for section in AGING:
        draft.values[section] = None
    if retention is not None:
        law = retention.law
        why = f"measured, N={len(retention.changes.time_s)}, {retention.name}: {law.name}"
        draft.put(law.section, _short(law.fields()), why)
    if draft.values["write_verify"] is not None:
        draft.put("write_verify", {"emulated": False}, "programming has what was measured")
    return draft.target()


def _put_pairs(draft: _Draft, pairs: PairsFit) -> None:
    """Window, levels, error of writing and stuck cells."""
    why = f"measured, N={pairs.count}, {pairs.name}"
    draft.put("cell", {"g_min_us": pairs.g_min_us, "g_max_us": pairs.g_max_us}, why)
    told = why if pairs.levels_measured else f"derived: levels two standard deviations apart, {why}"
    draft.put("cell", {"levels": pairs.levels}, told)
    draft.put("cell", {"device": None, "g_reference_us": None}, "")
    draft.replace("programming", "blank_share", _short(pairs.programming()), why)
    stuck = {"stuck_low_share": pairs.stuck_low / pairs.count, "stuck_high_share": pairs.stuck_high / pairs.count}
    draft.put("faults", stuck, f"{why}, outliers at the ends of the window")


def _put_reads(draft: _Draft, base: Target, pairs: PairsFit, reads: ReadsFit | None) -> None:
    """Read noise that was measured, or that of the other target's window."""
    if reads is not None:
        draft.replace("read_noise", "lasts", _short(reads.read_noise()), f"measured, N={reads.count}, {reads.name}")
        return
    noise, window = base.read_noise, (pairs.g_max_us - pairs.g_min_us) / (base.cell.g_max_us - base.cell.g_min_us)
    fields = {"sigma_us": _short(noise.sigma_us * window), "proportional_share": noise.proportional_share}
    if noise.sigma_table_us:
        fields = {"sigma_us": _short(max(sigma for _, sigma in noise.sigma_table_us) * window)}
    why = f"assumption: the share of the window that {base.name} has; give --reads to measure it"
    draft.replace("read_noise", "lasts", fields, why)


def _short(value: Any) -> Any:
    """Numbers with as many digits as a fit is worth, also inside of lists and sections."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value

"""Device models of the literature: fields of cells and their errors that a target takes by a name.

`cell.device` in a target names a file of ``targets/devices``. What the target writes itself wins over the device. Where
several fields are alternatives, such as a polynomial and a table of one quantity, they win together: a target that
writes one of them takes none from the device.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

Values = dict[str, Any]

ALTERNATIVES: tuple[tuple[str, frozenset[str]], ...] = (
    (
        "programming",
        frozenset({"sigma_us", "sigma_proportional_share", "sigma_polynomial_us", "sigma_table_us"}),
    ),
    ("programming", frozenset({"mean_polynomial_us", "mean_table_us"})),
    ("read_noise", frozenset({"sigma_us", "proportional_share", "sigma_table_us"})),
    ("drift", frozenset({"exponent_mean", "exponent_mean_table"})),
    ("drift", frozenset({"exponent_sigma", "exponent_sigma_table"})),
    (
        "retention",
        frozenset(
            {
                "mean_us",
                "mean_per_ln_us",
                "sigma_us",
                "sigma_per_ln_us",
                "times_s",
                "conductances_us",
                "mean_table_us",
                "sigma_table_us",
            }
        ),
    ),
)
"""Fields of a section that say one thing in several ways."""
AGING = ("relaxation", "retention", "drift", "flicker_noise")
"""Sections that are a device's alone: one that a target had before it was given a device goes."""


def _folder() -> Traversable:
    return resources.files("memcompile.hardware") / "targets" / "devices"


def builtin_devices() -> tuple[str, ...]:
    """Names of the devices that come with memcompile."""
    return names_of_files(_folder())


def names_of_files(folder: Traversable) -> tuple[str, ...]:
    """Names of the TOML files of a folder, in order, without their ending."""
    return tuple(sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")))


@lru_cache
def load_device(name: str) -> Values:
    """Values of a built-in device: ``name``, ``title``, sections, and ``sources``; not to be changed."""
    return tomllib.loads((_folder() / f"{name}.toml").read_text(encoding="utf-8"))


def with_device(values: Values) -> Values:
    """Values of a target, completed by those of the device that it names, if it names one that exists."""
    name = device_of(values)
    if name not in builtin_devices():
        return values
    device, complete = load_device(str(name)), dict(values)
    sources = dict(values["sources"]) if isinstance(values.get("sources"), dict) else {}
    for section, fields in _sections(device):
        written = values.get(section, {})
        if not isinstance(written, dict):
            continue  # left out on purpose, or wrong, which the schema says
        taken = {key: value for key, value in fields.items() if key not in _decided(section, written)}
        complete[section] = {**taken, **written}
        for key in taken:
            sources.setdefault(f"{section}.{key}", f"{name}: {device['sources'][f'{section}.{key}']}")
    if "sources" in values:
        complete["sources"] = sources
    return complete


def given_device(values: Values, name: str) -> Values:
    """Values of a target without what a device of this name is to give; ``cell.device`` names it."""
    changed = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    changed.setdefault("cell", {})["device"] = name
    if name not in builtin_devices():
        return changed
    for section in AGING:
        changed.pop(section, None)
    for section, fields in _sections(load_device(name)):
        for key in _decided(section, fields):
            if section in changed:
                changed[section].pop(key, None)
    if isinstance(changed.get("write_verify"), dict):
        # Pulses would take the place of the device's error; they only price writes now.
        changed["write_verify"]["emulated"] = False
    kept = {f"{section}.{key}" for section, value in changed.items() if isinstance(value, dict) for key in value}
    changed["sources"] = {field: why for field, why in changed.get("sources", {}).items() if field in kept}
    return changed


def device_of(values: Values) -> object:
    """The device that a target names, None if it names none."""
    cell = values.get("cell")
    return cell.get("device") if isinstance(cell, dict) else None


def _sections(device: Values) -> Iterable[tuple[str, Values]]:
    return ((key, value) for key, value in device.items() if isinstance(value, dict) and key != "sources")


def _decided(section: str, written: Values) -> set[str]:
    """Fields of a section that some written ones decide: themselves, and their alternatives."""
    decided = set(written)
    for where, fields in ALTERNATIVES:
        if where == section and decided & fields:
            decided |= fields
    return decided

"""Targets and devices as TOML text: complete, with units in comments, ready to edit."""

from __future__ import annotations

import json
from typing import Any

from memcompile.hardware.devices import load_device
from memcompile.hardware.target import Target
from memcompile.hardware.target_sections import meanings, section_of

COMMENT_AT = 34
"""Column of comments behind short values."""


def target_text(target: Target) -> str:
    """A target as a file: every field with its meaning, what is left out as comments, and ``[sources]``."""
    values = target.model_dump()
    lines = [f"name = {toml(target.name)}", f"title = {toml(target.title)}"]
    for name, field in Target.model_fields.items():
        section = section_of(field)
        if section is None:
            continue
        present = values[name] is not None
        lines += [
            "",
            f"[{name}]" if present else f"# [{name}] is left out; to have it, take away the # and give values",
        ]
        for key, inside in section.model_fields.items():
            value = values[name][key] if present else None if inside.is_required() else inside.default
            lines.append(_line(key, value, meanings(section).get(key, ""), commented=not present or value is None))
    lines += ["", "[sources]", *(f"{toml(field)} = {toml(why)}" for field, why in target.sources.items())]
    return "\n".join(lines) + "\n"


def device_text(name: str) -> str:
    """A built-in device as a file, with the meaning of every field."""
    values = load_device(name)
    lines = [f"name = {toml(values['name'])}", f"title = {toml(values['title'])}"]
    for section, inside in values.items():
        if not isinstance(inside, dict) or section == "sources":
            continue
        kind = section_of(Target.model_fields[section])
        assert kind is not None
        lines += ["", f"[{section}]"]
        lines += [_line(key, value, meanings(kind).get(key, ""), commented=False) for key, value in inside.items()]
    lines += ["", "[sources]", *(f"{toml(field)} = {toml(why)}" for field, why in values["sources"].items())]
    return "\n".join(lines) + "\n"


def toml(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for the one character that JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return repr(value)


def _line(key: str, value: Any, meaning: str, *, commented: bool) -> str:
    first = meaning.split("\n", maxsplit=1)[0]
    text = f"{key} =" if value is None else f"{key} = {toml(value)}"
    text = f"# {text}" if commented else text
    return f"{text:<{COMMENT_AT}}  # {first}".rstrip()

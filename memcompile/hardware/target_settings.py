"""Settings of the form ``section.field=value`` that change a target."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from typing import Any

from memcompile.errors import UsageError, did_you_mean
from memcompile.hardware.target import FIELDS, Target

SECTIONS = tuple(dict.fromkeys(field.split(".")[0] for field in FIELDS))
SOURCE = "set for this program"


def with_target_settings(target: Target, settings: Sequence[str]) -> tuple[Target, tuple[str, ...]]:
    """Apply those settings that name a section of targets; returns the others, too.

    A value is written as in a target file; text needs no quotes.

    Raises
    ------
    UsageError
        A section has no such field.
    TargetError
        A value is wrong.
    """
    changes: dict[str, Any] = {}
    others, own = [], []
    for setting in settings:
        match = re.fullmatch(r"\s*(\w+)\.(\w+)\s*=(.*)", setting, re.DOTALL)
        if match is None or match[1] not in SECTIONS:
            others.append(setting)
            continue
        field = f"{match[1]}.{match[2]}"
        if field not in FIELDS:
            fields = [name.removeprefix(f"{match[1]}.") for name in FIELDS if name.startswith(f"{match[1]}.")]
            meant = did_you_mean(field, FIELDS)
            raise UsageError(f"targets have no field {field!r}; [{match[1]}] has {', '.join(fields)}{meant}")
        changes[f"{match[1]}__{match[2]}"] = _value(match[3].strip())
        own.append(f"{field} = {match[3].strip()}")
    if not changes:
        return target, tuple(others)
    changed = target.with_(**changes, title=f"{target.title}; {', '.join(own)}")
    sources = dict(changed.sources)
    sources |= {key.replace("__", "."): SOURCE for key in changes}
    return changed.model_copy(update={"sources": sources}), tuple(others)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text

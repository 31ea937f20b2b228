"""Knobs of an exploration: the target, options of the compiler, fields of targets and options of passes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from memcompile.errors import MemcompileError, UsageError, did_you_mean
from memcompile.hardware.target import FIELDS, Target, load_target
from memcompile.hardware.target_settings import SECTIONS, with_target_settings
from memcompile.ir.pass_contract import Effort
from memcompile.ir.pass_manager import with_options
from memcompile.ir.slicing import SliceChoice
from memcompile.passes.replicate import Objective
from memcompile.pipelines import DEFAULT_TARGET, check_options, default_passes

Value = str | int | float | bool | None
"""Value of a knob; None stands for the word ``auto`` or ``none``."""

_WORDS: Mapping[str, tuple[str, ...]] = {"optimise": get_args(Objective), "effort": get_args(Effort)}
OPTIONS = ("target", "slices", "slice_base", "chips", "max_loss", *_WORDS)
"""Knobs that are neither fields of targets nor options of passes."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Design:
    """Everything that decides a program besides the network and its data.

    ``settings`` are those of target fields and passes, by name, as text; the others are options of
    :func:`memcompile.pipelines.compile_source`.
    """

    target: str = DEFAULT_TARGET
    chips: int | None = None
    slices: int | str = 1
    slice_base: int | None = None
    max_loss: float | None = None
    settings: tuple[tuple[str, str], ...] = ()

    def with_values(self, values: Mapping[str, Value]) -> Design:
        """The design with some knobs turned."""
        own = {name: value for name, value in values.items() if name in OPTIONS and name not in _WORDS}
        texts = {_setting(name): text_of(value) for name, value in values.items() if name not in own}
        kept = {**dict(self.settings), **texts}
        return replace(self, settings=tuple(sorted(kept.items())), **own)  # type: ignore[arg-type]

    @property
    def setting_words(self) -> tuple[str, ...]:
        """Settings as ``NAME=VALUE``."""
        return tuple(f"{name}={text}" for name, text in self.settings)

    def facts(self) -> dict[str, Any]:
        """Plain values, the same for the same design."""
        return {**vars(self), "settings": [list(pair) for pair in self.settings]}


def _setting(name: str) -> str:
    """Name of the setting behind a knob."""
    return {"optimise": "replicate.objective", "effort": "replicate.effort"}.get(name, name)


def text_of(value: Value) -> str:
    """A value as a setting is written."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_value(name: str, text: str) -> Value:
    """Value of a knob from its text.

    Raises
    ------
    UsageError
        The text is no value for it.
    """
    text = text.strip()
    if (name, text) in {("chips", "auto"), ("max_loss", "none"), ("slice_base", "auto")}:
        return None
    if name in ("target", *_WORDS):
        return text
    if name == "slices" and ":" in text:
        return SliceChoice.of(text).value
    if text in ("true", "false"):
        return text == "true"
    if _NUMBER.fullmatch(text) is None:
        if name in OPTIONS:
            raise UsageError(f"{name} = {text}: should be a number{_words_beside_numbers(name)}")
        return text
    number = float(text)
    if number.is_integer() and re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if name in OPTIONS and name != "max_loss":
        raise UsageError(f"{name} = {text}: should be a whole number")
    return number


def _words_beside_numbers(name: str) -> str:
    return {"chips": ", or auto", "slice_base": ", or auto", "max_loss": ", or none"}.get(name, "")


def known_names() -> tuple[str, ...]:
    """Names of all knobs."""
    of_passes = [f"{item.pass_name()}.{option}" for item in default_passes() for option in item.option_types()]
    return (*OPTIONS, *FIELDS, *of_passes)


def name_error(name: str) -> str:
    """Message about a knob that there is not; empty if there is one."""
    known = known_names()
    if name in known:
        return ""
    return (
        f"nothing is called {name!r} that can vary: {', '.join(OPTIONS)}, a field of targets such as adc.bits, or an "
        f"option of a pass{did_you_mean(name, known)}"
    )


def value_error(name: str, value: Value, base: Design, targets: Sequence[str]) -> str:
    """Message about a value that no target allows, all else as in the base; empty if one does."""
    reasons = []
    for target in targets:
        try:
            checked_target(base.with_values({**({} if name == "target" else {"target": target}), name: value}))
        except MemcompileError as error:
            told = f"{name} = {text_of(value)}: "
            reasons.append(f"{told}{_reason(error).removeprefix(told)}")
            continue
        return ""
    return reasons[0] if reasons else ""


def _reason(error: MemcompileError) -> str:
    """Words of an error in one line."""
    return " ".join(str(error).split())


def checked_target(design: Design, load: Callable[[str], Target] = load_target) -> Target:
    """The target of a design, with its fields set.

    Raises
    ------
    MemcompileError
        A field, option or word of the design is out of range.
    """
    words = design.setting_words
    target, of_passes = with_target_settings(load(design.target), words)
    check_options(target, design.chips, SliceChoice.of(design.slices), design.slice_base, 0)
    with_options(default_passes(), of_passes)
    if design.max_loss is not None and not 0 < design.max_loss <= 100:
        raise UsageError(f"max_loss = {design.max_loss:g}: above 0, at most 100 points; or none")
    return target


def is_target_field(name: str) -> bool:
    """Return True for a field of targets."""
    return name.partition(".")[0] in SECTIONS

"""Space of an exploration: knobs with the values that each takes, and its points."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property

from memcompile.errors import UsageError
from memcompile.exploration.knobs import Design, Value, checked_target, name_error, parse_value, text_of, value_error

MOST_VALUES = 10_000
"""Values of one knob."""
MOST_POINTS = 10_000
"""Points of a grid that is explored as a whole."""
MOST_TOLD = 3
"""Wrong values of a knob that are told one by one."""
_RANGE = re.compile(r"\s*([^\s.:]+(?:\.\d+)?)\s*\.\.\s*([^\s.:]+(?:\.\d+)?)\s*(?::\s*(\S+)\s*)?")

Point = dict[str, Value]
"""Value of each knob of a space, in the order of its axes."""


@dataclass(frozen=True)
class Axis:
    """A knob, and the values that it takes."""

    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Space:
    """All combinations of the values of some knobs."""

    axes: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """Number of points."""
        return math.prod(len(axis.values) for axis in self.axes)

    def points(self) -> Iterator[Point]:
        """All points, the last axis fastest."""
        names = [axis.name for axis in self.axes]
        for values in itertools.product(*(axis.values for axis in self.axes)):
            yield dict(zip(names, values, strict=True))

    def order(self, point: Mapping[str, Value]) -> tuple[int, ...]:
        """Place of a point in the grid, to sort by."""
        return tuple(self._places[axis.name][_typed(point[axis.name])] for axis in self.axes)

    @cached_property
    def _places(self) -> dict[str, dict[tuple[type, Value], int]]:
        return {axis.name: {_typed(value): place for place, value in enumerate(axis.values)} for axis in self.axes}


def _typed(value: Value) -> tuple[type, Value]:
    """A value that is equal to no value of another type: 1 and True are two."""
    return type(value), value


def read_space(varied: Sequence[str] | Mapping[str, object], base: Design) -> Space:
    """Read and check what varies.

    Parameters
    ----------
    varied
        Texts such as ``adc.bits=4..10``, or values by name: one text of the same form, or a sequence of values.
    base
        The design of all that does not vary.

    Raises
    ------
    UsageError
        Anything is wrong; the message has all errors.
    """
    errors: list[str] = []
    axes: list[Axis] = []
    for name, given in _pairs(varied, errors):
        if any(axis.name == name for axis in axes):
            errors.append(f"{name} varies twice; give all its values once, separated by commas")
            continue
        wrong = name_error(name)
        if wrong:
            errors.append(wrong)
            continue
        try:
            axes.append(Axis(name, _values(name, given)))
        except UsageError as error:
            errors.append(str(error))
    if not axes and not errors:
        errors.append("nothing varies; give at least one range, such as --vary adc.bits=4..10")
    space = Space(tuple(axes))
    errors += _value_errors(space, base)
    if errors:
        raise UsageError(errors[0] if len(errors) == 1 else "\n".join([f"{len(errors)} errors", *_bulleted(errors)]))
    return space


def _bulleted(errors: Iterable[str]) -> list[str]:
    return [f"  {error}" for error in errors]


def _pairs(varied: Sequence[str] | Mapping[str, object], errors: list[str]) -> Iterator[tuple[str, object]]:
    if isinstance(varied, Mapping):
        yield from ((str(name), given) for name, given in varied.items())
        return
    for text in varied:
        name, equals, given = text.partition("=")
        if not equals or not name.strip() or not given.strip():
            errors.append(f"{text!r} is not of the form NAME=VALUE,VALUE,.. or NAME=FIRST..LAST")
            continue
        yield name.strip(), given


def _values(name: str, given: object) -> tuple[Value, ...]:
    """Values of a knob, each once."""
    if isinstance(given, str):
        values = list(_from_text(name, given))
    elif isinstance(given, Iterable):
        values = [_from_python(name, value) for value in given]
    else:
        values = [_from_python(name, given)]
    if not values:
        raise UsageError(f"{name} has no values")
    twice = next((value for place, value in enumerate(values) if _typed(value) in map(_typed, values[:place])), ...)
    if twice is not ...:
        raise UsageError(f"{name} has the value {_shown(twice)} twice")
    return tuple(values)


def _shown(value: object) -> str:
    return text_of(value) if isinstance(value, str | int | float | bool | None) else str(value)


def _from_python(name: str, value: object) -> Value:
    """A value given in Python, in the type that its text would have."""
    if value is None:
        return None
    if isinstance(value, bool | str):
        return parse_value(name, text_of(value))
    item = getattr(value, "item", None)  # numbers of NumPy
    plain = item() if callable(item) else value
    if not isinstance(plain, int | float):
        raise UsageError(f"{name} = {value!r}: should be a number or a text")
    return parse_value(name, repr(plain))


def _from_text(name: str, text: str) -> Iterator[Value]:
    for part in _parts(text):
        bounds = _RANGE.fullmatch(part) if name not in ("target",) else None
        if bounds is None:
            yield parse_value(name, part)
        else:
            yield from _range(name, part, *bounds.groups())


def _parts(text: str) -> Iterator[str]:
    """Parts between commas that stand in no brackets."""
    depth, begin = 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            yield text[begin:place].strip()
            begin = place + 1
    yield text[begin:].strip()


def _range(name: str, part: str, first: str, last: str, step: str | None) -> Iterator[Value]:
    """Values from first to last, both included."""
    try:
        begin, end, width = Decimal(first), Decimal(last), Decimal(step or "1")
    except InvalidOperation:
        raise UsageError(f"{name} = {part}: a range is FIRST..LAST or FIRST..LAST:STEP, of numbers") from None
    whole = begin == begin.to_integral_value() and end == end.to_integral_value()
    if not (begin.is_finite() and end.is_finite() and width.is_finite()) or width <= 0:
        raise UsageError(f"{name} = {part}: ends and step of a range are numbers, and the step is above 0")
    if step is None and not whole:
        raise UsageError(f"{name} = {part}: a range of fractions needs a step, such as {first}..{last}:0.1")
    if begin > end:
        raise UsageError(f"{name} = {part}: the range is empty; give the lower end first")
    count = int((end - begin) / width) + 1
    if count > MOST_VALUES:
        raise UsageError(f"{name} = {part}: {count:,} values; at most {MOST_VALUES:,}")
    for number in range(count):
        yield parse_value(name, _plain(begin + number * width))


def _plain(number: Decimal) -> str:
    """Digits without an exponent, and without zeros behind the point."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _value_errors(space: Space, base: Design) -> list[str]:
    """All values that no target allows, and knobs that are set already."""
    errors = []
    targets = next((axis.values for axis in space.axes if axis.name == "target"), (base.target,))
    known = []
    for target in targets:
        wrong = value_error("target", target, base, ("",)) if len(targets) > 1 or target != base.target else ""
        if wrong:
            errors.append(wrong)
        else:
            known.append(str(target))
    given = dict(base.settings)
    for axis in space.axes:
        if axis.name in given:
            errors.append(f"{axis.name} varies and is set to {given[axis.name]}; leave one out")
            continue
        if axis.name == "target" or not known:
            continue
        wrong_values = [wrong for value in axis.values if (wrong := value_error(axis.name, value, base, known))]
        errors += wrong_values[:MOST_TOLD]
        if len(wrong_values) > MOST_TOLD:
            errors.append(f"{axis.name}: {len(wrong_values) - MOST_TOLD:,} more of its values are wrong")
    return errors


def check_base(base: Design) -> None:
    """Raise UsageError or TargetError if the base cannot be compiled for any network."""
    checked_target(base)


def check_size(space: Space) -> None:
    """Raise UsageError if a grid has too many points to explore as a whole."""
    if space.size > MOST_POINTS:
        raise UsageError(
            f"the grid has {space.size:,} points, and at most {MOST_POINTS:,} are explored as a whole; sample it with "
            "--sampler tpe --trials N"
        )

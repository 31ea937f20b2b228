"""Conditions on results, such as ``energy_uj < 2 and accuracy > 97%``: parsed, never evaluated as Python.

Values are intervals, so that a condition can be decided before all figures of a point are known in full: comparisons
of intervals are true, false, or not known yet.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from memcompile.errors import UsageError, did_you_mean
from memcompile.exploration.judging.quantities import ALIASES

MOST_LETTERS = 2_000
MOST = 1e300
"""Numbers of a condition lie below it."""
_PERCENT = re.compile(r"(\d+\.?\d*|\.\d+)\s*%")
Interval = tuple[float, float]
Known = Interval | str | None
"""Value of a key: an interval, a text, or None where it does not apply."""
Truth = bool | None
"""True, false, or not known yet."""


class NotApplicableError(Exception):
    """A condition asks for a figure that a point does not have."""


@dataclass(frozen=True)
class Condition:
    """A condition, parsed; ``names`` are the keys of rows that it reads."""

    text: str
    tree: ast.expr
    names: frozenset[str]

    def holds(self, values: Mapping[str, Known]) -> Truth:
        """Truth for a point, from what is known of it; a key that is missing may have any value.

        Raises
        ------
        NotApplicableError
            A key has no value for this point.
        """
        return _truth(self.tree, values)


def parse_condition(text: str, keys: Iterable[str]) -> Condition:
    """Parse a condition on rows with some keys.

    Names are keys, their last parts where these are unique, or short ones such as ``energy_uj``; numbers may end in %.
    There are comparisons, ``and``, ``or``, ``not``, and + - * / on numbers.

    Raises
    ------
    UsageError
        It is no such condition; the message says where.
    """
    if len(text) > MOST_LETTERS:
        raise UsageError(f"--where has {len(text):,} letters; at most {MOST_LETTERS:,}")
    try:
        tree = ast.parse(_PERCENT.sub(r"(\1*0.01)", text.strip()), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(
            f'--where {text!r} cannot be read; write it like "energy_uj < 2 and accuracy > 97%"'
        ) from error
    resolve = _resolver(tuple(keys))
    try:
        checked = _checked(tree, text, resolve)
    except RecursionError:
        raise UsageError("--where is nested too deeply") from None
    if not _is_truth(checked):
        raise UsageError(f"--where {text!r} is no comparison; compare a figure, such as energy_uj < 2")
    return Condition(text, checked, frozenset(_names(checked)))


def _resolver(keys: tuple[str, ...]) -> Callable[[str], tuple[str, float]]:
    """Function from a name to the key it stands for and the factor on its value."""

    def resolve(name: str) -> tuple[str, float]:
        if name in keys:
            return name, 1.0
        if name in ALIASES:
            return ALIASES[name]
        ends = [key for key in keys if key.endswith(f".{name}")]
        if len(ends) == 1:
            return ends[0], 1.0
        if ends:
            raise UsageError(f"--where: {name!r} may be {' or '.join(ends)}; give it in full")
        shorts = {*ALIASES, *keys, *(key.rpartition(".")[2] for key in keys)}
        raise UsageError(f"--where: results have no key {name!r}{did_you_mean(name, sorted(shorts))}")

    return resolve


_TRUTHS = (ast.BoolOp, ast.Compare)


def _is_truth(tree: ast.expr) -> bool:
    return isinstance(tree, _TRUTHS) or (isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not))


_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div)


def _checked(node: ast.expr, text: str, resolve: Callable[[str], tuple[str, float]]) -> ast.expr:
    """The tree with names replaced by keys.

    Raises
    ------
    UsageError
        Something in it is not allowed.
    """
    checked = _checked_truth(node, text, resolve) if _is_truth(node) else _checked_value(node, text, resolve)
    if checked is None:
        raise UsageError(
            f"--where {text!r}: {ast.unparse(node)!r} is not allowed; there are names of results, numbers, texts in "
            "quotes, + - * /, comparisons, and, or, not"
        )
    return checked


def _checked_truth(node: ast.expr, text: str, resolve: Callable[[str], tuple[str, float]]) -> ast.expr | None:
    match node:
        case ast.BoolOp(op=op, values=values) if all(map(_is_truth, values)):
            return ast.BoolOp(op, [_checked(value, text, resolve) for value in values])
        case ast.UnaryOp(op=op, operand=operand) if _is_truth(operand):
            return ast.UnaryOp(op, _checked(operand, text, resolve))
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [left, *others]
            if all(type(op) in _COMPARISONS for op in ops) and not any(map(_is_truth, sides)):
                first, *rest = (_checked(side, text, resolve) for side in sides)
                return ast.Compare(first, ops, rest)
    return None


def _checked_value(node: ast.expr, text: str, resolve: Callable[[str], tuple[str, float]]) -> ast.expr | None:
    match node:
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=operand) if not _is_truth(operand):
            return ast.UnaryOp(op, _checked(operand, text, resolve))
        case ast.BinOp(op=op, left=left, right=right) if isinstance(op, _ARITHMETIC):
            if not (_is_truth(left) or _is_truth(right)):
                return ast.BinOp(_checked(left, text, resolve), op, _checked(right, text, resolve))
        case ast.Constant(value=bool() as value):
            return ast.Constant(str(value).lower())
        case ast.Constant(value=str()):
            return node
        case ast.Constant(value=int() | float() as number) if abs(number) < MOST:
            return ast.Constant(float(number))
        case ast.Name() | ast.Attribute():
            key, factor = resolve(_dotted(node))
            name = ast.Name(key)
            return name if factor == 1.0 else ast.BinOp(name, ast.Mult(), ast.Constant(factor))
    return None


def _dotted(node: ast.expr) -> str:
    """Name of a key with dots."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise UsageError(f"--where: {ast.unparse(node)!r} is no name of a result")
    return ".".join([node.id, *reversed(parts)])


def _names(tree: ast.expr) -> Iterator[str]:
    return (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def _truth(node: ast.expr, values: Mapping[str, Known]) -> Truth:
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            return _all(_truth(part, values) for part in parts)
        case ast.BoolOp(values=parts):
            return _not(_all(_not(_truth(part, values)) for part in parts))
        case ast.UnaryOp(operand=operand):
            return _not(_truth(operand, values))
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [_value(side, values) for side in (left, *others)]
            return _all(_compared(op, sides[place], sides[place + 1]) for place, op in enumerate(ops))
    raise AssertionError(ast.dump(node))


def _all(truths: Iterable[Truth]) -> Truth:
    found = list(truths)
    if any(truth is False for truth in found):
        return False
    return None if any(truth is None for truth in found) else True


def _not(truth: Truth) -> Truth:
    return None if truth is None else not truth


_ANYTHING: Interval = (-math.inf, math.inf)


def _value(node: ast.expr, values: Mapping[str, Known]) -> Interval | str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Constant(value=float(number)):
            return number, number
        case ast.Name(id=name):
            known = values.get(name, _ANYTHING)
            if known is None:
                raise NotApplicableError(name)
            return known
        case ast.UnaryOp(op=op, operand=operand):
            low, high = _number(_value(operand, values))
            return (-high, -low) if isinstance(op, ast.USub) else (low, high)
        case ast.BinOp(op=op, left=left, right=right):
            return _calculated(op, _number(_value(left, values)), _number(_value(right, values)))
    raise AssertionError(ast.dump(node))


def _number(value: Interval | str) -> Interval:
    if isinstance(value, str):
        raise UsageError(f"--where: {value!r} is a text, which cannot be calculated with or compared with a number")
    return value


def _calculated(op: ast.operator, one: Interval, other: Interval) -> Interval:
    if isinstance(op, ast.Add):
        return one[0] + other[0], one[1] + other[1]
    if isinstance(op, ast.Sub):
        return one[0] - other[1], one[1] - other[0]
    if isinstance(op, ast.Div):
        if other[0] <= 0 <= other[1]:
            return _ANYTHING
        other = 1 / other[1], 1 / other[0]
    ends = [a * b if a and b else 0.0 for a in one for b in other]
    return min(ends), max(ends)


_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Interval, Interval], Truth]] = {
    ast.Lt: lambda a, b: True if a[1] < b[0] else False if a[0] >= b[1] else None,
    ast.LtE: lambda a, b: True if a[1] <= b[0] else False if a[0] > b[1] else None,
    ast.Gt: lambda a, b: True if a[0] > b[1] else False if a[1] <= b[0] else None,
    ast.GtE: lambda a, b: True if a[0] >= b[1] else False if a[1] < b[0] else None,
    ast.Eq: lambda a, b: True if a[0] == a[1] == b[0] == b[1] else False if a[1] < b[0] or b[1] < a[0] else None,
    ast.NotEq: lambda a, b: _not(_COMPARISONS[ast.Eq](a, b)),
}


def _compared(op: ast.cmpop, one: Interval | str, other: Interval | str) -> Truth:
    if isinstance(one, str) and isinstance(other, str):
        if not isinstance(op, ast.Eq | ast.NotEq):
            raise UsageError(f"--where: texts such as {other!r} are compared by == and != alone")
        return (one == other) == isinstance(op, ast.Eq)
    if isinstance(one, str) or isinstance(other, str):
        if _ANYTHING in (one, other):
            return None
        raise UsageError(f"--where: {one if isinstance(one, str) else other!r} is compared with a number")
    return _COMPARISONS[type(op)](one, other)

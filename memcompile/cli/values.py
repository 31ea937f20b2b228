"""Types and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click


class NumberOr(click.ParamType[float | str | None]):
    """A number of a kind, or one of some words, which stand for None or for themselves."""

    def __init__(self, kind: type[float], what: str, **words: str | None) -> None:
        self.kind, self.words = kind, words
        self.name = "|".join((what, *words))

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float | str | None:
        if value is None or value in self.words:
            return None if value is None else self.words[str(value)]
        try:
            return self.kind(str(value))
        except ValueError:
            words = ", ".join(self.words)
            self.fail(f"{value!r} is neither a number nor {'one of ' * (len(self.words) > 1)}{words}", param, ctx)


def _shapes(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for text in value:
        name, _, sizes = text.rpartition("=")
        try:
            shapes[name] = tuple(int(part) for part in sizes.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is not of the form INPUT=1,3,224,224") from error
    return shapes


def _values(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, list[float] | float]:
    values: dict[str, list[float] | float] = {}
    for text in value:
        name, _, numbers = text.rpartition("=")
        try:
            found = [float(part) for part in numbers.split(",")]
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is not of the form INPUT=16000 or INPUT=1,2,..") from error
        values[name] = found if len(found) > 1 else found[0]
    return values


def input_words(options: Mapping[str, Any]) -> list[str]:
    """The options of :func:`input_options` as words of a command line."""
    words: list[str] = []
    for flag, name in (("--freeze", "frozen_inputs"), ("--input-shape", "input_shapes")):
        for key, value in options[name].items():
            numbers = value if isinstance(value, list | tuple) else [value]
            words += [flag, f"{key}={','.join(str(number).removesuffix('.0') for number in numbers)}"]
    return words


def input_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of commands that read a model, on its inputs."""
    freeze = click.option(
        "--freeze",
        "frozen_inputs",
        multiple=True,
        callback=_values,
        metavar="INPUT=VALUE,..",
        help="Make an input a constant, such as a sampling rate that decides between branches (repeatable).",
    )
    shape = click.option(
        "--input-shape",
        "input_shapes",
        multiple=True,
        callback=_shapes,
        metavar="INPUT=N,..",
        help="Fix open input sizes (repeatable).",
    )
    return shape(freeze(function))

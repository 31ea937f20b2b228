"""Command lines that compile the points of an exploration."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from memcompile.exploration.knobs import Design, text_of

_OF_SETTINGS = {"replicate.objective": "--optimise", "replicate.effort": "--effort"}


def compile_command(model: str, design: Design, others: Sequence[str] = ()) -> str:
    """Command that compiles and evaluates a design.

    Parameters
    ----------
    model
        Path of the model.
    others
        Further words, such as those of the data.
    """
    first = f"./{model}" if model.startswith("-") else model
    return shlex.join(["memcompile", first, *design_words(design), *others])


def design_words(design: Design) -> list[str]:
    """Options of a design."""
    return list(_words(design))


def _words(design: Design) -> Iterator[str]:
    yield from ("--target", design.target)
    if design.chips is not None:
        yield from ("--chips", str(design.chips))
    if design.slices != 1:
        yield from ("--slices", str(design.slices))
    if design.slice_base is not None:
        yield from ("--slice-base", str(design.slice_base))
    yield from ("--max-loss", "none" if design.max_loss is None else text_of(design.max_loss))
    for name, text in design.settings:
        yield from (_OF_SETTINGS[name], text) if name in _OF_SETTINGS else ("--set", f"{name}={text}")

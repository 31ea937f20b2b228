"""Contracts between passes: the forms of a graph that each one consumes and produces.

A pass takes away the forms that it consumes, and one that leaves a form as it is produces it again. So the order of
a whole pipeline is checked before its first pass runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Annotated, Literal, Protocol

from pydantic import Field

from memcompile.errors import UsageError

Fidelity = Literal["lossless", "lossy", "exact"]
Effort = Literal["fast", "normal", "best"]
"""Change of a pass to the numbers that a graph computes, which decides how it is tested.

``lossless``: nothing but float32 rounding; against onnxruntime. ``lossy``: it quantises; within the error that this
explains. ``exact``: not a bit; against the quantised network.
"""


Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
"""Types of options: a number from 1, one from 0, and a part of a whole."""


class Form(Enum):
    """Form of a graph at some stage; values are the words of messages."""

    OPERATORS = "operators"
    LINEAR = "linear layers"
    DIGITAL = "digital subgraphs"
    UNROLLED = "unrolled layers"
    CALIBRATED = "calibrated layers"
    QUANTIZED = "quantized layers"
    SLICED = "sliced layers"
    PAIRED = "paired layers"
    TILED = "tiled layers"
    MAPPED = "mapped layers"
    PLACED = "places of tiles"
    SCHEDULED = "a schedule"


Forms = frozenset[Form]
IMPORTED: Forms = frozenset({Form.OPERATORS})
"""Forms that the importer makes."""
COMPLETE: Forms = frozenset({Form.DIGITAL, Form.MAPPED, Form.PLACED, Form.SCHEDULED})
"""Forms that a program is made from."""


class Contract(Protocol):
    """The part of a pass that the order of a pipeline depends on."""

    @property
    def consumes(self) -> Forms:
        """Forms that have to be there, and are gone afterwards."""

    @property
    def produces(self) -> Forms:
        """Forms that are there afterwards."""

    @classmethod
    def pass_name(cls) -> str:
        """Name in messages."""


def check_order(passes: Sequence[Contract], start: Forms = IMPORTED, end: Forms = COMPLETE) -> None:
    """Check that each pass finds the forms it consumes, and that the pipeline ends with those in ``end``.

    Raises
    ------
    UsageError
        A pass lacks a form; names the pass, and the one that should come before it or after it.
    """
    held = set(start)
    for number, item in enumerate(passes):
        for form in sorted(item.consumes - held, key=list(Form).index):
            raise UsageError(f"pass {item.pass_name()} consumes {form.value}, {_why_absent(form, passes, number)}")
        held -= item.consumes
        held |= item.produces
    for form in sorted(end - held, key=list(Form).index):
        raise UsageError(f"the pipeline ends without {form.value}, {_why_absent(form, passes, len(passes))}")


def _why_absent(form: Form, passes: Sequence[Contract], number: int) -> str:
    """Reason why pass ``number`` does not find a form, and what to do."""
    taken = [item for item in passes[:number] if form in item.consumes - item.produces]
    later = [item for item in passes[number:] if form in item.produces - item.consumes]
    if taken:
        return f"which {taken[-1].pass_name()} consumed before it; put it before {taken[-1].pass_name()}"
    if later:
        return f"which {later[0].pass_name()} produces only after it; put it after {later[0].pass_name()}"
    return "which no pass before it produces; add the pass that does, see --list-passes"

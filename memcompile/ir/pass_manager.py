"""Runs passes in order, with instruments around each of them.

A pass is a frozen dataclass with typed options and one method from graph to graph. Passes never
print, time or verify themselves: those are instruments.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, ClassVar, Protocol, get_type_hints

from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from memcompile.errors import UsageError, did_you_mean
from memcompile.hardware.target import Target
from memcompile.hardware.target_settings import SECTIONS
from memcompile.heap import give_back_grown_memory
from memcompile.ir.graph import Graph
from memcompile.ir.pass_contract import Effort, Fidelity, Forms
from memcompile.ir.slicing import Fill, SliceChoice, Slicing

Advance = Callable[[int], None]
ProgressBar = Callable[[str, int], AbstractContextManager[Advance]]


def no_progress(description: str, total: int) -> AbstractContextManager[Advance]:
    """A progress bar that shows nothing."""
    return nullcontext(lambda done: None)


@dataclass(frozen=True, eq=False)
class PassContext:
    """Facts besides the graph that passes may use.

    ``calibration`` holds [samples, ...] per model input, ``representative`` says that these are real samples, not
    generated ones; ``chips`` is the hard budget, or None to take as many as the network needs; ``slices``, ``fill`` and
    ``slice_base`` are those of :class:`memcompile.ir.slicing.Slicing`, and ``layer_slices`` what layers have of their
    own, by name; ``one_position`` names layers that get no parallel windows; ``batch`` is the
    number of images for which a network that is larger than its chips is written onto them, segment by segment, or None
    if that is not wanted; ``effort`` limits the work of searches that have no option of their own; ``progress`` opens a
    bar for a description and a total. ``kept`` holds measurements by name, where passes run more than once on one
    graph.
    """

    target: Target
    calibration: Mapping[str, NDArray[Any]]
    representative: bool = False
    slices: int = 1
    slice_base: int | None = None
    fill: Fill = "max"
    layer_slices: Mapping[str, SliceChoice] = field(default_factory=dict)
    one_position: frozenset[str] = frozenset()
    chips: int | None = None
    batch: int | None = None
    seed: int = 0
    effort: Effort = "normal"
    progress: ProgressBar = field(default=no_progress, repr=False)
    kept: dict[Any, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def slicing(self) -> Slicing:
        """Slices of layers that have none of their own."""
        return Slicing(self.target, self.slices, self.slice_base, self.fill)

    def slicing_of(self, layer: str) -> Slicing:
        """Slices of a layer, by its name."""
        own = self.layer_slices.get(layer, SliceChoice(self.slices, self.fill))
        return Slicing(self.target, own.count, self.slice_base, own.fill)


@dataclass(frozen=True)
class Pass(ABC):
    """One transformation of the graph. Its fields are its options."""

    summary: ClassVar[str]
    consumes: ClassVar[Forms]
    """Forms of the graph that it needs and takes away."""
    produces: ClassVar[Forms]
    """Forms that it leaves or makes."""
    fidelity: ClassVar[Fidelity]
    """Change to the numbers; chooses its differential test."""

    @classmethod
    def pass_name(cls) -> str:
        """``FoldBatchnorm`` -> ``fold_batchnorm``, the name of its file."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def __post_init__(self) -> None:
        """Check the options against their types.

        Raises
        ------
        UsageError
            An option has a value that its type does not allow.
        """
        for option, validator in self._validators().items():
            try:
                validator.validate_python(getattr(self, option), strict=True)
            except ValidationError as error:
                raise _refusal(type(self), option, getattr(self, option), error) from error

    @classmethod
    @cache
    def option_types(cls) -> dict[str, Any]:
        """Type of each option: bool, a number with its limits, or a Literal of words."""
        hints = get_type_hints(cls, include_extras=True)
        return {option.name: hints[option.name] for option in fields(cls)}

    @classmethod
    @cache
    def _validators(cls) -> dict[str, TypeAdapter[Any]]:
        """Validator of each option; it takes a millisecond to make."""
        return {option: TypeAdapter(wanted) for option, wanted in cls.option_types().items()}

    @abstractmethod
    def run(self, graph: Graph, context: PassContext) -> Graph:
        """Return the transformed graph; the given one stays as it is."""


class Instrument(Protocol):
    """Observer of the graph after each pass."""

    def after_pass(self, number: int, name: str, graph: Graph, context: PassContext) -> None:
        """Called with pass number 0 and name ``import`` for the graph as imported, then per pass."""


class Recording:
    """Graphs after each pass, kept for other instruments."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, str, Graph, PassContext]] = []

    def after_pass(self, number: int, name: str, graph: Graph, context: PassContext) -> None:
        """Keep a graph."""
        self._seen.append((number, name, graph, context))

    @property
    def last(self) -> Graph:
        """Graph after the last pass."""
        return self._seen[-1][2]

    def replay(self, instruments: Iterable[Instrument]) -> Graph:
        """Show all graphs to instruments as if the passes had run just now, and return the last."""
        instruments = tuple(instruments)
        for seen in self._seen:
            for instrument in instruments:
                instrument.after_pass(*seen)
        return self.last


def run_passes(
    graph: Graph,
    passes: Sequence[Pass],
    context: PassContext,
    instruments: Iterable[Instrument] = (),
    *,
    done: int = 0,
) -> Graph:
    """Run passes in order; ``done`` passes have run on the graph before."""
    instruments = tuple(instruments)
    for instrument in instruments if not done else ():
        instrument.after_pass(0, "import", graph, context)
    for number, item in enumerate(passes, start=done + 1):
        graph = item.run(graph, context)
        for instrument in instruments:
            instrument.after_pass(number, item.pass_name(), graph, context)
        give_back_grown_memory()  # of what the weights were before this pass
    return graph


def with_options(passes: Sequence[Pass], settings: Sequence[str]) -> tuple[Pass, ...]:
    """Apply ``PASS.OPTION=VALUE`` settings.

    Raises
    ------
    UsageError
        A setting names no pass or option, or its value has the wrong type.
    """
    changed = {item.pass_name(): item for item in passes}
    for setting in settings:
        match = re.fullmatch(r"(\w+)\.(\w+)=(.*)", setting)
        if match is None:
            raise UsageError(
                f"setting {setting!r} is not of the form PASS.OPTION=VALUE or SECTION.FIELD=VALUE; see --list-passes"
            )
        name, option, text = match.groups()
        if name not in changed:
            raise UsageError(
                f"no pass is called {name!r}, and no section of targets; the passes are {', '.join(changed)}"
                + did_you_mean(name, (*changed, *SECTIONS))
            )
        options = {item.name for item in fields(changed[name])}
        if option not in options:
            known = ", ".join(sorted(options)) or "none"
            meant = did_you_mean(option, options)
            raise UsageError(f"pass {name} has no option {option!r}; its options are: {known}{meant}")
        changed[name] = replace(changed[name], **{option: _parse(type(changed[name]), option, text)})
    return tuple(changed[item.pass_name()] for item in passes)


def _parse(kind: type[Pass], option: str, text: str) -> object:
    """Read a value in the type of an option."""
    wanted = kind.option_types()[option]
    try:
        return TypeAdapter(wanted).validate_strings(text)
    except ValidationError as error:
        raise _refusal(kind, option, text, error) from error


def _refusal(kind: type[Pass], option: str, value: object, error: ValidationError) -> UsageError:
    why = str(error.errors()[0]["msg"]).removeprefix("Input should be ")
    return UsageError(f"{kind.pass_name()}.{option} = {value}: should be {why}")

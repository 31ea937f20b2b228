"""Steps in which each element of each value exists, and the last one in which it is needed.

A network is walked in order with a *step* for every element of every value: the first step in which it can be read.
Elements of network inputs exist at step 0. Crossbar layers take steps, as many as the caller decides: a scheduler, the
verifier, or a bound. Digital operators take no steps of their own; an element exists as soon as all it depends on does.
"""

from __future__ import annotations

import itertools
import math
from collections import ChainMap, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.ir.graph import DigitalNode, Graph, MappedLayer, Node, OnnxNode, TensorType
from memcompile.timing.operator_reads import Constants, Found, Shape, Span, operator_reads
from memcompile.timing.shape_values import value_of

Steps = NDArray[np.int64]
Work = Callable[[int, Sequence[Steps]], Sequence[Steps]]
"""Function from a layer's number and, per replica, the step from which each of its windows can be read, [windows], to
the step from which the results of each window can be read."""
Watch = Callable[[OnnxNode, Found, Mapping[str, Steps], Mapping[str, Steps]], None]
"""Observer of an operator, the reads of its outputs, the values before it and its results."""


MOST_ELEMENTS = 2**28
"""Largest network input, in elements, whose elements are told apart."""


@dataclass(frozen=True, eq=False)
class Flow:
    """A network in stages, as a graph or a program has them.

    ``stages`` are crossbar layers and groups of ONNX operators in order; ``inputs`` are the
    network's inputs; ``constants`` what is known at compile time, per group of operators.
    """

    stages: tuple[Node, ...]
    inputs: Mapping[str, TensorType]
    outputs: tuple[str, ...]
    constants: Mapping[str, Constants]

    @classmethod
    def of_graph(cls, graph: Graph) -> Flow:
        """The flow of a graph whose layers have their replicas."""
        inputs = {name: graph.types[name] for name in graph.inputs}
        return cls(graph.nodes, inputs, graph.outputs, {node.name: graph.constants for node in graph.nodes})

    @cached_property
    def layers(self) -> tuple[MappedLayer, ...]:
        """Crossbar layers in order."""
        return tuple(stage for stage in self.stages if isinstance(stage, MappedLayer))

    @cached_property
    def existing(self) -> Mapping[str, Steps]:
        """All values as if every element existed from the first step on."""
        return self.walk(lambda layer, ready: [np.zeros(len(steps), np.int64) for steps in ready])

    def walk(self, work: Work, layers: range | None = None, watch: Watch | None = None) -> dict[str, Steps]:
        """Step of each element of each value between stages; shape () where all exist at once.

        With ``layers``, numbers of crossbar layers, only the stages from the first of them to the last
        are walked, and whatever is made elsewhere exists from the first step on. ``watch`` is shown
        every ONNX operator as its steps are found.
        """
        stages, number, values = self.stages, 0, dict[str, Steps]()
        if layers is None:
            values = {name: np.broadcast_to(np.int64(0), _one_image(kind)) for name, kind in self.inputs.items()}
        else:
            places = [place for place, stage in enumerate(self.stages) if isinstance(stage, MappedLayer)]
            stages, number = self.stages[places[layers[0]] : places[layers[-1]] + 1], layers[0]
            values.update(self.existing)
        for stage in stages:
            if isinstance(stage, MappedLayer):
                x = values[stage.inputs[0]]
                steps = {unrolling: window_steps(unrolling, x) for unrolling, _ in alike_copies(stage)}
                done = work(number, [steps[copy.unrolling][copy.windows] for copy in stage.replicas])
                values[stage.outputs[0]] = output_steps(stage, x, done)
                number += 1
            else:
                values.update(self._walk_operators(stage, values, watch))
        return values

    def _walk_operators(self, stage: Node, values: Mapping[str, Steps], watch: Watch | None) -> dict[str, Steps]:
        """Step of each element of what a stage of ONNX operators makes."""
        facts = self._facts[stage.name]
        facts.take(self._handed_on, stage.inputs)
        # Never written to: a copy of all constants for each stage would take longer than the walk.
        known = ChainMap(facts.values, cast("MutableMapping[str, NDArray[Any]]", self.constants[stage.name]))
        inner = {name: values[name] for name in stage.inputs if name in values and name not in facts.values}
        for operator in _operators(stage):
            shapes = _shapes(operator, inner, known, facts.scalars)
            if facts.follow(operator, shapes, known):
                continue
            found = operator_reads(operator, shapes, known)
            facts.scalars.update(operator.outputs[number] for number, reads in found.items() if not reads.shape)
            results = _operator_steps(operator, found, inner)
            if watch is not None:
                watch(operator, found, inner, results)
            inner.update(results)
        self._handed_on.take(facts, stage.outputs)
        return {name: _all_at(0) if name in facts.values else inner[name] for name in stage.outputs}

    @cached_property
    def _facts(self) -> defaultdict[str, _Facts]:
        """Facts that hold in all walks, by the name of a stage of operators; filled as they are walked."""
        return defaultdict(_Facts)

    @cached_property
    def _handed_on(self) -> _Facts:
        """The same of values between stages."""
        return _Facts()


@dataclass(frozen=True, eq=False)
class _Facts:
    """Values that follow from shapes, and names of values that are single numbers and not of unknown shape."""

    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    scalars: set[str] = field(default_factory=set)
    data: set[str] = field(default_factory=set)
    """Names of operators that were found to depend on data."""

    def follow(self, operator: OnnxNode, shapes: Sequence[Shape | None], known: Constants) -> bool:
        """Return True if all that an operator makes follows from shapes."""
        if operator.outputs[0] in self.values:
            return True
        if operator.name in self.data:
            return False
        value = value_of(operator, shapes, known)
        if value is None:
            self.data.add(operator.name)
            return False
        self.values[operator.outputs[0]] = value
        return True

    def take(self, others: _Facts, names: Iterable[str]) -> None:
        """Take over what is known of some values."""
        for name in names:
            if name in others.values:
                self.values[name] = others.values[name]
            elif name in others.scalars:
                self.scalars.add(name)


def _one_image(kind: TensorType) -> Shape:
    """Shape of an input for one image; () where it is not known. One free size is that of the batch."""
    shape = tuple(1 if size is None else size for size in kind.shape)
    return () if kind.shape.count(None) > 1 or math.prod(shape) > MOST_ELEMENTS else shape


def _operators(stage: Node) -> tuple[OnnxNode, ...]:
    if isinstance(stage, DigitalNode):
        return stage.nodes
    assert isinstance(stage, OnnxNode), "layers without copies have no steps"
    return (stage,)


def _all_at(step: int) -> Steps:
    return np.full((), step, np.int64)


def _shapes(
    operator: OnnxNode, values: Mapping[str, Steps], known: Constants, scalars: Container[str]
) -> list[Shape | None]:
    """Shape of each input of an operator; None where it is not known."""
    shapes: list[Shape | None] = []
    for name in operator.inputs:
        if name in known:
            shapes.append(known[name].shape)
        elif name in values and (values[name].ndim or name in scalars):
            shapes.append(values[name].shape)
        else:
            shapes.append(None)
    return shapes


def _operator_steps(operator: OnnxNode, found: Found, values: Mapping[str, Steps]) -> dict[str, Steps]:
    """Step of each element of each output of an operator."""
    read = [name for name in (*operator.inputs, *operator.captures) if name in values]
    latest = max((int(values[name].max(initial=0)) for name in read), default=0)
    results = {}
    for number, name in enumerate(operator.outputs):
        if name and number in found:
            results[name] = _latest(
                found[number].shape,
                [(values[operator.inputs[operand]], read) for operand, read in found[number].operands],
            )
        elif name:
            results[name] = _all_at(latest)
    return results


def _latest(shape: Shape, operands: Iterable[tuple[Steps, NDArray[np.int64] | Span | None]]) -> Steps:
    latest: Steps | None = None
    for steps, read in operands:
        needed = _needed(shape, steps, read)
        latest = needed if latest is None else later_of(latest, needed)
    assert latest is not None, "a rule names at least one operand"
    return latest


def _needed(shape: Shape, steps: Steps, read: NDArray[np.int64] | Span | None) -> Steps:
    """Step in which an operand has all that each output element reads of it."""
    if read is None:
        return steps
    if isinstance(read, Span):
        return np.broadcast_to(latest_along(steps, read).reshape(read.shape), shape)
    if not steps.size:  # nothing is read of nothing
        return np.zeros(read.shape, np.int64)
    return np.where(read >= 0, steps.reshape(-1)[np.maximum(read, 0)], 0)


def latest_along(steps: Steps, span: Span) -> Steps:
    """Latest step along the axes of a span, which stay as sizes of 1."""
    sizes = [1 if axis in span.axes else size for axis, size in enumerate(steps.shape)]
    return np.broadcast_to(thin(steps)[0].max(axis=span.axes, keepdims=True, initial=0), sizes)


def thin(*steps: Steps) -> tuple[Steps, ...]:
    """Arrays of one shape, cut to one entry along each axis along which all of them repeat themselves.

    Channels made in the same step share their memory, so that there is little to compute.
    """
    alike = [all(axis == 0 for axis in strides) for strides in zip(*(item.strides for item in steps), strict=True)]
    places = tuple(slice(0, 1) if same else slice(None) for same in alike)
    return tuple(item[places] for item in steps)


def later_of(a: Steps, b: Steps) -> Steps:
    """The later of two steps, element by element, with broadcasting; what repeats itself stays so."""
    a, b = np.broadcast_arrays(a, b)
    return np.broadcast_to(np.maximum(*thin(a, b)), a.shape)


def spatial_steps(geometry: Geometry, x: Steps) -> Steps | None:
    """Step of each input position, over all channels and all items of an image; None if all alike."""
    if geometry.layout == "channels_first" and x.shape[1:] == (geometry.in_channels, *geometry.input_size):
        return np.broadcast_to(thin(x)[0].max(axis=(0, 1)), geometry.input_size)
    image = math.prod(geometry.input_size) * geometry.in_channels
    if geometry.layout == "channels_last" and x.ndim > 1 and x.size % image == 0:
        return np.asarray(x.reshape(-1, *geometry.input_size, geometry.in_channels).max(axis=(0, -1)))
    return None


def alike_copies(layer: MappedLayer) -> list[tuple[Unrolling, list[int]]]:
    """Replicas of a layer, by number, together with those that have the same windows."""
    copies: dict[Unrolling, list[int]] = {}
    for number, copy in enumerate(layer.replicas):
        copies.setdefault(copy.unrolling, []).append(number)
    return list(copies.items())


def _together(layer: MappedLayer, copies: Sequence[int], steps: Sequence[Steps]) -> tuple[NDArray[np.int32], Steps]:
    """Windows of some replicas, and their steps, one replica after the other."""
    windows = np.concatenate([layer.replicas[copy].windows for copy in copies])
    return windows, np.concatenate([steps[copy] for copy in copies])


def window_steps(unrolling: Unrolling, x: Steps) -> Steps:
    """First step in which all inputs of each window exist, [windows]."""
    geometry = unrolling.geometry
    positions = spatial_steps(geometry, x)
    if positions is None:
        return np.full(unrolling.windows, int(x.max(initial=0)), np.int64)
    latest = np.zeros(unrolling.grid, np.int64)
    for read in window_reads(unrolling, positions):
        np.maximum(latest, read, out=latest)
    return latest.ravel()


def window_reads(unrolling: Unrolling, positions: Steps) -> Iterable[Steps]:
    """Positions that all windows read at each of their offsets, [*grid]; 0 where that is padding."""
    padded = np.pad(positions, _padding(unrolling))
    for places in _offset_places(unrolling):
        yield padded[places]


def read_until(layer: MappedLayer, x: Steps, steps: Sequence[Steps]) -> Steps:
    """Last step in which a layer reads each element of its input, [x.shape]; -1 for none.

    Parameters
    ----------
    steps
        Per replica the step in which each of its windows is worked on, [windows].
    """
    geometry = layer.geometry
    if spatial_steps(geometry, x) is None:
        return np.broadcast_to(np.int64(max(int(worked.max(initial=-1)) for worked in steps)), x.shape)
    last = np.full(geometry.input_size, -1, np.int64)
    for unrolling, copies in alike_copies(layer):
        np.maximum(last, _positions_until(unrolling, *_together(layer, copies, steps)), out=last)
    if geometry.layout == "channels_first":
        return np.broadcast_to(last, x.shape)
    items = x.size // (last.size * geometry.in_channels)
    return np.broadcast_to(last[None, ..., None], (items, *last.shape, geometry.in_channels)).reshape(x.shape)


def _positions_until(unrolling: Unrolling, windows: NDArray[np.int32], steps: Steps) -> Steps:
    """Last step in which some windows read each input position, [*input_size]; -1 for none."""
    worked = np.full(unrolling.windows, -1, np.int64)
    worked[windows] = steps
    padding, sizes = _padding(unrolling), unrolling.geometry.input_size
    until = np.full([begin + size + end for size, (begin, end) in zip(sizes, padding, strict=True)], -1, np.int64)
    for places in _offset_places(unrolling):
        np.maximum(until[places], worked.reshape(unrolling.grid), out=until[places])
    return until[tuple(slice(begin, begin + size) for size, (begin, _) in zip(sizes, padding, strict=True))]


def _padding(unrolling: Unrolling) -> list[tuple[int, int]]:
    """Positions before and after the input that windows reach, per axis."""
    geometry, width = unrolling.geometry, []
    for axis, stride in enumerate(_window_strides(unrolling)):
        reach = (unrolling.grid[axis] - 1) * stride + unrolling.offsets[axis][-1] + 1
        begin = geometry.pads_begin[axis]
        width.append((begin, max(0, reach - begin - geometry.input_size[axis])))
    return width


def _window_strides(unrolling: Unrolling) -> list[int]:
    """Input positions between neighbouring windows, per axis."""
    return [count * stride for count, stride in zip(unrolling.window, unrolling.geometry.strides, strict=True)]


def _offset_places(unrolling: Unrolling) -> Iterable[tuple[slice, ...]]:
    """Slices of the padded input that all windows read at each of their offsets."""
    strides = _window_strides(unrolling)
    for offset in itertools.product(*unrolling.offsets):
        yield tuple(
            slice(first, first + (cells - 1) * stride + 1, stride)
            for first, cells, stride in zip(offset, unrolling.grid, strides, strict=True)
        )


def output_steps(layer: MappedLayer, x: Steps, done: Sequence[Steps]) -> Steps:
    """Step of each element of a layer's output, given the step of each window of each replica."""
    geometry = layer.geometry
    positions = np.zeros(geometry.positions, np.int64)
    for unrolling, copies in alike_copies(layer):
        windows, steps = _together(layer, copies, done)
        where = unrolling.window_positions()[windows]
        window, output = np.nonzero(where >= 0)
        positions[where[window, output]] = steps[window]
    if spatial_steps(geometry, x) is None:
        return _all_at(int(positions.max(initial=0)))
    if geometry.layout == "channels_first":
        grid = positions.reshape(1, 1, *geometry.output_size)
        return np.broadcast_to(grid, (len(x), geometry.out_channels, *geometry.output_size))
    items = x.size // (geometry.positions * geometry.in_channels)
    spread = np.broadcast_to(positions[None, :, None], (items, geometry.positions, geometry.out_channels))
    return spread.reshape(*x.shape[:-1], geometry.out_channels)


def last_step(values: Mapping[str, Steps], extra: Sequence[Any] = ()) -> int:
    """First step after everything is done."""
    return max((int(np.max(steps, initial=0)) for steps in (*values.values(), *extra)), default=0)

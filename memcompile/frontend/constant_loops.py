"""Writes out the runs of a Loop or Scan whose number does not depend on the network's inputs.

Recurrent networks of frameworks without an operator for them come as loops. Written out, their products become
crossbar layers, which share the cells of the weights that they have in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from memcompile.frontend.constant_branches import moved_constants, names_of, written_out
from memcompile.frontend.observed_values import PRODUCTS
from memcompile.frontend.validation import is_elsewhere, subgraphs, unused_name

LONGEST = 256
"""Most runs that are written out."""
MOST_OPERATORS = 20_000
"""Most operators of a graph whose loops are written out."""
LEAST_INPUTS = 2
"""Inputs of a Loop before its states: the number of its runs, and a condition."""
AXES_ARE_AN_INPUT = 13
"""Operator set from which on Unsqueeze reads its axes."""

Sizes = Mapping[str, Sequence[int | None]]


@dataclass(frozen=True)
class _Runs:
    """A loop with a known number of runs; ``states`` and ``scanned`` count the values handed on, and those cut."""

    node: onnx.NodeProto
    body: onnx.GraphProto
    times: int
    states: int
    scanned: int

    @property
    def operators(self) -> int:
        """Operators of all runs."""
        return self.times * len(self.body.node)

    @property
    def is_scan(self) -> bool:
        """True if each run reads a slice of some inputs."""
        return self.node.op_type == "Scan"

    def integers(self, name: str, count: int) -> list[int]:
        """An attribute of the operator, zeros where it has none."""
        found = next((list(item.ints) for item in self.node.attribute if item.name == name), [])
        return found or [0] * count


def written_out_loops(model: onnx.ModelProto, sizes: Sizes) -> onnx.ModelProto | None:
    """A copy of a model in which the loops of the main graph with a known number of runs are written out.

    None where there are none. Only loops with products are: all others stay one digital operator.

    Parameters
    ----------
    sizes
        Sizes of values, None where they are free.
    """
    known = {tensor.name: tensor for tensor in model.graph.initializer if not is_elsewhere(tensor)}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = node.attribute[0].t
    sizes = {**{name: list(tensor.dims) for name, tensor in known.items()}, **sizes}
    runs: dict[int, _Runs] = {}
    left = MOST_OPERATORS - len(model.graph.node)
    for number, node in enumerate(model.graph.node):
        found = _runs(node, known, sizes)
        if found is not None and found.operators <= left:
            runs[number] = found
            left -= found.operators
    if not runs:
        return None
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    taken = set(names_of(whole))
    opset = next((item.version for item in model.opset_import if not item.domain), 1)
    del whole.graph.node[:]
    for number, node in enumerate(model.graph.node):
        found = runs.get(number)
        whole.graph.node.extend([node] if found is None else _Writer(found, whole.graph, taken, opset).nodes())
    return whole


def _runs(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto], sizes: Sizes) -> _Runs | None:
    """The runs of a loop whose number is known and not too large; None of anything else."""
    if node.domain or node.op_type not in ("Loop", "Scan"):
        return None
    body = next(item.g for item in node.attribute if item.name == "body")
    if not _has_products(body) or any(is_elsewhere(tensor) for tensor in body.initializer):
        return None
    found = _loop(node, body, known) if node.op_type == "Loop" else _scan(node, body, sizes)
    return found if found is not None and 0 < found.times <= LONGEST else None


def _loop(node: onnx.NodeProto, body: onnx.GraphProto, known: Mapping[str, onnx.TensorProto]) -> _Runs | None:
    if len(node.input) < LEAST_INPUTS:
        return None
    count, condition = node.input[0], node.input[1]
    if count not in known or (condition and not _is_true(known.get(condition))):
        return None
    inside = {tensor.name: tensor for tensor in body.initializer}
    last = _source(body, body.output[0].name)
    if last != body.input[1].name and not _is_true(inside.get(last, _constant(body, last))):
        return None
    times = int(onnx.numpy_helper.to_array(known[count]).reshape(-1)[0])
    return _Runs(node, body, times, len(node.input) - 2, 0)


def _scan(node: onnx.NodeProto, body: onnx.GraphProto, sizes: Sizes) -> _Runs | None:
    scanned = next((item.i for item in node.attribute if item.name == "num_scan_inputs"), 0)
    found = _Runs(node, body, 0, len(node.input) - scanned, scanned)
    axes = found.integers("scan_input_axes", scanned)
    lengths = set()
    for name, axis in zip(node.input[found.states :], axes, strict=False):
        shape = sizes.get(name)
        lengths.add(shape[axis] if shape and -len(shape) <= axis < len(shape) else None)
    (length,) = lengths if len(lengths) == 1 else (None,)
    if length is None or len(body.input) != len(node.input) or "" in node.input:  # before operator set 9
        return None
    return _Runs(node, body, length, found.states, scanned)


def _has_products(graph: onnx.GraphProto) -> bool:
    inner = (each for node in graph.node for item in node.attribute for each in subgraphs(item))
    return any(node.op_type in PRODUCTS for node in graph.node) or any(map(_has_products, inner))


def _is_true(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and bool(np.all(onnx.numpy_helper.to_array(tensor)))


def _constant(body: onnx.GraphProto, name: str) -> onnx.TensorProto | None:
    """The value of a Constant of a body."""
    found = (node for node in body.node if name in node.output and node.op_type == "Constant")
    return next((node.attribute[0].t for node in found if node.attribute[0].name == "value"), None)


def _source(body: onnx.GraphProto, name: str) -> str:
    """The value that a value of a body is a copy of."""
    copies = {node.output[0]: node.input[0] for node in body.node if node.op_type == "Identity" and not node.domain}
    while name in copies:
        name = copies[name]
    return name


class _Writer:
    """Writes the runs of one loop, and the constants that they need into its graph."""

    def __init__(self, runs: _Runs, graph: onnx.GraphProto, taken: set[str], opset: int) -> None:
        self.runs, self.graph, self.taken, self.opset = runs, graph, taken, opset
        self.prefix = runs.node.name or runs.node.output[0]

    def nodes(self) -> Iterator[onnx.NodeProto]:
        """Operators of all runs, and of what joins their results."""
        runs, node, body = self.runs, self.runs.node, self.runs.body
        constants = moved_constants(body, self.prefix, self.graph, self.taken)
        outer = 0 if runs.is_scan else 2
        states = list(node.input[outer : outer + runs.states])
        first = 0 if runs.is_scan else 1  # the condition comes before the states
        scans: list[list[str]] = [[] for _ in body.output[first + runs.states :]]
        condition = "" if runs.is_scan else self._constant("condition", np.array(True))
        for turn in range(runs.times):
            names = dict(constants)
            if runs.is_scan:
                yield from self._slices(turn, names)
            else:
                names[body.input[0].name] = self._constant(f"{turn}/run", np.array(turn, np.int64))
                names[body.input[1].name] = condition
            names.update(zip((value.name for value in body.input[outer:]), states, strict=False))
            yield from written_out(body, f"{self.prefix}/{turn}", names, self.taken)
            sources = [_source(body, value.name) for value in body.output[first:]]
            made = [names.get(source, source) for source in sources]
            states = made[: runs.states]
            for scan, value in zip(scans, made[runs.states :], strict=True):
                scan.append(value)
        yield from self._results(states, scans)

    def _slices(self, turn: int, names: dict[str, str]) -> Iterator[onnx.NodeProto]:
        """Slices of the scanned inputs that a run reads, whose names are added."""
        runs = self.runs
        axes = runs.integers("scan_input_axes", runs.scanned)
        backward = runs.integers("scan_input_directions", runs.scanned)
        for number, (axis, last_first) in enumerate(zip(axes, backward, strict=True)):
            place = runs.times - 1 - turn if last_first else turn
            index = self._constant(f"{turn}/place", np.array(place, np.int64))
            result = unused_name(f"{self.prefix}/{turn}/slice", self.taken)
            names[runs.body.input[runs.states + number].name] = result
            yield self._node("Gather", [runs.node.input[runs.states + number], index], result, axis=axis)

    def _results(self, states: Sequence[str], scans: Sequence[Sequence[str]]) -> Iterator[onnx.NodeProto]:
        """The outputs of the loop: the last states, and what all runs made, joined."""
        runs, wanted = self.runs, self.runs.node.output
        for state, result in zip(states, wanted, strict=False):
            if result:
                yield self._node("Identity", [state], result)
        axes = runs.integers("scan_output_axes", len(scans))
        backward = runs.integers("scan_output_directions", len(scans))
        for scan, axis, last_first, result in zip(scans, axes, backward, wanted[runs.states :], strict=False):
            if not result:
                continue
            parts = []
            for value in scan[::-1] if last_first else scan:
                parts.append(unused_name(f"{self.prefix}/part", self.taken))
                yield self._unsqueezed(value, parts[-1], axis)
            yield self._node("Concat", parts, result, axis=axis)

    def _unsqueezed(self, value: str, result: str, axis: int) -> onnx.NodeProto:
        if self.opset < AXES_ARE_AN_INPUT:
            return self._node("Unsqueeze", [value], result, axes=[axis])
        axes = self._constant("axes", np.array([axis], np.int64))
        return self._node("Unsqueeze", [value, axes], result)

    def _constant(self, name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        name = unused_name(f"{self.prefix}/{name}", self.taken)
        self.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        return name

    def _node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
        name = unused_name(f"{self.prefix}/{op_type}", self.taken)
        return onnx.helper.make_node(op_type, list(inputs), [output], name=name, **attributes)

"""LSTM, GRU and RNN over sequences of static length, step by step.

The input weights are one layer for all steps of a direction. The recurrent weights are a layer a
step; these share cells (:mod:`memcompile.ir.sharing`), and where there are replicas the steps are dealt
round them, so that images follow each other as through any other layers. Gates and states are digital.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import Graph, OnnxNode
from memcompile.passes.lowering.lowering import Lowering, opset, reshaped, vector_geometry

LONGEST = 256
"""Most time steps: each is a layer, which takes time to compile."""
_GATES: Mapping[str, int] = MappingProxyType({"LSTM": 4, "GRU": 3, "RNN": 1})
_DEFAULTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
)


def recurrent_reason(node: OnnxNode, graph: Graph) -> str | None:
    """Return the reason why a recurrent operator stays digital; None if it is mapped."""
    if any(name not in graph.constants for name in (*node.inputs[1:3], *filter(None, node.inputs[3:4]))):
        return "its weights are not static"
    data = node.inputs[0]
    if data in graph.constants or data not in graph.observed_shapes:
        return "its data input is static"
    kind = str(graph.constants[node.inputs[1]].dtype)
    if kind != "float32" or opset(graph) < 7:
        return f"it computes in {kind}, or its operator set is older than 7"
    known = graph.types[data].shape
    if len(known) != 3 or known[0] is None:
        return "its sequence length is not static"
    if known[0] > LONGEST:
        return f"its sequence is longer than {LONGEST} steps"
    return _attribute_reason(node)


def _attribute_reason(node: OnnxNode) -> str | None:
    attributes = node.attributes
    inputs = (*node.inputs, *("",) * 8)
    if inputs[4]:
        return "its sequences have lengths of their own"
    if inputs[7] or attributes.get("clip") or attributes.get("input_forget") or attributes.get("layout"):
        return "it has peepholes, a clip, coupled gates or another layout"
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    given = tuple(attributes.get("activations", ()))
    return None if given in ((), _DEFAULTS[node.op_type] * directions) else "its activations are not the default ones"


class _Direction:
    """One direction of a recurrent operator."""

    def __init__(self, low: Lowering, number: int) -> None:
        node, constants = low.node, low.graph.constants
        self.low = low
        self.kind, self.gates = node.op_type, _GATES[node.op_type]
        self.shape = low.graph.observed_shapes[node.inputs[0]]
        # Rows over (gate, hidden unit), columns over inputs.
        self.weights = constants[node.inputs[1]][number]
        self.recurrent = constants[node.inputs[2]][number]
        self.hidden = self.recurrent.shape[1]
        name = node.inputs[3] if len(node.inputs) > 3 else ""
        both = constants[name][number] if name else np.zeros(2 * self.gates * self.hidden, np.float32)
        self.bias, self.recurrent_bias = np.split(both, 2)
        self.after_reset = bool(node.attributes.get("linear_before_reset", 0))

    def layer(self, value: str, shape: tuple[int, ...], matrix: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        """A layer with the rows of a matrix as output channels."""
        geometry = vector_geometry(self.low.graph, shape, matrix.shape[1], matrix.shape[0])
        return self.low.layer(value, shape, geometry, matrix[:, :, None], bias, dtype="float32")

    def op(self, op_type: str, *inputs: str) -> str:
        """A digital operator on float32."""
        return self.low.operator(op_type, *inputs, dtype="float32")

    def gate(self, value: str, first: int, count: int = 1) -> str:
        """A slice of gates of [batch, gates * hidden]."""
        places = self.low.constant(np.arange(first * self.hidden, (first + count) * self.hidden, dtype=np.int64))
        return self.low.operator("Gather", value, places, dtype="float32", axis=1)

    def run(self, order: Sequence[int], state: str, cell: str) -> tuple[list[str], str]:
        """Hidden states in the order of the steps taken, [batch, hidden] each, and the last cell state."""
        inside = np.zeros_like(self.recurrent_bias)
        if self.kind == "GRU" and self.after_reset:
            inside[2 * self.hidden :] = self.recurrent_bias[2 * self.hidden :]
        driven = self.layer(self.low.node.inputs[0], self.shape, self.weights, self.bias + self.recurrent_bias - inside)
        states = []
        for step in order:
            place = self.low.constant(np.array(step, np.int64))
            now = self.low.operator("Gather", driven, place, dtype="float32", axis=0)
            if self.kind == "GRU":
                state = self._gru(now, state, inside[2 * self.hidden :])
            else:
                nothing = np.zeros(len(self.recurrent), np.float32)
                now = (
                    self.op("Add", now, self.layer(state, self._state_shape, self.recurrent, nothing)) if state else now
                )
                state, cell = self._lstm(now, cell) if self.kind == "LSTM" else (self.op("Tanh", now), "")
            states.append(state)
        return states, cell

    @property
    def _state_shape(self) -> tuple[int, int]:
        return self.shape[1], self.hidden

    def _lstm(self, now: str, cell: str) -> tuple[str, str]:
        """Gates in the order input, output, forget, cell."""
        opened, out, kept = (self.op("Sigmoid", self.gate(now, number)) for number in range(3))
        fresh = self.op("Mul", opened, self.op("Tanh", self.gate(now, 3)))
        cell = self.op("Add", self.op("Mul", kept, cell), fresh) if cell else fresh
        return self.op("Mul", out, self.op("Tanh", cell)), cell

    def _gru(self, now: str, state: str, inside: NDArray[np.float32]) -> str:
        """Gates in the order update, reset, hidden."""
        hidden, nothing = self.hidden, np.zeros(2 * self.hidden, np.float32)
        both, candidate = self.gate(now, 0, 2), self.gate(now, 2)
        if state:
            both = self.op("Add", both, self.layer(state, self._state_shape, self.recurrent[: 2 * hidden], nothing))
        update, reset = (self.op("Sigmoid", self.gate(both, number)) for number in range(2))
        own = self.recurrent[2 * hidden :]
        if self.after_reset:
            past = self.layer(state, self._state_shape, own, inside) if state else self.low.constant(inside)
            candidate = self.op("Add", candidate, self.op("Mul", reset, past))
        elif state:
            past = self.layer(self.op("Mul", reset, state), self._state_shape, own, nothing[:hidden])
            candidate = self.op("Add", candidate, past)
        fresh = self.op("Tanh", candidate)
        rest = self.op("Mul", self.op("Sub", self.low.constant(np.array(1, np.float32)), update), fresh)
        return self.op("Add", rest, self.op("Mul", update, state)) if state else rest


def lower_recurrent(node: OnnxNode, graph: Graph) -> Lowering:
    """All steps of all directions, with their states joined into the operator's outputs."""
    low = Lowering(node, graph)
    direction = node.attributes.get("direction", "forward")
    forward = list(range(graph.observed_shapes[node.inputs[0]][0]))
    orders = {"forward": [forward], "reverse": [forward[::-1]]}.get(direction, [forward, forward[::-1]])
    inputs = (*node.inputs, *("",) * 8)
    sides, last, cells = [], [], []
    for number, order in enumerate(orders):
        way = _Direction(low, number)
        begin = [_start(low, inputs[place], number) for place in (5, 6)]
        states, cell = way.run(order, *begin)
        shaped = [reshaped(low, states[order.index(step)], [1, 1, -1, way.hidden], "float32") for step in forward]
        sides.append(low.operator("Concat", *shaped, dtype="float32", axis=0))
        last.append(reshaped(low, states[-1], [1, -1, way.hidden], "float32"))
        cells += [reshaped(low, cell, [1, -1, way.hidden], "float32")] if cell else []
    results = [low.operator("Concat", *sides, dtype="float32", axis=1)]
    results += [low.operator("Concat", *parts, dtype="float32", axis=0) for parts in (last, cells) if parts]
    return low.finish(*results)


def _start(low: Lowering, name: str, number: int) -> str:
    """Initial state of a direction, or nothing."""
    if not name:
        return ""
    return low.operator("Gather", name, low.constant(np.array(number, np.int64)), dtype="float32", axis=0)

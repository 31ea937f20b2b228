"""Adjoints of digital operators: how a gradient goes back through a digital stage.

Each function takes the gradient of a loss for an operator's first output and returns that for its
inputs (None where there is none). A gradient beyond these operators is a clear refusal, not a guess.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import UsageError
from memcompile.frontend.importer import with_all_values
from memcompile.frontend.sessions import open_session
from memcompile.ir.graph import OnnxNode
from memcompile.program.program import DigitalStage

Array = NDArray[Any]
Values = Mapping[str, Array]
Adjoint = Callable[[OnnxNode, Values, Array], Sequence[Array | None]]


class StageAdjoint:
    """Pulls gradients back through one digital stage.

    Raises
    ------
    UsageError
        A gradient meets an operator whose adjoint is not known.
    """

    def __init__(self, stage: DigitalStage) -> None:
        self.stage = stage
        self._nodes, self._constants = stage.operators
        model = with_all_values(stage.model)
        self._session = open_session(model, optimise=False, frugal=True)
        self._names = [output.name for output in self._session.get_outputs()]

    def pull(self, values: Values, gradients: Mapping[str, Array]) -> dict[str, Array]:
        """Gradients for the stage's inputs from those for its outputs, by name."""
        feeds = {name: values[name] for name in self.stage.inputs if name}
        inside = {**self._constants, **feeds}
        inside.update(zip(self._names, self._session.run(self._names, feeds), strict=True))
        found = dict(gradients)
        for node in reversed(self._nodes):
            arriving = found.pop(node.outputs[0], None)
            if arriving is None:
                continue
            parts = self._adjoint(node)(node, inside, arriving)
            for name, part in zip(node.inputs, parts, strict=False):
                if part is not None and name not in self._constants:
                    found[name] = found[name] + part if name in found else part
        return {name: found[name] for name in feeds if name in found}

    def _adjoint(self, node: OnnxNode) -> Adjoint:
        known = None if node.domain else ADJOINTS.get(node.op_type)
        if known is None:
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise UsageError(
                f"gradients cannot go back through operator {name} ({node.name}); known are "
                f"{', '.join(sorted(ADJOINTS))}: tune only layers after it, such as the last"
            )
        return known


def _reduced(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which an input was broadcast."""
    extra = gradient.ndim - len(shape)
    axes = (*range(extra), *(extra + axis for axis, size in enumerate(shape) if size == 1))
    reduced: Array = gradient.sum(axis=axes, keepdims=True).reshape(shape)
    return reduced


def _reshaped(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    return [gradient.reshape(values[node.inputs[0]].shape)]


def _relu(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    return [gradient * (values[node.inputs[0]] > 0)]


def _clip(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    return [gradient * (values[node.inputs[0]] == values[node.outputs[0]])]


def _leaky_relu(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    slope = np.float32(node.attributes.get("alpha", 0.01))
    return [np.where(values[node.inputs[0]] > 0, gradient, slope * gradient)]


def _sigmoid(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    y = values[node.outputs[0]]
    return [gradient * y * (1 - y)]


def _tanh(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    return [gradient * (1 - values[node.outputs[0]] ** 2)]


def _add(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    return [_reduced(gradient, values[name].shape) for name in node.inputs]


def _subtract(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    a, b = (values[name] for name in node.inputs)
    return [_reduced(gradient, a.shape), _reduced(-gradient, b.shape)]


def _multiply(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    a, b = (values[name] for name in node.inputs)
    return [_reduced(gradient * b, a.shape), _reduced(gradient * a, b.shape)]


def _divide(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    a, b = (values[name] for name in node.inputs)
    return [_reduced(gradient / b, a.shape), _reduced(-gradient * a / b**2, b.shape)]


def _batch_normalization(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    gamma, variance = values[node.inputs[1]], values[node.inputs[4]]
    factor = gamma / np.sqrt(variance + np.float32(node.attributes.get("epsilon", 1e-5)))
    return [gradient * factor.reshape(-1, *(1,) * (gradient.ndim - 2))]


def _transpose(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    order = node.attributes.get("perm", tuple(reversed(range(gradient.ndim))))
    return [gradient.transpose(np.argsort(order))]


def _concat(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    axis = int(node.attributes["axis"])
    edges = np.cumsum([values[name].shape[axis] for name in node.inputs])[:-1]
    return list(np.split(gradient, edges, axis=axis))


def _argument(node: OnnxNode, values: Values, number: int, name: str) -> list[int] | None:
    """A list of integers that older operator sets have as an attribute and newer ones as an input."""
    if number < len(node.inputs) and node.inputs[number]:
        return [int(value) for value in values[node.inputs[number]].ravel()]
    return [int(value) for value in node.attributes[name]] if name in node.attributes else None


def _slice(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    x = values[node.inputs[0]]
    starts, ends = _argument(node, values, 1, "starts") or [], _argument(node, values, 2, "ends") or []
    axes = _argument(node, values, 3, "axes") or list(range(len(starts)))
    steps = _argument(node, values, 4, "steps") or [1] * len(starts)
    where = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # ONNX writes "before the first element" as a number below -size; Python wants None.
        beyond = step < 0 and end < -x.shape[axis]
        where[axis] = slice(start, None if beyond else end, step)
    full = np.zeros_like(x, gradient.dtype)
    full[tuple(where)] = gradient
    return [full]


def _pad(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    x = values[node.inputs[0]]
    mode = node.attributes.get("mode", "constant")
    pads = _argument(node, values, 1, "pads") or []
    axes = _argument(node, values, 3, "axes") or list(range(x.ndim))
    if mode != "constant" or min(pads, default=0) < 0:
        raise UsageError(f"gradients cannot go back through Pad ({node.name}) of mode {mode} or with negative pads")
    where = [slice(None)] * x.ndim
    for axis, before in zip(axes, pads, strict=False):
        where[axis] = slice(before, before + x.shape[axis])
    return [gradient[tuple(where)]]


def _mean(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    x = values[node.inputs[0]]
    if node.op_type == "GlobalAveragePool":
        axes: list[int] = list(range(2, x.ndim))
    else:
        axes = [axis % x.ndim for axis in _argument(node, values, 1, "axes") or range(x.ndim)]
    kept = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    count = math.prod(x.shape[axis] for axis in axes)
    return [np.broadcast_to(gradient.reshape(kept) / np.float32(count), x.shape)]


class _Pool:
    """The windows of a pooling operator over a padded input."""

    def __init__(self, node: OnnxNode, x: Array, output: tuple[int, ...]) -> None:
        self.kernel = tuple(int(size) for size in node.attributes["kernel_shape"])
        rank = len(self.kernel)
        self.strides = tuple(node.attributes.get("strides", (1,) * rank))
        self.dilations = tuple(node.attributes.get("dilations", (1,) * rank))
        pads = tuple(node.attributes.get("pads", (0,) * 2 * rank))
        if node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            raise UsageError(f"gradients cannot go back through {node.op_type} ({node.name}) with auto_pad")
        self.output = output
        self.size = x.shape[2:]
        self.begin, self.end = pads[:rank], pads[rank:]

    def padded(self, x: Array, inside: float, outside: float) -> Array:
        """The input with ``inside`` in its own padding and ``outside`` in what ceil_mode adds."""
        own = np.pad(x, [(0, 0), (0, 0), *zip(self.begin, self.end, strict=True)], constant_values=inside)
        reach = [
            (count - 1) * stride + dilation * (kernel - 1) + 1
            for count, stride, dilation, kernel in zip(
                self.output, self.strides, self.dilations, self.kernel, strict=True
            )
        ]
        more = [(0, max(0, need - have)) for need, have in zip(reach, own.shape[2:], strict=True)]
        return np.pad(own, [(0, 0), (0, 0), *more], constant_values=outside)

    def places(self) -> Iterator[tuple[slice, ...]]:
        """Slices that each tap of the kernel reads, for all windows at once."""
        for tap in itertools.product(*map(range, self.kernel)):
            yield (
                slice(None),
                slice(None),
                *(
                    slice(dilation * first, dilation * first + (count - 1) * stride + 1, stride)
                    for first, dilation, count, stride in zip(
                        tap, self.dilations, self.output, self.strides, strict=True
                    )
                ),
            )

    def cropped(self, padded: Array) -> Array:
        """Part of a padded array that belongs to the input itself."""
        inside = (slice(first, first + size) for first, size in zip(self.begin, self.size, strict=True))
        return padded[(slice(None), slice(None), *inside)]


def _max_pool(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    x, y = values[node.inputs[0]], values[node.outputs[0]]
    pool = _Pool(node, x, y.shape[2:])
    padded = pool.padded(x, -np.inf, -np.inf)
    result = np.zeros(padded.shape, gradient.dtype)
    free = np.ones(y.shape, bool)
    for place in pool.places():
        # Of equal values the first in the window takes all, as the forward pass picks one.
        here = free & (padded[place] == y)
        result[place] += np.where(here, gradient, 0)
        free &= ~here
    return [pool.cropped(result)]


def _average_pool(node: OnnxNode, values: Values, gradient: Array) -> list[Array | None]:
    x, y = values[node.inputs[0]], values[node.outputs[0]]
    pool = _Pool(node, x, y.shape[2:])
    counted = float(node.attributes.get("count_include_pad", 0))
    ones = pool.padded(np.ones((1, 1, *x.shape[2:]), np.float32), counted, 0.0)
    count = sum(ones[place] for place in pool.places())
    result = np.zeros((*x.shape[:2], *ones.shape[2:]), gradient.dtype)
    for place in pool.places():
        result[place] += gradient / count
    return [pool.cropped(result)]


ADJOINTS: dict[str, Adjoint] = {
    "Add": _add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Clip": _clip,
    "Concat": _concat,
    "Div": _divide,
    "Dropout": _reshaped,
    "Flatten": _reshaped,
    "GlobalAveragePool": _mean,
    "Identity": _reshaped,
    "LeakyRelu": _leaky_relu,
    "MaxPool": _max_pool,
    "Mul": _multiply,
    "Pad": _pad,
    "ReduceMean": _mean,
    "Relu": _relu,
    "Reshape": _reshaped,
    "Sigmoid": _sigmoid,
    "Slice": _slice,
    "Squeeze": _reshaped,
    "Sub": _subtract,
    "Sum": _add,
    "Tanh": _tanh,
    "Transpose": _transpose,
    "Unsqueeze": _reshaped,
}

"""Input elements that each output element of an ONNX operator depends on.

Each rule states a superset of what an operator reads, element by element; an operator without a
rule, or with an attribute that no rule knows, depends on everything. So a step derived from it may
be late, never early.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import OnnxNode

Shape = tuple[int, ...]
Index = NDArray[np.int64]
Constants = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Span:
    """Reads along whole axes of an input: along ``axes`` an output element depends on all elements.

    ``shape`` is the input's with sizes of 1 in place of these axes, or without them. It is broadcast to the output's.
    """

    axes: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True, eq=False)
class Reads:
    """Reads of one output of an operator.

    ``operands`` are pairs of an input's number and, in the output's ``shape``, the flat index of
    the input's element that the output element depends on, -1 for none; None stands for the element
    in the same place, and a span for elements along whole axes. An input may occur several times.
    """

    shape: Shape
    operands: tuple[tuple[int, Index | Span | None], ...]


Found = dict[int, Reads]
"""Reads of those outputs (by number) whose elements depend on some input elements only."""

Rule = Callable[[OnnxNode, Sequence[Shape | None], Constants], Found]

MAPS = {
    "Abs", "Add", "And", "Cast", "Ceil", "Celu", "Clip", "Cos", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor",
    "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "LessOrEqual",
    "Log", "Max", "Mean", "Min", "Mish", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round",
    "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Where",
    "Xor",
}  # fmt: skip
SCALED = {"BatchNormalization", "QuantizeLinear", "DequantizeLinear"}
REDUCTIONS = {
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
}  # fmt: skip


def operator_reads(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    """Reads of each output of an operator; an output that is missing depends on everything.

    Parameters
    ----------
    operator
        The operator.
    shapes
        Shape of each input; None where it is not known.
    constants
        Values that are known at compile time, by name.
    """
    rule = RULES.get(operator.kind)
    read = [name for name in operator.inputs if name and name not in constants]
    known = all(shape is not None for name, shape in zip(operator.inputs, shapes, strict=True) if name in read)
    if rule is None or operator.captures or not read or not known:
        return {}
    return rule(operator, shapes, constants)


def _maps(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    """Element by element, with broadcasting."""
    variable = [number for number, name in enumerate(operator.inputs) if name and name not in constants]
    if {"broadcast", "axis", "consumed_inputs"} & set(operator.attributes):  # opset 6 and older
        return _first_alone(operator, shapes, constants)
    known = [shape for shape in shapes if shape is not None]
    shape = np.broadcast_shapes(*known)
    return {0: Reads(shape, tuple((number, _broadcast(_of(shapes, number), shape)) for number in variable))}


def _first_alone(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    """The first input in place; all others are parameters known at compile time."""
    shape = shapes[0]
    if shape is None or operator.inputs[0] in constants or operator.attributes.get("training_mode"):
        return {}
    if any(name and name not in constants for name in operator.inputs[1:]):
        return {}
    return {0: Reads(shape, ((0, None),))}


def _broadcast(shape: Shape, wanted: Shape) -> Index | None:
    if shape == wanted:
        return None
    return np.broadcast_to(_places(shape), wanted)


def _places(shape: Shape) -> Index:
    """Flat index of each element."""
    return np.arange(math.prod(shape), dtype=np.int64).reshape(shape)


def _of(shapes: Sequence[Shape | None], number: int) -> Shape:
    shape = shapes[number]
    assert shape is not None, "operator_reads calls rules with known shapes only"
    return shape


def _constant(operator: OnnxNode, number: int, constants: Constants) -> NDArray[Any] | None:
    if number < len(operator.inputs) and operator.inputs[number]:
        return constants.get(operator.inputs[number])
    return None


def _given(operator: OnnxNode, number: int) -> bool:
    return number < len(operator.inputs) and bool(operator.inputs[number])


# Windows ------------------------------------------------------------------------------------------


def _pool(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    """Pooling over spatial axes; the indices that MaxPool may give too depend on everything."""
    shape, attributes = _of(shapes, 0), operator.attributes
    if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return {}
    kernel = tuple(attributes["kernel_shape"])
    rank = len(kernel)
    strides = tuple(attributes.get("strides", (1,) * rank))
    dilations = tuple(attributes.get("dilations", (1,) * rank))
    pads = tuple(attributes.get("pads", (0,) * (2 * rank)))
    size = []
    for axis in range(rank):
        room = shape[2 + axis] + pads[axis] + pads[rank + axis] - dilations[axis] * (kernel[axis] - 1) - 1
        cells = (-(-room // strides[axis]) if attributes.get("ceil_mode") else room // strides[axis]) + 1
        # A window that starts in the far padding is dropped.
        dropped = (cells - 1) * strides[axis] >= shape[2 + axis] + pads[axis]
        size.append(cells - 1 if attributes.get("ceil_mode") and dropped else cells)
    out = (*shape[:2], *size)
    lead = (1, 1)
    taps = _taps(shape, out, (*lead, *kernel), (*lead, *strides), (*lead, *dilations), (0, 0, *pads[:rank]))
    return {0: Reads(out, tuple((0, index) for index in taps))}


def _normalise_response(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    """Local response normalisation reads neighbouring channels."""
    shape, size = _of(shapes, 0), int(operator.attributes["size"])
    rest = len(shape) - 2
    ones = (1,) * len(shape)
    taps = _taps(shape, shape, (1, size, *(1,) * rest), ones, ones, (0, (size - 1) // 2, *(0,) * rest))
    return {0: Reads(shape, tuple((0, index) for index in taps))}


def _taps(
    shape: Shape, out: Shape, kernel: Shape, strides: Shape, dilations: Shape, pads_begin: Shape
) -> Iterator[Index]:
    """Index of the element that each window has at each of its taps, -1 outside."""
    for tap in itertools.product(*map(range, kernel)):
        axes = [
            np.arange(cells, dtype=np.int64) * stride + offset * dilation - pad
            for cells, stride, offset, dilation, pad in zip(out, strides, tap, dilations, pads_begin, strict=True)
        ]
        flat = np.zeros((1,) * len(shape), np.int64)
        inside = np.ones((1,) * len(shape), bool)
        for axis, (places, size) in enumerate(zip(axes, shape, strict=True)):
            view = places.reshape(-1, *(1,) * (len(shape) - axis - 1))
            flat = flat * size + view
            inside = inside & (view >= 0) & (view < size)
        yield np.where(inside, flat, -1)


# Whole axes ---------------------------------------------------------------------------------------


def _along(shape: Shape, axes: Iterable[int], keep: bool = True) -> Span:
    """Span along axes that may count from the end; with ``keep`` they stay as sizes of 1."""
    whole = tuple(sorted({axis % len(shape) for axis in axes})) if shape else ()
    sizes = (1 if axis in whole else size for axis, size in enumerate(shape) if keep or axis not in whole)
    return Span(whole, tuple(sizes))


def _normalise(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    """Softmax and its kin normalise along an axis, in opset 12 and older along all axes from it on."""
    shape = _of(shapes, 0)
    # Without an attribute it is the last axis in newer opsets and axis 1 in older ones.
    axis = int(operator.attributes.get("axis", min(1, len(shape) - 1)))
    return {0: Reads(shape, ((0, _along(shape, range(axis % max(len(shape), 1), len(shape)))),))}


def _normalise_layer(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    """Layer normalisation along an axis and all behind it; mean and deviation, which it may give, as well."""
    shape, parameters = _of(shapes, 0), operator.inputs[1:]
    if operator.inputs[0] in constants or any(name and name not in constants for name in parameters):
        return {}
    span = _along(shape, range(int(operator.attributes.get("axis", -1)) % len(shape), len(shape)))
    return {number: Reads(span.shape if number else shape, ((0, span),)) for number in range(len(operator.outputs))}


def _normalise_channels(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    """Instance normalisation along the axes behind the channels."""
    shape, parameters = _of(shapes, 0), operator.inputs[1:]
    if operator.inputs[0] in constants or any(name and name not in constants for name in parameters):
        return {}
    return {0: Reads(shape, ((0, _along(shape, range(2, len(shape)))),))}


def _pool_all(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    """Pooling over all positions."""
    span = _along(_of(shapes, 0), range(2, len(_of(shapes, 0))))
    return {0: Reads(span.shape, ((0, span),))}


def _reduce(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    """Sums, means and extremes along axes, all axes unless some are given."""
    shape, axes = _of(shapes, 0), _axes(operator, constants)
    if axes is None and _given(operator, 1):
        return {}
    if not axes and operator.attributes.get("noop_with_empty_axes"):
        return {0: Reads(shape, ((0, None),))}
    span = _along(shape, axes or range(len(shape)), bool(operator.attributes.get("keepdims", 1)))
    return {0: Reads(span.shape, ((0, span),))}


def _find_extreme(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    """Places of extremes along an axis."""
    axis, keep = int(operator.attributes.get("axis", 0)), bool(operator.attributes.get("keepdims", 1))
    span = _along(_of(shapes, 0), (axis,), keep)
    return {0: Reads(span.shape, ((0, span),))}


def _multiply(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    """A product of matrices reads rows of the left one and columns of the right one."""
    left, right = _of(shapes, 0), _of(shapes, 1)
    rows, columns = left[-2:-1], right[-1:] if len(right) > 1 else ()  # a vector has neither
    spans = (
        Span((len(left) - 1,), (*left[:-2], *rows, *(1,) * len(columns))),
        Span((max(len(right) - 2, 0),), (*right[:-2], *(1,) * len(rows), *columns)),
    )
    out = (*np.broadcast_shapes(left[:-2], right[:-2]), *rows, *columns)
    return {0: Reads(out, _variable(operator, spans, constants))}


def _multiply_add(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    """Gemm: both matrices may be transposed, and the third operand is broadcast."""
    left, right, attributes = _of(shapes, 0), _of(shapes, 1), operator.attributes
    across, along = int(bool(attributes.get("transA"))), int(bool(attributes.get("transB")))
    out = (left[across], right[1 - along])
    spans = (Span((1 - across,), (out[0], 1)), Span((along,), (1, out[1])))
    operands = _variable(operator, spans, constants)
    if _given(operator, 2) and operator.inputs[2] not in constants:
        operands = (*operands, (2, _broadcast(_of(shapes, 2), out)))
    return {0: Reads(out, operands)}


def _variable(
    operator: OnnxNode, spans: Sequence[Span], constants: Constants
) -> tuple[tuple[int, Index | Span | None], ...]:
    """Spans of the inputs that are not known at compile time."""
    return tuple((number, span) for number, span in enumerate(spans) if operator.inputs[number] not in constants)


def _quantize_dynamically(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    """Quantisation by the range of all elements; scale and zero point come with it."""
    shape = _of(shapes, 0)
    kept, gone = _along(shape, range(len(shape))), _along(shape, range(len(shape)), keep=False)
    return {0: Reads(shape, ((0, kept),)), 1: Reads((), ((0, gone),)), 2: Reads((), ((0, gone),))}


# Movement -----------------------------------------------------------------------------------------


def _moved(index: Index, number: int = 0) -> Found:
    return {0: Reads(index.shape, ((number, index),))}


def _transpose(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    places = _places(_of(shapes, 0))
    return _moved(places.transpose(operator.attributes.get("perm")))


def _reshape(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    shape = _of(shapes, 0)
    wanted = operator.attributes.get("shape", _constant(operator, 1, constants))
    if wanted is None:
        return {}
    zero_is_zero = bool(operator.attributes.get("allowzero"))
    sizes = [shape[axis] if size == 0 and not zero_is_zero else int(size) for axis, size in enumerate(np.ravel(wanted))]
    return _moved(_places(shape).reshape(sizes))


def _flatten(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    shape = _of(shapes, 0)
    axis = int(operator.attributes.get("axis", 1))
    axis += len(shape) if axis < 0 else 0
    return _moved(_places(shape).reshape(math.prod(shape[:axis]), math.prod(shape[axis:])))


def _axes(operator: OnnxNode, constants: Constants) -> tuple[int, ...] | None:
    """Axes as an attribute (opset 12 and older) or as the second input; None if neither is known."""
    axes = operator.attributes.get("axes", _constant(operator, 1, constants))
    return None if axes is None else tuple(int(axis) for axis in np.ravel(axes))


def _squeeze(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    places, axes = _places(_of(shapes, 0)), _axes(operator, constants)
    if axes is None and _given(operator, 1):
        return {}
    return _moved(np.squeeze(places, axes))


def _unsqueeze(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    axes = _axes(operator, constants)
    return {} if axes is None else _moved(np.expand_dims(_places(_of(shapes, 0)), axes))


def _concat(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    sizes = [_of(shapes, number) for number in range(len(operator.inputs))]
    axis = int(operator.attributes["axis"])
    operands = []
    for number, name in enumerate(operator.inputs):
        if name in constants:
            continue
        parts = [_places(size) if place == number else np.full(size, -1, np.int64) for place, size in enumerate(sizes)]
        operands.append((number, np.concatenate(parts, axis)))
    return {0: Reads(operands[0][1].shape, tuple(operands))}


def _split(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    places, axis = _places(_of(shapes, 0)), int(operator.attributes.get("axis", 0))
    sizes = operator.attributes.get("split", _constant(operator, 1, constants))
    if sizes is None and _given(operator, 1):
        return {}
    if sizes is None:
        each = -(-places.shape[axis] // len(operator.outputs))
        edges = [each * number for number in range(1, len(operator.outputs))]
    else:
        edges = np.cumsum(np.ravel(sizes))[:-1].tolist()
    parts = np.split(places, edges, axis)
    return {number: Reads(part.shape, ((0, part),)) for number, part in enumerate(parts)}


def _slice(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    places, attributes = _places(_of(shapes, 0)), operator.attributes
    found = []
    for number, name in enumerate(("starts", "ends", "axes", "steps"), start=1):
        value = attributes.get(name, _constant(operator, number, constants))
        if value is None and (_given(operator, number) or name in ("starts", "ends")):
            return {}
        found.append(None if value is None else [int(item) for item in np.ravel(value)])
    starts, ends = found[0] or [], found[1] or []
    axes = list(range(len(starts))) if found[2] is None else found[2]
    steps = [1] * len(starts) if found[3] is None else found[3]
    where = [slice(None)] * places.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = places.shape[axis]
        begin, stop = (start + size if start < 0 else start), (end + size if end < 0 else end)
        if step > 0:
            where[axis] = slice(max(begin, 0), max(stop, 0), step)
        elif begin >= 0:
            where[axis] = slice(begin, None if stop < 0 else stop, step)
        else:
            return {}
    return _moved(places[tuple(where)])


def _pad(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    places = _places(_of(shapes, 0))
    modes = {"constant": "constant", "edge": "edge", "reflect": "reflect"}
    mode = modes.get(operator.attributes.get("mode", "constant"))
    pads = operator.attributes.get("pads", _constant(operator, 1, constants))
    fill_known = not _given(operator, 2) or _constant(operator, 2, constants) is not None
    if mode is None or pads is None or not fill_known or _given(operator, 3) or "paddings" in operator.attributes:
        return {}
    sizes = [int(item) for item in np.ravel(pads)]
    rank = places.ndim
    if mode != "constant" and min(sizes) < 0:
        return {}
    kept = tuple(slice(max(-sizes[axis], 0), places.shape[axis] - max(-sizes[rank + axis], 0)) for axis in range(rank))
    width = [(max(sizes[axis], 0), max(sizes[rank + axis], 0)) for axis in range(rank)]
    fill = {"constant_values": -1} if mode == "constant" else {}
    return _moved(np.pad(places[kept], width, mode=mode, **fill))  # type: ignore[call-overload]


def _gather(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    """Elements at constant places, or rows of a constant table at places that are data."""
    index = _constant(operator, 1, constants)
    if operator.inputs[0] in constants:
        table, places = _of(shapes, 0), _of(shapes, 1)
        axis = int(operator.attributes.get("axis", 0)) % len(table)
        rows = _places(places).reshape(*places, *(1,) * (len(table) - axis - 1))
        return _moved(np.broadcast_to(rows, (*table[:axis], *places, *table[axis + 1 :])), 1)
    if index is None:
        return {}
    return _moved(np.take(_places(_of(shapes, 0)), index, int(operator.attributes.get("axis", 0))))


def _expand(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    wanted = _constant(operator, 1, constants)
    if wanted is None:
        return {}
    shape = _of(shapes, 0)
    return _moved(np.broadcast_to(_places(shape), np.broadcast_shapes(shape, tuple(map(int, np.ravel(wanted))))))


def _depth_to_space(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    places, block = _places(_of(shapes, 0)), int(operator.attributes["blocksize"])
    batch, channels, height, width = places.shape
    if operator.attributes.get("mode", "DCR") == "DCR":
        cut = places.reshape(batch, block, block, channels // block**2, height, width).transpose(0, 3, 4, 1, 5, 2)
    else:
        cut = places.reshape(batch, channels // block**2, block, block, height, width).transpose(0, 1, 4, 2, 5, 3)
    return _moved(cut.reshape(batch, channels // block**2, height * block, width * block))


def _resize(operator: OnnxNode, shapes: Sequence[Shape | None], constants: Constants) -> Found:
    """Nearest neighbour by whole factors: each element is repeated."""
    shape, attributes = _of(shapes, 0), operator.attributes
    coordinates = attributes.get("coordinate_transformation_mode", "half_pixel")
    rounding = attributes.get("nearest_mode", "round_prefer_floor")
    old = operator.op_type == "Upsample" or len(operator.inputs) == 2
    repeats = old or (coordinates, rounding) in (
        ("asymmetric", "floor"),
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
    )
    if attributes.get("mode", "nearest") != "nearest" or not repeats or "axes" in attributes:
        return {}
    factors = _factors(operator, shape, constants)
    if factors is None:
        return {}
    places = _places(shape)
    for axis, factor in enumerate(factors):
        places = np.repeat(places, factor, axis)
    return _moved(places)


def _factors(operator: OnnxNode, shape: Shape, constants: Constants) -> list[int] | None:
    """Whole factors per axis from scales or sizes."""
    scales = operator.attributes.get("scales", _constant(operator, 1 if len(operator.inputs) == 2 else 2, constants))
    sizes = _constant(operator, 3, constants)
    if scales is not None and np.size(scales):
        wanted = np.ravel(scales).astype(np.float64)
    elif sizes is not None:
        wanted = np.ravel(sizes) / np.array(shape)
    else:
        return None
    whole = len(wanted) == len(shape) and bool((wanted >= 1).all() and (wanted == np.rint(wanted)).all())
    return [int(factor) for factor in wanted] if whole else None


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(sorted(MAPS), _maps),
    **dict.fromkeys((f"com.microsoft::{name}" for name in ("BiasGelu", "FastGelu", "Gelu", "QuickGelu")), _maps),
    **dict.fromkeys(sorted(SCALED), _first_alone),
    "AveragePool": _pool,
    "MaxPool": _pool,
    "LRN": _normalise_response,
    **dict.fromkeys(("Hardmax", "LogSoftmax", "Softmax"), _normalise),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _normalise_layer),
    "InstanceNormalization": _normalise_channels,
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _pool_all),
    **dict.fromkeys(sorted(REDUCTIONS), _reduce),
    **dict.fromkeys(("ArgMax", "ArgMin"), _find_extreme),
    "MatMul": _multiply,
    "Gemm": _multiply_add,
    "DynamicQuantizeLinear": _quantize_dynamically,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Gather": _gather,
    "Expand": _expand,
    "DepthToSpace": _depth_to_space,
    "Resize": _resize,
    "Upsample": _resize,
}

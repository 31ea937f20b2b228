"""Compares layers with onnxruntime's result before anything is quantised, each on onnxruntime's own values.

Two sums of the same numbers differ in their last bits, and a network that rounds inside (QuantizeLinear) makes a whole
step of that now and then, which later layers amplify. So no error is carried on: each layer, and each digital operator
that a pass wrote, reads what onnxruntime itself has there, and its result is compared where the model has a value of
that name. Operators that are the model's own need no comparison.

The difference that rounding explains, per element, with u the unit roundoff of the layer's type, v that of the sums, n
the terms: every summation order gives sum w_i x_i within n v sum |w_i| |x_i|, each stored result is within u of itself,
and a half precision input may have been read before it was rounded (u sum |w_i| |x_i|). See N. J. Higham, Accuracy and
Stability of Numerical Algorithms, chapter 3.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import MiscompileError
from memcompile.frontend.importer import ModelFile, to_model
from memcompile.frontend.sessions import open_session, run_session
from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import DigitalNode, Graph, OnnxNode, UnrolledLayer, read_values
from memcompile.verify.interpreter import apply_matrices, multiplies_bytes_exactly, run_layer

FLOAT_SHARE = 0.001
"""Largest difference of a value as a share of its root mean square, where no bound of its rounding is known."""
ROUNDED_SHARE = 0.01
"""The same of half precision, and of operators outside the default domain, which may round inside as they please."""
LEAST_SLACK = 1e-6
"""Further absolute difference there: softmax and sigmoid amplify relative errors of tiny values."""
OPERATOR_ROUNDINGS = 4
"""Roundings of an operator beside a sum: BatchNormalization's division, root, product and addition."""
FOLDED_ROUNDINGS = 2 * OPERATOR_ROUNDINGS
"""Roundings of what was folded into a layer: a batch normalisation, and as many again in Mul and Add."""
PART_NUMBERS = 1 << 20
"""Numbers of a value that are compared at a time."""
LARGEST_BYTE = 255
"""Largest distance between a byte and its zero point."""
LARGEST_FACTORS = (127, 64)
"""Unsigned byte and magnitude of a signed one: of two products that overflow 16 bits, one exceeds both."""
# Operators on bytes with exact sums, and where they have the weights' zero point.
_WHOLE_SUMS = MappingProxyType({"ConvInteger": 3, "MatMulInteger": 3, "QLinearConv": 5, "QLinearMatMul": 5})
# onnxruntime has no kernels for half precision sums on x86-64; others may add up in half precision.
_SUMS_HALVES_IN_FLOAT32 = platform.machine().lower() in ("x86_64", "amd64")
# Each element of the result depends on one element of each input, and is monotonic in it.
_ELEMENTWISE = frozenset(
    (
        *("Add", "Cast", "Clip", "Concat", "DequantizeLinear", "Div", "Expand", "Flatten", "Gather", "Identity"),
        *("LeakyRelu", "Mul", "Neg", "Pad", "QuantizeLinear", "Relu", "Reshape", "Slice", "Split", "Squeeze", "Sub"),
        *("Transpose", "Unsqueeze"),
    )
)
_Step = UnrolledLayer | tuple[OnnxNode, ...]


@dataclass(frozen=True, eq=False)
class Approximation:
    """A value of the graph, and the largest difference per element from the model's that rounding explains.

    ``slack`` is 0 where the value is onnxruntime's own, and None where no bound is known.
    """

    value: Any
    slack: NDArray[np.float64] | float | None = 0.0


@dataclass(frozen=True)
class InputRange:
    """Smallest and largest number that a layer reads on the sample; 0 both if it reads none."""

    lowest: float
    highest: float

    @classmethod
    def of(cls, value: NDArray[Any]) -> InputRange:
        """Range of the finite numbers."""
        finite = value[np.isfinite(value)] if value.dtype.kind == "f" else value
        return cls(float(finite.min(initial=0)), float(finite.max(initial=0)))


def check_network(
    graph: Graph, imported: Graph, model: ModelFile, sample: Mapping[str, NDArray[Any]]
) -> dict[str, InputRange]:
    """Compare what passes made of a model with the model; returns the range of each layer's input, by layer name.

    Parameters
    ----------
    graph
        With layers of float weights.
    imported
        The graph of the model as it was; operators that are still in ``graph`` are taken as they are.
    sample
        One batch, by input of the model.

    Raises
    ------
    MiscompileError
        Naming the first layer or operator that differs by more than rounding explains.
    """
    # Branches that were written out make values of their own, which onnxruntime cannot show.
    shown = model.value_names()
    makers = {
        value: node for node in imported.nodes if isinstance(node, OnnxNode) for value in node.outputs if value in shown
    }
    steps = list(_steps(graph.nodes, {*makers.values()}, makers))
    expected = _model_values(steps, makers, model, sample)
    values = {name: Approximation(value) for name, value in expected.items()}
    values |= {name: Approximation(value) for name, value in (*graph.constants.items(), *sample.items())}
    last_use = {value: number for number, step in enumerate(steps) for value in _touched(step)}
    ranges = {}
    for number, step in enumerate(steps):
        if isinstance(step, UnrolledLayer):
            ranges[step.name] = InputRange.of(values[step.inputs[0]].value)
            found = {step.outputs[0]: _layer(step, values[step.inputs[0]], imported)}
        else:
            found = _operators(step, graph, values)
        for name, approximation in found.items():
            if name not in makers:
                values[name] = approximation
                continue
            where = f"layer {step.name if isinstance(step, UnrolledLayer) else makers[name].name!r}"
            if approximation.slack is None or makers[name].domain:
                share = ROUNDED_SHARE if makers[name].domain else FLOAT_SHARE
                _compare_size(where, name, approximation.value, expected[name], share)
            else:
                _compare(where, name, _unless_overflown(step, approximation, expected[name]), expected[name])
        for name in _touched(step):
            if last_use[name] == number:
                values.pop(name, None)
                expected.pop(name, None)
    return ranges


def _steps(nodes: Iterable[Any], own: set[OnnxNode], makers: Mapping[str, OnnxNode]) -> Iterator[_Step]:
    """Layers one by one, and runs of operators that are not the model's own, up to a value that the model has, too."""
    run: list[OnnxNode] = []
    for node in nodes:
        for inner in node.nodes if isinstance(node, DigitalNode) else (node,):
            if isinstance(inner, OnnxNode):
                if inner in own:
                    continue
                run.append(inner)
            if run and (isinstance(inner, UnrolledLayer) or not makers.keys().isdisjoint(inner.outputs)):
                yield tuple(run)
                run = []
            if isinstance(inner, UnrolledLayer):
                yield inner
    if run:
        yield tuple(run)


def _touched(step: _Step) -> set[str]:
    """Values that a step reads or makes."""
    nodes: Sequence[UnrolledLayer | OnnxNode] = (step,) if isinstance(step, UnrolledLayer) else step
    return {value for node in nodes for value in (*read_values(node), *node.outputs)}


def _model_values(
    steps: Sequence[_Step], makers: Mapping[str, OnnxNode], model: ModelFile, sample: Mapping[str, NDArray[Any]]
) -> dict[str, Any]:
    """Values of the model that a step reads or makes, from onnxruntime."""
    touched = {value for step in steps for value in _touched(step)}
    wanted = [value for value in makers if value in touched]
    if not wanted:
        return {}
    session = model.open_session(wanted, optimise=False, once=True)
    return dict(zip(wanted, run_session(session, wanted, sample, model.name), strict=True))


# --- what the graph makes of the same values -----------------------------------------------------


def _layer(layer: UnrolledLayer, x: Approximation, imported: Graph) -> Approximation:
    """Output of a layer, and its distance from the model's."""
    found = run_layer(layer, x.value, cut_images=True)
    if x.slack is None:
        return Approximation(found, None)
    slack = _integer_slack(layer, x.value, imported) if layer.integer else _float_slack(layer, x.value)
    if np.any(x.slack):
        slack = slack + _magnitudes(layer, np.broadcast_to(x.slack, x.value.shape))
    stored = 0.0 if layer.integer else _stored(found)
    return Approximation(found, _shaped(slack, layer.geometry, x.value) + stored)


def _float_slack(layer: UnrolledLayer, x: NDArray[Any]) -> NDArray[np.float64]:
    """Rounding of sums in another order, and of what was folded in, [batch, out_channels, positions]."""
    single, unit = float(np.finfo(np.float32).eps) / 2, float(np.finfo(layer.dtype).eps) / 2
    in_halves = layer.dtype == "float16" and not _SUMS_HALVES_IN_FLOAT32
    sum_unit, largest = (unit, np.finfo(np.float16).max) if in_halves else (single, np.finfo(np.float32).max)
    read, offset = _magnitudes(layer, x), np.abs(layer.bias.astype(np.float64))[:, None]
    terms = 2 * layer.geometry.group_rows + OPERATOR_ROUNDINGS  # of the sums on both sides
    slack = terms * sum_unit * (read + offset)
    if layer.dtype == "float16":  # an input was rounded, be it to a multiple of the smallest number
        least = float(np.finfo(np.float16).smallest_subnormal) / 2
        slack += unit * read + least * np.abs(layer.matrix).sum(axis=1, dtype=np.float64).reshape(1, -1, 1)
    if layer.bias_size is not None:
        slack += FOLDED_ROUNDINGS * max(unit, single) * (read + layer.bias_size[:, None])
    # Terms of both signs may overflow in one order of addition and cancel in another.
    slack[read + offset > float(largest)] = np.inf
    return slack


def _integer_slack(layer: UnrolledLayer, x: NDArray[Any], imported: Graph) -> NDArray[np.float64]:
    """Rounding in the model, whose sums may be of floats between DequantizeLinear; ours are exact.

    Sums of bytes are exact as well, but for processors on which onnxruntime's kernels cut the sum of two products of
    an unsigned and a signed byte to 16 bits. What that loses of two products is at most the sum of their excesses over
    half the limit, and (x - 127) |w| is no less than an excess.
    """
    operator = imported.by_name.get(layer.name)
    if not isinstance(operator, OnnxNode) or operator.op_type not in _WHOLE_SUMS:
        size = LARGEST_BYTE * np.abs(layer.matrix).sum(axis=1, dtype=np.float64).reshape(1, -1, 1)
        return np.asarray((layer.geometry.group_rows + FOLDED_ROUNDINGS) * float(np.finfo(np.float32).eps) / 2 * size)
    if x.dtype != np.uint8 or multiplies_bytes_exactly():
        return np.zeros((1, 1, 1))
    place, (byte, factor) = _WHOLE_SUMS[operator.op_type], LARGEST_FACTORS
    name = operator.inputs[place] if place < len(operator.inputs) else ""
    zero = float(np.abs(imported.constants.get(name, np.full(1, 128 if name else 0)).astype(np.float64)).max())
    stored = np.minimum(np.abs(layer.matrix) + np.float32(zero), np.float32(128))
    excess = np.maximum(layer.geometry.to_channels_first(x).astype(np.float32) - byte, 0)
    return np.asarray(
        apply_matrices(excess, layer.geometry, np.where(stored > factor, stored, np.float32(0))), np.float64
    )


def _magnitudes(layer: UnrolledLayer, x: NDArray[Any]) -> NDArray[np.float64]:
    """The sum of |w| |x| of each output, [batch, out_channels, positions]."""
    images = np.abs(layer.geometry.to_channels_first(x).astype(np.float32))
    sums = apply_matrices(images, layer.geometry, np.abs(layer.matrix), cut_images=True)
    return np.asarray(sums, np.float64)


def _shaped(slack: NDArray[np.float64], geometry: Geometry, x: NDArray[Any]) -> NDArray[np.float64]:
    """Bring a slack [batch, out_channels, positions] to the layout of the output for an input ``x``."""
    images = geometry.to_channels_first(x).shape[0]
    full = np.broadcast_to(slack, (images, geometry.out_channels, geometry.positions))
    full = full.reshape(images, geometry.out_channels, *geometry.output_size)
    shaped: NDArray[np.float64] = geometry.from_channels_first(full, x.shape)
    return shaped


def _stored(values: NDArray[Any]) -> NDArray[np.float64]:
    """Rounding of results to their own type, on both sides."""
    kind = np.finfo(values.dtype)
    sizes = values.astype(np.float64)
    np.abs(sizes, out=sizes)
    sizes[~np.isfinite(sizes)] = 0
    sizes *= 1.001 * float(kind.eps)
    sizes += float(kind.smallest_subnormal)
    # Float32 products of next to nothing vanish on some processors.
    sizes += float(np.finfo(np.float32).tiny)
    return sizes


def _operators(
    nodes: tuple[OnnxNode, ...], graph: Graph, values: Mapping[str, Approximation]
) -> dict[str, Approximation]:
    """Values that operators make, and their distances from the model's.

    Each input in turn is moved up and down by its slack: monotonic operators stay between the results.
    """
    made = [value for node in nodes for value in node.outputs if value]
    read = dict.fromkeys(value for node in nodes for value in read_values(node))
    inputs = [value for value in read if value not in made and value not in graph.constants]
    wanted = [value for value in made if value in graph.types or value in graph.outputs]
    session = open_session(to_model(graph, nodes, inputs, wanted), optimise=False, frugal=True)

    def run(moved: Mapping[str, Any]) -> dict[str, Any]:
        feeds = {name: moved.get(name, values[name].value) for name in inputs}
        return dict(zip(wanted, run_session(session, wanted, feeds, f"{graph.name} at {nodes[0].name!r}"), strict=True))

    results = run({})
    bounded = all(isinstance(values[name].value, np.ndarray) and values[name].slack is not None for name in inputs)
    if not bounded or any(node.domain or node.op_type not in _ELEMENTWISE for node in nodes):
        return {name: Approximation(result, None) for name, result in results.items()}
    rounding = {name: _operator_rounding(result) for name, result in results.items()}
    for name in inputs:
        for whole in {_is_whole(result) for result in results.values()}:
            slack = _reach(values[name], whole)
            if not np.any(slack):
                continue
            ends = [run({name: _moved(values[name].value, sign * slack)}) for sign in (-1, 1)]
            for output, result in results.items():
                if _is_whole(result) == whole:
                    apart = np.maximum(*(_distance(end[output], result) for end in ends))
                    rounding[output] = rounding[output] + apart
    return {name: Approximation(result, rounding[name]) for name, result in results.items()}


def _is_whole(value: NDArray[Any]) -> bool:
    """Return True if a value has integers wider than bytes: sums, which are exact."""
    return value.dtype.kind in "iu" and value.dtype.itemsize > 1


def _reach(approximation: Approximation, whole: bool) -> NDArray[np.float64]:
    """Largest shift of a value: its slack, and where exact sums are scaled, roundings of the operators."""
    value, slack = approximation.value, np.asarray(approximation.slack, np.float64)
    if not _is_whole(value):
        return slack
    scaled = 0.0 if whole else FOLDED_ROUNDINGS * float(np.finfo(np.float32).eps) / 2 * np.abs(value.astype(np.float64))
    return np.ceil(np.maximum(slack, scaled))


def _operator_rounding(result: Any) -> NDArray[np.float64] | float:
    return OPERATOR_ROUNDINGS * _stored(result) if result.dtype.kind == "f" else 0.0


def _moved(value: NDArray[Any], by: NDArray[np.float64]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        return np.asarray(value.astype(np.float64) + by).astype(value.dtype)


def _distance(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Difference per element; 0 where both are the same, infinite ones included."""
    wide, narrow = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.where((wide == narrow) | (np.isnan(wide) & np.isnan(narrow)), 0, np.abs(wide - narrow))


def _unless_overflown(step: _Step, found: Approximation, expected: Any) -> Approximation:
    """A value, any at all where operators that were folded into a layer overflow in the model before the last one."""
    if not isinstance(step, UnrolledLayer) or step.bias_size is None or not isinstance(expected, np.ndarray):
        return found
    if expected.dtype.kind != "f" or expected.shape != np.shape(found.value):
        return found
    slack = np.broadcast_to(np.asarray(found.slack, np.float64), expected.shape)
    return Approximation(found.value, np.where(np.isfinite(expected), slack, np.inf))


# --- the comparison ------------------------------------------------------------------------------


def _compare(where: str, name: str, found: Approximation, expected: Any) -> None:
    """Raise MiscompileError if an element is further from the model's than rounding explains."""
    value = found.value
    if not _comparable(where, name, value, expected):
        return
    slack = np.broadcast_to(np.asarray(found.slack, np.float64), value.shape)
    worst, place = -np.inf, 0
    flat = (value.reshape(-1), expected.reshape(-1), slack.reshape(-1))
    for first in range(0, value.size, PART_NUMBERS):
        excess = _excess(*(each[first : first + PART_NUMBERS] for each in flat))
        if excess.max() > worst:
            worst, place = excess.max(), first + int(np.argmax(excess))
    if worst == -np.inf:
        return
    element = tuple(int(axis) for axis in np.unravel_index(place, value.shape))
    _refuse(
        where,
        name,
        f"element {list(element)} is {float(value[element]):.6g} instead of {float(expected[element]):.6g}, "
        f"where rounding explains a difference of {float(slack[element]):.3g}",
    )


def _excess(value: NDArray[Any], expected: NDArray[Any], slack: NDArray[np.float64]) -> NDArray[np.float64]:
    """Difference beyond the slack per number; negative infinity where it is explained."""
    apart, excused = _distance(value, expected), ~np.isfinite(slack)
    if value.dtype.kind == "f":
        # Values beyond the type are infinite on either side.
        nearest = np.fmin(np.abs(expected.astype(np.float64)), np.abs(value.astype(np.float64)))
        excused |= nearest + slack >= np.finfo(value.dtype).max
    wrong = ~(apart <= slack) & ~excused
    with np.errstate(invalid="ignore"):  # infinite distances that an infinite slack excuses
        excess: NDArray[np.float64] = np.where(wrong, np.nan_to_num(apart - slack, nan=np.inf), -np.inf)
    return excess


def _compare_size(where: str, name: str, value: Any, expected: Any, share: float) -> None:
    """Raise MiscompileError if a tensor of floats is further from the model's than a share of its size."""
    if not _comparable(where, name, value, expected) or value.dtype.kind != "f":
        return
    share = ROUNDED_SHARE if value.dtype.itemsize < np.dtype(np.float32).itemsize else share
    difference, allowed = _size(_distance(value, expected)), share * _size(expected) + LEAST_SLACK
    if not difference <= allowed:
        _refuse(where, name, f"root mean square of the difference {difference:.3g}, allowed are {allowed:.3g}")


def _comparable(where: str, name: str, value: Any, expected: Any) -> bool:
    """Return True if two values are comparable tensors of numbers.

    Raises
    ------
    MiscompileError
        Only the shape or type differs.
    """
    if not isinstance(expected, np.ndarray) or not isinstance(value, np.ndarray) or expected.dtype.kind not in "fiu":
        return False
    if (value.shape, value.dtype) != (expected.shape, expected.dtype):
        _refuse(where, name, f"{value.dtype}{list(value.shape)} instead of {expected.dtype}{list(expected.shape)}")
    return bool(value.size)


def _refuse(where: str, name: str, difference: str) -> None:
    raise MiscompileError(
        f"{where} differs from onnxruntime's result on the first sample before anything is quantised, on the same "
        f"inputs: value {name!r}: {difference}"
    )


def _size(values: NDArray[Any]) -> float:
    """Root mean square of what is finite; infinite where a difference is not."""
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.mean(np.square(values.astype(np.float64)))))

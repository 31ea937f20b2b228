"""Checks a program against the network it was made from, before it is handed out.

Rounding explains a difference between a network and its program, but only so much of it. Two
things are checked on one batch of samples. First that the float layers and digital subgraphs,
which the first passes made, compute what onnxruntime makes of the model itself. Then, layer by
layer, that the program's integer weights are the float weights rounded, and that its outputs
differ from the float layer's by no more than rounded weights and inputs explain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import MiscompileError
from memcompile.geometry import Unrolling
from memcompile.interpreter import Interpreter
from memcompile.ir import CalibratedLayer, Graph, IntegerLayer, MappedLayer, UnrolledLayer, as_dtype
from memcompile.onnx_import import ModelFile
from memcompile.onnx_session import run_session
from memcompile.pass_manager import PassContext, weight_limit
from memcompile.program import Program
from memcompile.quantizers import InputQuantizer

PART_WEIGHTS = 1 << 18
"""Weights of a layer that are looked at together, about."""
SAMPLED_POSITIONS = 64
"""Output positions of the first image at which a layer's outputs are compared."""
FLOAT_SHARE = 0.01
"""Largest difference of a value, as a share of its root mean square: float32 sums in another order
differ by 1e-6 to 1e-4, and a rounding operator in the network may turn that into a step now and then."""
STEP_SHARE = 0.5 + 1e-3
"""Largest error of a weight rounded to the nearest level, in steps; the thousandth is float32 arithmetic."""
COMPENSATED_STEP_SHARE = 1 + 1e-3
"""The same of a weight rounded up or down, to make up for the errors of others."""
OUTPUT_SLACK = 1e-6
"""Further difference of the network's outputs: softmax and sigmoid blow up shares of next to nothing."""
INPUT_SHARE = 0.5
"""Largest error of a quantised input, as a share of its root mean square; a step is always allowed."""


class FloatNetwork:
    """Instrument that compares the last graph whose layers are not quantised with the model, and keeps it.

    This is done as soon as the graph is there: onnxruntime then opens the whole model, and what later passes make
    of the weights is not in memory yet.

    Parameters
    ----------
    sample
        [batch, ...] per input of the model.
    """

    def __init__(self, model: ModelFile, sample: Mapping[str, NDArray[Any]]) -> None:
        self._model = model
        self._sample = sample
        self._graph: Graph | None = None
        self._inputs: dict[str, NDArray[Any]] | None = None

    def after_pass(self, number: int, name: str, graph: Graph, context: PassContext) -> None:
        """Keep the graph, or compare the one before the first that is quantised."""
        if not any(isinstance(node, CalibratedLayer | IntegerLayer) for node in graph.nodes):
            self._graph = graph
        elif self._inputs is None:
            self._compare()

    def layers(self) -> Iterator[tuple[UnrolledLayer, NDArray[Any]]]:
        """All layers, and what each of them reads on the sample."""
        inputs = self._compare() if self._inputs is None else self._inputs
        assert self._graph is not None, "it has seen the imported graph"
        return ((layer, inputs[layer.inputs[0]]) for layer in _float_layers(self._graph))

    def _compare(self) -> dict[str, NDArray[Any]]:
        assert self._graph is not None, "it has seen the imported graph"
        self._inputs = _check_network(self._graph, _float_layers(self._graph), self._model, self._sample)
        return self._inputs


def _float_layers(graph: Graph) -> list[UnrolledLayer]:
    """Layers with float weights, in order."""
    return [node for node in graph.nodes if isinstance(node, UnrolledLayer)]


def check_program(program: Program, network: FloatNetwork, *, compensated: bool = False) -> None:
    """Compare a program with its network on one batch.

    Parameters
    ----------
    compensated
        Weights may be rounded up or down, and offsets take the mean of the errors.

    Raises
    ------
    MiscompileError
        Naming the first layer at which the two differ by more than rounding explains.
    """
    layers = {layer.name: layer for layer in program.layers}
    step_share = COMPENSATED_STEP_SHARE if compensated else STEP_SHARE
    for layer, value in network.layers():
        _check_layer(layer, layers[layer.name], program, step_share, value, compensated)


def _check_layer(
    layer: UnrolledLayer,
    mapped: MappedLayer,
    program: Program,
    step_share: float,
    value: NDArray[Any],
    compensated: bool,
) -> None:
    """Compare one layer; a function of its own, so that nothing of a layer is held while the next one is looked at."""
    vectors = _InputVectors.of(layer, mapped, value)
    for part in _parts(layer, mapped):
        error = _check_weights(part, program, step_share)
        _check_bias(part, error if compensated else np.broadcast_to(0.0, error.shape))
        if vectors is not None:
            _check_outputs(part, vectors, error)


@dataclass(frozen=True, eq=False)
class _Part:
    """Some columns of all groups of a layer: ``matrix`` of the network and integer ``weights`` of the program.

    Both are [groups, rows, columns]; ``scale``, ``bias`` and the network's ``float_bias`` are [groups, columns].
    """

    layer: UnrolledLayer
    mapped: MappedLayer
    columns: slice
    matrix: NDArray[Any]
    weights: NDArray[Any]
    scale: NDArray[np.float64]
    bias: NDArray[np.float64]
    float_bias: NDArray[np.float64]

    def channel(self, group: int, column: int) -> int:
        """Output channel of a column."""
        return group * self.layer.geometry.group_columns + int(self.columns.start) + column


def _parts(layer: UnrolledLayer, mapped: MappedLayer) -> Iterator[_Part]:
    """Cut a layer such that double precision of a part takes little memory next to a large model's weights."""
    groups, rows, columns = layer.matrix.shape
    of_channels = [
        array.astype(np.float64).reshape(groups, columns) for array in (mapped.scale, mapped.bias, layer.bias)
    ]
    width = max(1, PART_WEIGHTS // (groups * rows))
    for first in range(0, columns, width):
        some = slice(first, min(first + width, columns))
        weights = replace(mapped, cells=mapped.cells[..., some]).integer_matrix()
        yield _Part(layer, mapped, some, layer.matrix[..., some], weights, *(array[:, some] for array in of_channels))


def _check_network(
    network: Graph, layers: list[UnrolledLayer], model: ModelFile, sample: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Compare float layers and digital subgraphs with the model; returns the inputs of all layers."""
    known = model.value_names()
    made = {layer.outputs[0]: layer.name for layer in layers if layer.outputs[0] in known}
    wanted = dict.fromkeys([*(layer.inputs[0] for layer in layers), *made, *network.outputs])
    values = Interpreter(network, once=True).run(sample, tuple(wanted))
    session = model.open_session(tuple(made), optimise=False, once=True)
    names = [item.name for item in session.get_outputs()]

    def run_model() -> dict[str, Any]:
        return dict(zip(names, run_session(session, names, sample, model.name), strict=True))

    expected = run_model()
    wrong = [value for value in made if _differs(expected[value], values[value])]
    wrong += [value for value in network.outputs if _differs(expected[value], values[value], OUTPUT_SLACK)]
    if not wrong:
        return values
    again = run_model()
    if any(_differs(expected[value], again[value]) for value in names):
        return values  # the model draws random numbers
    where = f"layer {made[wrong[0]]!r}" if wrong[0] in made else f"output {wrong[0]!r}"
    raise MiscompileError(
        f"{where} differs from onnxruntime's result on the first sample before anything is rounded: root mean square "
        f"{_distance(expected[wrong[0]], values[wrong[0]]):.3g}, allowed are {FLOAT_SHARE:.0%} of the value's own; "
        "please report the model, --no-check compiles without this check"
    )


def _differs(expected: Any, found: Any, slack: float = float(np.finfo(np.float32).tiny)) -> bool:
    """Whether two float tensors are not the same up to rounding; what is no float tensor follows from those."""
    if not isinstance(expected, np.ndarray) or not isinstance(found, np.ndarray) or expected.dtype.kind != "f":
        return False
    if expected.shape != found.shape:
        return True
    return not _distance(expected, found) <= FLOAT_SHARE * _size(expected) + slack


def _distance(expected: NDArray[Any], found: NDArray[Any]) -> float:
    if expected.shape != found.shape:
        return float("inf")
    same = (expected == found) | (np.isnan(expected) & np.isnan(found))
    with np.errstate(invalid="ignore"):
        return _size(np.where(same, 0, expected.astype(np.float64) - found))


def _size(values: NDArray[Any]) -> float:
    """Root mean square of what is finite; infinite where a difference is not."""
    if not values.size:
        return 0.0
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.mean(np.square(values.astype(np.float64)))))


def _check_weights(part: _Part, program: Program, step_share: float) -> NDArray[np.float64]:
    """Check that integer weights are rounded float ones; returns their errors, [groups, rows, columns]."""
    mapped, weights, matrix = part.mapped, part.weights, part.matrix
    step = (part.scale / mapped.quantizer.scale)[:, None]
    error = weights * step
    error -= matrix
    if isinstance(mapped.quantizer, InputQuantizer):
        # Scales near the end of float32 are whole multiples of its smallest number.
        unit = np.finfo(np.float32).smallest_subnormal / mapped.quantizer.scale
        limit = weight_limit(program.target, mapped.slices, mapped.base)
        allowed = step_share * np.abs(step) + limit * unit
        wrong = (error > allowed) | (error < -allowed)
        if wrong.any():
            # A weight beyond the last level is clipped to it: too small by any amount, but never too large.
            wrong &= (np.abs(weights) != limit) | (weights * error * np.sign(step) > 0)
    else:
        largest = max(-float(part.layer.matrix.min(initial=0)), float(part.layer.matrix.max(initial=0)))
        allowed = np.full(step.shape, 1e-6 * max(largest, 1e-30))
        wrong = (error > allowed) | (error < -allowed)
    if wrong.any():
        group, row, column = (int(axis[0]) for axis in np.nonzero(wrong))
        raise MiscompileError(
            f"layer {part.layer.name!r}: the weight of output channel {part.channel(group, column)}, kernel input "
            f"{row} is {matrix[group, row, column]:.6g} in the network and {error[group, row, column]:+.3g} off in the "
            f"program, where rounding explains {allowed[group, 0, column]:.3g}; please report the model, "
            "--no-check compiles without this check"
        )
    return np.abs(error, out=error)


def _check_bias(part: _Part, weight_error: NDArray[np.float64]) -> None:
    """Check that biases are off by no more than the largest inputs make of the weights' errors."""
    change = np.abs(part.bias - part.float_bias)
    explained = weight_error.sum(axis=1) * _largest_input(part.mapped)
    if (change > explained + 1e-6 * np.abs(part.float_bias) + np.finfo(np.float32).tiny).any():
        group, column = np.unravel_index(int(np.argmax(change - explained)), change.shape)
        raise MiscompileError(
            f"layer {part.layer.name!r}: the bias of output channel {part.channel(int(group), int(column))} is "
            f"{part.float_bias[group, column]:.6g} in the network and {part.bias[group, column]:.6g} in the program; "
            "please report the model, --no-check compiles without this check"
        )


def _largest_input(mapped: MappedLayer) -> float:
    """Largest magnitude that the quantiser hands on; exact inputs come with exact weights."""
    quantizer = mapped.quantizer
    if not isinstance(quantizer, InputQuantizer):
        return 0.0
    return max(-quantizer.lowest, quantizer.highest) * quantizer.scale


@dataclass(frozen=True, eq=False)
class _InputVectors:
    """Inputs of a layer at some positions of one image, [groups, positions, rows]: as they are, and quantised."""

    exact: NDArray[np.float64]
    whole: NDArray[np.float64]
    rounded: NDArray[np.float64]

    @classmethod
    def of(cls, layer: UnrolledLayer, mapped: MappedLayer, value: NDArray[Any]) -> _InputVectors | None:
        """Cut them out; None if an operator before has left no image over.

        Raises
        ------
        MiscompileError
            The quantiser clips or rounds most of the input away.
        """
        geometry = layer.geometry
        images = geometry.to_channels_first(value)[:1]
        if not images.size:
            return None
        quantized = mapped.quantizer.quantize(images)
        rounded = quantized * np.float64(mapped.quantizer.scale)
        if _size(rounded - images) > max(INPUT_SHARE * _size(images), mapped.quantizer.scale):
            raise MiscompileError(
                f"layer {layer.name!r}: the quantised input is off by {_size(rounded - images):.3g} (root mean square) "
                f"on the first sample, whose values are {_size(images):.3g}; please report the model, "
                "--no-check compiles without this check"
            )
        positions = np.unique(np.linspace(0, geometry.positions - 1, SAMPLED_POSITIONS).astype(np.int32))
        unrolling = Unrolling.im2col(geometry)
        exact, whole, rounded = (
            unrolling.patches(tensor, positions)[0].transpose(1, 0, 2).astype(np.float64)
            for tensor in (images, quantized, rounded)
        )
        return cls(exact, whole, rounded)


def _check_outputs(part: _Part, vectors: _InputVectors, weight_error: NDArray[np.float64]) -> None:
    """Check the outputs of the integer layer on the float layer's own input.

    |sum w'x' - sum wx| <= sum |w' - w| |x'| + sum |w| |x' - x|; what the bias is off comes on top.
    """
    layer, scale, bias, float_bias = part.layer, part.scale[:, None], part.bias[:, None], part.float_bias[:, None]
    found = as_dtype((vectors.whole @ part.weights) * scale + bias, layer.dtype)  # as MappedLayer.rescale does
    matrix = part.matrix.astype(np.float64)
    expected = vectors.exact @ matrix + float_bias
    magnitude = np.abs(matrix, out=matrix)
    # Rounded inputs, and one part in 10^4 for the order in which floats are added.
    off = np.abs(vectors.rounded - vectors.exact) + 1e-4 * np.abs(vectors.exact)
    slack = np.abs(vectors.rounded) @ weight_error + off @ magnitude + np.abs(bias - float_bias)
    if np.dtype(layer.dtype).kind in "iu":
        slack = slack + 0.5  # the output is rounded, too
    excess = np.abs(found - expected) - slack - 1e-4 * np.abs(float_bias) - np.finfo(np.float32).tiny
    # What float32 cannot hold is infinite on either side.
    excess = np.where(np.abs(expected) + slack > np.finfo(np.float32).max, 0, excess)
    if not (excess <= 0).all():
        group, _, column = (int(i) for i in np.unravel_index(int(np.argmax(excess)), excess.shape))
        apart = np.abs(found - expected)[group, :, column].max()
        raise MiscompileError(
            f"layer {layer.name!r}: output channel {part.channel(group, column)} is off by {apart:.3g}, "
            f"where rounded weights and inputs explain {slack[group, :, column].max():.3g}; please report the model, "
            "--no-check compiles without this check"
        )

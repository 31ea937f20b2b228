"""Checks a program against the network it was made from, before it is handed out.

Rounding explains a difference between a network and its program, but only so much of it. First, on one batch of
samples, the float layers and the operators that the first passes made are compared with what onnxruntime makes of the
model itself (:mod:`memcompile.verify.network_check`). Then each layer of the program is compared with its float layer:
it reads and makes the same values, its weights are the float weights rounded, its bias is the float bias less what
rounding can have put there, and its input quantiser clips no more than calibration may have chosen.

That bounds its outputs: with weights w and inputs x, and w', x', b' of the program, they differ by no more than
sum |w' - w| |x'| + sum |w| |x' - x| + |b' - b|.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import MiscompileError
from memcompile.frontend.importer import ModelFile
from memcompile.ir.graph import CalibratedLayer, Graph, IntegerLayer, MappedLayer, UnrolledLayer
from memcompile.ir.pass_manager import PassContext
from memcompile.ir.quantizers import InputQuantizer
from memcompile.ir.slicing import FILLS, weight_limit
from memcompile.program.program import Program
from memcompile.verify.network_check import InputRange, check_network

PART_WEIGHTS = 1 << 18
"""Weights of a layer that are checked at a time, approximately."""
UNIT = float(np.finfo(np.float32).eps) / 2
"""Unit roundoff of scales and biases."""
LEAST = float(np.finfo(np.float32).smallest_subnormal)
"""Scales and biases next to zero are whole multiples of this."""
DOUBLE = 16 * float(np.finfo(np.float64).eps)
"""Relative error of what is computed in double precision, with room for a few operations."""
STRAY_STEPS = 2
"""Steps that an input may lie below the zero of an unsigned range: the same sum in another order does that."""
STRAY_SHARE = 1.1
"""Factor between largest inputs: where a network quantises inside, other steps are taken in calibration."""


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
        self._imported: Graph | None = None
        self._graph: Graph | None = None
        self._ranges: dict[str, InputRange] | None = None

    def after_pass(self, number: int, name: str, graph: Graph, context: PassContext) -> None:
        """Keep the graph, or compare the one before the first that is quantised."""
        if number == 0:
            self._imported = graph
        if not any(isinstance(node, CalibratedLayer | IntegerLayer) for node in graph.nodes):
            self._graph = graph
        elif self._ranges is None:
            self._compare()

    def layers(self) -> Iterator[tuple[UnrolledLayer, InputRange]]:
        """All layers with float weights in order, and the range of what each of them reads on the sample."""
        ranges = self._compare() if self._ranges is None else self._ranges
        assert self._graph is not None, "it has seen the imported graph"
        return ((node, ranges[node.name]) for node in self._graph.nodes if isinstance(node, UnrolledLayer))

    def _compare(self) -> dict[str, InputRange]:
        assert self._graph is not None, "it has seen the imported graph"
        assert self._imported is not None, "it has seen the imported graph"
        self._ranges = check_network(self._graph, self._imported, self._model, self._sample)
        return self._ranges


def check_program(
    program: Program, network: FloatNetwork, *, compensated: bool = False, shortest_range: float = 0.3
) -> None:
    """Compare a program with its network.

    Parameters
    ----------
    compensated
        Weights may be rounded up or down, and offsets take the mean of the errors.
    shortest_range
        Smallest share of the calibration inputs' largest magnitude at which quantisers may clip.

    Raises
    ------
    MiscompileError
        Naming the first layer at which the two differ by more than rounding explains.
    """
    layers = {layer.name: layer for layer in program.layers}
    for layer, inputs in network.layers():
        _check_layer(layer, layers[layer.name], program, inputs, compensated, shortest_range)


def _check_layer(
    layer: UnrolledLayer,
    mapped: MappedLayer,
    program: Program,
    inputs: InputRange,
    compensated: bool,
    shortest_range: float,
) -> None:
    """Compare one layer; a function of its own, so that nothing of a layer is held while the next one is checked."""
    same = ("geometry", "inputs", "outputs", "dtype")
    if changed := [fact for fact in same if getattr(layer, fact) != getattr(mapped, fact)]:
        fact = changed[0]
        raise MiscompileError(
            f"layer {layer.name!r}: its {fact} is {getattr(layer, fact)} in the network and {getattr(mapped, fact)} in "
            "the program"
        )
    _check_range(layer, mapped, inputs, shortest_range)
    for part in _parts(layer, mapped):
        error = _check_weights(part, program, compensated)
        _check_bias(part, error if compensated else np.zeros_like(error))


def _check_range(layer: UnrolledLayer, mapped: MappedLayer, inputs: InputRange, shortest_range: float) -> None:
    """Check that the quantiser clips no more than calibration, which has seen the sample, may have chosen."""
    quantizer = mapped.quantizer
    if not isinstance(quantizer, InputQuantizer):
        return
    for end, found in ((quantizer.lowest, inputs.lowest), (quantizer.highest, inputs.highest)):
        reach = (STRAY_SHARE * abs(end) / shortest_range + STRAY_STEPS) * quantizer.scale
        if abs(found) > reach and found * (1 if end == quantizer.highest else -1) > 0:
            raise MiscompileError(
                f"layer {layer.name!r}: an input of {found:.6g} on the first sample is clipped to "
                f"{end * quantizer.scale:.6g}, where calibration explains inputs up to a magnitude of {reach:.6g}"
            )


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


def _check_weights(part: _Part, program: Program, compensated: bool) -> NDArray[np.float64]:
    """Check that integer weights are rounded float ones; returns their errors, [groups, rows, columns].

    The nearest level is half a step away at most before the scale is rounded to float32; that moves level q by q times
    the error of the step. Compensated weights are one of the two levels around the float weight.
    """
    mapped, weights, matrix = part.mapped, part.weights, part.matrix
    signed_step = (part.scale / mapped.quantizer.scale)[:, None]
    step = np.abs(signed_step)
    error = weights * signed_step
    error -= matrix
    if isinstance(mapped.quantizer, InputQuantizer):
        off = UNIT * (1 + 2 * UNIT) * step + LEAST / mapped.quantizer.scale
        allowed = (step + off) / 2 + np.abs(weights, dtype=np.float64) * off + DOUBLE * np.abs(matrix, dtype=np.float64)
        # A weight beyond the last level is clipped to it: too small by any amount, but never too large.
        limits = [weight_limit(program.target, mapped.slices, mapped.base, fill) for fill in FILLS]
        fine = np.isin(np.abs(weights), limits) & (weights * np.sign(signed_step) * error <= 0)
        if compensated:
            levels = matrix / signed_step
            fine |= (weights >= np.floor(levels)) & (weights <= np.ceil(levels))
    else:
        allowed = UNIT * np.abs(matrix, dtype=np.float64) + LEAST * step
        fine = np.zeros((), np.bool_)
    excess = np.abs(error) - allowed
    if not ((excess <= 0) | fine).all():
        group, row, column = _worst(excess, ~fine)
        raise MiscompileError(
            f"layer {part.layer.name!r}: the weight of output channel {part.channel(group, column)}, kernel input "
            f"{row} is {matrix[group, row, column]:.6g} in the network and {error[group, row, column]:+.3g} off "
            f"in the program, where rounding to the nearest level explains {allowed[group, row, column]:.3g}"
        )
    return error


def _check_bias(part: _Part, weight_error: NDArray[np.float64]) -> None:
    """Check that biases are off by no more than some mean of the inputs makes of the weights' errors."""
    lowest, highest = _ends(part.mapped)
    ends = (lowest * weight_error, highest * weight_error)
    least, most = np.minimum(*ends).sum(axis=1), np.maximum(*ends).sum(axis=1)
    change = part.float_bias - part.bias
    rounding = np.where(weight_error.any(axis=1), UNIT * np.abs(part.bias) + LEAST, 0)
    rounding += DOUBLE * weight_error.shape[1] * np.maximum(-least, most)
    excess = np.maximum(change - most, least - change) - rounding
    if not (excess <= 0).all():
        group, column = _worst(excess)
        slack = max(most[group, column], -least[group, column]) + rounding[group, column]
        raise MiscompileError(
            f"layer {part.layer.name!r}: the bias of output channel {part.channel(group, column)} is "
            f"{part.float_bias[group, column]:.6g} in the network and {part.bias[group, column]:.6g} in the program, "
            f"where rounding explains a difference of {slack:.3g}"
        )


def _ends(mapped: MappedLayer) -> tuple[float, float]:
    """Smallest and largest number that the quantiser hands on; exact inputs come with exact weights."""
    quantizer = mapped.quantizer
    if not isinstance(quantizer, InputQuantizer):
        return 0.0, 0.0
    return quantizer.lowest * quantizer.scale, quantizer.highest * quantizer.scale


def _worst(excess: NDArray[np.float64], where: NDArray[np.bool_] | bool = True) -> tuple[int, ...]:
    """Indices of the largest number among some, NaN first."""
    among = np.where(where, np.nan_to_num(excess, nan=np.inf), -np.inf)
    return tuple(int(index) for index in np.unravel_index(int(np.argmax(among)), excess.shape))

"""Cuts integer weights into slices, one differential pair each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import Graph, QuantizedLayer, SlicedLayer, carry, read_only
from memcompile.ir.pass_contract import Fidelity, Form, Forms
from memcompile.ir.pass_manager import Pass, PassContext


@dataclass(frozen=True)
class SliceWeights(Pass):
    """Writes each weight as digits of a balanced number of the slices' base.

    All digits but the last lie within half a base of zero; the last takes the rest, -L..+L.
    Unless a base is given it is the smallest that holds the layer's weights. A continuous weight is one slice.
    """

    summary: ClassVar[str] = "cut integer weights into slices, one differential pair each"
    consumes: ClassVar[Forms] = frozenset({Form.QUANTIZED})
    produces: ClassVar[Forms] = frozenset({Form.SLICED})
    fidelity: ClassVar[Fidelity] = "exact"

    def run(self, graph: Graph, context: PassContext) -> Graph:
        layers = [node for node in graph.nodes if isinstance(node, QuantizedLayer)]
        return graph.map_nodes({layer.name: _sliced(layer, context) for layer in layers})


def _sliced(layer: QuantizedLayer, context: PassContext) -> SlicedLayer:
    levels, slicing = layer.levels, context.slicing_of(layer.name)
    base = slicing.base_of(max(-int(levels.min(initial=0)), int(levels.max(initial=0))))
    return carry(SlicedLayer, layer, base=base, digits=read_only(balanced_digits(levels, base, slicing.slices)))


def balanced_digits(numbers: NDArray[Any], base: int, count: int) -> NDArray[Any]:
    """Digits of integers, least significant first: [count, *numbers.shape]; other numbers are one digit."""
    if numbers.dtype.kind == "f":
        return numbers[None]
    if count == 1:
        return numbers.astype(np.int8, copy=False)[None]
    half = base // 2
    digits = np.empty((count, *numbers.shape), np.int8)
    rest = numbers.astype(np.int64)
    for place in range(count - 1):
        digits[place] = (rest + half) % base - half
        rest = (rest - digits[place]) // base
    digits[count - 1] = rest
    return digits

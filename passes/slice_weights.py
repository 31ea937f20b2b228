"""Cuts integer weights into slices, one differential pair each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import Graph, QuantizedLayer, SlicedLayer, carry, read_only
from memcompile.ir.pass_contract import Fidelity, Form, Forms
from memcompile.ir.pass_manager import Pass, PassContext
from memcompile.ir.slicing import lower_limit


@dataclass(frozen=True)
class SliceWeights(Pass):
    """Writes each weight as digits of the slices' base.

    Slices that are filled to the most hold a balanced number: all digits but the last lie within half a base of zero,
    and the last takes the rest, -L..+L. Slices that are filled equally share each weight, from the last one down,
    as far as those below reach, so that their errors average (M. Le Gallo et al., Neuromorphic Computing and
    Engineering 2, 014009, 2022). Unless a base is given it is the smallest that holds the layer's weights. A continuous
    weight is one slice.
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
    if slicing.fill == "max" or slicing.slices == 1:
        digits = balanced_digits(levels, base, slicing.slices)
    else:
        digits = equal_digits(levels, base, slicing.slices, lower_limit(context.target, base, "equal"))
    return carry(SlicedLayer, layer, base=base, digits=read_only(digits))


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


def equal_digits(numbers: NDArray[np.integer], base: int, count: int, lower: int) -> NDArray[np.int8]:
    """Digits of integers that share them as evenly as they can, least significant first: [count, *numbers.shape].

    Parameters
    ----------
    lower
        Largest digit but the most significant, at least half a base.
    """
    digits = np.empty((count, *numbers.shape), np.int8)
    rest = numbers.astype(np.int64)
    for place in range(count - 1, 0, -1):
        power = base**place
        reach = lower * (power - 1) // (base - 1)
        share = np.rint(rest / ((place + 1) * power)).astype(np.int64)
        digit = np.clip(share, -((reach - rest) // power), (reach + rest) // power)
        digits[place] = digit
        rest -= digit * power
    digits[0] = rest
    return digits

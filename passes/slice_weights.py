"""Cuts integer weights into slices, one differential pair each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from memcompile.ir import Graph, QuantizedLayer, SlicedLayer, carry, read_only
from memcompile.pass_manager import Pass, PassContext


@dataclass(frozen=True)
class SliceWeights(Pass):
    """Writes each weight as digits -L..+L of a balanced number of base 2 L + 1.

    Every integer up to ((2 L + 1)^n - 1) / 2 has exactly one such form with n digits.
    """

    summary: ClassVar[str] = "cut integer weights into slices, one differential pair each"

    def run(self, graph: Graph, context: PassContext) -> Graph:
        base = context.target.slice_base()
        return graph.map_nodes(
            {
                node.name: carry(
                    SlicedLayer, node, base=base, digits=read_only(balanced_digits(node.levels, base, context.slices))
                )
                for node in graph.nodes
                if isinstance(node, QuantizedLayer)
            }
        )


def balanced_digits(numbers: NDArray[np.int32], base: int, count: int) -> NDArray[np.int8]:
    """Digits of integers, least significant first: [count, *numbers.shape]."""
    half = base // 2
    digits = np.empty((count, *numbers.shape), np.int8)
    rest = numbers.astype(np.int64)
    for place in range(count):
        digit = (rest + half) % base - half
        digits[place] = digit
        rest = (rest - digit) // base
    assert not rest.any(), "a weight is beyond the slices' range"
    return digits

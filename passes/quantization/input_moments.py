"""Measures means and covariances of a layer's inputs on calibration data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.geometry import Unrolling
from memcompile.ir.graph import CalibratedLayer, Graph
from memcompile.ir.pass_manager import PassContext
from memcompile.ir.quantizers import InputQuantizer
from memcompile.passes.quantization.calibration_batches import calibration_batches, layer_inputs
from memcompile.verify.interpreter import Interpreter

BLOCK_ROWS = 1152
"""Rows whose covariance is kept together: of a longer matrix only the blocks along the diagonal are."""

MOST_PRODUCTS, FEWEST_IMAGES = 200_000_000_000, 32
"""Multiply-adds of all images beyond which there are fewer, each with more input vectors, and the fewest images."""
VALUES_AT_ONCE = 1 << 20
"""Approximate number of input values cut out at once, which sets the number of images at once."""


@dataclass(eq=False)
class InputMoments:
    """Sums over input vectors of one layer, in steps of its input quantiser.

    Integers below 2^53, so that they depend neither on the order of summation nor on threads.
    ``sums`` is [groups, group_rows], ``products`` [groups, rows, rows] of each block of rows.
    """

    layer: CalibratedLayer
    count: int = 0
    sums: NDArray[np.float64] = field(init=False)
    products: list[NDArray[np.float64]] = field(init=False)

    def __post_init__(self) -> None:
        groups, rows, _ = self.layer.matrix.shape
        self.sums = np.zeros((groups, rows))
        self.products = [
            np.zeros((groups, block.stop - block.start, block.stop - block.start)) for block in self.blocks
        ]

    @property
    def blocks(self) -> list[slice]:
        """Rows of each block."""
        rows = self.layer.matrix.shape[1]
        return [slice(begin, min(begin + BLOCK_ROWS, rows)) for begin in range(0, rows, BLOCK_ROWS)]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each row's input, [groups, group_rows]."""
        mean: NDArray[np.float64] = self.sums / self.count
        return mean

    @property
    def covariances(self) -> list[NDArray[np.float64]]:
        """Covariance of the inputs of each block, [groups, rows, rows]."""
        mean = self.mean
        return [
            product / self.count - mean[:, block, None] * mean[:, None, block]
            for block, product in zip(self.blocks, self.products, strict=True)
        ]

    def add(self, vectors: NDArray[np.int16]) -> None:
        """Add input vectors, [vectors, groups, group_rows]."""
        assert isinstance(self.layer.quantizer, InputQuantizer)
        largest = max(-self.layer.quantizer.lowest, self.layer.quantizer.highest)
        # float32 holds sums of up to this many products exactly.
        at_once = max((1 << 24) // largest**2, 1)
        self.count += len(vectors)
        self.sums += vectors.sum(axis=0, dtype=np.float64)
        for begin in range(0, len(vectors), at_once):
            some = vectors[begin : begin + at_once].transpose(1, 2, 0).astype(np.float32)
            for number, block in enumerate(self.blocks):
                self.products[number] += np.matmul(some[:, block], some[:, block].transpose(0, 2, 1))


def measure_moments(
    graph: Graph, layers: Sequence[CalibratedLayer], context: PassContext, images: int, vectors: int
) -> Mapping[str, InputMoments]:
    """Moments of some layers' inputs in the network with quantised inputs and float weights, by layer name.

    Parameters
    ----------
    images
        Calibration images used, at most; fewer where the network has more than ``MOST_PRODUCTS`` products for them.
    vectors
        Approximate number of input vectors per layer; each image gives an equal number, at random positions.
    """
    moments = {layer.name: InputMoments(layer) for layer in layers}
    if not moments:
        return moments
    each = sum(node.geometry.macs for node in graph.nodes if isinstance(node, CalibratedLayer))
    images = min(images, max(MOST_PRODUCTS // max(each, 1), FEWEST_IMAGES))
    interpreter = Interpreter(graph)
    batches = calibration_batches(graph, context.calibration, images)
    rng = np.random.default_rng(context.seed)
    with context.progress("weighing rounding errors", len(batches)) as advance:
        for feeds in batches:
            for layer, value in layer_inputs(interpreter, feeds, layers):
                _take_in(moments[layer.name], value, max(vectors // images, 1), rng)
            advance(1)
    return moments


def _take_in(moments: InputMoments, value: NDArray[Any], positions: int, rng: np.random.Generator) -> None:
    geometry = moments.layer.geometry
    unrolling = Unrolling.im2col(geometry)
    quantized = moments.layer.quantizer.quantize(geometry.to_channels_first(value))
    images = max(VALUES_AT_ONCE // max(unrolling.matrices * unrolling.rows * unrolling.windows, 1), 1)
    for begin in range(0, len(quantized), images):
        some = rng.permutation(geometry.positions)[:positions].astype(np.int32)
        vectors = unrolling.patches(quantized[begin : begin + images], some)
        moments.add(vectors.reshape(-1, *vectors.shape[2:]))

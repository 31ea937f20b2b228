"""Runs a graph at any stage: ONNX operators by onnxruntime, layers by plain arithmetic.

Float stages compute in float32; layers with integer weights compute exact integer sums (in
double precision, whose 53 bits hold any sum of ours). This is the reference that every pass and
both executors are tested against; it knows nothing of arrays, tiles or noise.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from memcompile.frontend.byte_products import integer_product_model
from memcompile.frontend.importer import to_model
from memcompile.frontend.sessions import open_session, run_session
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.ir.graph import (
    CalibratedLayer,
    DigitalNode,
    Graph,
    IntegerLayer,
    LinearLayer,
    Node,
    OnnxNode,
    UnrolledLayer,
    as_dtype,
    read_values,
)
from memcompile.ir.quantizers import InputQuantizer

KEPT_SESSIONS = 256
"""A session of onnxruntime takes a tenth of a megabyte and a third of a millisecond to open."""
PATCH_BYTES = 1 << 25
"""Image patches that are held at once, or those of one image: each value is read by many windows."""


def apply_matrices(
    x: NDArray[Any], geometry: Geometry, matrices: NDArray[Any], *, cut_images: bool = False
) -> NDArray[Any]:
    """Multiply every image patch by its group's matrix, in the matrices' precision.

    Parameters
    ----------
    x
        [batch, channels, *input_size].
    matrices
        [groups, group_rows, group_columns].
    cut_images
        Large images are multiplied part by part, in less memory. Kernels of products round the edges of a matrix in
        another way, so that last bits may differ.

    Returns
    -------
    [batch, out_channels, positions].
    """
    unrolling, images = Unrolling.im2col(geometry), x.astype(matrices.dtype, copy=False)
    products = np.empty((len(x), geometry.groups, geometry.group_columns, geometry.positions), matrices.dtype)
    patch_bytes = geometry.groups * geometry.group_rows * geometry.positions * products.itemsize
    at_once = max(1, PATCH_BYTES // max(patch_bytes, 1))
    lines = unrolling.grid[0] if unrolling.grid else 1
    lines_at_once = max(1, lines * PATCH_BYTES // max(patch_bytes, 1)) if cut_images else lines
    # What NaN and infinite values mean is for the caller to say, once and in words.
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, len(x), at_once):
            here = slice(first, first + at_once)
            for line in range(0, lines, max(lines_at_once, 1)):
                some = slice(line, min(line + lines_at_once, lines))
                vectors = unrolling.vectors(images[here], some)
                np.matmul(matrices.transpose(0, 2, 1), vectors, out=products[here, ..., _positions(geometry, some)])
    return products.reshape(len(x), geometry.out_channels, geometry.positions)


def _positions(geometry: Geometry, lines: slice) -> slice:
    """Output positions of some lines of the first spatial axis."""
    line = math.prod(geometry.output_size[1:])
    return slice(lines.start * line, lines.stop * line)


def exact_dtype(layer: IntegerLayer, matrix: NDArray[Any]) -> type[np.float32 | np.float64]:
    """The float type whose mantissa holds every sum of the layer exactly, whatever the order.

    Sums of continuous weights have no such type; float64 is 2^29 times finer than the weights.
    """
    if not isinstance(layer.quantizer, InputQuantizer):
        return np.float64
    largest = max(-layer.quantizer.lowest, layer.quantizer.highest) * int(np.abs(matrix).sum(axis=1).max(initial=0))
    return np.float32 if largest < 1 << 24 else np.float64


def run_layer(layer: Node, x: NDArray[Any], *, cut_images: bool = False) -> NDArray[Any]:
    """Output of one layer, at whatever stage it is; ``cut_images`` as in :func:`apply_matrices`."""
    assert isinstance(layer, LinearLayer | UnrolledLayer | IntegerLayer)
    geometry = layer.geometry
    images = geometry.to_channels_first(x)
    if isinstance(layer, IntegerLayer):
        matrix: NDArray[Any] = layer.integer_matrix()
        matrix = matrix.astype(exact_dtype(layer, matrix))
        sums = apply_matrices(layer.quantizer.quantize(images), geometry, matrix, cut_images=cut_images)
        y = layer.rescale(sums)
    else:
        if isinstance(layer, CalibratedLayer):
            images = layer.quantizer.quantize(images) * np.float32(layer.quantizer.scale)
        matrices: NDArray[Any] = layer.matrices() if isinstance(layer, LinearLayer) else layer.matrix
        if layer.integer:
            matrices = matrices.astype(np.float64)  # holds whole sums exactly
        products = apply_matrices(images, geometry, matrices, cut_images=cut_images)
        y = as_dtype(products + layer.bias[:, None], layer.dtype)
    return geometry.from_channels_first(y.reshape(y.shape[0], geometry.out_channels, *geometry.output_size), x.shape)


class Interpreter:
    """Executes a graph; the first ``KEPT_SESSIONS`` sessions are opened once and kept, none for a single run."""

    def __init__(self, graph: Graph, *, once: bool = False) -> None:
        self.graph = graph
        self._kept_sessions = 0 if once else KEPT_SESSIONS
        self._steps = list(_steps(graph))
        self._sessions: dict[tuple[int, tuple[str, ...]], ort.InferenceSession] = {}

    def run(self, feeds: Mapping[str, NDArray[Any]], wanted: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
        """Compute values (the graph's outputs when ``wanted`` is None) from the graph's inputs."""
        return dict(self.values(feeds, tuple(dict.fromkeys(self.graph.outputs if wanted is None else wanted))))

    def values(self, feeds: Mapping[str, NDArray[Any]], wanted: Sequence[str]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Compute values from the graph's inputs, and hand them out in the order in which they are wanted.

        None is held for longer than it is needed: those who read all values of a large network one by one should not
        keep them either.
        """
        last_use = {
            value: number for number, step in enumerate(self._steps) for node in step for value in read_values(node)
        }
        done: dict[int, list[str]] = {}
        for value, number in last_use.items():
            done.setdefault(number, []).append(value)
        values: dict[str, NDArray[Any]] = {**self.graph.constants, **feeds}
        left, number = Counter(wanted), -1
        for value in wanted:
            while value not in values:
                number += 1
                self._run_step(number, values, left, last_use)
                for read in done.get(number, ()):
                    if not left[read]:
                        values.pop(read, None)
            yield value, values[value]
            left[value] -= 1
            if not left[value] and last_use.get(value, -1) <= number:
                values.pop(value, None)

    def _run_step(
        self, number: int, values: dict[str, NDArray[Any]], wanted: Counter[str], last_use: Mapping[str, int]
    ) -> None:
        step = self._steps[number]
        if len(step) == 1 and not isinstance(step[0], OnnxNode | DigitalNode):
            values[step[0].outputs[0]] = run_layer(step[0], values[step[0].inputs[0]])
            return
        operators = [inner for node in step for inner in (node.nodes if isinstance(node, DigitalNode) else (node,))]
        onnx_nodes = [node for node in operators if isinstance(node, OnnxNode)]
        made = [value for node in onnx_nodes for value in node.outputs if value]
        outputs = [value for value in made if wanted[value] or last_use.get(value, -1) > number]
        if not outputs:
            return
        session = self._session(number, onnx_nodes, made, outputs)
        feeds = {item.name: values[item.name] for item in session.get_inputs()}
        results = run_session(session, outputs, feeds, f"{self.graph.name} from {onnx_nodes[0].name!r} on")
        values.update(zip(outputs, results, strict=True))

    def _session(
        self, number: int, nodes: Sequence[OnnxNode], made: Sequence[str], outputs: Sequence[str]
    ) -> ort.InferenceSession:
        """Session that has no other outputs: onnxruntime would hold them until it ends."""
        key = (number, tuple(outputs))
        if key in self._sessions:
            return self._sessions[key]
        read = dict.fromkeys(value for node in nodes for value in read_values(node))
        inputs = [value for value in read if value not in made and value not in self.graph.constants]
        session = open_session(to_model(self.graph, nodes, inputs, outputs), optimise=False, frugal=True)
        if len(self._sessions) < self._kept_sessions:
            self._sessions[key] = session
        return session


def _steps(graph: Graph) -> Iterator[tuple[Node, ...]]:
    """Layers and digital nodes one by one, neighbouring ONNX operators together."""
    run: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, OnnxNode):
            run.append(node)
            continue
        if run:
            yield tuple(run)
            run = []
        yield (node,)
    if run:
        yield tuple(run)


@cache
def multiplies_bytes_exactly() -> bool:
    """Return True if onnxruntime's kernels hold the sum of any two products of an unsigned and a signed byte.

    Those for processors without dot-product instructions cut it to 16 bits.
    """
    worst = np.full((1, 64, 64), -128, np.int8)
    session = open_session(integer_product_model(worst, 0), threads=1)
    sums = (session.run(None, {"x": np.full((1, items, 64), 255, np.uint8)})[0] for items in (1, 64))
    return all((each == 64 * 255 * -128).all() for each in sums)

"""Runs a graph at any stage: ONNX operators by onnxruntime, layers by plain arithmetic.

Float stages compute in float32; layers with integer weights compute exact integer sums (in
double precision, whose 53 bits hold any sum of ours). This is the reference that every pass and
both executors are tested against; it knows nothing of arrays, tiles or noise.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
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
PATCH_BYTES = 1 << 26
"""Image patches that are held at once, or those of one image: each value is read by many windows."""


def apply_matrices(x: NDArray[Any], geometry: Geometry, matrices: NDArray[Any]) -> NDArray[Any]:
    """Multiply every image patch by its group's matrix, in the matrices' precision.

    Parameters
    ----------
    x
        [batch, channels, *input_size].
    matrices
        [groups, group_rows, group_columns].

    Returns
    -------
    [batch, out_channels, positions].
    """
    unrolling, images = Unrolling.im2col(geometry), x.astype(matrices.dtype, copy=False)
    products = np.empty((len(x), geometry.groups, geometry.group_columns, geometry.positions), matrices.dtype)
    patch_bytes = geometry.groups * geometry.group_rows * geometry.positions * products.itemsize
    at_once = max(1, PATCH_BYTES // max(patch_bytes, 1))
    # What NaN and infinite values mean is for the caller to say, once and in words.
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, len(x), at_once):
            here = slice(first, first + at_once)
            np.matmul(matrices.transpose(0, 2, 1), unrolling.vectors(images[here]), out=products[here])
    return products.reshape(len(x), geometry.out_channels, geometry.positions)


def exact_dtype(layer: IntegerLayer, matrix: NDArray[Any]) -> type[np.float32 | np.float64]:
    """The float type whose mantissa holds every sum of the layer exactly, whatever the order.

    Sums of continuous weights have no such type; float64 is 2^29 times finer than the weights.
    """
    if not isinstance(layer.quantizer, InputQuantizer):
        return np.float64
    largest = max(-layer.quantizer.lowest, layer.quantizer.highest) * int(np.abs(matrix).sum(axis=1).max(initial=0))
    return np.float32 if largest < 1 << 24 else np.float64


def run_layer(layer: Node, x: NDArray[Any]) -> NDArray[Any]:
    """Output of one layer, at whatever stage it is."""
    assert isinstance(layer, LinearLayer | UnrolledLayer | IntegerLayer)
    geometry = layer.geometry
    images = geometry.to_channels_first(x)
    if isinstance(layer, IntegerLayer):
        matrix = layer.integer_matrix()
        sums = apply_matrices(layer.quantizer.quantize(images), geometry, matrix.astype(exact_dtype(layer, matrix)))
        y = layer.rescale(sums)
    else:
        if isinstance(layer, CalibratedLayer):
            images = layer.quantizer.quantize(images) * np.float32(layer.quantizer.scale)
        matrices: NDArray[Any] = layer.matrices() if isinstance(layer, LinearLayer) else layer.matrix
        if layer.integer:
            matrices = matrices.astype(np.float64)  # holds whole sums exactly
        y = as_dtype(apply_matrices(images, geometry, matrices) + layer.bias[:, None], layer.dtype)
    return geometry.from_channels_first(y.reshape(y.shape[0], geometry.out_channels, *geometry.output_size), x.shape)


class Interpreter:
    """Executes a graph; the first ``KEPT_SESSIONS`` sessions are opened once and kept, none for a single run."""

    def __init__(self, graph: Graph, *, once: bool = False) -> None:
        self.graph = graph
        self._kept_sessions = 0 if once else KEPT_SESSIONS
        self._steps = list(_steps(graph))
        self._sessions: dict[int, ort.InferenceSession] = {}

    def run(self, feeds: Mapping[str, NDArray[Any]], wanted: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
        """Compute values (the graph's outputs when ``wanted`` is None) from the graph's inputs."""
        wanted = dict.fromkeys(self.graph.outputs if wanted is None else wanted)
        last_use = {
            value: number for number, step in enumerate(self._steps) for node in step for value in read_values(node)
        }
        done: dict[int, list[str]] = {}
        for value, number in last_use.items():
            if value not in wanted:
                done.setdefault(number, []).append(value)
        values: dict[str, NDArray[Any]] = {**self.graph.constants, **feeds}
        for number, step in enumerate(self._steps):
            if len(step) == 1 and not isinstance(step[0], OnnxNode | DigitalNode):
                values[step[0].outputs[0]] = run_layer(step[0], values[step[0].inputs[0]])
            else:
                self._run_digital(number, step, values, wanted, last_use)
            for value in done.get(number, ()):
                values.pop(value, None)
        return {value: values[value] for value in wanted}

    def _run_digital(
        self,
        number: int,
        step: tuple[Node, ...],
        values: dict[str, NDArray[Any]],
        wanted: Container[str],
        last_use: Mapping[str, int],
    ) -> None:
        operators = [inner for node in step for inner in (node.nodes if isinstance(node, DigitalNode) else (node,))]
        onnx_nodes = [node for node in operators if isinstance(node, OnnxNode)]
        made = [value for node in onnx_nodes for value in node.outputs if value]
        outputs = [value for value in made if value in wanted or last_use.get(value, -1) > number]
        session = self._sessions.get(number)
        if session is None:
            read = dict.fromkeys(value for node in onnx_nodes for value in read_values(node))
            inputs = [value for value in read if value not in made and value not in self.graph.constants]
            exposed = [value for value in made if value in self.graph.types or value in self.graph.outputs]
            model = to_model(self.graph, onnx_nodes, inputs, exposed)
            session = open_session(model, optimise=False, frugal=True)
            if len(self._sessions) < self._kept_sessions:
                self._sessions[number] = session
        feeds = {item.name: values[item.name] for item in session.get_inputs()}
        if outputs:
            results = run_session(session, outputs, feeds, f"{self.graph.name} from {onnx_nodes[0].name!r} on")
            values.update(zip(outputs, results, strict=True))


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

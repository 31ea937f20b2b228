"""Writes one operator as a crossbar layer and the digital operators around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import ModelError
from memcompile.frontend.importer import make_operator
from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import Graph, LinearLayer, Node, OnnxNode, TensorType, read_only

MAX_WINDOWS = 2**22
"""Most output positions of a layer: mapping and schedule visit each, at about a kilobyte apiece."""


class Lowering:
    """Layers and digital operators that replace one operator.

    Values are made in order by :meth:`layer` and :meth:`operator`; :meth:`finish` says which of
    them is the operator's result. The first layer keeps the operator's name.
    """

    def __init__(self, node: OnnxNode, graph: Graph) -> None:
        self.node = node
        self.graph = graph
        self.constants: dict[str, NDArray[Any]] = {}
        self.types: dict[str, TensorType] = {}
        self.observed: dict[str, tuple[int, ...]] = {}
        self._made: list[tuple[str, Callable[[Callable[[str], str]], Node]]] = []
        self._results: dict[str, str] = {}
        self._layers = 0

    def _value(self, dtype: str) -> str:
        name = f"{next(value for value in self.node.outputs if value)}/{len(self._made)}"
        self.types[name] = TensorType(dtype, ())
        return name

    def constant(self, array: NDArray[Any]) -> str:
        """A constant value."""
        name = f"{next(value for value in self.node.outputs if value)}/constant_{len(self.constants)}"
        self.constants[name] = read_only(np.ascontiguousarray(array).reshape(np.shape(array)))
        return name

    def operator(self, op_type: str, *inputs: str, dtype: str, **attributes: Any) -> str:
        """Add a digital operator; returns its result, which has this type."""
        value = self._value(dtype)
        name = f"{self.node.name}/{op_type}_{len(self._made)}"

        def make(final: Callable[[str], str]) -> Node:
            return make_operator(op_type, name, [final(each) for each in inputs], [final(value)], attributes)

        self._made.append((value, make))
        return value

    def layer(
        self,
        data: str,
        shape: tuple[int, ...],
        geometry: Geometry,
        weight: NDArray[Any],
        bias: NDArray[Any] | None = None,
        *,
        dtype: str,
        integer: bool = False,
    ) -> str:
        """Add a crossbar layer that reads ``data`` of this shape; returns its result.

        ``weight`` is [out_channels, in_channels / groups, *kernel].

        Raises
        ------
        ModelError
            A weight is NaN or infinite, or there are more than ``MAX_WINDOWS`` output positions.
        """
        if geometry.positions > MAX_WINDOWS:
            raise ModelError(
                f"{self.graph.name}: layer {self.node.name!r} has {geometry.positions:,} output positions on an input "
                f"of shape {list(shape)}, the limit is {MAX_WINDOWS:,}; give smaller inputs (--data, --input-shape)"
            )
        value = self._value(dtype)
        weight = np.asarray(weight, np.float32)
        bias = np.zeros(geometry.out_channels, np.float32) if bias is None else np.asarray(bias, np.float32)
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ModelError(
                f"{self.graph.name}: layer {self.node.name!r} has weights that are NaN or infinite; "
                "train or export the model again"
            )
        name = self.node.name if not self._layers else f"{self.node.name}/{self._layers}"
        self._layers += 1
        self.observed[data] = shape

        def make(final: Callable[[str], str]) -> Node:
            return LinearLayer(
                name=name,
                inputs=(final(data),),
                outputs=(final(value),),
                geometry=geometry,
                weight=read_only(weight),
                bias=read_only(bias),
                dtype=dtype,
                integer=integer,
            )

        self._made.append((value, make))
        return value

    def finish(self, *values: str) -> Lowering:
        """Make these values the operator's results, in order."""
        self._results = {mine: own for mine, own in zip(values, self.node.outputs, strict=False) if own}
        return self

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The operators and layers, in order."""
        return tuple(make(lambda name: self._results.get(name, name)) for _, make in self._made)


def reshaped(low: Lowering, value: str, sizes: Sequence[int], dtype: str) -> str:
    """Reshape a value; one of the sizes may be -1."""
    return low.operator("Reshape", value, low.constant(np.array(sizes, np.int64)), dtype=dtype)


def transposed(low: Lowering, value: str, axes: Sequence[int], dtype: str) -> str:
    """Permute the axes of a value."""
    return low.operator("Transpose", value, dtype=dtype, perm=list(axes))


def swapped(low: Lowering, value: str, rank: int, dtype: str) -> str:
    """Exchange the last two axes of a value."""
    return transposed(low, value, [*range(rank - 2), rank - 1, rank - 2], dtype)


def vector_geometry(graph: Graph, shape: Sequence[int], in_channels: int, out_channels: int) -> Geometry:
    """A matrix product as a convolution with kernel size 1 over the vectors of one image."""
    vectors = int(np.prod(shape[:-1]))
    images = graph.samples
    return Geometry(
        in_channels=in_channels,
        out_channels=out_channels,
        input_size=(vectors // images if vectors % images == 0 else vectors,),
        layout="channels_last",
    )


_FLOATS = ("float16", "float32", "float64")


def float_reason(node: OnnxNode, graph: Graph, data: str, weight: str) -> str | None:
    """Return the reason why a linear operator on floats of any kind cannot be mapped; None if it can."""
    if weight not in graph.constants:
        return "its weights are not static"
    if data in graph.constants or data not in graph.observed_shapes:
        return "its data input is static"
    kinds = (graph.types[node.outputs[0]].dtype, str(graph.constants[weight].dtype))
    if any(kind not in _FLOATS for kind in kinds):
        return f"it computes in {kinds[0]}"
    return None if graph.constants[weight].size else "it has no weights"


def opset(graph: Graph) -> int:
    """Version of the default operator set."""
    return dict(graph.opsets).get("", 1)

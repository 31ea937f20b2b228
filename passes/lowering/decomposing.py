"""Writes one composite operator as the plain operators that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.frontend.importer import make_operator
from memcompile.ir.graph import Graph, OnnxNode, TensorType, read_only
from memcompile.passes.lowering.lowering import opset

Size = int | None


@dataclass(frozen=True)
class _Operator:
    """An operator whose values may still get other names."""

    op_type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: str
    attributes: Mapping[str, Any]


class Decomposition:
    """Plain operators that take the place of a composite one.

    Values are made in order by :meth:`operator`; :meth:`finish` says which of them is the result. One operator, the
    product with the weights, keeps the composite's name and may become a crossbar layer; the others stay digital.
    """

    def __init__(self, node: OnnxNode, graph: Graph) -> None:
        self.node = node
        self.graph = graph
        self.dtype = graph.types[node.outputs[0]].dtype
        self.constants: dict[str, NDArray[Any]] = {}
        self.types: dict[str, TensorType] = {}
        self.observed: dict[str, tuple[int, ...]] = {}
        self._operators: list[_Operator] = []
        self.result = ""
        # The product of another decomposition may be a composite, too.
        self._prefix = f"{node.outputs[0]}/parts"
        while f"{self._prefix}/0.0" in graph.types:
            self._prefix += "_"

    def constant(self, array: NDArray[Any]) -> str:
        """A constant value."""
        name = f"{self._prefix}/constant_{len(self.constants)}"
        self.constants[name] = read_only(np.ascontiguousarray(array).reshape(np.shape(array)))
        return name

    def values(
        self, op_type: str, inputs: Sequence[str], dtypes: Sequence[str], *, domain: str = "", **attributes: Any
    ) -> tuple[str, ...]:
        """Add a digital operator with one result of each type."""
        number = len(self._operators)
        outputs = tuple(f"{self._prefix}/{number}.{place}" for place in range(len(dtypes)))
        self.types |= {value: TensorType(dtype, ()) for value, dtype in zip(outputs, dtypes, strict=True)}
        name = f"{self._prefix}/{op_type}_{number}"
        self._operators.append(_Operator(op_type, name, tuple(inputs), outputs, domain, attributes))
        return outputs

    def operator(self, op_type: str, *inputs: str, dtype: str = "", **attributes: Any) -> str:
        """Add a digital operator; returns its only result, of the composite's type if no other is given."""
        return self.values(op_type, inputs, [dtype or self.dtype], **attributes)[0]

    def product(self, op_type: str, *inputs: str, dtype: str = "", **attributes: Any) -> str:
        """Add the operator that multiplies data by weights."""
        value = self.operator(op_type, *inputs, dtype=dtype, **attributes)
        self._operators[-1] = replace(self._operators[-1], name=self.node.name)
        return value

    def seen(self, value: str, shape: Sequence[int], known: Sequence[Size] = ()) -> str:
        """Record the shape of a value when the network was observed, and its static sizes; returns the value."""
        self.observed[value] = tuple(shape)
        self.types[value] = TensorType(self.types[value].dtype, tuple(known))
        return value

    def finish(self, value: str) -> Decomposition:
        """Make a value the composite's result."""
        self.result = value
        return self

    @property
    def nodes(self) -> tuple[OnnxNode, ...]:
        """The operators, in order."""
        final = {self.result: self.node.outputs[0]}
        return tuple(
            make_operator(
                item.op_type,
                item.name,
                [final.get(value, value) for value in item.inputs],
                [final.get(value, value) for value in item.outputs],
                item.attributes,
                item.domain,
            )
            for item in self._operators
        )

    @property
    def surroundings(self) -> Graph:
        """The graph with the operators beside the composite, and the known shapes and types of values between them."""
        return replace(
            self.graph,
            nodes=(*self.graph.nodes, *self.nodes),
            constants=MappingProxyType({**self.graph.constants, **self.constants}),
            types=MappingProxyType({**self.graph.types, **self.types}),
            observed_shapes=MappingProxyType({**self.graph.observed_shapes, **self.observed}),
        )

    # --- operators whose form depends on the operator set ------------------------------------------

    def along(self, op_type: str, value: str, axes: Sequence[int], **attributes: Any) -> str:
        """Squeeze, Unsqueeze or ReduceSum over some axes; the value itself if there are none."""
        if not axes:
            return value
        if opset(self.graph) < 13:
            return self.operator(op_type, value, axes=list(axes), **attributes)
        return self.operator(op_type, value, self.constant(np.array(axes, np.int64)), **attributes)

    def transposed(self, value: str, axes: Sequence[int]) -> str:
        """Permute axes; the value itself if they stay."""
        axes = list(axes)
        return value if axes == sorted(axes) else self.operator("Transpose", value, perm=axes)

    def reshaped(self, value: str, sizes: Sequence[int]) -> str:
        """Reshape; 0 keeps the size of the axis at the same place, -1 is inferred."""
        return self.operator("Reshape", value, self.constant(np.array(sizes, np.int64)))


def sizes_of(graph: Graph, value: str) -> tuple[Size, ...]:
    """Sizes of an observed value, None where they are not static."""
    seen = graph.observed_shapes[value]
    known = graph.types[value].shape
    return known if len(known) == len(seen) else (None,) * len(seen)

"""Counts multiply-add operations: of a network, and of its part on arrays.

Every product counts, whether its weights are static or not, as output elements times the numbers summed for each.
Pooling, normalisation and everything else without a product counts nothing. A layer counts as much as the operator that
it came from, so that taps on padding and cells without a weight do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from memcompile.frontend.body_operators import Body
from memcompile.frontend.observed_values import PRODUCTS
from memcompile.ir.graph import Graph, LinearLayer, OnnxNode
from memcompile.ir.pass_manager import PassContext
from memcompile.passes.fold_constants import FoldConstants
from memcompile.passes.lowering.decompose_fused import operand_axes
from memcompile.passes.lowering.lower_convolutions import geometry_of
from memcompile.passes.remove_dead_nodes import RemoveDeadNodes
from memcompile.passes.select_crossbar_operators import reason_to_stay_digital

Shape = tuple[int, ...]
Count = Callable[[OnnxNode, Sequence[Shape]], int]


@dataclass
class MultiplyAdds:
    """Instrument that counts a network's products, and which of them go to arrays.

    Attributes
    ----------
    of_operators
        Multiply-adds of one sample by operator of the main graph, with those of its bodies.
    on_arrays
        Multiply-adds of one sample that crossbar layers do.
    """

    bodies: Sequence[Body] = ()
    of_operators: dict[str, int] = field(default_factory=dict)
    on_arrays: int = 0
    _linear: dict[str, int] = field(default_factory=dict)
    """Those of them that a layer can do: products of values with values are left out."""
    _images: int = 1

    @property
    def total(self) -> int:
        """Multiply-adds of one sample."""
        return sum(self.of_operators.values())

    def after_pass(self, number: int, name: str, graph: Graph, context: PassContext) -> None:
        """Count once weights are constants, and once linear operators have become layers."""
        if name == FoldConstants.pass_name():
            self._count(graph)
        elif name == RemoveDeadNodes.pass_name():
            layers = {node.name for node in graph.nodes if isinstance(node, LinearLayer)}
            self.on_arrays = sum(count for name, count in self._linear.items() if name in layers)

    def _count(self, graph: Graph) -> None:
        self._images = graph.samples
        counts = {node.name: _of_node(node, graph) for node in graph.nodes if isinstance(node, OnnxNode)}
        # Bodies of operators that do not depend on the inputs are gone.
        counts |= {name: count for name, count in _of_bodies(self.bodies).items() if name in counts}
        self.of_operators = {name: self._of_sample(count) for name, count in counts.items() if count}
        mixed = {
            node.name: self._of_sample(_projection(_operand_shapes(node, graph)))
            for node in graph.nodes
            if isinstance(node, OnnxNode) and node.op_type in _ATTENTION
        }
        self._linear = self.of_operators | mixed

    def _of_sample(self, count: int) -> int:
        return -(-count // self._images)

    def in_bodies(self, owner: str) -> list[tuple[str, str, str, int]]:
        """Products in the bodies of an operator: name, kind, where, and multiply-adds of one sample each."""
        return [
            (name, kind, where, self._of_sample(count))
            for body in self.bodies
            if body.owner == owner
            for name, kind, where, count in _listed(body, 1)
        ]


def _of_bodies(bodies: Sequence[Body]) -> dict[str, int]:
    """Multiply-adds by owner; of the branches of an If only the one with more is taken."""
    counts: dict[str, int] = {}
    for body in bodies:
        own = sum(multiply_adds(node, shapes) for node, shapes in body.products)
        count = body.times * (own + sum(_of_bodies(body.inner).values()))
        before = counts.get(body.owner, 0)
        counts[body.owner] = max(before, count) if body.kind == "If" else before + count
    return counts


def _listed(body: Body, times: int) -> Iterator[tuple[str, str, str, int]]:
    times *= body.times
    for node, shapes in body.products:
        yield node.name, node.kind, body.part, times * multiply_adds(node, shapes)
    for inner in body.inner:
        yield from _listed(inner, times)


def _of_node(node: OnnxNode, graph: Graph) -> int:
    if node.kind == "ReduceSum" and reason_to_stay_digital(node, graph) is None:
        multiply = graph.producers[node.inputs[0]]
        return math.prod(np.broadcast_shapes(*(_shape(graph, name) or () for name in multiply.inputs)))
    return multiply_adds(node, _operand_shapes(node, graph))


def _operand_shapes(node: OnnxNode, graph: Graph) -> list[Shape]:
    """Shapes of the operands of a product; none if one of them is not known."""
    places = PRODUCTS.get(node.op_type, ())
    shapes = [_shape(graph, node.inputs[place]) for place in places if place < len(node.inputs)]
    known = [shape for shape in shapes if shape is not None]
    return known if len(known) == len(places) else []


def _shape(graph: Graph, name: str) -> Shape | None:
    constant = graph.constants.get(name)
    return graph.observed_shapes.get(name) if constant is None else constant.shape


def multiply_adds(node: OnnxNode, shapes: Sequence[Shape]) -> int:
    """Multiply-adds of a product whose operands have these shapes; 0 for operators without a product."""
    count = _COUNTS.get(node.op_type)
    try:
        return 0 if count is None or not shapes or any(0 in shape for shape in shapes) else count(node, shapes)
    except (ValueError, IndexError, KeyError):  # a form that onnxruntime knows and these rules do not
        return 0


def _convolution(node: OnnxNode, shapes: Sequence[Shape]) -> int:
    data, weight = shapes
    if node.attributes.get("channels_last", 0):
        data = (data[0], data[-1], *data[1:-1])
    geometry = geometry_of(node, data, weight)
    return data[0] * geometry.positions * geometry.out_channels * geometry.group_rows


def _transposed_convolution(node: OnnxNode, shapes: Sequence[Shape]) -> int:
    data, weight = shapes
    return math.prod(data) * math.prod(weight[1:])


def _product(node: OnnxNode, shapes: Sequence[Shape]) -> int:
    words = [[bool(node.attributes.get(f"{word}{side}", 0)) for word in ("trans", "transBatch")] for side in "AB"]
    turned = [
        tuple(shape[axis] for axis in operand_axes(len(shape), *flags))
        for shape, flags in zip(shapes, words, strict=True)
    ]
    left = turned[0] if len(turned[0]) > 1 else (1, *turned[0])
    right = turned[1] if len(turned[1]) > 1 else (*turned[1], 1)
    return math.prod(np.broadcast_shapes(left[:-2], right[:-2])) * left[-2] * left[-1] * right[-1]


def _few_bits(node: OnnxNode, shapes: Sequence[Shape]) -> int:
    return math.prod(shapes[0]) * int(node.attributes["N"])


def _einsum(node: OnnxNode, shapes: Sequence[Shape]) -> int:
    """Sizes of all letters multiplied; axes under an ellipsis are aligned at the last."""
    terms = str(node.attributes["equation"]).replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        hidden = len(shape) - len(term.replace("...", ""))
        letters = list(term.replace("...", "".join(chr(0x2460 + place) for place in reversed(range(hidden)))))
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return math.prod(sizes.values())


def _recurrent(node: OnnxNode, shapes: Sequence[Shape]) -> int:
    """Input weights [directions, gates * hidden, inputs] and recurrent ones for each step."""
    data, weights = shapes
    hidden = int(node.attributes["hidden_size"])
    columns = weights[1] if node.op_type != "DynamicQuantizeLSTM" else weights[2]
    return math.prod(data[:2]) * weights[0] * columns * (data[2] + hidden)


def _attention(node: OnnxNode, shapes: Sequence[Shape]) -> int:
    """The projection, the products of queries with keys, and of their softmax with values."""
    (images, length, _), columns = shapes[0], shapes[1][1]
    sizes = tuple(node.attributes.get("qkv_hidden_sizes", ())) or (columns // 3,) * 3
    return _projection(shapes) + images * length * length * int(sizes[0] + sizes[2])


def _projection(shapes: Sequence[Shape]) -> int:
    """The part of an attention whose weights are static."""
    return math.prod(shapes[0]) * shapes[1][1] if shapes else 0


def _attended(node: OnnxNode, shapes: Sequence[Shape]) -> int:
    """Products of queries [images, length, hidden] with keys, and of their softmax with as many values."""
    queries, keys = shapes
    return math.prod(queries) * keys[1] * 2


_ATTENTION = ("Attention", "QAttention")
_COUNTS: Mapping[str, Count] = MappingProxyType(
    {
        **dict.fromkeys(("Conv", "ConvInteger", "FusedConv", "QLinearConv"), _convolution),
        **dict.fromkeys(
            (
                "DynamicQuantizeMatMul",
                "FusedGemm",
                "FusedMatMul",
                "Gemm",
                "MatMul",
                "MatMulInteger",
                "MatMulIntegerToFloat",
                "QGemm",
                "QLinearMatMul",
                "TransposeMatMul",
            ),
            _product,
        ),
        **dict.fromkeys(("DynamicQuantizeLSTM", "GRU", "LSTM", "RNN"), _recurrent),
        **dict.fromkeys(_ATTENTION, _attention),
        "ConvTranspose": _transposed_convolution,
        "Einsum": _einsum,
        "MatMulNBits": _few_bits,
        "MultiHeadAttention": _attended,
    }
)

"""Selects the operators that go to crossbars: linear ones with static weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from memcompile.ir.graph import Graph, Node, OnnxNode
from memcompile.ir.pass_contract import Fidelity, Form, Forms
from memcompile.ir.pass_manager import Pass, PassContext
from memcompile.passes.lowering.decompose_attention import decompose_attention, decompose_quantized_attention
from memcompile.passes.lowering.decompose_contractions import (
    decompose_einsum,
    decompose_mul_sum,
    decompose_vector_product,
)
from memcompile.passes.lowering.decompose_fused import (
    decompose_fused_conv,
    decompose_fused_gemm,
    decompose_fused_matmul,
)
from memcompile.passes.lowering.decompose_quantized import (
    decompose_channels_last,
    decompose_dynamic_quantize_matmul,
    decompose_matmul_integer_to_float,
    decompose_matmul_nbits,
    decompose_qgemm,
)
from memcompile.passes.lowering.decomposing import Decomposition
from memcompile.passes.lowering.lower_convolutions import convolution_reason, lower_conv, lower_conv_transpose
from memcompile.passes.lowering.lower_products import lower_gemm, lower_matmul, product_reason
from memcompile.passes.lowering.lower_quantized import (
    between_quantizers,
    largest_byte,
    lower_between_quantizers,
    lower_quantized,
    quantized_reason,
)
from memcompile.passes.lowering.lower_recurrent import lower_recurrent, recurrent_reason
from memcompile.passes.lowering.lowering import Lowering

Reason = Callable[[OnnxNode, Graph], str | None]
Lower = Callable[[OnnxNode, Graph], Lowering]
OPERATORS: Mapping[str, tuple[Reason, Lower]] = MappingProxyType(
    {
        "Conv": (convolution_reason, lower_conv),
        "ConvTranspose": (convolution_reason, lower_conv_transpose),
        "ConvInteger": (quantized_reason, lower_quantized),
        "GRU": (recurrent_reason, lower_recurrent),
        "Gemm": (product_reason, lower_gemm),
        "LSTM": (recurrent_reason, lower_recurrent),
        "MatMul": (product_reason, lower_matmul),
        "MatMulInteger": (quantized_reason, lower_quantized),
        "QLinearConv": (quantized_reason, lower_quantized),
        "QLinearMatMul": (quantized_reason, lower_quantized),
        "RNN": (recurrent_reason, lower_recurrent),
    }
)
# Composites of plain operators, by kind. None stands for a plain operator, a text for the reason to stay digital.
Decompose = Callable[[OnnxNode, Graph], Decomposition | str | None]
COMPOSITES: Mapping[str, Decompose] = MappingProxyType(
    {
        "Einsum": decompose_einsum,
        "MatMul": decompose_vector_product,
        "ReduceSum": decompose_mul_sum,
        "com.microsoft::Attention": decompose_attention,
        "com.microsoft::DynamicQuantizeMatMul": decompose_dynamic_quantize_matmul,
        "com.microsoft::FusedConv": decompose_fused_conv,
        "com.microsoft::FusedGemm": decompose_fused_gemm,
        "com.microsoft::FusedMatMul": decompose_fused_matmul,
        "com.microsoft::MatMulIntegerToFloat": decompose_matmul_integer_to_float,
        "com.microsoft::MatMulNBits": decompose_matmul_nbits,
        "com.microsoft::QAttention": decompose_quantized_attention,
        "com.microsoft::QGemm": decompose_qgemm,
        "com.microsoft::QLinearConv": decompose_channels_last,
        "com.microsoft::TransposeMatMul": decompose_fused_matmul,
    }
)


@dataclass(frozen=True)
class SelectCrossbarOperators(Pass):
    """Turns linear operators with static weights into crossbar layers.

    These are Conv, ConvTranspose, Gemm, MatMul, their quantised forms, LSTM, GRU and RNN, and composites that
    contain one of them: Einsum of data and weights, ReduceSum of a Mul, MatMul with vectors, the fused operators of
    onnxruntime, its products of dynamically quantised data or with weights of few bits, and the projection of an
    attention. Anything a layer cannot do itself, such as permuting its input, interleaving its outputs, an
    activation, or the scale and zero point of data that are quantised in each run, becomes digital operators beside
    it. A composite whose product cannot become a layer stays unchanged.
    """

    summary: ClassVar[str] = "turn linear operators with static weights into crossbar layers"
    consumes: ClassVar[Forms] = frozenset({Form.OPERATORS})
    produces: ClassVar[Forms] = frozenset({Form.OPERATORS, Form.LINEAR})
    fidelity: ClassVar[Fidelity] = "lossless"

    def run(self, graph: Graph, context: PassContext) -> Graph:
        nodes: list[Node] = []
        constants, types, observed = dict(graph.constants), dict(graph.types), dict(graph.observed_shapes)
        for node in graph.nodes:
            written = _written(node, graph, context) if isinstance(node, OnnxNode) else (node,)
            for part in written:
                if isinstance(part, Node):
                    nodes.append(part)
                    continue
                nodes += part.nodes if isinstance(part, Lowering) else ()
                constants |= part.constants
                types |= part.types
                observed |= part.observed
        return graph.replace(
            nodes=tuple(nodes),
            constants=MappingProxyType(constants),
            types=MappingProxyType(types),
            observed_shapes=MappingProxyType(observed),
        )


def _written(node: OnnxNode, graph: Graph, context: PassContext) -> tuple[Node | Lowering | Decomposition, ...]:
    """Return the replacement of an operator: itself, or layers and other operators after their decompositions."""
    parts = _decomposed(node, graph)
    if isinstance(parts, str):
        return (node,)
    if parts is None:
        return (node,) if _plain_reason(node, graph) is not None else (_lowered(node, graph, context),)
    around = parts.surroundings
    written = [_written(part, around, context) if part.name == node.name else (part,) for part in parts.nodes]
    return parts, *itertools.chain.from_iterable(written)


def _lowered(node: OnnxNode, graph: Graph, context: PassContext) -> Lowering:
    # Weights that have to be quantised anew go with inputs around zero: a zero point would multiply their error.
    limit = np.inf if context.target.cell.continuous else context.slicing_of(node.name).weight_limit
    if between_quantizers(node, graph) and largest_byte(node, graph) <= limit:
        return lower_between_quantizers(node, graph)
    return OPERATORS[node.op_type][1](node, graph)


def _decomposed(node: OnnxNode, graph: Graph) -> Decomposition | str | None:
    """Return the parts of a composite whose product is mapped; else the reason, or None for a plain operator."""
    decompose = COMPOSITES.get(node.kind)
    parts = None if decompose is None or _is_empty(node, graph) else decompose(node, graph)
    if not isinstance(parts, Decomposition):
        return parts
    (product,) = (part for part in parts.nodes if part.name == node.name)
    return reason_to_stay_digital(product, parts.surroundings) or parts


def reason_to_stay_digital(node: OnnxNode, graph: Graph) -> str | None:
    """Return the reason why an operator is not mapped to crossbars; None if it is."""
    parts = _decomposed(node, graph)
    if parts is None:
        return _plain_reason(node, graph)
    return parts if isinstance(parts, str) else None


def _plain_reason(node: OnnxNode, graph: Graph) -> str | None:
    if node.kind == "com.microsoft.nchwc::Conv":
        return "its weights are in an order for one kind of processor"
    if node.kind not in OPERATORS:
        return "not a linear operator with weights"
    if _is_empty(node, graph):
        return "its input holds no values"
    reason, _ = OPERATORS[node.kind]
    return reason(node, graph)


def _is_empty(node: OnnxNode, graph: Graph) -> bool:
    return any(0 in graph.observed_shapes.get(name, ()) for name in node.inputs[:2])

"""Decides which operators go to crossbars: linear ones with static weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from memcompile.ir import Graph, Node, OnnxNode
from memcompile.pass_manager import Pass, PassContext
from memcompile.passes.lower_convolutions import convolution_reason, lower_conv, lower_conv_transpose
from memcompile.passes.lower_products import lower_gemm, lower_matmul, product_reason
from memcompile.passes.lower_quantized import (
    between_quantizers,
    largest_byte,
    lower_between_quantizers,
    lower_quantized,
    quantized_reason,
)
from memcompile.passes.lower_recurrent import lower_recurrent, recurrent_reason
from memcompile.passes.lowering import Lowering

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


@dataclass(frozen=True)
class SelectCrossbarOperators(Pass):
    """Turns linear operators with static weights into crossbar layers.

    Whatever a layer cannot do itself, such as turning its input round or interleaving its
    outputs, becomes digital operators beside it.
    """

    summary: ClassVar[str] = "turn linear operators with static weights into crossbar layers"

    def run(self, graph: Graph, context: PassContext) -> Graph:
        nodes: list[Node] = []
        constants, types, observed = dict(graph.constants), dict(graph.types), dict(graph.observed_shapes)
        for node in graph.nodes:
            if not isinstance(node, OnnxNode) or reason_to_stay_digital(node, graph) is not None:
                nodes.append(node)
                continue
            lowered = _lowered(node, graph, context)
            nodes += lowered.nodes
            constants |= lowered.constants
            types |= lowered.types
            observed |= lowered.observed
        return graph.replace(
            nodes=tuple(nodes),
            constants=MappingProxyType(constants),
            types=MappingProxyType(types),
            observed_shapes=MappingProxyType(observed),
        )


def _lowered(node: OnnxNode, graph: Graph, context: PassContext) -> Lowering:
    # Weights that have to be quantised anew go with inputs around zero: a zero point would multiply their error.
    limit = np.inf if context.target.cell.continuous else context.weight_limit
    if between_quantizers(node, graph) and largest_byte(node, graph) <= limit:
        return lower_between_quantizers(node, graph)
    return OPERATORS[node.op_type][1](node, graph)


def reason_to_stay_digital(node: OnnxNode, graph: Graph) -> str | None:
    """Why an operator is not mapped to crossbars; None if it is."""
    if node.domain or node.op_type not in OPERATORS:
        return "not a linear operator with weights"
    if any(0 in graph.observed_shapes.get(name, ()) for name in node.inputs[:2]):
        return "its input holds no values"
    reason, _ = OPERATORS[node.op_type]
    return reason(node, graph)

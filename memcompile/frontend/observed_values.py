"""Values of a model that are observed when it is run once: those that products read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from memcompile.ir.graph import OnnxNode

# Places of the operands of products, where they are not the first two inputs.
_FIRST_TWO = (0, 1)
_QUANTIZED = (0, 3)
PRODUCTS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "Attention",
                "Conv",
                "ConvInteger",
                "ConvTranspose",
                "DynamicQuantizeLSTM",
                "DynamicQuantizeMatMul",
                "Einsum",
                "FusedConv",
                "FusedGemm",
                "FusedMatMul",
                "GRU",
                "Gemm",
                "LSTM",
                "MatMul",
                "MatMulInteger",
                "MatMulIntegerToFloat",
                "MatMulNBits",
                "MultiHeadAttention",
                "QAttention",
                "RNN",
                "TransposeMatMul",
            ),
            _FIRST_TWO,
        ),
        **dict.fromkeys(("QGemm", "QLinearConv", "QLinearMatMul"), _QUANTIZED),
    }
)
"""Operators that multiply and add, of any domain, and which of their inputs are the operands."""


def observed_values(nodes: Iterable[OnnxNode]) -> list[str]:
    """Operands of all products, those of a Mul whose result is summed included."""
    nodes = tuple(nodes)
    summed = {node.inputs[0] for node in nodes if node.op_type == "ReduceSum" and node.inputs}
    found: dict[str, None] = {}
    for node in nodes:
        places = PRODUCTS.get(node.op_type, ())
        if node.op_type == "Mul" and not summed.isdisjoint(node.outputs):
            places = _FIRST_TWO
        found.update(dict.fromkeys(node.inputs[place] for place in places if place < len(node.inputs)))
    return [value for value in found if value]

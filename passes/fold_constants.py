"""Evaluates operators that do not depend on the network's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from memcompile.errors import ModelError
from memcompile.frontend.importer import operator_types, to_model
from memcompile.frontend.sessions import open_session
from memcompile.ir.graph import Graph, OnnxNode, QuantizedConstant, read_only, read_values
from memcompile.ir.pass_contract import Fidelity, Form, Forms
from memcompile.ir.pass_manager import Pass, PassContext
from memcompile.program.random_operators import RANDOM_OPERATORS


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replaces operators on constants by their results, computed by onnxruntime.

    So weights that come through Constant, Cast, Transpose, DequantizeLinear or any other chain
    are constants like initializers.
    """

    summary: ClassVar[str] = "evaluate operators whose inputs are all constant"
    consumes: ClassVar[Forms] = frozenset({Form.OPERATORS})
    produces: ClassVar[Forms] = frozenset({Form.OPERATORS})
    fidelity: ClassVar[Fidelity] = "lossless"

    def run(self, graph: Graph, context: PassContext) -> Graph:
        constant = set(graph.constants)
        folded: list[OnnxNode] = []
        for node in graph.nodes:
            if isinstance(node, OnnxNode) and _foldable(node, constant, graph):
                folded.append(node)
                constant.update(value for value in node.outputs if value)
        names = _folded_names(folded, graph)
        if not names:
            return graph
        rest = tuple(node for node in graph.nodes if node.name not in names)
        needed = {value for node in rest for value in read_values(node)} | set(graph.outputs)
        wanted = [value for node in folded if node.name in names for value in node.outputs if value in needed]
        bytes_of = [node for node in folded if node.kind == "DequantizeLinear" and node.outputs[0] in needed]
        made = {value for node in folded for value in node.outputs}
        also = [value for node in bytes_of for value in node.inputs if value in made]
        constants = {**graph.constants, **_evaluate(graph, folded, list(dict.fromkeys([*wanted, *also])))}
        return graph.replace(
            nodes=rest,
            constants=MappingProxyType(constants),
            quantized=MappingProxyType({node.outputs[0]: _quantized(node, constants) for node in bytes_of}),
        )


def _quantized(node: OnnxNode, constants: Mapping[str, Any]) -> QuantizedConstant:
    """Return the quantised form of a dequantised constant."""
    values, scale, *zero = (constants[name] for name in node.inputs if name)
    zero_point = zero[0] if zero else np.zeros((), values.dtype)
    return QuantizedConstant(values, scale, zero_point, int(node.attributes.get("axis", 1)))


def _foldable(node: OnnxNode, constant: set[str], graph: Graph) -> bool:
    if not all(value in constant for value in read_values(node)):
        return False
    return RANDOM_OPERATORS.isdisjoint(operator_types(node))


def _folded_names(foldable: Sequence[OnnxNode], graph: Graph) -> set[str]:
    """Names of operators to fold; a sequence, map or optional is no constant, so only folded operators may read it."""
    names = {node.name for node in foldable}
    for node in reversed(foldable):
        for value in node.outputs:
            readers = {reader.name for reader in graph.consumers.get(value, ())}
            if value and not graph.is_tensor(value) and (value in graph.outputs or not readers <= names):
                names.discard(node.name)
    return names


def _evaluate(graph: Graph, folded: list[OnnxNode], wanted: list[str]) -> dict[str, object]:
    if not wanted:
        return {}
    try:
        results = open_session(to_model(graph, folded, [], wanted), optimise=False).run(wanted, {})
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise ModelError(f"{graph.name}: its constant operators cannot be evaluated: {error}") from error
    return {name: read_only(result) for name, result in zip(wanted, results, strict=True)}

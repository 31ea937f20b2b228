"""Groups the operators between crossbar layers into digital subgraphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from memcompile.errors import ModelError
from memcompile.ir.graph import DigitalNode, Graph, Node, OnnxNode, read_values
from memcompile.ir.pass_contract import Fidelity, Form, Forms
from memcompile.ir.pass_manager import Pass, PassContext


@dataclass(frozen=True)
class GroupDigital(Pass):
    """One digital subgraph per depth, counted in crossbar layers on the way from the inputs.

    Depth makes every group convex (no path leaves a group and comes back), and no partition has
    fewer groups than the deepest path has digital stretches.
    """

    summary: ClassVar[str] = "group the other operators into subgraphs that onnxruntime runs"
    consumes: ClassVar[Forms] = frozenset({Form.OPERATORS})
    produces: ClassVar[Forms] = frozenset({Form.DIGITAL})
    fidelity: ClassVar[Fidelity] = "lossless"

    def run(self, graph: Graph, context: PassContext) -> Graph:
        depth = _depths(graph)
        taken = {node.name for node in graph.nodes if not isinstance(node, OnnxNode)}
        nodes: list[Node] = []
        levels: list[list[Node]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
        for node in graph.nodes:
            levels[depth[node.name]].append(node)
        for level, here in enumerate(levels):
            operators = [node for node in here if isinstance(node, OnnxNode)]
            if operators:
                name = f"digital_{level}"
                while name in taken:  # a layer of the model may be called so
                    name += "_"
                nodes.append(_group(graph, operators, name))
            nodes += [node for node in here if not isinstance(node, OnnxNode)]
        return graph.replace(nodes=tuple(nodes))


def _depths(graph: Graph) -> dict[str, int]:
    """Crossbar layers on the longest path to each node; a digital node counts those it reads too."""
    depth: dict[str, int] = {}
    for node in graph.nodes:
        level = 0
        for before in {graph.producers[value].name for value in read_values(node) if value in graph.producers}:
            after_layer = isinstance(node, OnnxNode) and not isinstance(graph.by_name[before], OnnxNode)
            level = max(level, depth[before] + after_layer)
        depth[node.name] = level
    return depth


def _group(graph: Graph, operators: Sequence[OnnxNode], name: str) -> DigitalNode:
    inside = {node.name for node in operators}
    made = {value for node in operators for value in node.outputs if value}
    read = dict.fromkeys(value for node in operators for value in read_values(node))
    inputs = tuple(value for value in read if value not in made and value not in graph.constants)
    outputs = tuple(
        value
        for node in operators
        for value in node.outputs
        if value
        and (value in graph.outputs or any(reader.name not in inside for reader in graph.consumers.get(value, ())))
    )
    for value in inputs:
        if value not in graph.types:
            raise ModelError(
                f"{graph.name}: value {value!r} is neither a tensor nor a sequence, map or optional of tensors, and "
                "passes from one digital subgraph to another, which it cannot; export the model without it"
            )
    return DigitalNode(name=name, inputs=inputs, outputs=outputs, nodes=tuple(operators))

"""Removes nodes whose results are not read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from memcompile.ir.graph import Graph, read_values
from memcompile.ir.pass_contract import Fidelity, Form, Forms
from memcompile.ir.pass_manager import Pass, PassContext


@dataclass(frozen=True)
class RemoveDeadNodes(Pass):
    """Keeps the nodes from which an output can be reached."""

    summary: ClassVar[str] = "remove operators that no output depends on"
    consumes: ClassVar[Forms] = frozenset({Form.OPERATORS})
    produces: ClassVar[Forms] = frozenset({Form.OPERATORS})
    fidelity: ClassVar[Fidelity] = "lossless"

    def run(self, graph: Graph, context: PassContext) -> Graph:
        wanted = set(graph.outputs)
        kept = []
        for node in reversed(graph.nodes):
            if wanted.isdisjoint(node.outputs):
                continue
            kept.append(node)
            wanted.update(read_values(node))
        return graph.replace(nodes=tuple(reversed(kept)))

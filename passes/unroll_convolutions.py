"""Unrolls convolution kernels into weight matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from memcompile.ir.graph import Graph, LinearLayer, UnrolledLayer, carry, read_only
from memcompile.ir.pass_contract import Fidelity, Form, Forms
from memcompile.ir.pass_manager import Pass, PassContext


@dataclass(frozen=True)
class UnrollConvolutions(Pass):
    """Each group's kernels become a matrix: a row per kernel input, a column per output channel.

    Rows run over (input channel, *kernel tap), so that an image patch flattened in the same order
    is the input vector.
    """

    summary: ClassVar[str] = "unroll kernels into weight matrices, a column per output channel"
    consumes: ClassVar[Forms] = frozenset({Form.LINEAR})
    produces: ClassVar[Forms] = frozenset({Form.UNROLLED})
    fidelity: ClassVar[Fidelity] = "lossless"

    def run(self, graph: Graph, context: PassContext) -> Graph:
        return graph.map_nodes(
            {
                node.name: carry(UnrolledLayer, node, matrix=read_only(np.ascontiguousarray(node.matrices())))
                for node in graph.nodes
                if isinstance(node, LinearLayer)
            }
        )

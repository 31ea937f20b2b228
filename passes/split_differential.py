"""Splits signed digits into the two cells of a differential pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from memcompile.ir.graph import Graph, PairedLayer, SlicedLayer, carry, read_only
from memcompile.ir.pass_contract import Fidelity, Form, Forms
from memcompile.ir.pass_manager import Pass, PassContext


@dataclass(frozen=True)
class SplitDifferential(Pass):
    """A positive digit goes to the adding cell, a negative one to the subtracted cell.

    The other cell stays at level 0, the lowest conductance, whose current cancels in the
    subtraction.
    """

    summary: ClassVar[str] = "split signed digits into differential pairs of cells"
    consumes: ClassVar[Forms] = frozenset({Form.SLICED})
    produces: ClassVar[Forms] = frozenset({Form.PAIRED})
    fidelity: ClassVar[Fidelity] = "exact"

    def run(self, graph: Graph, context: PassContext) -> Graph:
        changed = {}
        for node in graph.nodes:
            if isinstance(node, SlicedLayer):
                cells = np.stack([np.maximum(node.digits, 0), np.maximum(-node.digits, 0)])
                if cells.dtype.kind != "f":  # continuous cells keep their type
                    cells = cells.astype(np.uint8)
                changed[node.name] = carry(PairedLayer, node, cells=read_only(cells))
        return graph.map_nodes(changed)

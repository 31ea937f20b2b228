"""Reasons why each operator is analog or digital."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from rich.table import Table

from memcompile.ir.graph import Graph, LinearLayer, Node, OnnxNode, QuantizedLayer, UnrolledLayer
from memcompile.ir.pass_manager import PassContext
from memcompile.passes.fold_constants import FoldConstants
from memcompile.passes.quantize_weights import QuantizeWeights
from memcompile.passes.remove_dead_nodes import RemoveDeadNodes
from memcompile.passes.select_crossbar_operators import reason_to_stay_digital
from memcompile.passes.unroll_convolutions import UnrollConvolutions
from memcompile.report.multiply_adds import MultiplyAdds


@dataclass
class OperatorFate:
    """Fate of one operator of the model: analog, digital or folded, and the reason."""

    name: str
    operator: str
    side: str
    why: str
    share: float = 0.0
    """Share of the network's multiply-adds."""


@dataclass
class Explanation:
    """Instrument that follows every operator from the file to its side of the chip."""

    fates: list[OperatorFate] = field(default_factory=list)
    _imported: dict[str, OnnxNode] = field(default_factory=dict)
    _unfolded: Graph | None = None
    _whole: dict[str, UnrolledLayer] = field(default_factory=dict)

    def after_pass(self, number: int, name: str, graph: Graph, context: PassContext) -> None:
        """Keep the graph as imported and as folded; conclude once no operator will move any more."""
        if number == 0:
            self._imported = {node.name: node for node in graph.nodes if isinstance(node, OnnxNode)}
        elif name == FoldConstants.pass_name():
            self._unfolded = graph
        elif name == RemoveDeadNodes.pass_name():
            self.fates = [self._fate(node, graph) for node in self._imported.values()]
        elif name == UnrollConvolutions.pass_name():
            self._whole = {node.name: node for node in graph.nodes if isinstance(node, UnrolledLayer) and node.integer}
        elif name == QuantizeWeights.pass_name():
            kept = {node.name: _kept(node, self._whole[node.name]) for node in graph.nodes if node.name in self._whole}
            for fate in self.fates:
                fate.why += kept.get(fate.name, "")

    def _fate(self, node: OnnxNode, final: Graph) -> OperatorFate:
        assert self._unfolded is not None
        end = final.by_name.get(node.name)
        if isinstance(end, LinearLayer):
            side, why = "analog", "linear operator with static weights"
        elif node.name not in self._unfolded.by_name:
            side, why = "folded", "does not depend on the inputs: evaluated at compile time"
        elif end is None:
            side, why = "folded", "merged into the crossbar layer before it, or nothing reads it"
        else:
            side, why = "digital", reason_to_stay_digital(node, self._unfolded) or "stays digital"
        return OperatorFate(node.name, node.kind, side, why)

    def weigh(self, counted: MultiplyAdds) -> None:
        """Add each operator's share of the multiply-adds, and the products in its bodies."""
        if not counted.total:
            return
        for fate in self.fates:
            fate.share = counted.of_operators.get(fate.name, 0) / counted.total
            if fate.name not in counted.of_operators:
                continue
            for name, kind, where, count in counted.in_bodies(fate.name):
                share = _share(count / counted.total)
                fate.why += f"; {kind} {name!r} in its {where} has {share} of the multiply-adds"

    def facts(self) -> list[dict[str, str | float]]:
        """Facts of each operator, in the model's order, with the keys that docs/json.md documents."""
        return [
            {"name": fate.name, "kind": fate.operator, "where": fate.side, "why": fate.why, "share": fate.share}
            for fate in self.fates
        ]

    def table(self) -> Table:
        """One row an operator, in the model's order."""
        table = Table(title="operators", title_justify="left", header_style="bold")
        for heading in ("operator", "kind", "where", "multiply-adds", "why"):
            table.add_column(heading, overflow="fold", justify="right" if heading == "multiply-adds" else "left")
        for fate in self.fates:
            table.add_row(fate.name, fate.operator, fate.side, _share(fate.share), fate.why)
        return table


def _share(share: float) -> str:
    if not share:
        return ""
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"


def _same_whole_weights(layer: QuantizedLayer, whole: UnrolledLayer) -> bool:
    """Return True if integers are a quantised model's own, or in a channel a whole multiple that its scale undoes."""
    multiples = np.rint(layer.quantizer.scale / layer.scale.astype(np.float64))
    return np.array_equal(layer.levels, whole.matrix * multiples.reshape(len(whole.matrix), 1, -1))


def _kept(layer: Node, whole: UnrolledLayer) -> str:
    """Note on whether the numbers of a quantised model are still the model's own."""
    assert isinstance(layer, QuantizedLayer)
    lost = []
    if layer.quantizer.scale != 1.0:
        lost.append("inputs are requantised: the target applies fewer than 8 bits")
    if layer.levels.dtype.kind == "i" and not _same_whole_weights(layer, whole):
        reach = int(np.abs(whole.matrix).max())
        lost.append(f"weights are requantised: they reach {reach}, which takes more slices")
    return "; " + ("; ".join(lost) or "whole numbers and scales are the model's own")

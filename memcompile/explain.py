"""Why each operator is analog or digital."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.table import Table

from memcompile.ir import Graph, LinearLayer, OnnxNode
from memcompile.pass_manager import PassContext
from memcompile.passes.fold_constants import FoldConstants
from memcompile.passes.remove_dead_nodes import RemoveDeadNodes
from memcompile.passes.select_crossbar_operators import reason_to_stay_digital


@dataclass
class OperatorFate:
    """What became of one operator of the model."""

    name: str
    operator: str
    side: str
    why: str


@dataclass
class Explanation:
    """Instrument that follows every operator from the file to its side of the chip."""

    fates: list[OperatorFate] = field(default_factory=list)
    _imported: dict[str, OnnxNode] = field(default_factory=dict)
    _unfolded: Graph | None = None

    def after_pass(self, number: int, name: str, graph: Graph, context: PassContext) -> None:
        """Keep the graph as imported and as folded; conclude once no operator will move any more."""
        if number == 0:
            self._imported = {node.name: node for node in graph.nodes if isinstance(node, OnnxNode)}
        elif name == FoldConstants.pass_name():
            self._unfolded = graph
        elif name == RemoveDeadNodes.pass_name():
            self.fates = [self._fate(node, graph) for node in self._imported.values()]

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

    def table(self) -> Table:
        """One row an operator, in the model's order."""
        table = Table(title="operators", title_justify="left", header_style="bold")
        for heading in ("operator", "kind", "where", "why"):
            table.add_column(heading, overflow="fold")
        for fate in self.fates:
            table.add_row(fate.name, fate.operator, fate.side, fate.why)
        return table

"""Operators whose result for one sample depends on the other samples of a batch."""

from __future__ import annotations

from collections.abc import Iterable

from memcompile.frontend.importer import operator_types
from memcompile.ir.graph import DigitalNode, Node, OnnxNode
from memcompile.program.program import DigitalStage, Program

# They find one range for the numbers of all samples.
_DYNAMIC_RANGE = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}


def couples_samples(node: OnnxNode) -> bool:
    """Return True if an operator couples the samples of a batch on any axis; subgraphs included."""
    if node.op_type == "BatchNormalization" and node.attributes.get("training_mode", 0):
        return True
    return not _DYNAMIC_RANGE.isdisjoint(operator_types(node))


def any_couples_samples(nodes: Iterable[Node]) -> bool:
    """Return True if one of the operators among some nodes couples samples."""
    operators = (each for node in nodes for each in (node.nodes if isinstance(node, DigitalNode) else (node,)))
    return any(isinstance(node, OnnxNode) and couples_samples(node) for node in operators)


def program_couples_samples(program: Program) -> bool:
    """Return True if a sample's result depends on the batch, so that a program has to be run sample by sample."""
    return any(any_couples_samples(stage.operators[0]) for stage in program.stages if isinstance(stage, DigitalStage))

"""Operators that draw random numbers anew at each run, and the values that depend on them."""

from __future__ import annotations

from memcompile.frontend.importer import operator_types
from memcompile.ir.graph import DigitalNode, OnnxNode, read_values
from memcompile.timing.dataflow_steps import Flow
from memcompile.timing.operator_reads import Constants

RANDOM_OPERATORS = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
)
"""Operators whose results their inputs do not decide; Dropout only while it trains."""


def random_values(flow: Flow) -> dict[str, OnnxNode]:
    """Values between stages that depend on random numbers, with the first operator on the way that draws them."""
    found: dict[str, OnnxNode] = {}
    for stage in flow.stages:
        operators = stage.nodes if isinstance(stage, DigitalNode) else (stage,)
        for operator in operators:
            source = next((found[value] for value in read_values(operator) if value in found), None)
            if source is None and isinstance(operator, OnnxNode) and _draws(operator, flow.constants[stage.name]):
                source = operator
            if source is not None:
                found.update(dict.fromkeys((value for value in operator.outputs if value), source))
    return found


def _draws(operator: OnnxNode, constants: Constants) -> bool:
    types = operator_types(operator) & RANDOM_OPERATORS
    if operator.op_type != "Dropout":
        return bool(types)
    training = operator.inputs[2] if len(operator.inputs) > 2 else ""
    return bool(training) and bool(constants.get(training, True))

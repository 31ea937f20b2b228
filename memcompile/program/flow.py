"""The data flow of a compiled program: its digital models as operators again."""

from __future__ import annotations

from memcompile.ir.graph import DigitalNode, MappedLayer, Node
from memcompile.program.program import Program
from memcompile.timing.dataflow_steps import Flow
from memcompile.timing.operator_reads import Constants


def program_flow(program: Program) -> Flow:
    """The flow of a program.

    Raises
    ------
    ProgramError
        A digital model is damaged.
    """
    stages: list[Node] = []
    constants: dict[str, Constants] = {}
    for stage in program.stages:
        if isinstance(stage, MappedLayer):
            stages.append(stage)
            continue
        operators, own = stage.operators
        stages.append(DigitalNode(name=stage.name, inputs=stage.inputs, outputs=stage.outputs, nodes=operators))
        constants[stage.name] = own
    return Flow(tuple(stages), program.inputs, program.outputs, constants)

"""Print the efficiency of the reference chip in the paper's counting, and what a network gets of it.

    python benchmarks/efficiency.py

P. Yao et al., Nature 577, 641 (2020), count every cell of a core of 128 x 128 as a multiply-accumulate
operation in every step: 11,014 GOP/s/W and 1,164 GOP/s/mm2. All rows come from the cost of a compiled
program; the rows named full are matrices that fill one array.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import memcompile
from memcompile.hardware.target import Target, load_target
from memcompile.report.cost import Cost, Counting, program_cost

FIVE_LAYER_CNN = Path(__file__).parent.parent / "examples" / "five_layer_cnn.onnx"


def one_array(target: Target, input_lines: int) -> Target:
    """The target with one array a chip, of so many input lines."""
    array = target.array.model_copy(update={"input_lines": input_lines})
    return target.model_copy(update={"array": array, "chip": target.chip.model_copy(update={"arrays": 1})})


def full_array_cost(target: Target, slices: int = 1, inputs: NDArray[np.float32] | None = None) -> Cost:
    """The cost of a matrix whose weights fill the target's array, calibrated on inputs [samples, rows] if given."""
    rows, columns = target.array.driven_lines, target.array.output_lines // (target.array.lines_per_pair * slices)
    weights = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "matrix",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, columns])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "matrix.onnx"
        onnx.save(model, path)
        data = None
        if inputs is not None:
            data = Path(folder) / "inputs.npz"
            np.savez(data, x=inputs)
        return program_cost(memcompile.compile(path, target=target, data=data, slices=slices))


def row(name: str, cost: Cost) -> str:
    """One line of the table."""
    figures = [
        figure or 0.0
        for counting in (Counting.CELLS, Counting.WEIGHTS)
        for figure in (cost.gops_per_w(counting), cost.gops_per_mm2(counting))
    ]
    heat = (cost.cell_heat_pj or 0.0) / (cost.total_energy_pj or 1.0)
    return f"{name:36}" + "".join(f"{figure:>9,.0f} " for figure in figures) + f"{heat:>11.1%}"


def main() -> int:
    """Print the table."""
    target = load_target("yao2020")
    print(f"{'GOP/s':36}{'each cell counted':>19} {'each weight once':>19} {'cell heat':>11}")
    print(f"{'':36}" + f"{'per W':>9} {'per mm2':>9} " * 2 + f"{'of energy':>11}")
    print(row("core of 128 x 128, full", full_array_cost(one_array(target, 128))))
    print(row("array of 16 x 128, full", full_array_cost(one_array(target, target.array.input_lines))))
    print(row("five-layer CNN", program_cost(memcompile.compile(FIVE_LAYER_CNN))))
    plain = memcompile.compile(FIVE_LAYER_CNN, settings=("replicate.objective=arrays",))
    print(row("five-layer CNN, one copy, no windows", program_cost(plain)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Chips, interval and cells of networks whose layers use the same weights, with shared cells and with their own.

    python benchmarks/shared_cells.py [MODEL.onnx ...] [--target NAME] [--effort fast|normal|best]

Prints a row of a Markdown table a network: first small recurrent networks made here, whose weights are random, then
the models given. Each gets as many chips as it needs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import memcompile

WORDS = [f"{what}, {cells}" for what in ("chips", "interval", "cells") for cells in ("own", "shared")]
COLUMNS = ("network", *WORDS)
STEPS, INPUTS, HIDDEN, CLASSES = (16, 64, 256), 16, 32, 10
GATES = {"LSTM": 4, "GRU": 3}


def recurrent(kind: str, steps: int) -> onnx.ModelProto:
    """One recurrent operator whose last state is classified."""
    rng, gates = np.random.default_rng(steps), GATES[kind]
    weights: dict[str, np.ndarray[Any, Any]] = {
        "w": rng.normal(0, 0.3, (1, gates * HIDDEN, INPUTS)).astype(np.float32),
        "r": rng.normal(0, 0.15, (1, gates * HIDDEN, HIDDEN)).astype(np.float32),
        "v": rng.normal(0, 0.3, (HIDDEN, CLASSES)).astype(np.float32),
        "axis": np.array([0], np.int64),
    }
    nodes = [
        helper.make_node(kind, ["x", "w", "r"], ["", "last"], name="cell", hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["last", "axis"], ["state"], name="squeeze"),
        helper.make_node("MatMul", ["state", "v"], ["y"], name="readout"),
    ]
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (steps, "N", INPUTS))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", CLASSES))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def networks(models: Sequence[Path]) -> Iterator[tuple[str, onnx.ModelProto | Path]]:
    """Names and networks."""
    for kind in GATES:
        for steps in STEPS:
            yield f"{kind}, {steps} steps, {INPUTS} inputs, {HIDDEN} states", recurrent(kind, steps)
    for model in models:
        yield f"`{model.stem}`", model


def row(name: str, model: onnx.ModelProto | Path, target: str, effort: str) -> str:
    """One row of the table."""
    own, shared = (
        memcompile.compile(
            model,
            target,
            max_loss=None,
            settings=(f"replicate.share_cells={share}", f"replicate.effort={effort}"),
        )
        for share in ("false", "true")
    )
    figures = [
        (program.placement.chips, program.placement.initiation_interval_steps, program.cells_used)
        for program in (own, shared)
    ]
    return f"| {name} | " + " | ".join(f"{a:,} | {b:,}" for a, b in zip(*figures, strict=True)) + " |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*", metavar="MODEL.onnx")
    parser.add_argument("--target", default="yao2020", metavar="NAME")
    parser.add_argument("--effort", choices=["fast", "normal", "best"], default="normal")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name, model in networks(options.models):
        print(row(name, model, options.target, options.effort), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

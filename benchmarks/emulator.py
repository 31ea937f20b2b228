"""Speed of the emulator as ratios measured in one run: to sgemm, to onnxruntime, to a sparse solver.

    python benchmarks/emulator.py
    python benchmarks/emulator.py --resnet cifar_resnet20.onnx --data cifar10_test1k.npz --json FILE

W1 is a 512 x 512 weight matrix of 15 levels with 256 input vectors of 8 bits. W3 is a 128 x 128
array with 1 ohm per wire segment. W2 is a CIFAR ResNet-20 with noise and an ADC in every layer, each
layer whole in one array, all 8 bits of its inputs in one phase, and pairs subtracted before one signed
conversion, as aihwkit and CrossSim read it. A second row converts both lines of a pair and subtracts their
codes, as the reference chip does, which is twice the conversions.

Each ratio is the median over rounds by turns with the reference, with its quartiles; see `rounds.py`. Other emulators
are measured by `peers.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from emulators.cases import CASES, LEVELS, SIZE, MatrixCase, matrix_inputs
from numpy.typing import NDArray
from rounds import Comparison, compared, machine
from scipy.sparse import coo_array
from scipy.sparse.linalg import splu

from memcompile.hardware.target import Target, load_target, parse_target
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.ir.graph import Cut, MappedLayer, Placement, Replica, TensorType, TileTable
from memcompile.ir.quantizers import InputQuantizer
from memcompile.pipelines import compile_model
from memcompile.program.program import Program, Provenance
from memcompile.runtime.cells.devices import Devices
from memcompile.runtime.effects.wires import effective_conductances_us
from memcompile.runtime.emulator import Effects, Emulator

FIVE_LAYER = Path(__file__).parent.parent / "examples" / "five_layer_cnn.onnx"
CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

REACH = {"w1-plain": 1.3, "w1-tiles": 1.3, "w1-bits": 10.0, "w1-phase": 4.0}
"""Ratio of each case of W1 to sgemm that is to be reached."""
Row = dict[str, Any]


def row(name: str, found: Comparison, reference: str, reach: float | None = None) -> Row:
    """One line of the table."""
    return {
        "case": name,
        "time_ms": found.work_s * 1e3,
        "reference": reference,
        "reference_ms": found.reference_s * 1e3,
        "reach": reach,
        **found.facts(),
    }


def chip(bits_per_phase: int = 1, **arrays: int | str) -> Target:
    """The reference chip with other arrays, and with inputs of several bits a phase."""
    values = load_target("yao2020").model_dump()
    values["array"].update(arrays)
    values["input"]["bits_per_phase"] = bits_per_phase
    return parse_target(values, "benchmark")


def matrix_program(
    weights: NDArray[np.int64], target: Target, tile_rows: int, tile_columns: int | None = None
) -> Program:
    """One matrix-vector product per image, in tiles of so many rows and columns, all if None; one tile an array."""
    rows, columns = weights.shape
    cuts = (*range(0, columns, tile_columns or columns), columns)
    geometry = Geometry(rows, columns, layout="channels_last")
    edges = tuple(range(0, rows, tile_rows))
    replica = Replica(Unrolling.im2col(geometry), Cut((*edges, rows), cuts), np.zeros(1, np.int32))
    layer = MappedLayer(
        name="matrix",
        inputs=("x",),
        outputs=("y",),
        geometry=geometry,
        quantizer=InputQuantizer(1.0, target.input.bits, False, target.input.bits_per_phase),
        scale=np.ones(columns, np.float32),
        bias=np.zeros(columns, np.float32),
        base=target.slice_base(),
        cells=np.stack([np.maximum(weights, 0), np.maximum(-weights, 0)]).astype(np.uint8)[:, None, None],
        replicas=(replica,),
    )
    tiles = TileTable.of([layer])
    zero = np.zeros(len(tiles))
    tiles = tiles.with_columns(
        array=np.arange(len(tiles)), input_line=zero, output_line=zero, start=zero, rhythm=zero, slot=zero, lag=zero
    )
    return Program(
        target=target,
        inputs={"x": TensorType("float32", (None, 1, rows))},
        outputs=("y",),
        stages=(layer,),
        constants={},
        placement=Placement(1, tiles),
        provenance=Provenance("benchmark", "0" * 64, "benchmark", {}),
    )


def matrix_rows(repetitions: int) -> Iterator[Row]:
    """W1: one matrix-vector product of 512 x 512, 256 at a time."""
    weights, x = matrix_inputs()
    plain, vectors = weights.astype(np.float32), x[:, None]
    for name, reach in REACH.items():
        case = CASES[name]
        assert isinstance(case, MatrixCase)
        target = chip(case.bits_per_phase, input_lines=case.tile_rows, output_lines=2 * SIZE)
        emulator = Emulator(matrix_program(weights, target, case.tile_rows), effects=Effects(adc=case.adc))
        yield row(case.title, compared(partial(emulator.run, vectors), lambda: x @ plain, repetitions), "sgemm", reach)


def programming_rows(repetitions: int) -> Iterator[Row]:
    """Cells of a large layer, with programming error and stuck cells, next to as many of NumPy's normal numbers."""
    size = 4096
    for lines in (128, 256, 512):
        weights = np.random.default_rng(0).integers(-LEVELS, LEVELS + 1, (size, size))
        target = chip(8, input_lines=lines, output_lines=lines)
        emulator = Emulator(matrix_program(weights, target, lines, lines // 2), effects=Effects(read_noise=False))
        devices, workers = emulator.machine.devices, emulator.machine.workers
        arrays, generator = emulator.program.cell_map.arrays, np.random.Generator(np.random.Philox(0))
        cells = arrays * target.array.cells

        def program(begin: int, end: int, devices: Devices = devices) -> None:
            for number in range(begin, end):
                devices.array(number)

        found = compared(
            partial(workers.each_range, arrays, program),
            partial(generator.standard_normal, cells, np.float32),
            repetitions,
        )
        name = f"programming {cells / 1e6:.0f} million cells in arrays of {lines} x {lines}"
        yield {**row(name, found, "NumPy normals (Philox)", 0.5), "ns_a_cell": 1e9 * found.work_s / cells}


def network_rows(
    name: str, program: Program, x: NDArray[Any], model: Path, repetitions: int, reach: float | None = None
) -> Iterator[Row]:
    """All of a network, with every effect of its target, next to onnxruntime in float32."""
    session = onnxruntime.InferenceSession(os.fspath(model), providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x}
    emulator = Emulator(program)
    both = compared(lambda: emulator.run(x), lambda: session.run(None, feed), repetitions)
    found = row(name, both, "onnxruntime float32", reach)
    yield {**found, "images_per_s": 1e3 * len(x) / found["time_ms"]}


def wires_rows(repetitions: int) -> Iterator[Row]:
    """W3: voltage drop along lines."""
    size, segment_ohm = 128, 1.0
    rng = np.random.default_rng(0)
    cells_us = rng.uniform(2.0, 20.0, (size, size))
    system = nodal_system(cells_us, segment_ohm)
    setup = compared(
        lambda: effective_conductances_us(cells_us, segment_ohm, segment_ohm), lambda: splu(system), repetitions
    )
    seen = effective_conductances_us(cells_us, segment_ohm, segment_ohm)
    vector, batch = rng.uniform(0, 0.2, size), rng.uniform(0, 0.2, (256, size))
    yield row("W3, set-up of the effective matrix", setup, "scipy splu", 4.0)
    one = compared(lambda: vector @ seen, lambda: splu(system), repetitions)
    yield row("W3, one vector after set-up", one, "scipy splu", 1 / 150)
    yield row(
        "W3, batch of 256 after set-up",
        compared(lambda: batch @ seen, lambda: batch @ cells_us, repetitions),
        "no wires",
    )


def nodal_system(cells_us: NDArray[np.float64], segment_ohm: float) -> Any:
    """Kirchhoff's current law at both ends of every cell, sparse [2 cells, 2 cells], in siemens."""
    rows, lines = cells_us.shape
    upper = np.arange(rows * lines).reshape(rows, lines)
    lower = upper + rows * lines
    pairs = [
        (upper.ravel(), lower.ravel(), cells_us.ravel() * 1e-6),
        (upper[:, :-1].ravel(), upper[:, 1:].ravel(), np.full(rows * (lines - 1), 1 / segment_ohm)),
        (lower[:-1].ravel(), lower[1:].ravel(), np.full((rows - 1) * lines, 1 / segment_ohm)),
    ]
    ends = np.concatenate([upper[:, 0], lower[-1]])
    a, b, siemens = (np.concatenate(part) for part in zip(*pairs, strict=True))
    row_numbers = np.concatenate([a, b, a, b, ends])
    columns = np.concatenate([a, b, b, a, ends])
    values = np.concatenate([siemens, siemens, -siemens, -siemens, np.full(len(ends), 1 / segment_ohm)])
    return coo_array((values, (row_numbers, columns))).tocsc()


def all_rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Every row, as it is measured."""
    count = arguments.repetitions
    yield from matrix_rows(count)
    yield from programming_rows(count)
    compiled = compile_model(FIVE_LAYER)
    x = compiled.dataset.calibration["image"][np.arange(1000) % len(compiled.dataset.calibration["image"])]
    yield from network_rows("five-layer CNN on yao2020", compiled.program, x, FIVE_LAYER, count)
    if arguments.resnet:
        one_copy = ("replicate.objective=arrays", "replicate.parallel_windows=false")
        square = {"input_lines": 128, "output_lines": 128}
        cases: tuple[tuple[str, Target, tuple[str, ...], float | None], ...] = (
            ("on yao2020", chip(), (), None),
            ("on 128x128 arrays", chip(**square), (), None),
            ("on 128x128 arrays, 8 bits a phase", chip(8, **square), (), None),
            ("W2", chip(8, input_lines=1024, output_lines=512, pairs="crossings"), one_copy, 2.2),
            ("both lines of a pair converted", chip(8, input_lines=1024, output_lines=1024), one_copy, None),
        )
        for title, target, settings, reach in cases:
            compiled = compile_model(
                arguments.resnet, target, data=arguments.data, mean=CIFAR_MEAN, std=CIFAR_STD, settings=settings
            )
            x = compiled.dataset.calibration[next(iter(compiled.program.inputs))][:100]
            name = f"{arguments.resnet.stem} {title}" if reach is None else f"{title}, {arguments.resnet.stem}"
            yield from network_rows(name, compiled.program, x, arguments.resnet, count, reach)
    yield from wires_rows(count)


def show(found: Row) -> str:
    """One line for people."""
    if "note" in found:
        return f"{found['case']:<62} {found['note']}"
    line = f"{found['case']:<62} {found['time_ms']:10.3f} ms"
    if "ratio" in found:
        spread = f"{found['lower_quartile']:.3g} to {found['upper_quartile']:.3g}"
        line += f"  {found['ratio']:8.3g} x {found['reference']} ({spread})"
    if found.get("reach"):
        line += f" (reach {found['reach']:.3g})"
    if "ns_a_cell" in found:
        line += f"  {found['ns_a_cell']:.2f} ns a cell"
    if "images_per_s" in found:
        line += f"  {found['images_per_s']:.0f} images/s"
    return line


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resnet", type=Path, help="a CIFAR-10 ResNet as ONNX file")
    parser.add_argument("--data", type=Path, help="CIFAR-10 images for it")
    parser.add_argument("--repetitions", type=int, default=7, help="rounds; default: %(default)s")
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    arguments = parser.parse_args()
    rows = []
    for found in all_rows(arguments):
        rows.append(found)
        sys.stdout.write(show(found) + "\n")
        sys.stdout.flush()
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

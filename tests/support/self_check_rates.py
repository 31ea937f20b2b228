"""Counts false alarms and misses of the self-check over random networks, targets and faults.

    python tests/support/self_check_rates.py --count 3000               so many networks, and faults in each of them
    python tests/support/self_check_rates.py --count 1 --first 1234     one network

A network is made from its number alone: its operator, type, sizes, weights from subnormal to overflowing, data, target,
slices. A sound program must pass. Faults are put in one at a time. A fault counts where it exceeds rounding: a weight
moves away from the float weight, a bias by more than its rounding; where it changes nothing it does not count.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from factories import make_target
from models import make, node
from numpy.typing import NDArray
from onnx import TensorProto

from memcompile.data.loader import load_dataset
from memcompile.errors import DataError, MiscompileError, ModelError
from memcompile.frontend.importer import ModelFile, import_graph, read_model
from memcompile.hardware.target import Target, load_target
from memcompile.ir.graph import DigitalNode, Graph, MappedLayer, OnnxNode, UnrolledLayer
from memcompile.ir.pass_manager import PassContext, run_passes, with_options
from memcompile.ir.quantizers import ExactInput
from memcompile.pipelines import default_passes, emit_program
from memcompile.program.program import Program, Provenance
from memcompile.verify.interpreter import Interpreter, multiplies_bytes_exactly, run_layer
from memcompile.verify.network_check import check_network
from memcompile.verify.self_check import FloatNetwork, check_program

FLOATS = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}
TARGETS = ("ideal", "hermes", "neurram", "yao2020", "pimcomp", "vwsdk", "isaac")
SIZES = {"float16": (1e-7, 1e-3, 1.0, 1.0, 1.0, 300.0), "float32": (1e-43, 1e-20, 1e-3, 1.0, 1.0, 1.0, 1e4, 1e30)}
SETTINGS = ("replicate.objective=arrays", "replicate.effort=fast", "quantize_weights.candidates=8")
Array = NDArray[Any]


@dataclass
class Case:
    """A network, what it is compiled for, and its samples; None for made-up ones."""

    model: onnx.ModelProto
    target: Target
    slices: int
    data: Array | None
    text: str


def numbers(rng: np.random.Generator, shape: tuple[int, ...], size: float) -> Array:
    """Random weights of some size, from one of several distributions."""
    kind = rng.integers(5)
    values = rng.normal(0, 1, shape)
    if kind == 0:
        values *= rng.random(shape) < 0.3
    elif kind == 1:
        values = rng.integers(-7, 8, shape) / 7
    elif kind == 2:
        values = np.full(shape, rng.normal())
    elif kind == 3:
        values.reshape(-1)[0] *= 40
    return np.asarray(values * size)


def samples(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Samples [images, *shape]: noise, some inputs or all of them constant, spikes, tiny or large ones."""
    values = rng.normal(0, 1, (int(rng.integers(1, 24)), *shape))
    kind = rng.integers(7)
    if kind == 0:
        values[:] = rng.normal()
    elif kind == 1:
        values[..., :1] = 3.4
    elif kind == 2:
        values = np.abs(values)
    elif kind == 3:
        values *= rng.random(values.shape) < 0.02
    elif kind == 4:
        values *= 10.0 ** rng.integers(-4, 4)
    elif kind == 5:
        values[0] *= 50
    return np.asarray(values.astype(dtype))


def float_operator(rng: np.random.Generator, dtype: str) -> tuple[onnx.ModelProto, tuple[int, ...], str]:
    """A network of one linear operator, at times with a batch normalisation or a second one behind it."""
    size = float(rng.choice(SIZES.get(dtype, SIZES["float32"])))
    rows, columns = (int(n) for n in rng.integers(1, (80, 20)))
    kind = rng.choice(["MatMul", "Gemm", "Conv", "ConvBn", "Depthwise", "ConvTranspose", "Chain", "LSTM"])
    weights: dict[str, Array] = {"w": numbers(rng, (rows, columns), size), "b": numbers(rng, (columns,), size)}
    shape: tuple[int, ...] = (rows,)
    nodes = [node("MatMul", "x w", "y")]
    if kind == "Gemm":
        nodes = [node("Gemm", "x w b", "y", alpha=float(rng.choice([1.0, -0.7])), beta=float(rng.choice([1.0, 0.3])))]
    elif kind == "Chain":
        weights["v"] = numbers(rng, (columns, 5), 1.0)
        nodes = [
            node("MatMul", "x w", "p"),
            node("Add", "p b", "q"),
            node("Relu", "q", "r"),
            node("MatMul", "r v", "y"),
        ]
    elif kind == "LSTM" and dtype == "float32":
        size, shape = min(size, 1.0), (3, 4)
        weights = {"w": numbers(rng, (1, 20, 4), size), "r": numbers(rng, (1, 20, 5), size)}
        nodes = [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            node("LSTM", "t w r", "s", hidden_size=5),
            node("Transpose", "s", "y", perm=[2, 1, 0, 3]),
        ]
    elif kind in ("Conv", "ConvBn", "Depthwise", "ConvTranspose"):
        groups = channels = int(rng.integers(1, 7))
        groups = channels if kind == "Depthwise" else 1
        out = channels * int(rng.integers(1, 3)) if kind == "Depthwise" else int(rng.integers(1, 9))
        kernel = (channels, out, 3, 3) if kind == "ConvTranspose" else (out, channels // groups, 3, 3)
        weights = {"w": numbers(rng, kernel, size), "b": numbers(rng, (out,), size)}
        shape = (channels, 6, 6)
        pads = [int(rng.integers(0, 2))] * 4
        operator = "ConvTranspose" if kind == "ConvTranspose" else "Conv"
        nodes = [node(operator, "x w b", "y", group=groups, pads=pads)]
        if kind == "ConvBn":
            moments = {"g": rng.normal(1, 1, out), "o": rng.normal(0, 3, out), "m": rng.normal(0, 30, out)}
            weights |= {**moments, "s": rng.uniform(0.01, 9, out)}
            nodes = [
                node("Conv", "x w b", "c", pads=pads),
                node("BatchNormalization", "c g o m s", "n"),
                node("Relu", "n", "y"),
            ]
    weights = {name: np.asarray(value).astype(dtype) for name, value in weights.items()}
    model = make(nodes, {"x": (FLOATS[dtype], ("N", *shape))}, {"y": (FLOATS[dtype], None)}, weights)
    return model, shape, f"{kind} of {dtype}, weights about {size:g}"


def byte_operator(rng: np.random.Generator) -> tuple[onnx.ModelProto, tuple[int, ...], str]:
    """A network with an operator on bytes, or with a float one between DequantizeLinear, on quantised floats."""
    rows, columns = (int(n) for n in rng.integers(1, (80, 20)))
    kind = rng.choice(["MatMulInteger", "QLinearMatMul", "QDQ", "QDQ chain"])
    data_kind = rng.choice([np.uint8, np.int8])
    weights: dict[str, Array] = {
        "xs": np.array(rng.uniform(0.005, 0.05), np.float32),
        "xz": np.array(rng.integers(0, 128), data_kind),
        "w": rng.integers(-128, 128, (rows, columns)).astype(np.int8),
        "ws": np.array(rng.uniform(0.001, 0.02), np.float32),
        "wz": np.array(rng.integers(-3, 4), np.int8),
        "ys": np.array(rng.uniform(0.02, 0.3), np.float32),
        "yz": np.array(rng.integers(0, 100), data_kind),
        "b": rng.normal(0, 1, columns).astype(np.float32),
    }
    nodes = [node("QuantizeLinear", "x xs xz", "q")]
    if kind == "MatMulInteger":
        nodes += [node("MatMulInteger", "q w xz wz", "s"), node("Cast", "s", "y", to=TensorProto.FLOAT)]
    elif kind == "QLinearMatMul":
        nodes += [node("QLinearMatMul", "q xs xz w ws wz ys yz", "s"), node("DequantizeLinear", "s ys yz", "y")]
    else:
        nodes += [
            node("DequantizeLinear", "q xs xz", "d"),
            node("DequantizeLinear", "w ws wz", "f"),
            node("Gemm", "d f b", "y" if kind == "QDQ" else "g"),
        ]
    if kind == "QDQ chain":
        weights["v"] = rng.integers(-128, 128, (columns, 7)).astype(np.int8)
        nodes += [
            node("QuantizeLinear", "g ys yz", "h"),
            node("DequantizeLinear", "h ys yz", "e"),
            node("DequantizeLinear", "v ws wz", "u"),
            node("MatMul", "e u", "y"),
        ]
    model = make(nodes, {"x": (TensorProto.FLOAT, ("N", rows))}, {"y": (TensorProto.FLOAT, None)}, weights)
    return model, (rows,), f"{kind} of {np.dtype(data_kind).name}"


def case(number: int) -> Case:
    """The network of a number."""
    rng = np.random.default_rng(number)
    dtype = str(rng.choice([*FLOATS, "float16", "bytes"]))
    model, shape, text = byte_operator(rng) if dtype == "bytes" else float_operator(rng, dtype)
    name = str(rng.choice([*TARGETS, "custom"]))
    target = load_target(name) if name != "custom" else custom_target(rng)
    slices = 1 if target.cell.continuous else int(rng.integers(1, 5))
    data = None if rng.random() < 0.4 else samples(rng, shape, "float32" if dtype == "bytes" else dtype)
    return Case(model, target, slices, data, f"{number}: {text}, on {name}, {slices} slices, data {data is not None}")


def custom_target(rng: np.random.Generator) -> Target:
    """The reference chip with any number of levels and input bits."""
    return make_target(
        cell={"levels": int(rng.choice([2, 3, 16, 128]))},
        input={"bits": int(rng.integers(2, 9)), "bits_per_phase": 1},
    )


@dataclass
class Compiled:
    """A program, and what it is checked against."""

    program: Program
    network: FloatNetwork
    float_graph: Graph
    imported: Graph
    file: ModelFile
    sample: Mapping[str, Array]
    compensated: bool

    def check(self, program: Program) -> None:
        """Check a program that was made of the same network."""
        check_program(program, self.network, compensated=self.compensated)


class Keep:
    """Instrument that keeps the graph before the first pass, and the last one with float layers only."""

    def after_pass(self, number: int, name: str, graph: Graph, context: PassContext) -> None:
        if number == 0:
            self.imported = graph
        if name == "unroll_convolutions":
            self.float_graph = graph


def compiled(item: Case, folder: Path) -> Compiled:
    """Compile a case and check its program."""
    onnx.save(item.model, folder / "m.onnx")
    data = None
    if item.data is not None:
        data = folder / "x.npz"
        np.savez(data, x=item.data)
    file = read_model(folder / "m.onnx")
    dataset = load_dataset(data, file.inputs, seed=0)
    sample = {name: array[:1] for name, array in dataset.calibration.items()}
    graph = import_graph(file, sample)
    context = PassContext(item.target, dataset.calibration, representative=not dataset.generated, slices=item.slices)
    network, keep = FloatNetwork(file, sample), Keep()
    graph = run_passes(graph, with_options(default_passes(), SETTINGS), context, (keep, network))
    program = emit_program(graph, context, Provenance("m", "0" * 64, "test", {}))
    made = Compiled(program, network, keep.float_graph, keep.imported, file, sample, context.representative)
    made.check(program)
    return made


# --- faults --------------------------------------------------------------------------------------

Fault = Callable[[np.random.Generator, Any, UnrolledLayer], Any]


def step_of(layer: MappedLayer) -> Array:
    """Step of each weight, [groups, 1, columns]."""
    return np.asarray((layer.scale.astype(np.float64) / layer.quantizer.scale).reshape(len(layer.cells[0, 0]), 1, -1))


def with_digits(layer: MappedLayer, weights: Array) -> MappedLayer:
    """The layer with other integer weights, in the digits of its slices; shares are their only digit."""
    if weights.dtype.kind == "f":
        return replace(layer, cells=np.stack([np.maximum(weights, 0), np.maximum(-weights, 0)])[:, None])
    rest, half, digits = weights.astype(np.int64), layer.base // 2, []
    for _ in range(layer.slices - 1):
        digits.append((rest + half) % layer.base - half)
        rest = (rest - digits[-1]) // layer.base
    stacked = np.stack([*digits, rest])
    return replace(layer, cells=np.stack([np.maximum(stacked, 0), np.maximum(-stacked, 0)]).astype(np.uint8))


def weight_off(rng: np.random.Generator, layer: MappedLayer, of: UnrolledLayer) -> MappedLayer | None:
    """One weight a level further away from the float weight; a share by four of its last places."""
    weights = layer.integer_matrix().copy()
    place = tuple(int(rng.integers(size)) for size in weights.shape)
    if weights.dtype.kind == "f":
        weights[place] += 4 * np.spacing(weights[place])
    else:
        error = weights[place] - of.matrix[place] / step_of(layer)[place[0], 0, place[2]]
        step = step_of(layer)[place[0], 0, place[2]]
        least = float(np.finfo(np.float32).smallest_subnormal) / layer.quantizer.scale
        if abs(error) > 1 or (abs(weights[place]) + 2) * (float(np.finfo(np.float32).eps) * step + least) > step / 4:
            return None  # clipped, or less than a float32 scale is rounded by
        weights[place] += 1 if error >= 0 else -1
    return with_digits(layer, weights)


def bias_off(rng: np.random.Generator, layer: MappedLayer, of: UnrolledLayer) -> MappedLayer | None:
    """One bias beyond what rounding of the channel's weights explains."""
    bias = layer.bias.copy()
    channel = int(rng.integers(len(bias)))
    error = np.abs(layer.integer_matrix() * step_of(layer) - of.matrix).sum(axis=1).reshape(-1)[channel]
    exact = isinstance(layer.quantizer, ExactInput)
    largest = 0.0 if exact else -layer.quantizer.lowest * layer.quantizer.scale
    largest = max(largest, 0.0 if exact else layer.quantizer.highest * layer.quantizer.scale)
    bias[channel] += np.float32(2.1 * error * largest) + 16 * np.spacing(np.abs(bias[channel]) + np.float32(1e-30))
    return replace(layer, bias=bias)


def channels_swapped(rng: np.random.Generator, layer: MappedLayer, of: UnrolledLayer) -> MappedLayer | None:
    """Weights of two output channels exchanged."""
    columns = layer.cells.shape[-1]
    if columns < 2:
        return None
    order = np.arange(columns)
    one, other = rng.choice(columns, 2, replace=False)
    order[[one, other]] = order[[other, one]]
    changed = replace(layer, cells=layer.cells[..., order])
    error = np.abs(changed.integer_matrix() * step_of(layer) - of.matrix)
    return changed if (error > 1.5 * step_of(layer)).any() else None


def rows_missing(rng: np.random.Generator, layer: MappedLayer, of: UnrolledLayer) -> MappedLayer | None:
    """The rows of a tile without weights."""
    cut = layer.replicas[0].cut.rows
    tile = int(rng.integers(len(cut) - 1))
    cells = layer.cells.copy()
    cells[..., cut[tile] : cut[tile + 1], :] = 0
    return replace(layer, cells=cells) if (cells != layer.cells).any() else None


def scale_off(rng: np.random.Generator, layer: MappedLayer, of: UnrolledLayer) -> MappedLayer | None:
    """One channel's scale a fifth too large, where it has a weight of several levels."""
    scale = layer.scale.copy()
    channel = int(rng.integers(len(scale)))
    scale[channel] *= np.float32(1.2)
    reach = np.abs(layer.integer_matrix()).max(axis=1).reshape(-1)[channel]
    enough = 0 if layer.integer_matrix().dtype.kind == "f" else 10
    return replace(layer, scale=scale) if reach > enough and scale[channel] != layer.scale[channel] else None


def polarities_swapped(rng: np.random.Generator, layer: MappedLayer, of: UnrolledLayer) -> MappedLayer | None:
    """Positive cells for negative ones."""
    return replace(layer, cells=layer.cells[::-1]) if (layer.cells[0] > 1).any() or (layer.cells[1] > 1).any() else None


PROGRAM_FAULTS: Mapping[str, Fault] = {
    "weight off by a level": weight_off,
    "bias off": bias_off,
    "channels swapped": channels_swapped,
    "row tile missing": rows_missing,
    "scale off": scale_off,
    "polarities swapped": polarities_swapped,
}


def float_weight_off(rng: np.random.Generator, layer: UnrolledLayer, of: UnrolledLayer) -> UnrolledLayer | None:
    """One weight off by a fifth of the channel's largest."""
    matrix = layer.matrix.copy()
    place = tuple(int(rng.integers(size)) for size in matrix.shape)
    step = np.abs(matrix[place[0], :, place[2]]).max() / 5
    matrix[place] += 1 if layer.integer else step
    return replace(layer, matrix=matrix) if (matrix != layer.matrix).any() else None


def float_channels_swapped(rng: np.random.Generator, layer: UnrolledLayer, of: UnrolledLayer) -> UnrolledLayer | None:
    """Two output channels exchanged."""
    columns = layer.matrix.shape[-1]
    if columns < 2:
        return None
    order = np.arange(columns)
    order[[0, 1]] = order[[1, 0]]
    swapped = layer.matrix[..., order]
    return replace(layer, matrix=swapped) if (swapped != layer.matrix).any() else None


def float_rows_missing(rng: np.random.Generator, layer: UnrolledLayer, of: UnrolledLayer) -> UnrolledLayer | None:
    """The first rows without weights."""
    matrix = layer.matrix.copy()
    matrix[:, : max(1, matrix.shape[1] // 4)] = 0
    return replace(layer, matrix=matrix) if (matrix != layer.matrix).any() else None


def float_bias_off(rng: np.random.Generator, layer: UnrolledLayer, of: UnrolledLayer) -> UnrolledLayer | None:
    """All biases off by a fifth of the largest weight."""
    step = np.float32(1.0 if layer.integer else np.abs(layer.matrix).max() / 5)
    return replace(layer, bias=layer.bias + step) if step else None


NETWORK_FAULTS: Mapping[str, Fault] = {
    "float weight off": float_weight_off,
    "float bias off": float_bias_off,
    "float channels swapped": float_channels_swapped,
    "float rows missing": float_rows_missing,
}


def exceeds_rounding(made: Compiled, of: UnrolledLayer, changed: UnrolledLayer) -> bool:
    """Return True if some output of a layer changes by more than twice the rounding of a sum and its stored result."""
    kinds = {node.op_type: node for node in operators(made.imported)}
    if "LSTM" in kinds:
        return False  # not one sum
    x = Interpreter(made.float_graph).run(made.sample, of.inputs)[of.inputs[0]]
    if of.integer and x.dtype == np.uint8 and "Gemm" not in kinds and not multiplies_bytes_exactly():
        return False  # onnxruntime itself errs by more
    kind = np.finfo(np.float32 if of.integer else of.dtype)
    sizes = replace(of, matrix=np.abs(of.matrix), bias=np.abs(of.bias), dtype="float64", integer=False)
    read = np.full(x.shape, 255, np.float32) if of.integer else np.abs(x)  # bytes, less any zero point
    size = run_layer(sizes if of.bias_size is None else replace(sizes, bias=of.bias_size), read)
    single = np.finfo(np.float32)
    unit = max(float(kind.eps), float(single.eps)) / 2
    rounding = (of.geometry.group_rows * float(single.eps) + 16 * unit) * size + max(
        float(kind.tiny), float(single.tiny)
    )
    if of.integer:
        rounding = rounding + 1  # a whole step
    if "QLinearMatMul" in kinds:  # a step of the output
        scales = {name: float(made.imported.constants[name]) for name in ("xs", "ws", "ys")}
        rounding = rounding + scales["ys"] / (scales["xs"] * scales["ws"])
    one, other = (run_layer(replace(layer, dtype="float64"), x) for layer in (of, changed))
    largest = float(kind.max) / 2
    return bool(((np.abs(one - other) > 2 * rounding) & (np.abs(one) < largest) & (np.abs(other) < largest)).any())


def operators(graph: Graph) -> list[OnnxNode]:
    """All digital operators."""
    groups = (node.nodes if isinstance(node, DigitalNode) else (node,) for node in graph.nodes)
    return [node for group in groups for node in group if isinstance(node, OnnxNode)]


def faulty(made: Compiled, rng: np.random.Generator) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Checks of the case with one fault each."""
    float_layers = [item for item in made.float_graph.nodes if isinstance(item, UnrolledLayer)]
    if not float_layers:
        return
    of = float_layers[int(rng.integers(len(float_layers)))]
    mapped = next(layer for layer in made.program.layers if layer.name == of.name)
    for name, fault in PROGRAM_FAULTS.items():
        changed = fault(rng, mapped, of)
        if changed is not None:
            stages = tuple(changed if stage.name == of.name else stage for stage in made.program.stages)
            yield name, lambda stages=stages: made.check(replace(made.program, stages=stages))
    for name, fault in NETWORK_FAULTS.items():
        changed = fault(rng, of, of)
        if changed is not None and exceeds_rounding(made, of, changed):
            graph = made.float_graph.map_nodes({of.name: changed})
            yield name, lambda graph=graph: check_network(graph, made.imported, made.file, made.sample)


@dataclass
class Rates:
    """Counts of a run."""

    sound: int = 0
    refused: int = 0
    alarms: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)

    def add(self, number: int, folder: Path) -> None:
        """Count one case."""
        item = case(number)
        try:
            made = compiled(item, folder)
        except (ModelError, DataError):
            self.refused += 1  # weights, inputs or their products beyond the type
            return
        except MiscompileError as error:
            self.alarms.append(f"{item.text}: {error}")
            return
        self.sound += 1
        for name, check in faulty(made, np.random.default_rng(number)):
            self.faults[name] += 1
            try:
                check()
                self.missed.append(f"{name}: {item.text}")
            except MiscompileError:
                self.found[name] += 1

    def text(self) -> str:
        """The table."""
        lines = [f"false alarms: {len(self.alarms)} of {self.sound + len(self.alarms)} ({self.refused} refused)"]
        lines += [f"{name}: found {self.found[name]} of {count}" for name, count in sorted(self.faults.items())]
        return "\n".join(lines)


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--misses", action="store_true", help="list what was not found")
    arguments = parser.parse_args()
    warnings.simplefilter("error")
    rates = Rates()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.first, arguments.first + arguments.count):
            rates.add(number, Path(folder))
    print("\n".join([*rates.alarms, *(rates.missed if arguments.misses else []), rates.text()]))


if __name__ == "__main__":
    main()

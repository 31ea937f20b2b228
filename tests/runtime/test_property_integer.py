"""Any small convolution, compiled end to end for any small chip, is exact integer arithmetic."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from models import float_model, node
from numpy.typing import NDArray

import memcompile
from memcompile.ir.graph import MappedLayer
from memcompile.program.program import Program

pytestmark = pytest.mark.usefixtures("few_exchanges")

TARGET = """
name = "random"
title = "a small chip for tests"
[array]
input_lines = {input_lines}
output_lines = {output_lines}
pairs = "{pairs}"
rows_at_once = {rows_at_once}
columns_at_once = {columns_at_once}
[chip]
arrays = {arrays}
[cell]
levels = {levels}
g_min_us = 1.0
g_max_us = 15.0
[input]
bits = {bits}
bits_per_phase = {bits_per_phase}
read_voltage_v = 0.1
phase_ns = 10.0
[adc]
bits = 8
lines_per_converter = {lines_per_converter}
conversions_per_phase = {conversions_per_phase}
[programming]
sigma_us = 0.5
[faults]
stuck_low_share = 0.0
stuck_high_share = 0.0
[read_noise]
sigma_us = 0.1
[sources]
"""


@dataclass(frozen=True)
class Case:
    """One convolution (or dense layer), its data and its chip."""

    model: onnx.ModelProto
    weight: NDArray[np.float32]
    x: NDArray[np.float32]
    attributes: dict[str, Any]
    target: str
    slices: int


@st.composite
def targets(draw: st.DrawFn, slices: int) -> str:
    bits = draw(st.integers(2, 8))
    pairs = draw(st.sampled_from(["output_lines", "crossings"]))
    per_pair = 2 if pairs == "output_lines" else 1
    rows, columns = draw(st.integers(2, 24)), max(2, per_pair * draw(st.integers(slices, 16)))
    return TARGET.format(
        pairs=pairs,
        input_lines=rows,
        output_lines=columns,
        rows_at_once=draw(st.sampled_from([rows, rows, 1, -(-rows // 3)])),
        columns_at_once=draw(st.sampled_from([columns, columns, -(-columns // 2), 1])),
        lines_per_converter=draw(st.sampled_from([1, 1, min(3, columns), columns])),
        conversions_per_phase=draw(st.sampled_from([1, 1, 2])),
        arrays=draw(st.integers(1, 6)),
        levels=draw(st.integers(2, 9)),
        bits=bits,
        bits_per_phase=draw(st.integers(1, bits)),
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rank = draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))

    def axes(low: int, high: int, count: int = rank) -> list[int]:
        return [draw(st.integers(low, high)) for _ in range(count)]

    attributes = {
        "group": groups,
        "strides": axes(1, 3),
        "dilations": axes(1, 2),
        "pads": axes(0, 2, 2 * rank),
    }
    kernel, size = axes(1, 3), axes(2, 6)
    ends = zip(attributes["pads"][:rank], attributes["pads"][rank:], strict=True)
    room = [length + begin + end for length, (begin, end) in zip(size, ends, strict=True)]
    reach = [gap * (taps - 1) + 1 for gap, taps in zip(attributes["dilations"], kernel, strict=True)]
    assume(all(have >= need for have, need in zip(room, reach, strict=True)))
    slices = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weight = rng.normal(size=(outputs, inputs // groups, *kernel)).astype(np.float32)
    bias = rng.normal(size=outputs).astype(np.float32)
    model = float_model([node("Conv", "x w b", "y", **attributes)], ("N", inputs, *size), {"w": weight, "b": bias})
    x = rng.normal(size=(draw(st.integers(1, 3)), inputs, *size)).astype(np.float32)
    x = x if draw(st.booleans()) else np.abs(x)
    return Case(model, weight, x, attributes, draw(targets(slices)), slices)


def compile_case(
    model: onnx.ModelProto, x: NDArray[Any], target: str, slices: int, options: tuple[str, ...] = ()
) -> Program:
    """Through files, as a user would; ``options`` are those of ``--set``."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "target.toml").write_text(target)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        np.savez(folder / "data.npz", x=x)
        return memcompile.compile(
            folder / "model.onnx",
            str(folder / "target.toml"),
            data=folder / "data.npz",
            slices=slices,
            settings=options,
        )


def quantise(layer: MappedLayer, x: NDArray[np.float32]) -> NDArray[np.int64]:
    """The integers that the input lines get, by the definition in the documentation."""
    quantizer = layer.quantizer
    levels = 2**quantizer.bits
    low = -levels // 2 if quantizer.signed else 0
    return np.clip(np.rint(x / np.float32(quantizer.scale)), low, low + levels - 1).astype(np.int64)


def integer_convolution(
    x: NDArray[np.int64], kernels: NDArray[np.int64], attributes: dict[str, Any]
) -> NDArray[np.int64]:
    """Convolution by its definition, one product after the other: ``kernels`` [out, in / groups, *kernel]."""
    rank = x.ndim - 2
    pads, strides, dilations = (attributes[key] for key in ("pads", "strides", "dilations"))
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    sizes = [
        (padded.shape[2 + axis] - dilations[axis] * (kernels.shape[2 + axis] - 1) - 1) // strides[axis] + 1
        for axis in range(rank)
    ]
    outputs, channels = kernels.shape[:2]
    per_group = outputs // attributes["group"]
    y = np.zeros((len(x), outputs, *sizes), np.int64)
    for out, channel in itertools.product(range(outputs), range(channels)):
        source = out // per_group * channels + channel
        for place in np.ndindex(*sizes):
            for tap in np.ndindex(*kernels.shape[2:]):
                at = tuple(p * s + t * d for p, s, t, d in zip(place, strides, tap, dilations, strict=True))
                y[(slice(None), out, *place)] += padded[(slice(None), source, *at)] * kernels[(out, channel, *tap)]
    return y


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases())
def test_any_convolution_is_exact_integer_arithmetic(case: Case) -> None:
    program = compile_case(case.model, case.x, case.target, case.slices)
    (layer,) = program.layers
    event(f"{layer.slices} slices, signed {layer.quantizer.signed}")
    assert layer.quantizer.signed == bool((case.x < 0).any())
    # [groups, rows, columns] to [out, in / groups, *kernel]
    levels = layer.integer_matrix().astype(np.int64).transpose(0, 2, 1).reshape(case.weight.shape)
    sums = integer_convolution(quantise(layer, case.x), levels, case.attributes)
    shape = (-1, *(1,) * (case.x.ndim - 2))
    scale, bias = (part.astype(np.float64).reshape(shape) for part in (layer.scale, layer.bias))
    want = (sums * scale + bias).astype(np.float32)
    for executor in ("fast", "literal"):
        got = memcompile.Emulator.ideal(program, executor).run({"x": case.x})["y"]
        assert got.dtype == want.dtype
        assert np.array_equal(got, want), executor


@settings(max_examples=30, deadline=None, derandomize=True)
@given(cases(), st.booleans())
def test_levels_stand_for_the_weights(case: Case, compensate: bool) -> None:
    """Weights within the range are off by half a step at most, by less than one where errors shall cancel.

    Clipped ones are at the end of the range.
    """
    options = (f"quantize_weights.compensate={str(compensate).lower()}",)
    program = compile_case(case.model, case.x, case.target, case.slices, options)
    (layer,) = program.layers
    limit = ((2 * program.target.cell.levels - 1) ** case.slices - 1) // 2
    levels = layer.integer_matrix().transpose(0, 2, 1).reshape(case.weight.shape)
    step = (layer.scale / np.float32(layer.quantizer.scale)).reshape(-1, *(1,) * (case.weight.ndim - 1))
    assert np.abs(levels).max() <= limit
    inside = np.abs(case.weight) <= step * (limit + 0.5)
    most = (1.0001 if compensate else 0.5001) * np.broadcast_to(step, levels.shape)
    assert (np.abs(levels * step - case.weight)[inside] <= most[inside]).all()
    assert (np.abs(levels)[~inside] == limit).all()


@st.composite
def dense_layers(draw: st.DrawFn) -> tuple[onnx.ModelProto, NDArray[np.float32], NDArray[np.float32], str, int]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(1, 12))
    vectors = draw(st.sampled_from([(), (3,), (2, 2)]))
    slices = draw(st.integers(1, 3))
    weight = rng.normal(size=(rows, columns)).astype(np.float32)
    model = float_model([node("MatMul", "x w", "y")], ("N", *vectors, rows), {"w": weight})
    x = rng.normal(size=(2, *vectors, rows)).astype(np.float32)
    return model, weight, x, draw(targets(slices)), slices


@settings(max_examples=30, deadline=None, derandomize=True)
@given(dense_layers())
def test_any_dense_layer_is_exact_integer_arithmetic(
    case: tuple[onnx.ModelProto, NDArray[np.float32], NDArray[np.float32], str, int],
) -> None:
    model, _, x, target, slices = case
    program = compile_case(model, x, target, slices)
    (layer,) = program.layers
    sums = quantise(layer, x) @ layer.integer_matrix()[0].astype(np.int64)
    want = (sums * layer.scale.astype(np.float64) + layer.bias.astype(np.float64)).astype(np.float32)
    for executor in ("fast", "literal"):
        assert np.array_equal(memcompile.Emulator.ideal(program, executor).run({"x": x})["y"], want), executor

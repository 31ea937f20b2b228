"""Exported models under other session options, and what ``onnx.checker`` says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from memcompile.export.chip_model import chip_model
from memcompile.export.onnx_builder import ModelBuilder
from memcompile.ir.graph import TensorType
from memcompile.pipelines import compile_model
from memcompile.runtime.emulator import Effects, Emulator

LEVELS = (
    onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
)


def product_before_a_convolution() -> onnx.ModelProto:
    """A product of two values, whose result a layer divides by its input step: onnxruntime fuses scalars with it."""
    rng = np.random.default_rng(20)
    weights = {"w": models.dyadic(rng, (2, 2, 3, 3)), "v": models.dyadic(rng, (3, 2, 3, 3))}
    nodes = [
        models.node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        models.node("MatMul", "c x", "p"),
        models.node("Conv", "p v", "y"),
    ]
    return models.float_model(nodes, ("N", 2, 6, 6), weights)


def gelu(kind: int = onnx.TensorProto.FLOAT) -> onnx.ModelProto:
    """A layer, and GELU written out, which onnxruntime replaces by an operator of its own from EXTENDED on."""
    dtype = np.float16 if kind == onnx.TensorProto.FLOAT16 else np.float32
    rng = np.random.default_rng(21)
    weights = {"w": models.dyadic(rng, (12, 8)).T, "root": 2**0.5, "one": 1.0, "half": 0.5}
    nodes = [
        models.node("MatMul", "x w", "h"),
        models.node("Div", "h root", "d"),
        models.node("Erf", "d", "e"),
        models.node("Add", "e one", "s"),
        models.node("Mul", "h s", "m"),
        models.node("Mul", "m half", "y"),
    ]
    return models.float_model(
        nodes, ("N", 8), {key: np.asarray(value, dtype) for key, value in weights.items()}, kind=kind
    )


def outputs_at(data: bytes, feeds: dict[str, Any], level: Any, optimised: Path | None = None) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return list(onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feeds))


@pytest.mark.parametrize("target", ["yao2020", "hermes", "neurram"])
@pytest.mark.parametrize("name", ["conv_bn", "skip_connection", "grouped_conv", "product"])
def test_bits_are_the_same_at_every_level_of_optimisation(name: str, target: str, tmp_path: Path) -> None:
    build, shape = {**models.SMALL, "product": (product_before_a_convolution, (2, 6, 6))}[name]
    (tmp_path / "m.onnx").write_bytes(build().SerializeToString())
    feeds = {"x": np.random.default_rng(22).standard_normal((60, *shape)).astype(np.float32)}
    np.savez(tmp_path / "x.npz", **feeds)
    settings = ("replicate.effort=fast",)
    program = compile_model(tmp_path / "m.onnx", target, data=tmp_path / "x.npz", settings=settings).program
    still = Emulator(program, 1, effects=replace(Effects(), read_noise=False))
    want, data = still.run(feeds)["y"], chip_model(program, 1)
    for level in LEVELS:
        (got,) = outputs_at(data, feeds, level, tmp_path / "optimised.onnx")
        assert np.array_equal(got, want), level
        kinds = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
        assert "FusedMatMul" not in kinds, level


@pytest.mark.parametrize("kind", [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16])
def test_digital_operators_need_the_default_options(kind: int, tmp_path: Path) -> None:
    """Claim of docs/export.md: lower levels leave operators alone that the emulator's sessions replace."""
    (tmp_path / "m.onnx").write_bytes(gelu(kind).SerializeToString())
    x = np.random.default_rng(23).standard_normal((3000, 8))
    feeds = {"x": x.astype(np.float16 if kind == onnx.TensorProto.FLOAT16 else np.float32)}
    np.savez(tmp_path / "x.npz", x=feeds["x"][:50])
    program = compile_model(tmp_path / "m.onnx", data=tmp_path / "x.npz", settings=("replicate.effort=fast",)).program
    emulator = Emulator(program, 1, effects=replace(Effects(), read_noise=False))
    values, data = emulator.run(feeds, also=["h"]), chip_model(program, 1)
    with_layer = onnx.load_from_string(data)
    with_layer.graph.output.append(onnx.ValueInfoProto(name="h"))
    for level in LEVELS:
        _, layer = outputs_at(with_layer.SerializeToString(), feeds, level)
        assert np.array_equal(layer, values["h"]), level
    (default,) = outputs_at(data, feeds, LEVELS[-1])
    assert np.array_equal(default, values["y"])
    (plain,) = outputs_at(data, feeds, LEVELS[0])
    assert np.abs(plain.astype(float) - values["y"]).max() <= 1e-3 * np.abs(values["y"]).max()


@pytest.mark.parametrize("target", ["ideal", "yao2020", "hermes"])
@pytest.mark.parametrize("operator", ["Sigmoid", "Tanh", "Softplus"])
@pytest.mark.parametrize("layer", ["Conv", "MatMul"])
def test_halves_are_rounded_before_a_layer_reads_them(layer: str, operator: str, target: str, tmp_path: Path) -> None:
    """onnxruntime computes these operators in float32, and takes casts there and back for nothing."""
    rng = np.random.default_rng(24)
    shapes = [(6, 4, 3, 3), (3, 6, 1, 1)] if layer == "Conv" else [(6, 6), (6, 3)]
    weights = {name: rng.standard_normal(shape).astype(np.float16) for name, shape in zip("wv", shapes, strict=True)}
    nodes = [models.node(layer, "x w", "c"), models.node(operator, "c", "s"), models.node(layer, "s v", "y")]
    network = models.float_model(nodes, ("N", 4, 6, 6), weights, kind=onnx.TensorProto.FLOAT16)
    (tmp_path / "m.onnx").write_bytes(network.SerializeToString())
    feeds = {"x": rng.standard_normal((20, 4, 6, 6)).astype(np.float16)}
    np.savez(tmp_path / "x.npz", **feeds)
    settings = ("replicate.effort=fast",)
    program = compile_model(tmp_path / "m.onnx", target, data=tmp_path / "x.npz", settings=settings).program
    want, data = Emulator.ideal(program).run(feeds)["y"], chip_model(program, ideal=True)
    for level in LEVELS:
        (got,) = outputs_at(data, feeds, level)
        assert np.array_equal(got, want), level


# --- the full check -------------------------------------------------------------------------------


def stage(nodes: list[onnx.NodeProto], outputs: list[str]) -> bytes:
    graph = onnx.helper.make_graph(
        nodes,
        "stage",
        [
            onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, (None, 4)),
            onnx.helper.make_tensor_value_info("factor", TensorProto.FLOAT, ()),
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [onnx.numpy_helper.from_array(np.array([0, 3]), "ends")],
    )
    opset = onnx.helper.make_opsetid("", 17)
    return bytes(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_scalar_inputs_and_outputs_have_a_shape(dtype: str) -> None:
    nodes = [
        models.node("Mul", "x factor", "scaled"),
        models.node("ReduceMax", "scaled", "peak", keepdims=0),
        models.node("NonZero", "x", "places"),
        models.node("Size", "places", "count"),
    ]
    outputs = ["scaled", "peak", "places", "count"]
    model = onnx.ModelProto.FromString(stage(nodes, outputs))
    for value in model.graph.input:
        value.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    builder = ModelBuilder({"x", "factor", *outputs}, {"digital_0": model.SerializeToString()})
    builder.inline("digital_0")
    inputs = {"x": TensorType(dtype, (None, 4)), "factor": TensorType(dtype, ())}
    exported = onnx.load_from_string(builder.model("m", inputs, outputs, {}, ""))
    onnx.checker.check_model(exported, full_check=True)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in exported.graph.output}
    assert ranks == {"scaled": 2, "peak": 0, "places": 2, "count": 0}


def test_ranks_are_seen_where_zeros_or_single_elements_do_not_run() -> None:
    """A shape made of the data: zeros make it empty, which the reshape refuses."""
    nodes = [
        models.node("NonZero", "x", "places"),
        models.node("Gather", "places ends", "some", axis=1),
        models.node("ReduceMax", "some", "peak", keepdims=0),
    ]
    builder = ModelBuilder({"x", "factor", "peak"}, {"digital_0": stage(nodes, ["peak"])})
    builder.inline("digital_0")
    inputs = {"x": TensorType("float32", (None, 4)), "factor": TensorType("float32", ())}
    exported = onnx.load_from_string(builder.model("m", inputs, ["peak"], {}, ""))
    onnx.checker.check_model(exported, full_check=True)


# --- normalisations that the operator set does not have ---------------------------------------------


def normalised(operator: str, axis: int, dtype: str, opset: int, branch: bool = False) -> onnx.ModelProto:
    """A layer and a layer normalisation after it, in a branch of If or not."""
    rng = np.random.default_rng(25)
    shape = (3, 6) if axis in (1, -2) else (6,)
    weights = {"w": rng.standard_normal((6, 6)), "s": rng.standard_normal(shape), "b": rng.standard_normal(shape)}
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = "c s b" if operator == "LayerNormalization" else "c s"
    own = {name: array.astype(dtype) for name, array in weights.items() if name in f"w {inputs}"}
    last = [models.node(operator, inputs, "n" if branch else "y", axis=axis, epsilon=1e-3)]
    if branch:
        own["nothing"] = np.zeros((), dtype)
        value = [onnx.ValueInfoProto(name="n")]
        other = onnx.helper.make_graph([models.node("Neg", "c", "n")], "no", [], value)
        then = onnx.helper.make_graph(last, "yes", [], value)
        last = [
            models.node("ReduceSum", "x", "total", keepdims=0),
            models.node("Greater", "total nothing", "positive"),
            models.node("If", "positive", "y", then_branch=then, else_branch=other),
        ]
    model = models.float_model([models.node("MatMul", "x w", "c"), *last], ("N", 3, 6), own, kind=kind)
    model.opset_import[0].version = opset
    return model


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("operator", "opset", "axis"),
    [
        ("LayerNormalization", 9, -1),
        ("LayerNormalization", 12, -1),
        ("LayerNormalization", 12, -2),
        ("LayerNormalization", 12, 1),
        ("LayerNormalization", 16, 2),
        ("SimplifiedLayerNormalization", 12, 1),
        ("SimplifiedLayerNormalization", 20, -1),
    ],
)
def test_normalisations_are_in_the_operator_set(
    operator: str, opset: int, axis: int, dtype: str, tmp_path: Path
) -> None:
    """Those of onnxruntime have no version in it. Rounding: halves 1e-3, float32 1e-6."""
    network = normalised(operator, axis, dtype, opset)
    (tmp_path / "m.onnx").write_bytes(network.SerializeToString())
    feeds = {"x": np.random.default_rng(26).standard_normal((8, 3, 6)).astype(dtype)}
    np.savez(tmp_path / "x.npz", **feeds)
    program = compile_model(tmp_path / "m.onnx", "ideal", data=tmp_path / "x.npz").program
    want, data = Emulator.ideal(program).run(feeds)["y"], chip_model(program)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    for level in LEVELS:
        (got,) = outputs_at(data, feeds, level)
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        error = np.abs(got.astype(np.float64) - want).max() / np.abs(want).max()
        assert error <= (1e-3 if dtype == "float16" else 1e-6), level


@pytest.mark.parametrize("sign", [1, -1])
def test_normalisations_in_branches_are_in_the_operator_set(sign: int, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(
        normalised("LayerNormalization", -1, "float32", 12, branch=True).SerializeToString()
    )
    program = compile_model(tmp_path / "m.onnx", "ideal").program
    feeds = {"x": sign * np.abs(np.random.default_rng(27).standard_normal((1, 3, 6))).astype(np.float32)}
    data = chip_model(program)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    (got,) = outputs_at(data, feeds, LEVELS[-1])
    np.testing.assert_allclose(got, Emulator.ideal(program).run(feeds)["y"], rtol=1e-5, atol=1e-6)

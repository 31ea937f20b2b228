"""Every compile checks its own program: faults that rounding does not explain are found and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import self_check_rates
from factories import make_target
from models import float_model, make, node

from memcompile import pipelines
from memcompile.cli.main import main
from memcompile.errors import MiscompileError
from memcompile.ir.graph import Graph, IntegerLayer, LinearLayer, Node
from memcompile.ir.pass_manager import Pass, PassContext
from memcompile.passes.group_digital import GroupDigital
from memcompile.verify import network_check
from memcompile.verify.interpreter import run_layer


def network() -> onnx.ModelProto:
    """Two convolutions with an activation between them, and a dense layer."""
    rng = np.random.default_rng(7)
    weights = {
        "w1": rng.normal(0, 0.3, (4, 2, 3, 3)).astype(np.float32),
        "b1": rng.normal(0, 0.3, 4).astype(np.float32),
        "w2": rng.normal(0, 0.3, (3, 4, 3, 3)).astype(np.float32),
        "w3": rng.normal(0, 0.3, (48, 5)).astype(np.float32),
    }
    nodes = [
        node("Conv", "x w1 b1", "p"),
        node("Relu", "p", "q"),
        node("Conv", "q w2", "r"),
        node("Flatten", "r", "s"),
        node("Gemm", "s w3", "y"),
    ]
    return float_model(nodes, ("N", 2, 8, 8), weights)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(network(), path)
    return path


Change = Callable[[Any], Node]
FAST = ("replicate.objective=arrays", "replicate.effort=fast")


def spoil(monkeypatch: pytest.MonkeyPatch, kind: type[Node], name: str, change: Change, after: type[Pass]) -> None:
    """Let one pass make a mistake in one layer."""
    run = after.run

    def wrong(self: Pass, graph: Graph, context: PassContext) -> Graph:
        done = run(self, graph, context)
        layer = next(item for item in done.nodes if item.name == name)
        assert isinstance(layer, kind)
        return done.map_nodes({name: change(layer)})

    monkeypatch.setattr(after, "run", wrong)


def last_pass() -> type[Pass]:
    return type(pipelines.default_passes()[-1])


def flipped(layer: Any) -> Node:
    cells = layer.cells.copy()
    cells[np.unravel_index(cells.argmax(), cells.shape)] -= 3
    return replace(layer, cells=cells)


def swapped(layer: Any) -> Node:
    return replace(layer, cells=layer.cells[..., [1, 0, *range(2, layer.cells.shape[-1])]])


QUANTIZED_FAULTS: dict[str, Change] = {
    "a cell of another level": flipped,
    "two channels swapped": swapped,
    "polarities swapped": lambda layer: replace(layer, cells=layer.cells[::-1]),
    "a wrong scale": lambda layer: replace(layer, scale=layer.scale * np.float32(1.25)),
    "a wrong bias": lambda layer: replace(layer, bias=layer.bias + np.float32(0.7)),
    "a wrong input step": lambda layer: replace(
        layer, quantizer=replace(layer.quantizer, scale=layer.quantizer.scale / 9), scale=layer.scale / np.float32(9)
    ),
}


@pytest.mark.parametrize("slices", [1, 2])
def test_a_sound_program_passes(model: Path, slices: int) -> None:
    pipelines.compile_model(model, slices=slices)


@pytest.mark.parametrize("target", ["ideal", "pimcomp"])
def test_a_sound_program_passes_on_other_targets(model: Path, target: str) -> None:
    pipelines.compile_model(model, target)


@pytest.mark.parametrize("fault", QUANTIZED_FAULTS)
@pytest.mark.parametrize("name", ["Conv_p", "Conv_r", "Gemm_y"])
def test_a_fault_in_a_quantised_layer_is_found_and_named(
    monkeypatch: pytest.MonkeyPatch, model: Path, name: str, fault: str
) -> None:
    spoil(monkeypatch, IntegerLayer, name, QUANTIZED_FAULTS[fault], last_pass())
    with pytest.raises(MiscompileError, match=f"layer '{name}'.*please report"):
        pipelines.compile_model(model)


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    path = tmp_path / "samples.npz"
    np.savez(path, x=np.random.default_rng(3).normal(0, 1, (40, 2, 8, 8)).astype(np.float32))
    return path


@pytest.mark.parametrize("slices", [1, 2])
def test_a_sound_program_passes_with_weights_that_make_up_for_others(model: Path, samples: Path, slices: int) -> None:
    program = pipelines.compile_model(model, data=samples, slices=slices).program
    nearest = pipelines.compile_model(
        model, data=samples, slices=slices, settings=["quantize_weights.compensate=false"]
    ).program
    assert any(
        not np.array_equal(layer.integer_matrix(), other.integer_matrix())
        for layer, other in zip(program.layers, nearest.layers, strict=True)
    )


@pytest.mark.parametrize("fault", [name for name in QUANTIZED_FAULTS if name != "a wrong bias"])
@pytest.mark.parametrize("name", ["Conv_p", "Conv_r", "Gemm_y"])
def test_a_fault_among_such_weights_is_found_and_named(
    monkeypatch: pytest.MonkeyPatch, model: Path, samples: Path, name: str, fault: str
) -> None:
    spoil(monkeypatch, IntegerLayer, name, QUANTIZED_FAULTS[fault], last_pass())
    with pytest.raises(MiscompileError, match=f"layer '{name}'.*please report"):
        pipelines.compile_model(model, data=samples)


def test_offsets_may_take_rounding_errors_and_no_more(
    monkeypatch: pytest.MonkeyPatch, model: Path, samples: Path
) -> None:
    def shifted(layer: Any) -> Node:
        largest = -layer.quantizer.lowest * np.abs(layer.scale)
        return replace(layer, bias=layer.bias + largest * layer.geometry.group_rows)

    spoil(monkeypatch, IntegerLayer, "Conv_p", shifted, last_pass())
    with pytest.raises(MiscompileError, match=r"layer 'Conv_p': the bias of output channel"):
        pipelines.compile_model(model, data=samples)


@pytest.mark.parametrize("name", ["Conv_p", "Conv_r"])
def test_a_fault_before_quantisation_is_found_and_the_first_layer_named(
    monkeypatch: pytest.MonkeyPatch, model: Path, name: str
) -> None:
    spoil(
        monkeypatch,
        LinearLayer,
        name,
        lambda layer: replace(layer, weight=layer.weight * np.float32(1.1)),
        GroupDigital,
    )
    with pytest.raises(MiscompileError, match=f"layer '{name}' differs from onnxruntime"):
        pipelines.compile_model(model)


def test_the_command_says_so_in_one_message_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, IntegerLayer, "Conv_r", flipped, last_pass())
    program = model.with_suffix(".mcp")
    arguments = [str(model), "-o", str(program), "--no-evaluation"]
    assert main(arguments) == MiscompileError.exit_code
    assert capsys.readouterr().err.count("memcompile: error: layer 'Conv_r': the weight of output channel ") == 1
    assert not program.exists()
    assert main([*arguments, "--no-check"]) == 0
    assert program.exists()


def test_networks_that_draw_random_numbers_are_not_compared(tmp_path: Path) -> None:
    nodes = [
        node("RandomNormalLike", "x", "n"),
        node("Add", "x n", "p"),
        node("MatMul", "p w", "y"),
    ]
    onnx.save(
        float_model(nodes, ("N", 6), {"w": np.random.default_rng(1).normal(0, 1, (6, 3)).astype(np.float32)}),
        tmp_path / "r.onnx",
    )
    pipelines.compile_model(tmp_path / "r.onnx")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1e-45, 4e-44, 1e37])
def test_weights_near_the_ends_of_float32_are_no_fault(tmp_path: Path, size: float) -> None:
    """Scales are whole multiples of the smallest number there, and sums may be infinite."""
    weight = (size * np.random.default_rng(3).integers(-3, 4, (6, 5))).astype(np.float32)
    onnx.save(float_model([node("MatMul", "x w", "y")], ("N", 6), {"w": weight}), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.full((2, 6), 40.0, np.float32))
    pipelines.compile_model(tmp_path / "m.onnx", data=tmp_path / "x.npz")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("operator", ["Conv", "Gemm"])
def test_sums_that_overflow_in_one_order_alone_are_no_fault(tmp_path: Path, operator: str) -> None:
    """With the offset first, the sum is infinite after one term; with the offset last it is -1.9e38."""
    weight, offset = np.array([-2e38, 2.1e38], np.float32), np.array([-2e38], np.float32)
    shape = (1, 2, 1, 1) if operator == "Conv" else (2, 1)
    ends = (2, 1, 1) if operator == "Conv" else (2,)
    model = float_model([node(operator, "x w b", "y")], ("N", *ends), {"w": weight.reshape(shape), "b": offset})
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.ones((4, *ends), np.float32))
    pipelines.compile_model(tmp_path / "m.onnx", data=tmp_path / "x.npz")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_an_overflow_before_what_was_folded_is_no_fault(tmp_path: Path, mean: float) -> None:
    """The model's convolution gives infinity, a quarter of which is infinity; a quarter of the weight gives 1.5e38."""
    constants = {
        "w": np.array([3e38, 1.0], np.float32).reshape(2, 1, 1, 1),
        **{name: np.full(2, value, np.float32) for name, value in {"g": 0.25, "b": 0.0, "m": mean, "v": 1.0}.items()},
    }
    nodes = [node("Conv", "x w", "c"), node("BatchNormalization", "c g b m v", "y", epsilon=0.0)]
    onnx.save(float_model(nodes, ("N", 1, 2, 2), constants), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.full((4, 1, 2, 2), 2.0, np.float32))
    pipelines.compile_model(tmp_path / "m.onnx", data=tmp_path / "x.npz")


# --- what rounding explains is no fault ------------------------------------------------------------


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    onnx.save(model, path)
    return path


def numbers(shape: tuple[int, ...], kind: str, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(kind)


@pytest.mark.parametrize("rows", [1, 2, 16, 64])
@pytest.mark.parametrize("target", ["ideal", "hermes", "yao2020", "neurram"])
def test_products_in_half_precision_are_no_fault(tmp_path: Path, target: str, rows: int) -> None:
    weights = {"w": numbers((rows, 16), "float16"), "b": numbers((16,), "float16")}
    model = float_model([node("Gemm", "x w b", "y")], ("N", rows), weights, kind=onnx.TensorProto.FLOAT16)
    pipelines.compile_model(saved(model, tmp_path), target, settings=FAST)


@pytest.mark.parametrize("target", ["ideal", "yao2020"])
@pytest.mark.parametrize("groups", [1, 6])
def test_convolutions_in_half_precision_are_no_fault(tmp_path: Path, target: str, groups: int) -> None:
    weights = {"w": numbers((12, 6 // groups, 1, 1), "float16")}
    nodes = [node("Conv", "x w", "p", group=groups), node("Relu", "p", "y")]
    model = float_model(nodes, ("N", 6, 5, 5), weights, kind=onnx.TensorProto.FLOAT16)
    pipelines.compile_model(saved(model, tmp_path), target, settings=FAST)


def test_a_model_turned_into_half_precision_is_no_fault(tmp_path: Path) -> None:
    """All weights, and the input and output, of a float32 model; one layer stays float32 between two casts."""
    rng = np.random.default_rng(2)
    weights = {
        "w1": numbers((4, 2, 3, 3), "float16"),
        "gamma": rng.uniform(0.5, 2, 4).astype(np.float16),
        "beta": rng.normal(0, 3, 4).astype(np.float16),
        "mean": rng.normal(0, 30, 4).astype(np.float16),
        "variance": rng.uniform(0.1, 9, 4).astype(np.float16),
        "w2": numbers((144, 7), "float32"),
        "w3": numbers((7, 5), "float16"),
    }
    nodes = [
        node("Conv", "x w1", "c"),
        node("BatchNormalization", "c gamma beta mean variance", "n"),
        node("Flatten", "n", "f"),
        node("Cast", "f", "g", to=onnx.TensorProto.FLOAT),
        node("MatMul", "g w2", "h"),
        node("Cast", "h", "i", to=onnx.TensorProto.FLOAT16),
        node("MatMul", "i w3", "y"),
    ]
    model = float_model(nodes, ("N", 2, 8, 8), weights, kind=onnx.TensorProto.FLOAT16)
    for target in ("ideal", "hermes"):
        pipelines.compile_model(saved(model, tmp_path), target, settings=FAST)


def test_sums_beyond_half_precision_are_no_fault(tmp_path: Path) -> None:
    weights = {"w": np.full((64, 3), 300, np.float16) * np.array([1, -1, 0.01], np.float16)}
    model = float_model([node("MatMul", "x w", "y")], ("N", 64), weights, kind=onnx.TensorProto.FLOAT16)
    np.savez(tmp_path / "x.npz", x=np.full((3, 64), 8, np.float16))
    for target in ("ideal", "yao2020"):
        pipelines.compile_model(saved(model, tmp_path), target, data=tmp_path / "x.npz", settings=FAST)


def test_an_offset_of_weights_whose_scale_is_rounded_is_no_fault(tmp_path: Path) -> None:
    """One on a grid of sevenths of float32: the first input is constant, so that its error goes into the bias whole."""
    weights = {"m": np.tile(np.eye(5, dtype=np.float32), (1, 3))}
    x = np.random.default_rng(0).uniform(0, 1, (50, 5)).astype(np.float32)
    x[:, 0] = 3.4
    np.savez(tmp_path / "x.npz", x=x)
    model = saved(float_model([node("MatMul", "x m", "y")], ("N", 5), weights), tmp_path)
    for target in ("yao2020", "hermes", "neurram"):
        pipelines.compile_model(model, target, data=tmp_path / "x.npz", settings=FAST)


@pytest.mark.parametrize("target", ["hermes", "neurram"])
def test_float32_scales_of_four_slices_are_no_fault(tmp_path: Path, target: str) -> None:
    model = float_model([node("MatMul", "x w", "y")], ("N", 64), {"w": numbers((64, 64), "float32")})
    pipelines.compile_model(saved(model, tmp_path), target, slices=4, settings=FAST)


@pytest.mark.filterwarnings("error")
def test_scores_of_wide_weights_do_not_overflow(tmp_path: Path) -> None:
    target = make_target(cell={"levels": 128})
    model = saved(float_model([node("MatMul", "x w", "y")], ("N", 64), {"w": numbers((64, 8), "float32")}), tmp_path)
    (layer,) = pipelines.compile_model(model, target, slices=4, slice_base=255, settings=FAST).program.layers
    step = layer.scale.astype(np.float64) / layer.quantizer.scale
    error = np.abs(layer.integer_matrix()[0] * step - numbers((64, 8), "float32"))
    assert error.max() < 1e-6


@pytest.mark.parametrize("slices", [1, 3])
def test_double_precision_is_no_fault(tmp_path: Path, slices: int) -> None:
    weights = {"w": numbers((40, 9), "float64"), "b": numbers((9,), "float64")}
    model = float_model([node("Gemm", "x w b", "y")], ("N", 40), weights, kind=onnx.TensorProto.DOUBLE)
    pipelines.compile_model(saved(model, tmp_path), slices=slices, settings=FAST)


def test_offsets_that_cancel_are_no_fault(tmp_path: Path) -> None:
    """The model rounds to a ten-thousandth here, the folded bias does not."""
    weights = {
        "w": numbers((8, 4), "float32"),
        "up": np.full(4, 12345.678, np.float32),
        "down": np.full(4, 12345.678, np.float32),
    }
    nodes = [node("MatMul", "x w", "p"), node("Add", "p up", "q"), node("Sub", "q down", "y")]
    pipelines.compile_model(saved(float_model(nodes, ("N", 8), weights), tmp_path), "ideal", settings=FAST)


def quantized_chain(layers: int, rng: np.random.Generator) -> onnx.ModelProto:
    """Float products between QuantizeLinear and DequantizeLinear, whose values a softmax sharpens in between."""
    weights: dict[str, np.ndarray] = {
        "s": np.array(0.02, np.float32),
        "z": np.array(128, np.uint8),
        "t": np.array(0.004, np.float32),
    }
    nodes, value = [], "x"
    for number in range(layers):
        weights[f"w{number}"] = rng.integers(-127, 128, (24, 24)).astype(np.int8)
        nodes += [
            node("QuantizeLinear", f"{value} s z", f"q{number}"),
            node("DequantizeLinear", f"q{number} s z", f"d{number}"),
            node("DequantizeLinear", f"w{number} t", f"v{number}"),
            node("MatMul", f"d{number} v{number}", f"m{number}"),
            node("Softmax", f"m{number}", f"a{number}"),
            node("Mul", f"a{number} m{number}", f"r{number}"),
        ]
        value = f"r{number}"
    nodes.append(node("Identity", value, "y"))
    return float_model(nodes, ("N", 24), weights)


@pytest.mark.parametrize("target", ["ideal", "hermes"])
def test_a_step_of_a_quantiser_is_not_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """Whole numbers on one target, floats on the other: each layer reads what onnxruntime has, bit by bit."""
    seen: dict[str, Any] = {}

    def noisy(layer: Any, x: Any, **options: bool) -> Any:
        seen[layer.inputs[0]] = x
        result = run_layer(layer, x, **options)
        return result if layer.integer else result * np.float32(1 + 2e-7)  # flips a code now and then

    monkeypatch.setattr(network_check, "run_layer", noisy)
    model = saved(quantized_chain(6, np.random.default_rng(4)), tmp_path)
    compilation = pipelines.compile_model(model, target, settings=FAST)
    assert seen.keys() == {f"{'q' if target == 'ideal' else 'd'}{number}" for number in range(6)}
    session = compilation.model.open_session([*seen], optimise=False)
    sample = {name: array[:1] for name, array in compilation.dataset.calibration.items()}
    for name, value in zip(seen, session.run([*seen], sample), strict=True):
        np.testing.assert_array_equal(seen[name], value)


def test_bytes_that_kernels_cut_to_16_bits_are_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two products of large bytes; the processor at hand may or may not do it."""
    weights = {"w": np.full((8, 3), 127, np.int8), "z": np.array(0, np.uint8)}
    model = make(
        [node("MatMulInteger", "x w z", "y")],
        {"x": (onnx.TensorProto.UINT8, ("N", 8))},
        {"y": (onnx.TensorProto.INT32, None)},
        weights,
    )
    path = saved(model, tmp_path)
    np.savez(tmp_path / "x.npz", x=np.full((2, 8), 255, np.uint8))
    pipelines.compile_model(path, "ideal", data=tmp_path / "x.npz", settings=FAST)

    def cut(layer: Any, x: Any, **options: bool) -> Any:
        return (run_layer(layer, x, **options) - 4 * (2 * 255 * 127 - 32767)).astype(np.int32)

    if network_check.multiplies_bytes_exactly():
        monkeypatch.setattr(network_check, "run_layer", cut)
        with pytest.raises(MiscompileError, match="layer 'MatMulInteger_y'"):
            pipelines.compile_model(path, "ideal", data=tmp_path / "x.npz", settings=FAST)
        monkeypatch.setattr(network_check, "multiplies_bytes_exactly", lambda: False)
        pipelines.compile_model(path, "ideal", data=tmp_path / "x.npz", settings=FAST)
    monkeypatch.setattr(network_check, "run_layer", lambda layer, x, **options: -run_layer(layer, x, **options))
    with pytest.raises(MiscompileError, match="layer 'MatMulInteger_y'"):
        pipelines.compile_model(path, "ideal", data=tmp_path / "x.npz", settings=FAST)


# --- what it says -----------------------------------------------------------------------------------


def test_the_slack_is_that_of_the_channel_that_is_blamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Steps of the channels are 1, 100 and 1/100."""
    grid = np.random.default_rng(1).integers(-7, 8, (16, 3))
    grid[0] = 7
    path = saved(
        float_model([node("MatMul", "x w", "y")], ("N", 16), {"w": (grid * [1, 100, 0.01]).astype(np.float32)}),
        tmp_path,
    )

    def changed(layer: Any) -> Node:
        cells = layer.cells.copy()
        cells[0, 0, 0, 0, 2] -= 1
        return replace(layer, cells=cells)

    spoil(monkeypatch, IntegerLayer, "MatMul_y", changed, last_pass())
    with pytest.raises(
        MiscompileError,
        match=r"output channel 2, kernel input 0 is 0\.07 .* and -0\.01 off .* level explains 0\.005;",
    ):
        pipelines.compile_model(path, settings=FAST)


def test_a_bias_is_blamed_with_its_own_slack(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    def changed(layer: Any) -> Node:
        bias = layer.bias.copy()
        bias[2] += np.float32(1e-6)
        return replace(layer, bias=bias)

    spoil(monkeypatch, IntegerLayer, "Conv_p", changed, last_pass())
    with pytest.raises(MiscompileError, match=r"bias of output channel 2 is .* explains a difference of 0;"):
        pipelines.compile_model(model, settings=FAST)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layer: replace(layer, geometry=replace(layer.geometry, strides=(2, 2))), "its geometry is "),
        (lambda layer: replace(layer, inputs=("q",)), "its inputs is"),
    ],
)
def test_a_layer_that_computes_something_else_is_found(
    model: Path, monkeypatch: pytest.MonkeyPatch, change: Change, message: str
) -> None:
    compilation = pipelines.compile_model(model, settings=FAST)
    program = compilation.program
    stages = tuple(change(stage) if stage.name == "Conv_p" else stage for stage in program.stages)
    monkeypatch.setattr(pipelines, "emit_program", lambda *_: replace(program, stages=stages))
    with pytest.raises(MiscompileError, match=f"layer 'Conv_p': {message}"):
        pipelines.compile_model(model, settings=FAST)


def test_a_report_names_versions(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    spoil(monkeypatch, IntegerLayer, "Conv_r", flipped, last_pass())
    with pytest.raises(MiscompileError) as error:
        pipelines.compile_model(model, settings=FAST)
    text = str(error.value)
    assert "; --no-check compiles without this check; please report it with the command line, the model" in text
    assert f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}, numpy {np.__version__}" in text
    assert "\n" not in text


# --- rates ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_no_false_alarm_and_no_miss(tmp_path: Path) -> None:
    """The first networks of the count in docs/errors.md, with every kind of fault in each."""
    rates = self_check_rates.Rates()
    for number in (*range(36), 1838):  # and one of half precision numbers next to the smallest
        rates.add(number, tmp_path)
    assert rates.alarms == []
    assert rates.missed == []
    assert rates.sound >= 30
    assert {name: count for name, count in rates.faults.items() if count < 10} == {}
    assert rates.faults.keys() == {*self_check_rates.PROGRAM_FAULTS, *self_check_rates.NETWORK_FAULTS}

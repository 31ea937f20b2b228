"""Every compile checks its own program: faults that rounding does not explain are found and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import float_model, node

from memcompile import pipelines
from memcompile.cli import main
from memcompile.errors import MiscompileError
from memcompile.ir import Graph, IntegerLayer, LinearLayer, Node
from memcompile.pass_manager import Pass, PassContext
from memcompile.passes.group_digital import GroupDigital


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

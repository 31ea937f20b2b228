"""More slices are no worse on a chip than fewer, whichever way it is written."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from factories import make_target
from models import float_model, make, node
from onnx import TensorProto, numpy_helper

from memcompile.cli.main import main
from memcompile.errors import UsageError
from memcompile.hardware.target import load_target
from memcompile.pipelines import Compilation, compile_model
from memcompile.program.file import load_program
from memcompile.report.evaluation import Evaluation, measure_quality, run_float, signal_to_noise_db
from memcompile.report.facts import program_facts
from memcompile.runtime.cells.slice_goals import ArraySlices, goals_us
from memcompile.runtime.effects.cells import Cells
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.transfer import transfer

RNG = np.random.default_rng(89)
UINT8, INT32 = TensorProto.UINT8, TensorProto.INT32
FEEDS = {"x": RNG.integers(0, 256, (24, 20)).astype(np.uint8)}


def whole_weights() -> Any:
    weight = RNG.integers(-127, 128, (20, 6)).astype(np.int8)
    weight[:, 3] //= 5
    return make([node("MatMulInteger", "x w", "y")], {"x": (UINT8, ("N", 20))}, {"y": (INT32, None)}, {"w": weight})


def float_weights() -> Any:
    """A convolution that is laid out in parallel windows, whose structural zeros have errors too."""
    return float_model(
        [node("Conv", "x w", "y", pads=[1, 1, 1, 1])],
        ("N", 2, 8, 8),
        {"w": RNG.normal(size=(4, 2, 3, 3)).astype(np.float32)},
    )


def on_chips(compilation: Compilation, feeds: Any, want: Any, seeds: int = 3) -> list[float]:
    """Mean signal-to-noise ratio of chips as `run` and as `tune` write them, in decibels."""
    program = compilation.program
    written = [
        [Emulator(program, seed).run(feeds)["y"] for seed in range(seeds)],
        [Emulator(transfer(program, seed)[0], seed).run(feeds)["y"] for seed in range(seeds)],
    ]
    return [float(np.mean([signal_to_noise_db(want, got) for got in chips])) for chips in written]


@pytest.mark.parametrize(
    ("kind", "target"), [("whole", "yao2020"), ("whole", "vwsdk"), ("float", "yao2020"), ("float", "neurram")]
)
def test_more_slices_are_no_worse_than_fewer(kind: str, target: str, tmp_path: Path) -> None:
    model, feeds = (
        (whole_weights(), FEEDS) if kind == "whole" else (float_weights(), {"x": models.images((12, 2, 8, 8))})
    )
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    np.savez(tmp_path / "d.npz", **feeds)
    weight = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    ratios = []
    for slices in (1, 2, 3):
        compilation = compile_model(path, target, data=tmp_path / "d.npz", slices=slices, check=False)
        want = feeds["x"] @ weight if kind == "whole" else run_float(compilation.model, feeds)["y"]
        ratios.append(on_chips(compilation, feeds, want))
    for fewer, more in itertools.pairwise(ratios):
        assert min(np.subtract(more, fewer)) > -1.0  # the spread of the mean of three chips
    assert min(np.subtract(ratios[2], ratios[0])) > (6.0 if target == "yao2020" else -1.0)


def test_shared_case_of_three_slices(shared_dir: Path) -> None:
    folder = shared_dir / "cases" / "three_slices"
    if not folder.exists():
        pytest.skip("the shared cases are not here")
    model, data = folder / "model.onnx", folder / "data.npz"
    compilations = [compile_model(model, data=data, slices=slices, check=False) for slices in (1, 2, 3, 4)]
    feeds = dict(np.load(data))
    exact = Emulator.ideal(compilations[2].program).run(feeds)["y"]
    ratios = [on_chips(compilation, feeds, exact) for compilation in compilations]
    assert all(min(np.subtract(more, fewer)) > -1.0 for fewer, more in itertools.pairwise(ratios))
    assert min(ratios[2]) > 15


def two_layers(folder: Path) -> tuple[Path, Path]:
    """Two dense layers ``a`` and ``b``, and data."""
    nodes = [node("Gemm", "x a", "h"), node("Gemm", "h b", "y")]
    nodes[0].name, nodes[1].name = "a", "b"
    weights = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in (("a", (12, 9)), ("b", (9, 5)))}
    path, data = folder / "two.onnx", folder / "two.npz"
    path.write_bytes(float_model(nodes, ("N", 12), weights).SerializeToString())
    np.savez(data, x=RNG.normal(size=(40, 12)).astype(np.float32))
    return path, data


def test_layers_may_have_slices_of_their_own(tmp_path: Path) -> None:
    path, data = two_layers(tmp_path)
    alike = {count: compile_model(path, data=data, slices=count).program for count in (1, 2)}
    mixed = compile_model(path, data=data, slices={"": 1, "b": 2}).program
    assert mixed.slices.tolist() == [1, 2]
    assert mixed.provenance.options["slices"] == 1
    assert mixed.provenance.options["slices of b"] == 2
    for number, program in ((0, alike[1]), (1, alike[2])):
        np.testing.assert_array_equal(mixed.layers[number].cells, program.layers[number].cells)
    x = np.load(data)["x"]
    fast, literal = (Emulator.ideal(mixed, executor).run(x)["y"] for executor in ("fast", "literal"))
    np.testing.assert_array_equal(fast, literal)
    facts = program_facts(mixed)
    assert [layer["slices"] for layer in facts["layers"]] == [1, 2]


def test_slices_of_a_layer_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, data = two_layers(tmp_path)
    with pytest.raises(UsageError, match=r"slices are given for layer 'c', but no crossbar layer .* there are a, b"):
        compile_model(path, data=data, slices={"c": 2})
    with pytest.raises(UsageError, match="slices = 5: from 1 to 4 pairs"):
        compile_model(path, data=data, slices={"a": 5})
    words = [str(path), "--data", str(data), "--no-evaluation", "-o", str(tmp_path / "two.mcp")]
    assert main([*words, "--slices", "2", "--slices", "a=1"]) == 0
    assert [layer.slices for layer in load_program(tmp_path / "two.mcp").layers] == [1, 2]
    assert main([*words, "--slices", "a=two"]) == 2
    assert "'a=two' is neither of the form 3 or 3:equal nor LAYER=2" in capsys.readouterr().err
    for text in ("2:evenly", "2:", ":equal", "", "9" * 5000):
        with pytest.raises(UsageError, match=f"slices = {text}: a number, or one with how slices are filled, such as"):
            compile_model(path, data=data, slices={"a": text})


def test_slices_of_a_layer_may_share_its_weights(tmp_path: Path) -> None:
    path, data = two_layers(tmp_path)
    words = [str(path), "--data", str(data), "--no-evaluation", "-o", str(tmp_path / "shared.mcp")]
    assert main([*words, "--slices", "3:equal", "--slices", "a=2", "--json", str(tmp_path / "shared.json")]) == 0
    program = load_program(tmp_path / "shared.mcp")
    layers = json.loads((tmp_path / "shared.json").read_text())["layers"]
    assert [(row["slices"], row["slice_base"], row["slice_fill"]) for row in layers] == [(2, 5, "max"), (3, 2, "equal")]
    again = compile_model(path, data=data, slices={"": "3:equal", "a": 2}).program
    for one, other in zip(program.layers, again.layers, strict=True):
        np.testing.assert_array_equal(one.cells, other.cells)
    x = np.load(data)["x"]
    fast, literal = (Emulator.ideal(program, executor).run(x)["y"] for executor in ("fast", "literal"))
    np.testing.assert_array_equal(fast, literal)


def test_slices_that_share_weights_average_noise_in_proportion_to_conductance(tmp_path: Path) -> None:
    """Three slices that share a weight have a third of its power; filled to the most, the first one has nearly all."""
    path, data = two_layers(tmp_path)
    noise = {"sigma_us": 0.0, "proportional_share": 0.1}
    target = make_target(programming={"sigma_us": 0.0}, read_noise=noise, adc={"bits": 12})
    x = np.load(data)["x"]
    powers = []
    for slices in ("3", "3:equal"):
        program = compile_model(path, target, data=data, slices=slices).program
        wanted = Emulator.ideal(program).run(x)["y"]
        chips = [Emulator(program, seed).run(x)["y"] - wanted for seed in range(12)]
        powers.append(float(np.mean(np.square(chips))))
    assert powers[1] < 0.55 * powers[0]


def test_goals_of_lower_slices_make_up_for_what_upper_ones_hold() -> None:
    """By hand: base 5, levels of 2 uS from 2 uS on. The upper pair holds 0.6 levels too little."""
    cell = make_target(cell={"levels": 8, "g_min_us": 2.0, "g_max_us": 16.0}).cell
    slices = ArraySlices(np.array([[-2.0, 4.0]]), np.array([[0, 1]], np.int8), np.array([[5, 5]]))

    def write(goals: Cells) -> Cells:
        return goals + np.array([[0.0, 0.0, -1.2, 0.0]])

    assert slices.several
    np.testing.assert_allclose(goals_us(slices, cell, write), [[2 + 2 * 1.0, 2.0, 10.0, 2.0]])
    blank = ArraySlices(slices.levels, np.zeros((1, 2), np.int8), slices.base)
    np.testing.assert_allclose(goals_us(blank, cell, write), [[2.0, 6.0, 10.0, 2.0]])
    # Beyond the last level nothing more can be made up for.
    far = ArraySlices(np.array([[7.0, 4.0]]), slices.place, slices.base)
    assert goals_us(far, cell, write)[0, 0] == 16.0


def test_unlabelled_data_are_scored_on_chips_too(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(float_weights().SerializeToString())
    np.savez(tmp_path / "d.npz", x=models.images((12, 2, 8, 8)))
    compilation = compile_model(path, data=tmp_path / "d.npz")
    quality = measure_quality(compilation.program, compilation.model, compilation.dataset, 5, 2, 7, calibrate=False)
    assert (quality.images, quality.chip_images, quality.seeds) == (12, 5, 2)
    some = {"x": compilation.dataset.inputs["x"][:5]}
    want = run_float(compilation.model, some)["y"]
    got = [signal_to_noise_db(want, Emulator(compilation.program, seed).run(some)["y"]) for seed in (7, 8)]
    np.testing.assert_allclose(quality.chip_outputs["y"], got, rtol=1e-3)
    assert (quality.chip_outputs["y"] < quality.outputs["y"] - 3).all()
    facts = program_facts(compilation.program, Evaluation("d", None, quality))["emulated_quality"]
    assert facts["output_sqnr_db"]["y"] == pytest.approx({"mean": np.mean(got), "std": np.std(got, ddof=1)}, rel=1e-2)
    assert (facts["images"], facts["seeds"]) == (5, 2)
    assert load_target("yao2020").default_slice_base() == 5

"""The ideal target: mapped like any other, and its numbers are those of onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import stages
from hypothesis import given
from hypothesis import strategies as st
from models import float_model, node
from stages import replaced

from memcompile.cli.main import main
from memcompile.errors import TargetError, UsageError
from memcompile.hardware.target import Target, load_target, parse_target
from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import CalibratedLayer
from memcompile.ir.quantizers import ExactInput, InputQuantizer
from memcompile.passes.quantize_weights import QuantizeWeights
from memcompile.pipelines import compile_model
from memcompile.program.file import decode_program, encode_program
from memcompile.report.evaluation import signal_to_noise_db
from memcompile.runtime.emulator import Emulator
from memcompile.tuning import tune
from memcompile.verify.verifier import verify_program

IDEAL = load_target("ideal")
RNG = np.random.default_rng(83)


def small_arrays(input_lines: int = 16, output_lines: int = 32) -> Target:
    """The ideal target with arrays so small that every layer is cut."""
    values = IDEAL.model_dump()
    values["array"] |= {"input_lines": input_lines, "output_lines": output_lines}
    return parse_target(values, "small arrays")


NETWORKS = {"conv_bn": models.conv_bn, "skip_connection": models.skip_connection}


@pytest.mark.parametrize("target", [IDEAL, small_arrays()], ids=["ideal", "small arrays"])
@pytest.mark.parametrize("name", NETWORKS)
def test_both_executors_give_the_outputs_of_onnxruntime(
    name: str, target: Target, save_model: Callable[..., Path]
) -> None:
    model = NETWORKS[name]()
    compilation = compile_model(save_model(model), target)
    program = verify_program(decode_program(encode_program(compilation.program), "memory"))
    feeds = {key: array[:4] for key, array in compilation.dataset.inputs.items()}
    want = stages.reference(model, feeds)
    for executor in ("fast", "literal"):
        got = Emulator(program, executor=executor).run(feeds)
        for output, value in want.items():
            # onnxruntime sums in float32: a few hundred terms leave some 1e-6 of the largest output.
            assert np.abs(got[output] - value).max() <= 2e-6 * np.abs(value).max()


def test_whole_numbers_come_out_whole(save_model: Callable[..., Path]) -> None:
    weights = RNG.integers(-500, 500, (40, 6)).astype(np.float32)
    model = float_model([node("MatMul", "x w", "y")], ("N", 40), {"w": weights})
    program = compile_model(save_model(model), small_arrays()).program
    x = RNG.integers(-3000, 3000, (5, 40)).astype(np.float32)
    for executor in ("fast", "literal"):
        assert np.array_equal(Emulator(program, executor=executor).run(x)["y"], x @ weights)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
def test_every_float32_weight_above_the_smallest_normal_is_held_exactly(numbers: list[float]) -> None:
    weights = np.array(numbers, np.float32)
    layer = CalibratedLayer(
        name="layer",
        inputs=("x",),
        outputs=("y",),
        geometry=Geometry(1, len(weights)),
        matrix=weights[None, None],
        bias=np.zeros(len(weights), np.float32),
        quantizer=ExactInput(),
    )
    graph = stages.after("select_crossbar_operators", models.conv_bn(), {"x": models.images((1, 2, 6, 6))})
    held = QuantizeWeights().run(graph.replace(nodes=(layer,)), stages.context_for({}, IDEAL)).nodes[0]
    assert np.abs(held.levels).max() <= 1
    assert np.array_equal(held.levels[0, 0].astype(np.float64) * held.scale, weights.astype(np.float64))


def test_a_layer_that_is_not_exact_is_told(save_model: Callable[..., Path]) -> None:
    graph = stages.after("calibrate_activations", models.conv_bn(), {"x": models.images((1, 2, 6, 6))}, target=IDEAL)
    layer = next(item for item in graph.nodes if isinstance(item, CalibratedLayer))
    wrong = graph.map_nodes({layer.name: replaced(layer, quantizer=InputQuantizer(1.0, 8, True))})
    with pytest.raises(Exception, match="exact-input"):
        stages.run_verified(wrong, (), stages.context_for({}, IDEAL))


def test_nothing_is_switched_on(save_model: Callable[..., Path]) -> None:
    emulator = Emulator(compile_model(save_model(models.conv_bn()), "ideal").program)
    assert emulator.effects.adc
    assert emulator.machine.effects.names() == []


def test_slices_have_no_meaning(save_model: Callable[..., Path]) -> None:
    for options in ({"slices": 2}, {"slice_base": 2}):
        with pytest.raises(UsageError, match="one pair of ideal holds any weight"):
            compile_model(save_model(models.conv_bn()), "ideal", **options)  # type: ignore[arg-type]


def test_there_is_nothing_to_tune(save_model: Callable[..., Path]) -> None:
    compilation = compile_model(save_model(models.conv_bn()), "ideal")
    with pytest.raises(UsageError, match="cells of ideal have no errors"):
        tune(compilation.program, compilation.dataset.inputs, None)


def test_device_errors_are_refused_all_at_once() -> None:
    values: dict[str, Any] = IDEAL.model_dump()
    values["cell"]["levels"] = 8
    values["faults"]["stuck_low_share"] = 0.1
    values["programming"]["sigma_polynomial_us"] = (0.1, 0.2)
    values["drift"] = {"exponent_mean": 0.1, "exponent_sigma": 0.1, "reference_s": 1.0}
    with pytest.raises(TargetError) as error:
        parse_target(values, "WHERE")
    assert str(error.value).splitlines() == [
        "target WHERE has 4 errors:",
        "  - cell.levels = 8: must be 2, the ends of the window, because cell.continuous is true",
        "  - faults.stuck_low_share = 0.1: must be 0, because cell.continuous is true",
        "  - programming.sigma_polynomial_us: must be empty, because cell.continuous is true",
        "  - drift: cannot be combined with cell.continuous; remove the section",
    ]


def test_commands_take_it(
    save_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save_model(models.conv_bn())
    assert main([str(path), "--target", "ideal", "-o", "p.mcp", "--dump-ir", "ir"]) == 0
    out = capsys.readouterr().out
    assert "on ideal" in out
    ratios = [float(line.split()[-2]) for line in out.splitlines() if line.endswith(" dB")]
    assert ratios
    assert min(ratios) > 110, "float32 rounding of onnxruntime is all that is left"
    assert "input exact" in (tmp_path / "ir" / "07_calibrate_activations.txt").read_text()
    for command in (["run", "p.mcp"], ["show", "p.mcp"], ["export", "p.mcp", "--npz", "g.npz"]):
        assert main(command) == 0
    conductances = np.load("g.npz")["conductances_us"]
    assert 0 <= conductances.min() < conductances.max() <= 1
    assert len(np.unique(conductances)) > 2


@pytest.mark.parametrize(
    ("wanted", "found", "decibels"),
    [
        ([3.0, 4.0], [3.0, 4.0], np.inf),
        ([3.0, 4.0], [3.0, 4.5], 20.0),
        ([0.0, 0.0], [0.0, 1.0], -np.inf),
        ([3.0, 4.0], [3.0, np.inf], -np.inf),
        ([1e-170, 0.0], [1e160, 0.0], -np.inf),
        ([np.inf, 4.0], [np.inf, 4.0], np.nan),
        ([1e300, 4.0], [1e300, 5.0], np.nan),
    ],
)
@pytest.mark.filterwarnings("error")
def test_signal_to_noise_of_any_numbers(wanted: list[float], found: list[float], decibels: float) -> None:
    got = signal_to_noise_db(np.array(wanted), np.array(found))
    assert got == pytest.approx(decibels, nan_ok=True)

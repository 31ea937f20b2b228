"""Public names of ``import memcompile``: functions with real keywords, networks of any kind, brief objects."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import models
import numpy as np
import onnx
import pytest

import memcompile
from memcompile.cli.main import cli
from memcompile.errors import DataError, ModelError, ProgramError, TargetError, UsageError
from memcompile.pipelines import compile_model
from memcompile.program.file import encode_program
from memcompile.report.facts import program_facts
from memcompile.runtime.training.hybrid_training import TuningOptions
from memcompile.tuning import TuningPlan

FIVE_LAYER = Path(__file__).parent.parent / "examples" / "five_layer_cnn.onnx"
FAST = {"effort": "fast", "objective": "arrays"}


@pytest.fixture(scope="module")
def program() -> memcompile.Program:  # type: ignore[name-defined]
    return memcompile.compile(FIVE_LAYER, effort="fast", objective="arrays", max_loss=None)


def test_dir_holds_the_public_names_and_nothing_else() -> None:
    names = ["Emulator", "Target", "__version__", "calibrate", "compile", "draw", "evaluate", "explore"]
    names += ["load", "report_page", "tune"]
    assert dir(memcompile) == names
    code = f"import memcompile; assert dir(memcompile) == {names}; [getattr(memcompile, n) for n in dir(memcompile)]"
    subprocess.run([sys.executable, "-c", f"{code}; assert dir(memcompile) == {names}"], check=True, timeout=60)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        memcompile.nothing  # noqa: B018


@pytest.mark.parametrize("name", ["calibrate", "compile", "evaluate", "explore", "load", "tune"])
def test_functions_have_real_keywords_and_say_what_they_mean(name: str) -> None:
    function = getattr(memcompile, name)
    parameters = inspect.signature(function).parameters.values()
    assert not any(item.kind in (item.VAR_KEYWORD, item.VAR_POSITIONAL) for item in parameters)
    assert all(item.annotation is not inspect.Parameter.empty for item in parameters)
    assert inspect.getdoc(function)


def test_compile_takes_what_the_command_line_takes() -> None:
    keywords = set(inspect.signature(memcompile.compile).parameters)
    options = {str(item.name) for item in cli.commands["compile"].params}
    otherwise_named = {"optimise", "time_limit", "reprogram"}
    reports = {"all_layers", "explain", "html", "json_path", "no_pager", "pareto", "quiet", "trace"}
    of_machine = {"memory"}
    printed_or_written = reports | {"dump_ir", "list_passes", "output"}
    of_tune = {"tune", "tune_images"}
    of_evaluate = {"accept", "emulated_images", "no_calibration", "images", "no_evaluation", "seeds"}
    of_trust = {"import_memory", "import_seconds", "no_check"}
    assert options - keywords == otherwise_named | printed_or_written | of_tune | of_evaluate | of_trust | of_machine


def test_save_load_and_evaluate(program: memcompile.Program, tmp_path: Path) -> None:  # type: ignore[name-defined]
    program.save(tmp_path / "p.mcp")
    loaded = memcompile.load(tmp_path / "p.mcp")
    assert encode_program(loaded) == encode_program(program)
    found = memcompile.evaluate(loaded, FIVE_LAYER, images=50, emulated_images=20, chips=2)
    assert found.accuracy is not None
    assert found.accuracy.seeds == 2
    assert found.accuracy.images == 50
    assert found.accuracy.reference > 0.9
    assert found.budget is not None
    assert "accuracy" in program_facts(loaded, found)
    without = memcompile.evaluate(loaded, FIVE_LAYER, images=50, emulated_images=20, chips=2, budget=False)
    assert without.budget is None
    assert without.accuracy is not None
    np.testing.assert_array_equal(without.accuracy.emulated, found.accuracy.emulated)


def test_load_checks_what_it_reads(program: memcompile.Program, tmp_path: Path) -> None:  # type: ignore[name-defined]
    tiles = program.placement.tiles
    moved = tiles.with_columns(output_line=tiles.output_line + 1)
    replace(program, placement=replace(program.placement, tiles=moved)).save(tmp_path / "p.mcp")
    with pytest.raises(ProgramError, match="line"):
        memcompile.load(tmp_path / "p.mcp")


def test_data_may_be_arrays(save_model: Callable[..., Path]) -> None:
    file = save_model(models.conv_bn())
    x = models.images((20, *models.SMALL["conv_bn"][1]))
    labels = np.arange(20) % 3
    calibrated = memcompile.compile(file, data={"x": x}, effort="fast")
    assert not any("generated" in note for note in calibrated.provenance.notes)
    found = memcompile.evaluate(calibrated, file, {"x": x, "labels": labels}, chips=1)
    assert found.accuracy is not None
    without = memcompile.evaluate(calibrated, file, {"anything": x}, chips=1)
    assert without.quality is not None
    with pytest.raises(DataError, match="arrays in memory: holds no array for each input"):
        memcompile.compile(file, data={"a": x[..., :1], "b": x[..., :2]})


def test_a_model_in_memory_is_compiled_like_its_file(save_model: Callable[..., Path]) -> None:
    model = models.conv_bn()
    before = model.SerializeToString()
    file = memcompile.compile(save_model(model), effort="fast")
    memory = memcompile.compile(model, effort="fast")
    assert model.SerializeToString() == before, "the caller's model stays as it is"
    same = replace(file, provenance=memory.provenance)
    assert encode_program(same) == encode_program(memory)
    assert memory.provenance.model == model.graph.name


def test_a_model_in_memory_with_weights_elsewhere_is_refused() -> None:
    model = models.conv_bn()
    onnx.external_data_helper.convert_model_to_external_data(model, size_threshold=0)
    for tensor in model.graph.initializer:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        onnx.external_data_helper.set_external_data(tensor, "weights.bin")
    with pytest.raises(ModelError, match="lies in a file beside the model; give the path of the model instead"):
        memcompile.compile(model)


def test_attributes_of_a_model_in_memory_name_no_files_either() -> None:
    model = models.conv_bn()
    outside = onnx.TensorProto(name="outside", data_type=onnx.TensorProto.FLOAT, dims=[1])
    outside.external_data.add(key="location", value="weights.bin")
    outside.data_location = onnx.TensorProto.EXTERNAL
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["outside"], value=outside))
    with pytest.raises(ModelError, match="tensor 'outside' lies in a file beside the model"):
        memcompile.compile(model)


def test_other_objects_are_no_networks() -> None:
    with pytest.raises(UsageError, match=r"a path, an onnx.ModelProto or a torch.nn.Module, and this is a int"):
        memcompile.compile(3)  # type: ignore[arg-type]


def test_a_torch_module_is_compiled() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.Dropout(0.5), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 5)
    )
    x = np.random.default_rng(0).normal(size=(6, 1, 6, 6)).astype(np.float32)
    program = memcompile.compile(module, "ideal", data={"input": x}, example_inputs=(x[:2],))
    assert module.training, "left in the mode it was in"
    (got,) = memcompile.Emulator(program).run(x).values()
    module.eval()
    assert np.abs(got - module(torch.as_tensor(x)).detach().numpy()).max() < 1e-5
    with pytest.raises(UsageError, match="give example_inputs"):
        memcompile.compile(module)
    with pytest.raises(ModelError, match="cannot be exported by PyTorch"):
        memcompile.compile(module, example_inputs=(x[:, :, :2, :2],))


def test_tune_takes_data_as_compile_does(program: memcompile.Program) -> None:  # type: ignore[name-defined]
    plan = TuningPlan(recalibration_images=20, options=TuningOptions(epochs=0))
    result = memcompile.tune(program, plan=plan, images=40)
    assert result.program.chip is not None
    assert result.fitted_images == 40
    with pytest.raises(UsageError, match="tuning needs real samples"):
        memcompile.tune(memcompile.compile(models.conv_bn(), effort="fast"))


def test_targets_load_and_change() -> None:
    hermes = memcompile.Target.load("hermes")
    coarse = hermes.with_(name="coarse", adc__bits=6, drift=None)
    assert (coarse.name, coarse.adc.bits, coarse.drift) == ("coarse", 6, None)
    assert hermes.adc.bits != 6
    assert coarse.sources["adc.bits"] == "changed in Python"
    with pytest.raises(TargetError, match=r"adc.bitz"):
        hermes.with_(adc__bitz=6)
    with pytest.raises(TargetError, match=r"cell.g_min_us"):
        hermes.with_(cell__g_min_us=1e6)


def test_objects_print_in_at_most_ten_lines(program: memcompile.Program) -> None:  # type: ignore[name-defined]
    compilation = compile_model(models.conv_bn(), settings=["replicate.effort=fast"])
    result = memcompile.tune(program, plan=TuningPlan(20, options=TuningOptions(epochs=0)), images=40)
    shown = [
        program,
        memcompile.Target.load("yao2020"),
        memcompile.Emulator(program),
        memcompile.Emulator.ideal(program),
        memcompile.evaluate(program, FIVE_LAYER, images=20, emulated_images=20, chips=1),
        compilation,
        compilation.dataset,
        result,
    ]
    for item in shown:
        lines = repr(item).splitlines()
        assert len(lines) <= 10, lines
        assert str(item) == repr(item)
        assert max(map(len, lines)) <= 140, lines
        assert item._repr_html_().startswith("<pre>")
    assert repr(program).startswith("Program of five_layer_cnn.onnx for yao2020, not transferred to a chip\n")

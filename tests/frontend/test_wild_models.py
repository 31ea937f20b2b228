"""Networks as other people exported them: what onnxruntime runs, every pass can run; the rest is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import exported
import numpy as np
import pytest
import stages
from numpy.typing import NDArray
from scripts import without_phases

from memcompile.cli.main import main
from memcompile.data.loader import load_dataset
from memcompile.errors import ModelError
from memcompile.frontend.importer import ModelFile, import_graph, read_model
from memcompile.ir.graph import PairedLayer, TensorType, fixed_batch
from memcompile.ir.pass_manager import Pass, with_options
from memcompile.pipelines import compile_model, default_passes
from memcompile.runtime.emulator import Emulator
from memcompile.verify.interpreter import Interpreter

pytestmark = pytest.mark.usefixtures("plain_kernels")

# Why onnxruntime refuses them.
REFUSED = {
    "mnist_cntk_zoo1": "not valid ONNX|onnxruntime cannot run",
    "superres_prepost_op18": "com.microsoft.extensions",
    "supres_ortjs": "ai.onnx.contrib",
}
# Crossbar layers of those that it runs.
LAYERS = {
    "burn_mnist_a": 5,
    "finn_tfc_w1a1": 4,
    "cnn_mnist_pytorch_ortjava": 4,
    "lr_mnist_scikit": 0,
    "mlperftiny_ad01_fp32": 10,
    "mlperftiny_keras_ad01": 10,
    "mlperftiny_keras_pretrainedResnet": 10,
    "mlperftiny_kws_ref_model": 10,
    "mlperftiny_pretrainedResnet_large_float": 10,
    "mlperftiny_pretrainedResnet_large_int8": 10,
    "mlperftiny_str_ww_ref_model": 9,
    "mlperftiny_vww_96_float": 28,
    "mnist_cntk_8": 3,
    "mnist_original_ortpy": 2,
    "ppocr_v3_det": 74,
    "qonnx_TFC_1W1A": 4,
    "qonnx_TFC_1W2A": 4,
    "qonnx_qkeras_jettagging": 4,
    "qonnx_unsw_nb15-mlp-w2a2": 4,
    "shufflenet-v2-12-int8": 57,
    "super_resolution_zoo": 4,
    "ultraface_RFB-320": 52,
    "ultraface_RFB-320_simplified": 52,
    "ultraface_RFB-320_without_postprocessing": 52,
    "ultraface_rfb320_zoo": 52,
    "ultraface_slim-320_simplified": 42,
    "wonnx_opt-mnist": 3,
    "yunet_n_320_320": 59,
    "yunet_s_320_320": 53,
    "yunet_s_dynamic": 53,
}
# Those with the largest images.
SLOW = {name for name in LAYERS if name.startswith(("ultraface", "ppocr", "yunet", "shufflenet"))}
SPATIAL, OTHER = 64, 16
Feeds = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def wild(shared_dir: Path) -> Path:
    return shared_dir / "models" / "wild"


def sample(file: ModelFile) -> Feeds:
    """One batch of made-up data; open sizes become small ones."""
    kinds = {
        name: TensorType(
            kind.dtype,
            tuple(
                size if size is not None or axis == 0 else SPATIAL if len(kind.shape) == 4 and axis >= 2 else OTHER
                for axis, size in enumerate(kind.shape)
            ),
        )
        for name, kind in file.inputs.items()
    }
    data = load_dataset(None, kinds, seed=1).calibration
    return {name: array[: fixed_batch(kinds.values()) or 1] for name, array in data.items()}


def test_every_file_is_listed(wild: Path) -> None:
    assert {path.stem for path in wild.glob("*.onnx")} == {*REFUSED, *LAYERS}


@pytest.mark.parametrize("name", REFUSED)
def test_what_onnxruntime_refuses_is_refused_with_one_message(
    wild: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = wild / f"{name}.onnx"
    with pytest.raises(ModelError, match=REFUSED[name]):
        read_model(path)
    assert main([str(path)]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("memcompile: error: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def assert_same_outputs(got: dict[str, Any], want: dict[str, Any], lossless: bool) -> None:
    """Names, types and shapes; and the values, where no pass was lossy yet.

    1e-4 of the largest magnitude; and 1e-6, because onnxruntime's sigmoid has such an absolute
    error. Whole numbers come from quantised networks: one level, where a sum rounds the other way.
    """
    assert list(got) == list(want)
    for name, value in want.items():
        if not isinstance(value, np.ndarray):
            assert got[name] == value or not lossless, name
            continue
        assert (got[name].dtype, got[name].shape) == (value.dtype, value.shape), name
        if lossless:
            floats = value.dtype.kind == "f"
            error = np.abs(got[name].astype(np.float64) - value.astype(np.float64)).max(initial=0)
            assert error <= (1e-4 * np.abs(value).max(initial=0) + 1e-6 if floats else 1), (name, error)


def quick_passes() -> tuple[Pass, ...]:
    """The passes up to cell levels, with quantisers found in a hurry."""
    settings = (
        "calibrate_activations.candidates=2",
        "calibrate_activations.values=1000",
        "quantize_weights.candidates=2",
    )
    names = [item.pass_name() for item in stages.passes_through("split_differential")]
    return with_options(default_passes(), settings)[: len(names)]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in LAYERS])
def test_what_onnxruntime_runs_can_be_run_after_every_pass(wild: Path, name: str) -> None:
    file = read_model(wild / f"{name}.onnx")
    feeds = sample(file)
    want = stages.reference(file.serialized(), feeds)
    graph = import_graph(file, feeds)
    assert_same_outputs(Interpreter(graph).run(feeds), want, lossless=True)
    lossless = True
    for item in quick_passes():
        before = graph.nodes
        graph = stages.run_verified(graph, (item,), stages.context_for(feeds))
        lossless &= item.pass_name() != "calibrate_activations"
        if graph.nodes != before:
            assert_same_outputs(Interpreter(graph).run(feeds), want, lossless)
    assert len([node for node in graph.nodes if isinstance(node, PairedLayer)]) == LAYERS[name]
    assert not any(node.kind == "BatchNormalization" for node in graph.nodes)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in LAYERS])
def test_outputs_on_the_ideal_target_are_those_of_onnxruntime(wild: Path, name: str) -> None:
    settings = ("replicate.objective=arrays", "replicate.effort=fast")
    compilation = compile_model(wild / f"{name}.onnx", "ideal", settings=settings)
    feeds = compilation.dataset.first_run
    want = stages.reference(compilation.model.serialized(), feeds)
    got: dict[str, Any] = dict(Emulator(compilation.program).run(feeds))
    tensors = {key: value for key, value in want.items() if isinstance(value, np.ndarray)}
    assert_same_outputs({key: got[key] for key in tensors}, tensors, lossless=True)


def run_commands(name: str, evaluation: str, output: str = "") -> None:
    assert main([f"{name}.onnx", *evaluation.split()]) == 0
    assert main(["run", f"{name}.yao2020.mcp", "--ideal", "--images", "4", *output.split()]) == 0
    assert main(["show", f"{name}.yao2020.mcp"]) == 0


@pytest.fixture
def bring(wild: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Go to an empty folder and put a model there."""
    monkeypatch.chdir(tmp_path)
    return lambda name: (tmp_path / f"{name}.onnx").symlink_to(wild / f"{name}.onnx")


@pytest.mark.parametrize("name", ["lr_mnist_scikit", "mnist_original_ortpy", "mlperftiny_ad01_fp32"])
def test_commands_work_on_them(bring: Callable[[str], None], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    bring(name)
    run_commands(name, "--no-evaluation")
    out, err = capsys.readouterr()
    assert without_phases(err) == ""
    assert out.startswith(f"{name}.onnx ")


def test_a_model_whose_output_is_a_map_is_evaluated(bring: Callable[[str], None]) -> None:
    bring("lr_mnist_scikit")
    run_commands("lr_mnist_scikit", "--seeds 1")


def test_predictions_of_a_model_whose_output_is_a_map_are_written(bring: Callable[[str], None]) -> None:
    bring("lr_mnist_scikit")
    run_commands("lr_mnist_scikit", "--no-evaluation", "-o y.npz")


@pytest.mark.parametrize(
    "name", ["lr_mnist_scikit", "mnist_cntk_8", "mlperftiny_kws_ref_model", "mlperftiny_pretrainedResnet_large_int8"]
)
def test_a_chip_that_runs_them_is_exported(wild: Path, name: str) -> None:
    settings = ("replicate.objective=arrays", "replicate.effort=fast")
    compilation = compile_model(wild / f"{name}.onnx", "yao2020", settings=settings, check=False)
    feeds = compilation.dataset.first_run
    exported.assert_agrees(compilation.program, feeds, seed=1)

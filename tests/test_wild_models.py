"""Networks as other people exported them: what onnxruntime runs, every pass can run; the rest is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stages
from numpy.typing import NDArray

from memcompile.cli import main
from memcompile.data import load_dataset
from memcompile.errors import ModelError
from memcompile.interpreter import Interpreter
from memcompile.ir import Graph, LinearLayer, TensorType, fixed_batch
from memcompile.onnx_import import ModelFile, import_graph, read_model
from memcompile.pass_manager import run_passes
from memcompile.verifier import Verifier

# Why onnxruntime refuses them.
REFUSED = {
    "finn_tfc_w1a1": "finn.custom_op.general",
    "mnist_cntk_zoo1": "not valid ONNX|onnxruntime cannot run",
    "qonnx_TFC_1W1A": "BipolarQuant|onnx.brevitas",
    "qonnx_TFC_1W2A": "Quant|onnx.brevitas",
    "qonnx_qkeras_jettagging": "finn.custom_op.general",
    "qonnx_unsw_nb15-mlp-w2a2": "onnx.brevitas",
    "superres_prepost_op18": "com.microsoft.extensions",
    "supres_ortjs": "ai.onnx.contrib",
}
# Crossbar layers of those that it runs.
LAYERS = {
    "burn_mnist_a": 5,
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
    "ppocr_v3_det": 72,
    "shufflenet-v2-12-int8": 0,
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


def outputs_of(graph: Graph, feeds: Feeds) -> dict[str, Any]:
    return Interpreter(graph).run(feeds)


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


@pytest.mark.parametrize("name", LAYERS)
def test_what_onnxruntime_runs_can_be_run_after_every_pass(wild: Path, name: str) -> None:
    file = read_model(wild / f"{name}.onnx")
    feeds = sample(file)
    want = stages.reference(file.serialized(), feeds)
    graph = import_graph(file, feeds)
    context = stages.context_for(feeds)
    for item in stages.passes_through("split_differential"):
        graph = run_passes(graph, (item,), context, (Verifier(),))
        got = outputs_of(graph, feeds)
        assert list(got) == list(want), item.pass_name()
        for output, value in want.items():
            assert type(got[output]) is type(value), (item.pass_name(), output)
            if isinstance(value, np.ndarray):
                assert (got[output].dtype, got[output].shape) == (value.dtype, value.shape), (item.pass_name(), output)
        if item.pass_name() in ("fold_constants", "select_crossbar_operators", "fold_batchnorm", "group_digital", "unroll_convolutions"):
            for output, value in want.items():
              if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                error = np.abs(got[output] - value).max() / np.abs(value).max()
                print(name, item.pass_name(), output, error)
    layers = [node for node in graph.nodes if hasattr(node, "geometry")]
    print(name, "layers", len(layers))

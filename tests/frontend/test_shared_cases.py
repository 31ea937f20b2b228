"""Small inputs that once went wrong, and networks as other people exported them: each does what its README says.

These files are not part of the repository; equals of them that never skip are in the tests of what they concern.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import stages

from memcompile.cli.main import main
from memcompile.data.loader import load_dataset
from memcompile.frontend.importer import read_model
from memcompile.pipelines import compile_model
from memcompile.program import file as program_file
from memcompile.program.file import load_program
from memcompile.program.program import Program
from memcompile.runtime.emulator import Emulator
from memcompile.verify.verifier import verify_program

pytestmark = pytest.mark.usefixtures("plain_kernels")


@dataclass(frozen=True)
class Case:
    """A file, how it is compiled, and what comes out.

    ``decibel`` is how much the quantised network's outputs are worth at least; on continuous cells they are
    onnxruntime's, to a ``level`` of values that the network itself quantises. ``layers`` are the crossbar layers, where
    that is the point, and ``share`` what they do of the multiply-adds at least.
    """

    file: str
    target: str = "ideal"
    data: str | None = None
    options: tuple[str, ...] = ()
    decibel: float = 0.0
    level: float = 0.0
    layers: int | None = None
    share: float | None = None
    slow: bool = False

    @property
    def name(self) -> str:
        """As the test shows it."""
        return " ".join((self.file, *((self.data,) if self.data else ()), self.target))


def several(folder: str, names: str, target: str = "ideal", **facts: object) -> list[Case]:
    """Cases that differ in their file only."""
    return [Case(f"{folder}/{name}", target, **facts) for name in names.split()]  # type: ignore[arg-type]


ONE_LAYER: Mapping[str, object] = {"layers": 1, "share": 1.0}
CASES = [
    *several(
        "cases/crossing_bound",
        "r_784_10_Flatten r_256_256_Relu r_256_256_none r_4096_10_Relu r_4096_10_none",
        "yao2020",
        decibel=16,
    ),
    *several("cases/dynamic_quant", "dynq", **ONE_LAYER),
    *several("cases/patterns", "dynqmatmul einsum fusedconv fusedmatmul if_const mulsum nbits", **ONE_LAYER),
    *several("cases/layernorm_old_opset", "ln12", **ONE_LAYER),
    *several("cases/state_not_batch", "lstm_cell_state"),
    *several("cases/graph_net", "gather_edges"),
    *several("cases/fp16_self_check", "fp16_1 fp16_2 fp16_16 fp16_64"),
    *several("cases/fp16_self_check", "fp16_1 fp16_2 fp16_16 fp16_64", "yao2020", decibel=16),
    *several("cases/half_precision_outputs", "depthwise gemm pointwise"),
    *several("cases/half_precision_outputs", "depthwise gemm pointwise", "yao2020", decibel=16),
    *several("cases/inputs_without_common_axis", "model boxes scalar"),
    Case("cases/inputs_without_common_axis/model", data="data"),
    Case("cases/inputs_without_common_axis/boxes", data="boxes"),
    Case("cases/inputs_without_common_axis/scalar", data="scalar"),
    *several("cases/unbatched_input", "model"),
    Case("cases/unbatched_input/model", data="data"),
    *several("cases/four_slices_without_data", "model", "hermes", options=("--slices", "4"), decibel=35),
    *several("cases/four_slices_without_data", "model", "neurram", options=("--slices", "4"), decibel=15),
    Case("cases/bias_of_exact_weights/model", "yao2020", "data", decibel=40),
    Case("models/wild2/dp_CCT_1_16_16_8", layers=9, share=0.57),
    Case("models/wild2/dp_CCT_1_32_32_32", layers=9, share=0.41),
    Case("models/wild2/hey_jarvis_v0.1", layers=3, share=0.67),
    Case("models/wild2/hey_jarvis_v0.1", "yao2020", decibel=8, layers=3),
    Case("models/wild2/melspectrogram"),
    Case("models/wild2/melspectrogram", "yao2020", decibel=10),
    Case("models/wild2/micro_kws_m_qdq", level=1 / 256, layers=6, share=1.0),
    Case("models/wild2/silero_vad"),
    Case("models/wild2/silero_vad_16k_sequence"),
    # 9 MB of weights: 15 s of processor time each.
    *several("models/wild2", "smart-turn-v3.2-cpu", level=1 / 256, slow=True),
    *several("models/wild2", "smart-turn-v3.2-cpu", "yao2020", decibel=10, slow=True),
    *several("models/wild2", "smart-turn-v3.2-cpu", "hermes", decibel=10, slow=True),
]
# Those whose value is no output of one command: the name of the test.
ELSEWHERE = {
    "cases/converter_range/m": "test_converter.py",
    "cases/default_digits/autoencoder784": "below",
    "cases/default_digits/flat64_regress1": "below",
    "cases/default_digits/flat64_to8": "below",
    "cases/gru_open/float_fixed": "below",
    "cases/gru_open/float_open": "below",
    "cases/many_tile_shapes/model": "below",
    "cases/sequences/across": "test_sequences.py",
    "cases/sequences/even": "test_sequences.py",
    "cases/sequences/zipmap": "test_sequences.py",
    "cases/three_slices/model": "test_slices_on_chips.py",
    "cases/tiny_resnet_slow/model": "below",
}


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def present(shared_dir: Path, file: str) -> Path:
    path = shared_dir / f"{file}.onnx"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def test_every_file_is_listed(shared_dir: Path) -> None:
    folders = [shared_dir / "cases", shared_dir / "models" / "wild2"]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip("no shared cases")
    found = {str(path.relative_to(shared_dir).with_suffix("")) for folder in folders for path in folder.rglob("*.onnx")}
    assert found == {case.file for case in CASES} | ELSEWHERE.keys()


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=[pytest.mark.slow] * case.slow) for case in CASES]
)
def test_it_compiles_and_computes_what_onnxruntime_does(
    case: Case,
    shared_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = present(shared_dir, case.file)
    if case.slow:  # to compress so many weights takes seconds
        monkeypatch.setattr(program_file, "_member", zipfile.ZipInfo)
    data = path.parent / f"{case.data}.npz" if case.data else None
    own = ["--data", str(data)] if data else []
    words = ["--target", case.target, "--effort", "fast", "--no-evaluation", "-o", "p.mcp", *case.options, *own]
    code = main([str(path), *words])
    assert code == 0, capsys.readouterr().err
    program = load_program(tmp_path / "p.mcp")
    run = Emulator.ideal(program).run
    dataset = load_dataset(data, program.inputs, batching=program.batching, classify=run, compiled=True)
    feeds = dataset.as_given if data else dataset.first_run
    got = run(feeds)
    for output, value in stages.reference(read_model(path).serialized(), feeds).items():
        assert (got[output].shape, got[output].dtype) == (value.shape, value.dtype)
        if program.target.cell.continuous:
            rounding = 1e-3 if value.dtype == np.float16 else 1e-5
            atol = max(rounding * np.abs(value).max(), case.level * 1.001)
            assert np.allclose(got[output], value, rtol=1e-4, atol=atol)
        else:
            assert stages.signal_to_noise_db(value, got[output]) > case.decibel
    if case.layers is not None:
        assert len(program.layers) == case.layers
    if case.share is not None:
        counted = program.provenance
        assert counted.multiply_adds
        assert counted.multiply_adds_on_arrays is not None
        assert counted.multiply_adds_on_arrays >= case.share * counted.multiply_adds


def crossing(program: Program) -> tuple[int, int]:
    """Values that cross chips, and the bound."""
    (found,) = (each for each in program.placement.certificates if each.quantity == "crossing_values")
    return found.value, found.bound


@pytest.mark.parametrize("size", ["256_256", "4096_10"])
def test_an_operator_on_the_network_input_makes_nothing_cross(size: str, shared_dir: Path) -> None:
    plain, behind = (
        compile_model(present(shared_dir, f"cases/crossing_bound/r_{size}_{kind}"), settings=("replicate.effort=fast",))
        for kind in ("none", "Relu")
    )
    assert crossing(plain.program) == crossing(behind.program)
    value, bound = crossing(plain.program)
    assert bound <= value


def test_networks_that_classify_no_digits_are_not_scored_on_them(shared_dir: Path) -> None:
    for name in ("autoencoder784", "flat64_regress1", "flat64_to8"):
        compilation = compile_model(present(shared_dir, f"cases/default_digits/{name}"))
        assert compilation.dataset.generated
        assert "no data" in compilation.warnings[0]


def test_an_open_length_becomes_the_one_given(shared_dir: Path) -> None:
    fixed = compile_model(present(shared_dir, "cases/gru_open/float_fixed")).program
    open_file = present(shared_dir, "cases/gru_open/float_open")
    program = compile_model(open_file, input_shapes={"x": (1, 10, 8)}).program
    assert [layer.name for layer in program.layers] == [layer.name for layer in fixed.layers]
    assert len(program.layers) > 10


# --- searches that once went on for minutes --------------------------------------------------------


@pytest.mark.parametrize("name", ["many_tile_shapes", "tiny_resnet_slow"])
def test_a_search_that_is_cut_short_leaves_a_sound_mapping(name: str, shared_dir: Path) -> None:
    """Mappings hold however short the search; `python -m benchmarks.networks` measures its time."""
    program = verify_program(compile_model(present(shared_dir, f"cases/{name}/model"), time_limit_s=1.0).program)
    for certificate in program.placement.certificates:
        assert certificate.bound <= certificate.value

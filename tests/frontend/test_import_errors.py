"""Whatever is wrong with model, data, target, program or options: one message, one exit code, nothing written."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
import stages
from models import dyadic, float_model, make, node
from onnx import TensorProto, helper, numpy_helper
from scripts import without_phases

from memcompile.cli.main import main
from memcompile.errors import EXIT_CODES, MemcompileError, ModelError
from memcompile.frontend.importer import read_model
from memcompile.frontend.validation import MAX_MODEL_BYTES
from memcompile.pipelines import emit_program
from memcompile.program.file import encode_program
from memcompile.program.program import Provenance

RNG = np.random.default_rng(61)
X = {"x": models.images((4, 6))}
WEIGHTS = {"w": dyadic(RNG, (6, 3)), "b": dyadic(RNG, (3,))}
Refuse = Callable[..., str]


def gemm(shape: tuple[Any, ...] = ("N", 6), **weights: np.ndarray) -> onnx.ModelProto:
    return declared([node("Gemm", "x w b", "y")], shape, {**WEIGHTS, **weights})


def declared(
    nodes: list[onnx.NodeProto], shape: tuple[Any, ...] = ("N", 6), weights: dict[str, np.ndarray] | None = None
) -> onnx.ModelProto:
    """A model whose output is declared a matrix, whatever the nodes say."""
    return make(nodes, {"x": (TensorProto.FLOAT, shape)}, {"y": (TensorProto.FLOAT, (None, None))}, weights)


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a folder: size and first megabyte of each file."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                found[str(path.relative_to(folder))] = (path.stat().st_size, stream.read(1_000_000))
    return found


@pytest.fixture
def refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Refuse]:
    """Run a command that must fail with this exit code and one message that has these parts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")  # nothing here is worth compiling kernels for

    def run(code: int, arguments: str | list[str], *parts: str) -> str:
        before = tree(tmp_path)
        assert main(arguments.split() if isinstance(arguments, str) else arguments) == code
        out, err = capsys.readouterr()
        err = without_phases(err)
        assert out == ""
        assert err.startswith("memcompile: error: ") or (code == 2 and err.startswith(("Usage: ", "Error: ")))
        assert err.count("memcompile: error: ") + err.count("\nError: ") <= 1
        assert "Traceback" not in err
        for part in parts:
            assert part in err, err
        assert tree(tmp_path) == before, "something was written"
        assert code in EXIT_CODES
        return err

    yield run


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, Any], None]:
    """Write a file into the working directory."""

    def write(name: str, content: Any) -> None:
        if isinstance(content, onnx.ModelProto):
            content = content.SerializeToString()
        if isinstance(content, dict):
            np.savez(tmp_path / name, **content)
        else:
            (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return write


# --- models ------------------------------------------------------------------------------------


def test_missing_model(refuse: Refuse) -> None:
    refuse(3, "nothing.onnx", "nothing.onnx does not exist", "give the path of an .onnx file")


def test_directory_as_model(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    refuse(3, "folder.onnx", "folder.onnx is a directory")


def test_input_without_a_type(refuse: Refuse, put: Callable[[str, Any], None]) -> None:
    """Its sizes stand among those of values between operators."""
    nodes = [node("Conv", "x w", "h", kernel_shape=[3, 3]), node("Relu", "h", "y")]
    weights = {"w": dyadic(RNG, (4, 3, 3, 3))}
    kind = (TensorProto.FLOAT, ("N", 3, 6, 6))
    model = make(nodes, {"x": kind}, {"y": (TensorProto.FLOAT, ("N", 4, 4, 4))}, weights)
    model.graph.input[0].ClearField("type")
    model.graph.value_info.append(helper.make_tensor_value_info("x", *kind))
    put("m.onnx", model)
    refuse(3, "m.onnx", "onnxruntime cannot run m.onnx", "type information")


def test_model_larger_than_protobuf_allows(refuse: Refuse, tmp_path: Path) -> None:
    with (tmp_path / "m.onnx").open("wb") as stream:
        stream.truncate(MAX_MODEL_BYTES + 1)
    refuse(3, "m.onnx", "2147483649 bytes", "external data")


def edited(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = gemm()
    change(model)
    return model


def with_sequence_input() -> onnx.ModelProto:
    model = make(
        [node("SequenceAt", "s zero", "y")],
        {"s": (TensorProto.FLOAT, ("N", 6))},
        {"y": (TensorProto.FLOAT, ("N", 6))},
        {"zero": np.array(0, np.int64)},
    )
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 6])
    model.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(element))
    return model


def with_missing_external_data() -> onnx.ModelProto:
    model = gemm()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return model


def constant_nan() -> onnx.ModelProto:
    weight = WEIGHTS["w"].copy()
    weight[2, 1] = np.nan
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(weight, "c"))
    return float_model([constant, node("Gemm", "x c b", "y")], ("N", 6), WEIGHTS)


BAD_MODELS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "empty file": (b"", ("holds no ONNX graph",)),
    "text": ("this is no model at all\n", ("is not an ONNX file",)),
    "zeros": (bytes(100), ("is not an ONNX file",)),
    "truncated": (gemm().SerializeToString()[:150], ("is not an ONNX file, or it is truncated",)),
    "undefined value": (declared([node("Gemm", "x nothing", "y")]), ("not valid ONNX", "nothing")),
    "no opset": (edited(lambda model: model.ClearField("opset_import")), ("not valid ONNX",)),
    "no IR version": (edited(lambda model: model.ClearField("ir_version")), ("not valid ONNX",)),
    "IR version of the future": (edited(lambda model: setattr(model, "ir_version", 99)), ("m.onnx",)),
    "opset of the future": (edited(lambda model: setattr(model.opset_import[0], "version", 99)), ("m.onnx",)),
    "value made twice": (edited(lambda model: model.graph.node.append(model.graph.node[0])), ("not valid ONNX",)),
    "unknown operator": (declared([node("Frobnicate", "x", "y")]), ("not valid ONNX", "Frobnicate")),
    "operator of an unknown domain": (
        make(
            [node("Quant", "x", "y", domain="elsewhere")],
            {"x": (TensorProto.FLOAT, ("N", 6))},
            {"y": (TensorProto.FLOAT, ("N", 6))},
            extra_opsets=[("elsewhere", 1)],
        ),
        ("onnxruntime cannot run", "Quant"),
    ),
    "shapes that contradict": (gemm(("N", 5)), ("onnxruntime cannot run",)),
    "NaN weights": (gemm(w=np.full((6, 3), np.nan, np.float32)), ("'w' holds 18 NaN values", "train or export")),
    "NaN in a Constant node": (constant_nan(), ("layer 'Gemm_y' has weights that are NaN or infinite",)),
    "infinite weights": (gemm(b=np.full(3, np.inf, np.float32)), ("layer 'Gemm_y' has weights that are NaN or inf",)),
    "sequence input": (with_sequence_input(), ("input 's' has type seq(tensor(float))",)),
    "string input": (
        make([node("Identity", "x", "y")], {"x": (TensorProto.STRING, ("N",))}, {"y": (TensorProto.STRING, ("N",))}),
        ("input 'x' has type tensor(string)",),
    ),
    "missing external data": (
        with_missing_external_data(),
        ("in external data 'weights.bin', which does not exist",),
    ),
    "reshape that never fits": (
        float_model([node("Reshape", "x shape", "y")], ("N", 6), {"shape": np.array([-1, 4], np.int64)}),
        ("onnxruntime cannot run m.onnx on inputs of shape x [1, 6]", "--input-shape"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_MODELS)
def test_bad_model(refuse: Refuse, put: Callable[[str, Any], None], what: str) -> None:
    content, parts = BAD_MODELS[what]
    put("m.onnx", content)
    refuse(3, "m.onnx", "m.onnx", *parts)


def test_a_model_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = gemm().SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError, match=r"m\.onnx"):
            read_model(path)


def test_a_model_with_any_damaged_byte_is_read_or_refused(tmp_path: Path) -> None:
    """A changed weight is still a model; whatever else happens must be our own error."""
    data = gemm().SerializeToString()
    path = tmp_path / "m.onnx"
    outcomes = {True: 0, False: 0}
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(RNG.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            file = read_model(path)
            stages.import_graph(file, X)
        except MemcompileError:
            outcomes[False] += 1
        except KeyError as error:
            assert error.args[0] in file.inputs, "an input was renamed"
        else:
            outcomes[True] += 1
    assert outcomes[False] > 50
    assert outcomes[True] > 20


# --- data --------------------------------------------------------------------------------------

BAD_DATA: dict[str, tuple[Any, tuple[str, ...]]] = {
    "wrong shape": ({"x": np.zeros((5, 7), np.float32)}, ("input 'x'", "of shape [6]", "of shape [7]")),
    "wrong rank": ({"x": np.zeros((5,), np.float32)}, ("x",)),
    "no array for the input": ({"a": np.zeros((5, 7)), "b": np.zeros((5, 8))}, ("holds no array for each input",)),
    "NaN": ({"x": np.full((5, 6), np.nan, np.float32)}, ("NaN",)),
    "text": ({"x": np.array([["a"] * 6])}, ("x",)),
    "no samples": ({"x": np.zeros((0, 6), np.float32)}, ("no samples",)),
    "labels of another length": ({"x": np.zeros((5, 6), np.float32), "labels": np.zeros(4, int)}, ("labels 4",)),
    "not an npz": ("hello", ("d.npz",)),
    "pickled": ({"x": np.array([{"a": 1}], object)}, ("d.npz",)),
}


@pytest.mark.parametrize("what", BAD_DATA)
def test_bad_data(refuse: Refuse, put: Callable[[str, Any], None], what: str) -> None:
    content, parts = BAD_DATA[what]
    put("m.onnx", gemm())
    put("d.npz", content)
    refuse(4, "m.onnx --data d.npz --seeds 1", *parts)


def test_missing_data(refuse: Refuse, put: Callable[[str, Any], None]) -> None:
    put("m.onnx", gemm())
    refuse(4, "m.onnx --data d.npz", "d.npz")


def test_empty_data_directory(refuse: Refuse, put: Callable[[str, Any], None], tmp_path: Path) -> None:
    put("m.onnx", gemm())
    (tmp_path / "d").mkdir()
    refuse(4, "m.onnx --data d", "holds neither MNIST's test part")


def test_data_of_a_size_that_only_the_layers_refuse(refuse: Refuse, put: Callable[[str, Any], None]) -> None:
    """Height and width are free, but the dense layer was trained for one size."""
    nodes = [node("Flatten", "x", "f"), node("Gemm", "f w b", "y")]
    put("m.onnx", float_model(nodes, ("N", 1, "H", "W"), WEIGHTS))
    put("d.npz", {"x": np.ones((4, 1, 3, 3), np.float32)})
    refuse(3, "m.onnx --data d.npz", "on inputs of shape x [1, 1, 3, 3]", "give matching data with --data")


def test_data_that_become_infinite_inside_the_model(refuse: Refuse, put: Callable[[str, Any], None]) -> None:
    nodes = [node("Log", "x", "l"), node("Gemm", "l w b", "g"), node("Gemm", "g v", "y")]
    put("m.onnx", declared(nodes, weights={**WEIGHTS, "v": dyadic(RNG, (3, 2))}))
    put("d.npz", {"x": np.zeros((4, 6), np.float32)})
    refuse(4, "m.onnx --data d.npz", "value 'l' becomes NaN or infinite", "--mean")


def test_model_without_inputs(refuse: Refuse, put: Callable[[str, Any], None]) -> None:
    put("m.onnx", make([node("Relu", "b", "y")], {}, {"y": (TensorProto.FLOAT, (3,))}, WEIGHTS))
    refuse(4, "m.onnx", "no input")


# --- targets, budget, options ------------------------------------------------------------------


def test_bad_target_lists_all_its_errors(refuse: Refuse, put: Callable[[str, Any], None]) -> None:
    put("m.onnx", gemm())
    put("t.toml", 'name = "t"\n[array]\ninput_lines = 0\noutput_lines = 7.5\ncells = 3\n')
    message = refuse(5, "m.onnx --target t.toml", "target t.toml has 12 errors", "array.input_lines = 0", "title")
    assert message.count("\n  - ") == 12


def test_missing_target(refuse: Refuse, put: Callable[[str, Any], None]) -> None:
    put("m.onnx", gemm())
    refuse(5, "m.onnx --target t.toml", "t.toml cannot be read")
    refuse(2, "m.onnx --target nope", "no target is called 'nope'", "yao2020")


def test_network_beyond_the_budget(refuse: Refuse, put: Callable[[str, Any], None]) -> None:
    put("m.onnx", float_model([node("MatMul", "x w", "y")], ("N", 600), {"w": dyadic(RNG, (600, 64))}))
    refuse(7, "m.onnx --chips 2", "needs 38 arrays, 2 chips have 16", "MatMul_y (38 arrays)", "--chips 5")


BAD_OPTIONS: dict[str, tuple[str, ...]] = {
    "m.onnx --frobnicate": ("No such option", "--frobnicate"),
    "m.onnx another.onnx": ("unexpected extra argument",),
    "compile": ("Missing argument", "MODEL"),
    "m.onnx --chips 0": ("chips = 0",),
    "m.onnx --chips many": ("'many' is neither a number nor auto",),
    "m.onnx --slices 0": ("slices = 0",),
    "m.onnx --slices 5": ("slices = 5",),
    "m.onnx --slice-base 1": ("slice base = 1",),
    "m.onnx --slice-base 16": ("slice base = 16",),
    "m.onnx --seed -1": ("seed = -1",),
    "m.onnx --seed one": ("'one' is not a valid integer",),
    "m.onnx --images 0": ("0 is not in the range",),
    "m.onnx --mean a,b": ("'a,b' is not a list of numbers",),
    "m.onnx --set place": ("is not of the form PASS.OPTION=VALUE",),
    "m.onnx --set nowhere.limit=1": ("no pass is called 'nowhere'", "fold_constants"),
    "m.onnx --set place.colour=1": ("no option 'colour'",),
    "m.onnx --set quantize_weights.candidates=many": ("quantize_weights.candidates = many: should be a valid integer",),
    "m.onnx --set tile_matrices.bundle_groups=2": ("tile_matrices.bundle_groups = 2: should be a valid boolean",),
    "m.onnx --input-shape x": ("is not of the form INPUT=1,3,224,224",),
    "m.onnx --input-shape z=1,6": ("no input 'z'", "its inputs are x"),
    "m.onnx --input-shape x=1,7": ("--input-shape gives [1, 7], which does not fit",),
    "m.onnx --input-shape x=6": ("--input-shape gives [6], which does not fit",),
    "m.onnx -o missing/p.mcp": ("the folder missing does not exist",),
    "m.onnx -o .": ("is a directory",),
    "m.onnx --dump-ir m.onnx": ("--dump-ir m.onnx",),
    "m.onnx --dump-ir m.onnx/ir": ("--dump-ir m.onnx/ir",),
    "show": ("Missing argument",),
    "run": ("Missing argument",),
    "run p.mcp --executor slow": ("'slow' is not one of",),
    "run p.mcp -o missing/y.npz": ("the folder missing does not exist",),
    "show p.mcp --weight Conv_c1 0": ("requires 3 arguments",),
    "show p.mcp --weight nowhere 0 0": ("no crossbar layer is called 'nowhere'", "Conv_c1, Conv_c2, Gemm_y"),
    "show p.mcp --weight Conv_c1 3 0": ("no output channel 3; they count from 0 to 2",),
    "show p.mcp --weight Conv_c1 0 18": ("no kernel input 18; they count from 0 to 17",),
    "show p.mcp --weight Conv_c1 x 0": ("are numbers that count from 0",),
}  # fmt: skip


@pytest.fixture(scope="module")
def program_data() -> bytes:
    feeds = {"x": models.images((2, 2, 6, 6))}
    graph = stages.after("schedule", models.conv_bn(), feeds)
    return encode_program(emit_program(graph, stages.context_for(feeds), Provenance("m", "0" * 64, "1", {})))


@pytest.mark.parametrize("arguments", BAD_OPTIONS)
def test_bad_options(refuse: Refuse, put: Callable[[str, Any], None], program_data: bytes, arguments: str) -> None:
    put("m.onnx", gemm())
    put("p.mcp", program_data)
    refuse(2, arguments, *BAD_OPTIONS[arguments])


def test_json_into_a_missing_folder(refuse: Refuse, put: Callable[[str, Any], None]) -> None:
    put("m.onnx", gemm())
    refuse(2, "m.onnx --json missing/r.json", "missing")


# --- programs ----------------------------------------------------------------------------------


def another_version(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "program.json":
                content = json.dumps({**json.loads(content), "version": 99}).encode()
            new.writestr(name, content)
    return buffer.getvalue()


BAD_PROGRAMS: dict[str, tuple[Callable[[bytes], bytes], tuple[str, ...]]] = {
    "truncated": (lambda data: data[:-100], ("p.mcp is damaged or no program file",)),
    "damaged": (lambda data: data[:500] + b"xxxx" + data[504:], ("p.mcp", "compile the model again")),
    "another version": (another_version, ("version 99, this memcompile reads version",)),
    "a model": (lambda data: gemm().SerializeToString(), ("p.mcp is damaged or no program file",)),
}


@pytest.mark.parametrize("command", ["run p.mcp", "show p.mcp", "export p.mcp --npz c.npz", "tune p.mcp"])
@pytest.mark.parametrize("what", [*BAD_PROGRAMS, "missing"])
def test_bad_program(
    refuse: Refuse, put: Callable[[str, Any], None], program_data: bytes, command: str, what: str
) -> None:
    if what == "missing":
        refuse(6, command, "p.mcp does not exist")
        return
    damage, parts = BAD_PROGRAMS[what]
    put("p.mcp", damage(program_data))
    refuse(6, command, *parts)


def test_data_that_does_not_fit_the_program(
    refuse: Refuse, put: Callable[[str, Any], None], program_data: bytes
) -> None:
    put("p.mcp", program_data)
    put("d.npz", {"x": np.zeros((5, 2, 6, 7), np.float32)})
    refuse(4, "run p.mcp --data d.npz", "[2, 6, 7]")

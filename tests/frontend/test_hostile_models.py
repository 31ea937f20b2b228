"""Models that ask for too much, point outside their folder or contradict themselves: refused in one message."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz
import models
import numpy as np
import onnx
import pytest
import stages
from fuzz_inputs import MUTATORS, mutated
from models import dyadic, float_model, loop, make, node, with_large
from onnx import TensorProto, helper, numpy_helper

import memcompile
from memcompile.errors import DataError, ModelError
from memcompile.frontend.importer import read_model
from memcompile.frontend.sandbox import GIB, GuardError, Limits, WorkError, run_guarded
from memcompile.pipelines import compile_model
from memcompile.report.evaluation import evaluate

FLOAT = TensorProto.FLOAT
LIMITS = Limits(seconds=20, memory_bytes=GIB)
W = dyadic(np.random.default_rng(3), (4, 2))
Save = Callable[..., Path]


@pytest.fixture(autouse=True)
def _plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")  # nothing here is worth compiling kernels for


def f32(value: float) -> np.ndarray:
    return np.array(value, np.float32)


BOMBS: dict[str, onnx.ModelProto] = {
    "ConstantOfShape": with_large(node("ConstantOfShape", "z", "l"), z=[10**6, 10**6]),
    "Expand": with_large(node("Expand", "x z", "l"), z=[10**10, 1, 4]),
    "Tile": with_large(node("Tile", "x z", "l"), z=[10**8, 2]),
    "RandomNormal": with_large(helper.make_node("RandomNormal", [], ["l"], shape=[10**5, 10**5])),
    "Range": with_large(node("Range", "a b d", "l"), a=f32(0), b=f32(1e12), d=f32(1)),
    "Resize": with_large(
        node("Reshape", "x z", "q"),
        node("Resize", "q none f", "l"),
        z=[1, 1, -1, 4],
        none=np.array([], np.float32),
        f=np.array([1, 1, 1e5, 1e5], np.float32),
    ),
    "Pad": with_large(node("Pad", "x z", "l"), z=[0, 0, 10**6, 10**6]),
    "OneHot": with_large(
        node("Cast", "x", "i", to=TensorProto.INT64),
        node("OneHot", "i d v", "l"),
        d=np.int64(10**11),
        v=np.array([0, 1], np.float32),
    ),
    "a loop that doubles": loop(60, node("Concat", "v v", "vo", axis=0)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_memory_is_limited(name: str, save_model: Save) -> None:
    with pytest.raises(ModelError, match=r"takes more than 1 GiB of memory; if you trust the model, raise"):
        compile_model(save_model(BOMBS[name]), "ideal", limits=LIMITS)


def test_time_is_limited(save_model: Save) -> None:
    path = save_model(loop(2**62, node("Neg", "v", "vo")))
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"running a sample takes more than 0.5 s; .* raise --import-seconds"):
        compile_model(path, "ideal", limits=Limits(seconds=0.5))
    assert time.monotonic() - began < 20  # the helper may have to be started


def test_without_limits_a_model_is_run_in_this_process(save_model: Save) -> None:
    assert compile_model(save_model(models.matmul_add()), "ideal").model.limits is None


# --- the guard ---------------------------------------------------------------------------------


def test_answers_and_errors_come_back() -> None:
    assert run_guarded(sorted, ([3, 1, 2],), LIMITS) == [1, 2, 3]
    with pytest.raises(WorkError, match="invalid literal for int"):
        run_guarded(int, ("x",), LIMITS)


def test_a_crash_is_an_error() -> None:
    with pytest.raises(GuardError, match=r"crashes onnxruntime \(SIGABRT\)"):
        run_guarded(os.abort, (), LIMITS)


def test_work_without_memory_or_end() -> None:
    with pytest.raises(GuardError, match="more than 1 GiB of memory"):
        run_guarded(bytearray, (2 * GIB,), LIMITS)
    with pytest.raises(GuardError, match=r"more than 0.2 s"):
        run_guarded(time.sleep, (60,), Limits(seconds=0.2))


# --- declared sizes ----------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [[4, 10**15], [4, 2**62], [2**40, 2**40]])
def test_sizes_that_an_initializer_only_declares(dims: list[int], save_model: Save) -> None:
    model = float_model([node("MatMul", "x w", "y")], ("N", 4), {"w": W})
    model.graph.initializer[0].dims[:] = dims
    with pytest.raises(ModelError):
        read_model(save_model(model), LIMITS)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((1, 10**12), "more than the limit"), ((100, 10**7), "made-up samples of 8,000,000,000 bytes")],
)
def test_inputs_too_large_to_be_made_up(shape: tuple[int, ...], reason: str, save_model: Save) -> None:
    with pytest.raises(DataError, match=reason):
        compile_model(save_model(float_model([node("Relu", "x", "y")], shape, {})), limits=LIMITS)


def test_layers_of_too_many_positions(save_model: Save) -> None:
    nodes = [node("Expand", "x z", "q"), node("MatMul", "q w", "y")]
    path = save_model(float_model(nodes, (1, 4), {"z": np.array([1, 5 * 10**6, 4], np.int64), "w": W}))
    with pytest.raises(ModelError, match=r"layer 'MatMul_y' has 5,000,000 output positions .* the limit is 4,194,304"):
        compile_model(path)


# --- nesting -----------------------------------------------------------------------------------


def with_functions(count: int, calls: int, last: str = "Relu") -> onnx.ModelProto:
    """A chain of functions, each of which calls the next one some times."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = []
    for number in range(count):
        end = number == count - 1
        kind, domain = (last, "own" if last == "f0" else "") if end else (f"f{number + 1}", "own")
        names = [f"v{place}" for place in range((1 if end else calls) + 1)]
        body = [helper.make_node(kind, [a], [b], domain=domain) for a, b in itertools.pairwise(names)]
        functions.append(helper.make_function("own", f"f{number}", names[:1], names[-1:], body, opsets))
    model = make(
        [helper.make_node("f0", ["x"], ["y"], domain="own")],
        {"x": (FLOAT, ("N", 4))},
        {"y": (FLOAT, ("N", 4))},
        extra_opsets=[("own", 1)],
    )
    model.functions.extend(functions)
    return model


@pytest.mark.parametrize(
    ("count", "calls", "last", "reason"),
    [
        (40, 2, "Relu", "written out it has 549755813888 operators, the limit is 1000000"),
        (100, 1, "Relu", "nested more than 50 deep"),
        (1, 1, "f0", "nested more than 50 deep"),
        (3, 2, "f0", "nested more than 50 deep"),
    ],
)
def test_functions_without_end(count: int, calls: int, last: str, reason: str, save_model: Save) -> None:
    with pytest.raises(ModelError, match=reason):
        read_model(save_model(with_functions(count, calls, last)))


def test_functions_of_another_version(save_model: Save) -> None:
    """The version of a domain that only this file knows means nothing; that of ONNX is converted."""
    model = with_functions(2, 1)
    model.opset_import[1].version = 16
    model.functions[0].opset_import[1].version = 2
    model.functions[1].opset_import[0].version = 15
    file = read_model(save_model(model))
    assert [item.op_type for item in file.model.graph.node] == ["Relu"]
    assert not file.model.functions


def test_functions_that_cannot_be_converted(save_model: Save) -> None:
    model = with_functions(1, 1)
    model.functions[0].opset_import[0].version = 100
    with pytest.raises(ModelError, match="function"):
        read_model(save_model(model))


def test_weights_in_segments(save_model: Save) -> None:
    """onnxruntime reads them as if they were whole, onnx does not."""
    model = models.matmul_add()
    model.graph.initializer[0].segment.begin = 1
    with pytest.raises(ModelError, match=r"cannot be read: .*segments"):
        read_model(save_model(model))


def test_attributes_that_refer_to_no_function(save_model: Save) -> None:
    model = models.conv_bn()
    model.graph.node[0].attribute[0].ref_attr_name = "pads"
    with pytest.raises(ModelError):
        read_model(save_model(model))


@pytest.mark.filterwarnings("error")
def test_products_beyond_float32(save_model: Save) -> None:
    """Every weight is finite and onnxruntime runs the model, but no scale could be stored."""
    nodes = [node("MatMul", "x w", "m"), node("MatMul", "m v", "c"), node("Clip", "c low high", "y")]
    weights = {"w": W * np.float32(1e30), "v": np.full((2, 2), 1e30, np.float32), "low": f32(-1), "high": f32(1)}
    with pytest.raises(ModelError, match="'MatMul_c' has weights and inputs whose products are beyond float32"):
        compile_model(save_model(float_model(nodes, ("N", 4), weights)))


def test_an_output_beyond_float32_is_no_miscompile(save_model: Save) -> None:
    """A product of 3.4e38 is infinite or not depending on how it is rounded; either is right."""
    nodes = [node("MatMul", "x w", "c"), node("Clip", "c low high", "y")]
    weights = {"w": W * np.float32(3e38), "low": f32(-1), "high": f32(1)}
    assert compile_model(save_model(float_model(nodes, ("N", 4), weights))).program.layers


def test_a_batch_that_an_operator_empties(save_model: Save, tmp_path: Path) -> None:
    nodes = [node("Slice", "x none none2", "e"), node("MatMul", "e w", "y")]
    weights = {"none": np.array([0], np.int64), "none2": np.array([0], np.int64), "w": W}
    np.savez(tmp_path / "d.npz", x=models.images((4, 4)))
    path = save_model(float_model(nodes, ("N", 4), weights))
    assert compile_model(path, data=tmp_path / "d.npz").program.outputs == ("y",)


def test_a_batch_that_onnxruntime_cannot_run(save_model: Save, tmp_path: Path) -> None:
    """Eight samples have a row in a table, 32 do not."""
    nodes = [node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Range", "zero n one", "places")]
    nodes += [node("Gather", "table places", "t"), node("Add", "x t", "q"), node("MatMul", "q w", "y")]
    np.savez(tmp_path / "d.npz", x=models.images((32, 4)))
    own = {"zero": np.array(0), "one": np.array(1), "table": models.images((8, 4)), "w": W}
    path = save_model(float_model(nodes, ("N", 4), own))
    with pytest.raises(ModelError, match=r"onnxruntime cannot run .* on inputs of shape x \[32, 4\]: .* fewer samples"):
        compile_model(path, data=tmp_path / "d.npz")


def test_functions_with_an_end(save_model: Save) -> None:
    assert len(read_model(save_model(with_functions(5, 3))).model.graph.node) == 81


# --- external data -----------------------------------------------------------------------------


def external(folder: Path, name: str = "model.onnx", **entries: str) -> Path:
    """Save a model whose weight is in another file."""
    model = float_model([node("MatMul", "x w", "y")], ("N", 4), {"w": W})
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    (folder / name).write_bytes(model.SerializeToString())
    return folder / name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with weights, beside other files and links to them."""
    inside = tmp_path / "inside"
    (inside / "below").mkdir(parents=True)
    for place in (inside, inside / "below", tmp_path):
        (place / "w.bin").write_bytes(b"\0" * 8 + W.tobytes())
    (inside / "link.bin").symlink_to(tmp_path / "w.bin")
    (inside / "linked").symlink_to(tmp_path)
    (inside / "circle").symlink_to(inside / "circle")
    os.mkfifo(inside / "pipe")
    return inside


@pytest.mark.parametrize("location", ["w.bin", "below/w.bin", "./w.bin"])
def test_external_data_inside_the_folder(folder: Path, location: str) -> None:
    file = read_model(external(folder, location=location, offset="8", length="32"))
    assert np.array_equal(numpy_helper.to_array(file.model.graph.initializer[0]), W)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("../w.bin", "outside the model's directory"),
        ("below/../../w.bin", "outside the model's directory"),
        ("/etc/passwd", "outside the model's directory"),
        ("C:\\w.bin", "outside the model's directory"),
        ("..\\w.bin", "outside the model's directory"),
        ("link.bin", "outside the model's directory"),
        ("linked/w.bin", "outside the model's directory"),
        ("nothing.bin", "does not exist"),
        ("below", "no regular file"),
        ("pipe", "no regular file"),
        ("", "no regular file"),
        ("circle", "cannot be read"),
        ("w.bin/w.bin", "cannot be read"),
        ("w.bin\0", "cannot be read"),
    ],
)
def test_external_data_elsewhere(folder: Path, location: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        read_model(external(folder, location=location))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"offset": "8", "length": "33"}, "from byte 8 to 41, but the file has 40 bytes"),
        ({"offset": "41"}, "from byte 41 to 41, but the file has 40"),
        ({"offset": "-8"}, "offset '-8' is not a number of bytes"),
        ({"length": "1e3"}, "length '1e3' is not a number of bytes"),
        ({"length": "9" * 30}, "is not a number of bytes"),
        ({"length": "9" * 18}, "but the file has 40 bytes"),
        ({"length": "4"}, "model.onnx"),
    ],
)
def test_external_data_of_another_size(folder: Path, entries: dict[str, str], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        read_model(external(folder, location="w.bin", **entries))


# --- contradictions ----------------------------------------------------------------------------


def test_wrong_shapes_inside_a_model_are_not_believed(save_model: Save, tmp_path: Path) -> None:
    """onnxruntime takes declared shapes over its own; a digital group would then expect what never comes."""
    nodes = [node("Conv", "x k", "c"), node("Relu", "c", "r"), node("Conv", "r k", "d"), node("Sigmoid", "d", "y")]
    model = float_model(nodes, ("N", 1, 8, 8), {"k": np.ones((1, 1, 3, 3), np.float32)})
    for name in ("c", "r"):
        model.graph.value_info.append(helper.make_tensor_value_info(name, FLOAT, ["N", 1, 8, 8]))
    np.savez(tmp_path / "d.npz", x=models.images((4, 1, 8, 8)))
    program = compile_model(save_model(model), data=tmp_path / "d.npz").program
    assert [layer.geometry.input_size for layer in program.layers] == [(8, 8), (6, 6)]


def test_a_model_without_outputs(save_model: Save) -> None:
    model = models.matmul_add()
    del model.graph.output[:]
    with pytest.raises(ModelError, match="has no outputs"):
        read_model(save_model(model))


def test_names_that_are_no_text(save_model: Save) -> None:
    path = save_model(models.matmul_add())
    data = path.read_bytes()
    name = models.matmul_add().graph.node[0].name.encode()
    path.write_bytes(data.replace(name, b"\xff" + name[1:]))
    with pytest.raises(ModelError, match="is no UTF-8 text"):
        read_model(path)


def test_a_fixed_batch_of_a_million_images(save_model: Save) -> None:
    model = float_model([node("MatMul", "x w", "y")], (65_537, 6), {"w": np.ones((6, 2), np.float32)})
    with pytest.raises(ModelError, match=r"fixed batch of 65,537 images, .*; the limit is 65,536; export the model"):
        read_model(save_model(model))
    model = float_model([node("MatMul", "x w", "y")], (65_536, 6), {"w": np.ones((6, 2), np.float32)})
    assert read_model(save_model(model)).inputs["x"] is not None


def test_domains_that_are_no_text(save_model: Save) -> None:
    model = models.matmul_add()
    model.opset_import.append(helper.make_opsetid("some.domain", 1))
    path = save_model(model)
    path.write_bytes(path.read_bytes().replace(b"some.domain", b"\xffome.domain"))
    with pytest.raises(ModelError, match="is no UTF-8 text"):
        read_model(path)


@pytest.mark.filterwarnings("error")
def test_a_negative_variance_is_not_folded(save_model: Save) -> None:
    model = models.conv_bn()
    (variance,) = [tensor for tensor in model.graph.initializer if tensor.name == "n1_variance"]
    variance.CopyFrom(numpy_helper.from_array(-np.ones(variance.dims[0], np.float32), variance.name))
    graph = stages.after("remove_dead_nodes", model, {"x": models.images((2, 2, 6, 6))})
    assert "BatchNormalization" in [getattr(item, "op_type", "") for item in graph.nodes]


def test_a_fixed_batch_with_one_number_as_output(save_model: Save) -> None:
    """Batches have nothing to be joined along; the first is compared."""
    nodes = [node("MatMul", "x w", "m"), node("ReduceSum", "m", "y", keepdims=0)]
    model = make(nodes, {"x": (FLOAT, (1, 4))}, {"y": (FLOAT, ())}, {"w": W})
    compilation = compile_model(save_model(model))
    evaluation = evaluate(compilation.program, compilation.model, compilation.dataset, seeds=1)
    assert evaluation.quality is not None
    assert evaluation.quality.images == 1


# --- depth and width ---------------------------------------------------------------------------


def test_a_chain_of_ten_thousand_operators(save_model: Save) -> None:
    kinds, count = ("Relu", "Neg", "Abs", "Tanh"), 10_000
    nodes = [node(kinds[i % 4], f"v{i}" if i else "x", f"v{i + 1}") for i in range(count)]
    program = compile_model(save_model(float_model(nodes, ("N", 4), {}, (f"v{count}",))), check=False).program
    x = models.images((2, 4))
    assert memcompile.Emulator.ideal(program).run({"x": x})[f"v{count}"].shape == (2, 4)


def test_a_chain_of_layers_costs_time_in_proportion(save_model: Save) -> None:
    """Twice the layers, twice the work: nothing looks at all layers for each layer."""
    spent = []
    for count in (50, 200):
        nodes = [node("MatMul", f"v{i} w" if i else "x w", f"v{i + 1}") for i in range(count)]
        path = save_model(float_model(nodes, ("N", 4), {"w": np.eye(4, dtype=np.float32)}, (f"v{count}",)))
        began = time.process_time()
        assert len(compile_model(path).program.layers) == count
        spent.append(time.process_time() - began)
    # Four times the layers would take sixteen times as long if one step were quadratic.
    assert spent[1] < 10 * spent[0]


def test_fifty_inputs(save_model: Save) -> None:
    rng = np.random.default_rng(8)
    weights = {f"w{i}": dyadic(rng, (16, 8)) for i in range(50)}
    nodes = [node("MatMul", f"x{i} w{i}", f"m{i}") for i in range(50)]
    nodes.append(node("Sum", " ".join(f"m{i}" for i in range(50)), "y"))
    inputs = {f"x{i}": (FLOAT, ("N", 16)) for i in range(50)}
    program = compile_model(save_model(make(nodes, inputs, {"y": (FLOAT, ("N", 8))}, weights)), "ideal").program
    assert len(program.layers) == 50
    feeds = {name: models.images((2, 16), seed) for seed, name in enumerate(inputs)}
    want = sum(feeds[f"x{i}"] @ weights[f"w{i}"] for i in range(50))
    assert np.allclose(memcompile.Emulator(program).run(feeds)["y"], want, rtol=1e-5, atol=1e-4)


# --- a short run of the fuzzer -----------------------------------------------------------------


@pytest.fixture(scope="module")
def fuzz_folder() -> Any:
    with fuzz.workplace() as folder:
        yield folder


@pytest.mark.parametrize("kind", sorted(MUTATORS))
def test_mutated_files_get_one_message(kind: str, fuzz_folder: Path) -> None:
    count = 60 if kind == "model" else 100
    findings = fuzz.run_many(kind, 0, range(count), fuzz_folder)
    assert sum(findings.codes.values()) == count
    assert not findings.faults, str(findings)


@pytest.mark.parametrize("kind", sorted(MUTATORS))
def test_inputs_depend_on_their_number_alone(kind: str) -> None:
    assert mutated(kind, 0, 7) == mutated(kind, 0, 7)
    assert len({str(mutated(kind, 0, number)) for number in range(20)}) > 15

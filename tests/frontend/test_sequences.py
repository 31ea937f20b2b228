"""Values that are no tensors: sequences, maps and optionals, across crossbar layers and as outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exported
import models
import numpy as np
import onnx
import pytest
import sequence_models
from numpy.typing import NDArray
from sequence_models import NAMES, NETWORKS

import memcompile
from memcompile.accuracy.scoring import class_names, score
from memcompile.cli.main import main
from memcompile.errors import DataError, UsageError
from memcompile.frontend.importer import model_in_memory
from memcompile.frontend.sessions import open_session
from memcompile.frontend.value_types import other_type
from memcompile.frontend.values import PlainArrays, contents
from memcompile.ir.batching import Batching
from memcompile.pipelines import compile_model
from memcompile.program.program import Program
from memcompile.report.evaluation import measure_quality, run_float
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.executors.batches import join_values
from memcompile.runtime.training.hybrid_training import TuningOptions
from memcompile.tuning import TuningPlan, tune

X = models.images((30, 10), seed=17)
FAST = ("replicate.objective=arrays", "replicate.effort=fast")
ERROR = 1e-5
"""Of the largest number: continuous cells sum in float64, onnxruntime in float32."""


def compiled(model: onnx.ModelProto, folder: Path, target: str = "ideal", images: int = 30) -> Program:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    np.savez(folder / "x.npz", x=X[:images])
    return compile_model(path, target, data=folder / "x.npz", settings=FAST).program


def reference(model: onnx.ModelProto, x: NDArray[Any]) -> dict[str, Any]:
    session = open_session(model.SerializeToString(), optimise=False)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


def assert_alike(got: Any, want: Any) -> None:
    """The same structure, and numbers that differ by rounding."""
    found, expected = contents(got), contents(want)
    assert found.structure == expected.structure
    largest = np.abs(expected.numbers).max(initial=0)
    assert np.abs(found.numbers.astype(float) - expected.numbers).max(initial=0) <= ERROR * largest


# --- through the compiler and the emulator -------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_onnxruntime_on_all_images(name: str, tmp_path: Path) -> None:
    model = NETWORKS[name]()
    fixed = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    program = compiled(model, tmp_path)
    # Six images and six channels: equal numbers must not decide what is joined with what.
    for images, chunks in ((6, (1, 2, 6)), (7, (1, 3)), (30, (4, None))):
        x = X[: images // (fixed or 1) * (fixed or 1)]
        pieces = [x] if not fixed else np.split(x, len(x) // fixed)
        want = [reference(model, piece) for piece in pieces]
        for chunk in (fixed or None,) if fixed else chunks:
            got = Emulator(program, chunk=chunk).run(x)
            assert list(got) == list(want[0])
            for value, found in got.items():
                parts = [each[value] for each in want]
                assert_alike(
                    found, parts[0] if not fixed else [np.concatenate(each) for each in zip(*parts, strict=True)]
                )


@pytest.mark.parametrize("name", NETWORKS)
def test_both_executors_and_an_exported_chip_agree(name: str, tmp_path: Path) -> None:
    program = compiled(NETWORKS[name](), tmp_path, "yao2020")
    exported.assert_agrees(program, {"x": X[:3]}, seed=2)
    fast, literal = (Emulator.ideal(program, executor).run(X[:3]) for executor in ("fast", "literal"))
    for value, found in fast.items():
        one, other = contents(found), contents(literal[value])
        assert one.structure == other.structure
        assert np.array_equal(one.numbers, other.numbers)


def test_the_float_network_is_joined_alike() -> None:
    model = sequence_models.split(0, keepdims=0)
    x = models.images((230, 10), seed=18)
    got = run_float(model_in_memory(model, "m"), {"x": x[:200]})["s"]  # two chunks of a hundred
    assert_alike(got, reference(model, x[:200])["s"])
    even = sequence_models.split(1, [3, 3])
    assert_alike(run_float(model_in_memory(even, "m"), {"x": x})["s"], reference(even, x)["s"])


def test_a_static_weight_comes_out_of_a_sequence(tmp_path: Path) -> None:
    model = sequence_models.static_sequence()
    program = compiled(model, tmp_path)
    assert len(program.layers) == 1
    assert len(program.stages) == 1
    assert_alike(Emulator(program).run(X)["y"], reference(model, X)["y"])


def test_onnxruntime_words_for_types_are_read() -> None:
    for kind in (
        "sparse_tensor(float)",
        "seq(opaque(a,b))",
        "map(int64,opaque(a))",
        "map(what,tensor(float))",
        "?",
        "",
    ):
        assert other_type(kind) is None
    wanted = {
        "seq(tensor(float))": "sequence_type",
        "optional(seq(tensor(string)))": "optional_type",
        "seq(map(int64,tensor(float)))": "sequence_type",
        "map(string,tensor(int64))": "map_type",
    }
    for kind, word in wanted.items():
        found = other_type(kind)
        assert found is not None
        assert found.dtype == kind
        assert onnx.TypeProto.FromString(found.proto).WhichOneof("value") == word


def test_ratios_count_the_numbers_of_sequences_and_maps(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for model in (sequence_models.zipmap(), sequence_models.across()):
        path.write_bytes(model.SerializeToString())
        np.savez(tmp_path / "x.npz", x=X)
        compilation = compile_model(path, data=tmp_path / "x.npz", settings=FAST)
        quality = measure_quality(compilation.program, compilation.model, compilation.dataset)
        assert quality.outputs.keys() == set(compilation.program.outputs)
        assert all(ratio > 15 for ratio in quality.outputs.values())
        assert not quality.not_compared


# --- joining -------------------------------------------------------------------------------------


def test_parts_that_do_not_go_together_are_refused() -> None:
    row = np.zeros((2, 3))
    with pytest.raises(DataError, match=r"neither is fixed nor goes with that of images \(3 for 1 images, 2 for 2"):
        join_values("s", [[row, row], [row, row]], [2, 2], lambda: (1, [row] * 3), Batching({}))
    for parts in ([None, [row]], [row, [row]], [{0: 1.0}, {0: 2.0}]):
        with pytest.raises(DataError, match="is of another kind in each chunk"):
            join_values("s", parts, [1, 1], None, Batching({}))
    assert join_values("s", [{0: 1.0}, {0: 1.0}], [1, 1], None, Batching({})) == {0: 1.0}
    assert join_values("s", [None, None], [1, 1], None, Batching({})) is None
    assert join_values("s", [[], []], [1, 1], None, Batching({})) == []


# --- tuning --------------------------------------------------------------------------------------


def last_layer_behind_a_sequence() -> onnx.ModelProto:
    nodes = sequence_models.first_layer(
        models.node("SplitToSequence", "c sizes", "s", axis=1),
        models.node("Relu", "c", "r"),
        models.node("MatMul", "r v", "y"),
    )
    outputs: sequence_models.Outputs = {"y": (onnx.TensorProto.FLOAT, ("N", 3)), "s": sequence_models.SEQUENCE}
    return sequence_models.build(nodes, outputs, sizes=np.array([3, 3]))


def test_a_chip_with_a_sequence_as_output_is_tuned(tmp_path: Path) -> None:
    program = compiled(last_layer_behind_a_sequence(), tmp_path, "yao2020")
    plan = TuningPlan(recalibration_images=10, options=TuningOptions(epochs=1))
    tuned = tune(program, {"x": X}, np.arange(30) % 3, plan).program
    assert len(Emulator(tuned).run(X)["s"]) == 2


def test_a_sequence_that_a_tuned_layer_needs_is_refused(tmp_path: Path) -> None:
    program = compiled(sequence_models.across(), tmp_path, "yao2020")
    plan = TuningPlan(recalibration_images=10, options=TuningOptions(epochs=1, layers=(program.layers[1].name, "last")))
    with pytest.raises(
        UsageError, match=r"'s' is a sequence, map or optional .* begin at a later layer|gradients cannot"
    ):
        tune(program, {"x": X}, np.arange(30) % 3, plan)
    with pytest.raises(UsageError, match="'s' is a sequence, map or optional and cannot be kept image by image"):
        Emulator(program).run_from(2, {"s": [X]})


# --- scoring -------------------------------------------------------------------------------------

MAPS = [{0: 0.1, 1: 0.7, 2: 0.2}, {0: 0.5, 1: 0.1, 2: 0.4}, {0: 0.1, 1: 0.2, 2: 0.7}, {0: 0.1, 1: 0.8, 2: 0.1}]
RIGHT = np.array([1, 0, 2, 0])  # three of four
ROWS = np.array([list(each.values()) for each in MAPS])
PLACES = np.array([1, 0, 2, 1])
WORDS = np.array(NAMES, object)


@pytest.mark.parametrize(
    ("outputs", "labels", "names"),
    [
        ({"p": MAPS}, RIGHT, ()),
        ({"label": PLACES, "p": MAPS}, RIGHT, ()),
        ({"p": [{3 + 2 * key: item for key, item in each.items()} for each in MAPS]}, 3 + 2 * RIGHT, ()),
        ({"p": [dict(zip(NAMES, each.values(), strict=True)) for each in MAPS]}, WORDS[RIGHT].astype(str), ()),
        ({"p": [dict(zip(NAMES, each.values(), strict=True)) for each in MAPS]}, RIGHT, NAMES),
        ({"p": ROWS}, RIGHT, ()),
        ({"p": ROWS}, WORDS[RIGHT].astype(str), NAMES),
        ({"label": 3 + 2 * PLACES, "p": ROWS}, 3 + 2 * RIGHT, ()),
        ({"label": WORDS[PLACES], "p": ROWS}, WORDS[RIGHT].astype(str), ()),
        ({"label": WORDS[PLACES], "p": ROWS}, RIGHT, NAMES),
        ({"label": PLACES}, RIGHT, ()),
        ({"label": PLACES[:, None]}, RIGHT, ()),
        ({"label": WORDS[PLACES]}, WORDS[RIGHT].astype(str), ()),
        ({"count": np.full(4, 7), "p": ROWS}, RIGHT, ()),  # stands for no place
        ({"sorted": np.array([0, 1, 0, 1]), "p": ROWS}, RIGHT, ()),
    ],
)
def test_the_class_is_found_in_every_form(outputs: dict[str, Any], labels: NDArray[Any], names: list[str]) -> None:
    assert score(outputs, labels, names) == 0.75


@pytest.mark.parametrize(
    ("outputs", "labels", "names", "message"),
    [
        ({"s": [ROWS, ROWS], "n": None, "m": {0: 1.0}}, RIGHT, (), "s a sequence of 2, n nothing, m a map"),
        ({"y": np.ones(4, np.float32)}, RIGHT, (), r"no output holds a row of scores, or a class.* y \[4\]"),
        ({"p": MAPS}, np.array([1, 0, 2, 9]), (), "label 9 is none of the network's classes, which are 0, 1, 2"),
        ({"p": ROWS}, np.array([1, 0, 2, 9]), (), "labels run from 0 to 9, but the output has 3 scores"),
        (
            {"p": MAPS},
            WORDS[RIGHT].astype(str),
            (),
            "labels are names such as .*cat.* are numbers; give numbers",
        ),
        ({"label": WORDS[PLACES]}, RIGHT, (), r"classes have names \(cat, dog, eel\); give names"),
        (
            {"p": [dict.fromkeys(map(str, range(12)), 0.1)] * 4},
            WORDS[RIGHT].astype(str),
            (),
            r"label .* none of .* 7 and 2 more",
        ),
    ],
)
def test_labels_that_do_not_fit_are_explained(
    outputs: dict[str, Any], labels: NDArray[Any], names: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        score(outputs, labels, names)


def test_names_of_classes_are_in_the_order_of_scores(tmp_path: Path) -> None:
    assert class_names(compiled(sequence_models.zipmap(by_name=True), tmp_path)) == tuple(NAMES)
    assert class_names(compiled(sequence_models.zipmap(), tmp_path)) == ()


# --- plain arrays --------------------------------------------------------------------------------


def test_values_are_laid_down_by_type() -> None:
    values = {
        "t": np.ones((2, 3), np.float32),
        "words": np.array(["a", "bc"], object),
        "even": [np.zeros((2, 2)), np.ones((2, 2))],
        "maps": [{"a": 0.5, "b": 0.25}, {"b": 1.0}],
        "counts": [{1: 4}, {1: 5}],
        "map": {1: 0.5},
        "nothing": None,
        "empty": [],
        "no_keys": {},
        "even.0": np.zeros(1),
        "doubles": [{0: 0.1}],
    }
    plain = PlainArrays.of(values)
    assert list(plain.arrays) == [
        *("t", "words", "even_.0", "even_.1", "maps", "maps.keys", "maps.present", "counts", "counts.keys"),
        *("map", "map.keys", "even.0", "doubles", "doubles.keys"),
    ]
    assert not any(array.dtype == object for array in plain.arrays.values())
    assert np.array_equal(plain.arrays["maps"], [[0.5, 0.25], [np.nan, 1.0]], equal_nan=True)
    assert plain.arrays["maps"].dtype == np.float32
    assert plain.arrays["doubles"].dtype == np.float64
    assert plain.arrays["maps.present"].tolist() == [[True, True], [False, True]]
    assert plain.arrays["maps.keys"].tolist() == ["a", "b"]
    assert plain.arrays["counts"].tolist() == [[4], [5]]
    assert plain.written == ("t", "words", "even", "maps", "counts", "map", "even.0", "doubles")
    for said in (
        "even is a sequence of 2 tensors: arrays even_.0 to even_.1",
        "maps is a sequence of 2 maps: rows of array maps, keys in maps.keys, maps.present says which are there",
        "map is a map: its values are array map, its keys map.keys",
        "nothing is an optional that holds nothing: no array",
        "empty is a sequence of no elements: no array",
        "no_keys is a map of no elements: no array",
    ):
        assert said in plain.remarks


# --- commands ------------------------------------------------------------------------------------


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[onnx.ModelProto], None]:
    """Go to an empty folder and put a model there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")  # nothing here is worth compiling kernels for
    return lambda model: (tmp_path / "m.onnx").write_bytes(model.SerializeToString())  # type: ignore[return-value]


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("named_labels", [False, True])
def test_a_classifier_with_maps_is_scored_and_written(
    put: Callable[[onnx.ModelProto], None], capsys: pytest.CaptureFixture[str], by_name: bool, named_labels: bool
) -> None:
    model = sequence_models.zipmap(by_name=by_name)
    if named_labels and not by_name:
        pytest.skip("names for numbers are refused, see above")
    put(model)
    want = reference(model, X)
    labels = np.array([max(each, key=each.get) for each in want["probability"]])
    labels[::5] = np.roll(labels, 1)[::5]
    right = np.mean([max(each, key=each.get) == label for each, label in zip(want["probability"], labels, strict=True)])
    if by_name and not named_labels:
        labels = np.array([NAMES.index(label) for label in labels])
    np.savez("d.npz", x=X, labels=labels)
    assert (
        main(["m.onnx", "--data", "d.npz", "--seeds", "1", "--target", "ideal", "-o", "p.mcp", "--json", "facts.json"])
        == 0
    )
    accuracy = json.loads(Path("facts.json").read_text())["accuracy"]
    assert accuracy["float"] == accuracy["ideal"] == accuracy["emulated_mean"] == right
    assert main(["run", "p.mcp", "--data", "d.npz", "-o", "y.npz"]) == 0
    out = capsys.readouterr().out
    assert "label, probability written to y.npz" in out
    assert "probability is a sequence of 30 maps: rows of array probability, keys in probability.keys" in out
    assert f"accuracy {right:.2%}" in out
    with np.load("y.npz") as found:
        assert found["label"].tolist() == want["label"].tolist()
        assert found["probability.keys"].tolist() == sorted(want["probability"][0])
        table = [[each[key] for key in sorted(each)] for each in want["probability"]]
        assert np.allclose(found["probability"], table, atol=ERROR)


def test_arrays_of_any_name_are_written(put: Callable[[onnx.ModelProto], None]) -> None:
    nodes = sequence_models.first_layer(models.node("Relu", "c", "file"), models.node("Neg", "c", "allow_pickle"))
    kind = (onnx.TensorProto.FLOAT, ("N", 6))
    put(sequence_models.build(nodes, {"file": kind, "allow_pickle": kind}))
    assert main(["m.onnx", "--no-evaluation", "--quiet", "-o", "p.mcp"]) == 0
    assert main(["run", "p.mcp", "--quiet", "-o", "y.npz"]) == 0
    assert sorted(np.load("y.npz")) == ["allow_pickle", "file"]


SHARED = {"even": "data", "across": "across", "zipmap": "labelled"}


@pytest.mark.parametrize("name", SHARED)
def test_shared_cases(shared_dir: Path, name: str, put: Callable[[onnx.ModelProto], None]) -> None:
    folder = shared_dir / "cases" / "sequences"
    if not folder.is_dir():
        pytest.skip("no such cases")
    model, data = folder / f"{name}.onnx", folder / f"{SHARED[name]}.npz"
    assert main([str(model), "--data", str(data), "--seeds", "1", "-o", "p.mcp"]) == 0
    assert main(["run", "p.mcp", "--data", str(data), "-o", "y.npz"]) == 0
    program = memcompile.compile(model, "ideal", data=data, settings=FAST)
    x = np.load(data)["x"]
    for value, want in reference(onnx.load(model), x).items():
        assert_alike(Emulator(program, chunk=2).run(x)[value], want)

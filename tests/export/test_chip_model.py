"""An exported model computes in onnxruntime what the emulator does on the same chip, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import exported
import factories
import models
import numpy as np
import onnx
import pytest
from effect_sections import SECTIONS, small_program
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import Kept
from onnx import TensorProto, helper
from places import FIVE_LAYER_CNN as MODEL

import memcompile
from memcompile.cli.main import main
from memcompile.data.loader import load_dataset
from memcompile.errors import OutputError, ProgramError, UsageError
from memcompile.export import chip_model as module
from memcompile.export import onnx_builder as onnx_export
from memcompile.export.chip_model import chip_model
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.program.file import save_program
from memcompile.program.program import DigitalStage, Program
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.transfer import transfer

QUICK = ("replicate.effort=fast",)
CONV = Geometry(4, 6, (3, 2), (7, 6), 1, (2, 1), (1, 2), (1, 0), (2, 1))
GROUPED = Geometry(6, 9, (3, 3), (5, 6), 3, (1, 1), (1, 1), (1, 1), (1, 1))
DEPTHWISE = Geometry(5, 5, (3,), (9,), 5, (2,), (1,), (1,), (1,))
CUBIC = Geometry(2, 3, (2, 2, 2), (4, 3, 4), 1, (1, 1, 2), (1, 1, 1), (0, 1, 0), (1, 0, 0))
DENSE = Geometry(40, 6, (1,), (3,), layout="channels_last")
ALL_EFFECTS: dict[str, Any] = {
    "programming": {"sigma_us": 1.0, "sigma_proportional_share": 0.05},
    "relaxation": {"sigma_us": 0.7, "time_constant_s": 10.0},
    "drift": {"exponent_mean": 0.05, "exponent_sigma": 0.01, "reference_s": 1.0},
    "faults": {
        "stuck_low_share": 0.05,
        "stuck_high_share": 0.05,
        "dead_input_line_share": 0.05,
        "dead_output_line_share": 0.05,
    },
    "adc": {"gain_sigma_share": 0.03, "offset_sigma_codes": 1.0, "range_share": 0.5, "range": "fixed"},
    "wires": {"input_segment_ohm": 5.0, "output_segment_ohm": 5.0},
}


def random_program(
    geometry: Geometry,
    unrollings: list[Unrolling] | None = None,
    *,
    seed: int = 1,
    slices: int = 1,
    signed: bool = False,
    **sections: Any,
) -> tuple[Program, dict[str, np.ndarray]]:
    """A program of one random layer, and inputs that reach both ends of its quantiser's range."""
    rng = np.random.default_rng(seed)
    target = factories.make_target(**sections)
    layer = factories.random_layer(rng, geometry, target, slices=slices, signed=signed, unrollings=unrollings)
    program = factories.layer_program(rng, layer, target)
    sizes = tuple(size or 3 for size in program.inputs["x"].shape)
    return program, {"x": (rng.normal(0, 1, sizes) * layer.quantizer.highest).astype(np.float32)}


def in_windows(geometry: Geometry, window: tuple[int, ...], bundles: tuple[int, ...] = (1, 1, 1)) -> list[Unrolling]:
    """Copies with one window and these bundles of groups."""
    return [Unrolling(geometry, window, bundle) for bundle in bundles]


# --- single layers -------------------------------------------------------------------------------

LAYERS: dict[str, tuple[Geometry, list[Unrolling] | None]] = {
    "strided and dilated": (CONV, None),
    "three copies": (CONV, [Unrolling.im2col(CONV)] * 3),
    "windows that overlap the edge": (CONV, in_windows(CONV, (2, 3))),
    "groups": (GROUPED, None),
    "groups in bundles of two, the last half empty": (GROUPED, in_windows(GROUPED, (2, 2), (2,))),
    "copies with bundles of their own": (GROUPED, in_windows(GROUPED, (1, 2), (1, 2, 3))),
    "depthwise on one axis": (DEPTHWISE, in_windows(DEPTHWISE, (2,), (2, 2))),
    "three axes": (CUBIC, in_windows(CUBIC, (1, 2, 1))),
    "dense": (DENSE, [Unrolling.im2col(DENSE)] * 2),
}


@pytest.mark.parametrize("bits_per_phase", [1, 3, 8])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_gives_the_bits_of_the_emulator(name: str, signed: bool, bits_per_phase: int) -> None:
    geometry, unrollings = LAYERS[name]
    phases = {"input": {"bits_per_phase": bits_per_phase}}
    program, feeds = random_program(geometry, unrollings, slices=2, signed=signed, **phases)
    exported.assert_agrees(program, feeds, seed=5)
    exported.assert_agrees(program, feeds, ideal=True)


@pytest.mark.parametrize("bits_per_phase", [1, 4])
@pytest.mark.parametrize("name", ["windows that overlap the edge", "copies with bundles of their own", "dense"])
def test_all_effects_at_once(name: str, bits_per_phase: int) -> None:
    geometry, unrollings = LAYERS[name]
    dac = {"input": {"bits_per_phase": bits_per_phase, "dac_sigma_share": 0.05}}
    program, feeds = random_program(geometry, unrollings, **ALL_EFFECTS, **dac)
    young = exported.assert_agrees(program, feeds, seed=7)
    old = exported.assert_agrees(program, feeds, seed=7, time_s=7200.0)
    other = exported.assert_agrees(program, feeds, seed=8)
    assert young.SerializeToString() != old.SerializeToString()
    assert young.SerializeToString() != other.SerializeToString()


@pytest.mark.parametrize("name", SECTIONS)
def test_each_effect(name: str) -> None:
    program, x = small_program(SECTIONS[name])
    model = exported.assert_agrees(program, {"x": x}, seed=3, time_s=100.0, reads=2e6)
    plain = chip_model(small_program({})[0], 3, time_s=100.0, reads=2e6)
    assert model.graph != onnx.load_from_string(plain).graph, "the effect is in the model"


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits_per_phase", [1, 3, 8])
def test_nonlinear_cells(bits_per_phase: int, signed: bool) -> None:
    geometry, unrollings = LAYERS["windows that overlap the edge"]
    phases = {"input": {"bits_per_phase": bits_per_phase}}
    nonlinear = {**phases, "cell": {"nonlinearity_per_v": 8.0}}
    program, feeds = random_program(geometry, unrollings, signed=signed, **nonlinear)
    curved = exported.assert_agrees(program, feeds, seed=5)
    straight = exported.assert_agrees(random_program(geometry, unrollings, signed=signed, **phases)[0], feeds, seed=5)
    tables = [item.name for item in curved.graph.initializer if item.name.endswith("/drive_of_digit")]
    assert len(tables) == (bits_per_phase > 1)
    assert (len(curved.graph.node) > len(straight.graph.node)) == (bits_per_phase > 1)


def test_layers_with_converter_ranges_of_their_own() -> None:
    geometry, unrollings = LAYERS["windows that overlap the edge"]
    program, feeds = random_program(geometry, unrollings)
    own = tuple(replace(stage, range_share=0.3) for stage in program.stages)  # type: ignore[arg-type]
    narrow = replace(program, stages=own)
    plain, ranged = (exported.assert_agrees(item, feeds, seed=5) for item in (program, narrow))
    assert plain.SerializeToString() != ranged.SerializeToString()


@pytest.mark.parametrize(
    "moved",
    [
        {"wires": {"input_segment_ohm": 5.0, "output_segment_ohm": 5.0}},
        {"input": {"bits_per_phase": 4, "dac_sigma_share": 0.05}},
    ],
)
def test_currents_that_are_no_products_are_refused(moved: dict[str, Any]) -> None:
    geometry, unrollings = LAYERS["dense"]
    program, _ = random_program(geometry, unrollings, cell={"nonlinearity_per_v": 8.0}, **moved)
    with pytest.raises(UsageError, match=r"nonlinear.*no product with a fixed matrix.*nonlinearity_per_v = 0"):
        chip_model(program)
    exported.assert_agrees(program, {"x": random_program(geometry, unrollings)[1]["x"]}, ideal=True)


def test_converters_alone_round_as_the_emulator_s_do() -> None:
    """Coarse converters, and such that resolve every level, whose sums the emulator forms at once."""
    still = {"programming": {"sigma_us": 0.0}, "faults": {"stuck_low_share": 0.0, "stuck_high_share": 0.0}}
    for bits in (4, 12):
        program, feeds = random_program(CONV, slices=2, adc={"bits": bits}, **still)
        exported.assert_agrees(program, feeds)


def test_weights_beyond_single_precision() -> None:
    program, feeds = random_program(DENSE, slices=4, cell={"levels": 128}, array={"output_lines": 64})
    assert np.abs(program.layers[0].integer_matrix()).max() > 2**24
    exported.assert_agrees(program, feeds, seed=5)
    exported.assert_agrees(program, feeds, ideal=True)


def test_row_tiles_in_several_products(monkeypatch: pytest.MonkeyPatch) -> None:
    program, feeds = random_program(CONV, in_windows(CONV, (1, 2)))
    together = exported.assert_agrees(program, feeds)
    monkeypatch.setattr(module, "LINES_BYTES", 1)
    apart = exported.assert_agrees(program, feeds)
    assert operators(apart).count("MatMul") > operators(together).count("MatMul")
    assert sum(tensor.name.endswith("/windows") for tensor in apart.graph.initializer) == len(
        program.layers[0].replicas
    )


def test_copies_that_work_alike_share_their_nodes() -> None:
    few, _ = random_program(CONV, [Unrolling.im2col(CONV)])
    cut = few.layers[0].replicas[0].cut
    windows = np.arange(CONV.positions, dtype=np.int32).reshape(4, -1)
    replicas = tuple(replace(few.layers[0].replicas[0], windows=part, cut=cut) for part in windows)
    layer = replace(few.layers[0], replicas=replicas)
    rng = np.random.default_rng(3)
    many = factories.layer_program(rng, layer, few.target)
    feeds = {"x": rng.integers(0, 256, (2, 4, 7, 6)).astype(np.float32)}
    assert operators(exported.assert_agrees(many, feeds)).count("MatMul") == 2


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    rank = draw(st.integers(1, 2))
    groups = draw(st.integers(1, 3))

    def axes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, dilations = axes(1, 3), axes(1, 2)
    size = tuple(gap * (taps - 1) + 1 + more for gap, taps, more in zip(dilations, kernel, axes(0, 4), strict=True))
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    return Geometry(inputs, outputs, kernel, size, groups, axes(1, 3), dilations, axes(0, 2), axes(0, 2))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_small_layer_on_any_small_chip(data: st.DataObject) -> None:
    geometry = data.draw(geometries())
    window = tuple(data.draw(st.integers(1, size)) for size in geometry.output_size)
    bundles = data.draw(st.lists(st.integers(1, geometry.groups), min_size=1, max_size=3))
    bits = data.draw(st.integers(2, 8))
    program, feeds = random_program(
        geometry,
        in_windows(geometry, window, tuple(bundles)),
        seed=data.draw(st.integers(0, 2**32)),
        slices=data.draw(st.integers(1, 2)),
        signed=data.draw(st.booleans()),
        array={
            "input_lines": data.draw(st.integers(1, 24)),
            "output_lines": 2 * data.draw(st.integers(2, 16)),
            "pairs": data.draw(st.sampled_from(["output_lines", "crossings"])),
        },
        input={"bits": bits, "bits_per_phase": data.draw(st.integers(1, bits))},
        adc={"bits": data.draw(st.integers(2, 12)), "offset_sigma_codes": data.draw(st.sampled_from([0.0, 0.7]))},
    )
    exported.assert_agrees(program, feeds, seed=2)
    exported.assert_agrees(program, feeds, ideal=True)


# --- whole networks ------------------------------------------------------------------------------


def operators(model: onnx.ModelProto) -> list[str]:
    return [item.op_type for item in model.graph.node]


@pytest.mark.parametrize("target", ["yao2020", "hermes", "neurram", "pimcomp", "ideal"])
def test_the_five_layer_network(target: str, kept: Kept) -> None:
    program = kept.program(MODEL, target, settings=QUICK)
    feeds = load_dataset(None, program.inputs, seed=3).head(5).inputs
    model = exported.assert_agrees(program, feeds, seed=4)
    exported.assert_agrees(program, feeds, ideal=True)
    assert all(item.domain == "" for item in model.graph.node)
    assert len(model.graph.node) < 200
    (image,) = model.graph.input
    assert (image.name, image.type.tensor_type.shape.dim[0].dim_param) == ("image", "batch")
    assert [value.name for value in model.graph.output] == ["logits"]


def test_the_default_mapping_with_windows_and_copies(kept: Kept) -> None:
    program = kept.program(MODEL, slices=2, slice_base=5, settings=QUICK)
    assert max(len(layer.replicas) for layer in program.layers) > 1
    feeds = load_dataset(None, program.inputs, seed=3).head(20).inputs
    exported.assert_agrees(program, feeds, seed=1, time_s=600.0)


def test_the_model_says_what_it_is(kept: Kept) -> None:
    program = kept.program(MODEL, settings=QUICK)
    facts = {item.key: item.value for item in onnx.load_from_string(chip_model(program, 6, time_s=60.0)).metadata_props}
    assert facts["memcompile.target"] == "yao2020"
    assert facts["memcompile.source_model"] == "five_layer_cnn.onnx"
    assert (facts["memcompile.chip"], facts["memcompile.time_s"]) == ("6", "60.0")
    assert "read noise" not in facts["memcompile.effects"]
    assert "programming error" in facts["memcompile.effects"]
    assert chip_model(program, 6, time_s=60.0) == chip_model(program, 6, time_s=60.0)


def test_a_tuned_program_keeps_its_chip(kept: Kept) -> None:
    program, _ = transfer(kept.program(MODEL, settings=QUICK), 11)
    feeds = load_dataset(None, program.inputs, seed=3).head(5).inputs
    first, second = (exported.assert_agrees(program, feeds, seed=seed, time_s=60.0) for seed in (0, 1))
    assert first.SerializeToString() == second.SerializeToString()


def test_segments_are_those_of_the_first_batch() -> None:
    rng = np.random.default_rng(4)
    program = factories.in_segments(factories.two_layer_program(rng, factories.make_target()), (1,), batch=6)
    feeds = {"x": rng.integers(0, 256, (6, 2, 6, 6)).astype(np.float32)}
    exported.assert_agrees(program, feeds, seed=2)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "slices"), [("yao2020", 1), ("yao2020", 2), ("ideal", 1)])
def test_resnet20(shared_dir: Path, target: str, slices: int) -> None:
    path = shared_dir / "models" / "cifar_resnet20.onnx"
    program = memcompile.compile(path, target, slices=slices, settings=QUICK)
    feeds = {"input": np.random.default_rng(5).normal(size=(2, 3, 32, 32)).astype(np.float32)}
    model = exported.assert_agrees(program, feeds, seed=1)
    exported.assert_agrees(program, feeds, ideal=True)
    assert len(model.graph.node) < 1_000


# --- operator sets and names ---------------------------------------------------------------------


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 18, 21])
def test_digital_operators_keep_their_operator_set(opset: int, save_model: Callable[..., Path]) -> None:
    rng = np.random.default_rng(opset)
    nodes = [
        models.node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        models.node("Relu", "c", "r"),
        models.node("Flatten", "r", "f"),
        models.node("MatMul", "f v", "m"),
        models.node("Softmax", "m", "y"),
    ]
    weights = {"w": models.dyadic(rng, (3, 2, 3, 3)), "v": models.dyadic(rng, (5, 48)).T}
    path = save_model(models.float_model(nodes, ("N", 2, 4, 4), weights, opset=opset))
    feeds = {"x": models.images((3, 2, 4, 4))}
    for target in ("yao2020", "hermes"):
        program = memcompile.compile(path, target, settings=QUICK)
        model = exported.assert_agrees(program, feeds)
        assert [item.version for item in model.opset_import if item.domain == ""] == [opset]
        exported.assert_agrees(program, feeds, ideal=True)


def identity_stage(name: str, value: str, result: str, opset: int = 17) -> DigitalStage:
    """A stage whose constant and inner value have the names that all such stages have."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", [value, "offset"], ["inner"], name="add"),
            helper.make_node("Sub", ["inner", "offset"], [result], name="subtract"),
        ],
        name,
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
        [helper.make_tensor("offset", TensorProto.FLOAT, [], [float(len(name))])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return DigitalStage(name, (value,), (result,), model.SerializeToString())


def test_names_that_clash_are_made_unique() -> None:
    rng = np.random.default_rng(6)
    target = factories.make_target()
    layer = factories.random_layer(rng, DENSE, target, inputs=("b",), outputs=("c",))
    stages = [identity_stage("one", "x", "a"), identity_stage("second", "a", "b"), layer, identity_stage("1", "c", "y")]
    kind = factories.TensorType("float32", (None, 3, 40))
    program = factories.make_program(rng, stages, target, {"x": kind})
    model = exported.assert_agrees(program, {"x": rng.integers(0, 256, (2, 3, 40)).astype(np.float32)})
    assert [item.name for item in model.graph.node if item.name.startswith("add")] == ["add", "add_2", "add_3"]
    assert {tensor.name for tensor in model.graph.initializer} >= {"offset", "offset_2"}


def test_names_inside_branches_follow() -> None:
    rng = np.random.default_rng(7)
    target = factories.make_target()
    inner = helper.make_graph(
        [helper.make_node("Neg", ["inner"], ["negative"])],
        "branch",
        [],
        [helper.make_tensor_value_info("negative", TensorProto.FLOAT, None)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["a"], ["inner"]),
            helper.make_node("If", ["yes"], ["b"], then_branch=inner, else_branch=inner),
        ],
        "choice",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
        [helper.make_tensor("yes", TensorProto.BOOL, [], [True])],
    )
    choice = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    layer = factories.random_layer(rng, DENSE, target, signed=True, inputs=("b",))
    stages = [
        identity_stage("one", "x", "a"),
        DigitalStage("choice", ("a",), ("b",), choice.SerializeToString()),
        layer,
    ]
    kind = factories.TensorType("float32", (None, 3, 40))
    program = factories.make_program(rng, stages, target, {"x": kind})
    exported.assert_agrees(program, {"x": rng.integers(-99, 99, (2, 3, 40)).astype(np.float32)})


def test_stages_that_cannot_be_joined_are_refused() -> None:
    rng = np.random.default_rng(8)
    target = factories.make_target()
    layer = factories.random_layer(rng, DENSE, target, inputs=("a",), outputs=("b",))
    kind = factories.TensorType("float32", (None, 3, 40))

    def program(*stages: Any) -> Program:
        return factories.make_program(rng, stages, target, {"x": kind}, outputs=("b",))

    last = identity_stage("last", "b", "c", 18)
    with pytest.raises(ProgramError, match=r"stage last is of operator set ai\.onnx 18, the stages before it of 17"):
        chip_model(program(identity_stage("first", "x", "a"), layer, last))
    with pytest.raises(UsageError, match="operator set 6, an exported model needs 7"):
        chip_model(program(identity_stage("first", "x", "a", 6), layer))
    with pytest.raises(ProgramError, match="digital stage first is damaged"):
        chip_model(program(replace(identity_stage("first", "x", "a"), model=b"\xff\xff"), layer))
    damaged = replace(identity_stage("first", "x", "a"), model=identity_stage("first", "z", "a").model)
    with pytest.raises(ProgramError, match="onnxruntime refuses the program's digital stages"):
        chip_model(program(damaged, layer))


def test_a_model_that_no_file_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    program, _ = random_program(CONV)
    monkeypatch.setattr(onnx_export, "MAX_MODEL_BYTES", onnx_export.HEADROOM_BYTES + 1_000)
    with pytest.raises(OutputError, match="the most that one ONNX file holds; compile with fewer copies"):
        chip_model(program)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def program_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """``m.mcp`` in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")  # nothing here is worth compiling kernels for
    (tmp_path / "m.onnx").write_bytes(models.conv_bn().SerializeToString())
    assert main(["m.onnx", "-o", "m.mcp", "--no-evaluation", "--quiet"]) == 0
    capsys.readouterr()
    return tmp_path / "m.mcp"


def test_command_writes_the_chip_that_run_runs(program_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "m.mcp", "--onnx", "chip.onnx", "--npz", "cells.npz", "--seed", "3", "--time", "2h"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("conductances written to cells.npz")
    assert lines[1] == "the chip is not calibrated: there are no data; give some with --data"
    assert lines[2].startswith("chip 3, 7200 s after programming, written to chip.onnx, ")
    assert lines[3].startswith("read noise is not in the model")
    assert Path("cells.npz").exists()
    program = memcompile.load(program_file)
    assert Path("chip.onnx").read_bytes() == chip_model(program, 3, time_s=7200.0)


def test_command_writes_ideal_devices(program_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "m.mcp", "--onnx", "ideal.onnx", "--ideal"]) == 0
    assert capsys.readouterr().out.startswith("ideal devices written to ideal.onnx, ")
    feeds = {"x": models.images((4, 2, 6, 6))}
    want = Emulator.ideal(memcompile.load(program_file)).run(feeds)["y"]
    assert np.array_equal(exported.run(Path("ideal.onnx").read_bytes(), feeds)["y"], want)


def test_command_says_that_segments_are_written_anew(program_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(4)
    program = factories.in_segments(factories.two_layer_program(rng, factories.make_target()), (1,), batch=6)
    save_program(program, program_file)
    assert main(["export", "m.mcp", "--onnx", "chip.onnx"]) == 0
    assert "the arrays are as written for the first 6 images" in capsys.readouterr().out


def test_command_refuses_what_no_file_holds(
    program_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "MAX_MODEL_BYTES", onnx_export.HEADROOM_BYTES)
    assert main(["export", "m.mcp", "--onnx", "chip.onnx"]) == OutputError.exit_code
    assert capsys.readouterr().err.startswith("memcompile: error: the model needs more than ")
    assert not Path("chip.onnx").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "nothing to write; give --onnx FILE for a model, --npz FILE for conductances"),
        ("--npz a.npz --seed 1", "--seed is for a model of a chip; add --onnx FILE"),
        ("--npz a.npz --ideal", "--ideal is for a model of a chip; add --onnx FILE"),
        ("--onnx a.onnx --ideal --time 2h", "--time contradicts --ideal: ideal devices are all alike"),
        ("--onnx a --npz a", "--npz and --onnx both name a; give each a file of its own"),
        ("--onnx no/a.onnx", "the folder no does not exist; make it first, or choose another with --onnx"),
        ("--onnx .", ". is a directory; give a file name with --onnx"),
        ("--onnx a.onnx --seed -1", "seed -1 is out of range"),
    ],
)
def test_command_refuses_with_one_message(
    program_file: Path, options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(program_file.parent.iterdir())
    assert main(["export", "m.mcp", *options.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"memcompile: error: {message}")
    assert err.count("\n") == 1
    assert set(program_file.parent.iterdir()) == before

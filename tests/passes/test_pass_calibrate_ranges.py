"""Choosing converter ranges from calibration data, and running with a range a layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import stages
from factories import make_target
from hypothesis import given, settings
from hypothesis import strategies as st
from models import dyadic, float_model, node

from memcompile.hardware.converter import Converter
from memcompile.hardware.target import Target
from memcompile.ir.graph import Graph, MappedLayer
from memcompile.ir.printer import print_graph
from memcompile.passes.calibrate_ranges import ALIKE, CalibrateRanges
from memcompile.passes.replicate import Replicate
from memcompile.pipelines import emit_program
from memcompile.program.file import decode_program, encode_program
from memcompile.program.program import Program, Provenance
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.verify.verifier import verify_program

ADC_ONLY = Effects(**{**vars(Effects.none()), "adc": True})
RNG = np.random.default_rng(3)
WEIGHTS = {"w": dyadic(RNG, (40, 6)), "v": dyadic(RNG, (6, 5))}
ONE_LAYER = float_model([node("Gemm", "x w", "y")], ("N", 40), WEIGHTS)
TWO_LAYERS = float_model(
    [node("Gemm", "x w", "a"), node("Relu", "a", "r"), node("Gemm", "r v", "y")], ("N", 40), WEIGHTS
)


QUIET: dict[str, dict[str, Any]] = {"programming": {"sigma_us": 0.0}, "read_noise": {"sigma_us": 0.0}}


def target(bits: int = 6, **sections: dict[str, Any]) -> Target:
    """The reference chip with long input lines, quiet cells, coarse converters and a range for each layer."""
    adc = {"bits": bits, "range": "calibrated", **sections.pop("adc", {})}
    return make_target(array={"input_lines": 32}, adc=adc, **{**QUIET, **sections})


def mapped(model: onnx.ModelProto, x: np.ndarray, hardware: Target, **options: Any) -> Graph:
    """A model whose ranges were calibrated on ``x``."""
    graph = stages.after("tile_matrices", model, {"x": x}, target=hardware)
    context = stages.context_for({"x": x}, hardware)
    passes = (Replicate(effort="fast"), CalibrateRanges(**options), *stages_after_ranges())
    return stages.run_verified(graph, passes, context)


def stages_after_ranges() -> tuple[Any, ...]:
    return tuple(stages.default_pass(name) for name in ("place", "schedule"))


def compiled(model: onnx.ModelProto, x: np.ndarray, hardware: Target, **options: Any) -> Program:
    graph = mapped(model, x, hardware, **options)
    context = stages.context_for({"x": x}, hardware)
    return verify_program(emit_program(graph, context, Provenance("test", "0" * 64, "test", {})))


def with_range(program: Program, share: float) -> Program:
    """The program with another range in all layers."""
    return replace(program, stages=tuple(replace(stage, range_share=share) for stage in program.stages))  # type: ignore[arg-type]


def squared_error(program: Program, x: np.ndarray) -> float:
    """Squared error of a layer's output from the converters alone, summed over images."""
    layer = program.layers[0]
    error = Emulator(program, effects=ADC_ONLY).run(x)["y"] - Emulator.ideal(program).run(x)["y"]
    return float(np.square(error / layer.scale.astype(np.float64)).sum())


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(4, 8), st.sampled_from([1, 4]), st.floats(0.05, 1.0))
def test_no_other_range_has_a_smaller_error_on_the_calibration_data(
    seed: int, bits: int, bits_per_phase: int, density: float
) -> None:
    """The pass against the emulator itself, run with every range that the pass may choose."""
    rng = np.random.default_rng(seed)
    x = (rng.uniform(0, 1, (20, 40)) * (rng.uniform(size=(20, 40)) < density)).astype(np.float32)
    x[0, 0] = 1.0
    hardware = target(bits, input={"bits_per_phase": bits_per_phase})
    chosen = compiled(ONE_LAYER, x, hardware, images=20, vectors=20)
    errors = [squared_error(with_range(chosen, share), x) for share in np.geomspace(1.0, 1 / 64, 25).tolist()]
    # The longest range is taken of those that are as good as equal; outputs are float32.
    assert squared_error(chosen, x) <= min(errors) * (ALIKE + 1e-4) + 1e-6


def test_ranges_are_chosen_for_cells_that_err_as_those_of_the_target() -> None:
    """Codes of a level are exact on quiet cells; on others finer ones add least to what the lines carry."""
    rng = np.random.default_rng(1)
    x = (rng.uniform(0, 1, (40, 40)) * (rng.uniform(size=(40, 40)) < 0.3)).astype(np.float32)
    hardware = target(8, programming={"sigma_us": 1.0})
    quiet, noisy = (compiled(ONE_LAYER, x, own, images=40).layers[0].range_share or 0 for own in (target(8), hardware))
    assert quiet > 1.2 * noisy
    program = compiled(ONE_LAYER, x, hardware, images=40)
    shares = [noisy, quiet, *np.geomspace(1.0, 1 / 8, 19).tolist()]
    first, *others = (sum(added_error(with_range(program, share), x, seed) for seed in range(5)) for share in shares)
    # Rounding grows with the square of the range, and ranges are tried in equal ratios.
    assert first <= ALIKE * 4096 ** (2 / 48) * min(others)
    assert first < 0.5 * others[0]


def added_error(program: Program, x: np.ndarray, seed: int) -> float:
    """Squared error that converters add to the output of a chip, summed over images."""
    with_adc, without = (
        Emulator(program, seed, effects=Effects(read_noise=False, adc=adc)).run(x)["y"] for adc in (True, False)
    )
    return float(np.square((with_adc - without) / program.layers[0].scale.astype(np.float64)).sum())


def test_ranges_beyond_one_that_resolves_each_level_are_tried() -> None:
    """The first range that does is half the target's; currents reach further, and one between loses least."""
    x = np.random.default_rng(0).uniform(0, 1, (20, 40)).astype(np.float32)
    x[0, 0] = 1.0
    program = compiled(ONE_LAYER, x, target(7), images=20, vectors=20)
    (layer,) = program.layers
    assert layer.range_share is not None and 0.52 < layer.range_share < 1.0
    assert squared_error(program, x) < 0.7 * squared_error(with_range(program, 1.0), x)


def test_small_currents_get_a_short_range_and_less_error() -> None:
    x = np.zeros((30, 40), np.float32)
    x[:, ::8] = RNG.uniform(0, 1, (30, 5))
    program = compiled(ONE_LAYER, x, target())
    (layer,) = program.layers
    assert layer.range_share is not None and layer.range_share < 0.5
    assert squared_error(program, x) < 0.25 * squared_error(with_range(program, 1.0), x)


def test_each_layer_has_its_own_range() -> None:
    """The first layer drives 32 lines with dense inputs, the second at most six."""
    x = RNG.uniform(0.5, 1, (30, 40)).astype(np.float32)
    first, second = compiled(TWO_LAYERS, x, target(7)).layers
    assert first.range_share is not None and second.range_share is not None
    assert second.range_share < first.range_share


def test_a_range_that_resolves_each_level_is_found() -> None:
    """The whole range does not: 255 codes are 124.4 level steps. With codes of a third of a step it ends at 85."""
    x = np.zeros((10, 40), np.float32)
    x[:, ::2] = RNG.uniform(0, 1, (10, 20))
    hardware = make_target(adc={"range": "calibrated"}, **QUIET)
    program = compiled(ONE_LAYER, x, hardware)
    (layer,) = program.layers
    assert layer.range_share == pytest.approx(85 / (16 * (7 + 7 / 9)))
    assert Emulator(program).machine.devices.converters[0].codes_per_level == 3
    assert squared_error(program, x) == 0.0
    assert squared_error(with_range(program, 1.0), x) > 0.0


@pytest.mark.parametrize("copies", [1, 3])
def test_windows_of_all_copies_are_looked_at(copies: int) -> None:
    """The last copy's windows see nothing but zeros."""
    model = float_model([node("Conv", "x w", "y")], ("N", 3, 9, 3), {"w": dyadic(RNG, (2, 3, 1, 3))})
    x = np.zeros((20, 3, 9, 3), np.float32)
    x[:, :, :3] = RNG.uniform(0, 1, (20, 3, 3, 3))
    hardware = target(8, chip={"arrays": 1000})
    graph = stages.after("replicate", model, {"x": x}, target=hardware)
    (layer,) = (item for item in graph.nodes if isinstance(item, MappedLayer))
    copy = replace(layer.replicas[0], windows=np.arange(9, dtype=np.int32))
    shares = tuple(replace(copy, windows=windows) for windows in np.split(copy.windows, copies))
    graph = graph.map_nodes({layer.name: replace(layer, replicas=shares)})
    (ranged,) = CalibrateRanges().run(graph, stages.context_for({"x": x}, hardware)).nodes
    assert isinstance(ranged, MappedLayer)
    assert ranged.range_share == pytest.approx(255 / 2 / (32 * (7 + 7 / 9)))  # codes of half a level step


@pytest.mark.parametrize("corner", [(0, 0), (0, 8), (8, 0), (8, 8)])
def test_each_image_gives_windows_of_its_own(corner: tuple[int, int]) -> None:
    """Three of four windows see nothing: looked at with one window an image, ranges hold what the others see."""
    model = float_model([node("Conv", "x w", "y")], ("N", 1, 16, 16), {"w": dyadic(RNG, (4, 1, 3, 3))})
    x = np.zeros((32, 1, 16, 16), np.float32)
    x[..., corner[0] : corner[0] + 8, corner[1] : corner[1] + 8] = RNG.uniform(0, 1, (32, 1, 8, 8))
    few, many = (compiled(model, x, target(8), vectors=count).layers[0].range_share or 0 for count in (32, 32 * 196))
    assert 0.5 * many < few <= many


def test_no_range_is_longer_than_that_of_the_target() -> None:
    x = RNG.uniform(0.9, 1, (10, 40)).astype(np.float32)
    (layer,) = compiled(ONE_LAYER, x, target(8, adc={"range_share": 0.3})).layers
    assert layer.range_share is not None and layer.range_share <= 0.3


def test_a_fixed_range_and_a_graph_without_layers_stay_as_they_are() -> None:
    feeds = {"x": RNG.uniform(0, 1, (3, 40)).astype(np.float32)}
    graph = stages.after("replicate", ONE_LAYER, feeds)
    assert CalibrateRanges().run(graph, stages.context_for(feeds)) is graph
    digital = stages.after("replicate", float_model([node("Relu", "x", "y")], ("N", 40), {}), feeds, target=target())
    assert CalibrateRanges().run(digital, stages.context_for(feeds, target())) is digital


def shared_array_program() -> tuple[Program, np.ndarray]:
    """Both layers' tiles lie in the same array, with different ranges."""
    x = RNG.uniform(0.5, 1, (6, 40)).astype(np.float32)
    hardware = make_target(array={"input_lines": 64}, adc={"bits": 7, "range": "calibrated"}, chip={"arrays": 1})
    program = compiled(TWO_LAYERS, x, hardware)
    tiles = program.placement.tiles
    assert len(np.unique(tiles.array)) == 1
    assert len({layer.range_share for layer in program.layers}) == 2
    return program, x


@pytest.mark.parametrize("adc", [True, False])
def test_executors_agree_where_layers_of_one_array_have_different_ranges(adc: bool) -> None:
    program, x = shared_array_program()
    effects = Effects(read_noise=False, adc=adc)
    fast, literal = (
        Emulator(program, 3, effects=effects, executor=executor).run(x)["y"] for executor in ("fast", "literal")
    )
    assert np.array_equal(fast, literal)


def test_ranges_change_the_converters_and_not_the_devices() -> None:
    program, x = shared_array_program()
    devices = Emulator(program, 3).machine.devices
    units_us = [converter.unit_us for converter in devices.converters]
    assert units_us[0] != units_us[1]
    cells_us = [devices.array(0, 0, converter) * converter.unit_us for converter in devices.converters]
    # Two steps of the grid at most: half for the level, a whole one for g_min, half for the error.
    assert np.allclose(cells_us[0], cells_us[1], rtol=0, atol=2 * 2.0**-16 * max(units_us))
    ideal = [Emulator.ideal(item).run(x)["y"] for item in (program, with_range_of_target(program))]
    assert np.array_equal(*ideal)


def with_range_of_target(program: Program) -> Program:
    stripped = [
        replace(stage, range_share=None) if isinstance(stage, MappedLayer) else stage for stage in program.stages
    ]
    return replace(program, stages=tuple(stripped))


def test_ranges_are_in_the_file_and_in_the_printed_graph() -> None:
    program, _ = shared_array_program()
    loaded = verify_program(decode_program(encode_program(program), "test"))
    assert [layer.range_share for layer in loaded.layers] == [layer.range_share for layer in program.layers]
    x = RNG.uniform(0, 1, (5, 40)).astype(np.float32)
    graph = mapped(ONE_LAYER, x, target())
    (layer,) = (item for item in graph.nodes if isinstance(item, MappedLayer))
    assert f"converter range {layer.range_share:.9g} of the largest current" in print_graph(graph)


def test_explain_tells_the_range_where_there_is_a_converter() -> None:
    program, _ = shared_array_program()
    for layer in program.layers:
        told = f"converter range {layer.range_share:.3g} of the largest current"
        assert told in Emulator(program).explain()[layer.name]
        assert told not in Emulator(program, effects=Effects(adc=False)).explain()[layer.name]


def test_a_share_makes_the_converter_that_the_target_would_have() -> None:
    share = 0.37
    assert Converter.adc(target()).ranged(target(), share) == Converter.adc(target(adc={"range_share": share}))
    exact = Converter.exact(target())
    assert exact.ranged(target(), share) is exact

"""The emulator against integer arithmetic, and its two executors against each other."""

from __future__ import annotations

import math

import factories
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from memcompile.errors import DataError, UsageError
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.ir.graph import TensorType
from memcompile.program.program import Program
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.runtime.executors import conversions, fast

DETERMINISTIC = Effects(read_noise=False)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels = groups * draw(st.integers(1, 4))
    columns = groups * draw(st.integers(1, 4))
    if draw(st.booleans()):
        return Geometry(channels, columns, (1,), (draw(st.integers(1, 4)),), groups, layout="channels_last")
    rank = draw(st.integers(1, 2))

    def axes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, dilations = axes(1, 3), axes(1, 2)
    size = tuple(d * (k - 1) + 1 + draw(st.integers(0, 4)) for k, d in zip(kernel, dilations, strict=True))
    return Geometry(channels, columns, kernel, size, groups, axes(1, 2), dilations, axes(0, 1), axes(0, 1))


@st.composite
def layer_programs(draw: st.DrawFn) -> tuple[Program, np.ndarray]:
    geometry = draw(geometries())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    slices = draw(st.integers(1, 3))
    bits = draw(st.sampled_from([2, 5, 8]))
    target = factories.make_target(
        cell={"levels": draw(st.sampled_from([2, 4, 8]))},
        input={"bits": bits, "bits_per_phase": draw(st.sampled_from([1, 1, 2, 3, bits]).map(lambda n: min(n, bits)))},
    )
    window = tuple(draw(st.integers(1, 3)) for _ in geometry.kernel)
    copies = [Unrolling(geometry, window, draw(st.integers(1, 2))) for _ in range(draw(st.integers(1, 3)))]
    layer = factories.random_layer(rng, geometry, target, slices=slices, signed=draw(st.booleans()), unrollings=copies)
    program = factories.layer_program(rng, layer, target)
    shape = (draw(st.integers(1, 3)), *program.inputs["x"].shape[1:])
    return program, rng.integers(-140, 300, shape).astype(np.float32)


def expected(program: Program, x: np.ndarray) -> np.ndarray:
    """Integer convolution of the quantised network, independent of unrollings and tiles."""
    layer = program.layers[0]
    quantized = layer.quantizer.quantize(layer.geometry.to_channels_first(x))
    sums = factories.naive_sums(layer, quantized)
    y = layer.rescale(sums.reshape(*sums.shape[:2], -1)).reshape(sums.shape)
    return layer.geometry.from_channels_first(y, x.shape)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(layer_programs())
def test_ideal_hardware_is_integer_arithmetic_bit_for_bit(case: tuple[Program, np.ndarray]) -> None:
    program, x = case
    want = expected(program, x)
    for executor in ("fast", "literal"):
        assert np.array_equal(Emulator.ideal(program, executor=executor).run(x)["y"], want), executor


@settings(max_examples=40, deadline=None, derandomize=True)
@given(layer_programs(), st.booleans())
def test_executors_agree_bit_for_bit_on_programmed_devices(case: tuple[Program, np.ndarray], adc: bool) -> None:
    program, x = case
    effects = Effects(read_noise=False, adc=adc)
    fast = Emulator(program, 5, effects=effects).run(x)["y"]
    literal = Emulator(program, 5, effects=effects, executor="literal").run(x)["y"]
    assert np.array_equal(fast, literal)


@pytest.mark.parametrize("executor", ["fast", "literal"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cell": {"g_min_us": 0.0}},
        {"cell": {"g_min_us": 0.0, "g_max_us": 0.1, "levels": 16}},
        {"cell": {"g_min_us": 1.0, "g_max_us": 3.1}, "adc": {"bits": 10}},
        {"adc": {"bits": 16}},
        {"adc": {"bits": 16}, "input": {"bits_per_phase": 4}},
    ],
)
def test_wide_enough_converters_change_nothing(executor: str, changes: dict) -> None:
    rng = np.random.default_rng(3)
    target = factories.make_target(**changes)
    program = factories.two_layer_program(rng, target)
    x = rng.integers(0, 256, (3, 2, 6, 6)).astype(np.float32)
    adc_only = Effects(programming_error=False, stuck_cells=False, read_noise=False)
    emulator = Emulator(program, effects=adc_only, executor=executor)
    assert emulator.machine.converter.levels_per_code == 1
    assert np.array_equal(emulator.run(x)["y"], Emulator.ideal(program).run(x)["y"])


def test_coarse_converters_lose_something_the_same_on_both_paths() -> None:
    rng = np.random.default_rng(4)
    program = factories.two_layer_program(rng, factories.make_target(adc={"bits": 5}))
    x = rng.integers(0, 256, (2, 2, 6, 6)).astype(np.float32)
    fast = Emulator(program, effects=DETERMINISTIC).run(x)["y"]
    assert np.array_equal(fast, Emulator(program, effects=DETERMINISTIC, executor="literal").run(x)["y"])
    assert not np.array_equal(fast, Emulator.ideal(program).run(x)["y"])


def test_a_wrong_mapping_gives_wrong_outputs() -> None:
    rng = np.random.default_rng(5)
    target = factories.make_target()
    layer = factories.random_layer(rng, Geometry(20, 3, (1,), (2,), layout="channels_last"), target)
    program = factories.layer_program(rng, layer, target)
    x = rng.integers(0, 256, (2, 2, 20)).astype(np.float32)
    table = program.placement.tiles
    object.__setattr__(
        program.placement,
        "tiles",
        table.with_columns(
            array=np.zeros(len(table)), input_line=np.zeros(len(table)), output_line=np.zeros(len(table))
        ),
    )
    wrong = Emulator.ideal(program, executor="literal").run(x)["y"]
    assert not np.array_equal(wrong, expected(program, x))


def _noise_samples(
    executor: str,
    adc: bool,
    seed: int,
    images: int,
    bits_per_phase: int = 1,
    proportional_share: float = 0.0,
    signed: bool = False,
) -> np.ndarray:
    """Read-noise errors of single outputs, one per image."""
    rng = np.random.default_rng(6)
    target = factories.make_target(
        read_noise={"sigma_us": 1.5, "proportional_share": proportional_share}, input={"bits_per_phase": bits_per_phase}
    )
    geometry = Geometry(24, 2, (1,), (1,), layout="channels_last")
    layer = factories.random_layer(rng, geometry, target, slices=2, signed=signed)
    program = factories.layer_program(rng, layer, target)
    x = np.repeat(rng.integers(0, 256, (1, 1, 24)) - 128 * signed, images, axis=0).astype(np.float32)
    effects = Effects(adc=adc)
    noisy = Emulator(program, seed, effects=effects, executor=executor).run(x)["y"]
    still = Emulator(program, seed, effects=Effects(adc=adc, read_noise=False)).run(x[:1])["y"]
    return (noisy - still)[:, 0, :]


@pytest.mark.parametrize("adc", [True, False])
@pytest.mark.parametrize(
    ("bits_per_phase", "share", "signed"), [(1, 0, False), (1, 0.3, True), (4, 0, True), (8, 0.3, False)]
)
def test_read_noise_of_both_executors_has_one_distribution(
    adc: bool, bits_per_phase: int, share: float, signed: bool
) -> None:
    """Kolmogorov-Smirnov on 2 outputs of 2,000 images; false alarms in 2 of 10,000 seeds, seed fixed."""
    fast, literal = (
        _noise_samples(executor, adc, 7, 2000, bits_per_phase, share, signed) for executor in ("fast", "literal")
    )
    for output in range(2):
        assert stats.ks_2samp(fast[:, output], literal[:, output]).pvalue > 1e-4
    assert not np.array_equal(fast, literal)


def test_read_noise_has_the_stated_moments() -> None:
    """Mean and standard deviation of 20,000 images without a converter; 5-sigma limits."""
    noise = _noise_samples("fast", False, 8, 20_000)
    rng = np.random.default_rng(6)
    target = factories.make_target()
    layer = factories.random_layer(rng, Geometry(24, 2, (1,), (1,), layout="channels_last"), target, slices=2)
    factories.layer_program(rng, layer, target)
    x = rng.integers(0, 256, (1, 1, 24))
    phases = ((x.ravel()[:, None] >> np.arange(8) & 1) * 4.0 ** np.arange(8)).sum()
    sigma = 1.5 / target.cell.level_step_us * np.sqrt(2 * (1 + 15**2) * phases) * 2.0**-6
    assert abs(noise.mean()) < 5 * sigma / np.sqrt(noise.size)
    assert abs(noise.std() / sigma - 1) < 5 / np.sqrt(2 * noise.size)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_read_noise_of_an_analog_phase_has_the_stated_moments(share: float) -> None:
    """All 8 bits in one phase: sigma^2 |v|^2 with v the analog voltages; 5-sigma limits, 10,000 images."""
    noise = _noise_samples("fast", False, 8, 10_000, 8, share)
    rng = np.random.default_rng(6)
    target = factories.make_target()
    layer = factories.random_layer(rng, Geometry(24, 2, (1,), (1,), layout="channels_last"), target, slices=2)
    program = factories.layer_program(rng, layer, target)
    voltages = rng.integers(0, 256, (1, 1, 24)).ravel() / 255  # in read voltages
    still = Effects(read_noise=False, adc=False)
    devices = Emulator(program, 8, effects=still).machine.devices
    table, cells_us = program.placement.tiles, np.zeros((24, 2, 2, 2))
    for row in range(len(table)):
        part = devices.tile(row) * target.cell.level_step_us
        columns = slice(table.column_begin[row], table.column_end[row])
        cells_us[table.row_begin[row] : table.row_end[row], columns] = part.reshape(len(part), -1, 2, 2)
    variance = np.einsum("r,rcsp,s->c", voltages**2, 1.5**2 + (share * cells_us) ** 2, np.array([1.0, 15.0**2]))
    sigma = 255 / target.cell.level_step_us * np.sqrt(variance) * 2.0**-6
    assert (np.abs(noise.mean(axis=0)) < 5 * sigma / np.sqrt(len(noise))).all()
    assert (np.abs(noise.std(axis=0) / sigma - 1) < 5 / np.sqrt(2 * len(noise))).all()


def test_results_depend_on_seed_and_image_number_alone() -> None:
    rng = np.random.default_rng(9)
    program = factories.two_layer_program(rng, factories.make_target())
    x = rng.integers(0, 256, (7, 2, 6, 6)).astype(np.float32)
    whole = Emulator(program, 11).run(x)["y"]
    for chunk in (1, 2, 5):
        assert np.array_equal(Emulator(program, 11, chunk=chunk).run(x)["y"], whole)
    emulator = Emulator(program, 11)
    parts = [emulator.run(x[:3])["y"], emulator.run(x[3:], first_image=3)["y"]]
    assert np.array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(Emulator(program, 12).run(x)["y"], whole)
    literal = Emulator(program, 11, executor="literal").run(x)["y"]
    assert np.array_equal(Emulator(program, 11, executor="literal", chunk=2).run(x)["y"], literal)


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(5, 3, (3, 3), (9, 9), pads_begin=(1, 1), pads_end=(1, 1), strides=(1, 1), dilations=(1, 1)),
        Geometry(37, 11, (1,), (70,), layout="channels_last"),
    ],
)
@pytest.mark.parametrize(("signed", "pairs"), [(False, "output_lines"), (True, "output_lines"), (True, "crossings")])
@pytest.mark.parametrize("bits_per_phase", [1, 3, 8])
@pytest.mark.parametrize(("adc", "share"), [(True, 0.0), (True, 0.2), (False, 0.0), (False, 0.2)])
def test_compiled_kernels_threads_and_batches_change_no_bit(
    geometry: Geometry,
    signed: bool,
    pairs: str,
    bits_per_phase: int,
    adc: bool,
    share: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("numba")
    rng = np.random.default_rng(19)
    target = factories.make_target(
        array={"input_lines": 40, "output_lines": 70, "pairs": pairs},
        adc={"bits": 9, "range": "fixed", "gain_sigma_share": 0.05, "offset_sigma_codes": 0.8},
        input={"bits_per_phase": bits_per_phase, "dac_sigma_share": 0.02},
        read_noise={"proportional_share": share},
    )
    layer = factories.random_layer(rng, geometry, target, slices=2, signed=signed)
    program = factories.layer_program(rng, layer, target)
    x = rng.integers(-100, 256, (3, *program.inputs["x"].shape[1:])).astype(np.float32)
    seed, effects = 2**40 + 3, Effects(adc=adc)
    results = [Emulator(program, seed, effects=effects, threads=threads).run(x)["y"] for threads in (1, 2, 3)]
    results.append(Emulator(program, seed, effects=effects, chunk=1).run(x)["y"])
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")
    results.append(Emulator(program, seed, effects=effects).run(x)["y"])
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize(("bits_per_phase", "adc"), [(1, True), (1, False), (8, True)])
def test_a_thousand_images_at_once_or_one_by_one_are_the_same(bits_per_phase: int, adc: bool) -> None:
    rng = np.random.default_rng(21)
    target = factories.make_target(input={"bits_per_phase": bits_per_phase})
    layer = factories.random_layer(rng, Geometry(40, 9, (1,), (1,), layout="channels_last"), target)
    program = factories.layer_program(rng, layer, target)
    x = rng.integers(0, 256, (1000, 1, 40)).astype(np.float32)
    effects = Effects(adc=adc)
    whole = Emulator(program, 4, effects=effects, chunk=1000, threads=2).run(x)["y"]
    assert np.array_equal(Emulator(program, 4, effects=effects, chunk=1, threads=1).run(x)["y"], whole)


@pytest.mark.parametrize("proportional_share", [0.0, 0.02])
@pytest.mark.parametrize("pairs", ["output_lines", "crossings"])
@pytest.mark.parametrize("slices", [1, 3])
def test_sums_do_not_depend_on_tables(
    slices: int, pairs: str, proportional_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables of any size, none at all without Numba; lines that fill no block, and columns that lie in two."""
    rng = np.random.default_rng(20)
    target = factories.make_target(
        array={"input_lines": 100, "output_lines": 256, "pairs": pairs},
        read_noise={"sigma_us": 0.1, "proportional_share": proportional_share},
    )
    layer = factories.random_layer(rng, Geometry(90, 200, (1,), (2,), layout="channels_last"), target, slices=slices)
    program = factories.layer_program(rng, layer, target)
    x = rng.integers(0, 256, (2, 2, 90)).astype(np.float32)
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")
    without = Emulator(program, 1).run(x)["y"]
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "1")
    for each in range(1, 9):
        monkeypatch.setattr(fast, "rows_per_table", lambda *_, each=each: each)
        assert np.array_equal(Emulator(program, 1).run(x)["y"], without), f"{each} rows a table"


@given(st.integers(1, 2000), st.integers(1, 100_000), st.integers(1, 2))
def test_tables_need_few_sums_and_fit_a_cache(rows: int, look_ups: int, kinds: int) -> None:
    chosen = conversions.rows_per_table(rows, look_ups, kinds)

    def sums(each: int) -> int:
        return math.ceil(rows / each) * (2**each + look_ups)

    def fits(each: int) -> bool:
        return math.ceil(rows / each) * 2**each * conversions.LINES_PER_BLOCK * kinds <= conversions.TABLE_VALUES

    possible = [each for each in range(1, 9) if fits(each)]
    assert chosen in possible or (not possible and chosen == conversions.SMALLEST_TABLES)
    assert all(sums(chosen) <= sums(each) for each in possible)


def test_programming_errors_and_stuck_cells_have_the_stated_size() -> None:
    """Moments over 65,536 cells, 5-sigma limits."""
    rng = np.random.default_rng(10)
    target = factories.make_target(
        array={"input_lines": 256, "output_lines": 256},
        cell={"g_min_us": 10.0, "g_max_us": 100.0},
        programming={"sigma_us": 0.5},
        faults={"stuck_low_share": 0.02, "stuck_high_share": 0.01},
    )
    layer = factories.random_layer(rng, Geometry(4, 2, (1,), (1,), layout="channels_last"), target)
    program = factories.layer_program(rng, layer, target)
    erring = Emulator(program, 1, effects=Effects(stuck_cells=False)).machine
    levels = erring.devices.levels(0)
    us = erring.devices.array(0) * erring.converter.unit_us
    error = us - 10.0 - levels * target.cell.level_step_us
    assert abs(error.mean()) < 5 * 0.5 / 256
    assert abs(error.std() / 0.5 - 1) < 5 / np.sqrt(2 * 65_536)
    stuck = Emulator(program, 1, effects=Effects(programming_error=False)).machine
    off = np.rint(
        stuck.devices.array(0) * stuck.converter.unit_us / target.cell.level_step_us - 10 / target.cell.level_step_us
    )
    assert abs((off == 7).mean() - 0.01) < 5 * np.sqrt(0.01 / 65_536) + 4 / 65_536


def test_intermediate_values_progress_and_constants() -> None:
    rng = np.random.default_rng(12)
    program = factories.two_layer_program(rng, factories.make_target())
    x = rng.integers(0, 256, (5, 2, 6, 6)).astype(np.float32)
    done: list[int] = []
    results = Emulator(program, chunk=2).run(x, also=["h", "r"], progress=done.append)
    assert set(results) == {"y", "h", "r"}
    assert np.array_equal(results["r"], np.maximum(results["h"], 0))
    assert done == [2, 2, 1]


def test_fixed_batch_decides_the_chunk() -> None:
    rng = np.random.default_rng(13)
    program = factories.two_layer_program(rng, factories.make_target(), batch=2)
    x = rng.integers(0, 256, (4, 2, 6, 6)).astype(np.float32)
    assert Emulator(program).batches.chunk == 2
    assert len(Emulator(program).run(x)["y"]) == 4
    with pytest.raises(DataError, match="3 images are no multiple of the model's fixed batch of 2"):
        Emulator(program).run(x[:3])
    with pytest.raises(UsageError, match="chunk 3 contradicts the model's fixed batch of 2"):
        Emulator(program, chunk=3)


GOOD = np.zeros((2, 2, 6, 6), np.float32)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            GOOD.astype(np.float64),
            r"input 'x' is float64\[2, 2, 6, 6\], the program wants float32\[N, 2, 6, 6\]; convert",
        ),
        (GOOD[:, :1], r"input 'x' is float32\[2, 1, 6, 6\], the program wants float32\[N, 2, 6, 6\]; the first"),
        (GOOD[0], r"input 'x' is float32\[2, 6, 6\], the program wants"),
        (GOOD[:0], "there are no images"),
        (np.full_like(GOOD, np.nan), r"input 'x' holds nan at index \(0, 0, 0, 0\)"),
        (np.full_like(GOOD, np.inf), r"input 'x' holds inf at index"),
        ({}, r"input 'x' is missing; the program wants x float32\[N, 2, 6, 6\]"),
        ({"x": GOOD, "z": GOOD}, "the program has no input 'z'; it wants x float32"),
    ],
)
def test_wrong_inputs_are_one_message(x: object, message: str) -> None:
    program = factories.two_layer_program(np.random.default_rng(14), factories.make_target())
    with pytest.raises(DataError, match=message):
        Emulator(program).run(x)  # type: ignore[arg-type]


def test_wrong_arguments_are_one_message() -> None:
    program = factories.two_layer_program(np.random.default_rng(15), factories.make_target())
    with pytest.raises(UsageError, match="no value 'q'; values between its stages are h, r, x, y"):
        Emulator(program).run(GOOD, also=["q"])
    with pytest.raises(UsageError, match="first_image -1 is out of range"):
        Emulator(program).run(GOOD, first_image=-1)
    with pytest.raises(UsageError, match="seed -1 is out of range"):
        Emulator(program, -1)
    with pytest.raises(UsageError, match="no executor is called 'quick'"):
        Emulator(program, executor="quick")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="chunk 0 is out of range"):
        Emulator(program, chunk=0)


def test_two_inputs_must_agree() -> None:
    rng = np.random.default_rng(16)
    target = factories.make_target()
    geometry = Geometry(4, 2, (1,), (1,), layout="channels_last")
    stages = [
        factories.random_layer(rng, geometry, target, name="a", inputs=("u",), outputs=("p",)),
        factories.random_layer(rng, geometry, target, name="b", inputs=("v",), outputs=("q",)),
    ]
    kind = TensorType("float32", (None, 1, 4))
    program = factories.make_program(rng, stages, target, {"u": kind, "v": kind}, ("p", "q"))
    x = np.ones((3, 1, 4), np.float32)
    assert set(Emulator(program).run({"u": x, "v": x})) == {"p", "q"}
    with pytest.raises(DataError, match=r"different numbers of images \(u 3, v 2\)"):
        Emulator(program).run({"u": x, "v": x[:2]})
    with pytest.raises(DataError, match="the program has 2 inputs"):
        Emulator(program).run(x)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 3), "layer layer gets .1, 1, 3. as 'r'; it was compiled for 4 channels of size .2,."),
        ((1, 1, 4), "layer layer gets .1, 1, 4. as 'r'"),
        ((1, 2, 4), "layer layer gets a value that is not a number in 'r' .image 0."),
    ],
)
def test_values_between_stages_must_be_numbers_of_the_right_shape(shape: tuple[int, ...], message: str) -> None:
    rng = np.random.default_rng(17)
    target = factories.make_target()
    layer = factories.random_layer(rng, Geometry(4, 2, (1,), (2,), layout="channels_last"), target, inputs=("r",))
    stages = [factories.digital_stage("log", "Log", "x", "r", 3), layer]
    program = factories.make_program(rng, stages, target, {"x": TensorType("float32", (None, None, None))})
    with pytest.raises(DataError, match=message):
        Emulator(program).run(np.full(shape, -1, np.float32))


def test_onnxruntime_refusals_are_one_message() -> None:
    rng = np.random.default_rng(18)
    target = factories.make_target()
    stage = factories.digital_stage("relu", "Relu", "x", "y", 3)
    program = factories.make_program(rng, [stage], target, {"x": TensorType("float32", (None, 4))})
    with pytest.raises(DataError, match=r"digital stage relu cannot run on x float32\[2, 4\]: "):
        Emulator(program).run(np.ones((2, 4), np.float32))

"""Corrections of lines: which outputs a line makes, the same bits on every path, and perfect hardware without them."""

from __future__ import annotations

from dataclasses import replace

import factories
import numpy as np
import pytest
from exported import assert_agrees
from hypothesis import given, settings
from hypothesis import strategies as st

from memcompile.errors import UsageError
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.program.file import decode_program, encode_program
from memcompile.program.line_corrections import Calibration, LineCorrections, count_places, places_of
from memcompile.program.program import Program
from memcompile.runtime.emulator import Effects, Emulator

GEOMETRY = Geometry(2, 3, (3, 3), (7, 6), 1, (1, 1), (1, 1), (1, 0), (0, 1))
STILL = Effects(read_noise=False)


def corrected(rng: np.random.Generator, program: Program, seed: int = 0) -> Program:
    """The program with random corrections of every line."""
    layers = []
    for layer in program.layers:
        shape = (count_places(layer), layer.geometry.out_channels)
        gain, offset = rng.uniform(0.5, 1.5, shape), rng.normal(0, 0.5, shape)
        layers.append(LineCorrections(gain.astype(np.float32), offset.astype(np.float32)))
    return replace(program, calibration=Calibration(seed, tuple(layers)))


def windowed(rng: np.random.Generator, **target: dict[str, float]) -> Program:
    """A layer of two replicas with parallel windows that reach beyond the far edges."""
    hardware = factories.make_target(**target)
    window = Unrolling(GEOMETRY, (2, 2))
    layer = factories.random_layer(rng, GEOMETRY, hardware, unrollings=[window, window])
    return factories.layer_program(rng, layer, hardware)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_places_are_replicas_and_outputs_of_windows(seed: int, tall: int, wide: int, copies: int) -> None:
    rng = np.random.default_rng(seed)
    unrolling = Unrolling(GEOMETRY, (tall, wide))
    layer = factories.random_layer(rng, GEOMETRY, factories.make_target(), unrollings=[unrolling] * copies)
    assert count_places(layer) == len(layer.replicas) * tall * wide
    found, across = places_of(layer), GEOMETRY.output_size[1]
    for position in range(GEOMETRY.positions):
        y, x = divmod(position, across)
        window = y // tall * unrolling.grid[1] + x // wide
        (replica,) = (number for number, item in enumerate(layer.replicas) if window in item.windows)
        assert found[position] == replica * tall * wide + y % tall * wide + x % wide


@pytest.mark.parametrize("digital", [True, False])
def test_both_executors_and_the_export_give_the_same_bits(digital: bool) -> None:
    rng = np.random.default_rng(7)
    program = factories.two_layer_program(rng, factories.make_target()) if digital else windowed(rng)
    program = corrected(rng, program)
    x = rng.integers(0, 4, (5, 2, *program.inputs["x"].shape[2:])).astype(np.float32)
    fast, literal = (Emulator(program, effects=STILL, executor=name).run(x)["y"] for name in ("fast", "literal"))
    np.testing.assert_array_equal(fast, literal)
    assert_agrees(program, {"x": x})
    plain = Emulator(replace(program, calibration=None), effects=STILL).run(x)["y"]
    assert not np.array_equal(plain, fast)


def test_a_layer_is_corrected_line_by_line() -> None:
    rng = np.random.default_rng(8)
    program = corrected(rng, windowed(rng))
    x = rng.integers(0, 4, (4, 2, 7, 6)).astype(np.float32)
    plain = Emulator(replace(program, calibration=None), effects=STILL).run(x)["y"]
    assert program.calibration is not None
    (corrections,), place = program.calibration.layers, places_of(program.layers[0])
    wanted = plain.reshape(4, 3, -1) * corrections.gain[place].T + corrections.offset[place].T
    got = Emulator(program, effects=STILL).run(x)["y"].reshape(4, 3, -1)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_perfect_hardware_has_nothing_to_correct() -> None:
    rng = np.random.default_rng(9)
    program = windowed(rng)
    x = rng.integers(0, 4, (4, 2, 7, 6)).astype(np.float32)
    got = Emulator.ideal(corrected(rng, program)).run(x)["y"]
    np.testing.assert_array_equal(got, Emulator.ideal(program).run(x)["y"])


def test_corrections_belong_to_one_chip() -> None:
    rng = np.random.default_rng(10)
    program = corrected(rng, windowed(rng), seed=3)
    Emulator(program, 3)
    with pytest.raises(UsageError, match="calibrated for the chip of seed 3, not for that of seed 4"):
        Emulator(program, 4)


def test_corrections_are_kept_in_program_files() -> None:
    rng = np.random.default_rng(11)
    program = corrected(rng, factories.two_layer_program(rng, factories.make_target()), seed=5)
    again = decode_program(encode_program(program), "here")
    assert again.calibration is not None
    assert program.calibration is not None
    assert again.calibration.seed == 5
    for got, kept in zip(again.calibration.layers, program.calibration.layers, strict=True):
        np.testing.assert_array_equal(got.gain, kept.gain)
        np.testing.assert_array_equal(got.offset, kept.offset)
    assert encode_program(again) == encode_program(program)

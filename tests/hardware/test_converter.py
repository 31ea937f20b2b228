"""Converters against exact arithmetic: the end of the range, the size of a code, rounding half up."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import factories
import numpy as np
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from places import REPOSITORY

import memcompile
from memcompile.hardware.converter import Converter, aligned_share
from memcompile.hardware.target import Target
from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import MappedLayer
from memcompile.program.program import Program
from memcompile.runtime.emulator import Effects, Emulator

ADC_ONLY = Effects(**{**vars(Effects.none()), "adc": True})
EXECUTORS = ("fast", "literal")
CASE = REPOSITORY.parent / "shared" / "cases" / "converter_range"


def fixed(bits: int, share: float = 1.0, **sections: dict[str, Any]) -> Target:
    """The reference chip with fixed converter ranges and other sections."""
    return factories.make_target(adc={"bits": bits, "range": "fixed", "range_share": share}, **sections)


def dense_program(target: Target, inputs: int, outputs: int, slices: int = 1, seed: int = 1, **options: Any) -> Program:
    rng = np.random.default_rng(seed)
    geometry = Geometry(inputs, outputs, (1,), (1,), layout="channels_last")
    return factories.layer_program(rng, factories.random_layer(rng, geometry, target, slices=slices, **options), target)


def with_weights(program: Program, weights: NDArray[np.int64]) -> Program:
    """The program of one dense layer, in one tile, with these weights, [inputs, outputs], and no bias."""
    layer = program.layers[0]
    (copy,) = layer.replicas
    cells = factories.cells_of(weights[None], 1, program.target)
    return replace(program, stages=(replace(layer, cells=cells, replicas=(copy,), bias=np.zeros_like(layer.bias)),))


# --- the oracle ------------------------------------------------------------------------------------


def exact_codes(sums: NDArray[Any], driven: NDArray[Any], target: Target) -> tuple[NDArray[Any], Fraction, Fraction]:
    """Codes of lines by the target's documentation, in whole numbers of any size.

    ``sums`` are level steps times digits, ``driven`` sums of digits, of the same shape. Also gives the size of a code
    in level steps, and the smallest distance of a line from the next threshold, in codes.
    """
    cell, array, signed = target.cell, target.array, target.array.pairs == "crossings"
    base = Fraction(cell.g_min_us) * (cell.levels - 1) / (Fraction(cell.g_max_us) - Fraction(cell.g_min_us))
    base = Fraction(0) if signed else base
    most = (cell.levels - 1 + base) * array.input_lines * (2**target.input.bits_per_phase - 1)
    last = 2 ** (target.adc.bits - 1) - 1 if signed else 2**target.adc.bits - 1
    size = most * Fraction(str(target.adc.range_share)) / last
    # floor(current / size + 1/2), above and below one denominator.
    whole = 2 * base.denominator * size.numerator
    above = 2 * (sums.astype(object) * base.denominator + driven.astype(object) * base.numerator) * size.denominator
    above += whole // 2
    past = above % whole
    nearest = min(int(np.where(past > 0, past, whole).min()), int((whole - past).min()))
    return np.clip(above // whole, -last if signed else 0, last), size, Fraction(nearest, whole)


def exact_outputs(program: Program, x: NDArray[Any]) -> tuple[NDArray[np.float32], Fraction]:
    """Outputs of a dense layer on cells without errors, and the smallest distance from a threshold, in codes."""
    (layer,) = program.layers
    target, quantizer = program.target, layer.quantizer
    (copy,) = layer.replicas
    signs = [1, -1]
    total, nearest = np.zeros((len(x), layer.geometry.out_channels), object), Fraction(1)
    size = Fraction(0)
    number = np.clip(np.rint(x.reshape(len(x), -1)), quantizer.lowest, quantizer.highest).astype(np.int64)
    for phase, weight in enumerate(quantizer.phase_weights):
        digits = quantizer.digits(number, phase).astype(np.int64)
        for begin, end in zip(copy.cut.rows[:-1], copy.cut.rows[1:], strict=True):
            part = digits[:, begin:end]
            for slice_, cells in enumerate(np.moveaxis(layer.cells[:, :, 0, begin:end].astype(np.int64), 1, 0)):
                lines = np.stack([part @ cells[0], part @ cells[1]])
                if target.array.pairs == "crossings":
                    lines = lines[:1] - lines[1:]
                driven = np.broadcast_to(part.sum(axis=1)[None, :, None], lines.shape)
                codes, size, distance = exact_codes(lines, driven, target)
                nearest = min(nearest, distance)
                total = total + weight * layer.base**slice_ * sum(
                    sign * codes[line] for line, sign in enumerate(signs[: len(codes)])
                )
    levels = np.array([[float(value * size) for value in row] for row in total])
    return (levels * layer.scale.astype(np.float64) + layer.bias.astype(np.float64)).astype(np.float32), nearest


@st.composite
def cases(draw: st.DrawFn) -> tuple[Program, NDArray[np.float32]]:
    bits = draw(st.integers(2, 8))
    pairs = draw(st.sampled_from(["output_lines", "crossings"]))
    target = fixed(
        draw(st.integers(2, 10)),
        draw(st.sampled_from([1.0, 0.99, 0.9, 0.75, 0.5, 0.3, 0.07])),
        array={"input_lines": draw(st.integers(1, 80)), "pairs": pairs},
        cell={"levels": draw(st.integers(2, 9)), "g_min_us": draw(st.sampled_from([0.0, 2.0]))},
        input={"bits": bits, "bits_per_phase": draw(st.sampled_from([1, 1, 2, bits]).map(lambda n: min(n, bits)))},
    )
    program = dense_program(
        target,
        draw(st.integers(1, 60)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 2)),
        draw(st.integers(0, 2**32)),
        signed=draw(st.booleans()),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    inputs = program.layers[0].geometry.in_channels
    limit = 2**bits
    return program, rng.integers(-limit // 2, limit, (3, 1, inputs)).astype(np.float32)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(cases())
def test_cells_without_errors_give_the_codes_of_exact_arithmetic(case: tuple[Program, NDArray[np.float32]]) -> None:
    """Bit for bit, wherever no current is nearer to a threshold than the grid of conductances lets a line be off."""
    program, x = case
    want, nearest = exact_outputs(program, x)
    converter, target = Emulator(program, effects=ADC_ONLY).machine.converter, program.target
    assert converter.grid_bits is not None
    # Per line half a step for the level, a whole one for g_min, and as much again where ties are guarded.
    off = Fraction(3 * target.array.input_lines * target.input.highest_digit, 1 << converter.grid_bits)
    event(f"guarded: {converter.half > 0.5}, far from thresholds: {nearest > off}")
    assume(nearest > off)
    for executor in EXECUTORS:
        assert np.array_equal(Emulator(program, effects=ADC_ONLY, executor=executor).run(x)["y"][:, 0], want), executor  # type: ignore[arg-type]


# --- rounding and the end of the range ---------------------------------------------------------------


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(("lines", "levels", "bits"), [(5, 3, 4), (6, 8, 5), (4, 4, 3), (6, 6, 8), (64, 3, 8)])
def test_half_a_code_is_rounded_up(lines: int, levels: int, bits: int, executor: str) -> None:
    """Half of the whole current is half way between two codes of a signed converter; either sign goes up."""
    target = fixed(bits, cell={"levels": levels}, array={"input_lines": lines, "pairs": "crossings"})
    last, most = 2 ** (bits - 1) - 1, lines * (levels - 1)
    assert most % 2 == 0
    half = np.zeros((lines, 2), np.int64)
    for row in range(lines):
        half[row] = min(levels - 1, most // 2 - half[:, 0].sum())
    half[:, 1] *= -1
    program = dense_program(target, lines, 2)
    copy = replace(program.layers[0].replicas[0], cut=replace(program.layers[0].replicas[0].cut, rows=(0, lines)))
    layer = replace(program.layers[0], replicas=(copy,))
    program = with_weights(factories.layer_program(np.random.default_rng(0), layer, target), half)
    got = Emulator(program, effects=ADC_ONLY, executor=executor).run(np.ones((1, 1, lines), np.float32))["y"][0, 0]  # type: ignore[arg-type]
    codes = got / program.layers[0].scale * last / most
    assert codes.tolist() == pytest.approx([(last + 1) / 2, -(last - 1) / 2])


@settings(deadline=None)
@given(
    st.integers(2, 16),
    st.integers(2, 128),
    st.integers(1, 2000),
    st.integers(1, 8),
    st.floats(0.001, 1.0),
    st.sampled_from(["output_lines", "crossings"]),
)
def test_a_fixed_range_ends_where_the_target_says(
    bits: int, levels: int, lines: int, digit_bits: int, share: float, pairs: str
) -> None:
    """The highest code stands for the end of the range, to within nine digits."""
    target = fixed(
        bits,
        share,
        cell={"levels": levels, "g_min_us": 2.0, "g_max_us": 20.0},
        array={"input_lines": lines, "pairs": pairs},
        input={"bits_per_phase": digit_bits},
    )
    signed = pairs == "crossings"
    largest_us = lines * (2**digit_bits - 1) * (18.0 if signed else 20.0) * share
    last = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    converter = Converter.adc(target)
    assert (converter.min_code, converter.max_code) == (-last if signed else 0, last)
    assert converter.unit_us * last == pytest.approx(largest_us, rel=1e-9)
    levels_of_code = converter.levels_per_code / converter.codes_per_level
    assert levels_of_code * target.cell.level_step_us == pytest.approx(converter.unit_us, rel=1e-12)
    assert 0.5 <= converter.half < 0.75


@pytest.mark.parametrize("executor", EXECUTORS)
def test_currents_beyond_the_range_get_the_last_code(executor: str) -> None:
    target = fixed(6, 0.25, array={"input_lines": 20, "pairs": "crossings"})
    program = dense_program(target, 20, 2)
    copy = replace(program.layers[0].replicas[0], cut=replace(program.layers[0].replicas[0].cut, rows=(0, 20)))
    layer = replace(program.layers[0], replicas=(copy,))
    program = factories.layer_program(np.random.default_rng(0), layer, target)
    program = with_weights(program, np.full((20, 2), 7) * np.array([1, -1]))
    y = Emulator(program, effects=ADC_ONLY, executor=executor).run(np.ones((1, 1, 20), np.float32))["y"][0, 0]  # type: ignore[arg-type]
    assert (y / program.layers[0].scale).tolist() == pytest.approx([20 * 7 * 0.25, -20 * 7 * 0.25])


# --- what a resolution and a range are worth -----------------------------------------------------------


def sqnr_db(program: Program, x: NDArray[Any]) -> float:
    """Signal to noise of what the converters alone do to a layer's sums."""
    bias = program.layers[0].bias.astype(np.float64)
    want = Emulator.ideal(program).run(x)["y"] - bias
    error = Emulator(program, effects=ADC_ONLY).run(x)["y"] - bias - want
    return float(10 * np.log10(np.square(want).sum() / np.square(error).sum()))


def random_case(target: Target, inputs: int) -> tuple[Program, NDArray[np.float32]]:
    """Random weights and inputs on lines of ``inputs`` cells."""
    program = dense_program(target, inputs, 8, seed=3)
    copy = program.layers[0].replicas[0]
    layer = replace(program.layers[0], replicas=(replace(copy, cut=replace(copy.cut, rows=(0, inputs))),))
    x = np.random.default_rng(4).integers(0, 256, (200, 1, inputs)).astype(np.float32)
    return factories.layer_program(np.random.default_rng(5), layer, target), x


def long_lines(bits: int, share: float, pairs: str, bits_per_phase: int) -> Target:
    """A hundred input lines and sixteen levels: a code is many level steps."""
    array, cell = {"input_lines": 100, "pairs": pairs}, {"levels": 16}
    return fixed(bits, share, array=array, cell=cell, input={"bits_per_phase": bits_per_phase})


@pytest.mark.parametrize(("share", "decibel"), [(1.0, 42.08), (0.99, 53.13)])
def test_sixty_four_lines_of_three_levels(share: float, decibel: float) -> None:
    """One code is 128 * share / 127 level steps and no sum reaches 64: all codes are right, and too large by that."""
    size = 128 * share / 127
    assert -20 * math.log10(abs(size - 1)) == pytest.approx(decibel, abs=0.01)
    target = fixed(8, share, cell={"levels": 3, "g_min_us": 0.0}, array={"input_lines": 64, "pairs": "crossings"})
    assert sqnr_db(*random_case(target, 64)) == pytest.approx(decibel, abs=0.01)


@pytest.mark.parametrize(("share", "decibel"), [("1.0", 41.98), ("0.99", 53.04)])
def test_the_converter_of_a_target_file(share: str, decibel: float, tmp_path: Path) -> None:
    """A whole network through files; the ratio is that of outputs with their bias."""
    if not CASE.is_dir():
        pytest.skip("no shared cases")
    file = tmp_path / "t.toml"
    file.write_text(
        (CASE / "t.toml").read_text().replace("range_share = 0.99", f'range_share = {share}\nrange = "fixed"')
    )
    program = memcompile.compile(CASE / "m.onnx", str(file), data=CASE / "d.npz", max_loss=None)
    with np.load(CASE / "d.npz") as data:
        feeds = dict(data.items())
    (output,) = program.outputs
    want = Emulator.ideal(program).run(feeds)[output].astype(np.float64)
    for executor in EXECUTORS:
        got = Emulator(program, effects=ADC_ONLY, executor=executor).run(feeds)[output]  # type: ignore[arg-type]
        ratio = 10 * math.log10(np.square(want).sum() / np.square(got - want).sum())
        assert ratio == pytest.approx(decibel, abs=0.01)


@pytest.mark.parametrize("pairs", ["output_lines", "crossings"])
@pytest.mark.parametrize("bits_per_phase", [1, 8])
def test_a_bit_is_worth_six_decibels(pairs: str, bits_per_phase: int) -> None:
    """Rounding errors of coarse codes are spread evenly over a code: twice as many halve them. Three sigma is 0.6."""
    bits = range(6, 9) if bits_per_phase == 1 else range(8, 13)
    ratios = [sqnr_db(*random_case(long_lines(each, 0.6, pairs, bits_per_phase), 100)) for each in bits]
    assert np.diff(ratios) == pytest.approx(np.full(len(ratios) - 1, 6.02), abs=1.5)


@pytest.mark.parametrize("pairs", ["output_lines", "crossings"])
@pytest.mark.parametrize("bits_per_phase", [1, 8])
def test_a_slightly_shorter_range_changes_little(pairs: str, bits_per_phase: int) -> None:
    shares = (1.0, 0.99, 0.98, 0.97)
    ratios = [sqnr_db(*random_case(long_lines(8, share, pairs, bits_per_phase), 100)) for share in shares]
    assert max(ratios) - min(ratios) < 1.0


# --- aligned ranges ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(2, 16), st.integers(1, 300), st.floats(0.01, 1.0), st.booleans())
def test_an_aligned_share_makes_whole_codes_and_is_the_next_below(
    bits: int, levels: int, lines: int, share: float, signed: bool
) -> None:
    target = fixed(
        bits,
        cell={"levels": levels, "g_min_us": 0.0},
        array={"input_lines": lines, "pairs": "crossings" if signed else "output_lines"},
    )
    beside = aligned_share(target, share)
    assert 0 < beside <= share
    converter = Converter.adc(target, beside)
    terms = (converter.levels_per_code, converter.codes_per_level)
    assert min(terms) == 1, "a code is whole level steps, or a whole part of one"
    assert not (signed and terms[0] % 2 == 0)
    last = (1 << (bits - signed)) - 1
    steps = share * lines * (levels - 1) / last  # of a code of the longer range
    step = terms[0] + (2 if signed else 1) if terms[0] > 1 else Fraction(1, max(terms[1] - 1, 1))
    longer = terms[0] > 1 or terms[1] > 1
    assert not longer or float(step) > steps * (1 - 1e-12)


def test_aligned_and_fixed_ranges_agree_where_levels_are_codes() -> None:
    """255 codes for 15 lines of 17 level steps: one code is one step, whatever the range is called."""
    sections = {"cell": {"levels": 18, "g_min_us": 0.0}, "array": {"input_lines": 15}}
    program = dense_program(fixed(8, **sections), 40, 5)
    aligned = replace(program, target=factories.make_target(**sections))
    assert aligned.target.adc.range == "aligned"
    x = np.random.default_rng(6).integers(0, 256, (4, 1, 40)).astype(np.float32)
    for effects in (Effects(), ADC_ONLY):
        assert np.array_equal(*(Emulator(item, 3, effects=effects).run(x)["y"] for item in (program, aligned)))
    assert Emulator(program, effects=ADC_ONLY).explain()["layer"].startswith("product: the converters resolve each")
    assert isinstance(program.stages[0], MappedLayer)

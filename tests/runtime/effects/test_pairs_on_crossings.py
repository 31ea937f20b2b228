"""Arrays whose pairs are at one crossing: one signed conversion per pair in place of two."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import factories
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import FIVE_LAYER_CNN as MODEL

import memcompile
from memcompile.data.loader import load_dataset
from memcompile.export.conductances import conductance_arrays
from memcompile.hardware.converter import Converter
from memcompile.hardware.target import Target
from memcompile.ir.geometry import Geometry
from memcompile.program.program import Program
from memcompile.report.lookup import find_weight
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.runtime.training.transfer import transfer

DENSE = Geometry(24, 5, (1,), (1,), layout="channels_last")


def crossings(**sections: dict[str, object]) -> Target:
    sections["array"] = {"pairs": "crossings", **sections.get("array", {})}
    return factories.make_target(**sections)


def dense_program(target: Target, slices: int = 1, seed: int = 1) -> Program:
    rng = np.random.default_rng(seed)
    return factories.layer_program(rng, factories.random_layer(rng, DENSE, target, slices=slices), target)


def test_an_array_holds_a_weight_a_crossing() -> None:
    array = crossings().array
    assert (array.lines_per_pair, array.cells_per_crossing) == (1, 2)
    assert (array.crossings, array.cell_columns, array.cells) == (16 * 128, 256, 2 * 16 * 128)
    array = factories.make_target().array
    assert (array.lines_per_pair, array.cells_per_crossing) == (2, 1)
    assert (array.crossings, array.cell_columns, array.cells) == (16 * 128, 128, 16 * 128)


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(2, 128), st.integers(1, 600), st.integers(1, 8), st.floats(0.01, 1.0))
def test_aligned_codes_reach_to_both_ends_of_the_range(
    bits: int, levels: int, rows: int, digit_bits: int, share: float
) -> None:
    """One code is whole level steps, or a whole part of one; the range is used as far as that allows."""
    target = crossings(
        adc={"bits": bits, "range_share": share},
        cell={"levels": levels},
        array={"input_lines": rows},
        input={"bits_per_phase": digit_bits},
    )
    converter = Converter.adc(target)
    most = 2 ** (bits - 1) - 1
    assert (converter.min_code, converter.max_code) == (-most, most)
    assert min(converter.levels_per_code, converter.codes_per_level) == 1
    reach = Fraction(share) * rows * (levels - 1) * (2**digit_bits - 1)  # level steps times digits
    code = Fraction(converter.levels_per_code, converter.codes_per_level)
    assert most * code >= reach
    assert converter.levels_per_code % 2 == 1, "no whole number of level steps lies between two codes"
    if converter.levels_per_code > 1:
        assert most * (code - 2) < reach
    else:
        assert most * Fraction(1, converter.codes_per_level + 1) < reach


def test_rounding_by_converters_is_symmetric() -> None:
    """A network and its negative have opposite outputs to the bit: no error of a converter has a sign of its own."""
    target = crossings(adc={"bits": 5}, array={"input_lines": 32})
    program = dense_program(target)
    layer = program.layers[0]
    still = replace(layer, bias=np.zeros_like(layer.bias))
    opposite = replace(still, cells=np.ascontiguousarray(still.cells[::-1]))
    x = np.random.default_rng(2).integers(0, 256, (50, 1, 24)).astype(np.float32)
    outputs = [
        Emulator(replace(program, stages=(stage,)), effects=Effects(**{**vars(Effects.none()), "adc": True})).run(x)[
            "y"
        ]
        for stage in (still, opposite)
    ]
    assert Emulator(program).machine.converter.levels_per_code > 1
    assert np.array_equal(outputs[0], -outputs[1])
    assert not np.array_equal(outputs[0], Emulator.ideal(replace(program, stages=(still,))).run(x)["y"])


def test_converters_that_resolve_each_level_change_nothing() -> None:
    target = crossings(adc={"bits": 8}, array={"input_lines": 18})  # 18 * 7 = 126 steps at most
    program = dense_program(target, slices=2)
    x = np.random.default_rng(3).integers(0, 256, (5, 1, 24)).astype(np.float32)
    want = Emulator.ideal(program).run(x)["y"]
    for executor in ("fast", "literal"):
        emulator = Emulator(
            program,
            effects=Effects(**{**vars(Effects.none()), "adc": True}),
            executor=executor,  # type: ignore[arg-type]
        )
        assert emulator.machine.converter.levels_per_code == 1
        assert np.array_equal(emulator.run(x)["y"], want)


def test_read_noise_of_both_cells_adds_up() -> None:
    """Mean and standard deviation of 20,000 reads without a converter; 5-sigma limits."""
    program = dense_program(crossings(read_noise={"sigma_us": 1.5}))
    x = np.repeat(np.random.default_rng(4).integers(0, 256, (1, 1, 24)), 20_000, axis=0).astype(np.float32)
    noisy, still = (Emulator(program, 3, effects=Effects(adc=False, read_noise=on)) for on in (True, False))
    noise = (noisy.run(x)["y"] - still.run(x[:1])["y"])[:, 0]
    phases = ((x[0].astype(int).ravel()[:, None] >> np.arange(8) & 1) * 4.0 ** np.arange(8)).sum()
    sigma = 1.5 / program.target.cell.level_step_us * np.sqrt(2 * phases) * 2.0**-6
    assert (np.abs(noise.mean(axis=0)) < 5 * sigma / np.sqrt(len(noise))).all()
    assert (np.abs(noise.std(axis=0) / sigma - 1) < 5 / np.sqrt(2 * len(noise))).all()


def test_a_dead_output_line_carries_neither_cell() -> None:
    program = dense_program(crossings(faults={"dead_output_line_share": 0.5, "stuck_high_share": 0.0}))
    devices = Emulator(program, 6).machine.devices
    dead = [(devices.cells(row) == 0).all(axis=0).reshape(-1, 2) for row in range(len(program.placement.tiles))]
    lines = np.concatenate(dead)
    assert (lines[:, 0] == lines[:, 1]).all()
    assert 0 < lines[:, 0].sum() < len(lines)


@pytest.mark.parametrize("slices", [1, 2])
def test_cells_are_found_where_they_are(slices: int) -> None:
    """Exported conductances, the pairs of the tuner, and the look-up of single weights say the same."""
    program = dense_program(crossings(), slices)
    exported = conductance_arrays(program)
    array, cell = program.target.array, program.target.cell
    arrays = int(program.placement.tiles.array.max()) + 1
    conductances = exported["conductances_us"]
    assert conductances.shape == (arrays, 16, 128, 2)
    flat, pairs = conductances.reshape(-1), program.cell_map.pairs()
    held = np.rint((flat[pairs.plus] - flat[pairs.minus]) / cell.level_step_us).astype(int)
    assert np.array_equal(held, pairs.digit)
    assert len(flat) == arrays * array.cells
    layer = program.layers[0]
    for output, kernel_input in ((0, 0), (4, 23), (2, 11)):
        cells = find_weight(program, "layer", output, kernel_input)
        weight = 0
        for place in cells:
            at = conductances[
                place.chip * program.target.chip.arrays + place.array, place.input_line, place.output_line
            ]
            sign = 1 if place.polarity == "+" else -1
            assert at[int(sign < 0)] == pytest.approx(place.conductance_us)
            weight += sign * place.level * layer.base**place.slice
        assert weight == layer.integer_matrix()[0, kernel_input, output]
        assert len({place.output_line for place in cells}) == slices


def test_a_transferred_chip_holds_the_weights() -> None:
    program = dense_program(crossings(programming={"sigma_us": 0.0}, faults={"stuck_high_share": 0.0}), 2)
    written, _ = transfer(program, 5)
    x = np.random.default_rng(5).integers(0, 256, (4, 1, 24)).astype(np.float32)
    still = Effects(read_noise=False, adc=False, stuck_cells=False)
    got = Emulator(written, 5, effects=still).run(x)["y"]
    assert np.allclose(got, Emulator.ideal(program).run(x)["y"], rtol=1e-3, atol=0.5)


def test_half_the_conversions_and_arrays(tmp_path: Path) -> None:
    """The five-layer network on arrays of the same lines, which hold twice as many weights."""
    text = (Path(memcompile.__file__).parent / "hardware" / "targets" / "yao2020.toml").read_text()
    target = tmp_path / "crossings.toml"
    target.write_text(text.replace('pairs = "output_lines"', 'pairs = "crossings"'))
    lines, both = (
        memcompile.compile(MODEL, name, settings=("replicate.objective=arrays",), max_loss=None)
        for name in ("yao2020", str(target))
    )
    assert both.arrays_used <= lines.arrays_used / 2 + 1
    assert both.conversions_per_image == lines.conversions_per_image / 2
    feeds = load_dataset(None, both.inputs, seed=3).head(20).inputs
    assert np.array_equal(*(Emulator.ideal(program).run(feeds)["logits"] for program in (lines, both)))

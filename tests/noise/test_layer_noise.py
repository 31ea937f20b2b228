"""Closed-form noise powers against emulated chips, one cause at a time.

A power of so many chips has a standard error, which the spread of the chips gives. The closed form has to lie within
five of them, and one hundredth for the input vectors that converters are followed on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import effect_sections
import factories
import numpy as np
import pytest

from memcompile.hardware.conditions import NEW, Conditions
from memcompile.hardware.target import Target
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.ir.graph import MappedLayer
from memcompile.ir.slicing import lower_limit, weight_limit
from memcompile.noise.cause import Cause
from memcompile.noise.layer_inputs import LayerInputs
from memcompile.noise.layer_noise import LayerNoise, layer_noise, projected_power
from memcompile.noise.program_noise import choice_of, layer_ratios
from memcompile.passes.slice_weights import equal_digits
from memcompile.program.program import Program
from memcompile.runtime.emulator import Emulator

CHIPS = 16
FINE: dict[str, Any] = {"bits": 16, "range": "fixed"}
QUIET: dict[str, dict[str, Any]] = {
    "programming": {"sigma_us": 0.0},
    "read_noise": {"sigma_us": 0.0},
    "faults": {"stuck_low_share": 0.0, "stuck_high_share": 0.0},
    "adc": FINE,
}
OLD = Conditions(3600.0, 2e6)
AGAIN = {"error_stays": True, "write_again_share": 1.0}
AGING = (Cause.RELAXATION, Cause.RETENTION, Cause.DRIFT, Cause.FLICKER_NOISE, Cause.READ_DISTURB)
CASES: dict[str, tuple[dict[str, dict[str, Any]], Cause]] = {
    "programming": ({"programming": {"sigma_us": 1.0}}, Cause.PROGRAMMING),
    "polynomial": (effect_sections.SECTIONS["polynomial"], Cause.PROGRAMMING),
    "mean": (effect_sections.SECTIONS["mean table"], Cause.PROGRAMMING),
    "written again": ({"programming": {"sigma_us": 1.0, **AGAIN}}, Cause.PROGRAMMING),
    "polynomial written again": (
        {"programming": {**effect_sections.SECTIONS["polynomial"]["programming"], **AGAIN}},
        Cause.PROGRAMMING,
    ),
    "stuck and written again": (
        {"programming": {"sigma_us": 0.0, **AGAIN}, "faults": {"stuck_low_share": 0.015, "stuck_high_share": 0.015}},
        Cause.STUCK_CELLS,
    ),
    "cut off at zero": ({"programming": {"sigma_us": 1.0}, "cell": {"g_min_us": 0.5}}, Cause.PROGRAMMING),
    "blank cells spared": ({"programming": {"sigma_us": 1.0, "blank_share": 0.3}}, Cause.PROGRAMMING),
    "pulses": ({"write_verify": effect_sections.PULSES.model_dump()}, Cause.PROGRAMMING),
    "stuck": ({"faults": {"stuck_low_share": 0.002, "stuck_high_share": 0.001}}, Cause.STUCK_CELLS),
    "relaxation": (effect_sections.SECTIONS["relaxation"], Cause.RELAXATION),
    "drift": ({"drift": {"exponent_mean": 0.02, "exponent_sigma": 0.02, "reference_s": 1.0}}, Cause.DRIFT),
    "sigma table": (effect_sections.SECTIONS["sigma table"], Cause.PROGRAMMING),
    "retention": (effect_sections.SECTIONS["retention"], Cause.RETENTION),
    "retention table": (effect_sections.SECTIONS["retention table"], Cause.RETENTION),
    "drift by state": (effect_sections.SECTIONS["drift by state"], Cause.DRIFT),
    "flicker noise": (effect_sections.SECTIONS["flicker noise"], Cause.FLICKER_NOISE),
    "read disturb": (effect_sections.SECTIONS["read disturb"], Cause.READ_DISTURB),
    "dac": (effect_sections.SECTIONS["dac"], Cause.DAC_ERROR),
    "dead input lines": ({"faults": {"dead_input_line_share": 0.01}}, Cause.DEAD_INPUT_LINES),
    "dead output lines": ({"faults": {"dead_output_line_share": 0.01}}, Cause.DEAD_OUTPUT_LINES),
    "wires": ({"wires": {"input_segment_ohm": 2.0, "output_segment_ohm": 2.0}}, Cause.WIRES),
    "read noise": ({"read_noise": {"sigma_us": 0.5, "proportional_share": 0.05}}, Cause.READ_NOISE),
    "table of read noise": ({"read_noise": {"sigma_table_us": [[2.0, 0.1], [20.0, 0.9]]}}, Cause.READ_NOISE),
    "noise of a step": ({"read_noise": {"sigma_us": 0.5, "lasts": "step"}}, Cause.READ_NOISE),
    "rounding": ({"programming": {"sigma_us": 0.5}, "adc": {"bits": 5}}, Cause.ROUNDING),
    "coarse rounding": ({"adc": {"bits": 4}}, Cause.ROUNDING),
    "range": ({"adc": {"range_share": 0.25}}, Cause.CLIPPING),
    "gain and offset": ({"adc": {"gain_sigma_share": 0.03, "offset_sigma_codes": 20.0}}, Cause.ADC_ERROR),
}


def quiet_target(sections: dict[str, dict[str, Any]]) -> Target:
    """A small chip with the effects of some sections alone."""
    names = {**QUIET, **sections}
    return factories.make_target(**{name: {**QUIET.get(name, {}), **sections.get(name, {})} for name in names})


def sparse_inputs(rng: np.random.Generator, layer: MappedLayer, count: int) -> np.ndarray:
    """Inputs like activations: a third of them zero, neighbours alike."""
    shape = (count, layer.geometry.in_channels, *layer.geometry.input_size)
    common = rng.normal(0.0, 40.0, (count, *([1] * (len(shape) - 1))))
    values = np.rint(rng.normal(30.0, 50.0, shape) + common)
    quantizer = layer.quantizer
    return np.clip(values, quantizer.lowest, quantizer.highest).astype(np.int16)


def emulated_powers(program: Program, x: np.ndarray, age: Conditions, chips: int) -> np.ndarray:
    """Mean noise power of the lines of a layer of one replica on some chips, [chips, plain and calibrated]."""
    wanted = Emulator.ideal(program)._fast.first.sums(0, x, np.arange(len(x)))
    signal = wanted.transpose(0, 2, 1).reshape(-1, wanted.shape[1])
    powers = []
    for seed in range(chips):
        chip = Emulator(program, seed, threads=1, time_s=age.time_s, reads=age.reads)
        sums = chip.machine.devices.converters[0].in_levels(chip._fast.first.sums(0, x, np.arange(len(x))))
        errors = (sums - wanted).transpose(0, 2, 1).reshape(signal.shape)
        of_chip = projected_power(errors, signal)
        powers.append((of_chip.plain.mean(), of_chip.calibrated.mean()))
    return np.array(powers)


def agrees(predicted: float, measured: np.ndarray, share: float = 0.01) -> bool:
    error = measured.std(ddof=1) / np.sqrt(len(measured))
    return bool(abs(predicted - measured.mean()) <= 5 * error + share * predicted)


def dense_case(sections: dict[str, dict[str, Any]], slices: int, signed: bool = False) -> tuple[Program, np.ndarray]:
    rng = np.random.default_rng(3)
    target = quiet_target(sections)
    geometry = Geometry(20, 6, (1,), (1,), layout="channels_last")
    layer = factories.random_layer(rng, geometry, target, slices=slices, signed=signed)
    if target.programming.write_again_share:
        # The largest base leaves no room for what is left of the slice above.
        layer = replace(layer, base=target.default_slice_base())
    return factories.layer_program(rng, layer, target), sparse_inputs(rng, layer, 120)


def noise_of(program: Program, x: np.ndarray, age: Conditions) -> LayerNoise:
    return layer_noise(LayerInputs(program.layers[0].quantizer, x), program.target, choice_of(program, 0, 0), age)


@pytest.mark.parametrize(
    ("case", "slices"),
    # Errors of almost a level in both slices: the model says too much by half.
    [(case, slices) for case in CASES for slices in (1, 2) if (case, slices) != ("polynomial written again", 2)],
)
def test_power_of_a_cause_is_that_of_emulated_chips(case: str, slices: int) -> None:
    sections, cause = CASES[case]
    age = OLD if cause in AGING else NEW
    program, x = dense_case(sections, slices)
    noise = noise_of(program, x, age)
    assert cause in noise.powers
    measured = emulated_powers(program, x, age, CHIPS)
    total = noise.total
    assert agrees(total.plain.mean(), measured[:, 0]), (total.plain.mean(), measured[:, 0].mean())
    assert agrees(total.calibrated.mean(), measured[:, 1]), (total.calibrated.mean(), measured[:, 1].mean())


@pytest.mark.parametrize(
    "case",
    ["programming", "mean", "written again", "stuck", "retention", "drift", "flicker noise", "read noise", "rounding"],
)
def test_power_where_slices_share_weights_is_that_of_emulated_chips(case: str) -> None:
    sections, cause = CASES[case]
    age = OLD if cause in AGING else NEW
    target, rng = quiet_target(sections), np.random.default_rng(6)
    base, slices = 2, 3
    program, x = dense_case(sections, slices)
    layer = program.layers[0]
    limit = weight_limit(target, slices, base, "equal")
    levels = rng.integers(-limit, limit + 1, layer.cells.shape[2:])
    digits = equal_digits(levels, base, slices, lower_limit(target, base, "equal"))
    cells = np.maximum(np.stack([digits, -digits]), 0).astype(layer.cells.dtype)
    program = replace(program, stages=(replace(layer, base=base, cells=cells),))
    noise = noise_of(program, x, age)
    assert cause in noise.powers
    measured = emulated_powers(program, x, age, CHIPS)
    assert agrees(noise.total.plain.mean(), measured[:, 0], share=0.02)
    assert agrees(noise.total.calibrated.mean(), measured[:, 1], share=0.02)


@pytest.mark.parametrize(("blank_share", "again"), [(1.0, {}), (0.2, {}), (1.0, AGAIN), (0.2, AGAIN)])
def test_parallel_window_and_bundled_groups_count_blank_cells(blank_share: float, again: dict[str, Any]) -> None:
    sections = {"programming": {"sigma_us": 1.0, "blank_share": blank_share, **again}}
    rng, target = np.random.default_rng(5), quiet_target(sections)
    geometry = Geometry(2, 4, (2, 2), (5, 4), 2, (1, 1), (1, 1), (0, 0), (0, 0))
    layer = factories.random_layer(rng, geometry, target, unrollings=[Unrolling(geometry, (2, 1), 2)])
    program = factories.layer_program(rng, layer, target)
    x = sparse_inputs(rng, layer, 80)
    found = layer_ratios(program, 0, LayerInputs(layer.quantizer, x)).total
    wanted = Emulator.ideal(program)._fast.first.sums(0, x, np.arange(len(x)))
    measured = [
        np.square(Emulator(program, seed, threads=1)._fast.first.sums(0, x, np.arange(len(x))) - wanted).mean()
        for seed in range(CHIPS)
    ]
    signal = wanted.transpose(1, 0, 2).reshape(4, -1).var(axis=1).mean()
    assert agrees(found.plain * signal, np.array(measured), share=0.03)
    assert found.calibrated < found.plain


def test_averaged_copies_divide_the_noise() -> None:
    program, x = dense_case({"programming": {"sigma_us": 1.0}}, 1)
    choice = choice_of(program, 0, 0)
    inputs = LayerInputs(program.layers[0].quantizer, x)
    one, three = (layer_noise(inputs, program.target, replace(choice, averaged=n)).total for n in (1, 3))
    assert three.plain == pytest.approx(one.plain / 3)


def test_signed_inputs_and_phases_of_several_bits() -> None:
    sections = {"programming": {"sigma_us": 0.5}, "input": {"bits_per_phase": 4}, "read_noise": {"sigma_us": 0.2}}
    program, x = dense_case(sections, 1, signed=True)
    measured = emulated_powers(program, x, NEW, CHIPS)
    total = noise_of(program, x, NEW).total
    assert agrees(total.plain.mean(), measured[:, 0])
    assert agrees(total.calibrated.mean(), measured[:, 1])


@pytest.mark.parametrize("sigma_us", [1.0, 0.0])
def test_replicas_of_one_window_each_stand_for_all_windows(sigma_us: float) -> None:
    """Windows at the edge of an image see nothing at all; neither their noise nor their signal is that of the layer."""
    rng, target = np.random.default_rng(7), quiet_target({"programming": {"sigma_us": sigma_us}})
    geometry = Geometry(2, 4, (2, 2), (6, 6), 1, (1, 1), (1, 1), (0, 0), (0, 0))
    one = factories.random_layer(rng, geometry, target)
    (replica,) = one.replicas
    each = tuple(replace(replica, windows=windows) for windows in np.arange(25, dtype=np.int32)[:, None])
    x = sparse_inputs(rng, one, 60)
    x[:, :, [0, 1, 4, 5]] = 0
    x[..., [0, 1, 4, 5]] = 0
    inputs = LayerInputs(one.quantizer, x)
    whole, split = (
        layer_ratios(factories.layer_program(rng, layer, target), 0, inputs, stand_in=True).total
        for layer in (one, replace(one, replicas=each))
    )
    assert whole.calibrated > 0
    assert split.plain == pytest.approx(whole.plain, rel=0.1)
    assert split.calibrated == pytest.approx(whole.calibrated, rel=0.1)

"""Programs whose arrays are written segment by segment: what stays the same, and what every write draws anew."""

from __future__ import annotations

from dataclasses import replace

import factories
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcompile.errors import UsageError
from memcompile.export.conductances import conductance_arrays
from memcompile.hardware.conditions import Conditions
from memcompile.program.file import decode_program, encode_program
from memcompile.program.program import Program
from memcompile.report.lookup import find_weight
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.runtime.executors.machine import Machine
from memcompile.runtime.random_numbers import seed_of_write
from memcompile.tuning import tune
from memcompile.verify.verifier import verify_program

WITHOUT_READ_NOISE = Effects(read_noise=False)
RELAXING = {"relaxation": {"sigma_us": 1.0, "time_constant_s": 10.0}}
PULSES = {"write_verify": {"emulated": True, "cycle_sigma_share": 0.3, "device_sigma_share": 0.3, "max_pulses": 15}}


@st.composite
def cut_programs(draw: st.DrawFn) -> tuple[Program, Program, np.ndarray]:
    """A program of two layers, the same in segments, and images."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    whole = factories.two_layer_program(rng, factories.make_target())
    cuts = draw(st.sets(st.integers(1, len(whole.placement.tiles) - 1), min_size=1, max_size=5))
    x = rng.integers(0, 200, (draw(st.integers(1, 6)), 2, 6, 6)).astype(np.float32)
    return whole, factories.in_segments(whole, sorted(cuts), draw(st.integers(1, 4))), x


@settings(max_examples=15, deadline=None, derandomize=True)
@given(cut_programs())
def test_segments_change_nothing_on_ideal_devices(case: tuple[Program, Program, np.ndarray]) -> None:
    whole, cut, x = case
    verify_program(cut)
    want = Emulator.ideal(whole).run(x)["y"]
    for executor in ("fast", "literal"):
        assert np.array_equal(Emulator.ideal(cut, executor).run(x)["y"], want), executor


@settings(max_examples=10, deadline=None, derandomize=True)
@given(cut_programs(), st.booleans())
def test_executors_agree_bit_for_bit_in_every_pass(case: tuple[Program, Program, np.ndarray], adc: bool) -> None:
    _, cut, x = case
    effects = Effects(read_noise=False, adc=adc)
    fast = Emulator(cut, 5, effects=effects).run(x)["y"]
    literal = Emulator(cut, 5, effects=effects, executor="literal").run(x)["y"]
    assert np.array_equal(fast, literal)


def cut_program(batch: int, fixed: int | None = None, **sections: dict[str, object]) -> Program:
    rng = np.random.default_rng(1)
    whole = factories.two_layer_program(rng, factories.make_target(**sections), fixed)
    return factories.in_segments(whole, [2, 5], batch)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 200, (count, 2, 6, 6)).astype(np.float32)


@pytest.mark.parametrize("sections", [{}, RELAXING, PULSES], ids=["sigma", "relaxation", "pulses"])
@pytest.mark.parametrize("executor", ["fast", "literal"])
def test_results_depend_neither_on_chunks_nor_on_threads(executor: str, sections: dict) -> None:
    program, x = cut_program(2, **sections), images(5)
    want = Emulator(program, 4, executor=executor, time_s=5.0).run(x)["y"]
    for chunk, threads in ((1, 2), (3, 1)):
        emulator = Emulator(program, 4, executor=executor, chunk=chunk, threads=threads, time_s=5.0)
        assert np.array_equal(emulator.run(x)["y"], want), (chunk, threads)
    emulator = Emulator(program, 4, executor=executor, time_s=5.0)
    late, early = emulator.run(x[3:], first_image=3)["y"], emulator.run(x[:3])["y"]
    assert np.array_equal(np.concatenate([early, late]), want)


@pytest.mark.parametrize("sections", [{}, PULSES], ids=["sigma", "pulses"])
def test_every_pass_has_new_errors_and_a_pass_has_one(sections: dict) -> None:
    program = cut_program(3, **sections)
    y = Emulator(program, 4, effects=WITHOUT_READ_NOISE).run(np.repeat(images(1), 9, axis=0))["y"]
    for first in (0, 3, 6):
        assert (y[first : first + 3] == y[first]).all()
    assert not np.array_equal(y[0], y[3])
    assert not np.array_equal(y[3], y[6])
    again = Emulator(program, 5, effects=WITHOUT_READ_NOISE).run(images(1))["y"]
    assert not np.array_equal(again[0], y[0])


def test_a_fixed_batch_may_reach_over_two_passes() -> None:
    free, fixed, x = cut_program(3), cut_program(3, fixed=4), images(8)
    assert np.array_equal(Emulator(fixed, 4).run(x)["y"], Emulator(free, 4).run(x)["y"])


def written_cells(program: Program, pass_number: int, effects: Effects, seed: int = 4) -> np.ndarray:
    """Cells of the first array in the second segment."""
    machine = Machine(program, seed, effects, 1, Conditions(5.0), pass_number)
    return machine.devices.array(0, 1)


def test_faults_and_drift_stay_while_writing_errors_change() -> None:
    sections = {
        "faults": {"stuck_low_share": 0.2, "stuck_high_share": 0.2, "dead_output_line_share": 0.2},
        "drift": {"exponent_mean": 0.1, "exponent_sigma": 0.1, "reference_s": 1.0},
        **RELAXING,
    }
    program = cut_program(1, **sections)
    none = Effects.none()
    for name in ("stuck_cells", "dead_lines", "drift"):
        effects = replace(none, **{name: True})
        assert np.array_equal(written_cells(program, 0, effects), written_cells(program, 7, effects)), name
        assert not np.array_equal(written_cells(program, 0, effects), written_cells(program, 0, none)), name
    for name in ("programming_error", "relaxation"):
        effects = replace(none, **{name: True})
        assert not np.array_equal(written_cells(program, 0, effects), written_cells(program, 7, effects)), name


def test_each_write_has_a_seed_of_its_own() -> None:
    numbers = [0, 1, 2, 2**32 - 1, 2**32, 2**32 + 1, 2**63]
    seeds = {seed_of_write(seed, number) for seed in (0, 1, 2**64 - 1) for number in numbers}
    assert len(seeds) == 3 * len(numbers)
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_the_write_number_counts_segments_and_then_passes() -> None:
    """Segment 1 of pass 2 with three segments is write 7, whatever array or layer."""
    program, effects = cut_program(1), replace(Effects.none(), programming_error=True)
    once = replace(program, placement=replace(program.placement, segments=(), batch=0))
    seventh = Machine(once, seed_of_write(4, 7), effects, 1).devices.array(0, 1)
    assert np.array_equal(written_cells(program, 2, effects), seventh)


def test_export_and_look_up_tell_segments_apart() -> None:
    program = cut_program(3)
    exported = conductance_arrays(program)
    conductances, columns = exported["conductances_us"], list(exported["index_columns"])
    assert conductances.shape == (3, int(program.placement.tiles.array.max()) + 1, 16, 128)
    places = [columns.index(name) for name in ("segment", "array", "input_line", "output_line")]
    seen = {tuple(row[places]) for row in exported["index"]}
    assert len(seen) == len(exported["index"])
    segments = set()
    for layer, kernel_input in [("a", 3), ("a", 17), ("b", 3), ("b", 26)]:
        for cell in find_weight(program, layer, 2, kernel_input):
            place = (cell.segment, 8 * cell.chip + cell.array, cell.input_line, cell.output_line)
            assert place in seen
            assert conductances[place] == pytest.approx(cell.conductance_us)
            segments.add(cell.segment)
    assert len(segments) > 1


def test_tuning_a_cut_program_is_refused() -> None:
    with pytest.raises(UsageError, match=r"written 3 times for each batch of 7 images.*without --reprogram"):
        tune(cut_program(7), {"x": images(4)}, np.zeros(4, np.int64))


def test_a_cut_program_survives_its_file() -> None:
    program = cut_program(3)
    again = decode_program(encode_program(program), "here")
    assert again.placement.segments == program.placement.segments
    assert again.placement.batch == 3
    assert np.array_equal(again.placement.tiles.segment, program.placement.tiles.segment)
    assert encode_program(verify_program(again)) == encode_program(program)

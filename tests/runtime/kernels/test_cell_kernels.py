"""Cells that compiled kernels draw and program, bit for bit against NumPy."""

from __future__ import annotations

import sys
from typing import Any

import factories
import numpy as np
import pytest
from effect_sections import SECTIONS
from hypothesis import given, settings
from hypothesis import strategies as st

from memcompile.ir.geometry import Geometry
from memcompile.runtime import random_numbers
from memcompile.runtime.effects.stuck_cells import stick, stuck_places
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.runtime.kernels.cell_numbers import gaussians
from memcompile.runtime.kernels.compiled import cell_kernels, only_loaded_kernels
from memcompile.runtime.random_numbers import Purpose, stream
from memcompile.runtime.training.transfer import transfer

pytest.importorskip("numba")
SEEDS = st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**64 - 1])
WORDS = st.integers(0, 2**32 - 1)


def bits(values: np.ndarray) -> np.ndarray:
    return values.view(np.int32 if values.dtype == np.float32 else np.int64)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), WORDS, WORDS, WORDS, SEEDS, st.integers(0, 2**31))
def test_numbers_of_cells_that_follow_each_other(count: int, c1: int, c2: int, c3: int, seed: int, first: int) -> None:
    got = gaussians(count, c1, c2, c3, seed, first)
    want = random_numbers.gaussians(count, c1, c2, c3, seed, first)
    assert got.shape == want.shape == (count,)
    np.testing.assert_array_equal(bits(got), bits(want))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_numbers_of_single_cells(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    shape = data.draw(st.sampled_from([(0,), (1,), (15,), (16,), (77,), (3, 5)]))
    count, seed = data.draw(st.sampled_from([0, 1, 3])), data.draw(SEEDS)
    c1, first = rng.integers(0, 2**32, shape), rng.integers(0, 2**31, shape[-1:])
    got = gaussians(count, c1, 7, 5, seed, first)
    want = random_numbers.gaussians(count, c1, 7, 5, seed, first)
    assert got.shape == want.shape
    np.testing.assert_array_equal(bits(got), bits(want))


def test_many_numbers_hold_the_rare_ones_too() -> None:
    """Four million: radii near 0 and beyond 5, and angles at the ends of their octants."""
    words = 7, 0, stream(Purpose.PROGRAMMING, 0), 11
    np.testing.assert_array_equal(bits(gaussians(1 << 22, *words)), bits(random_numbers.gaussians(1 << 22, *words)))


@pytest.mark.parametrize("shares", [(0.0, 0.0), (0.01, 0.02), (0.5, 0.5), (2.0**-32, 2.0**-32), (1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_stuck_cells(shares: tuple[float, float], kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = {"stuck_low_share": shares[0], "stuck_high_share": shares[1]}
    target = factories.make_target(faults=faults)
    before = np.random.default_rng(0).integers(0, target.cell.levels, (61, 35)).astype(kind)

    def found() -> tuple[np.ndarray, ...]:
        levels = before.copy()
        return (levels, stick(levels, target, 3, 2**40 + 5), *stuck_places(before.size, target, 3, 2**40 + 5))

    got = found()
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")
    for one, other in zip(got, found(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert got[1].mean() == pytest.approx(sum(shares), abs=0.03)
    np.testing.assert_array_equal(got[1].ravel(), got[2] | got[3])
    assert (got[0][got[1]] == np.where(got[2].reshape(before.shape)[got[1]], 0, target.signed_levels)).all()


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("name", [*SECTIONS, "nothing more", "written again"])
def test_arrays_as_programmed(name: str, slices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays of sizes that fill no block, with stuck cells, blank ones, and every effect that moves cells."""
    sections: dict[str, Any] = {section: dict(values) for section, values in SECTIONS.get(name, {}).items()}
    sections["faults"] = {"stuck_low_share": 0.03, "stuck_high_share": 0.02, **sections.get("faults", {})}
    sections["programming"] = {"sigma_us": 0.7, "blank_share": 0.3, **sections.get("programming", {})}
    if name == "written again":
        sections["programming"].update(error_stays=True, write_again_share=1.0)
    sections["array"] = {"input_lines": 19, "output_lines": 26}
    target = factories.make_target(**sections)
    rng = np.random.default_rng(1)
    layer = factories.random_layer(rng, Geometry(40, 6, (1,), (3,), layout="channels_last"), target, slices=slices)
    program = factories.layer_program(rng, layer, target)
    chip, _ = transfer(program, 5)

    def arrays() -> list[np.ndarray]:
        emulators = [
            Emulator(program, 2**33 + 3, time_s=50.0, reads=1e6),
            Emulator(program, 3, effects=Effects(adc=False)),
            Emulator(program, 3, effects=Effects(programming_error=False), time_s=50.0),
            Emulator(program, 3, effects=Effects(stuck_cells=False)),
            Emulator(chip, 3, time_s=50.0),
        ]
        count = program.cell_map.arrays
        assert chip.chip is not None
        made = [emulator.machine.devices.array(number) for emulator in emulators for number in range(count)]
        again, _ = transfer(program, 5)
        assert again.chip is not None
        return [*made, again.chip.conductances_us]

    got = arrays()
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")
    for one, other in zip(got, arrays(), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(bits(one), bits(other))


def test_kernels_that_are_not_loaded_are_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    program = factories.two_layer_program(np.random.default_rng(0), factories.make_target())
    loaded = cell_kernels()
    assert loaded is not None

    def cells() -> Any:
        with only_loaded_kernels():
            return [Emulator(program, 3).machine.devices.array(array) for array in range(program.arrays_used)]

    by_kernels = cells()
    monkeypatch.delitem(sys.modules, loaded.__name__)
    with only_loaded_kernels():
        assert cell_kernels() is None
    by_numpy = cells()
    for one, other in zip(by_kernels, by_numpy, strict=True):
        np.testing.assert_array_equal(one, other)
    assert cell_kernels() is loaded, "and outside they are loaded as ever"
